//! `homing worker --workers N` and `homing workers`: workers that are kept alive, and what becomes of them and of their jobs when
//! something dies.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shell::{LONG, Running, ended, eventually, exits, homing, signal, text};
use support::{Broker, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(400));
    suite
        .plain("wrong_usage_names_what_is_wrong", usage)
        .plain("help_has_the_words_of_other_daemons_and_hides_what_is_internal", help)
        .plain("without_a_supervisor_a_command_reports_how_one_is_started", nobody)
        .plain("a_supervisor_none_of_whose_workers_comes_up_ends_with_their_error", none_comes_up)
        .plain("a_store_that_cannot_be_used_is_an_error_before_anything_is_started", unusable_store)
        .rabbitmq("workers_are_shown_added_and_removed", shown_added_removed)
        .rabbitmq("a_command_of_other_surroundings_finds_the_supervisor", found_from_elsewhere)
        .rabbitmq("a_restart_has_one_worker_at_a_time_without_work_and_loses_no_job", restarted)
        .rabbitmq("a_worker_that_is_killed_is_replaced_at_once_and_its_job_runs_again", worker_killed)
        .rabbitmq("a_worker_that_another_terminates_drains_and_is_replaced", worker_terminated)
        .rabbitmq("a_worker_that_keeps_dying_is_started_after_growing_pauses", crash_loop)
        .rabbitmq("workers_make_no_new_store_while_theirs_is_moved_away", store_moved)
        .rabbitmq("workers_whose_supervisor_is_killed_drain_and_leave_nothing", supervisor_killed)
        .rabbitmq("a_second_supervisor_is_refused_unless_it_has_a_name", second_refused)
        .rabbitmq("of_many_supervisors_started_at_once_one_stays", many_at_once)
        .rabbitmq("a_lock_that_was_left_behind_holds_nobody_up", stale_lock)
        .rabbitmq("a_stop_drains_what_runs", stopped)
        .rabbitmq("a_signal_to_every_process_drains_them", signal_to_all)
        .rabbitmq("ctrl_c_drains_and_a_second_one_ends_all_at_once", interrupted)
        .rabbitmq("each_line_of_the_log_has_its_worker", one_log)
        .rabbitmq("a_socket_that_was_removed_is_made_again", socket_removed)
        .rabbitmq("clients_that_send_nothing_or_nonsense_harm_nobody", bad_clients)
        .rabbitmq("a_supervisor_that_does_not_answer_is_reported", stuck)
        .rabbitmq("a_supervisor_goes_to_the_background_and_is_stopped_there", detached);
    suite.run()
}

/// A store of a trial, the names of its broker, and a runtime directory.
struct Place {
    folder: PathBuf,
    url: String,
    prefix: String,
}

impl Place {
    fn at(url: &str, prefix: &str) -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(support::unique("sup"));
        fs::create_dir_all(folder.join("run"))?;
        Ok(Place { folder, url: url.to_owned(), prefix: prefix.to_owned() })
    }

    fn new(broker: &Broker) -> std::io::Result<Self> {
        Place::at(broker.url(), broker.prefix())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = homing(&["--broker", &self.url, "--prefix", &self.prefix]);
        command.args(arguments).env("HOMING_STORE", self.file("p.db")).env("XDG_RUNTIME_DIR", self.file("run"));
        command.current_dir(&self.folder);
        command
    }

    fn ended(&self, arguments: &[&str]) -> std::io::Result<Output> {
        ended(self.command(arguments))
    }

    /// A supervisor whose workers are all up.
    fn supervisor(&self, workers: u16, options: &[&str]) -> std::io::Result<Running> {
        let mut command = self.command(&["worker", "--workers", &workers.to_string()]);
        command.args(options);
        let supervisor = Running::start(command)?;
        self.until_running(usize::from(workers));
        Ok(supervisor)
    }

    fn status(&self) -> Value {
        let (out, _) = exits(&self.ended(&["--format", "json", "workers", "status"]).expect("run"), 0);
        serde_json::from_str(&out).expect("JSON")
    }

    fn workers(&self) -> Vec<Value> {
        self.status()["workers"].as_array().cloned().unwrap_or_default()
    }

    /// The processes of workers that run.
    fn pids(&self) -> Vec<u32> {
        running(&self.status())
    }

    #[track_caller]
    fn until_running(&self, count: usize) {
        eventually(&format!("there are not {count} running workers"), || {
            let output = self.ended(&["--format", "json", "workers", "status"]).expect("run");
            // The supervisor may not be there yet.
            serde_json::from_slice(&output.stdout).is_ok_and(|status| running(&status).len() == count)
        });
    }

    /// The file of the lock, of which there is one.
    fn lock(&self) -> PathBuf {
        let files = fs::read_dir(&self.folder).expect("listed").flatten().map(|file| file.path());
        let is_lock = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("p.db.workers-") && !name.ends_with(".log")
        };
        let mut locks = files.filter(is_lock);
        let lock = locks.next().expect("there is a lock");
        assert!(locks.next().is_none());
        lock
    }

    fn record(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.lock()).expect("read")).expect("JSON")
    }

    /// Runs a shell script as a job in the background: its pid.
    fn detached(&self, script: &str) -> Result<String, Box<dyn std::error::Error>> {
        let (out, _) = exits(&self.ended(&["run", "--detach", "--", "sh", "-c", script])?, 0);
        Ok(out.trim().to_owned())
    }

    fn job(&self, pid: &str) -> Value {
        let (out, _) = exits(&self.ended(&["--format", "json", "process", "show", pid]).expect("run"), 0);
        serde_json::from_str(&out).expect("JSON")
    }

    #[track_caller]
    fn until(&self, pid: &str, state: &str) {
        eventually(&format!("process {pid} does not become {state}"), || self.job(pid)["state"] == state);
    }

    /// How many lines a file has.
    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.file(name)).unwrap_or_default().lines().count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The processes of workers that run.
fn running(status: &Value) -> Vec<u32> {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter(|worker| worker["state"] == "running").map(|worker| pid(&worker["pid"])).collect()
}

/// A process that ends with its trial.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            signal(self.0.id(), "TERM");
            let until = Instant::now() + LONG;
            while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A supervisor in the background, which ends with its trial.
struct Background(u32);

impl Drop for Background {
    fn drop(&mut self) {
        if lives(self.0) {
            signal(self.0, "TERM");
        }
    }
}

fn pid(value: &Value) -> u32 {
    value.as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default()
}

/// Whether a process lives.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// When a process was started, in the unit of the system.
fn started(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok()).expect("a number")
}

fn usage() -> TestResult {
    for (arguments, part) in [
        (&["worker", "--workers", "0"][..], "1 to 256"),
        (&["worker", "--workers", "257"], "1 to 256"),
        (&["worker", "--workers", "many"], "1 to 256"),
        (&["worker", "--name", "x"], "--workers"),
        (&["worker", "--detach"], "--workers"),
        (&["worker", "--workers", "1", "ping"], "ping"),
        (&["worker", "--supervised", "1", "--store", "p.db"], "supervisor"),
        (&["--broker", "memory:", "worker", "--workers", "1"], "memory:"),
        (&["workers"], "status"),
        (&["workers", "add", "0"], "1 to 256"),
        (&["workers", "remove", "-1"], "-1"),
        (&["workers", "restart", "3"], "unexpected"),
        (&["workers", "stop", "--timeout", "0"], "zero"),
        (&["workers", "status", "--store", ""], "--store"),
    ] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let place = Place::at("amqp://127.0.0.1:1", "p")?;
    assert!(exits(&place.ended(&["worker", "--workers", "1", "--name", ""])?, 2).1.contains("--name"));
    Ok(())
}

fn help() -> TestResult {
    let (out, _) = exits(&ended(homing(&["workers", "--help"]))?, 0);
    for part in ["status", "incr", "decr", "restart", "stop", "stats"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (out, _) = exits(&ended(homing(&["worker", "--help"]))?, 0);
    assert!(out.contains("\nMany workers:") && out.contains("--detach"), "{out}");
    for arguments in [&["worker", "--help"][..], &["man"], &["workers", "status", "--help"]] {
        let (out, _) = exits(&ended(homing(arguments))?, 0);
        assert!(!out.contains("--supervised") && !out.contains("--detached"), "{arguments:?}: {out}");
    }
    Ok(())
}

fn nobody() -> TestResult {
    let place = Place::at("amqp://127.0.0.1:1", "p")?;
    let all = [
        &["workers", "status"][..],
        &["workers", "add"],
        &["workers", "remove"],
        &["workers", "restart"],
        &["workers", "stop"],
    ];
    let check = || -> TestResult {
        for arguments in all {
            let (out, err) = exits(&place.ended(arguments)?, 3);
            assert!(out.is_empty() && err.contains("homing --prefix p worker --workers 2"), "{err}");
        }
        Ok(())
    };
    check()?;
    assert!(!place.file("p.db").exists(), "asking makes nothing");
    // A supervisor that could start nothing has made the store and the lock.
    exits(&place.ended(&["worker", "--workers", "1"])?, 6);
    check()?;
    // A record of a process that is gone, one whose number another process has, and what is no record.
    let mut gone = Command::new("true").spawn()?;
    let dead = gone.id();
    gone.wait()?;
    let own = std::process::id();
    let socket = place.file("run/homing/gone.sock");
    for record in [
        record(dead, 1, &socket).to_string(),
        record(own, started(own) + 1, &socket).to_string(),
        "nonsense".to_owned(),
    ] {
        fs::write(place.lock(), format!("{record}\n"))?;
        check()?;
    }
    // One that lives, and whose socket is not there, is not taken for dead.
    fs::write(place.lock(), format!("{}\n", record(own, started(own), &socket)))?;
    let (_, err) = exits(&place.ended(&["workers", "status"])?, 1);
    assert!(err.contains(&format!("process {own}")) && err.contains("kill"), "{err}");
    // JSON has the same.
    fs::write(place.lock(), "")?;
    let (_, err) = exits(&place.ended(&["--format", "json", "workers", "status"])?, 3);
    let error: Value = serde_json::from_str(&err)?;
    assert_eq!(error["kind"], "nobody");
    Ok(())
}

/// What a supervisor would have written in this place.
fn record(pid: u32, started: u64, socket: &std::path::Path) -> Value {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let place = format!("{} {}", boot.trim(), namespace.display());
    json!({"pid": pid, "started": started, "place": place, "since": "then", "socket": socket, "log": null})
}

fn none_comes_up() -> TestResult {
    let place = Place::at("amqp://127.0.0.1:1", "p")?;
    let begun = Instant::now();
    let (out, err) = exits(&place.ended(&["worker", "--workers", "3"])?, 6);
    assert!(out.is_empty() && err.contains("none of the workers came up; worker 1: exit code 6"), "{err}");
    assert!(err.contains("[1] homing: ") && err.contains("[3] homing: "), "the workers' own words: {err}");
    assert!(begun.elapsed() < LONG);
    let (_, err) = exits(&place.ended(&["--log-format", "json", "worker", "--workers", "1"])?, 6);
    let lines = err.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    assert!(lines.iter().any(|line| line["worker"] == 1 && line["kind"] == "connection"), "{err}");
    assert!(lines.last().is_some_and(|line| line["kind"] == "connection" && line["worker"].is_null()), "{err}");
    // Whoever starts one in the background gets the same.
    let (_, err) = exits(&place.ended(&["worker", "--workers", "2", "--detach"])?, 6);
    assert!(err.contains("none of the workers came up") && err.contains("its log is"), "{err}");
    Ok(())
}

fn unusable_store() -> TestResult {
    let place = Place::at("amqp://127.0.0.1:1", "p")?;
    fs::write(place.file("text.db"), "no store of processes at all".repeat(40))?;
    for options in [&[][..], &["--detach"]] {
        let mut arguments = vec!["worker", "--workers", "2", "--store", "text.db"];
        arguments.extend(options);
        let (_, err) = exits(&place.ended(&arguments)?, 1);
        assert!(err.contains("text.db") && !err.contains("a worker is started"), "{err}");
    }
    let (_, err) = exits(&place.ended(&["worker", "--workers", "2", "--store", "/proc/homing/p.db"])?, 1);
    assert!(err.contains("cannot be made"), "{err}");
    Ok(())
}

fn shown_added_removed(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(2, &["--slots", "2"])?;
    let status = place.status();
    assert_eq!(pid(&status["supervisor"]["pid"]), supervisor.0.id());
    let pids = place.pids();
    for (n, worker) in status["workers"].as_array().ok_or("workers")?.iter().enumerate() {
        assert_eq!((&worker["worker"], &worker["restarts"]), (&(n + 1).into(), &0.into()), "{worker}");
        assert!(worker["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{worker}");
        assert!(worker["cpu_seconds"].is_number() && worker["cpu_percent"].is_number(), "{worker}");
        assert!(worker["age_seconds"].as_f64().is_some_and(|age| age > 0.0 && age < 60.0), "{worker}");
        let arguments = fs::read(format!("/proc/{}/cmdline", worker["pid"]))?;
        let arguments = text(&arguments);
        assert!(arguments.contains("--slots\x002") && arguments.contains("--supervised"), "{arguments:?}");
    }
    let socket = place.record()["socket"].as_str().map(PathBuf::from).ok_or("a socket")?;
    assert_eq!(fs::metadata(&socket)?.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(socket.parent().ok_or("a directory")?)?.mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(place.lock())?.mode() & 0o777, 0o600);
    // Both are workers of the queue.
    eventually("they do not answer", || {
        let ping = place.ended(&["worker", "ping", "--wait", "500ms"]);
        ping.is_ok_and(|ping| text(&ping.stdout).lines().count() == 2)
    });
    let (out, _) = exits(&place.ended(&["workers", "add", "2"])?, 0);
    assert!(out.contains("worker 3 runs as process") && out.contains("worker 4 runs as process"), "{out}");
    assert_eq!(place.pids().len(), 4);
    let (out, _) = exits(&place.ended(&["workers", "status"])?, 0);
    assert!(out.contains("WORKER") && out.contains("MiB") && out.lines().count() == 6, "{out}");
    let (out, _) = exits(&place.ended(&["workers", "decr", "2"])?, 0);
    assert!(out.contains("worker 4 has ended") && out.contains("worker 3 has ended"), "{out}");
    assert_eq!(place.pids(), pids, "the first are left");
    assert!(exits(&place.ended(&["workers", "remove", "3"])?, 1).1.contains("there are 2 workers"));
    assert!(exits(&place.ended(&["workers", "add", "255"])?, 1).1.contains("256 are the most"));
    // None at all may be, and more again.
    exits(&place.ended(&["workers", "remove", "2"])?, 0);
    assert!(exits(&place.ended(&["workers", "status"])?, 0).0.contains("no workers"));
    let (out, _) = exits(&place.ended(&["--format", "json", "workers", "incr"])?, 0);
    let status: Value = serde_json::from_str(&out)?;
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(1), "{out}");
    assert_eq!(supervisor.stop("TERM")?.0, Some(0));
    assert!(!socket.exists());
    Ok(())
}

fn found_from_elsewhere(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _supervisor = place.supervisor(1, &[])?;
    let mut other = place.command(&["workers", "status"]);
    other.env_remove("XDG_RUNTIME_DIR").env_remove("HOMING_STORE").args(["--store", "run/../p.db"]);
    exits(&ended(other)?, 0);
    let (_, err) = exits(&place.ended(&["workers", "status", "--name", "other"])?, 3);
    assert!(err.contains("one runs for other names") && err.contains("--workers 2 --name other"), "{err}");
    Ok(())
}

fn restarted(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _supervisor = place.supervisor(2, &["--drain", "2s"])?;
    // One that ends within the drain of its worker, and one that does not.
    let short = place.detached("echo x >> short; sleep 1; echo x >> short.done")?;
    let long = place.detached("echo x >> long; while [ ! -e go ]; do sleep 0.02; done; echo x >> long.done")?;
    eventually("they do not begin", || place.lines("short") == 1 && place.lines("long") == 1);
    let before = place.pids();
    let restart = place.command(&["workers", "restart"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    eventually("the restart does not end", || {
        let status = place.status();
        let all = status["workers"].as_array().cloned().unwrap_or_default();
        assert!(all.iter().any(|worker| worker["state"] == "running"), "{status}");
        status["restart"]["restarted"].as_array().is_some_and(|restarted| restarted.len() == 2)
    });
    let (out, _) = exits(&shell::wait(restart)?, 0);
    assert!(out.contains("worker 1 runs as process") && out.contains("worker 2 runs as process"), "{out}");
    let after = place.pids();
    assert!(after.len() == 2 && after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
    assert!(before.iter().all(|pid| !lives(*pid)));
    eventually("the long job does not run again", || place.lines("long") >= 2);
    fs::write(place.file("go"), "")?;
    for pid in [&short, &long] {
        place.until(pid, "finished");
    }
    assert_eq!((place.lines("short"), place.lines("short.done")), (1, 1), "it was drained");
    assert_eq!(place.lines("long.done"), 1, "nothing is lost, and nothing done twice");
    Ok(())
}

fn worker_killed(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _supervisor = place.supervisor(2, &[])?;
    let job = place.detached("echo x >> runs; while [ ! -e go ]; do sleep 0.02; done; exit 5")?;
    eventually("it does not begin", || place.lines("runs") == 1);
    let worker = pid(&place.job(&job)["lease"]["process_id"]);
    assert!(place.pids().contains(&worker));
    signal(worker, "KILL");
    eventually("it is not replaced", || {
        let pids = place.pids();
        pids.len() == 2 && !pids.contains(&worker)
    });
    let workers = place.workers();
    let replaced = workers.iter().find(|worker| worker["restarts"] == 1).ok_or("one was started again")?;
    assert!(replaced["last_end"] == "ended by SIGKILL" && replaced["deaths"] == 1, "{replaced}");
    eventually("its job does not run again", || place.lines("runs") == 2);
    fs::write(place.file("go"), "")?;
    place.until(&job, "finished");
    assert_eq!(place.job(&job)["outcome"]["exit_status"], 5);
    Ok(())
}

fn worker_terminated(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _supervisor = place.supervisor(1, &["--drain", "20s"])?;
    let job = place.detached("echo x >> runs; sleep 1; echo x >> done")?;
    eventually("it does not begin", || place.lines("runs") == 1);
    let worker = place.pids()[0];
    signal(worker, "TERM");
    eventually("it is not replaced", || place.pids().first().is_some_and(|pid| *pid != worker));
    assert_eq!(place.workers()[0]["last_end"], "exit code 0");
    place.until(&job, "finished");
    assert_eq!((place.lines("runs"), place.lines("done")), (1, 1));
    Ok(())
}

fn crash_loop(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(2, &[])?;
    let steady = pid(&place.workers()[1]["pid"]);
    let mut pauses = Vec::new();
    for death in 1..=4 {
        eventually("it does not come up again", || place.workers()[0]["state"] == "running");
        let worker = place.workers()[0].clone();
        assert_eq!(worker["restarts"], death - 1);
        signal(pid(&worker["pid"]), "KILL");
        // The supervisor's own line about it.
        let line = loop {
            let line = supervisor.line()?;
            assert!(!line.is_empty(), "the supervisor ended");
            if line.contains("was not asked to") {
                break line;
            }
        };
        let pause = line.split("again_in_seconds=").nth(1).and_then(|rest| rest.split_whitespace().next());
        pauses.push(pause.ok_or("a pause")?.parse::<f64>()?);
        if death > 2 {
            let worker = place.workers()[0].clone();
            assert_eq!((&worker["state"], &worker["deaths"]), (&"backing off".into(), &death.into()), "{worker}");
            assert!(worker["pid"].is_null() && worker["starts_in_seconds"].is_number(), "{worker}");
            assert!(exits(&place.ended(&["workers", "status"])?, 0).0.contains("backing off ("));
        }
    }
    assert_eq!(pauses, [0.0, 1.0, 2.0, 4.0]);
    // The other one is not concerned; a restart by hand does not wait for the pause.
    assert_eq!(pid(&place.workers()[1]["pid"]), steady);
    exits(&place.ended(&["workers", "restart"])?, 0);
    assert_eq!(place.pids().len(), 2);
    Ok(())
}

/// Guards: a new store in place of the one that was moved, in which waiting tasks find no process.
fn store_moved(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(1, &[])?;
    let pid_of_job = place.detached("echo x >> begun; sleep 600")?;
    eventually("it does not begin", || place.lines("begun") == 1);
    let (store, aside) = (place.file("p.db"), place.file("aside.db"));
    let beside = |file: &PathBuf, ending: &str| PathBuf::from(format!("{}{ending}", file.display()));
    let move_all = |from: &PathBuf, to: &PathBuf| {
        for ending in ["", "-wal", "-shm"] {
            let _ = fs::rename(beside(from, ending), beside(to, ending));
        }
    };
    move_all(&store, &aside);
    signal(place.pids()[0], "KILL");
    eventually("it is not started again", || place.workers()[0]["deaths"].as_u64() >= Some(3));
    assert!(!store.exists());
    let worker = place.workers()[0].clone();
    assert!(worker["last_line"].as_str().is_some_and(|line| line.contains("put it back")), "{worker}");
    move_all(&aside, &store);
    place.until_running(1);
    eventually("the job does not run again", || place.lines("begun") == 2);
    exits(&place.ended(&["process", "kill", "--force", &pid_of_job])?, 0);
    // A stop that finds no process of a worker is answered too.
    move_all(&store, &aside);
    signal(place.pids()[0], "KILL");
    eventually("it is not started again", || place.workers()[0]["state"] == "backing off");
    exits(&place.ended(&["workers", "stop"])?, 0);
    assert_eq!(supervisor.ends()?, Some(0));
    Ok(())
}

fn supervisor_killed(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(2, &["--drain", "3s"])?;
    let short = place.detached("echo x >> short; sleep 1; echo x >> short.done")?;
    let long =
        place.detached("echo x >> long; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; echo x >> long.done")?;
    eventually("they do not begin", || {
        place.lines("short") == 1 && place.lines("long") == 1 && place.lines("pid") == 1
    });
    let program: u32 = fs::read_to_string(place.file("pid"))?.trim().parse()?;
    let workers = place.pids();
    signal(supervisor.0.id(), "KILL");
    supervisor.0.wait()?;
    // A command finds none, although lock and socket are there.
    exits(&place.ended(&["workers", "status"])?, 3);
    assert!(PathBuf::from(place.record()["socket"].as_str().ok_or("a socket")?).exists());
    // The next one starts at once, and its workers take over.
    let mut next = place.supervisor(2, &[])?;
    eventually("an orphan is left", || workers.iter().all(|pid| !lives(*pid)) && !lives(program));
    eventually("the long job does not run again", || place.lines("long") == 2);
    fs::write(place.file("go"), "")?;
    for pid in [&short, &long] {
        place.until(pid, "finished");
    }
    assert_eq!((place.lines("short"), place.lines("short.done")), (1, 1), "it was drained");
    assert_eq!(place.lines("long.done"), 1);
    assert_eq!(place.pids().len(), 2);
    assert_eq!(next.stop("TERM")?.0, Some(0));
    Ok(())
}

fn second_refused(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let supervisor = place.supervisor(1, &[])?;
    for options in [&[][..], &["--detach"]] {
        let mut arguments = vec!["worker", "--workers", "2"];
        arguments.extend(options);
        let (_, err) = exits(&place.ended(&arguments)?, 1);
        let who = format!("process {}", supervisor.0.id());
        assert!(err.contains(&who) && err.contains("--name"), "{err}");
    }
    let mut named = place.command(&["worker", "--workers", "1", "--name", "beside"]);
    named.stdin(Stdio::null());
    let mut named = Running::start(named)?;
    let (out, _) = exits(&place.ended(&["--format", "json", "workers", "status", "--name", "beside"])?, 0);
    let status: Value = serde_json::from_str(&out)?;
    assert_eq!(pid(&status["supervisor"]["pid"]), named.0.id());
    exits(&place.ended(&["workers", "stop", "--name", "beside"])?, 0);
    assert_eq!(named.ends()?, Some(0));
    assert_eq!(place.pids().len(), 1, "the first goes on");
    // A single worker needs no lock.
    let mut single = Running::start(place.command(&["worker"]))?;
    assert_eq!(single.stop("TERM")?.0, Some(0));
    Ok(())
}

fn many_at_once(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let start = || {
        let mut command = place.command(&["worker", "--workers", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map(Ends)
    };
    let mut all = (0..6).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    let until = Instant::now() + LONG;
    while all.len() > 1 {
        assert!(Instant::now() < until, "{} are left", all.len());
        for mut one in std::mem::take(&mut all) {
            let Some(status) = one.0.try_wait()? else {
                all.push(one);
                continue;
            };
            let mut err = String::new();
            one.0.stderr.take().ok_or("a pipe")?.read_to_string(&mut err)?;
            assert!(status.code() == Some(1) && err.contains("runs already") && err.contains("process "), "{err}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    place.until_running(1);
    let mut winner = all.pop().ok_or("one stays")?;
    assert_eq!(pid(&place.status()["supervisor"]["pid"]), winner.0.id());
    exits(&place.ended(&["workers", "stop"])?, 0);
    assert!(winner.0.wait()?.success());
    Ok(())
}

fn stale_lock(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    drop(place.supervisor(1, &[])?);
    let mut gone = Command::new("true").spawn()?;
    let dead = gone.id();
    gone.wait()?;
    let own = std::process::id();
    // Of a process that is gone, and of a number that this process has now.
    for left in [record(dead, 1, &place.file("s")), record(own, started(own) + 1, &place.file("s"))] {
        fs::write(place.lock(), format!("{left}\n"))?;
        fs::set_permissions(place.lock(), fs::Permissions::from_mode(0o644))?;
        let supervisor = place.supervisor(1, &[])?;
        assert_eq!(pid(&place.record()["pid"]), supervisor.0.id());
        assert_eq!(place.record()["started"], started(supervisor.0.id()));
        assert_eq!(fs::metadata(place.lock())?.mode() & 0o777, 0o600);
    }
    Ok(())
}

fn stopped(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(2, &["--drain", "2s"])?;
    let short = place.detached("echo x >> short; sleep 1; echo x >> short.done")?;
    let long = place.detached("echo x >> long; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done")?;
    eventually("they do not begin", || {
        place.lines("short") == 1 && place.lines("long") == 1 && place.lines("pid") == 1
    });
    let program: u32 = fs::read_to_string(place.file("pid"))?.trim().parse()?;
    let workers = place.pids();
    // Too short a time is the command's alone.
    let (_, err) = exits(&place.ended(&["workers", "stop", "--timeout", "500ms"])?, 4);
    assert!(err.contains("drain"), "{err}");
    assert_eq!(place.status()["supervisor"]["state"], "stopping");
    assert!(exits(&place.ended(&["workers", "add"])?, 1).1.contains("the supervisor ends"));
    let (out, _) = exits(&place.ended(&["workers", "stop"])?, 0);
    assert!(out.contains("have ended"), "{out}");
    assert_eq!(supervisor.ends()?, Some(0));
    assert!(workers.iter().all(|pid| !lives(*pid)) && !lives(program));
    assert_eq!((place.job(&short)["state"].as_str(), place.lines("short.done")), (Some("finished"), 1));
    assert_eq!(place.job(&long)["state"], "running", "it is left to others");
    exits(&place.ended(&["workers", "stop"])?, 3);
    assert_eq!(fs::read_to_string(place.lock())?, "");
    let _next = place.supervisor(1, &[])?;
    eventually("it does not run again", || place.lines("long") == 2);
    fs::write(place.file("go"), "")?;
    place.until(&long, "finished");
    Ok(())
}

/// As systemd does when it stops a service.
fn signal_to_all(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(2, &["--drain", "20s"])?;
    let job = place.detached("echo x >> begun; sleep 2; echo x >> done")?;
    eventually("it does not begin", || place.lines("begun") == 1);
    for pid in place.pids() {
        signal(pid, "TERM");
    }
    assert_eq!(supervisor.stop("TERM")?.0, Some(0));
    assert_eq!((place.job(&job)["state"].as_str(), place.lines("done")), (Some("finished"), 1), "it was drained");
    Ok(())
}

fn interrupted(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut command = place.command(&["worker", "--workers", "2", "--drain", "1h"]);
    command.process_group(0);
    let mut supervisor = Running::start(command)?;
    place.until_running(2);
    place.detached("trap '' TERM INT; echo $$ > pid; while :; do sleep 0.05; done")?;
    eventually("it does not begin", || place.lines("pid") == 1);
    let program: u32 = fs::read_to_string(place.file("pid"))?.trim().parse()?;
    let workers = place.pids();
    // A Ctrl-C at a terminal is for the whole group in the foreground.
    Command::new("kill").args(["-INT", "--", &format!("-{}", supervisor.0.id())]).status()?;
    eventually("the idle worker does not end", || place.workers().len() == 1);
    assert!(lives(program), "the other one drains");
    let begun = Instant::now();
    let (code, _) = supervisor.stop("INT")?;
    assert_eq!(code, Some(130));
    assert!(begun.elapsed() < Duration::from_secs(10));
    let err = supervisor.errors()?;
    assert!(err.contains("stopped by a second signal: worker") && err.contains("left to others"), "{err}");
    eventually("something is left", || workers.iter().all(|pid| !lives(*pid)) && !lives(program));
    exits(&place.ended(&["workers", "status"])?, 3);
    Ok(())
}

fn one_log(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    for format in ["text", "json"] {
        let mut command = place.command(&["--log-format", format, "worker", "--workers", "2"]);
        let mut supervisor = Ends(command.stderr(Stdio::piped()).spawn()?);
        place.until_running(2);
        for _ in 0..4 {
            exits(&place.ended(&["run", "--", "true"])?, 0);
        }
        exits(&place.ended(&["workers", "stop"])?, 0);
        assert!(supervisor.0.wait()?.success());
        let mut log = String::new();
        supervisor.0.stderr.take().ok_or("a pipe")?.read_to_string(&mut log)?;
        let mut of: BTreeSet<String> = BTreeSet::new();
        for line in log.lines() {
            if format == "json" {
                let line: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
                if line["message"] == "process" {
                    of.insert(line["worker"].to_string());
                }
            } else if line.contains(" process ") && line.contains("to=\"finished\"") {
                of.insert(line.split(['[', ']']).nth(1).ok_or("a number")?.to_owned());
            }
        }
        assert!(!of.is_empty() && of.iter().all(|worker| ["1", "2"].contains(&worker.as_str())), "{log}");
        for part in ["a supervisor starts 2 workers", "a worker is started", "no worker is left"] {
            assert!(log.contains(part), "{part}: {log}");
        }
    }
    let mut quiet = place.command(&["--quiet", "worker", "--workers", "1"]);
    let mut quiet = Ends(quiet.stderr(Stdio::piped()).spawn()?);
    place.until_running(1);
    signal(quiet.0.id(), "TERM");
    let mut log = String::new();
    quiet.0.stderr.take().ok_or("a pipe")?.read_to_string(&mut log)?;
    assert!(quiet.0.wait()?.success() && log.is_empty(), "{log}");
    Ok(())
}

fn socket_removed(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(1, &[])?;
    let pids = place.pids();
    // As the runtime directory of a user who has logged out.
    fs::remove_dir_all(place.file("run"))?;
    let (_, err) = exits(&place.ended(&["workers", "status"])?, 1);
    assert!(err.contains("does not answer"), "{err}");
    eventually("it cannot be reached", || {
        place.ended(&["workers", "status"]).is_ok_and(|output| output.status.code() == Some(0))
    });
    assert_eq!(place.pids(), pids);
    let socket = PathBuf::from(place.record()["socket"].as_str().ok_or("a socket")?);
    assert!(!socket.starts_with(&place.folder) && fs::metadata(&socket)?.mode() & 0o777 == 0o600, "{socket:?}");
    assert_eq!(supervisor.stop("TERM")?.0, Some(0));
    assert!(!socket.exists());
    Ok(())
}

fn bad_clients(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _supervisor = place.supervisor(1, &[])?;
    let socket = PathBuf::from(place.record()["socket"].as_str().ok_or("a socket")?);
    let silent = (0..100).map(|_| UnixStream::connect(&socket)).collect::<Result<Vec<_>, _>>()?;
    let mut wrong = UnixStream::connect(&socket)?;
    let _ = std::io::Write::write_all(&mut wrong, &[b'x'; 100_000]);
    // It waits for those before it to be closed, at most.
    let status = place.status();
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(1));
    assert!(status["supervisor"]["memory_bytes"].as_u64().is_some_and(|bytes| bytes < 256 << 20), "{status}");
    let mut answer = String::new();
    let _ = BufReader::new(wrong).read_line(&mut answer);
    assert!(answer.is_empty() || answer.contains("refused"), "{answer}");
    drop(silent);
    place.until_running(1);
    Ok(())
}

fn stuck(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut supervisor = place.supervisor(1, &[])?;
    let id = supervisor.0.id();
    signal(id, "STOP");
    let (_, err) = exits(&place.ended(&["workers", "status"])?, 4);
    assert!(err.contains(&format!("process {id}")) && err.contains("does not answer"), "{err}");
    let (_, err) = exits(&place.ended(&["worker", "--workers", "1"])?, 1);
    assert!(err.contains("runs already"), "{err}");
    signal(id, "CONT");
    place.until_running(1);
    assert_eq!(supervisor.stop("TERM")?.0, Some(0));
    Ok(())
}

fn detached(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let (out, err) = exits(&place.ended(&["--format", "json", "worker", "--workers", "2", "--detach"])?, 0);
    assert!(err.is_empty(), "{err}");
    let begun: Value = serde_json::from_str(&out)?;
    let supervisor = pid(&begun["pid"]);
    let _background = Background(supervisor);
    place.until_running(2);
    assert_eq!(pid(&place.status()["supervisor"]["pid"]), supervisor);
    // It has a session of its own, and nothing of whoever has started it.
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat"))?;
    let session = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(3)).ok_or("a session")?;
    assert_eq!(session, supervisor.to_string());
    exits(&place.ended(&["run", "--", "true"])?, 0);
    let log = PathBuf::from(begun["log"].as_str().ok_or("a log")?);
    assert_eq!(fs::metadata(&log)?.mode() & 0o777, 0o600);
    assert_eq!(place.status()["supervisor"]["log"], begun["log"]);
    let (out, _) = exits(&place.ended(&["workers", "stop"])?, 0);
    assert!(out.contains(&format!("process {supervisor}")), "{out}");
    assert!(!lives(supervisor));
    let lines = fs::read_to_string(&log)?;
    assert!(lines.contains("\"worker\":1") && lines.contains("no worker is left"), "{lines}");
    // A second one adds to the log.
    let (out, _) = exits(&place.ended(&["worker", "--workers", "1", "--detach"])?, 0);
    assert!(out.contains("workers stop"), "{out}");
    exits(&place.ended(&["workers", "stop"])?, 0);
    assert!(fs::read_to_string(&log)?.starts_with(&lines));
    Ok(())
}
