//! `homing doctor` and `homing task list`: what they find, what they leave alone, and how they exit.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use homing::blocking::Communicator;
use homing::codec::Codec;
use homing::{TestingMode, Value};
use serde_json::Value as Json;
use support::node::Tls;
use support::{Broker, Node, Suite, TestResult};

const LONG: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .plain("doctor_says_that_nothing_listens_and_exits_with_6", nothing_listens)
        .plain("doctor_and_list_refuse_wrong_usage_with_2", usage)
        .rabbitmq("doctor_finds_a_healthy_broker_and_creates_nothing", healthy)
        .rabbitmq("doctor_tells_a_wrong_password_from_a_wrong_virtual_host", refused)
        .rabbitmq("doctor_names_the_argument_of_a_queue_that_differs", queue_differs)
        .rabbitmq("doctor_names_the_property_of_an_exchange_that_differs", exchange_differs)
        .rabbitmq("list_counts_and_leaves_no_mark", counted)
        .rabbitmq("peek_says_what_it_does_shows_the_tasks_and_keeps_their_order", peeked)
        .rabbitmq("peek_shows_what_cannot_be_read_and_why_it_is_in_quarantine", unreadable)
        .rabbitmq("peek_that_is_killed_while_it_holds_tasks_loses_none", killed)
        // A node starts for some seconds, and its tools do.
        .deadline(Duration::from_secs(180))
        .node("doctor_checks_certificates", certificates)
        .node("doctor_asks_the_management_api_and_fixes_what_is_empty", management)
        .node("doctor_asks_the_management_api_over_https", management_tls)
        .node("doctor_finds_limits_and_topic_permissions", limits)
        .node("lists_show_who_has_tasks_and_who_answers_calls", in_hand)
        .node("doctor_finds_a_broker_in_alarm", alarm);
    suite.run()
}

fn homing(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homing"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("HOMING_BROKER").env_remove("HOMING_MANAGEMENT").env_remove("RUST_LOG");
    command
}

/// The command on a trial's broker, under the trial's own names.
fn on(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = homing(&["--broker", broker.url(), "--prefix", broker.prefix()]);
    command.args(arguments);
    command
}

fn ended(mut command: Command) -> std::io::Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (tell, told) = std::sync::mpsc::channel();
    let id = child.id();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    told.recv_timeout(LONG).unwrap_or_else(|_| {
        signal(id, "KILL");
        Err(std::io::Error::other("the command hangs"))
    })
}

fn signal(id: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
}

#[track_caller]
fn exits(output: &Output, code: i32) -> (String, String) {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "out: {out}\nerr: {err}");
    (out, err)
}

/// The line of a table with this verdict for this check.
#[track_caller]
fn line<'a>(out: &'a str, verdict: &str, check: &str) -> &'a str {
    let wanted = |line: &&str| {
        let rest = line.strip_prefix(verdict).map(str::trim_start);
        rest.and_then(|rest| rest.strip_prefix(check)).is_some_and(|rest| rest.starts_with("  "))
    };
    out.lines().find(wanted).unwrap_or_else(|| panic!("no {verdict} for {check} in:\n{out}"))
}

/// What `doctor` found about this check, with this verdict.
#[track_caller]
fn finding(report: &Json, verdict: &str, check: &str) -> Json {
    let all = report["findings"].as_array().expect("a list of findings");
    let found = all.iter().find(|finding| finding["verdict"] == verdict && finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {verdict} for {check} in {report:#}")).clone()
}

fn doctor(broker: &Broker, more: &[&str], code: i32) -> Result<Json, libtest_mimic::Failed> {
    let (out, _) = exits(&ended(on(broker, &[&["--format", "json", "doctor"], more].concat()))?, code);
    assert_eq!(out.lines().count(), 1, "one object, on one line: {out}");
    Ok(serde_json::from_str(&out)?)
}

/// The tasks that `task list --peek` shows.
fn peek(broker: &Broker, more: &[&str]) -> Result<Vec<Json>, libtest_mimic::Failed> {
    let (out, err) = exits(&ended(on(broker, &[&["--format", "json", "task", "list", "--peek"], more].concat()))?, 0);
    assert!(err.contains("getting up to") && err.contains("marks them as redelivered"), "{err}");
    out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// How many tasks wait.
fn ready(broker: &Broker) -> Result<u64, libtest_mimic::Failed> {
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "task", "list"]))?, 0);
    Ok(serde_json::from_str::<Json>(&out)?["ready"].as_u64().ok_or("no number")?)
}

fn connected(broker: &Broker) -> homing::Result<Communicator> {
    homing::Communicator::builder(broker.url()).prefix(broker.prefix()).connect_blocking()
}

fn send(broker: &Broker, bodies: impl IntoIterator<Item = Value>) -> homing::Result<()> {
    let communicator = connected(broker)?;
    for body in bodies {
        communicator.task_send(body).no_reply().wait()?;
    }
    communicator.close().map(drop)
}

fn nothing_listens() -> TestResult {
    // Bound and let go, so that nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let (out, err) = exits(&ended(homing(&["--broker", &format!("amqp://u:sEcret@{address}"), "doctor"]))?, 6);
    let line = line(&out, "problem", "tcp");
    assert!(line.contains("nothing listens") && line.contains(&address), "{out}");
    assert!(err.contains("no connection"), "{err}");
    assert!(!out.contains("sEcret") && !err.contains("sEcret"), "{out}{err}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("amqp://u:sEcret@{}?connection_timeout=300", silent.local_addr()?);
    let (out, _) = exits(&ended(homing(&["--broker", &url, "doctor"]))?, 6);
    assert!(line_is_there(&out, "ok", "tcp") && out.contains("did not answer the AMQP handshake"), "{out}");
    Ok(())
}

fn line_is_there(out: &str, verdict: &str, check: &str) -> bool {
    !line(out, verdict, check).is_empty()
}

fn usage() -> TestResult {
    for (arguments, part) in [
        (&["doctor", "--fix"][..], "--management"),
        (&["doctor", "--yes", "--management", "http://h"], "--fix"),
        (&["doctor", "--broker", "amqp://h", "--management", "ftp://u:sEcret@h"], "neither with https"),
        (
            &["task", "list", "--broker", "amqp://h", "--management", "https://u:sEcret@h?cacertfile=/no/such"],
            "/no/such",
        ),
        (&["doctor", "--broker", "amqp://h", "--management", "http://u:sEcret@h:port"], "host or port"),
        (&["doctor", "--broker", "memory:"], "only `homing demo`"),
        (&["doctor", "--broker", "nonsense"], "broker's URL"),
        (&["task", "list", "--limit", "3"], "--peek"),
        (&["task", "list", "--queue", ""], "the name is empty"),
    ] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains(part) && !err.contains("sEcret"), "{arguments:?}: {err}");
    }
    Ok(())
}

fn healthy(broker: &Broker) -> TestResult {
    let queue = format!("queue {}.process.queue", broker.prefix());
    let exchange = format!("exchange {}.tasks", broker.prefix());
    for _ in 0..2 {
        let report = doctor(broker, &[], 0)?;
        assert_eq!((report["connected"].as_bool(), report["problems"].as_u64()), (Some(true), Some(0)), "{report:#}");
        for check in
            [&queue, &exchange, &format!("{queue}.quarantine"), &format!("exchange {}.messages", broker.prefix())]
        {
            // The second time too: looking has created nothing.
            assert_eq!(finding(&report, "note", check)["facts"]["present"], false);
        }
        assert_eq!(finding(&report, "ok", "server")["facts"]["product"], "RabbitMQ");
        assert_eq!(finding(&report, "ok", "publishing")["facts"]["blocked"], false);
        assert!(finding(&report, "ok", "round trip")["facts"]["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report:#}");
        assert!(finding(&report, "ok", "heartbeat")["facts"]["seconds"].as_u64().is_some_and(|s| s > 0), "{report:#}");
        assert!(
            finding(&report, "ok", "limits")["facts"]["channel_max"].as_u64().is_some_and(|n| n > 16),
            "{report:#}"
        );
    }
    send(broker, [Value::from(1), Value::from(2)])?;
    let report = doctor(broker, &[], 0)?;
    let facts = &finding(&report, "ok", &queue)["facts"];
    assert_eq!(
        (&facts["equal"], &facts["ready"], &facts["consumers"]),
        (&true.into(), &2.into(), &0.into()),
        "{facts}"
    );
    assert_eq!(finding(&report, "ok", &exchange)["facts"]["equal"], true);
    let (out, _) = exits(&ended(on(broker, &["doctor"]))?, 0);
    assert!(line(&out, "note", &queue).contains("no worker takes any now"), "{out}");
    let heartbeat = format!("{}?heartbeat=7", broker.url());
    let (out, _) = exits(&ended(homing(&["--broker", &heartbeat, "--prefix", broker.prefix(), "doctor"]))?, 0);
    assert!(line(&out, "ok", "heartbeat").contains("every 7 s"), "{out}");
    Ok(())
}

fn refused(broker: &Broker) -> TestResult {
    let address = broker.url().rsplit_once('@').map_or(broker.url(), |(_, address)| address);
    let address = address.split('/').next().unwrap_or(address);
    let mut loud = homing(&["-vv", "--broker", &format!("amqp://guest:sEcret@{address}/"), "doctor"]);
    loud.env("RUST_LOG", "trace");
    let (out, err) = exits(&ended(loud)?, 7);
    assert!(line(&out, "problem", "credentials").contains("\"guest\""), "{out}");
    assert!(!out.contains("sEcret") && !err.contains("sEcret"), "{out}{err}");
    let (out, _) = exits(&ended(homing(&["--broker", &format!("amqp://guest:guest@{address}/nowhere"), "doctor"]))?, 7);
    assert!(line_is_there(&out, "ok", "credentials"), "{out}");
    assert!(line(&out, "problem", "virtual host").contains("\"nowhere\""), "{out}");
    Ok(())
}

fn queue_differs(broker: &Broker) -> TestResult {
    // A peer that has declared the queue with another limit.
    let peer = homing::Communicator::builder(broker.url()).prefix(broker.prefix()).task_ttl(Duration::from_secs(60));
    let peer = peer.connect_blocking()?;
    peer.task_send(Value::Null).no_reply().wait()?;
    peer.close()?;
    let report = doctor(broker, &[], 1)?;
    let found = finding(&report, "problem", &format!("queue {}.process.queue", broker.prefix()));
    let facts = &found["facts"];
    assert_eq!((&facts["argument"], &facts["current"]), (&"x-message-ttl".into(), &"60000".into()), "{facts}");
    assert_eq!((&facts["wanted"], &facts["ready"]), (&"604800000".into(), &1.into()), "{facts}");
    assert!(found["text"].as_str().is_some_and(|text| text.contains("60000") && text.contains("604800000")), "{found}");
    let (_, err) = exits(&ended(on(broker, &["doctor"]))?, 1);
    assert!(err.contains("1 problem found"), "{err}");
    Ok(())
}

fn exchange_differs(broker: &Broker) -> TestResult {
    // In testing mode it goes with its last queue, so the peer stays.
    let peer = homing::Communicator::builder(broker.url()).prefix(broker.prefix()).testing(TestingMode::Yes);
    let peer = peer.connect_blocking()?;
    peer.add_rpc_subscriber("x", homing::RpcSubscriber::closure(|_: homing::RpcRequest| "here"))?;
    let report = doctor(broker, &[], 1)?;
    let facts = &finding(&report, "problem", &format!("exchange {}.messages", broker.prefix()))["facts"];
    assert_eq!(facts["argument"], "auto_delete");
    // The refusal has cost the peer nothing.
    let caller = homing::Communicator::builder(broker.url()).prefix(broker.prefix()).testing(TestingMode::Yes);
    let caller = caller.connect_blocking()?;
    assert_eq!(caller.rpc_send("x", Value::Null).wait()?.as_str(), Some("here"));
    caller.close()?;
    peer.close()?;
    Ok(())
}

fn counted(broker: &Broker) -> TestResult {
    let output = ended(on(broker, &["task", "list"]))?;
    let (_, err) = exits(&output, 1);
    assert!(err.contains("no queue"), "nothing is created by asking: {err}");
    send(broker, (0..3).map(Value::from))?;
    for _ in 0..2 {
        let (out, err) = exits(&ended(on(broker, &["task", "list"]))?, 0);
        assert!(out.contains("3 waiting, 0 consumers"), "{out}");
        assert!(err.contains("--peek") && err.contains("redelivered"), "{err}");
    }
    let communicator = connected(broker)?;
    let task = communicator.default_task_queue()?.next_task(LONG)?;
    assert!(!task.request().is_redelivered(), "counting marks nothing");
    task.finish("done");
    communicator.close()?;
    assert_eq!(ready(broker)?, 2);
    Ok(())
}

fn peeked(broker: &Broker) -> TestResult {
    let bodies = || (0..5).map(|n| Value::from_iter([("n", Value::from(n)), ("text", Value::from("x".repeat(400)))]));
    send(broker, bodies())?;
    let numbers = |tasks: &[Json]| tasks.iter().filter_map(|task| task["body"]["n"].as_u64()).collect::<Vec<_>>();
    let first = peek(broker, &["--limit", "3"])?;
    assert_eq!(numbers(&first), [0, 1, 2]);
    assert!(first.iter().all(|task| task["redelivered"] == false && task["no_reply"] == true), "{first:?}");
    assert!(first.iter().all(|task| task["message_id"].is_string() && task["bytes"].as_u64() > Some(400)), "{first:?}");
    let again = peek(broker, &[])?;
    assert_eq!(numbers(&again), [0, 1, 2, 3, 4]);
    let marked: Vec<bool> = again.iter().filter_map(|task| task["redelivered"].as_bool()).collect();
    assert_eq!(marked, [true, true, true, false, false]);
    assert_eq!(first[0]["message_id"], again[0]["message_id"]);
    let (out, _) = exits(&ended(on(broker, &["task", "list", "--peek", "--limit", "1"]))?, 0);
    assert!(out.contains("redelivered, no reply") && out.contains("xx…"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() < 250), "bodies are shortened: {out}");
    assert_eq!(numbers(&peek(broker, &[])?), [0, 1, 2, 3, 4], "they keep their order");
    // They are there still, for workers, in their order.
    let communicator = connected(broker)?;
    let queue = communicator.default_task_queue()?;
    for expected in bodies() {
        let task = queue.next_task(LONG)?;
        assert_eq!(task.body(), &expected);
        task.finish("done");
    }
    communicator.close()?;
    assert_eq!(ready(broker)?, 0);
    Ok(())
}

/// Writes what no peer can read.
struct Garbage;

impl Codec for Garbage {
    fn name(&self) -> &'static str {
        "garbage"
    }

    fn encode(&self, _: &Value) -> homing::Result<Vec<u8>> {
        Ok(b"{unclosed \x1b[31m".to_vec())
    }

    fn decode(&self, _: &[u8]) -> homing::Result<Value> {
        Ok(Value::Null)
    }
}

fn unreadable(broker: &Broker) -> TestResult {
    let sender =
        homing::Communicator::builder(broker.url()).prefix(broker.prefix()).codec(Garbage).connect_blocking()?;
    sender.task_send(Value::Null).no_reply().wait()?;
    sender.close()?;
    for _ in 0..2 {
        let tasks = peek(broker, &[])?;
        assert_eq!(tasks.len(), 1, "it is left there");
        assert!(tasks[0]["error"].as_str().is_some_and(|error| error.contains("YAML")), "{tasks:?}");
        assert_eq!((&tasks[0]["bytes"], tasks[0].get("body")), (&15.into(), None));
    }
    // A worker puts it into quarantine.
    let mut worker = on(broker, &["task", "work", "--echo"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let quarantine = format!("{}.process.queue.quarantine", broker.prefix());
    let until = Instant::now() + LONG;
    let there = loop {
        let output = ended(on(broker, &["--format", "json", "task", "list", "--queue", &quarantine]))?;
        if output.status.success() && serde_json::from_slice::<Json>(&output.stdout)?["ready"] == 1 {
            break true;
        }
        if Instant::now() > until {
            break false;
        }
    };
    signal(worker.id(), "TERM");
    worker.wait()?;
    assert!(there, "the worker did not put it into quarantine");
    let (out, _) = exits(&ended(on(broker, &["task", "list", "--queue", &quarantine, "--peek"]))?, 0);
    assert!(out.contains("homing-quarantine-reason: ") && out.contains("cannot be read as a task"), "{out}");
    assert!(!out.contains('\u{1b}'), "control characters do not reach a terminal: {out:?}");
    let report = doctor(broker, &[], 0)?;
    let note = finding(&report, "note", &format!("queue {quarantine}"));
    assert!(note["advice"].as_str().is_some_and(|advice| advice.contains("--peek")), "{note}");
    Ok(())
}

/// A process that is stopped, and killed at the end whatever happens.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn killed(broker: &Broker) -> TestResult {
    const TASKS: u64 = 1500;
    send(broker, (0..TASKS).map(|n| Value::from(i64::try_from(n).unwrap_or(-1))))?;
    let mut held = 0;
    // Stopped at one moment after the other until it is one at which it holds tasks; then it is killed.
    for wait in (20..600).step_by(20) {
        let mut command = on(broker, &["task", "list", "--peek", "--limit", "1500"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut stopped = Stopped(child);
        std::thread::sleep(Duration::from_millis(wait));
        signal(stopped.0.id(), "STOP");
        held = TASKS - ready(broker)?;
        if held > 0 {
            stopped.0.kill()?;
            break;
        }
        signal(stopped.0.id(), "CONT");
        stopped.0.kill()?;
    }
    assert!(held > 0, "it was never caught holding a task");
    let until = Instant::now() + LONG;
    while ready(broker)? < TASKS {
        assert!(Instant::now() < until, "only {} of {TASKS} are there", ready(broker)?);
    }
    let tasks = peek(broker, &["--limit", "1500"])?;
    let numbers: Vec<u64> = tasks.iter().filter_map(|task| task["body"].as_u64()).collect();
    assert_eq!(numbers, (0..TASKS).collect::<Vec<_>>(), "each once, in order");
    assert!(tasks.iter().filter(|task| task["redelivered"] == true).count() as u64 >= held, "{held} were held");
    Ok(())
}

fn certificates() -> TestResult {
    let node = Node::start(Tls::Yes)?;
    let url = node.described("NODE_TLS_URL").ok_or("no TLS URL")?;
    let ca = node.described("NODE_TLS_CA").ok_or("no CA")?;
    let trusted = format!("{url}?cacertfile={ca}");
    let broker = Broker::at(&trusted);
    let report = doctor(&broker, &[], 0)?;
    assert!(
        finding(&report, "ok", "tls")["facts"]["protocol"].as_str().is_some_and(|p| p.starts_with("TLSv1")),
        "{report}"
    );
    for (url, why) in [
        (url.clone(), "unknown authority"),
        (format!("{trusted}&server_name_indication=elsewhere.example"), "another name"),
        (node.url().replace("amqp://", "amqps://"), "no TLS there"),
    ] {
        let with_time = format!("{url}{}connection_timeout=5000", if url.contains('?') { '&' } else { '?' });
        let report = doctor(&Broker::at(&with_time), &[], 6)?;
        let found = finding(&report, "problem", "tls");
        assert_eq!(found["facts"]["why"], why, "{found}");
        assert!(found["advice"].is_string() && report["connected"] == false, "{found}");
    }
    Ok(())
}

/// Starts the node's management API on a free port, unless it is a node of our own broker, which has one.
fn with_management(node: &Node) -> Result<String, libtest_mimic::Failed> {
    if let Some(port) = node.described("NODE_HTTP_PORT") {
        return Ok(format!("http://guest:guest@127.0.0.1:{port}"));
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listen = format!("[{{port, {port}}}, {{ip, \"127.0.0.1\"}}]");
    node.ctl(&[
        "eval",
        &format!(
            "application:set_env(rabbitmq_management, tcp_config, {listen}, [{{persistent, true}}]), {{ok, F}} = \
             application:get_env(rabbit, enabled_plugins_file), ok = file:write_file(F, \"[rabbitmq_management].\"), \
             {{ok, _, _}} = rabbit_plugins:ensure(F)."
        ),
    ])?;
    Ok(format!("http://guest:guest@127.0.0.1:{port}"))
}

/// The same over TLS, with the certificate that the node has for AMQP.
fn with_management_tls(node: &Node) -> Result<String, libtest_mimic::Failed> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    node.ctl(&[
        "eval",
        &format!(
            "{{ok, Tls}} = application:get_env(rabbit, ssl_options), \
             Listen = [{{port, {port}}}, {{ip, \"127.0.0.1\"}}, {{ssl, true}}, {{ssl_opts, Tls}}], \
             application:set_env(rabbitmq_management, tcp_config, Listen, [{{persistent, true}}]), \
             {{ok, F}} = application:get_env(rabbit, enabled_plugins_file), \
             ok = file:write_file(F, \"[rabbitmq_management].\"), {{ok, _, _}} = rabbit_plugins:ensure(F)."
        ),
    ])?;
    Ok(format!("https://guest:guest@localhost:{port}"))
}

fn management_tls() -> TestResult {
    let node = Node::start(Tls::Yes)?;
    let api = with_management_tls(&node)?;
    let ca = node.described("NODE_TLS_CA").ok_or("no CA")?;
    let broker = Broker::at(node.url());
    let report = doctor(&broker, &["--management", &format!("{api}?cacertfile={ca}")], 0)?;
    finding(&report, "ok", "management");
    // Nobody whom the system does not trust gets the password.
    let report = doctor(&broker, &["--management", &api], 1)?;
    let found = finding(&report, "problem", "management");
    assert!(found["text"].as_str().is_some_and(|text| text.contains("certificate")), "{found}");
    let wrong = api.replace("localhost", "127.0.0.2");
    let report = doctor(&broker, &["--management", &format!("{wrong}?cacertfile={ca}")], 1)?;
    finding(&report, "problem", "management");
    Ok(())
}

fn limits() -> TestResult {
    let node = Node::start(Tls::No)?;
    let api = with_management(&node)?;
    let broker = Broker::at(node.url());
    connected(&broker)?.task_send(Value::Null).no_reply().wait()?;
    let (peer, exchange) = (connected(&broker)?, format!("{}.messages", broker.prefix()));
    peer.broadcast_send(Value::Null).wait()?;
    peer.close()?;
    let check = ["--management", api.as_str()];
    let report = doctor(&broker, &check, 0)?;
    finding(&report, "ok", "limits set");
    finding(&report, "ok", "topic permissions");
    assert_eq!(finding(&report, "ok", "connections")["facts"]["connections"], 2);
    finding(&report, "ok", &format!("routing keys of {exchange}"));
    // Limits that leave enough, and that do not.
    let limit = |path: &str, value: i64| request(&api, "PUT", path, &format!(r#"{{"value": {value}}}"#));
    limit("/api/vhost-limits/%2F/max-connections", 50)?;
    limit("/api/vhost-limits/%2F/max-queues", 1000)?;
    limit("/api/user-limits/guest/max-channels", 9)?;
    let report = doctor(&broker, &check, 1)?;
    let found = finding(&report, "problem", "limits set");
    assert_eq!((&found["facts"]["limit"], &found["facts"]["value"]), (&"max-channels".into(), &9.into()), "{found}");
    let all = report["findings"].as_array().ok_or("no findings")?;
    let notes = all.iter().filter(|one| one["check"] == "limits set" && one["verdict"] == "note").count();
    assert_eq!(notes, 2, "{report:#}");
    request(&api, "DELETE", "/api/user-limits/guest/max-channels", "")?;
    // One connection is not enough.
    limit("/api/vhost-limits/%2F/max-connections", 1)?;
    let report = doctor(&broker, &[], 6)?;
    let found = finding(&report, "problem", "connections");
    assert!(found["advice"].as_str().is_some_and(|advice| advice.contains("two connections")), "{found}");
    request(&api, "DELETE", "/api/vhost-limits/%2F/max-connections", "")?;
    // A user who may write to the exchange, and not by the keys of calls.
    let keys = format!(r#"{{"exchange": "{exchange}", "write": "^only-this$", "read": ".*"}}"#);
    request(&api, "PUT", "/api/topic-permissions/%2F/guest", &keys)?;
    let report = doctor(&broker, &check, 1)?;
    let found = finding(&report, "problem", &format!("routing keys of {exchange}"));
    assert!(found["advice"].as_str().is_some_and(|advice| advice.contains("set_topic_permissions")), "{found}");
    let found = finding(&report, "note", "topic permissions");
    assert!(found["text"].as_str().is_some_and(|text| text.contains("only-this")), "{found}");
    Ok(())
}

fn in_hand() -> TestResult {
    let node = Node::start(Tls::No)?;
    let api = with_management(&node)?;
    let broker = Broker::at(node.url());
    send(&broker, (0..3).map(Value::from))?;
    let worker = connected(&broker)?;
    let (begun, held) = std::sync::mpsc::channel();
    let keeps = homing::TaskSubscriber::future(move |_: homing::TaskRequest| {
        begun.send(()).ok();
        std::future::pending::<Value>()
    });
    worker.add_task_subscriber(keeps.with_prefetch(2.try_into()?))?;
    for _ in 0..2 {
        held.recv_timeout(LONG)?;
    }
    let answers = homing::RpcSubscriber::closure(homing::RpcRequest::into_body);
    worker.add_rpc_subscriber("a-library", answers)?;
    let mut server = on(&broker, &["rpc", "serve", "a-command", "--exec", "cat"]).stderr(Stdio::null()).spawn()?;
    let arguments = ["--format", "json", "task", "list", "--management", api.as_str()];
    let until = Instant::now() + LONG;
    let listed = loop {
        // The API's numbers lag some seconds behind.
        let (out, _) = exits(&ended(on(&broker, &arguments))?, 0);
        let listed: Json = serde_json::from_str(&out)?;
        if listed["unacknowledged"] == 2 && listed["workers"][0]["unacknowledged"] == 2 {
            break listed;
        }
        assert!(Instant::now() < until, "{listed}");
        std::thread::sleep(Duration::from_millis(300));
    };
    assert_eq!((&listed["ready"], &listed["workers"][0]["user"]), (&1.into(), &"guest".into()), "{listed}");
    let (out, _) = exits(&ended(on(&broker, &["task", "list", "--management", &api]))?, 0);
    assert!(
        out.contains("1 waiting, 2 in the hands of workers, 1 consumer") && out.contains("guest at 127.0.0.1"),
        "{out}"
    );
    // Without the API only what answers by itself is known.
    let until = Instant::now() + LONG;
    while !exits(&ended(on(&broker, &["rpc", "list"]))?, 0).0.starts_with("a-command  homing process") {
        assert!(Instant::now() < until, "the server does not answer");
    }
    let (out, _) = exits(&ended(on(&broker, &["--format", "json", "rpc", "list", "--management", &api]))?, 0);
    let all: Vec<Json> = out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let names: Vec<&str> = all.iter().filter_map(|one| one["identifier"].as_str()).collect();
    assert_eq!(names, ["a-command", "a-library"]);
    assert_eq!(all[0]["homing"][0]["process_id"], server.id());
    assert_eq!(
        (all[1]["homing"].as_array().map(Vec::len), &all[1]["subscribers"][0]["user"]),
        (Some(0), &"guest".into())
    );
    signal(server.id(), "TERM");
    server.wait()?;
    worker.close()?;
    Ok(())
}

/// Asks the management API for what a peer or an operator would do.
fn request(api: &str, method: &str, path: &str, body: &str) -> TestResult {
    let address = api.rsplit_once('@').ok_or("no address")?.1;
    let mut stream = std::net::TcpStream::connect(address)?;
    // guest:guest
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n");
    let length = body.len();
    write!(
        stream,
        "{head}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 2") { Ok(()) } else { Err(format!("{method} {path}: {answer}").into()) }
}

fn management() -> TestResult {
    let node = Node::start(Tls::No)?;
    let api = with_management(&node)?;
    let broker = Broker::at(node.url());
    let queue = format!("queue {}.process.queue", broker.prefix());
    let name = format!("{}.process.queue", broker.prefix());
    let check = ["--management", api.as_str()];
    let (_, err) =
        exits(&ended(on(&broker, &["doctor", "--management", &api.replace("guest:guest", "guest:sEcret")]))?, 1);
    assert!(!err.contains("sEcret"), "{err}");
    // Several arguments differ; and one that the broker does not know, on the quarantine queue.
    let arguments = r#"{"durable": true, "arguments": {"x-max-length": 5, "x-message-ttl": 1000000}}"#;
    request(&api, "PUT", &format!("/api/queues/%2F/{name}"), arguments)?;
    let own = r#"{"durable": true, "arguments": {"x-own": 5}}"#;
    request(&api, "PUT", &format!("/api/queues/%2F/{name}.quarantine"), own)?;
    let report = doctor(&broker, &check, 1)?;
    assert_eq!(report["problems"], 1, "one queue is one problem: {report:#}");
    let all = report["findings"].as_array().ok_or("no findings")?;
    let all = all.iter().find_map(|finding| finding["facts"]["differences"].as_array()).ok_or("no differences")?;
    let all: Vec<&str> = all.iter().filter_map(Json::as_str).collect();
    assert_eq!(all, ["x-message-ttl is 1000000, not 604800000", "x-max-length is 5, and should not be set"]);
    let own = finding(&report, "note", &format!("{queue}.quarantine"));
    assert_eq!(own["facts"]["differences"][0], "x-own is 5, and should not be set", "{own}");
    // It says what it would do, and does not.
    for _ in 0..2 {
        let report = doctor(&broker, &[&check[..], &["--fix"]].concat(), 1)?;
        assert_eq!(report["fixes"].as_array().map(Vec::len), Some(1), "{report:#}");
        assert_eq!(report["fixes"][0]["state"], "possible", "{report:#}");
        let request = report["fixes"][0]["request"].as_str().ok_or("no request")?;
        assert_eq!(request, format!("DELETE /api/queues/%2F/{name}?if-empty=true&if-unused=true"));
    }
    // A queue that holds something stays, whatever is asked; the server's own check counts here, for its numbers lag.
    let message =
        format!(r#"{{"properties": {{}}, "routing_key": "{name}", "payload": "x", "payload_encoding": "string"}}"#);
    request(&api, "POST", "/api/exchanges/%2F/amq.default/publish", &message)?;
    assert_eq!(ready(&broker)?, 1);
    let report = doctor(&broker, &[&check[..], &["--fix", "--yes"]].concat(), 1)?;
    let state = report["fixes"][0]["state"].as_str();
    assert!(matches!(state, Some("failed" | "refused")), "{report:#}");
    assert_eq!(ready(&broker)?, 1);
    node.ctl(&["purge_queue", &name])?;
    let until = Instant::now() + LONG;
    let report = loop {
        // The API's numbers lag some seconds behind.
        let output = ended(on(&broker, &[&["--format", "json", "doctor"], &check[..], &["--fix", "--yes"]].concat()))?;
        let report: Json = serde_json::from_slice(&output.stdout)?;
        if report["fixes"][0]["state"] == "done" {
            assert_eq!(output.status.code(), Some(0), "what is left counts: {report:#}");
            break report;
        }
        assert!(Instant::now() < until, "{report:#}");
    };
    assert_eq!(finding(&report, "note", &queue)["facts"]["present"], false);
    send(&broker, [Value::Null])?;
    let (out, _) = exits(&ended(on(&broker, &["doctor", "--management", &api]))?, 0);
    assert!(out.contains("bound to") && line_is_there(&out, "ok", "alarms"), "{out}");
    Ok(())
}

fn alarm() -> TestResult {
    let node = Node::start(Tls::No)?;
    let broker = Broker::at(node.url());
    doctor(&broker, &[], 0)?;
    node.ctl(&["set_vm_memory_high_watermark", "0"])?;
    let report = doctor(&broker, &[], 1)?;
    let found = finding(&report, "problem", "publishing");
    assert_eq!(found["facts"]["blocked"], true, "{found}");
    assert!(found["text"].as_str().is_some_and(|text| text.contains("memory")), "{found}");
    node.ctl(&["set_vm_memory_high_watermark", "0.9"])?;
    let until = Instant::now() + LONG;
    while !ended(on(&broker, &["doctor"]))?.status.success() {
        assert!(Instant::now() < until, "still blocked");
    }
    Ok(())
}
