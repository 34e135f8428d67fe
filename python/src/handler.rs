//! Subscribers of Python's: how a message becomes a call at the subscriber's home, and what it returns becomes the answer.
//!
//! The message arrives in a task of the home. The task schedules the call (on a loop by `call_soon`, on a thread by its queue)
//! and waits for a future that the call completes. So no user code runs while the home is being turned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use homing::home::lock::Mutex;
use homing::home::{Completer, End, Home, HomeFuture};
use homing::{Answer, BroadcastSubscriber, Failure, HandlerError, HandlerResult, RpcSubscriber, TaskSubscriber};
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::coders::{Coders, Form};
use crate::life::Waiter;
use crate::loops;
use crate::messages;
use crate::place::Place;

/// How many futures may resolve to one another before the last has to be a value.
const FUTURES_MOST: usize = 100;

/// The subscribers of one communicator, and the callables of its codec. What Python knows of them is here, where its garbage
/// collector can see it: they may refer to their communicator.
pub(crate) struct Table {
    entries: Mutex<HashMap<u64, Entry>>,
    pub(crate) coders: Mutex<Coders>,
    pub(crate) form: Form,
}

struct Entry {
    callable: Py<PyAny>,
    /// The context variables of whoever added it, on a loop.
    context: Option<Py<PyAny>>,
}

impl Table {
    pub(crate) fn new(coders: Coders) -> Self {
        let form = if coders.encoder.is_some() { Form::Objects } else { Form::Values };
        Table { entries: Mutex::default(), coders: Mutex::new(coders), form }
    }

    /// For the garbage collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Locked where an entry is taken out just now. What is not visited is kept.
        let (Some(entries), Some(coders)) = (self.entries.try_lock(), self.coders.try_lock()) else { return Ok(()) };
        for entry in entries.values() {
            visit.call(&entry.callable)?;
            visit.call(&entry.context)?;
        }
        coders.traverse(visit)
    }

    pub(crate) fn clear(&self) {
        let entries = std::mem::take(&mut *self.entries.lock());
        let coders = std::mem::take(&mut *self.coders.lock());
        // Not under the locks: a drop is user code.
        drop((entries, coders));
    }
}

/// One subscriber, as the communicator holds it.
pub(crate) struct Handler {
    table: Weak<Table>,
    key: u64,
    at: At,
}

/// Where a subscriber's answers are made, and as what.
#[derive(Clone)]
struct At {
    place: Place,
    form: Form,
}

impl Drop for Handler {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            let entry = table.entries.lock().remove(&self.key);
            drop(entry);
        }
    }
}

/// A message and where its answer goes.
pub(crate) struct Invocation {
    handler: Arc<Handler>,
    message: Message,
    completer: Completer<HandlerResult>,
}

enum Message {
    Rpc(homing::RpcRequest),
    Task(homing::TaskRequest),
    Broadcast(homing::Broadcast),
}

impl Message {
    fn into_object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(match self {
            Message::Rpc(request) => Bound::new(py, messages::RpcRequest::new(py, request)?)?.into_any(),
            Message::Task(task) => Bound::new(py, messages::TaskRequest::new(py, task)?)?.into_any(),
            Message::Broadcast(broadcast) => Bound::new(py, messages::Broadcast::new(py, &broadcast)?)?.into_any(),
        })
    }
}

impl Handler {
    pub(crate) fn new(table: &Arc<Table>, place: &Place, callable: Py<PyAny>, context: Option<Py<PyAny>>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        table.entries.lock().insert(key, Entry { callable, context });
        let at = At { place: place.clone(), form: table.form };
        Arc::new(Handler { table: Arc::downgrade(table), key, at })
    }

    pub(crate) fn rpc_subscriber(self: Arc<Self>) -> RpcSubscriber {
        RpcSubscriber::future(move |request| Arc::clone(&self).handle(Message::Rpc(request)))
    }

    pub(crate) fn task_subscriber(self: Arc<Self>) -> TaskSubscriber {
        TaskSubscriber::future(move |task| Arc::clone(&self).handle(Message::Task(task)))
    }

    pub(crate) fn broadcast_subscriber(self: Arc<Self>) -> BroadcastSubscriber {
        BroadcastSubscriber::future(move |broadcast| Arc::clone(&self).handle(Message::Broadcast(broadcast)))
    }

    async fn handle(self: Arc<Self>, message: Message) -> HandlerResult {
        let (completer, answered) = Home::current()
            .try_future()
            .map_err(|error| HandlerError::exception(format!("the subscriber cannot run: {error}")))?;
        let place = self.at.place.clone();
        place.invoke(Invocation { handler: self, message, completer });
        answer_of(answered).await
    }
}

async fn answer_of(answered: HomeFuture<HandlerResult>) -> HandlerResult {
    match answered.await {
        Ok(result) => result,
        Err(End::Abandoned) => Err(HandlerError::exception(
            "no answer comes: the subscriber's loop or thread ended, or the future that it returned was given up",
        )),
        Err(end) => Err(HandlerError::exception(end.to_string())),
    }
}

impl Invocation {
    fn entry<T>(&self, read: impl FnOnce(&Entry) -> T) -> Option<T> {
        let table = self.handler.table.upgrade()?;
        let entries = table.entries.lock();
        entries.get(&self.handler.key).map(read)
    }

    /// The context variables that it runs with.
    pub(crate) fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.entry(|entry| entry.context.as_ref().map(|context| context.clone_ref(py))).flatten()
    }

    /// Calls the subscriber, and answers with what it returns.
    ///
    /// # Errors
    /// `SystemExit` and `KeyboardInterrupt` of the subscriber, which are for the loop too. Their message has been answered.
    pub(crate) fn run(self, py: Python<'_>) -> PyResult<()> {
        let callable = self.entry(|entry| entry.callable.clone_ref(py));
        let Invocation { handler, message, completer } = self;
        let Some(callable) = callable else {
            let gone = HandlerError::exception("the communicator of the subscriber is gone");
            handler.at.place.covered(|| drop(completer.complete(Err(gone))));
            return Ok(());
        };
        let returned = message.into_object(py).and_then(|message| callable.bind(py).call1((message,)));
        finish(py, &handler.at, completer, returned, 0)
    }
}

/// What a loop calls for one message.
#[pyclass(frozen)]
pub(crate) struct Runner(Mutex<Option<Invocation>>);

impl Runner {
    pub(crate) fn new(invocation: Invocation) -> Self {
        Runner(Mutex::new(Some(invocation)))
    }
}

#[pymethods]
impl Runner {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some(_inside) = Waiter::enter(py) else { return Ok(()) };
        let invocation = self.0.lock().take();
        match invocation {
            // Guards: a child of a fork, which would do its parent's work once more. Its parent's locks are not opened there.
            Some(invocation) if invocation.handler.at.place.is_inherited() => std::mem::forget(invocation),
            Some(invocation) => return invocation.run(py),
            None => {}
        }
        Ok(())
    }

    fn __repr__(&self) -> &'static str {
        "<homing subscriber>"
    }
}

/// Answers with what a subscriber, or a future that it answered with, has come to.
fn finish(
    py: Python<'_>,
    at: &At,
    completer: Completer<HandlerResult>,
    returned: PyResult<Bound<'_, PyAny>>,
    futures: usize,
) -> PyResult<()> {
    let complete = |result: HandlerResult, completer: Completer<HandlerResult>| {
        at.place.covered(|| drop(completer.complete(result)));
    };
    let object = match returned {
        Ok(object) => object,
        Err(error) => {
            complete(Err(failure(py, &error)), completer);
            return if is_exit(py, &error) { Err(error) } else { Ok(()) };
        }
    };
    let answered = match Kind::of(&object) {
        Ok(Kind::Value) => at.form.body(&object).map(Answer::Value).map_err(|error| {
            HandlerError::exception(format!("the subscriber's result cannot be sent: {}", error.value(py)))
        }),
        Ok(Kind::Coroutine) => return run_coroutine(py, at, completer, &object, futures),
        Ok(Kind::Future) => return answer_later(py, at, completer, &object, futures),
        Err(error) => Err(failure(py, &error)),
    };
    complete(answered, completer);
    Ok(())
}

/// True for what ends a loop, or a program.
pub(crate) fn is_exit(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

/// What a subscriber has returned.
enum Kind {
    Value,
    Coroutine,
    Future,
}

static COROUTINE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Kind {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let coroutine = COROUTINE.get_or_try_init(py, || {
            PyResult::Ok(py.import("types")?.getattr(intern!(py, "CoroutineType"))?.unbind())
        })?;
        if object.is_instance(coroutine.bind(py))? {
            return Ok(Kind::Coroutine);
        }
        let is_future =
            object.hasattr(intern!(py, "add_done_callback"))? && object.hasattr(intern!(py, "exception"))?;
        Ok(if is_future { Kind::Future } else { Kind::Value })
    }
}

/// Runs a coroutine on the loop. Its outcome is the answer.
fn run_coroutine(
    py: Python<'_>,
    at: &At,
    completer: Completer<HandlerResult>,
    coroutine: &Bound<'_, PyAny>,
    futures: usize,
) -> PyResult<()> {
    let Some((home, event_loop)) = at.place.loop_id().and_then(|id| loops::with_loop(py, id)) else {
        coroutine.call_method0(intern!(py, "close"))?;
        let text =
            "the subscriber is a coroutine function and no event loop runs here; add it in a coroutine of a loop";
        at.place.covered(|| drop(completer.complete(Err(HandlerError::exception(text)))));
        return Ok(());
    };
    let task = event_loop.call_method1(intern!(py, "create_task"), (coroutine,))?;
    let following = Following::new(completer, at, &task, futures);
    let following = Bound::new(py, following)?;
    task.call_method1(intern!(py, "add_done_callback"), (&following,))?;
    home.follow(py, following.unbind())
}

/// Answers that the answer will come, and follows the future that it comes by.
fn answer_later(
    py: Python<'_>,
    at: &At,
    completer: Completer<HandlerResult>,
    future: &Bound<'_, PyAny>,
    futures: usize,
) -> PyResult<()> {
    let refuse = |completer: Completer<HandlerResult>, text: String| {
        at.place.covered(|| drop(completer.complete(Err(HandlerError::exception(text)))));
        Ok(())
    };
    if futures >= FUTURES_MOST {
        return refuse(completer, format!("{FUTURES_MOST} futures resolved to one another, and none to a value"));
    }
    let (later, answered) = match at.place.home().try_future::<HandlerResult>() {
        Ok(pair) => pair,
        Err(error) => return refuse(completer, format!("the subscriber cannot answer later: {error}")),
    };
    at.place.covered(|| drop(completer.complete(Ok(Answer::later(answer_of(answered))))));
    let following = Bound::new(py, Following::new(later, at, future, futures + 1))?;
    if let Err(error) = listen(py, &at.place, future, &following) {
        following.get().fail(py, &error);
    }
    Ok(())
}

/// Has the future call back, on the loop that it belongs to.
fn listen(py: Python<'_>, place: &Place, future: &Bound<'_, PyAny>, following: &Bound<'_, Following>) -> PyResult<()> {
    let add = future.getattr(intern!(py, "add_done_callback"))?;
    if !future.hasattr(intern!(py, "get_loop"))? {
        // Of `concurrent.futures`: from any thread, and called by whichever ends it.
        add.call1((following,))?;
        return Ok(());
    }
    let theirs = future.call_method0(intern!(py, "get_loop"))?;
    match place.loop_id().and_then(|id| loops::with_loop(py, id)) {
        Some((home, event_loop)) if theirs.is(&event_loop) => {
            add.call1((following,))?;
            home.follow(py, following.clone().unbind())
        }
        // Of another loop, which alone may touch it.
        _ => theirs.call_method1(intern!(py, "call_soon_threadsafe"), (add, following)).map(drop),
    }
}

/// A future that a subscriber has answered with, or the task of its coroutine, and where the outcome goes. It is the future's
/// done-callback.
#[pyclass(frozen)]
pub(crate) struct Following {
    completer: Mutex<Option<Completer<HandlerResult>>>,
    at: At,
    future: Mutex<Option<Py<PyAny>>>,
    futures: usize,
}

impl Following {
    fn new(completer: Completer<HandlerResult>, at: &At, future: &Bound<'_, PyAny>, futures: usize) -> Self {
        Following {
            completer: Mutex::new(Some(completer)),
            at: at.clone(),
            future: Mutex::new(Some(future.clone().unbind())),
            futures,
        }
    }

    fn take(&self) -> Option<Completer<HandlerResult>> {
        let completer = self.completer.lock().take();
        let future = self.future.lock().take();
        drop(future);
        completer
    }

    /// Does not wait for it any more: whoever waits for the answer learns that.
    pub(crate) fn leave(&self) {
        drop(self.take());
    }

    fn fail(&self, py: Python<'_>, error: &PyErr) {
        if let Some(completer) = self.take() {
            let failed = Err(failure(py, error));
            self.at.place.covered(|| drop(completer.complete(failed)));
        }
    }

    /// True while the outcome has to be waited for. One that is there is taken.
    pub(crate) fn is_open(following: &Py<Self>, py: Python<'_>) -> PyResult<bool> {
        let this = following.get();
        let future = this.future.lock().as_ref().map(|future| future.clone_ref(py));
        let Some(future) = future else { return Ok(false) };
        if !future.bind(py).call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(true);
        }
        this.__call__(py, future.bind(py));
        Ok(false)
    }
}

#[pymethods]
impl Following {
    fn __call__(&self, py: Python<'_>, future: &Bound<'_, PyAny>) {
        let Some(_inside) = Waiter::enter(py) else { return };
        let Some(completer) = self.take() else { return };
        // Guards: a child of a fork, whose parent answers.
        if self.at.place.is_inherited() {
            return std::mem::forget(completer);
        }
        let outcome = outcome_of(future);
        let outcome = match outcome {
            Ok(None) => {
                let cancelled = HandlerError::from(Failure::Cancelled);
                self.at.place.covered(|| drop(completer.complete(Err(cancelled))));
                return;
            }
            Ok(Some(object)) if object.is(future) => {
                let text = "the future of the subscriber resolved to itself";
                self.at.place.covered(|| drop(completer.complete(Err(HandlerError::exception(text)))));
                return;
            }
            Ok(Some(object)) => Ok(object),
            Err(error) => Err(error),
        };
        // A `SystemExit` has ended the loop by now.
        let _ = finish(py, &self.at, completer, outcome, self.futures);
    }

    fn __repr__(&self) -> &'static str {
        "<homing answer>"
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.future.try_lock() {
            Some(future) => visit.call(&*future),
            // Taken just now.
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        let future = self.future.lock().take();
        drop(future);
    }
}

/// The result of a future that has ended; `None` for one that was cancelled.
fn outcome_of<'py>(future: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = future.py();
    if future.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        return Ok(None);
    }
    let exception = future.call_method0(intern!(py, "exception"))?;
    if !exception.is_none() {
        return Err(PyErr::from_value(exception));
    }
    future.call_method0(intern!(py, "result")).map(Some)
}

/// What an exception of a subscriber means for its message.
fn failure(py: Python<'_>, error: &PyErr) -> HandlerError {
    let classified = py.import("homing._errors").and_then(|errors| {
        errors.getattr(intern!(py, "to_failure"))?.call1((error.value(py),))?.extract::<(String, String, String)>()
    });
    let (kind, text, type_name) = match classified {
        Ok(classified) => classified,
        Err(failed) => return HandlerError::exception(failed.to_string()),
    };
    match kind.as_str() {
        "cancelled" => Failure::Cancelled.into(),
        "rejected" => Failure::Rejected(text).into(),
        "try_again" => Failure::TryAgain(text).into(),
        "unreadable" => Failure::Unreadable(text).into(),
        // It has been logged, with its traceback.
        _ => HandlerError::exception(text).with_type(type_name).without_warning(),
    }
}
