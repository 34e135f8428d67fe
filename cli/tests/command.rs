//! The command as a person uses it: what it prints, and how it exits.

mod not_given;
mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use shell::{LONG, Running, ended, eventually, exits, homing, text, wait};
use support::node::Tls;
use support::{Broker, Node, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    // Some start a broker of their own, some run a dozen commands.
    suite.deadline(Duration::from_secs(240));
    suite
        .plain("demo_needs_no_broker_and_shows_threads_that_were_observed", demo)
        .plain("demo_finds_a_completion_off_its_home", demo_seeded)
        .plain("wrong_usage_exits_with_2", usage)
        .plain("a_variable_that_is_empty_is_not_set", empty_variables)
        .plain("no_broker_exits_with_6", no_broker)
        .plain("a_silent_port_exits_with_6_in_bounded_time", silent)
        .plain("help_names_every_exit_code", help)
        .plain("two_shells_meet_where_no_broker_is_given", not_given::two_shells)
        .plain("what_is_not_there_names_the_default_broker_and_others", not_given::not_there)
        .plain("a_broker_that_was_given_is_not_called_the_default", not_given::given)
        .plain("doctor_checks_the_local_broker_and_creates_none", not_given::doctor)
        .plain("a_management_api_is_refused_beside_the_local_broker", not_given::management)
        .rabbitmq("demo_over_a_broker", demo_over)
        .rabbitmq("a_call_is_served_by_a_shell_command", serve_exec)
        .rabbitmq("a_call_to_nobody_exits_with_3", unroutable)
        .rabbitmq("a_call_that_nobody_answers_exits_with_4", timed_out)
        .rabbitmq("tasks_are_worked_on_and_counted", tasks)
        .rabbitmq("a_worker_that_is_told_to_end_ends_its_command_and_gives_the_task_back", worker_ends)
        .rabbitmq("broadcasts_are_watched_with_filters", broadcasts)
        .rabbitmq("wrong_credentials_and_virtual_hosts_are_said_without_the_password", credentials)
        .rabbitmq("values_that_json_has_not_are_printed_and_read", values)
        .node("a_refused_permission_exits_with_7_and_names_the_right", permission)
        .node("tls_is_spoken_and_the_server_is_checked", tls)
        .node("a_server_that_demands_a_certificate_gets_one", mutual_tls)
        .node("a_server_that_loses_its_broker_comes_back_unless_told_otherwise", broker_lost);
    suite.run()
}

/// The command on a trial's broker, under the trial's own names.
fn on(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = homing(&["--broker", broker.url(), "--prefix", broker.prefix()]);
    command.args(arguments);
    command
}

fn demo() -> TestResult {
    let (out, _) = exits(&ended(homing(&["demo"]))?, 0);
    for part in [
        "landed on \"plain-thread\"",
        "its completion landed on \"event-loop\"",
        "set on    \"foreign-thread\"",
        "close: ",
    ] {
        assert!(out.contains(part), "{part} is not in: {out}");
    }
    Ok(())
}

fn demo_seeded() -> TestResult {
    let mut command = homing(&["demo"]);
    command.env("HOMING_DEMO_SEED", "off-home");
    let (_, err) = exits(&ended(command)?, 1);
    assert!(err.contains("a completion off its home"), "{err}");
    Ok(())
}

fn demo_over(broker: &Broker) -> TestResult {
    let (out, _) = exits(&ended(homing(&["--broker", broker.url(), "demo"]))?, 0);
    assert!(out.contains("RabbitMQ"), "{out}");
    Ok(())
}

fn usage() -> TestResult {
    for (arguments, part) in [
        (&["what"][..], "unrecognized subcommand"),
        (&["rpc", "serve", "x"], "--echo"),
        (&["rpc", "call", "x", "1", "--timeout", "soon"], "seconds"),
        (&["rpc", "call", "x", "1", "--timeout", "0"], "seconds"),
        (&["rpc", "call", "x", "{unclosed"], "neither YAML nor JSON"),
        (&["rpc", "call", "a.*", "1", "--broker", "nonsense"], "broker's URL"),
        (&["--broker", "memory:", "rpc", "call", "x", "1"], "only `homing demo`"),
        (&["--broker", "amqp://u:sEcret@h:port", "task", "send", "1"], "port"),
        (&["--prefix", "a", "--task-queue", "b", "task", "send", "1"], "cannot be used with"),
    ] {
        let output = ended(homing(arguments))?;
        let (_, err) = exits(&output, 2);
        assert!(err.contains(part) && !err.contains("sEcret"), "{arguments:?}: {err}");
    }
    Ok(())
}

fn empty_variables() -> TestResult {
    let mut command = homing(&["--help"]);
    command.env("HOMING_BROKER", "").env("HOMING_MANAGEMENT", "");
    exits(&ended(command)?, 0);
    // The broker of this command line counts, and nobody listens there.
    let mut command = homing(&["doctor"]);
    command.env("HOMING_BROKER", "").env("HOMING_MANAGEMENT", "");
    let output = ended(command)?;
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() != Some(2) && !err.contains("URL cannot be used"), "{err}");
    // Said on the command line, it is wrong usage still.
    exits(&ended(homing(&["--broker", "", "doctor"]))?, 2);
    Ok(())
}

fn help() -> TestResult {
    let (out, _) = exits(&ended(homing(&["--help"]))?, 0);
    for part in
        ["demo", "rpc", "task", "broadcast", "3  unroutable", "6  no connection", "130  interrupted", "HOMING_BROKER"]
    {
        assert!(out.contains(part), "{part} is not in: {out}");
    }
    Ok(())
}

fn no_broker() -> TestResult {
    // Bound and let go, so that nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (_, err) =
        exits(&ended(homing(&["--broker", &format!("amqp://u:sEcret@127.0.0.1:{port}"), "task", "send", "1"]))?, 6);
    assert!(err.contains("nothing listens at") && !err.contains("sEcret"), "{err}");
    Ok(())
}

fn silent() -> TestResult {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("amqp://u:sEcret@{}?connection_timeout=300", listener.local_addr()?);
    let (_, err) = exits(&ended(homing(&["--broker", &url, "rpc", "call", "x", "1"]))?, 6);
    assert!(err.contains("did not answer the AMQP handshake") && !err.contains("sEcret"), "{err}");
    Ok(())
}

fn serve_exec(broker: &Broker) -> TestResult {
    let command =
        r#"read body; case "$body" in *fail*) echo broken >&2; exit 3;; '""') ;; *) echo "got: $body";; esac"#;
    let mut server = Running::start(on(broker, &["rpc", "serve", "worker", "--exec", command]))?;
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "rpc", "call", "worker", "{x: [1, two]}"]))?, 0);
    assert_eq!(out, "{\"got\":{\"x\":[1,\"two\"]}}\n");
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "rpc", "call", "worker", "''"]))?, 0);
    assert_eq!(out, "null\n", "nothing printed is null");
    let (_, err) = exits(&ended(on(broker, &["rpc", "call", "worker", "fail"]))?, 5);
    assert!(err.contains("broken"), "{err}");
    let mut from_stdin = on(broker, &["rpc", "call", "worker", "-"]);
    let mut child = from_stdin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no pipe")?.write_all(b"piped")?;
    assert_eq!(text(&child.wait_with_output()?.stdout), "got: piped\n");
    assert_eq!(server.stop("TERM")?.0, Some(0));
    Ok(())
}

fn unroutable(broker: &Broker) -> TestResult {
    let (_, err) = exits(&ended(on(broker, &["rpc", "call", "nobody", "1"]))?, 3);
    assert!(err.contains("nobody listens"), "{err}");
    Ok(())
}

fn timed_out(broker: &Broker) -> TestResult {
    let _server = Running::start(on(broker, &["rpc", "serve", "slow", "--exec", "sleep 30"]))?;
    let (_, err) = exits(&ended(on(broker, &["rpc", "call", "slow", "1", "--timeout", "3s"]))?, 4);
    assert!(err.contains("the message was sent"), "{err}");
    Ok(())
}

fn tasks(broker: &Broker) -> TestResult {
    exits(&ended(on(broker, &["task", "send", "{n: 1}", "--no-reply"]))?, 0);
    exits(&ended(on(broker, &["task", "send", "{n: 2}", "--no-reply"]))?, 0);
    let mut worker = Running::start(on(broker, &["task", "work", "--echo", "--count", "3", "--prefetch", "2"]))?;
    let (out, _) = exits(&ended(on(broker, &["task", "send", "{n: 3}"]))?, 0);
    assert_eq!(out, "n: 3\n");
    assert_eq!(worker.ends()?, Some(0), "ends by itself after three");
    // A fourth is left for others.
    exits(&ended(on(broker, &["task", "send", "4", "--no-reply"]))?, 0);
    let mut other = Running::start(on(broker, &["task", "work", "--echo", "--count", "1"]))?;
    assert_eq!(other.ends()?, Some(0));
    Ok(())
}

fn worker_ends(broker: &Broker) -> TestResult {
    let folder = std::env::temp_dir().join(broker.prefix());
    std::fs::create_dir_all(&folder)?;
    let (started, ended_by) = (folder.join("started"), folder.join("ended"));
    let command = format!(
        "trap 'echo term > {}; exit 0' TERM; echo $$ > {}; while :; do sleep 0.05; done",
        ended_by.display(),
        started.display()
    );
    let mut worker = Running::start(on(broker, &["task", "work", "--drain", "0.2s", "--exec", &command]))?;
    exits(&ended(on(broker, &["task", "send", "7", "--no-reply"]))?, 0);
    let until = Instant::now() + LONG;
    while !started.exists() {
        assert!(Instant::now() < until, "the command did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    // As the help says: it has ended in order, and the task is back.
    assert_eq!(worker.stop("INT")?.0, Some(0));
    let (help, _) = exits(&ended(homing(&["--help"]))?, 0);
    assert!(help.contains("stopped after --drain (a task goes back to its queue"), "{help}");
    assert!(ended_by.exists(), "its command was told to end, and was waited for");
    let mut heir = Running::start(on(broker, &["task", "work", "--exec", "cat > /dev/null", "--count", "1"]))?;
    assert_eq!(heir.ends()?, Some(0), "the task went back");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn broadcasts(broker: &Broker) -> TestResult {
    let watch =
        ["--format", "json", "broadcast", "watch", "--subject", "state.*.done", "--sender", "4", "--count", "1"];
    let mut watcher = Running::start(on(broker, &watch))?;
    let send = |subject: &str, sender: &str| {
        let sent = ["broadcast", "send", "{a: 1}", "--subject", subject, "--sender", sender, "--correlation-id", "c"];
        ended(on(broker, &sent))
    };
    exits(&send("other", "4")?, 0);
    exits(&send("state.x.done", "5")?, 0);
    exits(&send("state.x.done", "4")?, 0);
    assert_eq!(watcher.ends()?, Some(0));
    let mut out = String::new();
    watcher.0.stdout.take().ok_or("no pipe")?.read_to_string(&mut out)?;
    let mut heard: serde_json::Value = serde_json::from_str(&out)?;
    let time = heard.as_object_mut().and_then(|heard| heard.remove("time")).ok_or("a record without a time")?;
    assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
    let expected = serde_json::json!({"subject": "state.x.done", "sender": 4, "correlation_id": "c", "body": {"a": 1}});
    assert_eq!(heard, expected);
    Ok(())
}

fn credentials(broker: &Broker) -> TestResult {
    let address = broker.url().rsplit_once('@').map_or(broker.url(), |(_, address)| address);
    let address = address.split('/').next().unwrap_or(address);
    let wrong = format!("amqp://guest:sEcret@{address}/");
    let mut loud = homing(&["-vv", "--broker", &wrong, "task", "send", "1"]);
    loud.env("RUST_LOG", "trace");
    let (_, err) = exits(&ended(loud)?, 7);
    assert!(err.contains("\"guest\"") && err.contains("password") && !err.contains("sEcret"), "{err}");
    let nowhere = format!("amqp://guest:guest@{address}/nowhere");
    let (_, err) = exits(&ended(homing(&["--broker", &nowhere, "task", "send", "1"]))?, 7);
    assert!(err.contains("virtual host \"nowhere\"") && err.contains("add_vhost"), "{err}");
    Ok(())
}

fn permission() -> TestResult {
    let node = Node::start(Tls::No)?;
    node.ctl(&["add_user", "few", "few"])?;
    node.ctl(&["set_permissions", "-p", "/", "few", "^mine", "^mine", "^mine"])?;
    let few = node.url().replace("guest:guest@", "few:few@");
    for arguments in [
        &["task", "send", "1", "--no-reply"][..],
        &["rpc", "call", "x", "1"],
        &["task", "work", "--echo", "--count", "1"],
        &["rpc", "serve", "x", "--echo"],
    ] {
        let mut command = homing(&["--broker", &few]);
        command.args(arguments);
        let (_, err) = exits(&ended(command)?, 7);
        assert!(err.contains("permission") || err.contains("refused"), "{arguments:?}: {err}");
    }
    Ok(())
}

fn values(broker: &Broker) -> TestResult {
    let _server = Running::start(on(broker, &["rpc", "serve", "echo", "--echo"]))?;
    let yaml = "{t: !!python/tuple [1, x], b: !!binary AP8=, i: 123456789012345678901234567890, n: !aiida_node abc}";
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "rpc", "call", "echo", yaml]))?, 0);
    let expected = r#"{"b":{"$bytes":"AP8="},"i":{"$int":"123456789012345678901234567890"},"n":{"$tag":"!aiida_node","value":"abc"},"t":{"$tuple":[1,"x"]}}"#;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out)?, serde_json::from_str::<serde_json::Value>(expected)?);
    // What it printed it reads back.
    let (again, _) = exits(&ended(on(broker, &["--format", "json", "rpc", "call", "echo", out.trim()]))?, 0);
    assert_eq!(again, out);
    Ok(())
}

fn tls() -> TestResult {
    let node = Node::start(Tls::Yes)?;
    let url = node.described("NODE_TLS_URL").ok_or("no TLS URL")?;
    let ca = node.described("NODE_TLS_CA").ok_or("no CA")?;
    let trusted = format!("{url}?cacertfile={ca}");
    let broker = Broker::at(&trusted);
    exits(&ended(on(&broker, &["task", "send", "{over: tls}", "--no-reply"]))?, 0);
    let (out, _) = exits(&ended(homing(&["--broker", &trusted, "demo"]))?, 0);
    assert!(out.contains("RabbitMQ"), "{out}");
    for (url, why) in [
        (url.clone(), "a server that nobody vouches for"),
        (format!("{trusted}&server_name_indication=elsewhere.example"), "another server's name"),
        (url.replace("amqps://", "amqp://"), "no TLS on our side"),
        (node.url().replace("amqp://", "amqps://"), "no TLS on theirs"),
    ] {
        let with_time = if url.contains('?') {
            format!("{url}&connection_timeout=5000")
        } else {
            format!("{url}?connection_timeout=5000")
        };
        let (_, err) = exits(&ended(homing(&["--broker", &with_time, "task", "send", "1"]))?, 6);
        assert!(!err.is_empty(), "{why}");
    }
    Ok(())
}

fn mutual_tls() -> TestResult {
    let node = Node::start(Tls::Mutual)?;
    let described = |name| node.described(name).ok_or(format!("no {name}"));
    let (url, ca) = (described("NODE_TLS_URL")?, described("NODE_TLS_CA")?);
    let (cert, key) = (described("NODE_TLS_CERT")?, described("NODE_TLS_KEY")?);
    let send = |url: &str| {
        let mut command = on(&Broker::at(url), &["task", "send", "1", "--no-reply"]);
        command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
        command
    };
    let with_certificate = format!("{url}?certfile={cert}&keyfile={key}&connection_timeout=5000");
    exits(&ended(send(&format!("{with_certificate}&cacertfile={ca}")))?, 0);
    // The system's roots, of which this is the place.
    let mut by_the_system = send(&with_certificate);
    by_the_system.env("SSL_CERT_FILE", &ca);
    exits(&ended(by_the_system)?, 0);
    let (_, err) = exits(&ended(send(&format!("{url}?cacertfile={ca}&connection_timeout=5000")))?, 6);
    assert!(!err.is_empty(), "without a certificate of ours");
    let (_, err) = exits(&ended(send(&with_certificate))?, 6);
    assert!(err.to_lowercase().contains("certificate"), "that nobody vouches for the server is said: {err}");
    let missing = format!("{url}?certfile=/nowhere.pem&keyfile={key}&cacertfile={ca}");
    let (_, err) = exits(&ended(send(&missing))?, 2);
    assert!(err.contains("/nowhere.pem"), "the file is named: {err}");
    Ok(())
}

fn broker_lost() -> TestResult {
    let node = Node::start(Tls::No)?;
    let broker = Broker::at(node.url());
    let mut server = Running::start(on(&broker, &["rpc", "serve", "x", "--echo"]))?;
    let worker = Running::start(on(&broker, &["task", "work", "--echo"]))?;
    let never = ["--reconnect", "never", "rpc", "serve", "y", "--echo"];
    let mut told_never_to = Running::start(on(&broker, &never))?;
    let nobody = format!("{}-nobody", broker.prefix());
    let at = |arguments: &[&str]| homing(&[&["--broker", broker.url(), "--prefix", &nobody], arguments].concat());
    let mut sender = at(&["--reconnect", "never", "task", "send", "3"]);
    let sender = sender.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    eventually("the task is in its queue", || {
        let listed = ended(at(&["task", "list", "--format", "json"]));
        listed.is_ok_and(|output| text(&output.stdout).contains("\"ready\":1"))
    });
    node.kill()?;
    assert_eq!(told_never_to.ends()?, Some(6));
    let (_, err) = exits(&wait(sender)?, 6);
    assert!(err.contains("the message was sent, and may still be worked on"), "{err}");
    node.restart()?;
    // Both are there again of themselves; the call may come before the server has.
    let called = (0..100).find_map(|_| {
        let output = ended(on(&broker, &["rpc", "call", "x", "1"])).ok()?;
        std::thread::sleep(Duration::from_millis(100));
        output.status.success().then_some(output)
    });
    let (out, _) = exits(&called.ok_or("the server does not come back")?, 0);
    assert_eq!(out.trim(), "1");
    let (out, _) = exits(&ended(on(&broker, &["task", "send", "2"]))?, 0);
    assert_eq!(out.trim(), "2");
    assert_eq!(server.stop("INT")?.0, Some(0));
    drop(worker);
    Ok(())
}
