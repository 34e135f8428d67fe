//! Workers and servers around a shell command: what they report, and that nothing is lost.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shell::{Running, ended, eventually, exits, homing, signal};
use support::node::Tls;
use support::proxy::Proxy;
use support::{Broker, Node, Peer, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    // Some start a dozen commands.
    suite.deadline(Duration::from_secs(240));
    suite
        .plain("a_command_that_is_not_there_is_found_before_the_work", not_there)
        .rabbitmq("each_task_is_one_line_and_its_command_knows_it", one_line)
        .kiwipy("a_message_whose_ids_no_environment_can_hold_ends_no_worker", odd_ids)
        .rabbitmq("a_quiet_worker_warns_only", quiet)
        .rabbitmq("a_failing_task_is_tried_again_and_then_quarantined", retried)
        .rabbitmq("a_look_at_a_task_costs_it_no_attempt", looked_at)
        .rabbitmq("a_task_that_failed_goes_where_the_user_wants_it", on_failure)
        .rabbitmq("exit_code_75_asks_for_another_attempt", try_again)
        .rabbitmq("a_command_that_is_not_found_stops_the_worker_and_the_task_is_back", not_found)
        .rabbitmq("a_command_that_runs_too_long_is_ended_with_its_group", too_long)
        .rabbitmq("a_grandchild_that_keeps_the_pipe_does_not_hold_up_the_answer", grandchild)
        .rabbitmq("the_first_signal_drains_and_the_second_leaves_nothing_running", signals)
        .rabbitmq("what_a_second_signal_kills_has_no_outcome", killed_without_an_outcome)
        .rabbitmq("a_second_signal_names_what_it_stops", named_at_the_end)
        .rabbitmq("what_runs_may_end_while_the_worker_drains", drains)
        .rabbitmq("no_more_tasks_are_begun_than_were_asked_for", counted)
        .rabbitmq("calls_run_side_by_side_up_to_a_limit", parallel)
        .rabbitmq("a_signal_that_meets_a_call_and_the_start_of_its_server_drains", met_at_the_start)
        .rabbitmq("a_second_server_is_warned_of_and_refused", second_server)
        // A node takes its time to start, and to start again.
        .deadline(Duration::from_secs(400))
        .node("a_worker_waits_for_a_broker_that_is_not_there_yet", broker_late)
        .node("a_delivery_timeout_names_the_switch_against_it", delivery_timeout)
        .node("a_counted_worker_acknowledges_what_comes_back", comes_back);
    suite.run()
}

fn on(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = homing(&["--broker", broker.url(), "--prefix", broker.prefix()]);
    command.args(arguments);
    command
}

fn send(broker: &Broker, body: &str) -> TestResult {
    exits(&ended(on(broker, &["task", "send", body, "--no-reply"]))?, 0);
    Ok(())
}

/// How many tasks wait.
fn waiting(broker: &Broker, queue: &str) -> Result<i64, Box<dyn std::error::Error>> {
    let queue = format!("{}.process.queue{queue}", broker.prefix());
    let output = ended(on(broker, &["--format", "json", "task", "list", "--queue", &queue]))?;
    if output.status.code() == Some(1) {
        return Ok(0);
    }
    let (out, _) = exits(&output, 0);
    Ok(serde_json::from_str::<Value>(&out)?["ready"].as_i64().unwrap_or(-1))
}

fn folder(broker: &Broker) -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(broker.prefix());
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn lines_of(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// Whether a process is alive.
fn alive(pid: &Path) -> bool {
    let Ok(pid) = std::fs::read_to_string(pid) else { return false };
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return false };
    !stat.contains(") Z")
}

fn not_there() -> TestResult {
    let file = std::env::temp_dir().join(support::unique("not-executable"));
    std::fs::write(&file, "")?;
    for command in ["no-such-command here", "./no/such/command", file.to_str().ok_or("a path")?] {
        let (_, err) = exits(&ended(homing(&["task", "work", "--exec", command]))?, 1);
        assert!(err.contains("no task or call was taken"), "{err}");
    }
    std::fs::remove_file(file)?;
    exits(&ended(homing(&["task", "work", "--exec", " "]))?, 2);
    Ok(())
}

fn one_line(broker: &Broker) -> TestResult {
    let command =
        r#"echo "$HOMING_KIND $HOMING_QUEUE $HOMING_ATTEMPT $HOMING_REDELIVERED $HOMING_MESSAGE_ID" >&2; cat"#;
    let work = ["--log-format", "json", "task", "work", "--count", "1", "--exec", command];
    let mut worker = Running::start(on(broker, &work))?;
    exits(&ended(on(broker, &["task", "send", "7"]))?, 0);
    assert_eq!(worker.ends()?, Some(0));
    let errors = worker.errors()?;
    let (passed_on, line) = errors.split_once('\n').ok_or("two lines")?;
    let line: Value = serde_json::from_str(line.trim())?;
    let id = line["id"].as_str().ok_or("an id")?;
    assert_eq!(passed_on, format!("task {}.process.queue 1 false {id}", broker.prefix()), "{errors}");
    assert_eq!((&line["attempt"], &line["redelivered"], &line["outcome"]), (&1.into(), &false.into(), &"done".into()));
    assert!(line["took_ms"].is_u64() && line["level"] == "INFO", "{line}");
    Ok(())
}

/// Ids as any client may send them: with a zero byte, a line's end, a sign that is in no locale.
fn odd_ids(broker: &Broker) -> TestResult {
    let ids = ["a\0b", "\0", "a\nb=c\x1b[31m", "", "=", "\u{85}\u{2028}😀"];
    let work = ["task", "work", "--count", "6", "--on-failure", "reply", "--exec", "cat"];
    let mut worker = Running::start(on(broker, &work))?;
    let mut server = Running::start(on(broker, &["rpc", "serve", "x", "--exec", "cat"]))?;
    let peer = Peer::start("pika_peer.py");
    peer.call("connect", json!({"url": broker.url()}))?;
    for id in ids {
        let properties = json!({"message_id": id, "correlation_id": id});
        for (exchange, key, body) in
            [("tasks", format!("{}.process.queue", broker.prefix()), "[1, true]"), ("messages", "[rpc].x".into(), "1")]
        {
            let exchange = format!("{}.{exchange}", broker.prefix());
            let message = json!({"exchange": exchange, "routing_key": key, "body": body, "properties": properties});
            peer.call("publish", message)?;
        }
    }
    assert_eq!(worker.ends()?, Some(0));
    let errors = worker.errors()?;
    assert_eq!(errors.matches("outcome=\"done\"").count(), ids.len(), "{errors}");
    exits(&ended(on(broker, &["rpc", "call", "x", "7"]))?, 0);
    assert_eq!(server.stop("TERM")?.0, Some(0));
    Ok(())
}

fn quiet(broker: &Broker) -> TestResult {
    send(broker, "good")?;
    send(broker, "bad")?;
    let exec = "read body; [ \"$body\" = '\"good\"' ] || { echo broken >&2; exit 1; }";
    let output = ended(on(broker, &["--quiet", "task", "work", "--count", "2", "--exec", exec]))?;
    let (_, err) = exits(&output, 0);
    assert!(
        err.contains("WARN") && err.contains("broken") && !err.contains("INFO") && !err.contains("Ctrl-C"),
        "{err}"
    );
    Ok(())
}

fn retried(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let tries = folder.join("tries");
    let exec = format!("echo $HOMING_ATTEMPT >> {}; echo never >&2; exit 9", tries.display());
    let mut worker = Running::start(on(broker, &["task", "work", "--retries", "2", "--count", "1", "--exec", &exec]))?;
    let (_, err) = exits(&ended(on(broker, &["task", "send", "x"]))?, 5);
    assert!(err.contains("never"), "{err}");
    assert_eq!(worker.ends()?, Some(0));
    assert_eq!(std::fs::read_to_string(&tries)?, "1\n2\n3\n");
    let errors = worker.errors()?;
    assert_eq!(errors.matches("to be tried again").count(), 2, "{errors}");
    assert!(errors.contains("to quarantine"), "{errors}");
    assert_eq!(errors.matches("WARN").count(), 4, "one for each attempt, and one for the quarantine: {errors}");
    assert_eq!((waiting(broker, "")?, waiting(broker, ".quarantine")?), (0, 1));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn named_at_the_end(broker: &Broker) -> TestResult {
    for body in ["1", "2", "3"] {
        send(broker, body)?;
    }
    let folder = folder(broker)?;
    let begun = folder.join("begun");
    let exec = format!("echo $HOMING_MESSAGE_ID >> {}; sleep 60", begun.display());
    let mut worker = Running::start(on(broker, &["task", "work", "--prefetch", "3", "--exec", &exec]))?;
    eventually("all three run", || lines_of(&begun) == 3);
    signal(worker.0.id(), "TERM");
    while !worker.line()?.contains("ending") {}
    assert_eq!(worker.stop("TERM")?.0, Some(143));
    let errors = worker.errors()?;
    for id in std::fs::read_to_string(&begun)?.lines() {
        assert!(errors.contains(&format!("task {id}; it goes back")), "{id}: {errors}");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn looked_at(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let tries = folder.join("tries");
    send(broker, "x")?;
    exits(&ended(on(broker, &["task", "list", "--peek"]))?, 0);
    exits(&ended(on(broker, &["task", "purge", "--all", "--dry-run"]))?, 0);
    let exec = format!("echo $HOMING_ATTEMPT >> {}; exit 9", tries.display());
    exits(&ended(on(broker, &["task", "work", "--retries", "1", "--count", "1", "--exec", &exec]))?, 0);
    assert_eq!(std::fs::read_to_string(&tries)?, "1\n2\n");
    assert_eq!((waiting(broker, "")?, waiting(broker, ".quarantine")?), (0, 1));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn on_failure(broker: &Broker) -> TestResult {
    let work = |how| ["task", "work", "--count", "1", "--exec", "exit 3", "--on-failure", how];
    send(broker, "1")?;
    exits(&ended(on(broker, &work("requeue")))?, 0);
    assert_eq!((waiting(broker, "")?, waiting(broker, ".quarantine")?), (1, 0));
    let twice = ["task", "work", "--count", "2", "--exec", "echo \"try $HOMING_ATTEMPT\" >&2; exit 3"];
    let mut twice = on(broker, &twice);
    twice.args(["--on-failure", "requeue"]);
    let (_, err) = exits(&ended(twice)?, 0);
    assert!(err.contains("attempt=1") && err.contains("attempt=2") && err.contains("try 2"), "{err}");
    exits(&ended(on(broker, &work("reply")))?, 0);
    assert_eq!((waiting(broker, "")?, waiting(broker, ".quarantine")?), (0, 0));
    send(broker, "2")?;
    exits(&ended(on(broker, &work("quarantine")))?, 0);
    assert_eq!((waiting(broker, "")?, waiting(broker, ".quarantine")?), (0, 1));
    Ok(())
}

fn try_again(broker: &Broker) -> TestResult {
    let exec = "[ $HOMING_ATTEMPT -ge 3 ] || exit 75; echo $HOMING_ATTEMPT";
    let mut worker = Running::start(on(broker, &["task", "work", "--count", "1", "--exec", exec]))?;
    let (out, _) = exits(&ended(on(broker, &["task", "send", "x"]))?, 0);
    assert_eq!(out.trim(), "3");
    assert_eq!(worker.ends()?, Some(0));
    let errors = worker.errors()?;
    assert!(errors.contains("not now") && errors.contains("redelivered=true"), "{errors}");
    Ok(())
}

fn not_found(broker: &Broker) -> TestResult {
    send(broker, "1")?;
    let (_, err) = exits(&ended(on(broker, &["task", "work", "--exec", ":; no-such-command"]))?, 1);
    assert!(err.contains("cannot be run"), "{err}");
    assert_eq!(waiting(broker, "")?, 1, "the task is back");
    Ok(())
}

fn too_long(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let pid = folder.join("pid");
    let exec = format!("sleep 300 & echo $! > {}; wait", pid.display());
    let work = ["task", "work", "--count", "1", "--timeout", "300ms", "--on-failure", "reply", "--exec", &exec];
    let mut worker = Running::start(on(broker, &work))?;
    let (_, err) = exits(&ended(on(broker, &["task", "send", "x"]))?, 5);
    assert!(err.contains("stopped after 300ms"), "{err}");
    assert_eq!(worker.ends()?, Some(0));
    eventually("a process of its group runs on", || !alive(&pid));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn grandchild(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let pid = folder.join("pid");
    let exec = format!("sleep 60 & echo $! > {}; echo 5", pid.display());
    let _server = Running::start(on(broker, &["rpc", "serve", "x", "--exec", &exec]))?;
    let begun = Instant::now();
    let (out, _) = exits(&ended(on(broker, &["rpc", "call", "x"]))?, 0);
    assert_eq!(out.trim(), "5");
    assert!(begun.elapsed() < Duration::from_secs(25), "it waited for the grandchild");
    assert!(alive(&pid), "what was left in the background on purpose runs on");
    signal(std::fs::read_to_string(&pid)?.trim().parse()?, "KILL");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn signals(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let pid = folder.join("pid");
    let exec = format!("trap '' TERM INT; sleep 300 & echo $! > {}; wait; sleep 300", pid.display());
    let mut worker = Running::start(on(broker, &["task", "work", "--drain", "1m", "--exec", &exec]))?;
    send(broker, "1")?;
    eventually("the command does not start", || alive(&pid));
    signal(worker.0.id(), "INT");
    let line = worker.line()?;
    assert!(line.contains("a second signal stops them"), "{line}");
    assert!(worker.0.try_wait()?.is_none() && alive(&pid), "it drains");
    let begun = Instant::now();
    assert_eq!(worker.stop("INT")?.0, Some(130));
    assert!(begun.elapsed() < Duration::from_secs(30), "at once");
    eventually("a process is left behind", || !alive(&pid));
    eventually("the task is not back", || waiting(broker, "").is_ok_and(|waiting| waiting == 1));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// What a second signal kills has not failed: nobody gets an outcome of it, and its task is not used up.
fn killed_without_an_outcome(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let (pid, store) = (folder.join("pid"), folder.join("jobs.db"));
    let program = format!("trap '' TERM INT; echo $$ > {}; while :; do sleep 0.05; done", pid.display());
    let store = store.to_str().ok_or("a path")?;
    // Each of them is a race between the end of the command and that of the worker.
    for _ in 0..2 {
        let ends = |arguments: &[&str], begun: &dyn Fn() -> TestResult| -> Result<String, libtest_mimic::Failed> {
            let _ = std::fs::remove_file(&pid);
            let mut worker = Running::start(on(broker, arguments))?;
            begun()?;
            eventually("the command does not start", || alive(&pid));
            signal(worker.0.id(), "INT");
            // Lines about its work come before.
            while !worker.line()?.contains("a second signal stops them") {
                assert!(worker.0.try_wait()?.is_none(), "it drains");
            }
            assert_eq!(worker.stop("INT")?.0, Some(130));
            eventually("a process is left behind", || !alive(&pid));
            Ok(worker.errors()?)
        };
        let work = ["task", "work", "--drain", "1m", "--on-failure", "reply", "--exec", &program];
        let err = ends(&work, &|| send(broker, "1"))?;
        assert!(err.contains("it goes back to its queue") && !err.contains("failed"), "{err}");
        eventually("the task is not back", || waiting(broker, "").is_ok_and(|waiting| waiting == 1));
        exits(&ended(on(broker, &["task", "purge", "--all"]))?, 0);

        let launched = std::cell::RefCell::new(String::new());
        let launch = || {
            let run = ["run", "--store", store, "--detach", "--", "sh", "-c", &program];
            *launched.borrow_mut() = exits(&ended(on(broker, &run))?, 0).0.trim().to_owned();
            Ok(())
        };
        ends(&["worker", "--store", store, "--drain", "1m"], &launch)?;
        let (out, _) = exits(
            &ended(on(broker, &["--format", "json", "process", "show", &launched.borrow(), "--store", store]))?,
            0,
        );
        let shown: serde_json::Value = serde_json::from_str(&out)?;
        let state = shown["state"].as_str().ok_or("no state")?;
        assert!(!["finished", "excepted", "killed"].contains(&state), "another worker has it: {out}");
        exits(&ended(on(broker, &["task", "purge", "--all"]))?, 0);
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn drains(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let (started, go) = (folder.join("started"), folder.join("go"));
    let exec = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.05; done", started.display(), go.display());
    let mut worker = Running::start(on(broker, &["task", "work", "--drain", "20", "--exec", &exec]))?;
    send(broker, "1")?;
    send(broker, "2")?;
    eventually("the command does not start", || started.exists());
    signal(worker.0.id(), "TERM");
    assert!(worker.line()?.contains("ending"));
    std::fs::write(&go, "")?;
    assert_eq!(worker.ends()?, Some(0));
    assert_eq!(lines_of(&started), 1, "no new work is begun");
    assert_eq!(waiting(broker, "")?, 1, "what ran was acknowledged");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn counted(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let ran = folder.join("ran");
    exits(&ended(on(broker, &["task", "send", "x", "--count", "9", "--no-reply"]))?, 0);
    let exec = format!("echo x >> {}", ran.display());
    exits(&ended(on(broker, &["task", "work", "--count", "5", "--prefetch", "3", "--exec", &exec]))?, 0);
    assert_eq!(lines_of(&ran), 5);
    assert_eq!(waiting(broker, "")?, 4);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn parallel(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let (running, most) = (folder.join("running"), folder.join("most"));
    let exec =
        format!("mkdir {0}.$$; ls -d {0}.* | wc -l >> {1}; sleep 0.3; rmdir {0}.$$", running.display(), most.display());
    let _server = Running::start(on(broker, &["rpc", "serve", "x", "--parallel", "2", "--exec", &exec]))?;
    let calls: Vec<_> = (0..6)
        .map(|_| on(broker, &["rpc", "call", "x"]).stdout(std::process::Stdio::null()).spawn())
        .collect::<Result<_, _>>()?;
    for mut call in calls {
        assert!(call.wait()?.success());
    }
    let most = std::fs::read_to_string(&most)?;
    assert!(
        most.lines().count() == 6 && most.lines().all(|line| line.trim().parse::<u8>().is_ok_and(|n| n <= 2)),
        "{most}"
    );
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// The server is subscribed, and its start waits for a slow connection.
fn met_at_the_start(broker: &Broker) -> TestResult {
    let folder = folder(broker)?;
    let begun = folder.join("begun");
    let proxy = Proxy::before(broker.url())?;
    proxy.delay(Duration::from_millis(50));
    let exec = format!("touch {}; sleep 0.3; cat", begun.display());
    let mut server = homing(&["--broker", &proxy.url(broker.url()), "--prefix", broker.prefix()]);
    server.args(["rpc", "serve", "x", "--exec", &exec]);
    let mut server = Running::unread(server)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("no call is answered", || {
                ended(on(broker, &["rpc", "call", "x", "7"])).is_ok_and(|call| call.stdout == b"7\n")
            });
        });
        eventually("no call comes", || begun.exists());
        assert_eq!(server.stop("TERM")?.0, Some(0));
        Ok::<_, std::io::Error>(())
    })?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn second_server(broker: &Broker) -> TestResult {
    let first = Running::start(on(broker, &["rpc", "serve", "x", "--echo"]))?;
    let _other = Running::start(on(broker, &["rpc", "serve", "y", "--echo", "--exclusive"]))?;
    let (_, err) = exits(&ended(on(broker, &["rpc", "serve", "x", "--echo", "--exclusive"]))?, 1);
    assert!(err.contains("another one answers calls to \"x\" already"), "{err}");
    let mut command = on(broker, &["rpc", "serve", "x", "--echo"]);
    let mut second = command.stderr(std::process::Stdio::piped()).spawn()?;
    let mut line = String::new();
    let err = second.stderr.take().ok_or("no pipe")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(err), &mut line)?;
    signal(second.id(), "TERM");
    second.wait()?;
    assert!(line.contains("warning") && line.contains("already"), "{line}");
    drop(first);
    Ok(())
}

fn broker_late() -> TestResult {
    let node = Node::start(Tls::No)?;
    node.kill()?;
    let broker = Broker::at(node.url());
    let mut command = on(&broker, &["--reconnect", "50s", "task", "work", "--echo"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn()?;
    let mut errors = std::io::BufReader::new(child.stderr.take().ok_or("no pipe")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut errors, &mut line)?;
    assert!(line.contains("waiting for the broker"), "{line}");
    node.restart()?;
    let (out, _) = exits(&ended(on(&broker, &["--reconnect", "20s", "task", "send", "1"]))?, 0);
    assert_eq!(out.trim(), "1");
    signal(child.id(), "TERM");
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

fn delivery_timeout() -> TestResult {
    let node = Node::start(Tls::No)?;
    node.ctl(&["eval", "application:set_env(rabbit, consumer_timeout, 1000)."])?;
    node.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 1000)."])?;
    let broker = Broker::at(node.url());
    send(&broker, "1")?;
    let mut worker = Running::start(on(&broker, &["task", "work", "--drain", "0", "--exec", "sleep 300"]))?;
    let mut line = String::new();
    while !line.contains("--long-tasks") {
        line = worker.line()?;
        assert!(!line.is_empty(), "the worker ended");
    }
    assert!(line.contains("delivery timeout"), "{line}");
    Ok(())
}

fn comes_back() -> TestResult {
    let node = Node::start(Tls::No)?;
    let broker = Broker::at(node.url());
    let folder = folder(&broker)?;
    let (started, go) = (folder.join("started"), folder.join("go"));
    let exec = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.05; done", started.display(), go.display());
    send(&broker, "1")?;
    let mut worker = Running::start(on(&broker, &["task", "work", "--count", "1", "--exec", &exec]))?;
    eventually("the command does not start", || started.exists());
    node.kill()?;
    // It ends while there is no broker, which hands the task out again when it is there.
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(&go, "")?;
    std::thread::sleep(Duration::from_millis(500));
    node.restart()?;
    let code = worker.ends()?;
    assert_eq!(code, Some(0), "{}", worker.errors()?);
    assert_eq!(waiting(&broker, "")?, 0, "it was acknowledged: {}", worker.errors()?);
    assert_eq!(lines_of(&started), 1);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
