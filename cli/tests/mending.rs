//! `homing task purge`, `move` and `requeue`: filters, dry runs, and that nothing is lost when one is killed.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::Value;
use shell::{ended, exits, homing, signal};
use support::{Broker, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .rabbitmq("tasks_in_quarantine_go_back_by_id_and_by_reason", requeue)
        .rabbitmq("tasks_are_moved_with_all_that_they_carry", moved)
        .rabbitmq("a_purge_wants_to_know_what", purge)
        .rabbitmq("a_move_that_is_killed_loses_nothing_and_goes_on", killed);
    suite.run()
}

fn on(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = homing(&["--broker", broker.url(), "--prefix", broker.prefix()]);
    command.args(arguments);
    command
}

fn done(broker: &Broker, arguments: &[&str]) -> Result<(String, String), Box<dyn std::error::Error>> {
    Ok(exits(&ended(on(broker, arguments))?, 0))
}

fn queue(broker: &Broker, what: &str) -> String {
    format!("{}.process.queue{what}", broker.prefix())
}

/// What waits, as `task list --peek` shows it.
fn tasks(broker: &Broker, queue: &str) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let list = ["--format", "json", "task", "list", "--queue", queue, "--peek", "--limit", "1000"];
    let (out, _) = done(broker, &list)?;
    Ok(out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn requeue(broker: &Broker) -> TestResult {
    for body in ["one", "two", "three"] {
        done(broker, &["task", "send", body, "--no-reply"])?;
    }
    let exec = "read body; echo \"because of $body\" >&2; exit 1";
    done(broker, &["task", "work", "--count", "3", "--exec", exec])?;
    let quarantine = queue(broker, ".quarantine");
    let there = tasks(broker, &quarantine)?;
    assert_eq!(there.len(), 3);
    let (out, err) = done(broker, &["task", "requeue", "--all", "--dry-run"])?;
    assert!(out.lines().count() == 3 && err.contains("3 of 3"), "{out}{err}");
    assert_eq!(tasks(broker, &quarantine)?.len(), 3, "a dry run does nothing");
    let (_, err) = done(broker, &["task", "requeue", "--reason", "*because of*two*"])?;
    assert!(err.contains("1 of 3"), "{err}");
    let id = there[0]["message_id"].as_str().ok_or("an id")?;
    done(broker, &["task", "requeue", "--id", id])?;
    let left: Vec<Value> = tasks(broker, &quarantine)?.iter().map(|task| task["body"].clone()).collect();
    assert_eq!(left, ["three"]);
    // They are worked on anew, as if nothing had been.
    let exec = "read body; [ $HOMING_ATTEMPT = 1 ] || [ $HOMING_REDELIVERED = true ]";
    done(broker, &["task", "work", "--count", "2", "--exec", exec])?;
    assert_eq!(tasks(broker, &queue(broker, ""))?.len(), 0);
    assert_eq!(tasks(broker, &quarantine)?.len(), 1);
    Ok(())
}

fn moved(broker: &Broker) -> TestResult {
    done(broker, &["task", "send", "{a: [1, 2]}", "--no-reply"])?;
    let before = tasks(broker, &queue(broker, ""))?;
    let other = broker.name("other");
    let (_, err) = exits(&ended(on(broker, &["task", "move", "--all", "--to", &other]))?, 1);
    assert!(err.contains("there is no queue"), "{err}");
    assert_eq!(tasks(broker, &queue(broker, ""))?.len(), 1, "it stays where it was");
    let mut send =
        homing(&["--broker", broker.url(), "--task-queue", &other, "--task-exchange", &broker.task_exchange()]);
    send.args(["task", "send", "first", "--no-reply"]);
    exits(&ended(send)?, 0);
    done(broker, &["task", "move", "--all", "--to", &other])?;
    let after = tasks(broker, &other)?;
    assert_eq!((after.len(), &after[1]["body"]), (2, &before[0]["body"]));
    assert_eq!(after[1]["message_id"], before[0]["message_id"]);
    let (_, err) = exits(&ended(on(broker, &["task", "move", "--all", "--queue", "q", "--to", "q"]))?, 2);
    assert!(err.contains("there already"), "{err}");
    Ok(())
}

fn purge(broker: &Broker) -> TestResult {
    done(broker, &["task", "send", "x", "--count", "3", "--no-reply"])?;
    exits(&ended(on(broker, &["task", "purge"]))?, 2);
    done(broker, &["task", "purge", "--all"])?;
    assert_eq!(tasks(broker, &queue(broker, ""))?.len(), 0);
    exits(&ended(on(broker, &["task", "purge", "--all", "--queue", &broker.name("nothing")]))?, 1);
    Ok(())
}

fn killed(broker: &Broker) -> TestResult {
    const TASKS: usize = 300;
    done(broker, &["task", "send", "x", "--count", &TASKS.to_string(), "--no-reply"])?;
    let other = broker.name("other");
    let mut send =
        homing(&["--broker", broker.url(), "--task-queue", &other, "--task-exchange", &broker.task_exchange()]);
    send.args(["task", "send", "first", "--no-reply"]);
    exits(&ended(send)?, 0);
    for milliseconds in [150, 250, 350] {
        let mut command = on(broker, &["task", "move", "--all", "--to", &other]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        signal(child.id(), "KILL");
        child.wait()?;
    }
    // What a killed one had in hand is given back when the broker sees that its connection is gone.
    std::thread::sleep(Duration::from_secs(1));
    done(broker, &["task", "move", "--all", "--to", &other])?;
    let mut ids: Vec<String> = tasks(broker, &other)?
        .iter()
        .filter(|task| task["body"] == "x")
        .filter_map(|task| task["message_id"].as_str().map(str::to_owned))
        .collect();
    assert!(ids.len() <= TASKS + 3, "at most one twice for each kill: {}", ids.len());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), TASKS, "none is lost");
    assert_eq!(tasks(broker, &queue(broker, ""))?.len(), 0);
    Ok(())
}
