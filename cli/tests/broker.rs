//! `homing broker run`: a server that every client of AMQP can use, and what is on its disk.

#[path = "../../crates/broker/tests/server/certificates.rs"]
mod certificates;
mod moving;
mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Output, Stdio};
use std::time::Duration;

use shell::{Directory, ended, homing, text};
use support::{Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(120));
    suite
        .plain("a_broker_serves_keeps_what_it_confirmed_and_stops_in_order", serves)
        .plain("what_cannot_be_listened_on_or_opened_is_an_error", refuses)
        .plain("users_are_the_same_on_a_broker_that_runs_and_on_one_that_does_not", users)
        .plain("a_broker_is_shown_and_ended_by_its_directory", shown_and_ended)
        .plain("a_broker_in_the_background_is_up_when_its_start_returns", background)
        .plain("a_unit_names_all_that_it_was_given", units)
        .plain("clients_reach_a_broker_by_tls", by_tls)
        .plain("a_file_has_the_options_and_the_command_line_counts_before_it", by_file)
        .plain("publishers_wait_when_messages_take_more_memory_than_is_given", limited)
        .plain("commands_meet_at_a_local_broker", local)
        .plain("a_broadcast_that_nobody_receives_is_reported", unheard)
        .plain("lines_of_which_none_is_a_task_create_no_queue_and_do_not_claim_to", no_lines)
        .rabbitmq("a_broker_is_moved_to_rabbitmq_with_all_that_it_has", moving::whole)
        .rabbitmq("a_move_that_is_killed_loses_nothing_and_goes_on", moving::killed)
        .plain("a_queue_that_is_deleted_while_it_is_moved_loses_what_was_in_it_and_no_more", moving::deleted)
        .rabbitmq("a_target_that_has_or_wants_something_else_is_an_error_before_anything_is_moved", moving::refused)
        .rabbitmq("a_move_that_cannot_be_names_which_broker_is_wrong", moving::wrong)
        .rabbitmq("a_local_broker_is_moved_when_no_program_uses_it", moving::local);
    suite.run()
}

struct Run {
    child: Child,
    url: String,
    address: String,
}

impl Run {
    fn start(data: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut command = homing(&["broker", "run", "--listen", "127.0.0.1:0", "--data", data]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("its output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").ok_or_else(|| format!("it does not listen: {line}"))?;
        let url = format!("amqp://guest:guest@{address}/");
        Ok(Run { child, url, address: address.to_owned() })
    }

    fn terminate(&mut self) -> std::io::Result<std::process::ExitStatus> {
        std::process::Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serves() -> TestResult {
    let directory = Directory::new()?;
    let data = directory.path("data");
    let mut broker = Run::start(&data)?;
    let on = |url: &str, arguments: &[&str]| ended(homing(&[&["--broker", url], arguments].concat()));
    for number in ["1", "2"] {
        assert!(on(&broker.url, &["task", "send", number, "--no-reply"])?.status.success());
    }
    // A kill, and an end in order: what was confirmed is there after each.
    drop(broker);
    broker = Run::start(&data)?;
    let second = ended(homing(&["broker", "run", "--listen", "127.0.0.1:0", "--data", &data]))?;
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("has it open"), "{}", text(&second.stderr));
    assert!(broker.terminate()?.success(), "it stops in order");
    broker = Run::start(&data)?;
    let listed = on(&broker.url, &["task", "list", "--format", "json"])?;
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let worked = on(&broker.url, &["task", "work", "--exec", "cat", "--count", "2"])?;
    assert!(worked.status.success(), "{}", text(&worked.stderr));
    assert!(broker.terminate()?.success());
    broker = Run::start(&data)?;
    let left = on(&broker.url, &["task", "list"])?;
    assert!(!text(&left.stdout).contains("[1]") && left.status.success(), "{}", text(&left.stdout));
    Ok(())
}

fn refuses() -> TestResult {
    let directory = Directory::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for (arguments, part) in [
        (&["--listen", &address, "--memory"][..], &*address),
        (&["--listen", "0.0.0.0:0", "--memory"], "other machines"),
        (&["--listen", "127.0.0.1:0", "--data", "/dev/null/data"], "/dev/null"),
    ] {
        let output = ended(homing(&[&["broker", "run"], arguments].concat()))?;
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(1) && err.contains(part), "{arguments:?}: {err}");
    }
    for arguments in [&["--listen", "nowhere"][..], &["--memory", "--data", &directory.path("x")], &["--drain", "soon"]]
    {
        let output = ended(homing(&[&["broker", "run"], arguments].concat()))?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    Ok(())
}

fn local() -> TestResult {
    let directory = Directory::new()?;
    let url = format!("local:{}", directory.path("l"));
    let sent = ended(homing(&["--broker", &url, "task", "send", "{job: 7}", "--no-reply"]))?;
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    // Nobody hosts it in between.
    let listed = ended(homing(&["--broker", &url, "task", "list"]))?;
    assert!(text(&listed.stdout).contains("1 waiting"), "{} {}", text(&listed.stdout), text(&listed.stderr));
    let worked = ended(homing(&["--broker", &url, "task", "work", "--exec", "cat", "--count", "1"]))?;
    assert!(worked.status.success(), "{}", text(&worked.stderr));
    let checked = ended(homing(&["--broker", &url, "doctor"]))?;
    // Nobody hosts it now, which is well.
    assert!(checked.status.success() && text(&checked.stdout).contains("no process hosts it"), "{checked:?}");
    Ok(())
}

fn unheard() -> TestResult {
    let directory = Directory::new()?;
    let url = format!("local:{}", directory.path("l"));
    let send = || ended(homing(&["--broker", &url, "broadcast", "send", "hi", "--subject", "s"]));
    let nobody = send()?;
    let note = text(&nobody.stderr);
    assert!(nobody.status.success() && note.contains("no program receives broadcasts here"), "{note}");
    let quiet = ended(homing(&["--quiet", "--broker", &url, "broadcast", "send", "hi"]))?;
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    let mut watching = homing(&["--broker", &url, "broadcast", "watch", "--count", "1"]);
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut notes = BufReader::new(watching.stderr.take().ok_or("its notes")?).lines();
    assert!(notes.by_ref().map_while(Result::ok).any(|line| line.contains("watching")), "it watches");
    let heard = send()?;
    assert!(heard.status.success() && heard.stderr.is_empty(), "{heard:?}");
    assert!(text(&shell::wait(watching)?.stdout).contains("hi"));
    Ok(())
}

fn no_lines() -> TestResult {
    let directory = Directory::new()?;
    let url = format!("local:{}", directory.path("l"));
    for (lines, code, part) in
        [("", 0, "0 tasks sent"), ("\n\n", 0, "0 tasks sent"), ("not: [x\n", 1, "line 1 is neither")]
    {
        let mut send = homing(&["--broker", &url, "task", "send", "--lines", "--no-reply"]);
        let mut send = send.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        send.stdin.take().ok_or("its input")?.write_all(lines.as_bytes())?;
        let output = shell::wait(send)?;
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(code) && err.contains(part), "{lines:?}: {err}");
        assert!(!err.contains("is created"), "{lines:?}: {err}");
        let listed = ended(homing(&["--broker", &url, "task", "list"]))?;
        assert!(text(&listed.stderr).contains("there is no queue"), "{lines:?}: {listed:?}");
    }
    // Those that are read before the first task count too, and it is sent.
    let mut send = homing(&["--broker", &url, "task", "send", "--lines", "--no-reply"]);
    let mut send = send.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    send.stdin.take().ok_or("its input")?.write_all(b"not: [x\n1\n2\n")?;
    let output = shell::wait(send)?;
    let err = text(&output.stderr);
    assert!(output.status.code() == Some(1) && err.contains("2 tasks sent, 1 failed"), "{err}");
    let listed = ended(homing(&["--broker", &url, "task", "list"]))?;
    assert!(text(&listed.stdout).contains("2 waiting"), "{listed:?}");
    Ok(())
}

/// `homing broker …` on this directory, with this standard input.
fn broker(data: &str, arguments: &[&str], input: &str) -> std::io::Result<Output> {
    let mut command = homing(&[&["broker"], arguments, &["--data", data, "--format", "json"]].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It may end without reading it.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    shell::wait(child)
}

/// The same, and what it prints.
fn done(data: &str, arguments: &[&str], input: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let output = broker(data, arguments, input)?;
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{arguments:?}: {output:?}").into()) }
}

fn users() -> TestResult {
    let directory = Directory::new()?;
    let data = directory.path("data");
    let send = |url: String| ended(homing(&["--broker", &url, "task", "send", "1", "--no-reply"]));
    // Without a broker.
    done(&data, &["user", "add", "ada", "--tag", "impersonator"], "secret\n")?;
    done(&data, &["vhost", "add", "v"], "")?;
    done(&data, &["permission", "set", "ada", ".*", ".*", ".*", "--vhost", "v"], "")?;
    let added = broker(&data, &["user", "add", "it's"], "secret")?;
    let advice = format!(r"`homing broker permission set 'it'\''s' '.*' '.*' '.*' --data {data}`");
    let note: serde_json::Value = serde_json::from_slice(&added.stderr)?;
    assert!(note["message"].as_str().is_some_and(|note| note.contains(&advice)), "{note}");
    done(&data, &["user", "remove", "it's"], "")?;
    for (arguments, input, code, part) in [
        (&["user", "add", "ada"][..], "secret", 1, "already"),
        (&["user", "add", ""], "secret", 2, "the name is empty"),
        (&["user", "add", "bob"], "", 2, "empty"),
        (&["permission", "set", "ada", "(", "", ""], "", 1, "unclosed group"),
        (&["permission", "set", "bob", "", "", ""], "", 1, "no user 'bob'"),
        (&["permission", "set-topic", "ada", "e", "{who}", ""], "", 1, "'{who}' for write"),
        (&["permission", "clear-topic", "ada"], "", 1, "no topic permissions"),
        (&["vhost", "remove", "w"], "", 1, "no virtual host 'w'"),
    ] {
        let output = broker(&data, arguments, input)?;
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(code) && err.contains(part), "{arguments:?}: {output:?}");
    }
    let listed = done(&data, &["user", "list"], "")?;
    assert!(listed.contains(r#"{"name":"ada","tags":["impersonator"],"has_password":true}"#), "{listed}");
    assert!(!listed.contains("argon2"), "{listed}");
    // With one.
    let run = Run::start(&data)?;
    let at = |user: &str, vhost: &str| format!("amqp://{user}@{}/{vhost}", run.address);
    assert!(send(at("ada:secret", "v"))?.status.success());
    for wrong in [at("ada:wrong", "v"), at("ada:secret", ""), at("bob:secret", "v")] {
        assert!(!send(wrong.clone())?.status.success(), "{wrong}");
    }
    assert_eq!(done(&data, &["user", "list"], "")?, listed, "it is the same from the broker");
    let file = directory.path("password");
    std::fs::write(&file, "lovelace\n")?;
    done(&data, &["user", "password", "ada", "--password-file", &file], "")?;
    assert!(!send(at("ada:secret", "v"))?.status.success() && send(at("ada:lovelace", "v"))?.status.success());
    // By routing keys: at once, and the same from the broker as from its directory.
    let broadcast = || {
        let url = at("ada:lovelace", "v");
        ended(homing(&["--broker", &url, "broadcast", "send", "1"])).map(|output| output.status.success())
    };
    assert!(broadcast()?);
    let keys = ["permission", "set-topic", "ada", "kiwipy.messages", "^{username}\\.", ".*", "--vhost", "v"];
    done(&data, &keys, "")?;
    let restricted = done(&data, &["permission", "list-topic"], "")?;
    let expected = r#"{"user":"ada","vhost":"v","exchange":"kiwipy.messages","write":"^{username}\\.","read":".*"}"#;
    assert_eq!(restricted.trim(), expected);
    assert!(!broadcast()?, "its key is not one of the user's");
    done(&data, &["permission", "clear-topic", "ada", "kiwipy.messages", "--vhost", "v"], "")?;
    assert!(broadcast()?);
    let refused = broker(&data, &["permission", "clear-topic", "ada", "--vhost", "v"], "")?;
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("no topic permissions"), "{refused:?}");
    done(&data, &["permission", "clear", "ada", "--vhost", "v"], "")?;
    assert!(!send(at("ada:lovelace", "v"))?.status.success());
    done(&data, &["user", "add", "bob", "--no-password"], "")?;
    done(&data, &["user", "remove", "ada"], "")?;
    done(&data, &["vhost", "remove", "v"], "")?;
    done(&data, &["user", "tags", "bob", "a", "b"], "")?;
    let refused = broker(&data, &["user", "remove", "ada"], "")?;
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("no user 'ada'"), "{refused:?}");
    // What was answered is there after SIGKILL.
    drop(run);
    let left = done(&data, &["user", "list"], "")?;
    assert!(
        left.contains(r#"{"name":"bob","tags":["a","b"],"has_password":false}"#) && !left.contains("ada"),
        "{left}"
    );
    assert_eq!(done(&data, &["vhost", "list"], "")?.trim(), r#"{"name":"/"}"#);
    let nothing = broker(&directory.path("nothing"), &["user", "list"], "")?;
    assert!(nothing.status.code() == Some(1) && !directory.0.join("nothing").exists(), "{nothing:?}");
    Ok(())
}

fn background() -> TestResult {
    let directory = Directory::new()?;
    let data = directory.path("data");
    let start: serde_json::Value = serde_json::from_str(&done(&data, &["start", "--listen", "127.0.0.1:0"], "")?)?;
    let address = start["listening"][0].as_str().ok_or("an address")?.to_owned();
    let url = format!("amqp://guest:guest@{address}/");
    assert!(ended(homing(&["--broker", &url, "task", "send", "1", "--no-reply"]))?.status.success(), "{start}");
    let status: serde_json::Value = serde_json::from_str(&done(&data, &["status"], "")?)?;
    assert_eq!(status["pid"], start["pid"]);
    let second = broker(&data, &["start", "--listen", "127.0.0.1:0"], "")?;
    assert!(second.status.code() == Some(1) && text(&second.stderr).contains("already"), "{second:?}");
    let log = std::fs::read_to_string(start["log"].as_str().ok_or("a log")?)?;
    assert!(log.contains("what is durable is kept in"), "{log}");
    done(&data, &["stop"], "")?;
    assert_eq!(broker(&data, &["status"], "")?.status.code(), Some(3));
    // One that cannot start shows why, and leaves nothing running.
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let failed = broker(&data, &["start", "--listen", &address], "")?;
    assert!(failed.status.code() == Some(1) && text(&failed.stderr).contains(&address), "{failed:?}");
    assert_eq!(broker(&data, &["status"], "")?.status.code(), Some(3));
    Ok(())
}

/// A broker with TLS: its certificate comes from the authority whose file this is.
struct Secure {
    directory: Directory,
    authority: certificates::Authority,
}

impl Secure {
    fn new() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let secure = Secure { directory: Directory::new()?, authority: certificates::Authority::new()? };
        std::fs::write(secure.path("ca.pem"), secure.authority.pem())?;
        secure.issue(&secure.authority, "server")?;
        secure.issue(&secure.authority, "client")?;
        Ok(secure)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path(name)
    }

    fn issue(&self, by: &certificates::Authority, name: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let issued = by.issue(certificates::Valid::Now)?;
        issued.write(self.path(&format!("{name}.pem")).as_ref(), self.path(&format!("{name}.key")).as_ref())?;
        Ok(())
    }

    fn start(&self, options: &[&str]) -> Result<Run, Box<dyn std::error::Error + Send + Sync>> {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let listen = ["broker", "run", "--memory", "--listen", "amqps://127.0.0.1:0"];
        let files = ["--tls-cert", &certificate, "--tls-key", &key];
        let mut command = homing(&[&listen, &files[..], options].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("its output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on amqps://").ok_or_else(|| format!("no TLS: {line}"))?;
        Ok(Run { child, url: self.url(address), address: address.to_owned() })
    }

    fn url(&self, address: &str) -> String {
        format!("amqps://guest:guest@{address}/?connection_timeout=20000&cacertfile={}", self.path("ca.pem"))
    }
}

/// A broker in the background, which ends with this.
struct Started(String);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = broker(&self.0, &["stop"], "");
    }
}

fn by_tls() -> TestResult {
    let secure = Secure::new()?;
    let send = |url: &str| ended(homing(&["--broker", url, "task", "send", "{over: tls}", "--no-reply"]));
    let mut run = secure.start(&[])?;
    let sent = send(&run.url)?;
    assert!(sent.status.success(), "{sent:?}");
    let worked = ended(homing(&["--broker", &run.url, "task", "work", "--exec", "cat", "--count", "1"]))?;
    assert!(worked.status.success(), "{worked:?}");
    let plain = format!("amqp://guest:guest@{}/?connection_timeout=20000", run.address);
    let untrusted = format!("amqps://guest:guest@{}/?connection_timeout=20000", run.address);
    for url in [plain, untrusted] {
        assert_eq!(send(&url)?.status.code(), Some(6), "{url}");
    }
    assert!(run.terminate()?.success());
    // With certificates of clients.
    let run = secure.start(&["--tls-ca", &secure.path("ca.pem")])?;
    assert_eq!(send(&run.url)?.status.code(), Some(6), "without a certificate");
    let own = format!("{}&certfile={}&keyfile={}", run.url, secure.path("client.pem"), secure.path("client.key"));
    let sent = send(&own)?;
    assert!(sent.status.success(), "{sent:?}");
    drop(run);
    let (certificate, key, nowhere) = (secure.path("server.pem"), secure.path("server.key"), secure.path("nowhere"));
    // A new certificate, without a restart: in the background a broker has no terminal, whose end SIGHUP would be.
    let data = secure.path("data");
    let start = ["start", "--listen", "amqps://127.0.0.1:0", "--tls-cert", &certificate, "--tls-key", &key];
    let start: serde_json::Value = serde_json::from_str(&done(&data, &start, "")?)?;
    let started = Started(data.clone());
    let address = start["listening"][0].as_str().and_then(|place| place.strip_prefix("amqps://"));
    let url = secure.url(address.ok_or_else(|| format!("no TLS: {start}"))?);
    let sent = send(&url)?;
    assert!(sent.status.success(), "{sent:?}");
    let next = certificates::Authority::new()?;
    secure.issue(&next, "server")?;
    std::fs::write(secure.path("ca.pem"), next.pem())?;
    std::process::Command::new("kill").args(["-HUP", &start["pid"].to_string()]).status()?;
    let log = || std::fs::read_to_string(start["log"].as_str().unwrap_or_default());
    let begun = std::time::Instant::now();
    while !log()?.contains("were read again") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", log()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = send(&url)?;
    assert!(sent.status.success(), "{sent:?}");
    drop(started);
    let expired = secure.authority.issue(certificates::Valid::Before)?;
    expired.write(secure.path("old.pem").as_ref(), secure.path("old.key").as_ref())?;
    let (old, old_key) = (secure.path("old.pem"), secure.path("old.key"));
    let any = ["--listen", "amqps://127.0.0.1:0"];
    for (arguments, code, part) in [
        (&[&any[..], &["--tls-cert", &certificate]].concat()[..], 2, "--tls-key"),
        (&any, 2, "--tls-cert"),
        (&["--listen", "127.0.0.1:0", "--tls-cert", &certificate, "--tls-key", &key], 2, "nothing listens for TLS"),
        (&["--tls-key", &key], 2, "--tls-key needs an address"),
        (&["--tls-ca", &certificate], 2, "--tls-ca needs an address"),
        (&["--listen", "amqps://nowhere"], 2, "IP address"),
        (&["--listen", "http://127.0.0.1:0"], 2, "neither amqp:// nor amqps://"),
        (&[&any[..], &["--tls-cert", &nowhere, "--tls-key", &key]].concat(), 1, "nowhere cannot be read"),
        (&[&any[..], &["--tls-cert", &certificate, "--tls-key", &old_key]].concat(), 1, "is not the one"),
        (&[&any[..], &["--tls-cert", &old, "--tls-key", &old_key]].concat(), 1, "has expired"),
        (&["--listen", "0.0.0.0:0"], 1, "amqps://0.0.0.0:0"),
    ] {
        let output = ended(homing(&[&["broker", "run", "--memory"], arguments].concat()))?;
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(code) && err.contains(part), "{arguments:?}: {err}");
    }
    let unit =
        ["unit", "--systemd", "--listen", "amqps://127.0.0.1:5671", "--tls-cert", &certificate, "--tls-key", &key];
    let systemd = done(&data, &unit, "")?;
    let files = format!("--listen amqps://127.0.0.1:5671 --tls-cert {certificate} --tls-key {key}");
    assert!(systemd.contains(&files) && systemd.contains("ExecReload=/bin/kill -HUP $MAINPID\n"), "{systemd}");
    Ok(())
}

/// A broker with this file and these options: where it listens, when it has started.
fn with_file(
    file: &str,
    options: &[&str],
    places: usize,
) -> Result<(Run, Vec<String>), Box<dyn std::error::Error + Send + Sync>> {
    let mut command = homing(&[&["broker", "run", "--config", file], options].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("its output")?);
    let run = Run { child, url: String::new(), address: String::new() };
    let lines: Vec<String> = output.lines().take(places).collect::<Result<_, _>>()?;
    Ok((run, lines.iter().map(|line| line.replace("listening on ", "")).collect()))
}

fn by_file() -> TestResult {
    let directory = Directory::new()?;
    let file = directory.path("broker.toml");
    let (data, other) = (directory.path("data"), directory.path("other"));
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nsocket = \"s\"\ndata = \"data\"\ndrain = \"7s\"\n")?;
    let (run, places) = with_file(&file, &[], 2)?;
    assert!(places[0].starts_with("127.0.0.1:") && places[1] == directory.path("s"), "{places:?}");
    let status: serde_json::Value = serde_json::from_str(&done(&data, &["status"], "")?)?;
    assert_eq!(status["listening"][0], *places[0]);
    drop(run);
    // What is typed counts before the file: another directory, another socket, two addresses in the place of one.
    let typed =
        ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--socket", &directory.path("t"), "--data", &other];
    let (run, places) = with_file(&file, &typed, 3)?;
    assert!(places[0] != places[1] && places[2] == directory.path("t"), "{places:?}");
    assert!(done(&other, &["status"], "").is_ok(), "it is in the other directory");
    drop(run);
    // A unit keeps the file, and what was typed beside it.
    let unit = ended(homing(&["broker", "unit", "--systemd", "--config", &file, "--listen", "127.0.0.1:5699"]))?;
    let unit = text(&unit.stdout);
    let expected = format!(" broker run --config {file} --listen 127.0.0.1:5699 --data {data}\n");
    assert!(unit.contains(&expected) && unit.contains("TimeoutStopSec=37"), "{unit}");
    for (text_of_file, code, part) in [
        ("memory = true\n\ndrian = 5\n", 2, "broker.toml, line 3: there is no option \"drian\""),
        (
            "listen = [\n \"127.0.0.1:0\",\n \"here\",\n]\n",
            2,
            "broker.toml, line 3: listen: an IP address and a port are wanted",
        ),
        ("drain = \n", 2, "broker.toml, line 1: "),
        ("listen = []\nmemory = true\n", 2, "listens nowhere"),
        ("memory = true\nlisten = \"amqps://127.0.0.1:0\"\n", 2, "--tls-cert and --tls-key"),
        (
            "memory = true\ntls_cert = \"c\"\ntls_key = \"k\"\nlisten = \"amqps://127.0.0.1:0\"\n",
            1,
            &*directory.path("c"),
        ),
        ("memory = true\nhttp = \"0.0.0.0:0\"\nlisten = \"127.0.0.1:0\"\n", 2, "--http 0.0.0.0:0"),
    ] {
        std::fs::write(&file, text_of_file)?;
        let output = ended(homing(&["broker", "run", "--config", &file]))?;
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(code) && err.contains(part), "{text_of_file}: {err}");
    }
    let nowhere = ended(homing(&["broker", "run", "--config", &directory.path("nowhere")]))?;
    let err = text(&nowhere.stderr);
    assert!(nowhere.status.code() == Some(2) && err.contains("nowhere cannot be read"), "{err}");
    Ok(())
}

fn limited() -> TestResult {
    let directory = Directory::new()?;
    let (file, data) = (directory.path("broker.toml"), directory.path("data"));
    // What is typed counts before the file, by which there would be room for all of it.
    std::fs::write(&file, "data = \"data\"\nlisten = \"127.0.0.1:0\"\nmemory_limit = \"1GiB\"\n")?;
    let (by_option, places) = with_file(&file, &["--memory-limit", "64KiB"], 1)?;
    moving::fills(&places[0], &data)?;
    drop(by_option);
    std::fs::write(&file, "data = \"data\"\nlisten = \"127.0.0.1:0\"\nmemory_limit = 65536\n")?;
    let (_by_file, places) = with_file(&file, &[], 1)?;
    moving::fills(&places[0], &data)?;
    for wrong in ["0", "much"] {
        let output = ended(homing(&["broker", "run", "--memory", "--memory-limit", wrong]))?;
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains("size"), "{output:?}");
    }
    Ok(())
}

fn units() -> TestResult {
    let directory = Directory::new()?;
    let data = directory.path("da ta");
    let options = ["--listen", "127.0.0.1:5699", "--drain", "7", "--memory-limit", "4KiB"];
    let systemd = done(&data, &[&["unit", "--systemd"][..], &options].concat(), "")?;
    let line = systemd.lines().find(|line| line.starts_with("ExecStart=")).ok_or("a command")?;
    let expected = format!(" broker run --listen 127.0.0.1:5699 --data \"{data}\" --memory-limit 4096 --drain 7");
    assert!(line.ends_with(&expected) && systemd.contains("TimeoutStopSec=37"), "{systemd}");
    let launchd = done(&data, &[&["unit", "--launchd"][..], &options].concat(), "")?;
    assert!(launchd.contains(&format!("<string>{data}</string>")), "{launchd}");
    Ok(())
}

fn shown_and_ended() -> TestResult {
    let directory = Directory::new()?;
    // A path that is too long for a socket is no hindrance.
    for data in [directory.path("data"), directory.path(&"long/".repeat(30))] {
        let none = broker(&data, &["status"], "")?;
        assert_eq!(none.status.code(), Some(3), "{none:?}");
        let mut run = Run::start(&data)?;
        assert!(ended(homing(&["--broker", &run.url, "task", "send", "1", "--no-reply"]))?.status.success());
        let status: serde_json::Value = serde_json::from_str(&done(&data, &["status"], "")?)?;
        assert_eq!(status["pid"], run.child.id(), "{status}");
        assert_eq!(status["listening"][0], run.address, "{status}");
        assert!(status["vhosts"][0]["name"] == "/" && status["vhosts"][0]["messages"] == 1, "{status}");
        let control = PathBuf::from(&data).join("control");
        if control.exists() {
            assert_eq!(std::fs::symlink_metadata(control)?.permissions().mode() & 0o777, 0o600);
        }
        done(&data, &["stop"], "")?;
        // It has let go of its directory: the next one can have it at once.
        let mut next = Run::start(&data)?;
        assert!(run.child.wait()?.success());
        assert_eq!(broker(&data, &["stop"], "")?.status.code(), Some(0));
        assert!(next.child.wait()?.success());
        let none = broker(&data, &["stop"], "")?;
        assert_eq!(none.status.code(), Some(3), "{none:?}");
    }
    Ok(())
}
