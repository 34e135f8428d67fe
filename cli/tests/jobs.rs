//! `homing worker` and `homing run`: any program as a process, and what becomes of it when something dies.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;
mod unread;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::{Running, ended, eventually, exits, homing, same_surroundings, signal, text};
use support::node::Tls;
use support::{Broker, Node, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(400));
    suite
        .plain("wrong_usage_names_what_is_wrong", usage)
        .plain("a_store_that_cannot_be_used_is_named_with_what_to_do", stores)
        .plain("a_locked_store_is_waited_for_and_then_named", locked)
        .plain("help_explains_how_a_job_ends", help)
        .rabbitmq("a_job_has_the_output_and_the_exit_code_of_its_program", output_and_code)
        .rabbitmq("a_program_gets_its_directory_and_environment_and_no_input", surroundings)
        .rabbitmq("without_a_worker_nothing_is_launched", nobody)
        .rabbitmq("a_worker_that_does_not_answer_at_once_is_asked_again", asked_again)
        .rabbitmq("a_worker_with_another_store_runs_a_job_all_the_same", elsewhere)
        .rabbitmq("a_worker_of_another_store_leaves_a_job_to_others", of_another_store)
        .rabbitmq("a_detached_job_is_paused_played_and_killed", controlled)
        .rabbitmq("a_program_that_ignores_sigterm_is_killed_after_its_grace", grace)
        .rabbitmq("a_forced_kill_ends_the_whole_group_at_once", forced)
        .rabbitmq("what_a_program_leaves_in_its_group_ends_with_it", left_behind)
        .rabbitmq("much_output_is_bounded_and_the_end_of_it_kept", much)
        .rabbitmq("a_reader_that_goes_leaves_the_job_running", reader_gone)
        .rabbitmq("an_interrupted_run_leaves_the_job_running", interrupted)
        .rabbitmq("a_run_that_is_interrupted_while_it_launches_sends_the_task", interrupted_launch)
        .rabbitmq("at_a_terminal_an_interrupted_run_asks", asks)
        .rabbitmq("a_job_that_waits_for_a_slot_is_killed_and_never_begins", killed_in_queue)
        .rabbitmq("each_change_of_state_is_a_line_of_the_log", lines)
        .rabbitmq("no_more_jobs_run_at_once_than_there_are_slots", slots)
        .rabbitmq("a_worker_drains_and_another_runs_what_was_stopped", drains)
        .rabbitmq("a_second_signal_ends_worker_and_jobs_at_once", second_signal)
        .rabbitmq("a_worker_that_is_killed_leaves_no_program_behind", worker_killed)
        .rabbitmq("a_job_that_must_not_run_again_is_marked_as_lost", mark_lost)
        .rabbitmq("what_a_dead_worker_left_ends_before_the_job_runs_again", nothing_runs_twice)
        .rabbitmq("a_job_is_launched_as_any_other_class", launched)
        .rabbitmq("a_lost_process_is_found_and_sent_again_once", repaired)
        .rabbitmq("a_process_whose_launch_waits_again_is_not_lost", launch_task_back)
        .rabbitmq("lost_processes_are_sent_again_though_nobody_reads_of_it", repaired_unprinted)
        .rabbitmq("a_damaged_process_keeps_no_lost_one_from_being_sent_again", repaired_beside_a_damaged)
        .rabbitmq("a_request_that_meets_the_end_of_a_job_tells_how_it_ended", met_its_end)
        .rabbitmq("a_store_that_is_gone_ends_a_wait_for_its_workers", store_gone)
        .rabbitmq("a_worker_whose_store_is_away_gives_tasks_back_and_goes_on_by_itself", store_away)
        .rabbitmq("a_worker_whose_store_is_locked_or_full_loses_nothing", store_locked_and_full)
        .rabbitmq("work_goes_on_while_nobody_reads_standard_error", unread::works)
        .rabbitmq("lines_that_nobody_reads_are_dropped_and_counted", unread::dropped)
        .rabbitmq("work_goes_on_when_standard_error_is_closed", unread::gone)
        .rabbitmq("launches_are_counted_in_full", launches)
        .plain("the_day_of_the_readme", readmes_day)
        // A node takes its time to start, and to start again.
        .deadline(Duration::from_secs(400))
        .node("a_days_work", days_work);
    suite.run()
}

/// A store of a trial, and the names of its broker.
struct Place {
    folder: PathBuf,
    broker: Broker,
}

impl Place {
    fn new(broker: &Broker) -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(support::unique("jobs"));
        fs::create_dir_all(&folder)?;
        Ok(Place { folder, broker: broker.clone() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = homing(&["--broker", self.broker.url(), "--prefix", self.broker.prefix()]);
        command.args(arguments).env("HOMING_STORE", self.file("processes.db")).current_dir(&self.folder);
        command
    }

    fn ended(&self, arguments: &[&str]) -> std::io::Result<Output> {
        ended(self.command(arguments))
    }

    fn worker(&self, arguments: &[&str]) -> std::io::Result<Running> {
        let mut command = self.command(&["worker"]);
        command.args(arguments);
        Running::start(command)
    }

    /// Runs a shell script as a job in the background: its pid.
    fn detached(&self, script: &str, options: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        let mut arguments = vec!["run", "--detach"];
        arguments.extend(options);
        arguments.extend(["--", "sh", "-c", script]);
        let (out, _) = exits(&self.ended(&arguments)?, 0);
        Ok(out.trim().to_owned())
    }

    /// Whether so many tasks wait in the queue.
    fn has_waiting(&self, tasks: usize) -> bool {
        let (out, _) = exits(&self.ended(&["--format", "json", "task", "list"]).expect("listed"), 0);
        out.contains(&format!("\"ready\":{tasks}"))
    }

    /// Three jobs whose worker was killed, and whose tasks were deleted: their pids.
    fn three_lost(&self) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let mut worker = self.worker(&["--slots", "3"])?;
        let pids = (0..3).map(|_| self.detached("sleep 300", &[])).collect::<Result<Vec<_>, _>>()?;
        for pid in &pids {
            self.until(pid, "running");
        }
        worker.0.kill()?;
        worker.0.wait()?;
        eventually("their tasks are not back", || self.has_waiting(3));
        exits(&self.ended(&["task", "purge", "--all"])?, 0);
        Ok(pids)
    }

    fn show(&self, pid: &str) -> Value {
        let output = self.ended(&["--format", "json", "process", "show", pid]).expect("shown");
        let (out, _) = exits(&output, 0);
        serde_json::from_str(&out).expect("JSON")
    }

    fn state(&self, pid: &str) -> String {
        self.show(pid)["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a process is in this state.
    #[track_caller]
    fn until(&self, pid: &str, state: &str) {
        eventually(&format!("process {pid} does not become {state}"), || self.state(pid) == state);
    }

    /// What a job has put out, and the notes about it.
    fn report(&self, pid: &str) -> (String, String) {
        exits(&self.ended(&["process", "report", pid]).expect("reported"), 0)
    }

    fn list(&self, options: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["--format", "json", "process", "list"];
        arguments.extend(options);
        let (out, _) = exits(&self.ended(&arguments).expect("listed"), 0);
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// How many lines a file has.
    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.file(name)).unwrap_or_default().lines().count()
    }

    /// Whether the process lives whose id a file has.
    fn lives(&self, name: &str) -> bool {
        let Ok(pid) = fs::read_to_string(self.file(name)) else { return false };
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return false };
        !stat.contains(") Z")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn usage() -> TestResult {
    for (arguments, part) in [
        (&["run"][..], "<CMD>"),
        (&["run", "--", ""], "empty string"),
        (&["run", "--env", "x", "--", "true"], "NAME=VALUE"),
        (&["run", "--on-loss", "cry", "--", "true"], "run-again"),
        (&["run", "--store", "", "--", "true"], "--store"),
        (&["worker", "--slots", "0"], "--slots"),
        (&["worker", "--slots", "1", "ping"], "ping"),
        (&["worker", "--prefix", "p", "ping", "--wait", "soon"], "not a time"),
        (&["process", "list", "--state", "odd"], "unfinished"),
        (&["process", "list", "--limit", "0"], "--limit"),
        (&["process", "show"], "<PID>"),
        (&["process", "report", "1", "--last", "0"], "--last"),
    ] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let mut homeless = homing(&["process", "list"]);
    homeless.env_remove("HOME").env_remove("XDG_DATA_HOME");
    assert!(exits(&ended(homeless)?, 2).1.contains("--store"));
    Ok(())
}

/// The command with this store, and a broker that is not there.
fn with_store(file: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = homing(&["--broker", "amqp://127.0.0.1:1"]);
    command.args(arguments).env("HOMING_STORE", file);
    ended(command)
}

fn stores() -> TestResult {
    let folder = std::env::temp_dir().join(support::unique("stores"));
    fs::create_dir_all(&folder)?;
    let good = folder.join("a b/ü/good.db");
    let (_, err) = exits(&with_store(&good, &["process", "list"])?, 1);
    assert!(err.contains("there is no store") && !good.exists(), "{err}");
    // A worker makes it, before it finds that there is no broker.
    exits(&with_store(&good, &["worker"])?, 6);
    let (out, err) = exits(&with_store(&good, &["process", "list"])?, 0);
    assert!(out.is_empty() && err.contains("no such processes"), "{out}{err}");
    for arguments in [&["process", "show", "7"], &["process", "report", "7"]] {
        let (_, err) = exits(&with_store(&good, arguments)?, 1);
        assert!(err.contains("no process 7") && err.contains("good.db"), "{err}");
    }
    // What a worker leaves is whole with the file of its log beside it.
    let database = rusqlite::Connection::open(&good)?;
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    drop(database);
    let bytes = fs::read(&good)?;
    let other = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map(|()| path)
    };
    // The header of SQLite's format: the version of the user at 60, the application's id at 68.
    let (mut newer, mut foreign) = (bytes.clone(), bytes.clone());
    newer[63] = 99;
    foreign[68] ^= 1;
    let mut damaged = bytes.clone();
    for byte in &mut damaged[100..2000] {
        *byte = 0xa5;
    }
    for (path, code, part) in [
        (other("text.db", "this is no store of processes, and no database either".repeat(40).as_bytes())?, 1, "SQLite"),
        (other("newer.db", &newer)?, 1, "version 99"),
        (other("foreign.db", &foreign)?, 1, "another program"),
        (other("damaged.db", &damaged)?, 1, "damaged"),
        (folder.clone(), 2, "is a directory"),
    ] {
        for arguments in [&["process", "list"][..], &["process", "show", "1"], &["process", "repair"], &["worker"]] {
            let (_, err) = exits(&with_store(&path, arguments)?, code);
            assert!(err.contains(part) && !err.contains("panic"), "{arguments:?} {}: {err}", path.display());
        }
    }
    let nowhere = Path::new("/proc/homing/processes.db");
    assert!(exits(&with_store(nowhere, &["worker"])?, 1).1.contains("cannot be made"));
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn locked() -> TestResult {
    let folder = std::env::temp_dir().join(support::unique("locked"));
    fs::create_dir_all(&folder)?;
    let file = folder.join("processes.db");
    exits(&with_store(&file, &["worker"])?, 6);
    let lock = rusqlite::Connection::open(&file)?;
    lock.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")?;
    let (_, err) = exits(&with_store(&file, &["process", "list"])?, 4);
    assert!(err.contains("locked"), "{err}");
    drop(lock);
    exits(&with_store(&file, &["process", "list"])?, 0);
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn help() -> TestResult {
    let (out, _) = exits(&ended(homing(&["run", "--help"]))?, 0);
    for part in ["exit code", "143", "HOMING_PROCESS", "--on-loss", "mark-lost"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // What the command starts of itself is nobody's business.
    for arguments in [&["--help"][..], &["completions", "bash"], &["man"]] {
        let (out, _) = exits(&ended(homing(arguments))?, 0);
        assert!(!out.contains("__gate") && !out.contains("__reaper"), "{arguments:?}");
    }
    Ok(())
}

fn output_and_code(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let script = "printf 'one\\n'; printf 'two' >&2; printf 'no end'; exit 7";
    let (out, err) = exits(&place.ended(&["run", "--", "sh", "-c", script])?, 7);
    assert_eq!(out, "one\nno end\n");
    assert!(err.contains("two\n") && err.contains("process 1"), "{err}");
    exits(&place.ended(&["run", "--", "true"])?, 0);
    exits(&place.ended(&["run", "--", "sh", "-c", "kill -9 $$"])?, 137);
    let (_, err) = exits(&place.ended(&["run", "--", "no-such-program"])?, 127);
    assert!(err.contains("no-such-program cannot be run"), "{err}");
    exits(&place.ended(&["run", "--", "/dev/null"])?, 126);
    let (_, err) = exits(&place.ended(&["run", "--cwd", "/nonexistent", "--", "true"])?, 1);
    assert!(err.contains("no directory /nonexistent"), "{err}");
    let states: Vec<Value> = place.list(&[]).iter().map(|job| job["state"].clone()).collect();
    assert_eq!(states, ["excepted", "finished", "finished", "finished", "finished", "finished"]);
    let codes: Vec<Value> = place.list(&["--state", "finished"]).iter().map(|job| job["exit_status"].clone()).collect();
    assert_eq!(codes, [126, 127, 137, 0, 7]);
    let first = place.show("1");
    assert_eq!((&first["outcome"]["outputs"]["exit_status"], &first["lease"]), (&7.into(), &Value::Null));
    assert_eq!(place.report("1").0, "one\nno end\n");
    let (out, _) = exits(&place.ended(&["--format", "json", "process", "report", "1"])?, 0);
    let sources: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).map(|line| line["source"].clone()))
        .collect::<Result<_, _>>()?;
    assert_eq!(sources.iter().filter(|source| *source == "output").count(), 2);
    assert_eq!(sources.iter().filter(|source| *source == "error").count(), 1);
    let (out, _) = exits(&place.ended(&["process", "list", "--limit", "2"])?, 0);
    assert_eq!(out.lines().count(), 3, "a head and two: {out}");
    Ok(())
}

fn surroundings(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    fs::create_dir(place.file("in here"))?;
    let script = "pwd; echo $A-$HOMING_PROCESS-$HOMING_ATTEMPT; cat; ps -o pgid= -p $$ | grep -qw $$ && echo own group";
    let run = ["run", "--cwd", "in here", "--env", "A=x=y", "--", "sh", "-c", script];
    let (out, _) = exits(&place.ended(&run)?, 0);
    let expected = format!("{}\nx=y-1-1\nown group\n", place.file("in here").canonicalize()?.display());
    assert_eq!(out, expected);
    Ok(())
}

fn nobody(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let begun = Instant::now();
    let (_, err) = exits(&place.ended(&["run", "--", "true"])?, 3);
    assert!(
        err.contains("no worker") && err.contains(&format!("--prefix {} worker --store", broker.prefix())),
        "{err}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    // A worker of another kind does not run it.
    let _worker = Running::start(place.command(&["task", "work", "--echo"]))?;
    let (_, err) = exits(&place.ended(&["run", "--detach", "--", "true"])?, 3);
    assert!(err.contains("none answers as a `homing worker`"), "{err}");
    assert!(!place.file("processes.db").exists());
    Ok(())
}

/// Guards: a worker that is just starting, or whose connection is just made again, when it is asked whether it is there.
fn asked_again(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _communicator = runtime.block_on(async {
        let communicator = homing::Communicator::builder(broker.url()).prefix(broker.prefix()).connect().await?;
        let (answering, asked) = (communicator.clone(), std::sync::atomic::AtomicUsize::new(0));
        let asked = std::sync::Arc::new(asked);
        let worker = homing::BroadcastSubscriber::future(move |ping: homing::Broadcast| {
            let (communicator, asked) = (answering.clone(), std::sync::Arc::clone(&asked));
            async move {
                // Not the first time.
                if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                    return;
                }
                let answer = homing::Value::from_iter([("store_lost", homing::Value::from(true))]);
                let pong = communicator.broadcast_send(answer).subject("homing.worker.pong");
                let _ = pong.correlation_id(ping.correlation_id().clone()).await;
            }
        });
        let filter = homing::BroadcastFilter::new().subject("homing.worker.ping")?;
        communicator.add_broadcast_subscriber(filter, worker).await?;
        Ok::<_, homing::Error>(communicator)
    })?;
    let (_, err) = exits(&place.ended(&["run", "--", "true"])?, 3);
    assert!(err.contains("has lost its store"), "it is there: {err}");
    Ok(())
}

fn elsewhere(broker: &Broker) -> TestResult {
    let (place, other) = (Place::new(broker)?, Place::new(broker)?);
    let _worker = other.worker(&[])?;
    let (out, err) = exits(&place.ended(&["run", "--", "sh", "-c", "echo there; exit 9"])?, 9);
    assert!(out.is_empty() && err.contains("another store"), "{out}{err}");
    assert_eq!(other.report("1").0, "there\n");
    let pid = place.detached("exit 4", &[])?;
    other.until(&pid, "finished");
    Ok(())
}

/// Guards: a job that is lost because a worker that does not have it took its task.
fn of_another_store(broker: &Broker) -> TestResult {
    let (place, other) = (Place::new(broker)?, Place::new(broker)?);
    let _worker = place.worker(&[])?;
    let busy = place.detached("echo $$ > pid; while [ ! -e go ]; do sleep 0.05; done", &[])?;
    eventually("it does not begin", || place.lives("pid"));
    // Its task waits in the queue, and the worker of the other store is the only one that takes it.
    let pid = place.detached("echo x >> runs", &[])?;
    let mut stranger = other.worker(&[])?;
    let refused = format!("there is no process {pid} in the store of this worker");
    let mut line = String::new();
    while !line.contains(&refused) {
        line = stranger.line()?;
        assert!(!line.is_empty(), "the worker ended");
    }
    assert_eq!(stranger.stop("TERM")?.0, Some(0));
    fs::write(place.file("go"), "")?;
    for pid in [&busy, &pid] {
        place.until(pid, "finished");
    }
    assert_eq!(place.lines("runs"), 1);

    // A sender that waits gets the error, and nothing is left behind. Where nobody waits, the task is put aside with the reason.
    for nowait in [&[][..], &["--nowait"]] {
        let mut arguments = vec!["process", "continue", "99"];
        arguments.extend(nowait);
        let (_, err) = exits(&place.ended(&arguments)?, 5);
        assert!(err.contains("there is no process 99"), "{err}");
    }
    let task = r#"{"task": "continue", "args": {"pid": 99, "nowait": false, "tag": null}}"#;
    exits(&place.ended(&["task", "send", "--no-reply", task])?, 0);
    let quarantine = format!("{}.process.queue.quarantine", place.broker.prefix());
    let aside = || {
        let output = place.ended(&["task", "list", "--queue", &quarantine, "--peek"]).expect("shown");
        if output.status.success() { text(&output.stdout) } else { String::new() }
    };
    eventually("it is not put aside", || !aside().is_empty());
    let out = aside();
    let reason = "given up after 5 attempts: there is no process 99 in the store of this worker";
    assert_eq!((out.matches(reason).count(), out.matches("homing-quarantine-reason").count()), (1, 1), "{out}");
    Ok(())
}

fn met_its_end(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&["--slots", "4"])?;
    // All of them at once, while some end, and then once more.
    let pids =
        (0..5).map(|number| place.detached(&format!("sleep 0.{}", 5 - number), &[])).collect::<Result<Vec<_>, _>>()?;
    for request in ["pause", "play", "pause"] {
        let mut arguments = vec!["process", request];
        arguments.extend(pids.iter().map(String::as_str));
        let output = place.ended(&arguments)?;
        let err = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{request}: {err}");
    }
    for pid in &pids {
        let _ = place.ended(&["process", "play", pid])?;
        place.until(pid, "finished");
    }
    // Its subscriber goes a moment later.
    let pid = pids[0].as_str();
    for pid in ["1", "2"] {
        eventually("it can be reached for ever", || {
            place.ended(&["process", "pause", pid]).is_ok_and(|output| output.status.code() == Some(3))
        });
    }
    for request in ["status", "pause", "kill"] {
        let (_, err) = exits(&place.ended(&["process", request, pid])?, 3);
        assert!(err.contains("processes.db process 1 has finished with exit status 0"), "{request}: {err}");
        assert!(!err.contains("no worker has it"), "it is not to be run again: {err}");
    }
    let (out, err) = exits(&place.ended(&["--format", "json", "process", "pause", "1", "2", "99"])?, 3);
    let lines: Vec<Value> = out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let hints =
        lines.iter().filter(|line| line["error"]["hint"].as_str().is_some_and(|hint| hint.contains("finished")));
    assert!(lines.len() == 3 && hints.count() == 2 && err.contains("no worker has it"), "{out}{err}");
    Ok(())
}

/// Guards: a wait without an end for a worker that cannot store anything any more.
fn store_gone(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&["--drain", "0", "--slots", "2"])?;
    let remove = || {
        for file in ["processes.db", "processes.db-wal", "processes.db-shm"] {
            let _ = fs::remove_file(place.file(file));
        }
    };
    // It goes while somebody waits, in the same store and from another one.
    let other = Place::new(broker)?;
    let script = "echo x >> begun; sleep 1";
    let waits = [&place, &other].map(|at| {
        let mut run = at.command(&["run", "--cwd", "."]);
        run.args(["--", "sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    });
    eventually("they do not begin", || place.lines("begun") == 1 && other.lines("begun") == 1);
    remove();
    for (run, (code, part)) in waits.into_iter().zip([(1, "how it ends cannot be seen"), (3, "cannot be ended")]) {
        let (_, err) = exits(&shell::wait(run?)?, code);
        assert!(err.contains("removed, moved or replaced") && err.contains(part), "{err}");
    }
    // And before anything was launched.
    for (at, arguments) in [(&place, &["run", "--", "true"][..]), (&other, &["run", "--detach", "--", "true"])] {
        let (_, err) = exits(&at.ended(arguments)?, 3);
        assert!(err.contains("has lost its store") && err.contains("nothing was launched"), "{err}");
    }
    assert!(!place.file("processes.db").exists());
    assert_eq!(worker.stop("TERM")?.0, Some(0));
    let _other = place.worker(&[])?;
    exits(&place.ended(&["run", "--", "sh", "-c", "exit 5"])?, 5);
    Ok(())
}

/// The lines about its store that a worker has written.
fn about_the_store(errors: &str) -> Vec<&str> {
    errors.lines().filter(|line| line.contains("the store of this worker")).collect()
}

/// A job that adds a line to a file, launched as a task: the command waits for it, and needs no store.
fn launched_as_a_task(place: &Place, file: &Path) -> std::io::Result<Child> {
    let inputs = format!("inputs={{command: 'echo x >> {}'}}", file.display());
    let mut command = place.command(&["process", "launch", "shell", &inputs, "--timeout", "60s"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

fn move_all(from: &Path, to: &Path) -> std::io::Result<()> {
    for name in ["processes.db", "processes.db-wal", "processes.db-shm"] {
        if from.join(name).exists() {
            fs::rename(from.join(name), to.join(name))?;
        }
    }
    Ok(())
}

/// Guards: a worker that takes tasks which it cannot store, and keeps them from others.
fn store_away(broker: &Broker) -> TestResult {
    let (place, aside) = (Place::new(broker)?, Place::new(broker)?);
    let mut worker = place.worker(&["--slots", "3"])?;
    move_all(&place.folder, &aside.folder)?;
    let done = place.file("done");
    let launches: Vec<_> = (0..5).map(|_| launched_as_a_task(&place, &done)).collect();
    let ping = || exits(&place.ended(&["worker", "ping", "--wait", "500ms"]).expect("asked"), 0).0;
    eventually("it has not found it out", || ping().contains("takes no task"));
    assert!(ping().contains("removed, moved or replaced"), "{}", ping());
    // Another one, with a store that works, gets them.
    let mut other = aside.command(&["worker"]);
    other.env("HOMING_STORE", aside.file("other.db"));
    let mut other = Running::start(other)?;
    for launch in launches {
        exits(&shell::wait(launch?)?, 0);
    }
    assert_eq!(place.lines("done"), 5, "each exactly once");
    assert_eq!(other.stop("TERM")?.0, Some(0));
    // And when its own is back, it goes on by itself.
    let late = launched_as_a_task(&place, &done)?;
    move_all(&aside.folder, &place.folder)?;
    exits(&shell::wait(late)?, 0);
    assert_eq!(place.list(&[]).len(), 1);
    assert_eq!(worker.stop("TERM")?.0, Some(0));
    let errors = worker.errors()?;
    let lines = about_the_store(&errors);
    assert!(lines.len() == 2 && lines[0].contains("ERROR") && lines[0].contains("put it back"), "{errors}");
    assert!(lines[1].contains("WARN") && lines[1].contains("can be used again"), "{errors}");
    Ok(())
}

/// A worker may write so many bytes into a file, as with `ulimit -f`.
fn limit_files(worker: &Running, bytes: &str) -> TestResult {
    let status =
        Command::new("prlimit").args(["--pid", &worker.0.id().to_string(), &format!("--fsize={bytes}:")]).status()?;
    assert!(status.success(), "prlimit is of util-linux");
    Ok(())
}

fn store_locked_and_full(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&["--slots", "3"])?;
    let ping = || exits(&place.ended(&["worker", "ping", "--wait", "500ms"]).expect("asked"), 0).0;
    let lock = rusqlite::Connection::open(place.file("processes.db"))?;
    for (fault, part) in [("locked", "another program has locked it"), ("full", "the limit for files")] {
        let (done, during) = (place.file(&format!("{fault}-done")), format!("{fault}-during"));
        let pid = place.detached(&format!("echo x >> {during}; sleep 1; echo x >> {during}"), &[])?;
        eventually("it does not begin", || place.lines(&during) == 1);
        if fault == "locked" {
            lock.execute_batch("BEGIN IMMEDIATE")?;
        } else {
            limit_files(&worker, "4096")?;
        }
        let launches: Vec<_> = (0..4).map(|_| launched_as_a_task(&place, &done)).collect();
        eventually("it has not found it out", || ping().contains(part));
        assert_eq!(place.lines(&format!("{fault}-done")), 0, "what cannot be stored is not run");
        if fault == "locked" {
            lock.execute_batch("COMMIT")?;
        } else {
            limit_files(&worker, "unlimited")?;
        }
        for launch in launches {
            exits(&shell::wait(launch?)?, 0);
        }
        place.until(&pid, "finished");
        assert_eq!((place.lines(&format!("{fault}-done")), place.lines(&during)), (4, 2), "{fault}: each exactly once");
    }
    assert_eq!(worker.stop("TERM")?.0, Some(0));
    let errors = worker.errors()?;
    assert_eq!(about_the_store(&errors).len(), 4, "{errors}");
    Ok(())
}

fn controlled(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let pid = place.detached("while :; do echo x >> beats; sleep 0.02; done", &[])?;
    eventually("it does not begin", || place.lines("beats") > 2);
    exits(&place.ended(&["process", "pause", &pid, "--message", "the disk is full"])?, 0);
    let shown = place.show(&pid);
    assert_eq!((&shown["state"], &shown["paused"]["message"]), (&"running".into(), &"the disk is full".into()));
    let beats = place.lines("beats");
    // It has no slot now.
    exits(&place.ended(&["run", "--", "true"])?, 0);
    assert_eq!(place.lines("beats"), beats, "it stands still");
    exits(&place.ended(&["process", "play", &pid])?, 0);
    eventually("it does not go on", || place.lines("beats") > beats);
    exits(&place.ended(&["process", "pause", &pid])?, 0);
    let begun = Instant::now();
    exits(&place.ended(&["process", "kill", &pid, "--message", "enough"])?, 0);
    assert!(begun.elapsed() < Duration::from_secs(9), "SIGTERM ends it, though it was stopped");
    let shown = place.show(&pid);
    assert_eq!((&shown["state"], &shown["outcome"]["message"]), (&"killed".into(), &"enough".into()));
    let beats = place.lines("beats");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(place.lines("beats"), beats);
    // A pid that cannot be printed is not lost.
    let mut full = place.command(&["run", "--detach", "--", "true"]);
    let full = full.stdout(fs::File::create("/dev/full")?).stderr(Stdio::piped()).spawn()?;
    let (_, err) = exits(&shell::wait(full)?, 1);
    assert!(err.contains("No space left") && err.contains("process 3 was launched"), "{err}");
    Ok(())
}

fn grace(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let script = "trap 'echo not yet' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let pid = place.detached(script, &["--grace", "500ms"])?;
    eventually("it does not begin", || place.lives("pid"));
    exits(&place.ended(&["process", "kill", &pid])?, 0);
    assert_eq!(place.state(&pid), "killed");
    assert!(!place.lives("pid"));
    let (out, err) = place.report(&pid);
    assert!(out.contains("not yet") && err.contains("SIGKILL is sent"), "{out}{err}");
    Ok(())
}

fn forced(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let script = "trap '' TERM; sleep 300 & echo $! > child; echo $$ > pid; wait; sleep 300";
    let pid = place.detached(script, &["--grace", "1h"])?;
    eventually("it does not begin", || place.lives("pid"));
    let begun = Instant::now();
    exits(&place.ended(&["process", "kill", &pid, "--force"])?, 0);
    assert!(begun.elapsed() < Duration::from_secs(20));
    place.until(&pid, "killed");
    eventually("something is left", || !place.lives("pid") && !place.lives("child"));
    Ok(())
}

fn left_behind(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let begun = Instant::now();
    let script = "sleep 300 & echo $! > child; setsid sleep 5 & echo done";
    let (out, _) = exits(&place.ended(&["run", "--", "sh", "-c", script])?, 0);
    assert_eq!(out, "done\n");
    // One that has left the group keeps the pipe, and holds nothing up.
    assert!(begun.elapsed() < Duration::from_secs(20));
    eventually("it is left", || !place.lives("child"));
    Ok(())
}

fn much(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last";
    let pid = place.detached(script, &[])?;
    place.until(&pid, "finished");
    let (out, err) = place.report(&pid);
    assert!(out.ends_with("last\n") && out.contains("more bytes]"), "{}", out.len());
    assert!(out.len() < 6 << 20 && out.lines().count() <= 10_000, "{}", out.len());
    assert!(err.contains("lines are missing"), "{err}");
    let (out, _) = exits(&place.ended(&["process", "report", &pid, "--last", "1"])?, 0);
    assert_eq!(out, "last\n");
    Ok(())
}

fn reader_gone(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let script = "while [ ! -e go ]; do echo y; sleep 0.02; done";
    let mut command = place.command(&["run", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    let output = shell::wait(child)?;
    let (_, err) = exits(&output, 0);
    assert!(err.contains("goes on"), "{err}");
    assert_eq!(place.state("1"), "running");
    fs::write(place.file("go"), "")?;
    place.until("1", "finished");
    Ok(())
}

fn interrupted(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let go = place.file(name);
        let script = format!("echo begun; while [ ! -e {} ]; do sleep 0.02; done", go.display());
        let mut command = place.command(&["run", "--", "sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        out.read_line(&mut line)?;
        assert_eq!(line, "begun\n");
        signal(child.id(), name);
        let (_, err) = exits(&shell::wait(child)?, code);
        assert!(
            err.contains("--follow") && err.contains(&format!("--prefix {} process kill", broker.prefix())),
            "{err}"
        );
        let pid = place.list(&["--limit", "1"])[0]["pid"].to_string();
        assert_eq!(place.state(&pid), "running");
        let mut follow = place.command(&["process", "report", &pid, "--follow"]);
        let follow = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        fs::write(go, "")?;
        let (out, err) = exits(&shell::wait(follow)?, 0);
        assert!(out == "begun\n" && err.contains("exit status 0"), "{out}{err}");
    }
    Ok(())
}

/// Guards: a process that is made and whose task is not sent, which a repair would run some day.
fn interrupted_launch(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let file = place.file("processes.db");
    let lock = rusqlite::Connection::open(&file)?;
    lock.execute_batch("BEGIN IMMEDIATE")?;
    let mut command = place.command(&["run", "--", "sh", "-c", "echo x >> ran"]);
    let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It has the store open, and waits for the lock.
    let has_it_open = || {
        let open = fs::read_dir(format!("/proc/{}/fd", run.id())).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link == file)
    };
    eventually("it does not open the store", has_it_open);
    signal(run.id(), "INT");
    lock.execute_batch("COMMIT")?;
    let (_, err) = exits(&shell::wait(run)?, 130);
    assert!(err.contains("process 1"), "{err}");
    place.until("1", "finished");
    assert_eq!(place.lines("ran"), 1);
    Ok(())
}

/// A job at a terminal, which is what `script` makes: interrupted once it has printed `begun`, and answered when `before` has
/// happened. What was printed since the question.
fn at_terminal(
    place: &Place,
    script: &str,
    begun: &str,
    before: impl FnOnce(),
    answer: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    let own = env!("CARGO_BIN_EXE_homing");
    let (broker, prefix) = (place.broker.url(), place.broker.prefix());
    let line = format!("{own} --broker {broker} --prefix {prefix} run -- sh -c '{script}'");
    let mut command = Command::new("/usr/bin/script");
    command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
    same_surroundings(&place.command(&[]), &mut command);
    command.current_dir(&place.folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no pipe")?;
    let mut out = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut line = String::new();
    while !line.contains(begun) {
        line.clear();
        assert!(out.read_line(&mut line)? > 0, "it ended");
    }
    // What Ctrl-C is at a terminal.
    std::io::Write::write_all(&mut input, b"\x03")?;
    let mut seen = Vec::new();
    while !text(&seen).contains("[y/N]") {
        let mut byte = [0];
        out.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    before();
    std::io::Write::write_all(&mut input, answer.as_bytes())?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    assert_eq!(child.wait()?.code(), Some(130), "{rest}");
    Ok(rest)
}

fn asks(broker: &Broker) -> TestResult {
    if !Path::new("/usr/bin/script").exists() {
        return if support::required() { Err("there is no /usr/bin/script".into()) } else { Ok(()) };
    }
    let place = Place::new(broker)?;
    let _worker = place.worker(&[])?;
    let newest = || place.list(&["--limit", "1"])[0]["pid"].to_string();
    for (answer, state) in [("y\n", "killed"), ("\n", "running")] {
        let rest = at_terminal(&place, "echo begun; sleep 300", "begun", || {}, answer)?;
        assert_eq!(place.state(&newest()), state, "{rest}");
        if state == "running" {
            assert!(rest.contains("goes on"), "{rest}");
            exits(&place.ended(&["process", "kill", &newest()])?, 0);
        }
    }
    // It ends while the question stands there.
    for (n, answer) in ["y\n", "\n"].into_iter().enumerate() {
        let script = format!("echo begun; while [ ! -e go.{n} ]; do sleep 0.02; done; exit 3");
        let ends = || {
            fs::write(place.file(&format!("go.{n}")), "").expect("written");
            let pid = newest();
            place.until(&pid, "finished");
            // Nobody can be asked any more.
            eventually("it can be called for ever", || {
                place.ended(&["process", "status", &pid]).is_ok_and(|output| output.status.code() == Some(3))
            });
        };
        let rest = at_terminal(&place, &script, "begun", ends, answer)?;
        assert!(rest.contains("has finished with exit status 3") && !rest.contains("goes on"), "{rest}");
    }
    // It waits for a slot, and nobody can be asked yet.
    let busy = place.detached("while [ ! -e go ]; do sleep 0.02; done", &[])?;
    place.until(&busy, "running");
    let rest = at_terminal(&place, "echo x >> ran", "free slot", || {}, "y\n")?;
    assert!(rest.contains("was killed"), "{rest}");
    assert_eq!(place.state(&newest()), "killed");
    fs::write(place.file("go"), "")?;
    place.until(&busy, "finished");
    exits(&place.ended(&["run", "--", "true"])?, 0);
    assert_eq!(place.lines("ran"), 0);
    Ok(())
}

/// One that is damaged keeps no other from being sent.
fn repaired_beside_a_damaged(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let pids = place.three_lost()?;
    let database = rusqlite::Connection::open(place.file("processes.db"))?;
    database.execute("UPDATE processes SET body = '[' WHERE pid = ?", [pids[1].parse::<i64>()?])?;
    drop(database);
    for (option, sent) in [(&["--dry-run"][..], false), (&[], true)] {
        let mut arguments = vec!["process", "repair"];
        arguments.extend(option);
        let (out, err) = exits(&place.ended(&arguments)?, 1);
        let names = |n: usize| out.contains(&format!("{}  lost", pids[n]));
        assert!(names(0) && !names(1) && names(2) && out.contains("sent again") == sent, "{out}");
        assert!(err.contains(&format!("process {} cannot be read", pids[1])), "{err}");
    }
    eventually("the others are not sent", || place.has_waiting(2));
    Ok(())
}

/// What cannot be printed is sent again all the same.
fn repaired_unprinted(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    place.three_lost()?;
    let mut full = place.command(&["process", "repair"]);
    let full = full.stdout(fs::File::create("/dev/full")?).stderr(Stdio::piped()).spawn()?;
    let (_, err) = exits(&shell::wait(full)?, 1);
    assert!(err.contains("No space left") && err.contains("3 are sent again"), "{err}");
    eventually("they are not sent", || place.has_waiting(3));
    Ok(())
}

/// Guards: a process that is taken for lost, though the task that launched it is back in the queue.
fn launch_task_back(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&[])?;
    let mut launch = place.command(&["process", "launch", "shell", "command=echo x >> runs; [ -e go ] || sleep 300"]);
    launch.stdout(Stdio::piped()).stderr(Stdio::piped());
    let launch = launch.spawn()?;
    eventually("it does not begin", || place.lines("runs") == 1);
    worker.0.kill()?;
    worker.0.wait()?;
    eventually("its task is not back", || place.has_waiting(1));
    assert!(findings(&place, &[]).is_empty(), "its task waits");
    fs::write(place.file("go"), "")?;
    let _worker = place.worker(&[])?;
    let (out, _) = exits(&shell::wait(launch)?, 0);
    assert!(out.contains("attempts: 2") && place.lines("runs") == 2, "{out}");
    Ok(())
}

/// Guards: a job that cannot be taken back, though nothing of it has begun.
fn killed_in_queue(broker: &Broker) -> TestResult {
    let (place, other) = (Place::new(broker)?, Place::new(broker)?);
    let mut worker = place.worker(&[])?;
    let busy = place.detached("while [ ! -e go ]; do sleep 0.02; done", &[])?;
    place.until(&busy, "running");
    let waiting =
        (0..3).map(|_| place.detached("echo x >> ran", &[])).collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let mut watch = place.command(&["process", "watch", "--count", "2"]);
    watch.args(&waiting[..2]);
    let mut watch = Running::start(watch)?;
    // Somebody waits for one of them.
    let waiter =
        place.command(&["process", "continue", &waiting[0]]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (out, _) = exits(&place.ended(&["process", "kill", &waiting[0], &waiting[1], "--message", "a mistake"])?, 0);
    assert_eq!(out.lines().filter(|line| line.ends_with("killed")).count(), 2, "{out}");
    for pid in &waiting[..2] {
        let shown = place.show(pid);
        assert_eq!((&shown["state"], &shown["outcome"]["message"]), (&"killed".into(), &"a mistake".into()), "{shown}");
        assert!(shown["lease"].is_null() && place.report(pid).1.contains("before it began"), "{shown}");
    }
    // Everybody is notified of it.
    assert_eq!(watch.ends()?, Some(0));
    // Again, and what is not there or runs elsewhere is not touched.
    let (_, err) = exits(&place.ended(&["process", "kill", &waiting[0]])?, 3);
    assert!(err.contains("was killed: a mistake"), "{err}");
    exits(&place.ended(&["process", "kill", "99"])?, 3);
    // A process of another store has the same pid, and these workers have nothing to do with it.
    let foreign = other.file("processes.db");
    fs::copy(place.file("processes.db"), &foreign)?;
    for name in ["-wal", "-shm"] {
        fs::copy(place.file(&format!("processes.db{name}")), other.file(&format!("processes.db{name}")))?;
    }
    exits(&other.ended(&["process", "kill", &waiting[2]])?, 3);
    assert_eq!((other.state(&waiting[2]), place.state(&waiting[2])), ("created".into(), "created".into()));
    let foreign = foreign.display().to_string();
    exits(&place.ended(&["process", "kill", &waiting[2], "--store", &foreign])?, 3);
    // Their tasks are answered, and the rest goes on.
    fs::write(place.file("go"), "")?;
    for pid in [&busy, &waiting[2]] {
        place.until(pid, "finished");
    }
    let (_, err) = exits(&shell::wait(waiter)?, 5);
    assert!(err.contains("a mistake"), "{err}");
    eventually("a task is left", || place.has_waiting(0));
    assert_eq!(place.lines("ran"), 1);
    assert_eq!(worker.stop("TERM")?.0, Some(0));
    // Without a worker nobody knows which store it is.
    let pid = place.show(&waiting[2])["pid"].to_string();
    exits(&place.ended(&["process", "kill", &pid])?, 3);
    Ok(())
}

fn lines(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut command = place.command(&["--log-format", "json", "worker"]);
    command.args(["--drain", "0"]);
    let mut worker = Running::start(command)?;
    exits(&place.ended(&["run", "--", "true"])?, 0);
    let mut changes = Vec::new();
    while changes.len() < 2 {
        let line: Value = serde_json::from_str(&worker.line()?)?;
        assert_eq!((&line["message"], &line["pid"]), (&"process".into(), &"1".into()), "{line}");
        changes.push(format!("{}-{}", line["from"].as_str().unwrap_or(""), line["to"].as_str().unwrap_or("")));
    }
    assert_eq!(changes, ["created-running", "running-finished"]);
    let (code, _) = worker.stop("TERM")?;
    assert_eq!(code, Some(0));
    let mut quiet = place.command(&["--quiet", "worker"]);
    let mut quiet = quiet.stderr(Stdio::piped()).spawn()?;
    eventually("it runs nothing", || {
        place.ended(&["run", "--", "true"]).is_ok_and(|output| output.status.code() == Some(0))
    });
    signal(quiet.id(), "TERM");
    let mut err = String::new();
    quiet.stderr.take().ok_or("no pipe")?.read_to_string(&mut err)?;
    assert!(quiet.wait()?.success() && err.lines().all(|line| line.contains("WARN")), "{err}");
    Ok(())
}

fn slots(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let _worker = place.worker(&["--slots", "2"])?;
    let script = "mkdir run.$$; ls -d run.* | wc -l >> most; sleep 0.3; rmdir run.$$";
    let pids = (0..6).map(|_| place.detached(script, &[])).collect::<Result<Vec<_>, _>>()?;
    for pid in &pids {
        place.until(pid, "finished");
    }
    let most = fs::read_to_string(place.file("most"))?;
    let both = ["a", "b"].map(|_| place.detached("while [ ! -e go ]; do sleep 0.02; done", &[]));
    let mut third = place.command(&["run", "--", "echo", "at last"]);
    let mut third = third.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let mut errors = BufReader::new(third.stderr.take().ok_or("no pipe")?);
    while !line.contains("free slot") {
        line.clear();
        assert!(errors.read_line(&mut line)? > 0, "it ended");
    }
    fs::write(place.file("go"), "")?;
    assert_eq!(exits(&shell::wait(third)?, 0).0, "at last\n");
    for pid in both {
        place.until(&pid?, "finished");
    }
    assert!(most.lines().count() == 6 && most.lines().all(|line| matches!(line.trim(), "1" | "2")), "{most}");
    Ok(())
}

fn drains(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&["--slots", "2", "--drain", "1s"])?;
    let short = place.detached("echo x >> short; sleep 0.5", &[])?;
    let long = place.detached("echo x >> long; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done", &[])?;
    eventually("they do not begin", || place.lines("short") == 1 && place.lines("long") == 1);
    let (code, _) = worker.stop("TERM")?;
    assert_eq!(code, Some(0));
    assert_eq!(place.state(&short), "finished");
    assert_eq!(place.state(&long), "running");
    eventually("its program runs on", || !place.lives("pid"));
    let _worker = place.worker(&[])?;
    eventually("it is not run again", || place.lines("long") == 2);
    fs::write(place.file("go"), "")?;
    place.until(&long, "finished");
    assert!(place.report(&long).1.contains("attempt 2"), "{:?}", place.report(&long));
    assert_eq!(place.show(&long)["outcome"]["outputs"]["attempts"], 2);
    Ok(())
}

fn second_signal(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&["--drain", "1h"])?;
    place.detached("trap '' TERM INT; sleep 300 & echo $! > child; echo $$ > pid; wait; sleep 300", &[])?;
    eventually("it does not begin", || place.lives("pid"));
    signal(worker.0.id(), "INT");
    let mut line = String::new();
    while !line.contains("second signal") {
        line = worker.line()?;
        assert!(!line.is_empty(), "the worker ended");
    }
    assert!(place.lives("pid"), "it drains");
    let begun = Instant::now();
    assert_eq!(worker.stop("INT")?.0, Some(130));
    assert!(begun.elapsed() < Duration::from_secs(30));
    eventually("something is left", || !place.lives("pid") && !place.lives("child"));
    Ok(())
}

fn worker_killed(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&[])?;
    let script = "echo x >> runs; sleep 300 & echo $! > child; echo $$ > pid; [ -e go ] || wait";
    let pid = place.detached(script, &[])?;
    eventually("it does not begin", || place.lives("pid"));
    worker.0.kill()?;
    eventually("its program is left", || !place.lives("pid") && !place.lives("child"));
    assert_eq!(place.state(&pid), "running", "in the store it has not ended");
    fs::write(place.file("go"), "")?;
    let _worker = place.worker(&[])?;
    place.until(&pid, "finished");
    assert_eq!(place.lines("runs"), 2);
    assert!(place.report(&pid).1.contains("attempt 2 runs it again"), "{:?}", place.report(&pid));
    Ok(())
}

fn mark_lost(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&[])?;
    let pid = place.detached("echo x >> runs; echo $$ > pid; sleep 300", &["--on-loss", "mark-lost"])?;
    eventually("it does not begin", || place.lives("pid"));
    worker.0.kill()?;
    let _worker = place.worker(&[])?;
    place.until(&pid, "excepted");
    let shown = place.show(&pid);
    assert_eq!(shown["outcome"]["type"], "Lost");
    assert_eq!(place.lines("runs"), 1);
    assert!(!place.lives("pid"));
    Ok(())
}

/// The children of a process.
fn children(of: u32) -> Vec<String> {
    let list = format!("/proc/{of}/task");
    let tasks = fs::read_dir(list).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn nothing_runs_twice(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&[])?;
    let script =
        "echo x >> runs; mkdir lock || echo twice >> twice; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done";
    let pid = place.detached(script, &[])?;
    eventually("it does not begin", || place.lives("pid"));
    let program = fs::read_to_string(place.file("pid"))?.trim().to_owned();
    // The worker and what watches over its programs die together.
    let reapers: Vec<String> = children(worker.0.id()).into_iter().filter(|child| *child != program).collect();
    assert_eq!(reapers.len(), 1, "{reapers:?}");
    signal(reapers[0].parse()?, "KILL");
    worker.0.kill()?;
    worker.0.wait()?;
    assert!(place.lives("pid"), "nobody is left to end it");
    fs::rename(place.file("pid"), place.file("first"))?;
    fs::remove_dir(place.file("lock"))?;
    let _worker = place.worker(&[])?;
    eventually("it is not run again", || place.lives("pid"));
    assert!(!place.lives("first"), "it ended before the second began");
    assert!(place.lines("twice") == 0 && place.lines("runs") == 2);
    fs::write(place.file("go"), "")?;
    place.until(&pid, "finished");
    assert!(place.report(&pid).1.contains("what was left of it was ended"), "{:?}", place.report(&pid));
    Ok(())
}

fn launched(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&[])?;
    let (out, _) = exits(&place.ended(&["process", "launch", "shell", "inputs={command: [sh, -c, exit 3]}"])?, 0);
    assert!(out.contains("exit_status: 3"), "{out}");
    let (out, _) =
        exits(&place.ended(&["process", "launch", "shell", "command=echo $A", "env={A: 5}", "--nowait"])?, 0);
    place.until(out.trim(), "finished");
    assert_eq!(place.report(out.trim()).0, "5\n");
    let (_, err) = exits(&place.ended(&["process", "launch", "shell", "comand=x"])?, 5);
    assert!(err.contains("\"comand\""), "{err}");
    // Another worker may know it: the task goes back.
    let (_, err) = exits(&place.ended(&["process", "launch", "other", "--timeout", "5s"])?, 4);
    assert!(err.contains("knows the class \"other\""), "{err}");
    assert_eq!(worker.stop("TERM")?.0, Some(0));
    let errors = worker.errors()?;
    let lines: Vec<_> = errors.lines().filter(|line| line.contains("does not know the class \"other\"")).collect();
    assert!(lines.len() == 1 && lines[0].contains("it knows shell"), "once: {errors}");
    Ok(())
}

/// What a repair has found, by pid.
fn findings(place: &Place, options: &[&str]) -> Vec<(String, String, bool)> {
    let mut arguments = vec!["--format", "json", "process", "repair"];
    arguments.extend(options);
    let (out, _) = exits(&place.ended(&arguments).expect("repaired"), 0);
    out.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let finding = line["finding"].as_str().unwrap_or_default().to_owned();
            (line["pid"].to_string(), finding, line["sent_again"] == true)
        })
        .collect()
}

fn repaired(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = place.worker(&[])?;
    let lost = place.detached("echo x >> runs; [ -e go ] || sleep 300", &[])?;
    eventually("it does not begin", || place.lines("runs") == 1);
    assert!(findings(&place, &[]).is_empty(), "a worker has it");
    worker.0.kill()?;
    worker.0.wait()?;
    // Its task is back in the queue, and somebody deletes it there.
    eventually("its task is not back", || place.has_waiting(1));
    assert!(findings(&place, &[]).is_empty(), "its task waits");
    exits(&place.ended(&["task", "purge", "--all"])?, 0);
    let expected = |sent| vec![(lost.clone(), "lost".to_owned(), sent)];
    assert_eq!(findings(&place, &["--dry-run"]), expected(false));
    // Three at once: it is sent once.
    let repair = || place.command(&["--format", "json", "process", "repair"]).stdout(Stdio::piped()).spawn();
    let repairs = [repair()?, repair()?, repair()?];
    let repaired: Vec<String> =
        repairs.into_iter().map(|repair| Ok(exits(&shell::wait(repair)?, 0).0)).collect::<std::io::Result<_>>()?;
    let sent = repaired.iter().filter(|out| out.contains("\"sent_again\":true"));
    assert_eq!(sent.count(), 1, "{repaired:?}");
    assert!(findings(&place, &[]).is_empty(), "it is sent once");
    fs::write(place.file("go"), "")?;
    // One more task for it: both end.
    exits(&place.ended(&["process", "continue", &lost, "--nowait", "--timeout", "5s"])?, 4);
    assert_eq!(findings(&place, &[]), [(lost.clone(), "doubled".to_owned(), false)]);
    let _worker = place.worker(&[])?;
    place.until(&lost, "finished");
    assert_eq!(place.lines("runs"), 2);
    eventually("a task is left", || place.has_waiting(0));
    Ok(())
}

/// Two workers, twenty jobs, and a day on which much goes wrong.
fn days_work() -> TestResult {
    let node = Node::start(Tls::No)?;
    let place = Place::new(&Broker::at(node.url()))?;
    let start = || place.worker(&["--slots", "12"]);
    let (first, second) = (start()?, start()?);
    let mut workers = vec![first, second];
    // Each notes that it began and that it ended, and is paused and played at its leisure.
    let script = |n: usize| {
        format!("echo $$ >> began.{n}; while [ ! -e go ]; do sleep 0.05; done; echo x >> ended.{n}; exit {n}")
    };
    let pids = (0..20).map(|n| place.detached(&script(n), &[])).collect::<Result<Vec<_>, _>>()?;
    let began = |n: usize| place.lines(&format!("began.{n}"));
    eventually("not all begin", || (0..20).all(|n| began(n) == 1));
    assert_eq!(place.list(&["--state", "running"]).len(), 20);
    let paused = ["process", "pause", &pids[1], &pids[2], &pids[3], "--message", "lunch"];
    exits(&place.ended(&paused)?, 0);
    exits(&place.ended(&["process", "play", &pids[1]])?, 0);
    exits(&place.ended(&["process", "kill", &pids[5], "--message", "a mistake"])?, 0);
    // A worker dies. The other one runs what was its own.
    let lost = workers.remove(0);
    let of_the_lost: Vec<usize> = place
        .list(&["--state", "unfinished"])
        .iter()
        .filter(|job| job["lease"]["process_id"] == lost.0.id())
        .filter_map(|job| pids.iter().position(|pid| job["pid"].as_i64() == pid.parse().ok()))
        .collect();
    assert!(!of_the_lost.is_empty(), "both workers have jobs");
    signal(lost.0.id(), "KILL");
    drop(lost);
    workers.push(start()?);
    let is_paused = |n: usize| [2, 3].contains(&n);
    eventually("what the dead worker had is not run again", || {
        of_the_lost.iter().all(|n| began(*n) == 2 || is_paused(*n))
    });
    // The broker goes, and comes again. The jobs do not take note of it.
    node.kill()?;
    node.restart()?;
    eventually("the broker is not back", || {
        place
            .ended(&["worker", "ping", "--wait", "500ms"])
            .is_ok_and(|output| text(&output.stdout).lines().count() == 2)
    });
    let repaired = findings(&place, &[]);
    assert!(repaired.iter().all(|(_, finding, sent)| finding != "lost" && !sent), "nothing is lost: {repaired:?}");
    exits(&place.ended(&["process", "play", &pids[2], &pids[3]])?, 0);
    fs::write(place.file("go"), "")?;
    for (n, pid) in pids.iter().enumerate() {
        place.until(pid, if n == 5 { "killed" } else { "finished" });
    }
    for (n, pid) in pids.iter().enumerate() {
        let shown = place.show(pid);
        let ended = place.lines(&format!("ended.{n}"));
        if n == 5 {
            assert_eq!((&shown["outcome"]["message"], ended), (&"a mistake".into(), 0));
            continue;
        }
        assert_eq!((&shown["outcome"]["exit_status"], ended), (&n.into(), 1), "job {n}: {shown}");
        let attempts = if of_the_lost.contains(&n) { 2 } else { 1 };
        assert_eq!(shown["outcome"]["outputs"]["attempts"], attempts, "job {n}");
        assert!(shown["lease"].is_null(), "job {n}: {shown}");
    }
    assert!(place.list(&["--state", "unfinished"]).is_empty());
    eventually("a task is left", || findings(&place, &[]).is_empty() && place.has_waiting(0));
    for mut worker in workers {
        assert_eq!(worker.stop("TERM")?.0, Some(0));
    }
    // Nothing is left: none of the programs, and none of what watched over them.
    for n in 0..20 {
        for pid in fs::read_to_string(place.file(&format!("began.{n}"))).unwrap_or_default().lines() {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "job {n} has left process {pid}");
        }
    }
    Ok(())
}

/// How fast programs are launched and run: printed, and nothing is demanded.
fn launches(broker: &Broker) -> TestResult {
    const COUNT: usize = 500;
    let place = Place::new(broker)?;
    let worker = Running::unread(place.command(&["worker", "--slots", "8"]))?;
    eventually("the worker is not there", || {
        place.ended(&["worker", "ping", "--wait", "500ms"]).is_ok_and(|output| !output.stdout.is_empty())
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let took = runtime.block_on(async {
        let communicator = homing::Communicator::builder(broker.url()).prefix(broker.prefix()).connect().await?;
        let controller = homing::process::ProcessController::new(&communicator);
        let begun = Instant::now();
        let all = (0..COUNT).map(|_| {
            let launch = controller.launch("shell").kwarg("command", "true").timeout(Duration::from_secs(100));
            tokio::spawn(launch)
        });
        for launched in all.collect::<Vec<_>>() {
            launched.await.map_err(|error| error.to_string())??;
        }
        let took = begun.elapsed();
        communicator.close().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(took)
    })?;
    let status = fs::read_to_string(format!("/proc/{}/status", worker.0.id()))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = COUNT as f64 / took.as_secs_f64();
    println!(
        "{COUNT} launches of `true` on 8 slots: {:.1} s, {rate:.0} a second, {memory} resident",
        took.as_secs_f64()
    );
    let finished = place.list(&["--state", "finished", "--limit", "1000"]);
    assert_eq!(finished.len(), COUNT);
    Ok(())
}

/// A shell that is given lines, as by a person.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Shell {
    fn start(mut command: Command) -> Result<Self, Box<dyn std::error::Error>> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (input, stdout) = (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
        let (lines, output) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Ok(Shell { child, input, output })
    }

    /// Runs a line: its output, and its exit code.
    fn line(&mut self, line: &str) -> Result<(String, i32), Box<dyn std::error::Error>> {
        writeln!(self.input, "{line}\necho \"exit code $?.\"")?;
        let mut out = String::new();
        loop {
            let line = self.output.recv_timeout(3 * shell::LONG)?;
            if let Some(code) = line.strip_prefix("exit code ").and_then(|rest| rest.strip_suffix('.')) {
                return Ok((out, code.parse()?));
            }
            // Of the broker in the background, at any time.
            if !line.starts_with("listening on") {
                out.push_str(&line);
                out.push('\n');
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It, and what it has in the background. A supervisor that is killed has its workers drain.
        signal_group(self.child.id(), "TERM");
        std::thread::sleep(Duration::from_millis(300));
        signal_group(self.child.id(), "KILL");
        let _ = self.child.wait();
    }
}

fn signal_group(id: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), "--", &format!("-{id}")]).stderr(Stdio::null()).status();
}

/// The lines of README's day, without their comments.
fn days_lines() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).expect("README.md");
    let (_, rest) = text.split_once("## A day's work").expect("the section");
    let block = rest.split("```").nth(1).expect("its block").trim_start_matches("text");
    let lines = block.lines().map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// What README has of a day's work, line by line as it stands there. Only the broker's port is another one, and a job waits
/// for a file instead of for a minute.
fn readmes_day() -> TestResult {
    // Below those that the system hands out.
    let ports = std::iter::repeat_with(|| fastrand::u16(20_000..30_000)).take(100);
    let port = { ports }.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).ok_or("no port is free")?;
    let place = Place::new(&Broker::at(format!("amqp://127.0.0.1:{port}/")))?;
    let mut bash = Command::new("bash");
    same_surroundings(&homing(&[]), &mut bash);
    let own = Path::new(env!("CARGO_BIN_EXE_homing")).parent().ok_or("a directory")?;
    bash.env("PATH", format!("{}:{}", own.display(), std::env::var("PATH")?));
    bash.env("HOMING_STORE", place.file("processes.db")).env("XDG_DATA_HOME", place.file("data"));
    let mut shell = Shell::start({
        bash.current_dir(&place.folder);
        bash
    })?;
    // Each notes its beginning and its end.
    let job = "echo x >> began.$n; while [ ! -e go ]; do sleep 0.05; done; echo x >> ended.$n; echo $n";
    let began = |n: usize| place.lines(&format!("began.{n}"));
    let jobs = || place.list(&["--state", "unfinished"]);
    let mut of_the_killed: Vec<usize> = Vec::new();
    let mut lines = 0;
    for line in days_lines() {
        let mut line = line.replace("5672", &port.to_string());
        line = line.replace("homing broker run", &format!("homing broker run --listen 127.0.0.1:{port}"));
        line = line.replace("sleep 60; echo $n", job);
        let workers = |shell: &mut Shell| -> Result<Vec<Value>, Box<dyn std::error::Error>> {
            let (out, code) = shell.line("homing --format json workers status")?;
            let status: Value = if code == 0 { serde_json::from_str(&out)? } else { Value::Null };
            let workers = status["workers"].as_array().cloned().unwrap_or_default();
            Ok(workers.into_iter().filter(|worker| worker["state"] == "running").collect())
        };
        let all_up = |shell: &mut Shell| -> TestResult {
            let until = Instant::now() + 3 * shell::LONG;
            loop {
                // They answer: the connection of each is there.
                let (pong, _) = shell.line("homing worker ping --wait 500ms")?;
                if workers(shell)?.len() == 2 && pong.lines().count() == 2 {
                    return Ok(());
                }
                assert!(Instant::now() < until, "two workers: {pong}");
            }
        };
        if line.contains("jq") {
            // Not everywhere is a jq. Its workers are there all the same.
            let killed = workers(&mut shell)?[0]["pid"].clone();
            let is_its = |job: &&Value| job["lease"]["process_id"] == killed && job["paused"].is_null();
            of_the_killed =
                jobs().iter().filter(is_its).filter_map(|job| job["pid"].as_u64()?.try_into().ok()).collect();
            assert!(!of_the_killed.is_empty(), "both have jobs");
            line = format!("kill -9 {killed}");
        }
        if ["pause", "play", "kill"].iter().any(|word| line.starts_with(&format!("homing process {word}"))) {
            // A person sees that they can be called, again after the broker or their worker was gone.
            let pids: Vec<&str> = line.split(' ').filter(|word| word.parse::<u32>().is_ok()).collect();
            let status = format!("homing process status {}", pids.join(" "));
            let until = Instant::now() + 3 * shell::LONG;
            while shell.line(&status)?.1 != 0 {
                assert!(Instant::now() < until, "{status}");
            }
        }
        let (out, code) = shell.line(&line)?;
        assert_eq!(code, 0, "{line}: {out}");
        lines += 1;
        if line.starts_with("homing broker run") {
            eventually("the broker does not listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
            if !of_the_killed.is_empty() {
                all_up(&mut shell)?;
            }
        } else if line.starts_with("homing worker") {
            all_up(&mut shell)?;
        } else if line.starts_with("for ") {
            eventually("not all begin", || (1..=20).all(|n| began(n) == 1));
        } else if line.starts_with("homing process list --state unfinished") {
            assert_eq!(out.lines().count(), 21, "a head and twenty: {out}");
        } else if line.starts_with("kill -9 ") && !line.contains('$') {
            eventually("its jobs are not run again", || of_the_killed.iter().all(|n| began(*n) == 2));
        } else if line.starts_with("homing process repair") {
            assert!(!out.contains("lost"), "{out}");
        }
    }
    assert_eq!(lines, days_lines().len());
    fs::write(place.file("go"), "")?;
    eventually("not all end", || jobs().is_empty());
    for n in 1..=20 {
        let shown = place.show(&n.to_string());
        let state = shown["state"].as_str().unwrap_or_default();
        let is_right = match n {
            5 => state == "killed" && shown["outcome"]["message"] == "a mistake",
            _ => state == "finished" && place.lines(&format!("ended.{n}")) == 1,
        };
        assert!(is_right, "job {n}: {shown}");
    }
    let (out, code) = shell.line("homing workers stop && homing task list")?;
    assert!(code == 0 && !out.contains("continue"), "{out}");
    Ok(())
}
