//! `homing demo`: homes of three kinds that call each other, share a task queue and receive broadcasts; then the crash that
//! the project exists for, and what happens instead.
//!
//! Every thread name that is printed was observed in this run. When a completion is seen off its home, the demo says so
//! and fails; `HOMING_DEMO_SEED=off-home` puts such a completion in, to show that it would be found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use homing::blocking::Communicator;
use homing::home::{EventLoop, Home, LocalHome};
use homing::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, ErrorKind, Failure as Refusal, HandlerResult, RpcRequest,
    RpcSubscriber, TaskRequest, TaskSubscriber,
};

use crate::args::{Format, Global};
use crate::connection::builder;
use crate::failure::Failure;
use crate::{out, show, warning};

/// No step of the demo may take longer.
const STEP: Duration = Duration::from_secs(20);
const TASKS: usize = 9;

type Call = Box<dyn FnOnce() + Send>;

/// A home of the demo: its name, which its thread has too, and a way to run something there.
struct Place {
    name: &'static str,
    home: Home,
    run: Box<dyn Fn(Call)>,
}

pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    let (url, over) = match global.broker.broker.as_deref() {
        None => ("memory:homing-demo", "inside this process, with no broker".to_owned()),
        Some(url) if url.starts_with("memory:") => (url, "inside this process, with no broker".to_owned()),
        Some(url) => (url, "over a broker".to_owned()),
    };
    show!("homing demo, {over}\n")?;

    // Names of its own, so that it disturbs nobody on a broker that others use; testing mode, so that nothing stays.
    let own = if global.names.any() { None } else { Some(format!("homing-demo-{}", std::process::id())) };
    let connect = || {
        let mut options = builder(global, url).testing(homing::TestingMode::Yes).call_timeout(STEP).task_timeout(STEP);
        if let Some(own) = &own {
            options = options.prefix(own);
        }
        options.connect_blocking()
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("tokio-runtime")
        .enable_all()
        .build()?;
    let event_loop = EventLoop::start("event-loop")?;
    let plain = PlainThread::start("plain-thread")?;
    let loop_handle = event_loop.handle();
    let runtime_handle = runtime.handle().clone();
    let plain_calls = plain.calls.clone();
    let places = [
        Place {
            name: "tokio-runtime",
            home: Home::of_runtime(runtime.handle()),
            run: Box::new(move |call| drop(runtime_handle.spawn(async move { call() }))),
        },
        Place {
            name: "event-loop",
            home: event_loop.handle().home(),
            run: Box::new(move |call| loop_handle.run(move |_| call()).unwrap_or(())),
        },
        Place {
            name: "plain-thread",
            home: plain.home.clone(),
            run: Box::new(move |call| drop(plain_calls.send(call))),
        },
    ];

    let communicator = connect()?;
    let shown = communicator.server_properties();
    let shown: Vec<&str> = shown
        .iter()
        .filter(|(name, _)| name == "product" || name == "version")
        .map(|(_, text)| text.as_str())
        .collect();
    show!("broker: {}", shown.join(" "))?;

    calls(&communicator, &places)?;
    tasks(&communicator, &places)?;
    broadcasts(&communicator, &places)?;
    crash(&communicator, &places[1])?;

    let started = Instant::now();
    let report = communicator.close()?;
    let took = started.elapsed();
    show!("\nclose: {:.1} ms, {} callers left waiting", took.as_secs_f64() * 1e3, report.requests_ended)?;
    if let Some(error) = report.error {
        return Err(error.into());
    }
    // They hold the plain thread's way in.
    drop(places);
    plain.stop();
    event_loop.stop();
    runtime.shutdown_timeout(STEP);
    show!("\nAll of it landed at home. `homing --help` shows the rest.")?;
    if global.output.format == Format::Json {
        let close_ms = (took.as_secs_f64() * 1e4).round() / 10.0;
        out!(
            "{}",
            serde_json::json!({"demo": "passed", "over": over, "broker": shown.join(" "), "close_ms": close_ms})
        )?;
    }
    Ok(())
}

/// Every home calls every other, and the answers come home.
fn calls(communicator: &Communicator, places: &[Place]) -> Result<(), Failure> {
    show!("\n1. Calls: each home answers on its own thread, and each caller's answer lands on the caller's.")?;
    for place in places {
        let who = RpcSubscriber::closure(|_: RpcRequest| thread_name());
        communicator.bound_to(&place.home).add_rpc_subscriber(place.name, who)?;
    }
    for from in places {
        for to in places.iter().filter(|to| to.name != from.name) {
            let (tell, told) = mpsc::channel();
            let call = communicator.rpc_send(to.name, "who answers?");
            (from.run)(Box::new(move || {
                drop(Home::current().spawn(async move {
                    let answer = call.await;
                    let landed = Noted::new();
                    landed.here();
                    let _ = tell.send((answer, landed));
                }));
            }));
            let (answer, landed) = told.recv_timeout(STEP).map_err(|_| late("an answer"))?;
            let answered = answer?;
            let answered = answered.as_str().unwrap_or("?").to_owned();
            show!("   {:>13} -> {:<13}  answered on {answered:?}, landed on {:?}", from.name, to.name, landed.name())?;
            at_home("a call was answered", to.name, &answered)?;
            at_home("an answer landed", from.name, &landed.name())?;
        }
    }
    Ok(())
}

/// One queue, three homes that work on it.
fn tasks(communicator: &Communicator, places: &[Place]) -> Result<(), Failure> {
    show!("\n2. Tasks: {TASKS} tasks in one queue, shared by three homes; each is acknowledged when it is done.")?;
    let queue = communicator.default_task_queue()?;
    // One communicator asks its subscribers in turn: the first that does not reject gets the task.
    let done: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    for (n, place) in places.iter().enumerate() {
        let done = Arc::clone(&done);
        let work = TaskSubscriber::closure(move |task: TaskRequest| {
            let number = task.body().as_i64().unwrap_or(0);
            if usize::try_from(number).unwrap_or(0) % TASKS_HOMES != n {
                return Err(Refusal::Rejected("not mine".to_owned()));
            }
            *done.lock().unwrap_or_else(PoisonError::into_inner).entry(thread_name()).or_default() += 1;
            Ok(Answer::from(number * number))
        });
        communicator.bound_to(&place.home).add_task_subscriber(work)?;
    }
    let sent = (0..TASKS)
        .map(|n| queue.task_send(i64::try_from(n).unwrap_or(0)).send_blocking())
        .collect::<Result<Vec<_>, _>>()?;
    let mut squares = Vec::new();
    for reply in sent {
        squares.push(reply.wait()?.as_i64().unwrap_or(-1));
    }
    show!("   outcomes: {squares:?}")?;
    let done = done.lock().unwrap_or_else(PoisonError::into_inner);
    for (thread, count) in done.iter() {
        show!("   {thread:>13} did {count}")?;
    }
    let right = (0..TASKS).map(|n| i64::try_from(n * n).unwrap_or(0)).collect::<Vec<_>>();
    if squares != right || done.values().sum::<usize>() != TASKS {
        return Err(Failure::Other("a task was lost or ran twice".to_owned()));
    }
    Ok(())
}

const TASKS_HOMES: usize = 3;

/// One broadcast, received on three homes.
fn broadcasts(communicator: &Communicator, places: &[Place]) -> Result<(), Failure> {
    show!("\n3. Broadcasts: one is sent, every home whose filter it passes receives it.")?;
    let (tell, told) = mpsc::channel();
    for place in places {
        let tell = tell.clone();
        let hear = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
            let _ = tell.send((thread_name(), broadcast.subject().unwrap_or("").to_owned()));
        });
        let filter = BroadcastFilter::new().subject("state_changed.*.finished")?;
        communicator.bound_to(&place.home).add_broadcast_subscriber(filter, hear)?;
    }
    communicator.broadcast_send("not for them").subject("state_changed.created.running").wait()?;
    communicator.broadcast_send("done").subject("state_changed.running.finished").sender(4).wait()?;
    let mut heard = BTreeMap::new();
    for _ in places {
        let (thread, subject) = told.recv_timeout(STEP).map_err(|_| late("a broadcast"))?;
        heard.insert(thread, subject);
    }
    for (thread, subject) in &heard {
        show!("   {thread:>13} received {subject:?}")?;
    }
    if heard.len() != places.len() || heard.values().any(|subject| subject != "state_changed.running.finished") {
        return Err(Failure::Other("a broadcast was not received where it should be".to_owned()));
    }
    Ok(())
}

/// The crash of 2020: a subscriber hands back a future, and a foreign thread fails it.
fn crash(communicator: &Communicator, place: &Place) -> Result<(), Failure> {
    show!("\n4. The crash: a subscriber answers with a future, and a foreign thread sets an error on it.")?;
    show!("   In Python's kiwipy this hung the caller for ever, and the connection could not be closed.")?;
    let seen = Noted::new();
    let foreign = Noted::new();
    let off_home = std::env::var("HOMING_DEMO_SEED").is_ok_and(|seed| seed == "off-home");
    let (note, note_foreign) = (seen.clone(), foreign.clone());
    let subscriber = RpcSubscriber::closure(move |_: RpcRequest| {
        let (completer, future) = Home::current().try_future::<String>()?;
        let (note, seeded) = (note.clone(), note.clone());
        let foreign = note_foreign.clone();
        let thread = thread::Builder::new().name("foreign-thread".to_owned());
        thread.spawn(move || {
            thread::sleep(Duration::from_millis(50));
            foreign.here();
            if off_home {
                // What cannot be written with a completer, put in by hand: the done-callback on the foreign thread.
                seeded.here();
            }
            let _ = completer.complete("an error, set on a foreign thread".to_owned());
        })?;
        HandlerResult::Ok(Answer::later(async move {
            let outcome = future.await;
            if !off_home {
                note.here();
            }
            match outcome {
                Ok(text) => Err::<Answer, _>(Refusal::Exception(text)),
                Err(end) => Err(Refusal::Exception(end.to_string())),
            }
        }))
    });
    communicator.bound_to(&place.home).add_rpc_subscriber("crash", subscriber)?;
    let started = Instant::now();
    let outcome = communicator.rpc_send("crash", "please").wait();
    let took = started.elapsed();
    let error = match outcome {
        Err(error) if error.kind() == ErrorKind::RemoteException => error,
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Failure::Other("the error got lost".to_owned())),
    };
    show!("   the error was set on    {:?}", foreign.name())?;
    show!("   its completion landed on {:?}; the future's home is {:?}", seen.name(), place.name)?;
    show!("   the caller got, after {} ms: {}", took.as_millis(), error.remote_text().unwrap_or("?"))?;
    at_home("the completion landed", place.name, &seen.name())
}

fn at_home(what: &str, home: &str, seen: &str) -> Result<(), Failure> {
    if home == seen {
        return Ok(());
    }
    Err(Failure::Other(format!("{what} on the thread {seen:?}, but its home is {home:?}: a completion off its home")))
}

fn late(what: &str) -> Failure {
    Failure::Other(format!("{what} did not come within {STEP:?}"))
}

fn thread_name() -> String {
    thread::current().name().unwrap_or("a thread without a name").to_owned()
}

/// A note of the thread on which something was seen.
#[derive(Clone)]
struct Noted(Arc<Mutex<Option<String>>>);

impl Noted {
    fn new() -> Self {
        Noted(Arc::default())
    }

    fn here(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread_name());
    }

    fn name(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(|| "no thread".to_owned())
    }
}

/// A plain thread that is a home while it waits for something to do.
struct PlainThread {
    home: Home,
    calls: tokio::sync::mpsc::UnboundedSender<Call>,
    thread: thread::JoinHandle<()>,
}

impl PlainThread {
    fn start(name: &str) -> Result<Self, Failure> {
        let (calls, mut waiting) = tokio::sync::mpsc::unbounded_channel::<Call>();
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ = tell.send(Home::current());
            // Waiting is what makes it a home: while it waits for calls, everything that arrives is done here.
            let _ = LocalHome::of_this_thread().block_on(async move {
                while let Some(call) = waiting.recv().await {
                    call();
                }
            });
        })?;
        let home = told.recv().map_err(|_| late("the plain thread"))?;
        Ok(PlainThread { home, calls, thread })
    }

    fn stop(self) {
        drop(self.calls);
        if self.thread.join().is_err() {
            warning!("the plain thread panicked");
        }
    }
}
