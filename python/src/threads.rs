//! A thread of Python's as a home: waiting on it, with the interpreter released.
//!
//! What comes for Python while a thread waits (a subscriber to be called, a future to be completed) is put into the thread's
//! queue; the wait pauses, the thread attaches once for all of it, and goes on to wait. So a wait within a subscriber's call is
//! another one of the same kind, and everything goes on meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use homing::home::lock::{Condvar, Mutex};
use homing::home::{Completer, Home, LocalHome};
use pyo3::intern;
use pyo3::prelude::*;

use crate::call::Op;
use crate::errors;
use crate::handler::{self, Invocation};
use crate::kiwi::Delivery;
use crate::life::{AtTheEnd, Waiter};
use crate::logs;
use crate::place::Place;
use crate::settle::{self, Output};

/// How often a wait on the main thread lets signal handlers run, which Python runs there only.
const SIGNALS: Duration = Duration::from_millis(50);

/// How many envelopes a thread that was stopped handles at once, and how often. What a close has ended is all there by then.
const TURN: usize = 1024;
const TURNS: usize = 1024;

/// Something for Python, to be done on this thread while it is attached.
pub(crate) enum Work {
    /// A subscriber is called.
    Invoke(Box<Invocation>),
    /// A stage of a reply is handed over.
    Deliver(Box<Delivery>),
    /// A future of `concurrent.futures` is completed.
    Settle { future: Py<PyAny>, outcome: homing::Result<Output> },
}

thread_local! {
    static WORK: RefCell<VecDeque<Work>> = const { RefCell::new(VecDeque::new()) };
    /// Of the wait that this thread stands in.
    static WAKER: RefCell<Option<Waker>> = const { RefCell::new(None) };
    /// Set when it is time for signal handlers.
    static TICKED: Cell<bool> = const { Cell::new(false) };
    /// The home with a timer that will set the one above, so that a thread that waits often has one, and not one for each wait.
    static TICKS: RefCell<Option<Home>> = const { RefCell::new(None) };
    static IS_MAIN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Has something done on this thread, which waits.
pub(crate) fn push(work: Work) {
    WORK.with_borrow_mut(|queue| queue.push_back(work));
    wake();
}

fn wake() {
    if let Some(waker) = WAKER.with_borrow(Clone::clone) {
        waker.wake();
    }
}

/// Has the wait that this thread stands in let signal handlers run soon.
fn tick() {
    let here = LocalHome::of_this_thread();
    let home = here.home();
    // Guards: a wait within a turn of a loop, whose home has the timer then and may not turn again for long.
    if TICKS.with_borrow(|ticks| ticks.as_ref().is_some_and(|ticks| ticks.is_same(&home))) {
        return;
    }
    // A home that is full sets no timer; it is full of what ends.
    let set = here.after(SIGNALS, || {
        TICKS.set(None);
        TICKED.set(true);
        wake();
    });
    if set.is_ok() {
        TICKS.set(Some(home));
    }
}

/// The wait that this thread stood in when another began within it.
struct Outer(Option<Waker>);

impl Outer {
    fn begin() -> Self {
        Outer(WAKER.take())
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        // Guards: a wait within a turn of the home, by an encoder or a decoder. The wait around it is not polled when that one ends;
        // what comes for Python then has to wake it all the same.
        WAKER.set(self.0.take());
        if WORK.with_borrow(|queue| !queue.is_empty()) {
            wake();
        }
    }
}

enum Step {
    Done(homing::Result<Output>),
    Work,
    Signals,
}

fn is_main(py: Python<'_>) -> PyResult<bool> {
    if let Some(known) = IS_MAIN.get() {
        return Ok(known);
    }
    let threading = py.import(intern!(py, "threading"))?;
    let current = threading.call_method0(intern!(py, "get_ident"))?;
    let main = threading.call_method0(intern!(py, "main_thread"))?.getattr(intern!(py, "ident"))?;
    let is_main = current.eq(main)?;
    IS_MAIN.set(Some(is_main));
    Ok(is_main)
}

/// Waits for an operation on this thread, which is inside until it has made an object of the outcome.
///
/// # Errors
/// Of a signal handler, `KeyboardInterrupt` for one: the operation is given up.
pub(crate) fn wait(py: Python<'_>, mut op: Op, _inside: &Waiter) -> PyResult<homing::Result<Output>> {
    let _outer = Outer::begin();
    let is_main = is_main(py)?;
    loop {
        let op = &mut op;
        let step = py.detach(move || {
            homing::blocking::wait(poll_fn(|context| {
                if let Poll::Ready(outcome) = op.as_mut().poll(context) {
                    return Poll::Ready(Ok(Step::Done(outcome)));
                }
                if WORK.with_borrow(|queue| !queue.is_empty()) {
                    return Poll::Ready(Ok(Step::Work));
                }
                if TICKED.take() {
                    return Poll::Ready(Ok(Step::Signals));
                }
                WAKER.set(Some(context.waker().clone()));
                if is_main {
                    tick();
                }
                Poll::Pending
            }))
        });
        logs::hand_over(py);
        match step.map_err(|error| errors::exception(py, &error))? {
            Step::Done(outcome) => return Ok(outcome),
            Step::Work => run_work(py),
            Step::Signals => py.check_signals()?,
        }
    }
}

/// Hands over what has come before a thread that serves was stopped: the outcomes of what a close has ended are in its home's inbox,
/// and nobody turns that home again.
fn hand_the_rest_over(py: Python<'_>) {
    for _ in 0..TURNS {
        let handled = py.detach(|| LocalHome::of_this_thread().turn(TURN));
        // Nobody is called any more: the sender of such a message gets an exception.
        WORK.take().into_iter().filter(|work| !matches!(work, Work::Invoke(_))).for_each(|work| run(py, work));
        if handled == 0 && WORK.with_borrow(VecDeque::is_empty) {
            return;
        }
    }
}

fn run_work(py: Python<'_>) {
    while let Some(work) = WORK.with_borrow_mut(VecDeque::pop_front) {
        run(py, work);
    }
}

fn run(py: Python<'_>, work: Work) {
    match work {
        Work::Invoke(invocation) => match invocation.run(py) {
            Ok(()) => {}
            // On a thread that serves others, the exit of one subscriber is a failure like another: answered and logged.
            Err(error) if handler::is_exit(py, &error) => {}
            Err(error) => error.write_unraisable(py, None),
        },
        Work::Deliver(delivery) => delivery.deliver(py),
        Work::Settle { future, outcome } => settle::settle(py, future.bind(py), outcome),
    }
}

/// A thread of Python's that serves: it calls subscribers and completes futures until it is stopped.
#[pyclass(frozen)]
pub(crate) struct Server(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    begun: Condvar,
}

#[derive(Default)]
struct State {
    place: Option<Place>,
    stop: Option<Completer<()>>,
    is_stopped: bool,
}

#[pymethods]
impl Server {
    #[new]
    fn new() -> Self {
        Server(Arc::default())
    }

    /// Serves on the calling thread until it is stopped.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let inside = Waiter::begin(py, AtTheEnd::Allowed)?;
        let home = Home::current();
        let (completer, stopped) = home
            .try_future::<()>()
            .map_err(|error| errors::of_kind(py, homing::ErrorKind::Internal, error.to_string()))?;
        {
            let mut state = self.0.state.lock();
            state.place = Some(Place::of_thread(home));
            if state.is_stopped {
                drop(completer);
            } else {
                state.stop = Some(completer);
            }
            self.0.begun.notify_all();
        }
        let op: Op = Box::pin(async move {
            // However it ends.
            let _ = stopped.await;
            Ok(Output::Nothing)
        });
        let stopped = wait(py, op, &inside);
        hand_the_rest_over(py);
        stopped.map(drop)
    }

    /// The thread as a home. Waits until it runs.
    fn place(&self, py: Python<'_>) -> PyResult<Place> {
        let _inside = Waiter::begin(py, AtTheEnd::Allowed)?;
        let shared = Arc::clone(&self.0);
        Ok(py.detach(move || {
            let mut state = shared.state.lock();
            loop {
                if let Some(place) = &state.place {
                    return place.clone();
                }
                state = shared.begun.wait(state, None);
            }
        }))
    }

    /// Has the thread end when it has returned from the subscribers that it is in. Returns at once.
    fn stop(&self) {
        let mut state = self.0.state.lock();
        state.is_stopped = true;
        drop(state.stop.take());
    }
}
