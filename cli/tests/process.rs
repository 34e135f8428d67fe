//! `homing process` and AiiDA's profiles, as an operator uses them.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};
use shell::{Running, ended, exits, homing, signal, wait};
use support::{Broker, Peer, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .plain("wrong_usage_names_what_is_wrong", usage)
        .plain("a_profile_that_cannot_be_used_is_named_with_what_to_do", profiles)
        .plain("help_explains_pids_and_profiles", help)
        .rabbitmq("a_process_that_is_not_there_exits_with_3", unreachable)
        .rabbitmq("the_exit_code_is_that_of_the_worst", worst)
        .rabbitmq("a_time_limit_reports_how_far_it_has_come", limits)
        .rabbitmq("a_reader_that_goes_stops_no_request", reader_gone)
        .rabbitmq("an_interrupted_command_reports_what_was_answered", interrupted)
        .rabbitmq("all_are_asked_by_a_broadcast", all)
        .rabbitmq("changes_of_state_are_printed", watch)
        .kiwipy("plumpy_processes_are_controlled_by_a_profile_of_aiida", plumpy)
        .kiwipy("plumpy_workers_launch_and_continue", launch);
    suite.run()
}

/// The command on a trial's broker, under the trial's own names.
fn on(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = homing(&["--broker", broker.url(), "--prefix", broker.prefix()]);
    command.args(arguments);
    command
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn usage() -> TestResult {
    for (arguments, part) in [
        (&["process", "status"][..], "<PID>"),
        (&["process", "pause"], "<PID|--all>"),
        (&["process", "kill", "1", "--all"], "--all"),
        (&["process", "kill", "--all", "--force"], "--force"),
        (&["process", "status", "--all"], "--all"),
        (&["process", "status", ""], "process id is empty"),
        (&["process", "status", "*"], "any word"),
        (&["process", "status", "1", "--timeout", "soon"], "seconds"),
        (&["process", "launch"], "<CLASS>"),
        (&["process", "launch", "m:C", "a={"], "the argument a"),
        (&["process", "watch", "--count", "0"], "--count"),
        (&["--aiida", "--profile", "x", "process", "status", "1"], "--profile"),
        (&["--aiida", "--broker", "amqp://h", "process", "status", "1"], "--broker"),
        (&["--profile", "x", "--prefix", "y", "process", "status", "1"], "--prefix"),
    ] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    Ok(())
}

/// A folder of AiiDA's with this configuration; it is removed when it is dropped.
struct Aiida(PathBuf);

impl Aiida {
    fn with(config: &str) -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(support::unique("aiida"));
        std::fs::create_dir_all(folder.join(".aiida"))?;
        std::fs::write(folder.join(".aiida/config.json"), config)?;
        Ok(Aiida(folder))
    }

    /// A configuration whose default profile has this broker, and the prefix `aiida-<uuid>`.
    fn of(url: &str, uuid: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let rest = url.strip_prefix("amqp://").ok_or("no amqp:// URL")?;
        let (user, address) = rest.split_once('@').ok_or("no user")?;
        let (name, password) = user.split_once(':').ok_or("no password")?;
        let (host, port) = address.trim_end_matches('/').split_once(':').ok_or("no port")?;
        let broker = json!({
            "broker_protocol": "amqp", "broker_username": name, "broker_password": password, "broker_host": host,
            "broker_port": port.parse::<u16>()?, "broker_virtual_host": "", "broker_parameters": {"heartbeat": 30},
        });
        let profile = json!({
            "PROFILE_UUID": uuid, "test_profile": true, "storage": {"backend": "core.sqlite_dos", "config": {}},
            "process_control": {"backend": "core.rabbitmq", "config": broker},
        });
        Ok(Self::with(&json!({"default_profile": "main", "profiles": {"main": profile}}).to_string())?)
    }

    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = homing(arguments);
        command.env("AIIDA_PATH", &self.0);
        command
    }
}

impl Drop for Aiida {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn profiles() -> TestResult {
    let status = ["process", "status", "1"];
    let profile = |control: Value| {
        json!({"default_profile": "main", "profiles": {"main": {"PROFILE_UUID": "u", "process_control": control}}})
            .to_string()
    };
    for (config, asked, part) in [
        (profile(json!({"backend": "core.zeromq", "config": {}})), "--aiida", "core.zeromq"),
        (profile(json!({"backend": null, "config": {}})), "--aiida", "no broker"),
        (
            profile(json!({"backend": "core.rabbitmq", "config": {"broker_password": ["sEcret"]}})),
            "--aiida",
            "broker_password",
        ),
        (profile(json!({})), "--profile=other", "there are main"),
        ("{\"sEcret\":".to_owned(), "--aiida", "not JSON"),
        ("{}".to_owned(), "--aiida", "verdi presto"),
    ] {
        let aiida = Aiida::with(&config)?;
        let mut command = aiida.run(&[asked, "-vv"]);
        let (_, err) = exits(
            &ended({
                command.args(status);
                command
            })?,
            2,
        );
        assert!(err.contains(part) && err.contains("config.json") && !err.contains("sEcret"), "{err}");
    }
    let mut nowhere = homing(&["--aiida"]);
    nowhere.args(status).env("AIIDA_PATH", "/nowhere");
    let (_, err) = exits(&ended(nowhere)?, 2);
    assert!(err.contains("/nowhere/.aiida/config.json") && err.contains("AIIDA_PATH"), "{err}");
    // Nobody listens there, and the password stays where it is.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let aiida = Aiida::of(&format!("amqp://ada:sEcret@127.0.0.1:{port}/"), "u")?;
    let mut command = aiida.run(&["--aiida", "-vv", "process", "status", "1"]);
    command.env("RUST_LOG", "trace");
    let (_, err) = exits(&ended(command)?, 6);
    assert!(err.contains("nothing listens") && !err.contains("sEcret"), "{err}");
    let (_, err) = exits(&ended(aiida.run(&["--aiida", "context", "add", "x"]))?, 2);
    assert!(err.contains("--aiida") && !err.contains("sEcret"), "{err}");
    Ok(())
}

fn help() -> TestResult {
    let (out, _) = exits(&ended(homing(&["process", "kill", "--help"]))?, 0);
    for part in ["--profile <NAME>", "--aiida", "AiiDA's pk", "--force"] {
        assert!(out.contains(part), "{part} is not in: {out}");
    }
    Ok(())
}

fn unreachable(broker: &Broker) -> TestResult {
    let (out, err) = exits(&ended(on(broker, &["process", "status", "1234"]))?, 3);
    assert!(out.is_empty() && err.contains("process 1234 cannot be reached") && err.contains("continue"), "{err}");
    let (out, err) = exits(&ended(on(broker, &["--format", "json", "--quiet", "process", "kill", "p-1"]))?, 3);
    assert_eq!(json_lines(&out)[0]["error"]["kind"], "unroutable");
    assert_eq!(
        (json_lines(&out)[0]["pid"].clone(), json_lines(&err)[0]["kind"].clone()),
        (json!("p-1"), json!("unroutable"))
    );
    Ok(())
}

/// A server that answers like a process.
fn process(broker: &Broker, pid: &str, answer: &str) -> std::io::Result<Running> {
    Running::start(on(broker, &["rpc", "serve", pid, "--exec", answer]))
}

const STATUS: &str =
    r#"printf '%s' '{state: ProcessState.WAITING, paused: true, ctime: 1.5, process_string: "<W>\e[31m"}'"#;

fn worst(broker: &Broker) -> TestResult {
    let (_true, _false) = (process(broker, "1", "echo true")?, process(broker, "2", "echo false")?);
    let (_odd, _fails) = (process(broker, "3", "echo odd")?, process(broker, "4", "echo broken >&2; exit 1")?);
    let (out, _) = exits(&ended(on(broker, &["process", "play", "1", "1"]))?, 0);
    assert_eq!(out, "1  playing\n", "each once");
    let (out, err) = exits(&ended(on(broker, &["process", "kill", "1", "2"]))?, 1);
    assert!(out == "1  killed\n" && err.contains("process 2 refused") && err.contains("1 of 2"), "{out}{err}");
    let (_, err) = exits(&ended(on(broker, &["process", "pause", "3"]))?, 1);
    assert!(err.contains("neither true nor false"), "{err}");
    let (out, err) = exits(&ended(on(broker, &["--format", "json", "process", "pause", "1", "2", "4", "5"]))?, 5);
    let mut lines = json_lines(&out);
    lines.sort_by_key(|line| line["pid"].as_i64());
    assert_eq!(lines[0], json!({"pid": 1, "outcome": "paused"}));
    let kinds: Vec<_> = lines[1..].iter().map(|line| line["error"]["kind"].clone()).collect();
    assert_eq!(kinds, ["failed", "remote_exception", "unroutable"]);
    assert!(err.contains("3 of 4 requests failed"), "{err}");
    Ok(())
}

fn limits(broker: &Broker) -> TestResult {
    let _slow = process(broker, "7", "sleep 30")?;
    let _status = process(broker, "8", STATUS)?;
    let (out, err) = exits(&ended(on(broker, &["process", "status", "7", "8", "--timeout", "3s"]))?, 4);
    assert!(out.starts_with("8  waiting   paused  created 1970-01-01T00:00:01.500Z"), "{out}");
    assert!(!out.contains('\u{1b}'), "a terminal obeys control characters: {out:?}");
    assert!(err.contains("process 7 timed out after it was sent"), "{err}");
    let (_, err) = exits(&ended(on(broker, &["process", "kill", "7", "--timeout", "2s"]))?, 4);
    assert!(err.contains("--force"), "{err}");
    Ok(())
}

fn reader_gone(broker: &Broker) -> TestResult {
    let folder = std::env::temp_dir().join(support::unique("killed"));
    std::fs::create_dir_all(&folder)?;
    let mut processes = Vec::new();
    for pid in 1..=3 {
        let answer = format!("sleep 0.{pid}; touch {}/{pid}; echo true", folder.display());
        processes.push(process(broker, &pid.to_string(), &answer)?);
    }
    let mut kill =
        on(broker, &["process", "kill", "1", "2", "3"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(kill.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    exits(&wait(kill)?, 0);
    for pid in 1..=3 {
        assert!(folder.join(pid.to_string()).exists(), "process {pid} was not killed; printed: {line}");
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn interrupted(broker: &Broker) -> TestResult {
    let (_true, _slow) = (process(broker, "1", "echo true")?, process(broker, "2", "sleep 30")?);
    let mut child =
        on(broker, &["process", "pause", "1", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut out = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    assert_eq!(line, "1  paused\n", "as it comes");
    signal(child.id(), "INT");
    let (_, err) = exits(&wait(child)?, 130);
    assert!(err.contains("of 2 requests 1 were answered"), "{err}");
    Ok(())
}

fn all(broker: &Broker) -> TestResult {
    let mut watcher = Running::start(on(broker, &["--format", "json", "broadcast", "watch", "--count", "3"]))?;
    let (out, _) = exits(&ended(on(broker, &["process", "pause", "--all", "--message", "all stop"]))?, 0);
    assert_eq!(out, "a request to pause was sent to all processes\n");
    exits(&ended(on(broker, &["process", "play", "--all", "--timeout", "20s"]))?, 0);
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "process", "kill", "--all"]))?, 0);
    assert_eq!(json_lines(&out), [json!({"all": true, "asked_to_be": "killed"})]);
    assert_eq!(watcher.ends()?, Some(0));
    let mut heard = String::new();
    watcher.0.stdout.take().ok_or("no pipe")?.read_to_string(&mut heard)?;
    let heard: Vec<_> =
        json_lines(&heard).into_iter().map(|line| (line["subject"].clone(), line["body"].clone())).collect();
    let expected = [
        (json!("pause"), json!({"intent": "pause", "message": "all stop"})),
        (json!("play"), Value::Null),
        (json!("kill"), json!({"intent": "kill", "message": null, "force_kill": false})),
    ];
    assert_eq!(heard, expected);
    Ok(())
}

fn watch(broker: &Broker) -> TestResult {
    let mut some = Running::start(on(broker, &["--format", "json", "process", "watch", "4", "p", "--count", "2"]))?;
    let mut all = Running::start(on(broker, &["process", "watch", "--count", "3"]))?;
    for (subject, sender) in [
        ("state_changed.None.created", "4"),
        ("state_changed.created.running", "5"),
        ("other", "4"),
        ("state_changed.running.killed", "p"),
    ] {
        exits(&ended(on(broker, &["broadcast", "send", "--subject", subject, "--sender", sender]))?, 0);
    }
    assert_eq!((some.ends()?, all.ends()?), (Some(0), Some(0)));
    let (mut lines, mut text) = (String::new(), String::new());
    some.0.stdout.take().ok_or("no pipe")?.read_to_string(&mut lines)?;
    all.0.stdout.take().ok_or("no pipe")?.read_to_string(&mut text)?;
    let mut lines = json_lines(&lines);
    for line in &mut lines {
        let time = line.as_object_mut().and_then(|line| line.remove("time")).ok_or("no time")?;
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
    }
    assert_eq!(
        lines,
        [json!({"pid": 4, "from": null, "to": "created"}), json!({"pid": "p", "from": "running", "to": "killed"})]
    );
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
    assert_eq!(
        words,
        [vec!["4", "created"], vec!["5", "running", "from", "created"], vec!["p", "killed", "from", "running"]]
    );
    Ok(())
}

/// A plumpy peer under the names of a profile of AiiDA.
fn peer_of(broker: &Broker, uuid: &str) -> Result<Peer, support::PeerError> {
    let peer = Peer::start("plumpy_peer.py");
    let prefix = format!("aiida-{uuid}");
    let names = json!({
        "url": broker.url(), "message_exchange": format!("{prefix}.messages"), "task_exchange": format!("{prefix}.tasks"),
        "task_queue": format!("{prefix}.process.queue"), "testing_mode": true,
    });
    peer.call("connect", names)?;
    Ok(peer)
}

fn plumpy(broker: &Broker) -> TestResult {
    let uuid = support::unique("profile");
    let (aiida, peer) = (Aiida::of(broker.url(), &uuid)?, peer_of(broker, &uuid)?);
    for pid in [1, 2, 3] {
        // Idle ones, whose answers may get stuck.
        peer.call("process", json!({"pid": pid, "quiet": true}))?;
    }
    peer.call("process", json!({"kind": "stubborn", "pid": 4, "quiet": false}))?;
    let state = |pid: i32| peer.call("state", json!({"pid": pid}));
    let run = |arguments: &[&str], code| {
        let mut command = aiida.run(&["--aiida", "--format", "json", "process"]);
        command.args(arguments);
        Ok::<_, Box<dyn std::error::Error>>(exits(&ended(command)?, code))
    };
    let (out, _) = run(&["pause", "1", "2", "--message", "why: ü"], 0)?;
    assert_eq!(json_lines(&out).len(), 2);
    assert_eq!(
        (&state(1)?["paused"], &state(2)?["status"], &state(3)?["paused"]),
        (&json!(true), &json!("why: ü"), &json!(false))
    );
    let (out, _) = run(&["status", "1"], 0)?;
    let status = &json_lines(&out)[0];
    assert_eq!((&status["state"], &status["paused"], &status["pid"]), (&json!("waiting"), &json!(true), &json!(1)));
    run(&["play", "1", "2"], 0)?;
    run(&["kill", "1", "--message", "enough"], 0)?;
    assert_eq!(state(1)?["message"]["message"], "enough");
    run(&["kill", "4", "--timeout", "2s"], 4)?;
    run(&["kill", "4", "--force", "--message", "now"], 0)?;
    assert_eq!(state(4)?["message"], json!({"intent": "kill", "message": "now", "force_kill": true}));
    run(&["pause", "--all"], 0)?;
    shell::eventually("all are paused", || {
        [2, 3].iter().all(|pid| state(*pid).is_ok_and(|state| state["paused"] == true))
    });
    run(&["status", "1", "2"], 3)?;
    Ok(())
}

fn launch(broker: &Broker) -> TestResult {
    let uuid = support::unique("profile");
    let (aiida, peer) = (Aiida::of(broker.url(), &uuid)?, peer_of(broker, &uuid)?);
    peer.call("launcher", json!({}))?;
    let run = |arguments: &[&str], code| {
        let mut command = aiida.run(&["--profile", "main", "process"]);
        command.args(arguments);
        Ok::<_, Box<dyn std::error::Error>>(exits(&ended(command)?, code))
    };
    let ends = "plumpy_peer:Ends";
    assert_eq!(run(&["launch", ends], 0)?.0, "o: 7\n");
    assert_eq!(run(&["launch", ends, "inputs={a: 5}", "pid=p-1"], 0)?.0, "o: 5\n");
    assert_eq!(run(&["launch", ends, "null", "42", "--nowait", "--persist"], 0)?.0, "42\n");
    assert!(run(&["launch", "plumpy_peer:Fails"], 5)?.1.contains("boom: äöü"));
    assert!(run(&["launch", "nope:Nope"], 5)?.1.contains("nope"));
    peer.call("drive", json!({"controller": "thread", "request": "launch", "kind": "ends", "nowait": true}))?;
    let (out, err) = run(&["continue", "42", "987"], 5)?;
    assert!(out.starts_with("42  ended") && err.contains("process 987"), "{out}{err}");
    assert_eq!(run(&["continue", "42", "--nowait"], 0)?.0, "42  continued\n");
    let bodies = peer.call("heard", json!({"log": "launcher", "count": 8}))?;
    let ours = &bodies[1]["body"];
    assert_eq!(
        (&ours["task"], &ours["args"]["init_kwargs"]),
        (&json!("launch"), &json!({"inputs": {"a": 5}, "pid": "p-1"}))
    );
    assert_eq!(bodies[2]["body"]["args"]["init_args"], json!({"$tuple": [null, 42]}));
    Ok(())
}
