//! Processes of homing with plumpy as the other end: its controllers drive them, its tasks launch them, it receives their
//! changes of state.

use std::time::{Duration, Instant};

use homing::process::store::{MemoryPersister, Persister};
use homing::process::{Inputs, Next, Outcome, Pid, Process, ProcessState, ProcessWorker, Registry, StepContext};
use homing::{HandlerResult, Value};
use serde_json::{Value as Json, json};

use crate::process::plumpy;
use crate::support::{Broker, Peer, PeerError, TestResult};
use crate::{LONG, Rust, Table, interop};

pub(crate) fn add(table: &mut Table<'_>) {
    interop!(table:
        plumpy_drives_processes_of_homing,
        plumpy_drives_all_processes_of_homing_at_once,
        a_homing_worker_takes_the_tasks_of_plumpy,
        what_a_homing_worker_cannot_do_comes_back_to_plumpy,
    );
}

/// What one of plumpy's test processes does, by the name of its class there.
#[derive(serde::Serialize, serde::Deserialize)]
enum Like {
    Waits,
    LongStep,
    Ends(Option<i64>),
    Fails,
}

macro_rules! classes {
    ($($name:ident => $make:expr),* $(,)?) => {$(
        #[derive(serde::Serialize, serde::Deserialize)]
        struct $name(Like);

        impl Process for $name {
            fn new(inputs: Inputs) -> HandlerResult<Self> {
                let make: fn(Inputs) -> Like = $make;
                Ok($name(make(inputs)))
            }

            async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
                self.0.step(context).await
            }
        }
    )*};
}

classes! {
    Waits => |_| Like::Waits,
    LongStep => |_| Like::LongStep,
    Ends => |inputs| Like::Ends(inputs.get("inputs").and_then(|inputs| inputs.get("a")?.as_i64())),
    Fails => |_| Like::Fails,
}

impl Like {
    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        match self {
            Like::Waits => Ok(Next::wait_for_resume("nobody")),
            Like::LongStep => {
                context.sleep(Duration::from_secs(1)).await?;
                *self = Like::Waits;
                Ok(Next::wait_for_resume("nobody"))
            }
            Like::Ends(a) => Ok(Next::finish(Value::from_iter([("o", a.unwrap_or(7))]))),
            Like::Fails => Err("boom: äöü".into()),
        }
    }
}

struct Ours {
    rust: Rust,
    worker: ProcessWorker,
    store: MemoryPersister,
}

impl Ours {
    fn start(broker: &Broker) -> homing::Result<Self> {
        let (rust, store) = (Rust::connect(broker), MemoryPersister::new());
        let registry = Registry::new()
            .register::<Waits>("plumpy_peer:Waits")?
            .register::<LongStep>("plumpy_peer:LongStep")?
            .register::<Ends>("plumpy_peer:Ends")?
            .register::<Fails>("plumpy_peer:Fails")?;
        let builder = ProcessWorker::builder(&rust.communicator, store.clone(), registry).slots(2);
        let worker = rust.run(builder.start())?;
        Ok(Ours { rust, worker, store })
    }

    fn becomes(&self, pid: &Pid, state: ProcessState, paused: bool) -> homing::Result<()> {
        let until = Instant::now() + LONG;
        loop {
            let record = self.rust.run(self.store.record(pid.clone()))?.expect("it is in the store");
            let checkpoint = record.checkpoint();
            if (checkpoint.state(), checkpoint.pause().is_some()) == (state, paused) {
                return Ok(());
            }
            assert!(Instant::now() < until, "it is {checkpoint:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn outcome(&self, pid: &Pid) -> homing::Result<Option<Outcome>> {
        Ok(self.rust.run(self.store.record(pid.clone()))?.and_then(|record| record.outcome().cloned()))
    }

    fn end(self) {
        self.rust.run(self.worker.drain(Duration::from_secs(5)));
    }
}

fn drive(peer: &Peer, controller: &str, request: &str, more: &Json) -> Result<Json, PeerError> {
    let mut options = json!({"controller": controller, "request": request});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    peer.call("drive", options)
}

/// A pid as the peer has it.
fn pid(json: &Json) -> Pid {
    json["$uuid"].as_str().unwrap_or_default().parse().unwrap()
}

fn plumpy_drives_processes_of_homing(broker: &Broker) -> TestResult {
    let (ours, peer) = (Ours::start(broker)?, plumpy(broker)?);
    let changes = peer.call("add_broadcast_subscriber", json!({"subject": "state_changed.*"}))?;
    for controller in ["thread", "coroutine"] {
        let at_peer = drive(&peer, controller, "launch", &json!({"kind": "waits", "nowait": true}))?;
        let pid = pid(&at_peer);
        let ask = |request: &str, more: &Json| {
            let mut options = json!({"pid": at_peer});
            options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            drive(&peer, controller, request, &options)
        };
        ours.becomes(&pid, ProcessState::Waiting, false)?;
        let status = ask("status", &json!({}))?;
        assert_eq!((&status["state"], &status["paused"]), (&json!("ProcessState.WAITING"), &json!(false)));
        assert_eq!(status["process_string"], "<plumpy_peer:Waits> (ProcessState.WAITING)");
        assert!(status["ctime"].as_f64().is_some_and(|time| time > 1e9), "{status}");
        assert_eq!(ask("pause", &json!({"message": "why: ü"}))?, true);
        ours.becomes(&pid, ProcessState::Waiting, true)?;
        assert_eq!(ask("pause", &json!({}))?, true, "it is already");
        assert_eq!(ask("play", &json!({}))?, true);
        ours.becomes(&pid, ProcessState::Waiting, false)?;
        assert_eq!(ask("kill", &json!({"message": "enough"}))?, true);
        assert_eq!(ours.outcome(&pid)?, Some(Outcome::Killed { message: Some("enough".into()) }));
        assert!(ask("status", &json!({})).is_err(), "it is not there any more");

        // In the middle of a step, and by force.
        let at_peer = drive(&peer, controller, "launch", &json!({"kind": "long_step", "nowait": true}))?;
        let long = self::pid(&at_peer);
        ours.becomes(&long, ProcessState::Running, false)?;
        assert_eq!(drive(&peer, controller, "pause", &json!({"pid": at_peer}))?, true);
        ours.becomes(&long, ProcessState::Waiting, true)?;
        assert_eq!(drive(&peer, controller, "kill", &json!({"pid": at_peer, "force": true}))?, true);
        ours.becomes(&long, ProcessState::Killed, false)?;
    }
    let heard = peer.call("heard", json!({"log": changes, "count": 16}))?;
    let subjects: Vec<&str> = heard.as_array().unwrap().iter().filter_map(|one| one["subject"].as_str()).collect();
    let one = ["None.created", "created.running", "running.waiting", "waiting.killed"];
    let expected: Vec<String> = one.iter().cycle().take(16).map(|change| format!("state_changed.{change}")).collect();
    assert_eq!(subjects, expected);
    assert!(heard[0]["sender"].get("$uuid").is_some() && heard[0]["body"].is_null(), "{}", heard[0]);
    ours.end();
    Ok(())
}

fn plumpy_drives_all_processes_of_homing_at_once(broker: &Broker) -> TestResult {
    let (ours, peer) = (Ours::start(broker)?, plumpy(broker)?);
    let mut pids = Vec::new();
    for _ in 0..3 {
        pids.push(pid(&drive(&peer, "thread", "launch", &json!({"kind": "waits", "nowait": true}))?));
    }
    let become_all = |state, paused| pids.iter().try_for_each(|pid| ours.becomes(pid, state, paused));
    become_all(ProcessState::Waiting, false)?;
    drive(&peer, "thread", "pause_all", &json!({"message": "all stop"}))?;
    become_all(ProcessState::Waiting, true)?;
    drive(&peer, "thread", "play_all", &json!({}))?;
    become_all(ProcessState::Waiting, false)?;
    drive(&peer, "thread", "kill_all", &json!({"message": "enough"}))?;
    become_all(ProcessState::Killed, false)?;
    ours.end();
    Ok(())
}

fn a_homing_worker_takes_the_tasks_of_plumpy(broker: &Broker) -> TestResult {
    let (ours, peer) = (Ours::start(broker)?, plumpy(broker)?);
    for controller in ["thread", "coroutine"] {
        assert_eq!(drive(&peer, controller, "launch", &json!({"kind": "ends"}))?, json!({"o": 7}));
        let at_peer = drive(&peer, controller, "launch", &json!({"kind": "ends", "nowait": true}))?;
        ours.becomes(&pid(&at_peer), ProcessState::Finished, false)?;
        assert_eq!(drive(&peer, controller, "continue", &json!({"pid": at_peer}))?, json!({"o": 7}));
        assert_eq!(drive(&peer, controller, "continue", &json!({"pid": at_peer, "nowait": true}))?, at_peer);
    }
    // plumpy's controller for threads calls from a callback, which kiwipy times out.
    assert_eq!(drive(&peer, "coroutine", "execute", &json!({"kind": "ends"}))?, json!({"o": 7}));
    let at_peer = drive(&peer, "coroutine", "execute", &json!({"kind": "ends", "nowait": true}))?;
    ours.becomes(&pid(&at_peer), ProcessState::Finished, false)?;
    ours.end();
    Ok(())
}

fn what_a_homing_worker_cannot_do_comes_back_to_plumpy(broker: &Broker) -> TestResult {
    let (ours, peer) = (Ours::start(broker)?, plumpy(broker)?);
    for (request, more, part) in [
        ("launch", json!({"kind": "fails"}), "boom: äöü"),
        ("continue", json!({"pid": 987}), "no process 987"),
        ("continue", json!({"pid": 987, "nowait": true}), "no process 987"),
    ] {
        let error = drive(&peer, "thread", request, &more).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(drive(&peer, "thread", "launch", &json!({"kind": "ends"}))?, json!({"o": 7}), "and it goes on");
    ours.end();
    Ok(())
}
