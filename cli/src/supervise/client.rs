//! `homing workers`: asks the supervisor of a store, which its lock names.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::identity::{self, Identity};
use super::lock::{self, Record};
use super::protocol::{self, Reply, Request, Response, Status, WorkerStatus};
use crate::args::{Format, Global, Workers, WorkersOptions};
use crate::failure::Failure;
use crate::output::without_controls;
use crate::stop::{Stop, or_interrupted};
use crate::{out, output, show, store};

/// How often the status is asked for while something is under way.
const POLLS: Duration = Duration::from_millis(100);
/// What a worker may need to come up, or to end beyond its drain.
const MARGIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(command: Workers, global: &Global, stop: Stop) -> Result<(), Failure> {
    let begun = Instant::now();
    let options = command.options();
    let client = Client::find(options, global)?;
    let limit = options.timeout;
    let format = global.output.format;
    or_interrupted(stop, async {
        let deadline = |own: Duration| begun + limit.unwrap_or(own);
        match command {
            Workers::Status { .. } => print(&client.ask(&Request::Status).await?.status, format),
            Workers::Add { count, .. } => client.add(count.get(), deadline(MARGIN), format).await,
            Workers::Remove { count, .. } => client.remove(count.get(), deadline, format).await,
            Workers::Restart { .. } => client.restart(deadline, format).await,
            Workers::Stop { .. } => client.stop(deadline, format).await,
        }
    })
    .await
}

struct Client {
    record: Record,
    /// How a supervisor is started, where there is none any more.
    nobody: String,
}

impl Client {
    /// The supervisor of a store.
    ///
    /// # Errors
    /// `Nobody` when none runs.
    fn find(options: &WorkersOptions, global: &Global) -> Result<Self, Failure> {
        let path = store::path(options.store.as_deref())?;
        let nobody = nobody(&path, options, global);
        // The store may be moved away while a supervisor runs. Its lock is in the directory.
        if !path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.exists()) {
            return Err(Failure::Nobody(nobody));
        }
        let identity = Identity::new(&path, &global.names, options.name.as_deref())?;
        let file = identity.lock_file();
        let record = lock::read(&file)
            .map_err(|error| Failure::Other(format!("the lock {} cannot be read: {error}", file.display())))?;
        match record {
            Some(record) => Ok(Client { record, nobody }),
            None => Err(Failure::Nobody(nobody)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let socket = &self.record.socket;
        let answer = async {
            let mut stream = tokio::time::timeout(protocol::PATIENCE, UnixStream::connect(socket)).await??;
            protocol::write_line(&mut stream, request).await?;
            protocol::read_response(&mut stream).await
        };
        match answer.await {
            Ok(Response::Done(reply)) => Ok(*reply),
            Ok(Response::Refused(why)) => Err(Failure::Other(why)),
            Err(_) if !self.record.lives() => Err(Failure::Nobody(self.nobody.clone())),
            Err(error) => {
                let pid = self.record.pid;
                let text = format!(
                    "the supervisor, process {pid}, runs and does not answer at {}: {error}; `kill {pid}` has it and its \
                     workers drain",
                    socket.display()
                );
                Err(if error.kind() == std::io::ErrorKind::TimedOut {
                    Failure::TimedOut(text)
                } else {
                    Failure::Other(text)
                })
            }
        }
    }

    /// Asks for the status until it is as wanted.
    async fn until<T>(
        &self,
        deadline: Instant,
        what: &str,
        mut wanted: impl FnMut(&Status) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        loop {
            let status = self.ask(&Request::Status).await?.status;
            if let Some(done) = wanted(&status)? {
                return Ok(done);
            }
            if Instant::now() >= deadline {
                return Err(Failure::TimedOut(format!(
                    "{what} is still under way; `homing workers status`, with the same options, shows it"
                )));
            }
            tokio::time::sleep(POLLS).await;
        }
    }

    async fn add(&self, count: u16, deadline: Instant, format: Format) -> Result<(), Failure> {
        let added = self.ask(&Request::Add { count }).await?.workers;
        let status = self
            .until(deadline, "the start of the new workers", |status| {
                let of = |worker: &&WorkerStatus| added.contains(&worker.worker);
                let all = status.workers.iter().filter(of);
                Ok(all.clone().all(|worker| is_up(worker) || worker.deaths > 0).then(|| status.clone()))
            })
            .await?;
        let mut failed = String::new();
        for number in &added {
            match status.workers.iter().find(|worker| worker.worker == *number) {
                Some(worker) if is_up(worker) => running(worker)?,
                Some(worker) => {
                    let how = worker.last_end.as_deref().unwrap_or("it has ended");
                    let line = worker.last_line.as_deref().map(|line| format!(": {line}")).unwrap_or_default();
                    let _ = write!(failed, "; worker {number} does not come up ({how}{line})");
                }
                None => {
                    let _ = write!(failed, "; worker {number} was removed");
                }
            }
        }
        finish(&status, format)?;
        match failed.strip_prefix("; ") {
            None => Ok(()),
            Some(failed) => Err(Failure::Other(without_controls(failed))),
        }
    }

    async fn remove(&self, count: u16, deadline: impl Fn(Duration) -> Instant, format: Format) -> Result<(), Failure> {
        let reply = self.ask(&Request::Remove { count }).await?;
        let before = |number: u16| reply.status.workers.iter().find(|worker| worker.worker == number);
        let mut left = reply.workers.clone();
        let status = self
            .until(deadline(drain(&reply.status) + MARGIN), "the end of the workers", |status| {
                // A worker of the same number and another process is a new one.
                let still = |number: &u16| {
                    let now = status.workers.iter().find(|worker| worker.worker == *number);
                    now.is_some_and(|now| before(*number).is_some_and(|before| before.pid == now.pid))
                };
                for number in left.extract_if(.., |number| !still(number)) {
                    show!("worker {number} has ended")?;
                }
                Ok(left.is_empty().then(|| status.clone()))
            })
            .await?;
        finish(&status, format)
    }

    async fn restart(&self, deadline: impl Fn(Duration) -> Instant, format: Format) -> Result<(), Failure> {
        let begun = self.ask(&Request::Restart).await?.status;
        let id = begun.restart.as_ref().map(|restart| restart.id);
        let many = u32::try_from(begun.workers.len()).unwrap_or(u32::MAX);
        let most = (drain(&begun) + MARGIN).saturating_mul(many.max(1));
        let mut shown = 0;
        let status = self
            .until(deadline(most), "the restart", |status| {
                let restart = status.restart.as_ref().filter(|restart| Some(restart.id) == id);
                let Some(restart) = restart else {
                    return Err(Failure::Other("another restart has begun meanwhile".to_owned()));
                };
                for number in &restart.restarted[shown.min(restart.restarted.len())..] {
                    if let Some(worker) = status.workers.iter().find(|worker| worker.worker == *number) {
                        running(worker)?;
                    }
                }
                shown = restart.restarted.len();
                match &restart.given_up {
                    Some(why) => Err(Failure::Other(without_controls(&format!("the restart was given up: {why}")))),
                    None => Ok((!restart.under_way).then(|| status.clone())),
                }
            })
            .await?;
        finish(&status, format)
    }

    async fn stop(&self, deadline: impl Fn(Duration) -> Instant, format: Format) -> Result<(), Failure> {
        let asked = self.ask(&Request::Stop).await?;
        let deadline = deadline(drain(&asked.status) + MARGIN);
        while self.record.lives() {
            if Instant::now() >= deadline {
                return Err(Failure::TimedOut(
                    "the workers still drain; `homing workers status`, with the same options, shows them".to_owned(),
                ));
            }
            match self.ask(&Request::Status).await {
                // It ends this moment.
                Ok(_) | Err(Failure::Nobody(_) | Failure::Other(_)) => tokio::time::sleep(POLLS).await,
                Err(failure) => return Err(failure),
            }
        }
        match format {
            Format::Json => finish(&asked.status, format),
            Format::Text => out!("the supervisor, process {}, and its workers have ended", self.record.pid),
        }
    }
}

fn is_up(worker: &WorkerStatus) -> bool {
    worker.state == "running"
}

fn drain(status: &Status) -> Duration {
    Duration::try_from_secs_f64(status.supervisor.drain_seconds).unwrap_or_default()
}

fn running(worker: &WorkerStatus) -> Result<(), Failure> {
    let pid = worker.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    show!("worker {} runs as process {pid}", worker.worker)
}

/// What a program gets in the end.
fn finish(status: &Status, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print(status, format),
        Format::Text => Ok(()),
    }
}

/// None runs, and how one is started.
fn nobody(path: &Path, options: &WorkersOptions, global: &Global) -> String {
    let others = match others(path) {
        0 => String::new(),
        1 => " (one runs for other names: see --prefix and --name)".to_owned(),
        many => format!(" ({many} run for other names: see --prefix and --name)"),
    };
    let name = options.name.as_deref();
    format!(
        "no supervisor of workers runs for the store {} and these names{others}; start one: `{}`",
        path.display(),
        identity::typed(global, "worker --workers 2", options.store.as_deref(), name),
    )
}

/// How many supervisors of the same store live.
fn others(path: &Path) -> usize {
    let Ok(store) = std::fs::canonicalize(path) else { return 0 };
    let (Some(folder), Some(name)) = (store.parent(), store.file_name()) else { return 0 };
    let begin = format!("{}.workers-", name.to_string_lossy());
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&begin) && !name.ends_with(".log")
        })
        .filter(|file| lock::read(&file.path()).is_ok_and(|record| record.is_some_and(|record| record.lives())))
        .count()
}

fn print(status: &Status, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let text = serde_json::to_string(status).map_err(|error| Failure::Other(error.to_string()))?;
        return out!("{text}");
    }
    let supervisor = &status.supervisor;
    let mut head = format!(
        "supervisor {}, {}, for {}, {}, store {}",
        supervisor.pid,
        supervisor.state,
        age(supervisor.age_seconds),
        memory(supervisor.usage.memory_bytes),
        supervisor.store
    );
    if let Some(log) = &supervisor.log {
        let _ = write!(head, ", log {}", log.display());
    }
    out!("{}", without_controls(&head))?;
    if let Some(restart) = status.restart.as_ref().filter(|restart| restart.under_way) {
        out!("a restart is under way: {} of {} workers", restart.restarted.len(), status.workers.len())?;
    }
    if status.workers.is_empty() {
        return out!("it has no workers; `homing workers add`, with the same options, gives it some");
    }
    table(&status.workers)
}

fn table(workers: &[WorkerStatus]) -> Result<(), Failure> {
    let heads = ["WORKER", "STATE", "PID", "MEMORY", "CPU", "AGE", "RESTARTS", "LAST END"];
    let mut rows = vec![heads.map(str::to_owned)];
    for worker in workers {
        let state = match worker.starts_in_seconds {
            Some(pause) => format!("{} ({:.0} s)", worker.state, pause.ceil()),
            None => worker.state.clone(),
        };
        let last = match (&worker.last_end, &worker.last_line) {
            (Some(end), Some(line)) => format!("{end}: {line}"),
            (Some(end), None) => end.clone(),
            _ => String::new(),
        };
        let row = [
            worker.worker.to_string(),
            state,
            worker.pid.map_or_else(String::new, |pid| pid.to_string()),
            memory(worker.usage.memory_bytes),
            worker.usage.cpu_percent.map_or_else(String::new, |percent| format!("{percent:.1} %")),
            worker.age_seconds.map_or_else(String::new, age),
            worker.restarts.to_string(),
            last.chars().take(80).collect(),
        ];
        rows.push(row);
    }
    output::table(rows)
}

fn age(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds.floor()).unwrap_or_default();
    let text = humantime::format_duration(time).to_string();
    // The largest two units are enough.
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}
