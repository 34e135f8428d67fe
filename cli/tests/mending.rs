//! `homing task purge`, `move` and `requeue`: filters, dry runs, and that nothing is lost when one is killed.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::{ended, exits, homing, signal, wait};
use support::{Broker, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .plain("a_silent_broker_ends_in_bounded_time_and_each_error_has_a_cure", no_broker)
        .plain("which_tasks_is_asked_for_by_every_option_and_not_the_largest_alone", which)
        .rabbitmq("tasks_in_quarantine_go_back_by_id_and_by_reason", requeue)
        .rabbitmq("an_id_that_is_not_there_is_named_and_an_error", not_there)
        .rabbitmq("tasks_are_moved_with_all_that_they_carry", moved)
        .rabbitmq("a_task_that_was_handed_out_and_is_moved_says_so", moved_again)
        .rabbitmq("a_purge_wants_to_know_what", purge)
        .rabbitmq("a_dry_run_finds_what_the_real_one_would_and_uses_its_words", dry_run)
        .rabbitmq("a_move_does_not_stop_half_way_when_its_reader_goes", reader_gone)
        .rabbitmq("nothing_is_purged_that_cannot_be_listed", full_disk)
        .rabbitmq("a_move_that_is_interrupted_reports_how_far_it_has_come", interrupted)
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

fn not_there(broker: &Broker) -> TestResult {
    // There is no queue for quarantine yet.
    let (_, err) = exits(&ended(on(broker, &["task", "requeue", "--id", "NOSUCH"]))?, 1);
    assert!(err.contains("there is no task \"NOSUCH\""), "{err}");
    for body in ["one", "two"] {
        done(broker, &["task", "send", body, "--no-reply"])?;
    }
    let there = tasks(broker, &queue(broker, ""))?;
    let id = there[0]["message_id"].as_str().ok_or("an id")?;
    let other = other_queue(broker)?;
    let ids = ["--id", "NOSUCH", "--id", id, "--id", "NEITHER", "--id", "NOSUCH"];
    for dry in [&["--dry-run"][..], &[]] {
        for deed in [
            &["task", "purge"][..],
            &["task", "requeue", "--queue", &queue(broker, "")],
            &["task", "move", "--to", &other],
        ] {
            let nobody = [deed, dry, &["--id", "NOSUCH"]].concat();
            let (out, err) = exits(&ended(on(broker, &nobody))?, 1);
            assert!(out.is_empty() && err.contains("there is no task \"NOSUCH\""), "{nobody:?}: {out}{err}");
            let json = [&["--format", "json"], &nobody[..]].concat();
            let (_, err) = exits(&ended(on(broker, &json))?, 1);
            let last: Value = serde_json::from_str(err.lines().last().unwrap_or(""))?;
            assert!(last["kind"] == "not_found" && last["message"].is_string(), "{err}");
        }
        // What is there is dealt with all the same.
        let (out, err) = exits(&ended(on(broker, &[&["task", "purge"], dry, &ids].concat()))?, 1);
        assert!(out.lines().eq([id]), "{out}");
        assert!(err.contains("with these ids: \"NEITHER\", \"NOSUCH\"") && err.contains("1 of 2 tasks"), "{err}");
        assert!(!err.contains(id), "{err}");
    }
    let left: Vec<Value> = tasks(broker, &queue(broker, ""))?.iter().map(|task| task["body"].clone()).collect();
    assert_eq!(left, ["two"]);
    let id = there[1]["message_id"].as_str().ok_or("an id")?;
    let (_, err) = exits(&ended(on(broker, &["task", "purge", "--id", id, "--reason", "none"]))?, 1);
    assert!(err.contains("with a reason like \"none\""), "it is there, and not for this reason: {err}");
    done(broker, &["task", "purge", "--id", id])?;
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

/// Guards: a task that runs twice, the second time without a mark.
fn moved_again(broker: &Broker) -> TestResult {
    let other = broker.name("other");
    let there = |arguments: &[&str]| -> TestResult {
        let mut command =
            homing(&["--broker", broker.url(), "--task-queue", &other, "--task-exchange", &broker.task_exchange()]);
        command.args(arguments);
        exits(&ended(command)?, 0);
        Ok(())
    };
    there(&["task", "send", "first", "--no-reply"])?;
    done(broker, &["task", "send", "looked at", "--no-reply"])?;
    // A look hands it out.
    assert_eq!(tasks(broker, &queue(broker, ""))?.len(), 1);
    done(broker, &["task", "send", "not looked at", "--no-reply"])?;
    done(broker, &["task", "move", "--all", "--to", &other])?;
    let exec = "read body; case \"$body\" in *first*|*not*) [ $HOMING_REDELIVERED != true ];; *) [ $HOMING_REDELIVERED = true ];; esac";
    there(&["task", "work", "--count", "3", "--exec", exec])?;
    // One that is not as it should be would be there.
    let quarantine = format!("{other}.quarantine");
    let (_, err) = exits(&ended(on(broker, &["task", "list", "--queue", &quarantine]))?, 1);
    assert!(err.contains("is made when a task is put into quarantine, which none was"), "{err}");
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

/// The three, each with what it needs.
const EACH: [&[&str]; 3] =
    [&["task", "purge", "--all"], &["task", "move", "--all", "--to", "elsewhere"], &["task", "requeue", "--all"]];

fn no_broker() -> TestResult {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let silent_url = format!("amqp://{}/?connection_timeout=1000", silent.local_addr()?);
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for arguments in EACH {
        let mut command = homing(arguments);
        command.args(["--broker", &silent_url]);
        let (_, err) = exits(&ended(command)?, 6);
        assert!(err.contains("did not answer the AMQP handshake"), "{arguments:?}: {err}");
        let mut command = homing(arguments);
        command.args(["--broker", &format!("amqp://{closed}")]);
        let (_, err) = exits(&ended(command)?, 6);
        assert!(err.contains("is a broker running there?"), "{arguments:?}: {err}");
        let since = Instant::now();
        let mut command = homing(arguments);
        command.args(["--broker", &format!("amqp://{closed}"), "--reconnect", "1s"]);
        let (_, err) = exits(&ended(command)?, 6);
        assert!(err.contains("waiting for the broker") && since.elapsed() > Duration::from_millis(300), "{err}");
        let mut command = homing(arguments);
        command.args(["--broker", &format!("amqp://{closed}"), "--reconnect", "for-ever", "--timeout", "300ms"]);
        exits(&ended(command)?, 4);
        let mut command = homing(arguments);
        command.args(["--broker", "amqp://h/?no_such_parameter=1"]);
        exits(&ended(command)?, 2);
    }
    let mut list = homing(&["task", "list", "--broker", &format!("amqp://{closed}"), "--reconnect", "500ms"]);
    list.stdout(Stdio::null());
    let (_, err) = exits(&ended(list)?, 6);
    assert!(err.contains("waiting for the broker"), "{err}");
    Ok(())
}

fn which() -> TestResult {
    for arguments in [&["task", "purge"][..], &["task", "requeue"], &["task", "move", "--to", "q"]] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains("--id") && err.contains("--reason"), "{arguments:?}: {err}");
    }
    let (_, err) = exits(&ended(homing(&["process", "kill"]))?, 2);
    assert!(err.contains("PID") && err.contains("--all"), "{err}");
    Ok(())
}

fn dry_run(broker: &Broker) -> TestResult {
    done(broker, &["task", "send", "x", "--count", "3", "--no-reply"])?;
    let (_, err) = done(broker, &["task", "purge", "--all", "--dry-run"])?;
    assert!(err.contains("3 of 3 tasks") && err.contains("would be purged"), "{err}");
    let nonesuch = broker.name("nonesuch");
    for dry in [&["--dry-run"][..], &[]] {
        let mut command = on(broker, &["task", "move", "--all", "--to", &nonesuch]);
        let (out, err) = exits(
            &ended({
                command.args(dry);
                command
            })?,
            1,
        );
        assert!(out.is_empty() && err.contains("there is no queue") && err.contains(&nonesuch), "{out}{err}");
    }
    done(broker, &["task", "purge", "--all"])?;
    let (_, err) = exits(&ended(on(broker, &["task", "move", "--all", "--to", &nonesuch]))?, 1);
    assert!(err.contains("there is no queue"), "an empty queue is no excuse: {err}");
    Ok(())
}

/// A queue beside the task queue, with one task in it.
fn other_queue(broker: &Broker) -> Result<String, Box<dyn std::error::Error>> {
    let other = broker.name("other");
    let mut send =
        homing(&["--broker", broker.url(), "--task-queue", &other, "--task-exchange", &broker.task_exchange()]);
    send.args(["task", "send", "first", "--no-reply"]);
    exits(&ended(send)?, 0);
    Ok(other)
}

fn reader_gone(broker: &Broker) -> TestResult {
    const TASKS: usize = 100;
    done(broker, &["task", "send", "x", "--count", &TASKS.to_string(), "--no-reply"])?;
    let other = other_queue(broker)?;
    let mut command = on(broker, &["task", "move", "--all", "--to", &other]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    let (_, err) = exits(&wait(child)?, 0);
    assert!(err.contains(&format!("{TASKS} of {TASKS} tasks")), "{err}");
    assert_eq!(tasks(broker, &other)?.len(), TASKS + 1);
    Ok(())
}

fn full_disk(broker: &Broker) -> TestResult {
    done(broker, &["task", "send", "x", "--count", "3", "--no-reply"])?;
    let full = std::fs::File::options().write(true).open("/dev/full")?;
    let child = on(broker, &["task", "purge", "--all"]).stdout(full).stderr(Stdio::piped()).spawn()?;
    let (_, err) = exits(&wait(child)?, 1);
    assert!(err.contains("cannot be written") && err.contains("0 of 1 task of"), "{err}");
    assert_eq!(tasks(broker, &queue(broker, ""))?.len(), 3);
    Ok(())
}

fn interrupted(broker: &Broker) -> TestResult {
    const TASKS: usize = 3000;
    done(broker, &["task", "send", "x", "--count", &TASKS.to_string(), "--no-reply"])?;
    let other = other_queue(broker)?;
    let mut command = on(broker, &["task", "move", "--all", "--to", &other]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It has begun when it prints.
    let mut first = [0];
    child.stdout.as_mut().ok_or("a pipe")?.read_exact(&mut first)?;
    signal(child.id(), "INT");
    let (out, err) = exits(&wait(child)?, 130);
    assert!(err.contains("not all of it was done") && err.contains("moved"), "{err}");
    let moved = out.lines().count();
    assert!(moved < TASKS && err.contains(&format!("{moved} of")), "{moved}: {err}");
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
