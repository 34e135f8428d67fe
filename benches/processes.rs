//! What ten thousand processes cost: the memory of the worker that has them, all of them waiting, and how long it takes until
//! all of them are paused, played and killed by one broadcast each.
//! `cargo bench --features sqlite,local --bench processes -- [URL] [COUNT]`, on a RabbitMQ, or by default on a local broker that
//! this program hosts.
//!
//! The worker is a process of its own, with 64 slots and a store in one SQLite file; what is measured of it is what the
//! system reports. The times end when the store has the last of the changes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use homing::process::store::{ListFilter, Persister, SqlitePersister};
use homing::process::{Inputs, Next, Process, ProcessController, ProcessState, ProcessWorker, Registry, StepContext};
use homing::{Communicator, CommunicatorBuilder, HandlerResult, TestingMode};
use serde::{Deserialize, Serialize};

/// In the worker: where its store is, its broker, and its names there.
const STORE: &str = "HOMING_BENCH_STORE";
const URL: &str = "HOMING_BENCH_URL";
const PREFIX: &str = "HOMING_BENCH_PREFIX";

/// How many launches wait for their answer at once.
const LAUNCHING: usize = 200;

/// No single change takes longer, however many there are and however busy the machine is.
const LONG: Duration = Duration::from_secs(600);

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A process that waits until somebody resumes it, as one of a workflow does that has submitted its work elsewhere.
#[derive(Serialize, Deserialize)]
struct Waits {
    about: String,
}

impl Process for Waits {
    fn new(_: Inputs) -> HandlerResult<Self> {
        // What a class keeps of itself in many programs.
        Ok(Waits { about: "submitted to the queue of another machine as job 1234567; ".repeat(4) })
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        if context.step() > 0 {
            return Ok(Next::finish(self.about.as_str()));
        }
        Ok(Next::wait_for_resume("the other machine"))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // cargo test --benches only looks whether it runs.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let done = match (std::env::var(STORE), std::env::var(URL)) {
        (Ok(store), Ok(url)) => runtime.block_on(worker(&url, Path::new(&store))),
        _ => {
            let directory = std::env::temp_dir().join(format!("homing-bench-processes-{}", std::process::id()));
            std::fs::create_dir(&directory).expect("a directory");
            let measured = runtime.block_on(measure(&arguments, &directory));
            drop(runtime);
            std::fs::remove_dir_all(&directory).expect("it is ours");
            measured
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// With names that go with it.
fn options(url: &str) -> CommunicatorBuilder {
    let prefix = std::env::var(PREFIX).unwrap_or_else(|_| own_prefix());
    Communicator::builder(url).prefix(prefix).testing(TestingMode::Yes).task_timeout(LONG)
}

fn own_prefix() -> String {
    format!("homing-bench-processes-{}", std::process::id())
}

async fn worker(url: &str, store: &Path) -> Anything<()> {
    let communicator = options(url).connect().await?;
    let store = SqlitePersister::open(store).await?;
    let registry = Registry::new().register::<Waits>("waits")?;
    let worker = ProcessWorker::builder(&communicator, store, registry).slots(64).start().await?;
    println!("up");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    worker.drain(Duration::ZERO).await;
    communicator.close().await?;
    Ok(())
}

/// The worker, which is killed with this.
struct Worker(Child);

impl Worker {
    fn start(url: &str, store: &Path) -> Anything<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(STORE, store).env(URL, url).env(PREFIX, own_prefix()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("its output")?).read_line(&mut line)?;
        if line.trim() == "up" { Ok(Worker(child)) } else { Err("the worker does not come up".into()) }
    }

    /// Its resident memory in bytes.
    fn memory(&self) -> Anything<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long it takes until the store has so many processes of this kind.
async fn until(
    store: &SqlitePersister,
    since: Instant,
    count: usize,
    is_meant: impl Fn(&homing::process::store::Summary) -> bool,
) -> Anything<Duration> {
    let (mut most, mut last_change) = (0, Instant::now());
    loop {
        let begun = Instant::now();
        let all = store.list(ListFilter::new()).await?.processes;
        let meant = all.iter().filter(|process| is_meant(process)).count();
        if meant >= count {
            return Ok(since.elapsed());
        }
        if meant > most {
            (most, last_change) = (meant, Instant::now());
        }
        if last_change.elapsed() > LONG {
            return Err(format!("{meant} of {count}, and no more for {LONG:?}").into());
        }
        // So that looking on takes a part of the machine that is small.
        tokio::time::sleep(Duration::from_millis(100).max(begun.elapsed() * 4)).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn measure(arguments: &[String], directory: &Path) -> Anything<()> {
    let local = format!("local:{}", directory.join("broker").display());
    let url = arguments.first().map_or(local.as_str(), String::as_str);
    let count: usize = arguments.get(1).map_or(Ok(10_000), |text| text.parse())?;
    let communicator = options(url).connect().await?;
    let controller = ProcessController::new(&communicator);
    let path = directory.join("store");
    let store = SqlitePersister::open(&path).await?;
    let worker = Worker::start(url, &path)?;
    let before = worker.memory()?;
    let start = Instant::now();
    let launches = futures_util::stream::iter(0..count).map(|_| async { controller.launch("waits").nowait().await });
    launches.buffer_unordered(LAUNCHING).try_collect::<Vec<_>>().await?;
    let took = until(&store, start, count, |process| process.state() == ProcessState::Waiting).await?;
    println!(
        "{count} launched, all wait: {:.1} s, {:.0} a second",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
    // What was needed for a moment only is given back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (megabytes, with) = (|bytes: u64| bytes as f64 / 1e6, worker.memory()?);
    println!(
        "memory of the worker: {:.1} MB without processes, {:.1} MB with {count} that wait, {:.1} kB each",
        megabytes(before),
        megabytes(with),
        with.saturating_sub(before) as f64 / 1e3 / count as f64
    );
    for name in ["pause --all", "play --all", "kill --all"] {
        let start = Instant::now();
        match name {
            "pause --all" => controller.pause_all().await?,
            "play --all" => controller.play_all().await?,
            _ => controller.kill_all().await?,
        }
        let took = until(&store, start, count, |process| match name {
            "pause --all" => process.pause().is_some(),
            "play --all" => process.pause().is_none(),
            _ => process.state() == ProcessState::Killed,
        });
        println!("{name}: {:.1} s until the store has the last of {count}", took.await?.as_secs_f64());
    }
    println!("memory of the worker when all have ended: {:.1} MB", megabytes(worker.memory()?));
    drop(worker);
    communicator.close().await?;
    Ok(())
}
