//! Workers that go: in order, by losing their leases, or without a word.

use super::in_front::{InFront, nothing};
use super::*;
use crate::process::store::{Claim, LeaseId, Owner, Saved};

/// Two workers on one broker and one store.
async fn two(name: &str) -> (Home, Home) {
    let (url, store) = (format!("memory:{name}"), MemoryPersister::new());
    (Home::on(&url, 1, store.clone()).await, Home::on(&url, 1, store).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_goes_on_at_another_worker_from_its_checkpoint() {
    let store = MemoryPersister::new();
    let mut home = Home::on("memory:lives-drain", 1, store.clone()).await;
    // One that waits leaves at once.
    let waiting = home.launch("drain-waiting", "wait brought").await;
    home.becomes(&waiting, "waiting").await;
    let (stage, pid) = (Stage::of("drain"), home.launch("drain", "step gate step sleep step").await);
    eventually("its second step runs", || stage.begun() == 2).await;
    let worker = home.worker.take().unwrap();
    let drained = tokio::spawn(worker.drain(LONG));
    let until = Instant::now() + LONG;
    while home.record(&waiting).await.lease().is_some() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(home.record(&pid).await.checkpoint().step(), 1, "its step is not disturbed");
    stage.open();
    drained.await.unwrap();
    let record = home.record(&pid).await;
    assert_eq!((record.checkpoint().state(), record.checkpoint().step()), (ProcessState::Running, 2));
    assert!(record.lease().is_none(), "another worker may have it at once");
    let other = Home::on("memory:lives-drain", 1, store).await;
    // The task that the first worker had sent for it came back.
    other.becomes(&pid, "finished").await;
    assert_eq!(stage.notes(), ["0:step", "1:gate", "2:step", "3:sleep", "4:step", "5:"], "no step twice");
    let until = Instant::now() + LONG;
    while !other.worker.as_ref().unwrap().launcher().resume(&waiting, 1).await.unwrap_or(false) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    other.becomes(&waiting, "finished").await;
    other.close().await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_does_not_end_in_time_is_aborted_and_runs_again() {
    let store = MemoryPersister::new();
    let mut home = Home::on("memory:lives-abort", 1, store.clone()).await;
    let (stage, pid) = (Stage::of("abort"), home.launch("abort", "step gate").await);
    eventually("its second step runs", || stage.begun() == 2).await;
    home.worker.take().unwrap().drain(Duration::from_millis(30)).await;
    assert_eq!(stage.ended(), 2, "it was dropped");
    let other = Home::on("memory:lives-abort", 1, store).await;
    eventually("it runs again", || stage.begun() == 3).await;
    stage.open();
    other.becomes(&pid, "finished").await;
    assert_eq!(stage.notes(), ["0:step", "1:gate", "1:gate", "2:"]);
    other.close().await;
    home.close().await;
}

/// P3: across workers by the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_another_worker_is_waited_for_and_its_outcome_is_ours() {
    let (first, second) = two("lives-held").await;
    let (stage, pid) = (Stage::of("held"), first.launch("held", "gate").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let (one, other) = (first.worker.as_ref().unwrap().launcher(), second.worker.as_ref().unwrap().launcher().clone());
    // Whichever worker took the task, the other one is asked too.
    let asked = [one.clone(), other].map(|launcher| {
        let pid = pid.clone();
        tokio::spawn(async move { launcher.handle(ProcessTask::Continue(Continue::new(pid))).await })
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.open();
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap(), Value::from(2));
    }
    assert_eq!((stage.begun(), stage.most.load(Ordering::SeqCst)), (2, 1));
    first.close().await;
    second.close().await;
}

/// Its worker is gone, and the one that waited for it has something else to do by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_waited_for_runs_where_a_slot_is_free() {
    let (url, store) = ("memory:lives-full", MemoryPersister::new());
    let first = Home::on(url, 1, store.clone()).await;
    let pid = first.controller.create("script").arg("waited").arg("step").await.unwrap();
    let Claim::Granted { lease, .. } = store.claim(pid.clone(), Owner::this_process()).await.unwrap() else {
        panic!("it is free")
    };
    let continued = tokio::spawn(first.controller.continue_process(&pid).into_future());
    let launcher = first.worker.as_ref().unwrap().launcher().clone();
    eventually("its task is there", || launcher.pids() == [pid.clone()]).await;
    // It waits without a slot.
    let other = first.launch("full", "gate").await;
    eventually("the one slot is taken", || Stage::of("full").begun() == 1).await;
    let second = Home::on(url, 1, store.clone()).await;
    store.release(lease).await.unwrap();
    second.becomes(&pid, "finished").await;
    assert_eq!(continued.await.unwrap().unwrap(), Value::from(2), "whoever waits for it has what it puts out");
    assert_eq!((Stage::of("waited").begun(), Stage::of("full").ended()), (2, 0));
    Stage::of("full").open();
    first.becomes(&other, "finished").await;
    second.close().await;
    first.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_lost_ends_the_run_without_a_word() {
    let store = MemoryPersister::new().with_lease_time(Duration::from_millis(300));
    let home = Home::on("memory:", 1, store.clone()).await;
    let (stage, pid) = (Stage::of("lost"), home.launch("lost", "gate step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let mut pause = home.controller.pause(&pid).send().await.unwrap();
    assert!(matches!(pause.stage().await.unwrap(), ControlStage::Received));
    let seen = home.changes.lock().len();
    // Somebody takes it away, as if this worker had been silent for too long.
    let lease = home.record(&pid).await.lease().cloned().expect("it runs here");
    store.release(store::LeaseId::new(&pid, lease.number())).await.unwrap();
    let thief = Owner::this_process();
    let Claim::Granted { lease, checkpoint, .. } = store.claim(pid.clone(), thief).await.unwrap() else {
        panic!("it is free")
    };
    eventually("its step is gone", || stage.ended() == 1).await;
    let error = pause.outcome().await.unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == ErrorKind::Unroutable && text.contains("does not run it any more"), "{text}");
    assert!(text.contains("to pause process") && text.contains("was received"), "{text}");
    assert_eq!(home.changes.lock().len(), seen, "nobody is told");
    // And the other can store what it likes.
    assert_eq!(store.save(lease.clone(), checkpoint).await.unwrap(), Saved::Stored);
    stage.open();
    store.release(lease).await.unwrap();
    home.becomes(&pid, "finished").await;
    assert_eq!(stage.notes(), ["0:gate", "0:gate", "1:step", "2:"], "the step that was not stored ran again");
    home.close().await;
}

/// P3: no renewal notices it, but the store does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_lost_the_lease_stores_nothing_and_notifies_nobody() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("fenced"), home.launch("fenced", "gate step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let seen = home.changes.lock().len();
    let lease = home.record(&pid).await.lease().cloned().expect("it runs here");
    home.store.release(LeaseId::new(&pid, lease.number())).await.unwrap();
    let Claim::Granted { lease: other, .. } = home.store.claim(pid.clone(), Owner::this_process()).await.unwrap()
    else {
        panic!("it is free")
    };
    let before = home.record(&pid).await;
    stage.open();
    let worker = home.worker.as_ref().unwrap();
    // Its task goes back, and it is waited for from then on.
    eventually("its run has ended", || stage.ended() == 1 && worker.launcher().inner.leases() == 0).await;
    assert_eq!(home.record(&pid).await, before, "the lease of another, and what that one has stored");
    assert_eq!(home.changes.lock().len(), seen, "nobody is notified");
    assert!(home.controller.status(&pid).timeout(Duration::from_millis(300)).await.is_err(), "it is not run here");
    home.store.release(other).await.unwrap();
    home.becomes(&pid, "finished").await;
    assert_eq!(stage.notes(), ["0:gate", "0:gate", "1:step", "2:"]);
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_renewed_ends_the_step_when_its_time_is_over() {
    let error = || crate::Error::new(ErrorKind::Storage, "the disk is gone");
    ends_the_step("unrenewable", move || Box::pin(std::future::ready(Err(error())))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_renewal_is_not_answered_ends_the_step_when_its_time_is_over() {
    ends_the_step("unanswered", || Box::pin(std::future::pending())).await;
}

/// P3: another worker may have the process by then.
async fn ends_the_step(name: &str, renewal: impl Fn() -> store::Stored<'static, ()> + Send + Sync + 'static) {
    let (store, is_gone) =
        (MemoryPersister::new().with_lease_time(Duration::from_millis(300)), Arc::<AtomicBool>::default());
    let gone = Arc::clone(&is_gone);
    let unrenewable = InFront::of(&store, move |name, _| {
        if name != "renew" || !gone.load(Ordering::SeqCst) {
            return nothing();
        }
        renewal()
    });
    let home = Home::with("memory:", 1, store, unrenewable).await;
    let (stage, pid) = (Stage::of(name), home.launch(name, "gate step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(stage.ended(), 0, "its lease is renewed");
    is_gone.store(true, Ordering::SeqCst);
    eventually("its step is gone", || stage.ended() == 1).await;
    is_gone.store(false, Ordering::SeqCst);
    stage.open();
    home.becomes(&pid, "finished").await;
    home.close().await;
}

/// A step that was aborted, or stood still, in a worker that left in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_a_drain_has_aborted_is_not_run_twice_where_its_class_forbids_it() {
    for (number, script) in [(11, "gate"), (12, "polite")] {
        let (stage, store) =
            (format!("drained-{script}"), MemoryPersister::new().with_lease_time(Duration::from_millis(200)));
        let mut home = Home::start_with(&store).await;
        let launch = home.controller.launch("once").arg(stage.as_str()).arg(script).kwarg("pid", number);
        let pid = launch.nowait().await.unwrap();
        eventually("its step runs", || Stage::of(&stage).begun() == 1).await;
        if script == "polite" {
            assert!(home.controller.pause(&pid).await.unwrap().is_done());
            home.becomes(&pid, "running paused").await;
        }
        home.worker.take().unwrap().drain(Duration::ZERO).await;
        assert_eq!(Stage::of(&stage).ended(), 1, "it was aborted");
        home.communicator.close().await.unwrap();
        let home = Home::start_with(&store).await;
        let error = home.controller.continue_process(&pid).timeout(LONG).await.unwrap_err();
        assert!(error.to_string().contains("ended in the middle of step 0"), "{script}: {error}");
        assert_eq!(home.record(&pid).await.checkpoint().state(), ProcessState::Excepted);
        assert_eq!(Stage::of(&stage).begun(), 1, "{script}: not twice");
        home.close().await;
    }
}

/// What a class that runs no step twice becomes when its worker is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_done_twice_is_marked_as_lost() {
    let store = MemoryPersister::new().with_lease_time(Duration::from_millis(200));
    for (number, script, is_lost) in [(1, "gate", true), (2, "wait", false)] {
        // A worker that dies without a word: its runtime is gone, and its leases stand.
        let (kept, stage) = (store.clone(), format!("marked-{number}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let pid = runtime
            .spawn(async move {
                let home = Home::on("memory:", 1, kept).await;
                let launch = home.controller.launch("once").arg(stage.as_str()).arg(script).kwarg("pid", number);
                let pid = launch.nowait().await.unwrap();
                eventually("its step runs", || Stage::of(&stage).begun() == 1).await;
                if script == "wait" {
                    home.becomes(&pid, "waiting").await;
                }
                std::mem::forget(home);
                pid
            })
            .await
            .unwrap();
        runtime.shutdown_background();
        let home = Home::on("memory:", 1, store.clone()).await;
        // Its owner is this program, which is there: it has the time of another half lease.
        let limit = if is_lost { LONG } else { Duration::from_secs(5) };
        let continued = home.controller.continue_process(&pid).timeout(limit).await;
        if is_lost {
            let error = continued.unwrap_err();
            assert!(error.to_string().contains("ended in the middle of step 0"), "{error}");
            assert_eq!(home.record(&pid).await.checkpoint().state(), ProcessState::Excepted);
            assert_eq!(Stage::of("marked-1").begun(), 1, "not twice");
        } else {
            assert_eq!(continued.unwrap_err().kind(), ErrorKind::TimedOut);
            assert_eq!(home.record(&pid).await.checkpoint().state(), ProcessState::Waiting, "no step was lost");
        }
        home.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_another_class_is_an_error_and_stays_where_it_is() {
    let home = Home::start(1).await;
    for (class, pid) in [("script", 1), ("nobody", 2)] {
        let new = store::NewProcess::new(class, "no script at all").with_pid(pid);
        home.store.create(new).await.unwrap();
    }
    let error = home.controller.continue_process(1).await.unwrap_err();
    assert!(error.to_string().contains("cannot read the checkpoint"), "{error}");
    // For a worker that knows the class.
    let error = home.controller.continue_process(2).timeout(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    for pid in [1, 2] {
        let record = home.record(&pid.into()).await;
        assert_eq!(record.checkpoint().state(), ProcessState::Created);
    }
    home.close().await;
}
