//! A store that cannot be used for a while: no task is lost or kept from others, and the worker goes on by itself.

use super::in_front::{InFront, Time, nothing};
use super::*;
use crate::Failure;

/// What a store that fails now and then was asked while it failed, by the names of the calls.
type Asked = Arc<Mutex<Vec<&'static str>>>;

/// A store in front of this one that fails while `is_away` is true.
fn failing(store: &MemoryPersister, is_away: &Arc<AtomicBool>) -> (InFront, Asked) {
    let asked = Asked::default();
    let (away, kept) = (Arc::clone(is_away), Arc::clone(&asked));
    let in_front = InFront::of(store, move |name, _| {
        if !away.load(Ordering::SeqCst) {
            return nothing();
        }
        kept.lock().push(name);
        Box::pin(std::future::ready(Err(crate::Error::new(ErrorKind::Storage, "the disk is full"))))
    });
    (in_front, asked)
}

fn count(asked: &Asked, name: &str) -> usize {
    asked.lock().iter().filter(|asked| **asked == name).count()
}

fn launcher(home: &Home) -> &ProcessLauncher {
    home.worker.as_ref().expect("it works").launcher()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_store_fails_a_worker_takes_no_task_and_then_it_goes_on_by_itself() {
    let (store, is_away) = (MemoryPersister::new(), Arc::new(AtomicBool::new(true)));
    let (in_front, asked) = failing(&store, &is_away);
    let home = Home::with("memory:", 1, store, in_front).await;
    let launches: Vec<_> = (0..20)
        .map(|number| {
            let stage = format!("away-{number}");
            tokio::spawn(home.controller.launch("script").arg(stage).arg("step").timeout(LONG))
        })
        .collect();
    eventually("it is checked again and again", || count(&asked, "check") >= 4).await;
    assert_eq!(count(&asked, "create"), 1, "one task has found it out; no other was taken");
    let error = launcher(&home).store_failure().expect("it fails");
    assert!(error.to_string().contains("the disk is full"), "{error}");
    is_away.store(false, Ordering::SeqCst);
    for (number, launch) in launches.into_iter().enumerate() {
        assert_eq!(launch.await.unwrap().unwrap(), Value::from(2));
        assert_eq!(Stage::of(&format!("away-{number}")).notes(), ["0:step", "1:"], "exactly once");
    }
    assert!(launcher(&home).store_failure().is_none());
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_worker_whose_store_fails_are_done_by_another() {
    let (store, is_away) = (MemoryPersister::new(), Arc::new(AtomicBool::new(true)));
    let (in_front, asked) = failing(&store, &is_away);
    let home = Home::with("memory:lives-away", 4, store.clone(), in_front).await;
    let first = tokio::spawn(home.controller.launch("script").arg("others-first").arg("step").timeout(LONG));
    eventually("it has taken a task", || count(&asked, "create") == 1).await;
    let well = Home::on("memory:lives-away", 1, store).await;
    assert_eq!(first.await.unwrap().unwrap(), Value::from(2));
    for number in 0..10 {
        assert_eq!(well.run(&format!("others-{number}"), "step").await.unwrap(), Value::from(2));
    }
    assert!(home.worker.as_ref().unwrap().pids().is_empty());
    well.close().await;
    home.close().await;
}

/// A claim that fails, and a drain in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_store_fails_drains_and_its_tasks_stay() {
    let (store, is_away) = (MemoryPersister::new(), Arc::new(AtomicBool::new(true)));
    let (in_front, asked) = failing(&store, &is_away);
    let mut home = Home::with("memory:lives-away-drain", 2, store.clone(), in_front).await;
    let script = Script::new(Inputs::new().arg("away-drain").arg("step")).unwrap();
    let new = store::NewProcess::new("script", Value::from_serialize(&script).unwrap());
    let pid = store.create(new).await.unwrap();
    let continued = tokio::spawn(home.controller.continue_process(&pid).timeout(LONG));
    eventually("it has tried", || count(&asked, "claim") == 1).await;
    tokio::time::timeout(LONG, home.worker.take().unwrap().drain(LONG)).await.expect("it does not wait for the store");
    let other = Home::on("memory:lives-away-drain", 1, store).await;
    assert_eq!(continued.await.unwrap().unwrap(), Value::from(2));
    other.close().await;
    home.close().await;
}

/// A worker with a process that waits for this call of its store, which is never answered; with the process's name.
async fn stands(call: &'static str, name: &str) -> Home {
    let store = MemoryPersister::new();
    let asked = Asked::default();
    let kept = Arc::clone(&asked);
    let silent = InFront::of(&store, move |name, _| {
        if name != call {
            return nothing();
        }
        kept.lock().push(name);
        Box::pin(std::future::pending())
    });
    let home = Home::with("memory:", 1, store, silent).await;
    let launched = home.controller.launch("script").arg(name).arg("gate").kwarg("pid", name).timeout(LONG);
    tokio::spawn(launched);
    if call == "claim" {
        eventually("it is claimed", || count(&asked, call) == 1).await;
    } else {
        eventually("its step runs", || Stage::of(name).begun() == 1).await;
    }
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_store_does_not_answer_drains() {
    let (claims, releases) = (stands("claim", "silent-claim").await, stands("release", "silent-release").await);
    let mut closed = stands("claim", "silent-closed").await;
    closed.communicator.close().await.unwrap();
    let closed = tokio::spawn(async move { closed.worker.take().unwrap().drain(LONG).await });
    let drained = [claims, releases].map(|mut home| {
        tokio::spawn(async move {
            home.worker.take().unwrap().drain(Duration::ZERO).await;
            assert!(home.communicator.close().await.is_ok());
        })
    });
    for drained in drained.into_iter().chain([closed]) {
        tokio::time::timeout(LONG, drained).await.expect("it does not wait for the store").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_while_its_store_fails_waits_with_what_is_to_be_stored() {
    let (store, is_away) = (MemoryPersister::new(), Arc::new(AtomicBool::new(false)));
    let (in_front, asked) = failing(&store, &is_away);
    let home = Home::with("memory:", 2, store, in_front).await;
    let (stage, pid) = (Stage::of("away-here"), home.launch("away-here", "gate step status").await);
    eventually("its step runs", || stage.begun() == 1).await;
    is_away.store(true, Ordering::SeqCst);
    stage.open();
    eventually("it is checked again and again", || count(&asked, "check") >= 4).await;
    assert_eq!((stage.begun(), count(&asked, "save")), (1, 1), "no step before the one before it is stored");
    let status = home.controller.status(&pid).await.unwrap();
    assert_eq!(status.state(), ProcessState::Running, "it answers all the same");
    is_away.store(false, Ordering::SeqCst);
    home.becomes(&pid, "finished").await;
    assert_eq!(stage.notes(), ["0:gate", "1:step", "2:status", "3:"]);
    home.close().await;
}

/// A process that alone cannot be stored says nothing of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_that_cannot_be_stored_keeps_no_other_waiting() {
    let store = MemoryPersister::new();
    let (fails, failed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (failing, counted) = (Arc::clone(&fails), Arc::clone(&failed));
    // The first that is saved, and only that.
    let in_front = InFront::of(&store, move |name, time| {
        if name == "save" && time == Time::Before && failing.load(Ordering::SeqCst) {
            counted.fetch_add(1, Ordering::SeqCst);
            return Box::pin(std::future::ready(Err(crate::Error::new(ErrorKind::Storage, "it cannot be stored"))));
        }
        nothing()
    });
    let home = Home::with("memory:", 2, store, in_front).await;
    let pid = home.launch("away-one", "step").await;
    eventually("it is tried again", || failed.load(Ordering::SeqCst) >= 3).await;
    assert!(launcher(&home).store_failure().is_none());
    let created = home.controller.create("script").arg("away-other").arg("").timeout(LONG).await.unwrap();
    assert_eq!(home.record(&created).await.checkpoint().state(), ProcessState::Created, "others are taken");
    fails.store(false, Ordering::SeqCst);
    home.becomes(&pid, "finished").await;
    home.close().await;
}

/// A launcher that is handed its tasks from elsewhere than its home.
struct Elsewhere {
    here: tokio::runtime::Runtime,
    /// The home of the launcher.
    there: Option<tokio::runtime::Runtime>,
    communicator: Communicator,
    launcher: ProcessLauncher,
}

impl Elsewhere {
    fn with(store: impl Persister) -> Self {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build().unwrap()
        };
        let (here, there) = (runtime(), runtime());
        let communicator = here.block_on(Communicator::connect("memory:")).unwrap();
        let launcher = there.block_on(async {
            let at_home = communicator.bound_to(&crate::home::Home::current());
            ProcessLauncher::builder(&at_home, store, registry()).start().await.unwrap()
        });
        Elsewhere { here, there: Some(there), communicator, launcher }
    }

    /// Hands it a task.
    fn hand(&self, stage: &str) -> tokio::task::JoinHandle<HandlerResult<Value>> {
        let (launcher, task) = (self.launcher.clone(), Launch::new("script").arg(stage).arg("step"));
        self.here.spawn(async move { launcher.handle(ProcessTask::Launch(task)).await })
    }

    /// The task goes back to its queue.
    fn goes_back(&self, handed: tokio::task::JoinHandle<HandlerResult<Value>>) {
        let end = self.here.block_on(async { tokio::time::timeout(LONG, handed).await });
        let error = end.expect("it ends").expect("it does not panic").expect_err("its home has ended");
        assert!(matches!(error.failure(), Failure::Cancelled), "{error:?}");
    }

    fn close(self) {
        self.here.block_on(self.communicator.close()).unwrap();
    }
}

/// Its home checks the store no more. Whoever waited for a check would wait for the close.
#[test]
fn a_task_that_is_handed_to_a_launcher_whose_home_has_ended_goes_back() {
    for fails_before in [true, false] {
        let (store, is_away) = (MemoryPersister::new(), Arc::new(AtomicBool::new(fails_before)));
        let (in_front, asked) = failing(&store, &is_away);
        let mut elsewhere = Elsewhere::with(in_front);
        if fails_before {
            elsewhere.goes_back(elsewhere.hand("ended-before"));
            assert!(elsewhere.launcher.store_failure().is_some());
        }
        drop(elsewhere.there.take());
        is_away.store(true, Ordering::SeqCst);
        let before = count(&asked, "create");
        elsewhere.goes_back(elsewhere.hand("ended-after"));
        assert_eq!(count(&asked, "create"), before, "nothing is made that nobody would run");
        elsewhere.close();
    }
}

#[test]
fn a_task_that_waits_for_a_check_of_the_store_goes_back_when_the_launchers_home_ends() {
    let (store, checked) = (MemoryPersister::new(), Arc::new(AtomicBool::new(false)));
    let noted = Arc::clone(&checked);
    let in_front = InFront::of(&store, move |name, _| match name {
        "create" => Box::pin(std::future::ready(Err(crate::Error::new(ErrorKind::Storage, "the disk is full")))),
        // A store that hangs.
        "check" => {
            noted.store(true, Ordering::SeqCst);
            Box::pin(std::future::pending())
        }
        _ => nothing(),
    });
    let mut elsewhere = Elsewhere::with(in_front);
    let handed = elsewhere.hand("ended-meanwhile");
    let until = Instant::now() + LONG;
    while !checked.load(Ordering::SeqCst) {
        assert!(Instant::now() < until, "the store is not checked");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(elsewhere.there.take());
    elsewhere.goes_back(handed);
    elsewhere.close();
}

/// It has left, and checks its store no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_handed_to_a_launcher_that_has_drained_goes_back_though_its_store_fails() {
    let (store, is_away) = (MemoryPersister::new(), Arc::new(AtomicBool::new(true)));
    let (in_front, asked) = failing(&store, &is_away);
    let communicator = Communicator::connect("memory:").await.unwrap();
    let launcher = ProcessLauncher::builder(&communicator, in_front, registry()).start().await.unwrap();
    let task = || ProcessTask::Create(Create::new("script").arg("drained").arg("step"));
    for drained in [false, true] {
        let end = tokio::time::timeout(LONG, launcher.handle(task())).await.expect("it ends");
        let error = end.expect_err("the store fails");
        assert!(matches!(error.failure(), Failure::Cancelled), "{drained}: {error:?}");
        tokio::time::timeout(LONG, launcher.drain(Duration::ZERO)).await.expect("nothing is here");
    }
    assert_eq!(count(&asked, "create"), 1);
    communicator.close().await.unwrap();
}
