//! Process control between plumpy and homing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use homing::process::{
    ControlMessage, ControlOutcome, ControlStage, Kill, Pause, Pid, ProcessController, ProcessEvents, ProcessState,
    StateChange, Status,
};
use homing::{ErrorKind, HandlerResult, RpcRequest, RpcSubscriber, Value};
use serde_json::{Value as Json, json};

use crate::support::{Broker, Peer, PeerError, TestResult};
use crate::{LONG, Rust, Table, interop};

pub(crate) fn add(table: &mut Table<'_>) {
    interop!(table:
        homing_controls_plumpy_processes,
        plumpy_controls_a_homing_process,
        an_idle_plumpy_process_is_woken,
        a_plumpy_process_in_a_step_is_waited_for,
        a_plumpy_process_that_cannot_be_interrupted_is_killed_by_force,
        all_plumpy_processes_are_controlled_at_once,
        homing_watches_plumpy_processes,
        a_plumpy_launcher_takes_the_tasks_of_homing,
        what_a_plumpy_launcher_cannot_do_comes_back,
    );
}

/// A plumpy process on a communicator of its own, with the names of the trial.
pub(crate) fn plumpy(broker: &Broker) -> Result<Peer, PeerError> {
    let peer = Peer::start("plumpy_peer.py");
    let names = json!({
        "url": broker.url(),
        "message_exchange": broker.message_exchange(),
        "task_exchange": broker.task_exchange(),
        "task_queue": broker.task_queue(),
        "testing_mode": true,
    });
    peer.call("connect", names)?;
    Ok(peer)
}

/// What the tests need of homing.
fn controller(broker: &Broker) -> (Rust, ProcessController) {
    let rust = Rust::connect(broker);
    let controller = ProcessController::new(&rust.communicator);
    (rust, controller)
}

/// Makes a process at the peer; its pid as it is there.
fn process(peer: &Peer, options: Json) -> Result<(Pid, Json), PeerError> {
    let made = peer.call("process", options)?["pid"].clone();
    let pid = match made.get("$uuid") {
        Some(uuid) => uuid.as_str().unwrap_or_default().parse().unwrap(),
        None => made.to_string().parse().unwrap(),
    };
    Ok((pid, made))
}

/// Waits until a process at the peer is in a state. Asks the peer, not the process.
fn becomes(peer: &Peer, pid: &Json, is_so: impl Fn(&Json) -> bool) -> Result<Json, PeerError> {
    let until = std::time::Instant::now() + LONG;
    loop {
        let state = peer.call("state", json!({"pid": pid}))?;
        if is_so(&state) {
            return Ok(state);
        }
        assert!(std::time::Instant::now() < until, "it is {state}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn homing_controls_plumpy_processes(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    for options in [json!({"pid": 101}), json!({}), json!({"pid": "p-1"}), json!({"kind": "steps", "pid": 102})] {
        let mut options = options;
        options["quiet"] = false.into();
        let is_waiting = options.get("kind").is_none();
        let (pid, at_peer) = process(&peer, options)?;
        let status = rust.run(controller.status(&pid))?;
        assert!(!status.is_paused() && !status.state().is_terminal(), "{status:?}");
        assert!(status.description().starts_with('<') && status.created().is_some(), "{status:?}");
        assert_eq!(rust.run(controller.pause(&pid).message("why: ü"))?, ControlOutcome::Done);
        assert!(rust.run(controller.status(&pid))?.is_paused());
        let state = becomes(&peer, &at_peer, |state| state["paused"] == true)?;
        assert_eq!(state["status"], "why: ü");
        assert_eq!(rust.run(controller.pause(&pid))?, ControlOutcome::Done, "it is already");
        assert_eq!(rust.run(controller.play(&pid))?, ControlOutcome::Done);
        let status = rust.run(controller.status(&pid))?;
        assert!(!status.is_paused());
        assert!(!is_waiting || status.state() == ProcessState::Waiting, "{status:?}");
        assert_eq!(rust.run(controller.kill(&pid).message("enough"))?, ControlOutcome::Done);
        let state = becomes(&peer, &at_peer, |state| state["state"] == "killed")?;
        assert_eq!(state["message"]["message"], "enough");
        let error = rust.run(controller.status(&pid)).unwrap_err();
        assert!(error.kind() == ErrorKind::Unroutable && error.to_string().contains(&pid.to_string()), "{error}");
    }
    Ok(())
}

fn plumpy_controls_a_homing_process(broker: &Broker) -> TestResult {
    let ((rust, _), peer) = (controller(broker), plumpy(broker)?);
    let log: Arc<Mutex<Vec<ControlMessage>>> = Arc::default();
    let kept = Arc::clone(&log);
    let subscriber = RpcSubscriber::closure(move |request: RpcRequest| {
        let message = ControlMessage::try_from(request.body())?;
        kept.lock().unwrap().push(message.clone());
        let fields = [("state", Value::from("ProcessState.WAITING")), ("paused", Value::from(false))];
        HandlerResult::Ok(match message {
            ControlMessage::Status(_) => Value::from(Status::try_from(Value::from_iter(fields))?).into(),
            // plumpy's controller for coroutines wants these to come later.
            _ => homing::Answer::later(async { true }),
        })
    });
    rust.run(rust.communicator.add_rpc_subscriber(7, subscriber))?;
    for controller in ["thread", "coroutine"] {
        let drive = |request: &str, more: Json| {
            let mut options = json!({"controller": controller, "request": request, "pid": 7});
            options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            peer.call("drive", options)
        };
        assert_eq!(drive("status", json!({}))?["state"], "ProcessState.WAITING");
        assert_eq!(drive("pause", json!({"message": "why"}))?, true);
        assert_eq!(drive("play", json!({}))?, true);
        assert_eq!(drive("kill", json!({"message": "now", "force": true}))?, true);
        let taken = std::mem::take(&mut *log.lock().unwrap());
        let [ControlMessage::Status(_), pause, ControlMessage::Play(_), kill] = &taken[..] else {
            return Err(format!("{taken:?}").into());
        };
        assert_eq!(pause, &ControlMessage::Pause(Pause::new().with_message("why")));
        assert_eq!(kill, &ControlMessage::Kill(Kill::new().with_message("now").forced()));
    }
    Ok(())
}

/// Its event loop does nothing but what it is asked to, so that every answer may get stuck.
fn an_idle_plumpy_process_is_woken(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    for pid in 1..=8 {
        process(&peer, json!({"pid": pid, "quiet": true}))?;
    }
    let all = |request: &'static str| {
        let calls = (1..=8).map(|pid| {
            let controller = controller.clone();
            async move {
                match request {
                    "status" => controller.status(pid).await.map(|status| !status.state().is_terminal()),
                    "pause" => controller.pause(pid).await.map(ControlOutcome::is_done),
                    "play" => controller.play(pid).await.map(ControlOutcome::is_done),
                    _ => controller.kill(pid).await.map(ControlOutcome::is_done),
                }
            }
        });
        futures_util::future::try_join_all(calls)
    };
    for _ in 0..2 {
        for request in ["status", "pause", "play"] {
            assert_eq!(rust.run(all(request))?, [true; 8], "{request}");
        }
    }
    assert_eq!(rust.run(all("kill"))?, [true; 8]);
    Ok(())
}

fn a_plumpy_process_in_a_step_is_waited_for(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    let (pid, at_peer) = process(&peer, json!({"kind": "long_step", "pid": 5, "quiet": false}))?;
    let mut reply = rust.run(controller.pause(&pid).send())?;
    assert_eq!(rust.run(reply.stage())?, ControlStage::Received);
    assert_eq!(rust.run(controller.status(&pid))?.state(), ProcessState::Running, "it answers meanwhile");
    assert_eq!(rust.run(reply.stage())?, ControlStage::Done(ControlOutcome::Done));
    assert_eq!(becomes(&peer, &at_peer, |state| state["paused"] == true)?["state"], "waiting");
    Ok(())
}

fn a_plumpy_process_that_cannot_be_interrupted_is_killed_by_force(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    let (pid, at_peer) = process(&peer, json!({"kind": "stubborn", "pid": 6, "quiet": false}))?;
    becomes(&peer, &at_peer, |state| state["state"] == "running")?;
    let error = rust.run(controller.kill(&pid).timeout(Duration::from_secs(5))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("process 6 was received"), "{error}");
    assert_eq!(rust.run(controller.kill(&pid).message("now").force())?, ControlOutcome::Done);
    let state = becomes(&peer, &at_peer, |state| state["state"] == "killed")?;
    assert_eq!(state["message"], json!({"intent": "kill", "message": "now", "force_kill": true}));
    Ok(())
}

fn all_plumpy_processes_are_controlled_at_once(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    let all = [1, 2, 3].map(|pid| process(&peer, json!({"pid": pid, "quiet": false})).map(|(_, at_peer)| at_peer));
    let all = all.into_iter().collect::<Result<Vec<_>, _>>()?;
    for pid in &all {
        becomes(&peer, pid, |state| state["state"] == "waiting")?;
    }
    rust.run(controller.pause_all().message("all stop"))?;
    for pid in &all {
        assert_eq!(becomes(&peer, pid, |state| state["paused"] == true)?["status"], "all stop");
    }
    rust.run(controller.play_all())?;
    for pid in &all {
        becomes(&peer, pid, |state| state["paused"] == false)?;
    }
    rust.run(controller.kill_all().message("bang"))?;
    for pid in &all {
        assert_eq!(becomes(&peer, pid, |state| state["state"] == "killed")?["message"]["message"], "bang");
    }
    Ok(())
}

fn homing_watches_plumpy_processes(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    let mut all: ProcessEvents = rust.run(controller.events(Vec::<Pid>::new()))?;
    let mut some = rust.run(controller.events([11]))?;
    process(&peer, json!({"kind": "ends", "pid": 10, "quiet": false}))?;
    process(&peer, json!({"kind": "fails", "pid": 11, "quiet": false}))?;
    let (uuid, _) = process(&peer, json!({"quiet": false}))?;
    let ends = |pid: i32, last| {
        [
            StateChange::new(pid, None, ProcessState::Created),
            StateChange::new(pid, Some(ProcessState::Created), ProcessState::Running),
            StateChange::new(pid, Some(ProcessState::Running), last),
        ]
    };
    for change in ends(11, ProcessState::Excepted) {
        assert_eq!(rust.run(some.next()), Some(Ok(change)));
    }
    let mut seen = Vec::new();
    while seen.len() < 9 {
        seen.push(rust.run(all.next()).ok_or("the stream has ended")??);
    }
    let of = |pid: &Pid| seen.iter().filter(|change| change.pid() == pid).cloned().collect::<Vec<_>>();
    assert_eq!(of(&10.into()), ends(10, ProcessState::Finished));
    assert_eq!(of(&11.into()), ends(11, ProcessState::Excepted));
    assert_eq!(of(&uuid).last(), Some(&StateChange::new(&uuid, Some(ProcessState::Running), ProcessState::Waiting)));
    Ok(())
}

const ENDS: &str = "plumpy_peer:Ends";
const FAILS: &str = "plumpy_peer:Fails";

fn a_plumpy_launcher_takes_the_tasks_of_homing(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    peer.call("launcher", json!({}))?;
    let outputs = |o: i64| Value::from_iter([("o", o)]);
    assert_eq!(rust.run(controller.launch(ENDS))?, outputs(7));
    let inputs = Value::from_iter([("a", 5)]);
    assert_eq!(rust.run(controller.launch(ENDS).kwarg("inputs", inputs.clone()).kwarg("pid", 31))?, outputs(5));
    assert_eq!(rust.run(controller.launch(ENDS).arg(inputs).arg(32).nowait())?, Pid::from(32));
    // plumpy draws this one.
    let pid = rust.run(controller.create(ENDS))?;
    assert!(pid.as_i64().is_none() && pid.to_string().len() == 36, "{pid}");
    assert_eq!(rust.run(controller.continue_process(&pid))?, outputs(7));
    assert_eq!(rust.run(controller.launch(ENDS).kwarg("pid", 33).persistent().nowait())?, Pid::from(33));
    let reply = rust.run(controller.execute(ENDS).kwarg("pid", 34).send())?;
    assert_eq!(reply.pid(), Some(&Pid::from(34)));
    assert_eq!(rust.run(reply)?, outputs(7));
    assert_eq!(rust.run(controller.execute(ENDS).kwarg("pid", 35).nowait())?, Pid::from(35));
    let ours = peer.call("heard", json!({"log": "launcher", "count": 10}))?;
    // The same requests by plumpy's own controller are the same tasks.
    peer.call("drive", json!({"controller": "thread", "request": "launch", "kind": "ends"}))?;
    // Its controller for threads calls from a callback, which kiwipy times out.
    peer.call("drive", json!({"controller": "coroutine", "request": "execute", "kind": "ends", "nowait": true}))?;
    let all = peer.call("heard", json!({"log": "launcher", "count": 13}))?;
    assert_eq!((ours.as_array().map(Vec::len), all.as_array().map(Vec::len)), (Some(10), Some(13)));
    assert_eq!(ours[0]["body"], all[10]["body"]);
    assert_eq!(ours[3]["body"], all[11]["body"]);
    let (mut nowait, theirs) = (ours[9]["body"].clone(), &all[12]["body"]);
    nowait["args"]["pid"] = theirs["args"]["pid"].clone();
    assert_eq!(&nowait, theirs);
    Ok(())
}

fn what_a_plumpy_launcher_cannot_do_comes_back(broker: &Broker) -> TestResult {
    let ((rust, controller), peer) = (controller(broker), plumpy(broker)?);
    peer.call("launcher", json!({}))?;
    for (sending, part) in [
        (controller.launch(FAILS), "boom: äöü"),
        (controller.launch("nope:Nope"), "nope"),
        (controller.launch("no colon"), "no colon"),
        (controller.launch("plumpy_peer:Nope"), "Nope"),
        (controller.launch(ENDS).kwarg("nonsense", 1), "nonsense"),
    ] {
        let error = rust.run(sending).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteException, "{error}");
        assert!(error.remote_text().is_some_and(|text| text.contains(part)), "{error}");
    }
    let error = rust.run(controller.continue_process(987)).unwrap_err();
    assert!(error.kind() == ErrorKind::RemoteException && error.to_string().contains("process 987"), "{error}");
    assert_eq!(rust.run(controller.launch(ENDS))?, Value::from_iter([("o", 7)]), "and it goes on");
    Ok(())
}
