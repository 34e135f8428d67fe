//! `homing top`: one frame for scripts, and the view in a terminal, by a pseudo-terminal and what it shows.

#[path = "shell/pty.rs"]
mod pty;
mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use pty::{COLUMNS, Pty, ROWS};
use serde_json::{Value, json};
use shell::{Running, ended, eventually, exits, homing, same_surroundings, text, through_shell};
use support::proxy::Proxy;
use support::{Broker, Peer, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(120));
    suite
        .plain("wrong_usage_names_what_is_wrong", usage)
        .rabbitmq("a_terminal_that_is_none_is_refused_with_what_to_do", no_terminal)
        .rabbitmq("one_frame_has_what_the_store_and_the_queue_have", once)
        .rabbitmq("without_a_store_named_processes_are_asked", once_without_a_store)
        .rabbitmq("changes_are_collected_for_a_while", once_waits)
        .rabbitmq("the_management_api_gives_rates_and_what_is_not_acknowledged", management)
        .rabbitmq("a_process_is_seen_paused_played_and_killed_by_keys", keys)
        .rabbitmq("a_process_that_waits_for_a_slot_is_killed_by_a_key", killed_in_queue)
        .rabbitmq("a_process_is_looked_into_and_found_by_a_filter", detail)
        .rabbitmq("the_terminal_is_as_before_after_q_and_ctrl_c", restored_by_keys)
        .rabbitmq("the_terminal_is_as_before_after_a_signal", restored_after_signals)
        .rabbitmq("the_terminal_is_as_before_after_a_panic", restored_after_a_panic)
        .rabbitmq("a_command_that_is_stuck_gives_the_terminal_back_by_a_signal", restored_when_stuck)
        .rabbitmq("the_terminal_is_as_before_after_an_error", restored_after_an_error)
        .rabbitmq("ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back", suspended)
        .rabbitmq("a_terminal_may_change_its_size", resized)
        .rabbitmq("a_lost_connection_is_shown_until_it_is_back", lost)
        .rabbitmq("what_others_write_does_not_steer_the_terminal", hostile)
        .rabbitmq("colours_are_used_where_they_are_wanted", colours)
        .rabbitmq("a_flood_of_changes_leaves_keys_at_work_and_memory_bounded", flood)
        .rabbitmq("the_screen_is_drawn_ten_times_a_second_at_most", frames)
        .kiwipy("plumpy_processes_are_seen_paused_and_killed", plumpy);
    suite.run()
}

/// A store of a trial, and the names of its broker.
struct Place {
    folder: PathBuf,
    broker: Broker,
}

impl Place {
    fn new(broker: &Broker) -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(support::unique("top"));
        fs::create_dir_all(&folder)?;
        Ok(Place { folder, broker: broker.clone() })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_at(self.broker.url(), arguments)
    }

    fn command_at(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = homing(&["--broker", url, "--prefix", self.broker.prefix()]);
        command.args(arguments).env("HOMING_STORE", self.folder.join("processes.db")).current_dir(&self.folder);
        command.env("TERM", "xterm-256color");
        command
    }

    fn ended(&self, arguments: &[&str]) -> std::io::Result<Output> {
        ended(self.command(arguments))
    }

    fn worker(&self) -> std::io::Result<Running> {
        Running::start(self.command(&["worker", "--slots", "8", "--drain", "0"]))
    }

    /// Runs a shell script as a job in the background: its pid.
    fn job(&self, script: &str) -> Result<String, Box<dyn std::error::Error>> {
        let (out, _) = exits(&self.ended(&["run", "--detach", "--", "sh", "-c", script])?, 0);
        let pid = out.trim().to_owned();
        // A worker has it a moment later.
        eventually("it cannot be called", || {
            self.ended(&["process", "status", &pid]).is_ok_and(|output| output.status.code() == Some(0))
        });
        Ok(pid)
    }

    fn show(&self, pid: &str) -> Value {
        let (out, _) = exits(&self.ended(&["--format", "json", "process", "show", pid]).expect("shown"), 0);
        serde_json::from_str(&out).expect("JSON")
    }

    fn once(&self, options: &[&str]) -> Value {
        let mut arguments = vec!["--format", "json", "top", "--once"];
        arguments.extend(options);
        let (out, _) = exits(&self.ended(&arguments).expect("shown"), 0);
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).expect("JSON")
    }

    /// The view in a terminal of this size.
    fn top(&self, options: &[&str]) -> Result<Pty, Box<dyn std::error::Error>> {
        let mut arguments = vec!["top"];
        arguments.extend(options);
        Pty::start(&self.command(&arguments))
    }

    fn task_queue(&self) -> String {
        format!("{}.process.queue", self.broker.prefix())
    }

    /// Broadcasts that a process has changed its state.
    fn announce(&self, pid: &str, subject: &str) -> TestResult {
        let arguments = ["broadcast", "send", "null", "--subject", subject, "--sender", pid];
        exits(&self.ended(&arguments)?, 0);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn usage() -> TestResult {
    for (arguments, part) in [
        (&["top"][..], "--once"),
        (&["--format", "json", "top"], "--once"),
        (&["top", "--wait", "1s"], "--once"),
        (&["top", "--once", "--wait", "soon"], "not a time"),
        (&["top", "--store", "x", "--no-store"], "--no-store"),
        (&["top", "--once", "--store", ""], "--store"),
        (&["top", "--once", "--broker", "amqp://h", "--management", "ftp://u:sEcret@h"], "neither with https"),
        (&["top", "--once", "--broker", "memory:"], "memory:"),
        (&["top", "a\nb"], "control character"),
        (&["top", "--once", "--queue", ""], "the name is empty"),
    ] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains(part) && !err.contains("Ecret"), "{arguments:?}: {err}");
    }
    let many: Vec<String> = (0..20).map(|n| format!("--queue=q{n}")).collect();
    let mut command = homing(&["top", "--once"]);
    command.args(many);
    assert!(exits(&ended(command)?, 2).1.contains("16 can be shown"));
    // A store that is asked for has to be there.
    let (_, err) = exits(&ended(homing(&["top", "--once", "--store", "/nonexistent/p.db"]))?, 1);
    assert!(err.contains("/nonexistent/p.db"), "{err}");
    let (_, err) = exits(&ended(homing(&["--broker", "amqp://127.0.0.1:1", "top", "--once"]))?, 6);
    assert!(err.contains("nothing listens"), "{err}");
    let (help, _) = exits(&ended(homing(&["top", "--help"]))?, 0);
    for part in ["Keys:", "K          kills it, after a question", "--once", "What is shown:", "HOMING_STORE", "2,000"]
    {
        assert!(help.contains(part), "{part}\n{help}");
    }
    Ok(())
}

fn no_terminal(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut command = place.command(&["top", "--no-store"]);
    command.env("TERM", "dumb");
    let mut pty = Pty::start(&command)?;
    let shown = pty.ends(2);
    assert!(shown.contains("TERM=dumb") && shown.contains("--once"), "{shown}");
    // In a terminal that can do all, of which one of the two is not a part.
    for elsewhere in ["< /dev/null", "> shown"] {
        let top = place.command(&["top", "--no-store"]);
        let mut command = through_shell(&top, &format!("exec \"$0\" \"$@\" {elsewhere}"));
        let mut pty = Pty::start(command.current_dir(&place.folder))?;
        let shown = pty.ends(2);
        assert!(shown.contains("have to be a terminal") && shown.contains("--once"), "{elsewhere}: {shown}");
    }
    Ok(())
}

fn once(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker()?;
    let (first, second) = (place.job("sleep 300")?, place.job("sleep 300")?);
    exits(&place.ended(&["run", "--", "false"])?, 1);
    exits(&place.ended(&["process", "pause", &second, "--message", "the disk is full"])?, 0);
    let frame = place.once(&[]);
    let of = |pid: &str| {
        let all = frame["processes"].as_array().expect("a list");
        all.iter()
            .find(|process| process["pid"].as_u64() == pid.parse().ok())
            .unwrap_or_else(|| panic!("no {pid}: {frame}"))
            .clone()
    };
    let (running, paused, ended) = (of(&first), of(&second), of("3"));
    assert_eq!(
        (&running["state"], &running["paused"], &running["class"]),
        (&json!("running"), &json!(false), &json!("shell"))
    );
    assert_eq!((&paused["state"], &paused["paused"]), (&json!("running"), &json!(true)));
    assert_eq!(paused["message"], "the disk is full");
    assert_eq!(
        (&ended["state"], &ended["exit_status"], &ended["worker"]),
        (&json!("finished"), &json!(1), &Value::Null)
    );
    let worker = place.show(&first)["lease"]["process_id"].to_string();
    assert_eq!(running["worker"], worker.as_str());
    assert!(running["created"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')));
    let queue = &frame["queues"][0];
    assert_eq!(
        (&queue["name"], &queue["ready"], &queue["consumers"], &queue["unacknowledged"]),
        (&json!(place.task_queue()), &json!(0), &json!(1), &Value::Null)
    );
    assert_eq!(
        (&frame["queues"][1]["exists"], &frame["connected"], &frame["more"]),
        (&json!(false), &json!(true), &json!(false))
    );
    assert!(frame["store"].as_str().is_some_and(|store| store.ends_with("processes.db")));
    // A queue that no broker can have is wrong by itself.
    let frame = place.once(&["--queue", &"x".repeat(300)]);
    let queues = frame["queues"].as_array().expect("a list");
    assert_eq!((&queues[0]["ready"], &queues[0]["error"]), (&json!(0), &Value::Null), "{queues:?}");
    assert!(queues[2]["error"].as_str().is_some_and(|why| why.contains("255")), "{queues:?}");
    // The same as text, whole although it goes to no terminal.
    let (out, err) = exits(&place.ended(&["top", "--once"])?, 0);
    assert!(err.is_empty(), "{err}");
    let row = |pid: &str| -> Vec<&str> {
        let found =
            out.lines().find(|line| line.starts_with(&format!("{pid} "))).unwrap_or_else(|| panic!("no {pid}: {out}"));
        found.split_whitespace().collect()
    };
    assert_eq!(row(&second)[1..3], ["running,", "paused"]);
    assert!(row(&second).join(" ").ends_with(&format!("{worker} shell the disk is full")), "{out}");
    assert!(row("3").join(" ").contains("shell exit status 1"), "{out}");
    assert!(out.contains(" running 2 (1 paused)  finished 1\n") && out.contains("no such queue yet"), "{out}");
    assert!(!out.contains('\u{1b}') && out.lines().all(|line| line.chars().count() <= 120), "{out}");
    // Some of them, and others: a process that nobody has is no failure of the frame.
    let frame = place.once(&[&second, "77"]);
    let mut pids: Vec<String> = frame["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|process| format!("{} {}", process["pid"], process["state"]))
        .collect();
    pids.sort();
    assert_eq!(pids, [format!("{second} \"running\""), "77 null".to_owned()]);
    Ok(())
}

fn once_without_a_store(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker()?;
    let pid = place.job("sleep 300")?;
    exits(&place.ended(&["process", "pause", &pid])?, 0);
    let frame = place.once(&["--no-store"]);
    assert_eq!((&frame["processes"], &frame["store"]), (&json!([]), &Value::Null));
    let frame = place.once(&["--no-store", &pid]);
    let process = &frame["processes"][0];
    assert_eq!(
        (&process["state"], &process["paused"], &process["answers"]),
        (&json!("running"), &json!(true), &json!(true))
    );
    assert_eq!((&process["stored"], &process["worker"]), (&json!(false), &Value::Null));
    Ok(())
}

fn once_waits(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut command = place.command(&["--format", "json", "top", "--once", "--no-store", "--wait", "5s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It cannot be known when it has subscribed.
    while child.try_wait()?.is_none() {
        place.announce("4", "state_changed.running.waiting")?;
        place.announce("5", "state_changed.running.finished")?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let (out, _) = exits(&shell::wait(child)?, 0);
    let frame: Value = serde_json::from_str(&out)?;
    let states: Vec<(String, &Value)> = frame["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|process| (process["pid"].to_string(), &process["state"]))
        .collect();
    // Nobody answers for the first; its last state is known all the same.
    assert_eq!(states, [("4".to_owned(), &json!("waiting")), ("5".to_owned(), &json!("finished"))]);
    assert_ne!(frame["processes"][0]["answers"], true);
    assert!(
        frame["events"]
            .as_array()
            .is_some_and(|events| events.iter().any(|event| event["text"] == "4  running -> waiting"))
    );
    Ok(())
}

/// Answers as the management API does for a queue, until the test ends.
fn management_api() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://ada:sEcret@{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(length @ 1..) => request.extend_from_slice(&piece[..length]),
                    _ => break,
                }
            }
            let request = text(&request);
            let body = json!({
                "messages_ready": 41, "messages_unacknowledged": 7, "consumers": 3, "messages_ready_details": {"rate": -2.5},
                "message_stats": {"publish_details": {"rate": 1.5}, "deliver_get_details": {"rate": 4.0}},
            });
            let (status, body) = match request.split_whitespace().nth(1) {
                Some(path) if path.ends_with(".quarantine") => ("404 Not Found", String::new()),
                Some(path) if path.starts_with("/api/queues/%2F/") => ("200 OK", body.to_string()),
                _ => ("500 What", String::new()),
            };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok(url)
}

fn management(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let url = management_api()?;
    let frame = place.once(&["--no-store", "--management", &url]);
    let queue = &frame["queues"][0];
    assert_eq!(queue["name"], place.task_queue());
    for (name, value) in [
        ("ready", json!(41)),
        ("unacknowledged", json!(7)),
        ("consumers", json!(3)),
        ("published_per_second", json!(1.5)),
        ("delivered_per_second", json!(4.0)),
        ("acknowledged_per_second", Value::Null),
        ("growth_per_second", json!(-2.5)),
        ("error", Value::Null),
    ] {
        assert_eq!(queue[name], value, "{name}");
    }
    assert_eq!(frame["queues"][1]["exists"], false);
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let output =
        place.ended(&["top", "--once", "--no-store", "--management", &format!("http://ada:sEcret@{nobody}")])?;
    let (out, err) = exits(&output, 0);
    assert!(
        out.contains("no answer from the management API") && err.contains("no answer") && !err.contains("sEcret"),
        "{out}{err}"
    );
    Ok(())
}

fn keys(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker()?;
    let mut top = place.top(&[])?;
    top.is_taken();
    // It is seen when it comes.
    let pid = place.job("sleep 300")?;
    top.until_line(&[&format!("{pid} "), "running", "shell"]);
    top.press("p")?;
    top.until(&[&format!("{pid} paused")]);
    top.until_line(&[&format!("{pid} "), "running, paused", "shell"]);
    assert_ne!(place.show(&pid)["paused"], Value::Null);
    top.press("l")?;
    top.until(&[&format!("{pid} plays")]);
    assert_eq!(place.show(&pid)["paused"], Value::Null);
    top.press("Kn")?;
    top.until(&[&format!("{pid} is not killed")]);
    assert_eq!(place.show(&pid)["state"], "running");
    // Somebody else pauses it.
    exits(&place.ended(&["process", "pause", &pid, "--message", "the disk is full"])?, 0);
    top.until_line(&[&format!("{pid} "), "running, paused", "the disk is full"]);
    top.press(" ")?;
    eventually("it does not play", || place.show(&pid)["paused"] == Value::Null);
    top.press("K")?;
    top.until(&[&format!("kill {pid}?")]);
    top.press("y")?;
    top.until_line(&[&format!("{pid} "), "killed", "shell"]);
    assert_eq!(place.show(&pid)["state"], "killed");
    top.press("p")?;
    top.until(&[&format!("{pid} is unreachable: no worker has it")]);
    top.press("q")?;
    top.ends(0);
    Ok(())
}

/// A process that waits for a slot, and that nobody can be asked about, is killed by a key too.
fn killed_in_queue(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = Running::start(place.command(&["worker", "--drain", "0"]))?;
    let busy = place.job("sleep 300")?;
    let (out, _) = exits(&place.ended(&["run", "--detach", "--", "sh", "-c", "echo x > ran"])?, 0);
    let waits = out.trim();
    let mut top = place.top(&[])?;
    top.until_line(&[&format!("{waits} "), "created", "shell"]);
    // The newest is the first.
    top.press("gKy")?;
    top.until_line(&[&format!("{waits} "), "killed", "shell"]);
    assert_eq!((&place.show(waits)["state"], &place.show(&busy)["state"]), (&json!("killed"), &json!("running")));
    top.press("q")?;
    top.ends(0);
    Ok(())
}

fn detail(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker()?;
    let pid = place.job("echo the first line; echo trouble >&2; sleep 300")?;
    place.job("sleep 300")?;
    let mut top = place.top(&[])?;
    top.until(&["running 2"]);
    top.press("/first\r")?;
    top.until(&["shows 1 of 2"]);
    top.press("\r")?;
    let screen = top.until(&["process      1", "states", "running, step", "the first line", "trouble", "answer"]);
    assert!(screen.contains("class        shell"), "{screen}");
    // What comes while it is looked into.
    exits(&place.ended(&["process", "pause", &pid, "--message", "look"])?, 0);
    top.until(&["running, paused", "look"]);
    top.press("?")?;
    top.until(&["KEYS"]);
    top.press("x\u{1b}")?;
    top.until(&["PID", "filter"]);
    top.press("\u{3}")?;
    top.ends(0);
    Ok(())
}

fn restored_by_keys(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    for key in ["q", "\u{3}"] {
        let mut top = place.top(&["--no-store"])?;
        top.is_taken();
        top.press(key)?;
        top.ends(0);
    }
    Ok(())
}

fn restored_after_signals(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut top = place.top(&["--no-store"])?;
        top.is_taken();
        top.signal(name);
        assert!(top.ends(code).contains("interrupted"), "{name}");
    }
    Ok(())
}

fn restored_after_a_panic(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut top = place.top(&["--no-store", "--seed-fault", "panic"])?;
    top.is_taken();
    top.press("!")?;
    // The message is on the screen that stays.
    top.ends(101);
    let bytes = top.with(|shown| text(&shown.bytes));
    let afterwards = bytes.rsplit_once("\u{1b}[?1049l").map(|(_, rest)| rest.to_owned());
    assert!(afterwards.is_some_and(|rest| rest.contains("a fault was asked for")), "{bytes}");
    // Of another thread: the view does not go on over the message.
    let mut top = place.top(&["--no-store", "--seed-fault", "panic-elsewhere"])?;
    top.is_taken();
    top.press("!")?;
    let screen = top.ends(1);
    assert!(screen.contains("a fault was asked for") && screen.contains("has panicked"), "{screen}");
    Ok(())
}

fn restored_when_stuck(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut top = place.top(&["--no-store", "--seed-fault", "stuck"])?;
    top.is_taken();
    top.press("!")?;
    std::thread::sleep(Duration::from_millis(300));
    top.signal("TERM");
    // It is not the command itself that says so.
    assert!(top.ends(143).contains("homing: interrupted"), "it ends in silence");
    Ok(())
}

fn restored_after_an_error(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let proxy = Proxy::before(broker.url())?;
    let url = proxy.url(broker.url());
    let mut top = Pty::start(&place.command_at(&url, &["--reconnect", "never", "top", "--no-store"]))?;
    top.is_taken();
    proxy.refuse();
    proxy.cut();
    assert!(top.ends(6).contains("homing: "));
    Ok(())
}

fn suspended(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut command = Command::new("sh");
    command.arg("-i").env("PS1", "ready> ").env_remove("ENV");
    let own = place.command(&["top", "--no-store"]);
    same_surroundings(&own, &mut command);
    let mut shell = Pty::start(&command)?;
    shell.until(&["ready>"]);
    let words: Vec<String> = std::iter::once(own.get_program())
        .chain(own.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    shell.press(&format!("{}; echo code $?\r", words.join(" ")))?;
    shell.is_taken();
    for _ in 0..2 {
        shell.press("\u{1a}")?;
        eventually("the shell does not get the terminal", || {
            !shell.with(|shown| shown.terminal.screen().alternate_screen())
        });
        // What is typed there is echoed, and carried out.
        shell.press("echo d'i'd\r")?;
        shell.until(&["did\n"]);
        shell.is_as_before();
        shell.press("clear; fg\r")?;
        shell.is_taken();
        // It works as before.
        shell.press("?")?;
        shell.until(&["KEYS"]);
        shell.press("x")?;
        shell.until(&["PID"]);
    }
    shell.press("q")?;
    eventually("it does not end", || !shell.with(|shown| shown.terminal.screen().alternate_screen()));
    shell.is_as_before();
    shell.press("exit\r")?;
    Ok(())
}

fn resized(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut top = place.top(&["--no-store", "4"])?;
    top.is_taken();
    const ENDLESS: u16 = u16::MAX;
    for (rows, columns) in
        [(5, 20), (1, 1), (2, 3), (ENDLESS, ENDLESS), (60, 200), (ENDLESS, 1), (1, ENDLESS), (24, 100)]
    {
        // The emulator itself panics in a terminal of one row; what is shown there is not asked for.
        if (3..ENDLESS).contains(&rows) && columns < ENDLESS {
            top.shown.lock().unwrap_or_else(PoisonError::into_inner).terminal.screen_mut().set_size(rows, columns);
        }
        let resized = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(top.terminal.try_clone()?)
            .status()?;
        assert!(resized.success());
        if (3..ENDLESS).contains(&rows) && columns < ENDLESS {
            let keys_line = if rows > 5 { "arrows move" } else { "PID" };
            top.until(&["homing top", keys_line]);
            top.until_line(&["4 ", "unreach"]);
        } else {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    top.press("q")?;
    top.ends(0);
    Ok(())
}

fn lost(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let proxy = Proxy::before(broker.url())?;
    let url = proxy.url(broker.url());
    let mut top = Pty::start(&place.command_at(&url, &["top", "--no-store"]))?;
    top.is_taken();
    proxy.refuse();
    proxy.cut();
    top.until(&["CONNECTION LOST", "attempt"]);
    // Keys go on working.
    top.press("?")?;
    top.until(&["KEYS"]);
    top.press("x")?;
    proxy.pass();
    top.until(&["  connected  ", "connected again after"]);
    place.announce("12", "state_changed.running.waiting")?;
    top.until_line(&["12 ", "waiting"]);
    top.press("q")?;
    // Notes of the connection are in the view, and none are left for the shell.
    let screen = top.ends(0);
    assert!(!screen.contains("connected again"), "{screen}");
    Ok(())
}

fn hostile(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker()?;
    let pid = place.job("printf '\\033]0;TITLE\\007line\\n'; sleep 300")?;
    // Paused before that, it would write nothing.
    eventually("it writes nothing", || {
        place.ended(&["process", "report", &pid]).is_ok_and(|output| text(&output.stdout).contains("line"))
    });
    let message = "\u{1b}]0;TITLE\u{7}\u{9b}31m\u{202e}gnp.exe";
    exits(&place.ended(&["process", "pause", &pid, "--message", message])?, 0);
    let mut top = place.top(&[])?;
    top.until_line(&[&format!("{pid} "), "TITLE"]);
    let (out, _) = exits(&place.ended(&["top", "--once"])?, 0);
    assert!(out.contains("TITLE") && !out.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{out:?}");
    top.press("\r")?;
    top.until(&["process      ", "answer"]);
    top.press("G")?;
    top.until(&["log", "TITLE", "line"]);
    for name in ["\u{202e}fdp", "a\u{200f}b"] {
        place.announce(name, "state_changed.running.waiting")?;
    }
    top.press("\u{1b}")?;
    top.until(&["fdp", "EVENTS"]);
    let bytes = top.with(|shown| text(&shown.bytes));
    assert!(
        bytes.contains("TITLE") && !bytes.contains("\u{1b}]") && !bytes.contains(['\u{9b}', '\u{202e}', '\u{200f}'])
    );
    top.press("q")?;
    top.ends(0);
    // The same of those that print lines, on a terminal and elsewhere.
    for arguments in [&["process", "list"][..], &["process", "show", &pid], &["process", "status", &pid]] {
        let (out, err) = exits(&place.ended(arguments)?, 0);
        assert!(!(out.clone() + &err).contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{arguments:?} {out:?} {err:?}");
    }
    // And of errors, notes and logs that repeat what the other end has written.
    let mut server = place.command(&["rpc", "serve", "evil", "--exec"]);
    server.arg("printf '\\033]0;TITLE\\007\\302\\2332J\\nline\\n' >&2; exit 1");
    let mut server = Running::start(server)?;
    for arguments in
        [&["rpc", "call", "evil"][..], &["process", "status", "evil"], &["process", "pause", "evil", "other"]]
    {
        let (out, err) = exits(&place.ended(arguments)?, 5);
        assert!(err.contains("]0;TITLE") && err.contains("\nline"), "{err}");
        assert!(!(out + &err).contains(['\u{1b}', '\u{9b}', '\u{7}']), "{arguments:?} {err:?}");
    }
    server.stop("TERM")?;
    let log = server.errors()?;
    assert!(log.contains("TITLE") && !log.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{log:?}");
    let mut report = Pty::start(&place.command(&["process", "report", &pid]))?;
    report.ends(0);
    let bytes = report.with(|shown| text(&shown.bytes));
    assert!(bytes.contains("TITLE") && !bytes.contains('\u{1b}'), "{bytes:?}");
    Ok(())
}

fn colours(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    for (option, no_color, coloured) in
        [("auto", false, true), ("auto", true, false), ("never", false, false), ("always", true, true)]
    {
        let mut command = place.command(&["--color", option, "top", "--no-store", "4"]);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let mut top = Pty::start(&command)?;
        top.is_taken();
        place.announce("4", "state_changed.running.excepted")?;
        top.until_line(&["4 ", "excepted"]);
        let has_colour = top.with(|shown| {
            let screen = shown.terminal.screen();
            let cells = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
            cells
                .filter_map(|(row, column)| screen.cell(row, column))
                .any(|cell| cell.fgcolor() != vt100::Color::Default)
        });
        assert_eq!(has_colour, coloured, "{option} {no_color}");
        top.press("q")?;
        top.ends(0);
    }
    Ok(())
}

/// The memory of a process in KiB.
fn memory(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn flood(broker: &Broker) -> TestResult {
    use homing::process::{ProcessController, ProcessState, StateChange};

    const MANY: i64 = 30_000;
    let place = Place::new(broker)?;
    let mut top = place.top(&["--no-store"])?;
    top.is_taken();
    let before = memory(top.child.id());
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let frames_before = top.frames();
    let (url, prefix) = (broker.url().to_owned(), broker.prefix().to_owned());
    let flooding = runtime.spawn(async move {
        let communicator = homing::Communicator::builder(&url).prefix(prefix).connect().await?;
        let controller = ProcessController::new(&communicator);
        for first in (0..MANY).step_by(500) {
            let announced = (first..first + 500).map(|pid| {
                let controller = controller.clone();
                async move { controller.announce(&StateChange::new(pid, None, ProcessState::Created)).await }
            });
            futures_util::future::try_join_all(announced).await?;
        }
        communicator.close().await.map(drop)
    });
    // Meanwhile keys are at work.
    let mut slowest = Duration::ZERO;
    while !flooding.is_finished() {
        let since = Instant::now();
        top.press("?")?;
        top.until(&["KEYS"]);
        slowest = slowest.max(since.elapsed());
        top.press("x")?;
        top.until(&["PID"]);
    }
    runtime.block_on(flooding)??;
    place.announce("4711000", "state_changed.None.created")?;
    let screen = top.until(&["4711000", "left out"]);
    let took = begun.elapsed();
    let (after, drawn) = (memory(top.child.id()), top.frames() - frames_before);
    println!(
        "{MANY} changes in {took:?}: {before} KiB before, {after} KiB after, {drawn} frames, the slowest key {slowest:?}"
    );
    // All of them, with a line for each, would take more.
    assert!(after < before + 64 * 1024, "{before} {after}");
    assert!(drawn > 2 && drawn < usize::try_from(took.as_millis() / 100 + 20)?, "{drawn} frames in {took:?}");
    assert!(screen.contains("created"), "{screen}");
    top.press("q")?;
    top.ends(0);
    Ok(())
}

fn frames(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut top = place.top(&["--no-store", "1", "2", "3"])?;
    top.is_taken();
    let (before, begun) = (top.frames(), Instant::now());
    for _ in 0..300 {
        top.press("j")?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let (drawn, took) = (top.frames() - before, begun.elapsed());
    println!("300 keys in {took:?}: {drawn} frames");
    assert!(drawn > 2 && drawn < usize::try_from(took.as_millis() / 100 + 10)?, "{drawn} frames in {took:?}");
    top.press("q")?;
    top.ends(0);
    Ok(())
}

fn plumpy(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let peer = Peer::start("plumpy_peer.py");
    let names = json!({
        "url": broker.url(), "message_exchange": broker.message_exchange(), "task_exchange": broker.task_exchange(),
        "task_queue": broker.task_queue(),
    });
    peer.call("connect", names)?;
    peer.call("process", json!({"pid": 1, "quiet": true}))?;
    let mut top = place.top(&["--no-store"])?;
    top.is_taken();
    // One that comes is seen by its broadcasts. Those that are named are asked.
    peer.call("process", json!({"pid": 2, "quiet": true}))?;
    top.until_line(&["2 ", "waiting"]);
    assert!(!top.screen().lines().any(|line| line.starts_with("1 ")), "nobody told of it");
    top.press("p")?;
    top.until(&["2 paused"]);
    assert_eq!(peer.call("state", json!({"pid": 2}))?["paused"], true);
    // Somebody else plays it, which is not broadcast.
    exits(&place.ended(&["process", "play", "2"])?, 0);
    eventually("it is seen that it plays", || {
        top.screen().lines().any(|line| line.starts_with("2 ") && line.contains("waiting ") && !line.contains("paused"))
    });
    top.press("Ky")?;
    top.until_line(&["2 ", "killed"]);
    top.press("q")?;
    top.ends(0);
    let frame = place.once(&["--no-store", "1", "2"]);
    let states: Vec<&Value> =
        frame["processes"].as_array().into_iter().flatten().map(|process| &process["state"]).collect();
    assert!(states.contains(&&json!("waiting")) && states.contains(&&Value::Null), "{frame}");
    let mut one = place.top(&["--no-store", "1"])?;
    one.until_line(&["1 ", "waiting"]);
    one.press("\r")?;
    one.until(&["process_string", "state        waiting"]);
    one.press("q")?;
    one.ends(0);
    Ok(())
}
