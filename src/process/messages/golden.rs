//! The messages that plumpy was seen to send (`tests/wire`), byte by byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::{Pid, ProcessState, StateChange, Status};
use super::{AskStatus, Continue, ControlBroadcast, ControlMessage, Create, Kill, Launch, Pause, Play, ProcessTask};
use crate::Value;
use crate::codec::{Codec, Yaml};

const CAPTURED: &str = include_str!("../../../tests/wire/kiwipy-plumpy.ndjson");

/// Where the processes were controlled.
const MESSAGES: &str = "pl.messages";
const TASK_QUEUE: &str = "pl.queue";

/// A captured message.
struct Captured {
    label: String,
    exchange: String,
    routing_key: String,
    body: Value,
}

fn captured() -> Vec<Captured> {
    let all = CAPTURED.lines().map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let bytes = STANDARD.decode(message["body_base64"].as_str().unwrap()).unwrap();
        Captured {
            label: text(&message["label"]),
            exchange: text(&message["args"]["exchange"]),
            routing_key: text(&message["args"]["routing_key"]),
            body: Yaml::default().decode(&bytes).unwrap(),
        }
    });
    all.filter(|message| message.exchange.starts_with("pl.")).collect()
}

/// That our message is the captured one, and that what we write is read as it is.
#[track_caller]
fn same(ours: &Value, captured: &Value, label: &str) {
    assert_eq!(ours, captured, "{label}");
    let written = Yaml::default().encode(ours).unwrap();
    assert_eq!(&Yaml::default().decode(&written).unwrap(), captured, "{label}");
}

fn pid_of(label: &str) -> &str {
    label.split('-').next().unwrap_or_default()
}

#[test]
fn every_call_to_a_process_is_read_and_written_as_plumpy_does() {
    let mut seen = 0;
    for Captured { label, body, .. } in
        captured().into_iter().filter(|message| message.routing_key.starts_with("[rpc]."))
    {
        let message = match ControlMessage::try_from(&body) {
            Ok(message) => message,
            Err(_) if label.ends_with("unknown-intent") || label.ends_with("no-intent") => continue,
            Err(error) => panic!("{label}: {error}"),
        };
        let expected = match label.trim_start_matches(pid_of(&label)) {
            "-status" => ControlMessage::Status(AskStatus),
            "-pause" => ControlMessage::Pause(Pause::new()),
            "-play" => ControlMessage::Play(Play),
            "-kill" if label == "force-kill" => ControlMessage::Kill(Kill::new().with_message("now").forced()),
            "-kill" | "-kill-after" => ControlMessage::Kill(Kill::new().with_message("die")),
            other => panic!("no expectation for {other}"),
        };
        assert_eq!(message, expected, "{label}");
        same(&message.into(), &body, &label);
        seen += 1;
    }
    assert_eq!(seen, 28, "the capture has lost calls");
}

#[test]
fn every_broadcast_is_read_and_written_as_plumpy_does() {
    let (mut changes, mut controls) = (0, 0);
    for Captured { label, body, .. } in captured().into_iter().filter(|message| message.routing_key == "[broadcast]") {
        let field = |name: &str| body.get(name).unwrap_or_else(|| panic!("{label} has no {name}"));
        let subject = field("subject").as_str().unwrap();
        if let Some(change) = StateChange::read(subject, field("sender")).unwrap() {
            assert_eq!(change.subject(), subject, "{label}");
            same(&Value::from(change.pid()), field("sender"), &label);
            assert!(field("body").is_null() && field("correlation_id").is_null(), "{label}");
            assert!(ControlBroadcast::read(subject, field("body")).is_none(), "{label}");
            changes += 1;
        } else {
            let control = ControlBroadcast::read(subject, field("body")).unwrap();
            let expected = match subject {
                "pause" => ControlBroadcast::Pause(Pause::new().with_message("all stop")),
                "play" => ControlBroadcast::Play(Play),
                "kill" => ControlBroadcast::Kill(Kill::new().with_message("bang")),
                other => panic!("no expectation for {other}"),
            };
            assert_eq!((&control, control.subject()), (&expected, subject), "{label}");
            assert!(field("sender").is_null(), "{label}");
            same(&control.into_body(), field("body"), &label);
            controls += 1;
        }
    }
    assert_eq!((changes, controls), (20, 7), "the capture has lost broadcasts");
}

#[test]
fn the_changes_are_those_that_the_processes_went_through() {
    let of = |label: &str| {
        let broadcasts = captured().into_iter().filter(|message| message.label == label);
        let changes = broadcasts.filter_map(|message| {
            StateChange::read(message.body.get("subject")?.as_str()?, message.body.get("sender")?).unwrap()
        });
        changes.collect::<Vec<_>>()
    };
    let uuid: Pid = "3e3e4e14-dff0-4235-aab6-ddbe88f8aa68".parse().unwrap();
    for (label, pid) in [("intpid-create", Pid::from(101)), ("uuidpid-create", uuid)] {
        assert_eq!(
            of(label),
            [
                StateChange::new(&pid, None, ProcessState::Created),
                StateChange::new(&pid, Some(ProcessState::Created), ProcessState::Running),
                StateChange::new(&pid, Some(ProcessState::Running), ProcessState::Waiting),
            ]
        );
    }
    assert_eq!(
        of("force-kill").last(),
        Some(&StateChange::new(104, Some(ProcessState::Waiting), ProcessState::Killed))
    );
}

#[test]
fn every_task_is_read_and_written_as_plumpy_does() {
    let mut seen = Vec::new();
    let uuid: Pid = "5e46b358-5931-47b8-8b80-d162ac44ee9c".parse().unwrap();
    for Captured { label, body, .. } in captured().into_iter().filter(|message| message.routing_key == TASK_QUEUE) {
        let [task, _no_reply] = body.as_slice().unwrap() else { panic!("{label} is no pair") };
        let read = ProcessTask::try_from(task).unwrap();
        let inputs = Value::from_iter([("a", 5)]);
        let expected = match (label.as_str(), &read) {
            ("launch-wait" | "launch-noreply", _) => ProcessTask::Launch(Launch::new("__main__:Dummy")),
            ("launch-nowait", _) => ProcessTask::Launch(Launch::new("__main__:Dummy").nowait()),
            ("launch-boom", _) => ProcessTask::Launch(Launch::new("__main__:Boom")),
            ("unknown-class", _) => ProcessTask::Launch(Launch::new("nope:Nope").nowait()),
            ("execute", _) => ProcessTask::Create(Create::new("__main__:Dummy")),
            ("launch-inputs", ProcessTask::Launch(launch)) => {
                // An empty tuple of arguments, which is not the same bytes as none.
                assert!(launch.args().is_empty());
                let kwargs = launch.kwargs().unwrap();
                assert_eq!((kwargs.get("inputs"), kwargs.get("pid")), (Some(&inputs), Some(&Value::from("p-1"))));
                read.clone()
            }
            ("continue-unknown", ProcessTask::Continue(other)) if other.pid() == &Pid::from(987) => {
                ProcessTask::Continue(Continue::new(987))
            }
            ("continue-unknown", _) => ProcessTask::Continue(Continue::new(&uuid)),
            other => panic!("no expectation for {other:?}"),
        };
        assert_eq!(read, expected, "{label}");
        // This one was written by hand, without the arguments that plumpy always sends.
        if label != "unknown-class" {
            same(&read.into(), task, &label);
        }
        seen.push(label);
    }
    assert_eq!(seen.len(), 9, "the capture has lost tasks: {seen:?}");
}

#[test]
fn every_status_and_every_pid_that_came_back_is_read() {
    let results = captured().into_iter().filter_map(|message| {
        let result = message.body.get("result")?.clone();
        Some((message.label, message.exchange, result))
    });
    let (mut statuses, mut pids) = (0, 0);
    for (label, exchange, result) in results {
        if label.ends_with("-status") {
            let status = Status::try_from(result.clone()).unwrap();
            assert_eq!(
                (status.state(), status.description()),
                (ProcessState::Waiting, "<Wait> (ProcessState.WAITING)")
            );
            assert!(status.created().is_some());
            same(&status.into(), &result, &label);
            statuses += 1;
        } else if exchange != MESSAGES && matches!(label.as_str(), "launch-nowait" | "execute") {
            same(&Pid::try_from(&result).unwrap().into(), &result, &label);
            pids += 1;
        }
    }
    assert_eq!((statuses, pids), (6, 2), "the capture has lost answers");
}
