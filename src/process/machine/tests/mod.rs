//! The machine against a table of what it does, and against its invariants under random inputs.

mod random;
mod table;

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::super::next::{Finish, Next};
use super::super::{AskStatus, Kill, Pause, Play};
use super::*;

const ID: RequestId = RequestId(1);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)
}

fn pause(id: u64) -> Input {
    Input::Control(RequestId(id), ControlMessage::Pause(Pause::new().with_message("why")))
}

fn play(id: u64) -> Input {
    Input::Control(RequestId(id), ControlMessage::Play(Play))
}

fn kill(id: u64) -> Input {
    Input::Control(RequestId(id), ControlMessage::Kill(Kill::new().with_message("enough")))
}

fn force(id: u64) -> Input {
    Input::Control(RequestId(id), ControlMessage::Kill(Kill::new().forced()))
}

fn status(id: u64) -> Input {
    Input::Control(RequestId(id), ControlMessage::Status(AskStatus))
}

fn resume(id: u64) -> Input {
    Input::Resume(RequestId(id), 7.into())
}

fn ended(next: Next) -> Input {
    Input::StepEnded { end: StepEnd::Next(next), status: None }
}

fn step() -> Input {
    ended(Next::Step)
}

fn wait() -> Input {
    ended(Next::Wait(Wait::ForResume("it".into())))
}

fn until() -> Input {
    ended(Next::Wait(Wait::Until(now())))
}

fn finish() -> Input {
    ended(Next::Finish(Finish::new("out")))
}

fn failed() -> Input {
    let outcome = Outcome::Excepted { type_name: String::new(), message: "boom".into(), chain: Vec::new() };
    Input::StepEnded { end: StepEnd::Failed(outcome), status: None }
}

fn unstorable() -> Input {
    Input::NotSaved(NotSaved::Unstorable("too large".into()))
}

fn lease_lost() -> Input {
    Input::NotSaved(NotSaved::LeaseLost)
}

/// Short words for a snapshot: its state, step and pause.
fn snapshot(snapshot: &Snapshot) -> String {
    let mut text = format!("{}.{}", snapshot.state, snapshot.step);
    if let Some(paused) = &snapshot.paused {
        text.push_str(if paused.is_in_step() { "+held" } else { "+paused" });
    }
    if !snapshot.brought.is_null() {
        text.push_str("+brought");
    }
    text
}

/// Short words for acts.
fn words(acts: &[Act]) -> String {
    let mut text = String::new();
    for act in acts {
        if !text.is_empty() {
            text.push(' ');
        }
        match act {
            Act::WantSlot => text.push_str("want-slot"),
            Act::FreeSlot => text.push_str("free-slot"),
            Act::RunStep { step, brought } => {
                write!(text, "run-{step}{}", if brought.is_null() { "" } else { "+brought" }).unwrap();
            }
            Act::AbortStep => text.push_str("abort"),
            Act::Want(Wish::Nothing) => text.push_str("wish-nothing"),
            Act::Want(Wish::Pause(_)) => text.push_str("wish-pause"),
            Act::Want(Wish::Kill(_)) => text.push_str("wish-kill"),
            Act::GoOn => text.push_str("go-on"),
            Act::StartWait(_) => text.push_str("wait"),
            Act::StopWait => text.push_str("stop-wait"),
            Act::Save(next, body) => {
                let body = if *body == Body::OfStep { "+body" } else { "" };
                write!(text, "save({}{body})", snapshot(next)).unwrap();
            }
            Act::Announce { from, to } => write!(text, "announce({from}.{to})").unwrap(),
            Act::Answer(id, answer) => {
                let answer = match answer {
                    ControlAnswer::Done => "true".to_owned(),
                    ControlAnswer::Refused => "false".to_owned(),
                    ControlAnswer::Cancelled => "cancelled".to_owned(),
                    ControlAnswer::Moved => "moved".to_owned(),
                    ControlAnswer::Status { state, paused } => {
                        format!("{state}{}", if *paused { "+paused" } else { "" })
                    }
                };
                write!(text, "{}={answer}", id.0).unwrap();
            }
            Act::End(outcome) => write!(text, "end({})", outcome.state()).unwrap(),
            Act::Left => text.push_str("left"),
        }
    }
    text
}

/// Hands inputs to a machine, whose changes are all stored at once.
fn drive(machine: &mut Machine, input: Input) -> Vec<Act> {
    let mut acts = machine.handle(input, now());
    let mut from = 0;
    while acts[from..].iter().any(|act| matches!(act, Act::Save(..))) {
        from = acts.len();
        acts.extend(machine.handle(Input::Saved, now()));
    }
    acts
}

#[test]
fn the_changes_of_state_are_those_of_the_wire() {
    use ProcessState::{Created, Excepted, Finished, Killed, Running, Waiting};
    // As WIRE has them, in the order of `ProcessState::ALL`.
    let table = [
        (Created, [false, true, false, false, true, true]),
        (Running, [false, true, true, true, true, true]),
        (Waiting, [false, true, true, true, true, true]),
        (Finished, [false; 6]),
        (Excepted, [false; 6]),
        (Killed, [false; 6]),
    ];
    for (from, row) in table {
        for (to, allowed) in ProcessState::ALL.into_iter().zip(row) {
            assert_eq!(is_allowed(from, to), allowed, "{from} -> {to}");
            // And the machine keeps to it, whatever asks for the change.
            let mut machine = Machine::new(Snapshot { state: from, ..Snapshot::created() });
            let next = Snapshot { state: to, ..Snapshot::created() };
            machine.transition(next, Body::Kept, vec![(ID, ControlAnswer::Done)]);
            let acts = std::mem::take(&mut machine.acts);
            assert_eq!(machine.saving.is_some(), allowed, "{from} -> {to}");
            assert_eq!(words(&acts) == "1=false", !allowed, "{from} -> {to}: {acts:?}");
            assert_eq!(machine.stored().state, from, "nothing has been stored yet");
        }
    }
}

/// P2.
#[test]
fn nobody_is_told_of_a_change_before_it_is_stored() {
    let mut machine = Machine::new(Snapshot::created());
    assert_eq!(words(&drive(&mut machine, Input::Begin)), "want-slot");
    assert_eq!(words(&machine.handle(Input::SlotGiven, now())), "save(running.0)");
    assert_eq!(words(&machine.handle(status(1), now())), "1=created");
    // What comes meanwhile waits, and is handled before the step begins.
    assert_eq!(words(&machine.handle(pause(2), now())), "");
    assert_eq!(words(&machine.handle(Input::Saved, now())), "announce(created.running) save(running.0+paused)");
    assert_eq!(words(&machine.handle(status(3), now())), "3=running");
    assert_eq!(words(&machine.handle(Input::Saved, now())), "2=true free-slot");
    assert_eq!(words(&machine.handle(status(4), now())), "4=running+paused");
}

#[test]
fn of_several_lines_of_status_the_last_is_stored() {
    let mut machine = Machine::new(Snapshot::created());
    drive(&mut machine, Input::Begin);
    drive(&mut machine, Input::SlotGiven);
    let text = |text: &str| Input::StatusText(text.to_owned());
    assert_eq!(words(&machine.handle(text("a"), now())), "save(running.0)");
    for line in ["b", "c", "d"] {
        assert_eq!(words(&machine.handle(text(line), now())), "");
    }
    assert_eq!(words(&machine.handle(Input::Saved, now())), "save(running.0)");
    assert_eq!(machine.stored().status.as_deref(), Some("a"));
    assert_eq!(words(&machine.handle(Input::Saved, now())), "");
    assert_eq!(machine.stored().status.as_deref(), Some("d"));
    assert_eq!(words(&machine.handle(text("d"), now())), "", "it is stored already");
}

#[test]
fn what_cannot_be_stored_is_an_exception_and_what_cannot_be_stored_either_is_left() {
    let mut machine = table::situation("in step").unwrap();
    drive(&mut machine, pause(1));
    assert_eq!(words(&machine.handle(step(), now())), "free-slot save(running.1+paused+body)");
    assert_eq!(words(&machine.handle(kill(2), now())), "");
    assert_eq!(words(&machine.handle(unstorable(), now())), "save(excepted.0)");
    assert_eq!(
        words(&machine.clone().handle(Input::Saved, now())),
        "announce(running.excepted) 1=false 2=false end(excepted)"
    );
    assert_eq!(words(&machine.handle(unstorable(), now())), "1=false left 2=moved");
}

#[test]
fn a_lease_that_is_lost_ends_it_without_a_word() {
    // Between two steps, and with a step that runs.
    let mut machine = table::situation("in step").unwrap();
    assert_eq!(words(&machine.handle(step(), now())), "save(running.1+body)");
    assert_eq!(words(&machine.handle(pause(1), now())), "");
    assert_eq!(words(&machine.handle(lease_lost(), now())), "free-slot left 1=moved");
    let mut machine = table::situation("pausing").unwrap();
    assert_eq!(words(&machine.handle(Input::StatusText("x".into()), now())), "save(running.0)");
    assert_eq!(words(&machine.handle(lease_lost(), now())), "9=moved abort free-slot left");
    // Found out of itself, while a change is on its way.
    let mut machine = table::situation("waiting").unwrap();
    assert_eq!(words(&machine.handle(kill(1), now())), "save(killed.0)");
    assert_eq!(words(&machine.handle(kill(2), now())), "");
    assert_eq!(words(&machine.handle(Input::Gone, now())), "1=moved stop-wait left 2=moved");
    for input in
        [Input::SlotGiven, step(), Input::WaitEnded(Value::Null), Input::Saved, lease_lost(), Input::Gone, Input::Leave]
    {
        assert_eq!(words(&machine.handle(input, now())), "");
    }
    assert_eq!(words(&machine.handle(status(4), now())), "4=waiting");
}
