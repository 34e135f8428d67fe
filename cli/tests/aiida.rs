//! A live AiiDA, with a daemon and its worker, that is controlled by `homing process` alone. What homing reports is compared with
//! what AiiDA itself has in its storage.
//!
//! It needs AiiDA, which `tests/tools/install-aiida` installs, and a RabbitMQ node of its own.

#[path = "shell/pty.rs"]
mod pty;
mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shell::{Running, homing, signal, text};
use support::suite::Need;
use support::{Node, Suite, TestResult, Tls};

type Anything<T> = Result<T, Box<dyn std::error::Error>>;

/// No command of AiiDA's takes longer, on a machine that has much to do.
const LONG: Duration = Duration::from_secs(120);

/// The profile, and a password that its URL has to escape: AiiDA sends it to the broker letter by letter.
const PROFILE: &str = "acc";
const PASSWORD: &str = "p%40s/s:@?#";

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(600)).with(
        "node::a_live_aiida_is_driven_by_the_commands",
        &[Need::Aiida, Need::Node],
        live_aiida,
    );
    suite.run()
}

/// A folder of AiiDA's, and what runs for it. All of it ends, and is removed, when this is dropped.
struct Aiida {
    /// Has a name that nothing else has: by it everything that was started for it is found.
    folder: PathBuf,
    python: PathBuf,
    peer: Mutex<Option<Peer>>,
    node: Node,
}

/// AiiDA's own library, at work on the profile.
struct Peer {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Aiida {
    /// A profile without a daemon, on a node of its own.
    fn set_up() -> Anything<Self> {
        let node = Node::start(Tls::No).map_err(|failed| failed.message().unwrap_or("no node").to_owned())?;
        let python = support::aiida().ok_or("HOMING_TEST_AIIDA is not set: run tests/run --full")?;
        let folder = std::env::temp_dir().join(support::unique("aiida"));
        fs::create_dir_all(&folder)?;
        let aiida = Aiida { folder, python: python.into(), peer: Mutex::new(None), node };
        aiida.verdi(&["presto", "--non-interactive", "--profile-name", PROFILE, "--use-zeromq"])?;
        Ok(aiida)
    }

    fn environment(&self, command: &mut Command) {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers");
        command.env("AIIDA_PATH", &self.folder).env("HOME", &self.folder).env("PYTHONPATH", peers);
        // By which the daemon finds `verdi`.
        let own = self.python.with_file_name("");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path))).unwrap_or(path);
        command.env("PATH", path);
        // Not the warnings of whichever version of RabbitMQ there is, nor files beside the scripts.
        command.env("PYTHONWARNINGS", "ignore").env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    }

    fn verdi(&self, arguments: &[&str]) -> Anything<String> {
        let mut command = Command::new(self.python.with_file_name("verdi"));
        command.args(arguments);
        self.environment(&mut command);
        let output = ended_within(command, LONG)?;
        if !output.status.success() {
            return Err(format!("verdi {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr)).into());
        }
        Ok(text(&output.stdout))
    }

    /// Has the broker's URL need escapes, and the profile use that broker: by the command that homing names.
    fn configure_broker(&self) -> Anything<()> {
        for arguments in [
            &["add_user", "ada", PASSWORD][..],
            &["add_vhost", "a b"],
            &["set_permissions", "-p", "a b", "ada", ".*", ".*", ".*"],
        ] {
            self.node.ctl(arguments).map_err(|failed| failed.message().unwrap_or("rabbitmqctl").to_owned())?;
        }
        let port = self.node.described("NODE_AMQP_PORT").ok_or("the node has no port")?;
        let options = [
            "--non-interactive",
            "--force",
            "--broker-protocol",
            "amqp",
            "--broker-host",
            "127.0.0.1",
            "--broker-port",
            &port,
            "--broker-username",
            "ada",
            "--broker-password",
            PASSWORD,
            "--broker-virtual-host",
            "a b",
        ];
        let mut arguments = vec!["-p", PROFILE, "profile", "configure-broker", "core.rabbitmq"];
        arguments.extend(options);
        self.verdi(&arguments)?;
        self.verdi(&["config", "set", "warnings.rabbitmq_version", "false"])?;
        Ok(())
    }

    /// Starts the daemon with one worker, and AiiDA's own library beside it.
    fn start(&self) -> Anything<()> {
        self.verdi(&["daemon", "start", "1", "--timeout", "60"])?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/aiida_peer.py");
        let mut command = Command::new(&self.python);
        self.environment(&mut command);
        let mut child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
        let (lines, answers) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        *self.peer.lock().map_err(|_| "poisoned")? = Some(Peer { child, input, answers });
        Ok(())
    }

    /// Asks AiiDA's own library.
    fn ask(&self, request: &Value) -> Anything<Value> {
        let mut peer = self.peer.lock().map_err(|_| "the peer has failed before")?;
        let peer = peer.as_mut().ok_or("the peer does not run")?;
        writeln!(peer.input, "{request}")?;
        let mut answer: Value = serde_json::from_str(&peer.answers.recv_timeout(LONG)?)?;
        if answer["ok"].is_null() {
            return Err(format!("{request}: {answer}").into());
        }
        Ok(answer["ok"].take())
    }

    /// A process that is in a step for so many seconds, or waits after it: its pid.
    fn process(&self, how: &str, class: &str, seconds: f64) -> Anything<String> {
        Ok(self.ask(&json!({"do": how, "class": class, "seconds": seconds}))?.to_string())
    }

    /// A process that waits, in no step.
    fn waiting(&self) -> Anything<String> {
        let pid = self.process("submit", "Waits", 0.0)?;
        self.until(&pid, &json!({"state": "waiting", "paused": false}))?;
        Ok(pid)
    }

    /// Waits until AiiDA's storage has this of a process.
    fn until(&self, pid: &str, wanted: &Value) -> Anything<()> {
        let pk: i64 = pid.parse()?;
        let until = Instant::now() + LONG;
        loop {
            let found = self.ask(&json!({"do": "look", "pk": pk}))?;
            if wanted.as_object().ok_or("no object")?.iter().all(|(name, value)| found[name] == *value) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("process {pid} is {found}, and not {wanted}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The command on the profile; what it printed.
    fn homing(&self, arguments: &[&str], code: i32) -> Anything<(String, String)> {
        self.homing_by("--aiida", arguments, code)
    }

    fn homing_by(&self, profile: &str, arguments: &[&str], code: i32) -> Anything<(String, String)> {
        let output = ended_within(self.homing_command(profile, arguments), LONG)?;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "{arguments:?} prints the password");
        if output.status.code() != Some(code) {
            return Err(format!("{arguments:?}: {} instead of {code}\nout: {out}\nerr: {err}", output.status).into());
        }
        Ok((out, err))
    }

    fn homing_command(&self, profile: &str, arguments: &[&str]) -> Command {
        let mut command = homing(&[profile, "--format", "json"]);
        command.args(arguments).env("AIIDA_PATH", &self.folder);
        command
    }

    /// The processes of the system that were started for this folder: `AIIDA_PATH` gives them away.
    fn left_running(&self) -> Vec<u32> {
        let mark = format!("AIIDA_PATH={}", self.folder.display());
        let is_marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect()
    }

    /// Ends everything in order, and demands that nothing is left.
    fn stop(&self) -> Anything<()> {
        if let Some(mut peer) = self.peer.lock().map_err(|_| "poisoned")?.take() {
            drop(peer.input);
            peer.child.wait()?;
        }
        self.verdi(&["daemon", "stop", "--timeout", "60"])?;
        let until = Instant::now() + Duration::from_secs(10);
        while !self.left_running().is_empty() {
            if Instant::now() > until {
                return Err(format!("the daemon has left {:?} running", self.left_running()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Aiida {
    fn drop(&mut self) {
        // Nothing of it is there after a test that went well.
        for pid in self.left_running() {
            eprintln!("process {pid} of AiiDA's is killed");
            signal(pid, "KILL");
        }
        if let Ok(mut peer) = self.peer.lock()
            && let Some(peer) = peer.as_mut()
        {
            let _ = peer.child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a command came to that may have left children behind, which have its output too.
fn ended_within(mut command: Command, limit: Duration) -> std::io::Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        let (send, bytes) = channel();
        std::thread::spawn(move || {
            let (mut pipe, mut buffer) = (pipe?, [0; 4096]);
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                send.send(buffer[..count].to_vec()).ok()?;
            }
            Some(())
        });
        bytes
    };
    let (out, err) = (
        read(child.stdout.take().map(|pipe| Box::new(pipe) as _)),
        read(child.stderr.take().map(|pipe| Box::new(pipe) as _)),
    );
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::other(format!("{command:?} hangs")));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Until both are closed, or a daemon keeps them open.
    let all = |bytes: Receiver<Vec<u8>>| {
        let mut all = Vec::new();
        while let Ok(more) = bytes.recv_timeout(Duration::from_millis(500)) {
            all.extend(more);
        }
        all
    };
    Ok(Output { status, stdout: all(out), stderr: all(err) })
}

fn json_lines(text: &str) -> Anything<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn live_aiida() -> TestResult {
    let aiida = Aiida::set_up().map_err(|error| error.to_string())?;
    let mut failed = Vec::new();
    let mut run = |name: &str, part: fn(&Aiida) -> Anything<()>| {
        let begun = Instant::now();
        // One part that fails does not hide the others.
        match catch_unwind(AssertUnwindSafe(|| part(&aiida))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error}")),
            Err(_) => failed.push(format!("{name}: it panicked, see above")),
        }
        println!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
    };
    run("a profile on another backend is named, and what is advised works", other_backend);
    run("a profile that is not there, or is malformed", profiles);
    run("the daemon starts", Aiida::start);
    run("what AiiDA's workers and storage do is not taken over", not_for_aiida);
    run("status, pause, play and kill", controlled);
    run("in the middle of a step", in_a_step);
    run("continue and watch", continued);
    run("all at once", all);
    run("one frame of top", one_frame);
    run("top, and its keys", by_keys);
    run("beside verdi", beside_verdi);
    run("the broker is killed and starts again", broker_killed);
    run("the daemon stops", Aiida::stop);
    run("without a worker", unreachable);
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

fn other_backend(aiida: &Aiida) -> Anything<()> {
    let (_, err) = aiida.homing(&["process", "status", "1"], 2)?;
    let advised = "verdi -p acc profile configure-broker core.rabbitmq";
    assert!(err.contains("core.zeromq") && err.contains(advised), "{err}");
    aiida.configure_broker()?;
    // The broker is reached by now.
    let (_, err) = aiida.homing(&["process", "status", "1"], 3)?;
    assert!(err.contains("process 1 cannot be reached"), "{err}");
    Ok(())
}

fn profiles(aiida: &Aiida) -> Anything<()> {
    let (_, err) = aiida.homing_by("--profile=other", &["process", "status", "1"], 2)?;
    assert!(err.contains("no profile \\\"other\\\"") && err.contains(PROFILE), "{err}");
    aiida.homing_by("--profile=acc", &["process", "status", "1"], 3)?;
    let file = aiida.folder.join(".aiida/config.json");
    let whole = fs::read_to_string(&file)?;
    let mut without_default: Value = serde_json::from_str(&whole)?;
    without_default.as_object_mut().ok_or("no object")?.remove("default_profile");
    let broken = [
        (whole[..whole.len() / 2].to_owned(), "not JSON"),
        (without_default.to_string(), "--profile NAME"),
        (whole.replace("127.0.0.1", "127.0.0.1:99999"), "broker_host"),
    ];
    let mut results = Vec::new();
    for (text, part) in broken {
        fs::write(&file, text)?;
        results.push((aiida.homing(&["process", "status", "1"], 2), part));
    }
    fs::write(&file, whole)?;
    for (result, part) in results {
        let (_, err) = result?;
        assert!(err.contains(part) && err.contains("config.json"), "{part}: {err}");
    }
    Ok(())
}

fn not_for_aiida(aiida: &Aiida) -> Anything<()> {
    let pid = aiida.waiting()?;
    for (arguments, advised) in [
        (&["process", "list"][..], "verdi process list"),
        (&["process", "show", &pid], "verdi process show"),
        (&["process", "report", &pid], "verdi process report"),
        (&["process", "repair"], "verdi process repair"),
        (&["worker"], "verdi daemon start"),
        (&["run", "--", "true"], "AiiDA"),
    ] {
        let (_, err) = aiida.homing(arguments, 2)?;
        assert!(err.contains(advised), "{arguments:?}: {err}");
    }
    aiida.homing(&["process", "kill", &pid], 0)?;
    Ok(())
}

fn controlled(aiida: &Aiida) -> Anything<()> {
    let (first, second) = (aiida.waiting()?, aiida.waiting()?);
    let pk: i64 = first.parse()?;
    let (out, _) = aiida.homing(&["process", "status", &first, "999999"], 3)?;
    let status = json_lines(&out)?.into_iter().find(|line| line["pid"] == pk).ok_or("no line")?;
    assert_eq!((&status["state"], &status["paused"]), (&json!("waiting"), &json!(false)), "{status}");
    assert!(status["description"].as_str().is_some_and(|text| text.contains("Waits")), "{status}");

    let (out, _) = aiida.homing(&["process", "pause", &first, &second, "--message", "the disk: ü"], 0)?;
    assert_eq!(json_lines(&out)?.len(), 2, "{out}");
    for pid in [&first, &second] {
        aiida.until(pid, &json!({"state": "waiting", "paused": true, "status": "the disk: ü"}))?;
    }
    let paused = aiida.verdi(&["process", "list", "--paused", "--raw", "-P", "pk"])?;
    assert!([&first, &second].iter().all(|pid| paused.lines().any(|line| line.trim() == **pid)), "{paused}");
    let (out, _) = aiida.homing(&["process", "status", &first], 0)?;
    assert_eq!(json_lines(&out)?[0]["paused"], true);
    // Again, as it is already.
    aiida.homing(&["process", "pause", &first], 0)?;

    aiida.homing(&["process", "play", &first], 0)?;
    aiida.until(&first, &json!({"state": "waiting", "paused": false}))?;
    aiida.homing(&["process", "kill", &first, "--message", "enough"], 0)?;
    aiida.until(&first, &json!({"state": "killed", "status": "enough"}))?;
    // And one that is paused.
    aiida.homing(&["process", "kill", &second], 0)?;
    aiida.until(&second, &json!({"state": "killed"}))?;
    let (_, err) = aiida.homing(&["process", "status", &first], 3)?;
    assert!(err.contains("verdi daemon status") && err.contains("continue"), "{err}");
    let (_, err) = aiida.homing(&["process", "kill", &first], 3)?;
    assert!(err.contains("verdi process list --all") && !err.contains("process continue"), "{err}");
    Ok(())
}

fn in_a_step(aiida: &Aiida) -> Anything<()> {
    let pid = aiida.process("submit", "Sleeps", 300.0)?;
    aiida.until(&pid, &json!({"state": "running"}))?;
    let (_, err) = aiida.homing(&["process", "pause", &pid, "--timeout", "2s"], 4)?;
    assert!(err.contains("after it was received"), "{err}");
    // Which cancels the pause that waits.
    aiida.homing(&["process", "play", &pid], 0)?;
    let (_, err) = aiida.homing(&["process", "kill", &pid, "--timeout", "2s"], 4)?;
    assert!(err.contains("--force"), "{err}");
    aiida.homing(&["process", "kill", &pid, "--force", "--message", "now"], 0)?;
    aiida.until(&pid, &json!({"state": "killed", "status": "now"}))?;
    // A pause that waits until the step has ended.
    let pid = aiida.process("submit", "Waits", 4.0)?;
    aiida.until(&pid, &json!({"state": "running"}))?;
    let (out, _) = aiida.homing(&["process", "pause", &pid], 0)?;
    assert_eq!(json_lines(&out)?[0]["outcome"], "paused");
    aiida.until(&pid, &json!({"state": "waiting", "paused": true}))?;
    aiida.homing(&["process", "kill", &pid], 0)?;
    aiida.until(&pid, &json!({"state": "killed"}))?;
    Ok(())
}

fn continued(aiida: &Aiida) -> Anything<()> {
    let pid = aiida.process("store", "Sleeps", 0.5)?;
    let pk: i64 = pid.parse()?;
    let (_, err) = aiida.homing(&["process", "status", &pid], 3)?;
    assert!(err.contains(&format!("homing --aiida process continue {pid} --nowait")), "{err}");
    let mut watch = Running::start(aiida.homing_command("--aiida", &["process", "watch", &pid, "--count", "2"]))?;
    // As was advised.
    let (out, _) = aiida.homing(&["process", "continue", &pid, "--nowait"], 0)?;
    assert_eq!(json_lines(&out)?[0]["outcome"], "continued");
    assert_eq!(watch.ends()?, Some(0));
    let mut changes = String::new();
    watch.0.stdout.take().ok_or("no pipe")?.read_to_string(&mut changes)?;
    let changes: Vec<_> =
        json_lines(&changes)?.iter().map(|line| json!([line["pid"], line["from"], line["to"]])).collect();
    assert_eq!(changes, [json!([pk, "created", "running"]), json!([pk, "running", "finished"])]);
    aiida.until(&pid, &json!({"state": "finished", "exit_status": 0}))?;
    // Awaited.
    let pid = aiida.process("store", "Sleeps", 0.5)?;
    let (out, _) = aiida.homing(&["process", "continue", &pid], 0)?;
    assert_eq!(json_lines(&out)?[0]["outcome"], "ended");
    aiida.until(&pid, &json!({"state": "finished", "exit_status": 0}))?;
    // There is none of this number.
    aiida.homing(&["process", "continue", "999999"], 5)?;
    Ok(())
}

fn all(aiida: &Aiida) -> Anything<()> {
    let pids = [aiida.waiting()?, aiida.waiting()?, aiida.waiting()?];
    aiida.homing(&["process", "pause", "--all", "--message", "all stop"], 0)?;
    for pid in &pids {
        aiida.until(pid, &json!({"state": "waiting", "paused": true, "status": "all stop"}))?;
    }
    aiida.homing(&["process", "play", "--all"], 0)?;
    for pid in &pids {
        aiida.until(pid, &json!({"state": "waiting", "paused": false}))?;
    }
    aiida.homing(&["process", "kill", "--all"], 0)?;
    for pid in &pids {
        aiida.until(pid, &json!({"state": "killed"}))?;
    }
    Ok(())
}

/// What one frame has of a process that was named, by its answer, and of one that was not, by its changes of state.
fn one_frame(aiida: &Aiida) -> Anything<()> {
    let waiting = aiida.waiting()?;
    aiida.homing(&["process", "pause", &waiting, "--message", "look at me"], 0)?;
    let (out, _) = aiida.homing(&["top", "--once", &waiting, "999999"], 0)?;
    let frame: Value = serde_json::from_str(&out)?;
    let of = |pid: &str, frame: &Value| {
        let pk: Option<u64> = pid.parse().ok();
        frame["processes"].as_array().and_then(|all| all.iter().find(|one| one["pid"].as_u64() == pk).cloned())
    };
    let one = of(&waiting, &frame).ok_or("it is not in the frame")?;
    assert_eq!(
        (&one["state"], &one["paused"], &one["answers"]),
        (&json!("waiting"), &json!(true), &json!(true)),
        "{one}"
    );
    assert_eq!((&one["stored"], &frame["store"]), (&json!(false), &Value::Null), "AiiDA's storage is not homing's");
    assert!(one["message"].as_str().is_some_and(|text| text.contains("Waits")), "{one}");
    let nobody = of("999999", &frame).ok_or("it was named")?;
    assert_eq!((&nobody["state"], &nobody["answers"]), (&Value::Null, &json!(false)), "{nobody}");
    // The queue of the profile, with its worker.
    let queue = &frame["queues"][0];
    assert!(queue["name"].as_str().is_some_and(|name| name.starts_with("aiida-")), "{queue}");
    assert_eq!((&queue["ready"], &queue["consumers"]), (&json!(0), &json!(1)), "{queue}");
    // Without names: what changes its state meanwhile.
    let mut command = aiida.homing_command("--aiida", &["top", "--once", "--wait", "20s"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_secs(5));
    let ends = aiida.process("submit", "Sleeps", 0.5)?;
    aiida.until(&ends, &json!({"state": "finished"}))?;
    aiida.homing(&["process", "kill", &waiting], 0)?;
    let output = shell::wait(child)?;
    let frame: Value = serde_json::from_str(&text(&output.stdout))?;
    for (pid, state) in [(&ends, "finished"), (&waiting, "killed")] {
        let one = of(pid, &frame).ok_or_else(|| format!("{pid} is not in the frame: {frame}"))?;
        assert_eq!(one["state"], state, "{one}");
    }
    Ok(())
}

fn by_keys(aiida: &Aiida) -> Anything<()> {
    let pid = aiida.waiting()?;
    let mut command = homing(&["--aiida", "top", &pid]);
    command.env("AIIDA_PATH", &aiida.folder).env("TERM", "xterm-256color");
    let mut top = pty::Pty::start(&command)?;
    top.is_taken();
    top.until_line(&[&format!("{pid} "), "waiting", "Waits"]);
    top.press("p")?;
    top.until(&[&format!("{pid} paused")]);
    top.until_line(&[&format!("{pid} "), "waiting, paused"]);
    aiida.until(&pid, &json!({"state": "waiting", "paused": true}))?;
    top.press("l")?;
    top.until(&[&format!("{pid} plays")]);
    aiida.until(&pid, &json!({"state": "waiting", "paused": false}))?;
    // What it answers.
    top.press("\r")?;
    top.until(&["process_string", "ProcessState.WAITING"]);
    top.press("\u{1b}")?;
    top.until(&["PID"]);
    top.press("Ky")?;
    top.until_line(&[&format!("{pid} "), "killed"]);
    aiida.until(&pid, &json!({"state": "killed"}))?;
    top.press("q")?;
    let screen = top.ends(0);
    assert!(!screen.contains(PASSWORD), "{screen}");
    Ok(())
}

/// Prints how long both take.
fn beside_verdi(aiida: &Aiida) -> Anything<()> {
    const ROUNDS: usize = 3;
    let pid = aiida.waiting()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        aiida.homing(&["process", "pause", &pid], 0)?;
        ours.push(begun.elapsed());
        aiida.homing(&["process", "play", &pid], 0)?;
        let begun = Instant::now();
        aiida.verdi(&["process", "pause", &pid])?;
        theirs.push(begun.elapsed());
        aiida.homing(&["process", "play", &pid], 0)?;
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[ROUNDS / 2].as_secs_f64()
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!("pause PK, median of {ROUNDS}: homing {ours:.2} s, verdi {theirs:.2} s: {:.0} times", theirs / ours);
    aiida.homing(&["process", "kill", &pid], 0)?;
    Ok(())
}

/// AiiDA's own workers come back to a broker that was killed, with the processes that they have, and take new ones.
fn broker_killed(aiida: &Aiida) -> Anything<()> {
    let pid = aiida.waiting()?;
    let said = |failed: libtest_mimic::Failed| failed.message().unwrap_or("no node").to_owned();
    aiida.node.kill().map_err(said)?;
    aiida.node.restart().map_err(said)?;
    // They try again at times of their own.
    let until = Instant::now() + LONG;
    loop {
        let output = ended_within(aiida.homing_command("--aiida", &["process", "pause", &pid]), LONG)?;
        match output.status.code() {
            Some(0) => break,
            Some(3) if Instant::now() < until => {}
            other => return Err(format!("{other:?}: {}", text(&output.stderr)).into()),
        }
    }
    aiida.until(&pid, &json!({"state": "waiting", "paused": true}))?;
    aiida.homing(&["process", "play", &pid], 0)?;
    aiida.homing(&["process", "kill", &pid], 0)?;
    aiida.until(&pid, &json!({"state": "killed"}))?;
    let next = aiida.process("submit", "Sleeps", 0.1)?;
    aiida.until(&next, &json!({"state": "finished"}))
}

fn unreachable(aiida: &Aiida) -> Anything<()> {
    let (out, err) = aiida.homing(&["process", "status", "1"], 3)?;
    assert_eq!(json_lines(&out)?[0]["error"]["kind"], "unroutable");
    assert!(err.contains("verdi daemon status"), "{err}");
    Ok(())
}
