//! P5: user code that panics wherever it is called harms its own process only.

use super::in_front::{InFront, Time, nothing};
use super::*;

/// Panics where it is told to: when it is made, described, written, read or dropped.
struct Fragile(String);

/// Panics as it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a part of a step cannot be dropped");
    }
}

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, "written at first", "it cannot be written at first");
        // Its first checkpoint is of one that has not begun.
        assert_ne!(self.0, "written after its step", "it cannot be written");
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        assert_ne!(text, "read", "it cannot be read");
        Ok(Fragile(text))
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(self.0 != "dropped" || std::thread::panicking(), "it cannot be dropped");
    }
}

impl Process for Fragile {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        let text = inputs.args().first().and_then(Value::as_str).unwrap_or_default();
        assert_ne!(text, "made", "it cannot be made");
        Ok(Fragile(text.to_owned()))
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        match (self.0.as_str(), context.step()) {
            ("written", 0) => self.0 = "written after its step".to_owned(),
            ("dropping", 0) => self.0 = "dropped".to_owned(),
            ("failing", 0) => {
                self.0 = "dropped".to_owned();
                return Err("it fails".into());
            }
            ("parent", 0) => {
                context.launch_child("fragile", Inputs::new().arg("made")).await?;
            }
            ("aborted", 0) => {
                let _bomb = Bomb;
                Stage::of("aborted").note("its step runs");
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        Ok(if context.step() == 0 { Next::Step } else { Next::finish("done") })
    }

    fn describe(&self) -> String {
        assert_ne!(self.0, "described", "it cannot be described");
        self.0.clone()
    }
}

/// The registry of the other tests, with this class.
pub(super) fn register(registry: Registry) -> Registry {
    registry.register::<Fragile>("fragile").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_panics_anywhere_harms_its_own_process_only() {
    let home = Home::start(2).await;
    // One that is under way all the time.
    let (stage, other) = (Stage::of("beside-fragile"), home.launch("beside-fragile", "gate step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let launch = |what: &str, pid: i32| home.controller.launch("fragile").arg(what).kwarg("pid", pid).timeout(LONG);
    for (pid, what, kind) in
        [(101, "written", "cannot be written"), (102, "failing", "it fails"), (105, "described", "cannot be described")]
    {
        let error = launch(what, pid).await.unwrap_err();
        assert!(error.kind() == ErrorKind::RemoteException && error.to_string().contains(kind), "{what}: {error}");
        assert_eq!(home.record(&pid.into()).await.checkpoint().state(), ProcessState::Excepted, "{what}");
    }
    // Not made: there is no process, and whoever launches it knows why.
    for (pid, what) in [(106, "made"), (107, "written at first")] {
        let error = launch(what, pid).await.unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == ErrorKind::RemoteException && text.contains("it cannot be"), "{what}: {text}");
        assert!(home.store.record(pid.into()).await.unwrap().is_none(), "{what}");
    }
    let error = launch("parent", 108).await.unwrap_err();
    assert!(error.to_string().contains("it cannot be made"), "{error}");
    assert_eq!(home.record(&108.into()).await.checkpoint().state(), ProcessState::Excepted);
    // A step that is dropped, and panics at that.
    let aborted = home.controller.launch("fragile").arg("aborted").kwarg("pid", 109).nowait().await.unwrap();
    eventually("its step runs", || Stage::of("aborted").notes().len() == 1).await;
    assert!(home.controller.kill(&aborted).force().await.unwrap().is_done());
    home.becomes(&aborted, "killed").await;
    // It is made, and cannot be taken from the store: there it stays.
    let error = launch("read", 103).await.unwrap_err();
    assert!(error.to_string().contains("cannot read the checkpoint"), "{error}");
    let record = home.record(&103.into()).await;
    assert!(record.checkpoint().state() == ProcessState::Created && record.lease().is_none());
    // One that is dropped where nobody expects a panic.
    drop(launch("dropping", 104).await);
    home.becomes(&104.into(), "finished").await;
    assert_eq!(home.run("after-fragile", "step").await.unwrap(), Value::from(2), "the slots are free");
    stage.open();
    home.becomes(&other, "finished").await;
    let worker = home.worker.as_ref().unwrap();
    let until = Instant::now() + LONG;
    while !worker.pids().is_empty() {
        assert!(Instant::now() < until, "{:?} are left", worker.pids());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_panics_costs_nobody_anything() {
    let (calls, communicator) = (Arc::new(AtomicU32::new(0)), Communicator::connect("memory:").await.unwrap());
    let counted = Arc::clone(&calls);
    let worker = ProcessWorker::builder(&communicator, MemoryPersister::new(), registry())
        .on_change(|_| panic!("it does not want to know"))
        .on_change(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .start()
        .await
        .unwrap();
    let controller = ProcessController::new(&communicator);
    let mut broadcasts = controller.events(Vec::<Pid>::new()).await.unwrap();
    let launch = controller.launch("script").arg("listened").arg("step").timeout(LONG);
    assert_eq!(launch.await.unwrap(), Value::from(2));
    for subject in ["None.created", "created.running", "running.running", "running.finished"] {
        let change = tokio::time::timeout(LONG, broadcasts.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(change.subject(), format!("state_changed.{subject}"));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 4, "the other listener has all of them");
    worker.drain(Duration::ZERO).await;
    communicator.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_is_one_that_has_failed() {
    let store = MemoryPersister::new().with_lease_time(Duration::from_millis(300));
    // Before it does anything, and after it has done it.
    let count = AtomicU32::new(0);
    let rotten = InFront::of(&store, move |name, time| {
        let count = count.fetch_add(1, Ordering::SeqCst);
        assert_ne!(count % 9, 4, "the store cannot be asked, or cannot answer: {name}");
        if time == Time::After && count % 9 == 7 { Box::pin(async { panic!("it panics later") }) } else { nothing() }
    });
    let home = Home::with("memory:", 2, store, rotten).await;
    for number in 0..10 {
        let stage = format!("rotten-{number}");
        let launch = home.controller.launch("script").arg(stage.as_str()).arg("step status step").kwarg("pid", number);
        let running = tokio::spawn(launch.timeout(LONG));
        eventually("its second step runs", || Stage::of(&stage).begun() == 2).await;
        // Longer than its lease lasts, for one of them.
        tokio::time::sleep(Duration::from_millis(if number == 0 { 700 } else { 0 })).await;
        Stage::of(&stage).open();
        assert_eq!(running.await.unwrap().unwrap(), Value::from(4));
        assert_eq!(Stage::of(&stage).notes(), ["0:step", "1:status", "2:step", "3:"], "no step twice");
    }
    home.close().await;
}

#[tokio::test]
async fn a_start_that_is_given_up_at_any_point_leaves_nothing() {
    let communicator = Communicator::connect("memory:").await.unwrap();
    for polls in 1..100 {
        let registry = Registry::new().register::<Script>("script").unwrap();
        let builder = ProcessWorker::builder(&communicator, MemoryPersister::new(), registry);
        let mut starting = Box::pin(builder.start());
        let mut left = polls;
        let started = std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(None);
            }
            left -= 1;
            starting.as_mut().poll(context).map(Some)
        })
        .await;
        drop(starting);
        let is_over = started.is_some();
        drop(started);
        // The driver notes what it holds when it has done something.
        let held = || communicator.leftovers().into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        let until = Instant::now() + LONG;
        while !held().is_empty() {
            assert!(Instant::now() < until, "left behind after {polls} polls: {:?}", held());
            communicator.sleep(Duration::ZERO).await.unwrap();
            tokio::task::yield_now().await;
        }
        if is_over {
            communicator.close().await.unwrap();
            return;
        }
    }
    panic!("it does not start");
}

#[tokio::test]
async fn a_worker_whose_communicator_has_closed_drains_in_time() {
    let mut home = Home::start(1).await;
    let worker = home.worker.take().unwrap();
    let inner = Arc::downgrade(&worker.launcher().inner);
    home.launch("closed-first", "forever").await;
    eventually("it begins", || Stage::of("closed-first").begun() == 1).await;
    home.communicator.close().await.unwrap();
    tokio::time::timeout(LONG, worker.drain(Duration::from_millis(20))).await.expect("it drains in time");
    eventually("nothing of it is left", || inner.strong_count() == 0).await;
}

#[tokio::test]
async fn a_close_while_a_worker_drains_does_not_keep_it() {
    let mut home = Home::start(1).await;
    let worker = home.worker.take().unwrap();
    home.launch("closed-meanwhile", "forever").await;
    eventually("it begins", || Stage::of("closed-meanwhile").begun() == 1).await;
    let closing = async {
        tokio::task::yield_now().await;
        home.communicator.close().await.unwrap();
    };
    let draining = async { futures_util::join!(worker.drain(LONG / 3), closing) };
    tokio::time::timeout(LONG, draining).await.expect("it drains in time");
}

#[tokio::test]
async fn a_worker_that_is_dropped_after_a_close_leaves_nothing() {
    let mut home = Home::start(1).await;
    let worker = home.worker.take().unwrap();
    let inner = Arc::downgrade(&worker.launcher().inner);
    home.communicator.close().await.unwrap();
    drop(worker);
    eventually("nothing of it is left", || inner.strong_count() == 0).await;
}
