//! Status, pause, play and kill.

use super::in_front::{InFront, Time, nothing};
use super::*;
use crate::{RpcRequest, RpcSubscriber};

fn is_done(outcome: crate::Result<ControlOutcome>) -> bool {
    outcome.unwrap().is_done()
}

/// A request that is under way: it has been received, and waits.
async fn received<T: Unpin + Send + 'static>(reply: &mut ControlReply<T>) {
    assert!(matches!(reply.stage().await.unwrap(), ControlStage::Received));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_in_a_step_is_put_off_until_it_has_ended() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("pause-step"), home.launch("pause-step", "gate step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let mut pause = home.controller.pause(&pid).message("why").send().await.unwrap();
    received(&mut pause).await;
    let mut second = home.controller.pause(&pid).message("another").send().await.unwrap();
    received(&mut second).await;
    let status = home.controller.status(&pid).await.unwrap();
    assert!(!status.is_paused() && status.state() == ProcessState::Running, "it answers meanwhile: {status:?}");
    stage.open();
    assert!(is_done(pause.outcome().await) && is_done(second.outcome().await));
    let record = home.becomes(&pid, "running paused").await;
    assert_eq!(record.checkpoint().pause().and_then(store::PauseNote::message), Some("why"));
    assert!(is_done(home.controller.pause(&pid).await), "it is already");
    assert!(home.controller.status(&pid).await.unwrap().is_paused());
    assert_eq!(stage.begun(), 1);
    // P6: its slot is free.
    assert_eq!(home.run("pause-step-other", "step").await.unwrap(), Value::from(2));
    assert!(is_done(home.controller.play(&pid).await));
    home.becomes(&pid, "finished").await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn play_cancels_a_pause_that_was_put_off() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("play-pausing"), home.launch("play-pausing", "gate step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let mut pause = home.controller.pause(&pid).send().await.unwrap();
    received(&mut pause).await;
    assert!(is_done(home.controller.play(&pid).await));
    assert_eq!(pause.outcome().await.unwrap_err().kind(), ErrorKind::Cancelled);
    stage.open();
    let record = home.becomes(&pid, "finished").await;
    assert!(record.transitions().iter().all(|transition| !transition.is_paused));
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_is_put_off_and_takes_the_place_of_what_came_before() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("kill-step"), home.launch("kill-step", "gate step step").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let mut pause = home.controller.pause(&pid).send().await.unwrap();
    received(&mut pause).await;
    let mut first = home.controller.kill(&pid).message("first").send().await.unwrap();
    received(&mut first).await;
    let mut second = home.controller.kill(&pid).message("second").send().await.unwrap();
    received(&mut second).await;
    assert_eq!(pause.outcome().await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(first.outcome().await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(home.controller.pause(&pid).await.unwrap(), ControlOutcome::Refused, "a kill stands");
    let ended = tokio::spawn(home.controller.continue_process(&pid));
    stage.open();
    assert!(is_done(second.outcome().await));
    let record = home.becomes(&pid, "killed").await;
    assert_eq!(record.outcome(), Some(&Outcome::Killed { message: Some("second".into()) }));
    let error = ended.await.unwrap().unwrap_err();
    assert_eq!(error.remote_text(), Some("second"), "as plumpy's KilledError");
    assert_eq!(stage.begun(), 1);
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_killed_in_each_state() {
    let home = Home::start(1).await;
    let blocker = Stage::of("kill-blocker");
    // Waiting, and waiting and paused.
    for paused in [false, true] {
        let pid = home.launch("kill-waiting", "wait").await;
        home.becomes(&pid, "waiting").await;
        if paused {
            assert!(is_done(home.controller.pause(&pid).await));
        }
        assert!(is_done(home.controller.kill(&pid).await));
        home.becomes(&pid, "killed").await;
    }
    // Created, for there is no slot.
    let first = home.launch("kill-blocker", "wait gate").await;
    home.becomes(&first, "waiting").await;
    let launcher = home.worker.as_ref().unwrap().launcher().clone();
    let busy = home.launch("kill-busy", "gate").await;
    eventually("it has the slot", || Stage::of("kill-busy").begun() == 1).await;
    // Nobody pulls tasks now: by hand.
    let made =
        launcher.handle(ProcessTask::Create(Create::new("script").arg("kill-created").arg("step"))).await.unwrap();
    let pid = Pid::try_from(&made).unwrap();
    let running = {
        let (launcher, task) = (launcher.clone(), ProcessTask::Continue(Continue::new(&pid)));
        tokio::spawn(async move { launcher.handle(task).await })
    };
    let until = Instant::now() + LONG;
    while home.controller.status(&pid).await.is_err() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(home.controller.status(&pid).await.unwrap().state(), ProcessState::Created);
    assert!(is_done(home.controller.kill(&pid).message("before it began").await));
    assert_eq!(running.await.unwrap().unwrap_err().to_string(), "before it began");
    assert_eq!(Stage::of("kill-created").begun(), 0);
    // Running without a slot: resumed, and behind the other.
    assert!(launcher.resume(&first, 1).await.unwrap());
    home.becomes(&first, "running").await;
    assert!(is_done(home.controller.kill(&first).await));
    assert_eq!(blocker.begun(), 1);
    // In a step, by force, and one that ended otherwise.
    assert!(is_done(home.controller.kill(&busy).force().await));
    home.becomes(&busy, "killed").await;
    eventually("its step is gone", || Stage::of("kill-busy").ended() == 1).await;
    assert!(!launcher.resume(&busy, 1).await.unwrap_or(false), "it does not wait");
    home.close().await;
}

/// P5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_never_ends_is_killed_by_force_at_its_next_await() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("force"), home.launch("force", "forever").await);
    eventually("its step runs", || stage.begun() == 1).await;
    let mut kill = home.controller.kill(&pid).send().await.unwrap();
    received(&mut kill).await;
    assert!(is_done(home.controller.kill(&pid).message("now").force().await));
    assert_eq!(kill.outcome().await.unwrap_err().kind(), ErrorKind::Cancelled);
    eventually("its step is gone", || stage.ended() == 1).await;
    assert_eq!(home.record(&pid).await.outcome(), Some(&Outcome::Killed { message: Some("now".into()) }));
    assert_eq!(home.run("force-other", "step").await.unwrap(), Value::from(2), "its slot is free");
    home.close().await;
}

/// P5: on a runtime with a thread to spare, as every worker should have.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_step_that_blocks_its_thread_keeps_nobody_from_being_answered() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("block"), home.launch("block", "block").await);
    eventually("its step runs", || stage.begun() == 1).await;
    for _ in 0..20 {
        assert_eq!(home.controller.status(&pid).await.unwrap().state(), ProcessState::Running);
    }
    assert!(is_done(home.controller.kill(&pid).force().await));
    assert_eq!(stage.ended(), 0, "it is still there");
    stage.open();
    eventually("its step is gone", || stage.ended() == 1).await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polite_step_stands_still_goes_on_and_cleans_up() {
    let home = Home::start(1).await;
    let (stage, pid) = (Stage::of("polite"), home.launch("polite", "polite").await);
    eventually("its step runs", || stage.begun() == 1).await;
    assert!(is_done(home.controller.pause(&pid).message("lunch").await));
    let record = home.becomes(&pid, "running paused").await;
    assert!(record.checkpoint().pause().is_some_and(store::PauseNote::is_in_step));
    // P6: its slot is free, though its step is there.
    assert_eq!(home.run("polite-other", "step").await.unwrap(), Value::from(2));
    assert!(is_done(home.controller.pause(&pid).await));
    assert!(is_done(home.controller.play(&pid).await));
    eventually("it goes on", || stage.notes().len() == 3).await;
    assert!(!home.controller.status(&pid).await.unwrap().is_paused());
    assert!(is_done(home.controller.pause(&pid).message("again").await));
    assert!(is_done(home.controller.kill(&pid).message("enough").await));
    assert_eq!(home.record(&pid).await.outcome(), Some(&Outcome::Killed { message: Some("enough".into()) }));
    assert_eq!(stage.notes(), ["0:polite", "stands still: lunch", "Play", "stands still: again", "Kill"]);
    assert_eq!(stage.begun(), 1, "all in one step");
    // And one that is killed as it runs.
    let pid = home.launch("polite", "polite").await;
    eventually("its step runs", || stage.begun() == 2).await;
    assert!(is_done(home.controller.kill(&pid).await));
    assert_eq!(stage.notes().last().map(String::as_str), Some("to be killed: "));
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_process_is_resumed_with_a_value_that_is_not_lost() {
    let home = Home::start(1).await;
    let launcher = home.worker.as_ref().unwrap().launcher().clone();
    let pid = home.launch("resume", "wait brought").await;
    home.becomes(&pid, "waiting").await;
    assert!(is_done(home.controller.pause(&pid).await));
    assert!(launcher.resume(&pid, 42).await.unwrap());
    let record = home.becomes(&pid, "running paused").await;
    assert_eq!(record.checkpoint().brought(), &Value::from(42));
    assert!(!launcher.resume(&pid, 43).await.unwrap(), "it does not wait any more");
    assert!(is_done(home.controller.play(&pid).await));
    assert_eq!(home.controller.continue_process(&pid).await.unwrap(), Value::from(42));
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_are_controlled_at_once() {
    let home = Home::start(1).await;
    let mut pids = Vec::new();
    for _ in 0..5 {
        pids.push(home.launch("all", "wait").await);
    }
    for pid in &pids {
        home.becomes(pid, "waiting").await;
    }
    home.controller.pause_all().message("all stop").await.unwrap();
    for pid in &pids {
        let record = home.becomes(pid, "waiting paused").await;
        assert_eq!(record.checkpoint().pause().and_then(store::PauseNote::message), Some("all stop"));
    }
    home.controller.play_all().await.unwrap();
    for pid in &pids {
        home.becomes(pid, "waiting").await;
    }
    home.controller.kill_all().message("enough").await.unwrap();
    for pid in &pids {
        let record = home.becomes(pid, "killed").await;
        assert_eq!(record.outcome(), Some(&Outcome::Killed { message: Some("enough".into()) }));
    }
    home.close().await;
}

/// Requests from all sides at once: each is answered, and the process comes to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_requests_is_answered_to_the_last() {
    let home = Home::start(2).await;
    let stage = Stage::of("storm");
    stage.open();
    let pid = home.launch("storm", &"slow polite sleep step ".repeat(4)).await;
    let storm: Vec<_> = (0..8)
        .map(|number| {
            let (controller, pid) = (home.controller.clone(), pid.clone());
            tokio::spawn(async move {
                let mut answers = 0;
                for round in 0..12 {
                    let asked = match (number + round) % 4 {
                        0 => controller.pause(&pid).await.map(drop),
                        3 => controller.status(&pid).await.map(drop),
                        _ => controller.play(&pid).await.map(drop),
                    };
                    match asked {
                        Ok(()) => answers += 1,
                        Err(error) if error.kind() == ErrorKind::Cancelled => answers += 1,
                        // It has ended.
                        Err(error) if error.kind() == ErrorKind::Unroutable => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                answers
            })
        })
        .collect();
    let mut answers = 0;
    for requests in storm {
        answers += requests.await.unwrap();
    }
    assert!(answers > 0);
    while home.controller.play(&pid).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    home.becomes(&pid, "finished").await;
    home.close().await;
}

/// Nobody knows what the process was doing when it was asked: it is paused, refuses, or is not there any more, and no request gets
/// anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_meets_the_end_of_its_process_is_answered_or_reaches_nobody() {
    let home = Home::start(4).await;
    for round in 0..100_u64 {
        let pid = home.launch("meets", "step").await;
        let asked: Vec<_> = (0..4)
            .map(|number| {
                let (controller, pid) = (home.controller.clone(), pid.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(round * 37 % 1000 * number)).await;
                    match number {
                        3 => controller.status(&pid).await.map(drop),
                        _ => controller.pause(&pid).await.map(drop),
                    }
                })
            })
            .collect();
        for asked in asked {
            match asked.await.unwrap() {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unroutable, "round {round}: {error}"),
            }
        }
        loop {
            match home.controller.play(&pid).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unroutable, "round {round}: {error}");
                    break;
                }
            }
        }
        home.becomes(&pid, "finished").await;
    }
    home.close().await;
}

/// A request to all comes in while the lease of a process is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_about_to_run_is_one_of_all() {
    // No one outside sees when the launcher has got the request: where it came too late, it is tried again.
    for attempt in 0..20 {
        if was_killed_before_its_first_step(attempt).await {
            return;
        }
    }
    panic!("a step began each time");
}

async fn was_killed_before_its_first_step(attempt: u32) -> bool {
    let (stage, asked) = (format!("all-early-{attempt}"), Stage::of(&format!("all-asked-{attempt}")));
    let (store, claims) = (MemoryPersister::new(), Arc::clone(&asked));
    let slow = InFront::of(&store, move |name, time| {
        if (name, time) != ("claim", Time::After) {
            return nothing();
        }
        claims.note("a claim");
        let claims = Arc::clone(&claims);
        Box::pin(async move {
            claims.opened().await;
            Ok(())
        })
    });
    let home = Home::with("memory:", 2, store, slow).await;
    let launched = tokio::spawn(home.controller.launch("script").arg(stage.as_str()).arg("polite").nowait());
    eventually("its lease is asked for", || asked.notes().len() == 1).await;
    home.controller.kill_all().message("all of them").await.unwrap();
    // The next broadcast is taken after that one.
    let mut after = home.controller.events(Vec::<Pid>::new()).await.unwrap();
    home.controller.announce(&StateChange::new(77, None, ProcessState::Created)).await.unwrap();
    tokio::time::timeout(LONG, after.next()).await.unwrap();
    asked.open();
    let pid = launched.await.unwrap().unwrap();
    let record = home.becomes(&pid, "killed").await;
    assert_eq!(record.outcome(), Some(&Outcome::Killed { message: Some("all of them".to_owned()) }));
    home.close().await;
    Stage::of(&stage).begun() == 0
}

/// A process whose subscriber cannot be added at first runs all the same, and is reached as soon as it can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_be_subscribed_at_first_is_reached_later() {
    let home = Home::start(1).await;
    // Somebody has its name.
    let other = RpcSubscriber::closure(|_: RpcRequest| HandlerResult::Ok("somebody else"));
    home.communicator.add_rpc_subscriber(4711, other).await.unwrap();
    let launch = home.controller.launch("script").arg("late").arg("wait").kwarg("pid", 4711);
    let pid = launch.nowait().await.unwrap();
    home.becomes(&pid, "waiting").await;
    assert_eq!(home.controller.status(&pid).await.unwrap_err().kind(), ErrorKind::Decode, "it is not the process");
    home.communicator.remove_rpc_subscriber(&pid).await.unwrap();
    let until = Instant::now() + LONG;
    let status = loop {
        match home.controller.status(&pid).await {
            Ok(status) => break status,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(status.state(), ProcessState::Waiting);
    assert!(is_done(home.controller.kill(&pid).await));
    home.becomes(&pid, "killed").await;
    home.close().await;
}
