//! A worker of processes that is killed wherever it can matter: before and after each call that writes to its store, at each
//! change of state, at the beginning of each step and after what the step did. Whatever the place, workers that follow bring
//! each process to its end exactly once, or report it as lost where its class wants that.
//!
//! The places are in this file: a store and a class that count what they are asked, and abort this program at the count that
//! they were given. Nothing of it is in the library.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use homing::process::store::{
    Claim, LeaseId, ListFilter, Listing, LogLine, LogPage, NewProcess, Outcome, Owner, Persister, Record, Saved,
    SqlitePersister, Stored,
};
use homing::process::{AfterLoss, Inputs, Next, Pid, Process, ProcessController, ProcessWorker, Registry, StepContext};
use homing::{Communicator, CommunicatorBuilder, HandlerError, HandlerResult, TestingMode, Value, inspect};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use support::{Broker, Suite, TestResult};

/// In the child: the count at which it ends; 0 for never. And how long it still sends before it does, in milliseconds.
const CRASH_AT: &str = "HOMING_TEST_CRASH_AT";
const CRASH_AFTER: &str = "HOMING_TEST_CRASH_AFTER";

/// How long a worker that is about to die still sends. What it has acknowledged, answered or stored by then is out.
///
/// Guards: an acknowledgement that comes before what it stands for is stored. A worker that dies at the very place takes its
/// acknowledgement along, and nobody notices.
const LINGERS: Duration = Duration::from_millis(150);

/// How long the workers of one try have, which follow each other.
const LONG: Duration = Duration::from_secs(60);

/// How long an answer may take that is on its way.
const ANSWERED: Duration = Duration::from_secs(3);

/// How many are tried side by side: each waits for the broker most of the time.
const SIDE_BY_SIDE: usize = 6;

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    if let Ok(at) = std::env::var(CRASH_AT) {
        return worker(at.parse().expect("a count"));
    }
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(900));
    suite.rabbitmq("a_worker_that_is_killed_here_and_there_leaves_nothing_undone_or_done_twice", |broker| {
        killed_anywhere(broker, 7)
    });
    // Some 250 tries, of which each waits for the broker and may wait for a lease.
    suite.deadline(Duration::from_secs(3600));
    suite.rabbitmq("a_worker_that_is_killed_anywhere_leaves_nothing_undone_or_done_twice_in_full", |broker| {
        killed_anywhere(broker, 1)
    });
    suite.run()
}

fn options(url: &str, prefix: &str) -> CommunicatorBuilder {
    Communicator::builder(url).prefix(prefix).testing(TestingMode::Yes).task_timeout(LONG)
}

// The worker, in a process of its own.

/// Where this process may end, counted from 1.
struct Places {
    at: u64,
    after: Duration,
    count: AtomicU64,
    /// Outlives this process: what was done, by which process, in which step.
    ledger: File,
}

static PLACES: OnceLock<Places> = OnceLock::new();

fn places() -> &'static Places {
    PLACES.get().expect("they are set up first")
}

impl Places {
    /// One line, at once.
    fn note(&self, line: &str) {
        (&self.ledger).write_all(format!("{line}\n").as_bytes()).expect("the ledger can be written");
    }

    fn pass(&self, name: &str) {
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if self.at > 0 && count > self.at {
            // It is dying: what would follow is not done any more.
            loop {
                std::thread::park();
            }
        }
        self.note(&format!("place {count} {name}"));
        if count == self.at {
            self.note(&format!("killed {name}"));
            // The communicator's own threads, and the store's, go on meanwhile.
            std::thread::sleep(self.after);
            // No destructor runs, and nothing more is sent.
            std::process::abort();
        }
    }
}

/// A store with a place before and after each call that writes.
struct Guarded(SqlitePersister);

impl Guarded {
    fn around<'a, T: Send + 'a>(&'a self, name: &'static str, call: Stored<'a, T>) -> Stored<'a, T> {
        Box::pin(async move {
            places().pass(&format!("before {name}"));
            let answered = call.await;
            places().pass(&format!("after {name}"));
            answered
        })
    }
}

impl Persister for Guarded {
    fn lease_time(&self) -> Duration {
        self.0.lease_time()
    }

    fn create(&self, new: NewProcess) -> Stored<'_, Pid> {
        self.around("create", self.0.create(new))
    }

    fn claim(&self, pid: Pid, owner: Owner) -> Stored<'_, Claim> {
        self.around("claim", self.0.claim(pid, owner))
    }

    fn save(&self, lease: LeaseId, checkpoint: homing::process::store::Checkpoint) -> Stored<'_, Saved> {
        self.around("save", self.0.save(lease, checkpoint))
    }

    fn release(&self, lease: LeaseId) -> Stored<'_, ()> {
        self.around("release", self.0.release(lease))
    }

    fn append_log(&self, lease: LeaseId, lines: Vec<LogLine>) -> Stored<'_, Saved> {
        self.around("log", self.0.append_log(lease, lines))
    }

    // Those that follow change nothing, or come by the clock.

    fn renew(&self, owner: Owner) -> Stored<'_, Vec<LeaseId>> {
        self.0.renew(owner)
    }

    fn record(&self, pid: Pid) -> Stored<'_, Option<Record>> {
        self.0.record(pid)
    }

    fn list(&self, filter: ListFilter) -> Stored<'_, Listing> {
        self.0.list(filter)
    }

    fn log(&self, pid: Pid, from: u64, limit: usize) -> Stored<'_, LogPage> {
        self.0.log(pid, from, limit)
    }

    fn delete(&self, pid: Pid) -> Stored<'_, bool> {
        self.0.delete(pid)
    }
}

/// A process that does as its script has it, one word a step. What a step does is a line of the ledger with the step's key.
#[derive(Serialize, Deserialize)]
struct Script {
    name: String,
    words: Vec<String>,
    child: Option<String>,
}

impl Process for Script {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        let text = |at: usize| inputs.args().get(at).and_then(Value::as_str).ok_or("two arguments are wanted");
        let words = text(1)?.split(' ').map(str::to_owned).collect();
        Ok(Script { name: text(0)?.to_owned(), words, child: None })
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        let word = self.words.get(usize::try_from(context.step())?).cloned().unwrap_or_default();
        places().pass("in a step, before what it does");
        places().note(&format!("did {} {} {}:{word}", self.name, context.pid(), context.step()));
        places().pass("in a step, after what it has done");
        match word.as_str() {
            "step" => Ok(Next::Step),
            "log" => {
                context.log("a line").await?;
                Ok(Next::Step)
            }
            "sleep" => Ok(Next::sleep(Duration::from_millis(5))),
            "fail" => Err(HandlerError::exception("boom").with_type("Boom")),
            "child" => {
                let inputs = Inputs::new().arg(format!("{}-child", self.name)).arg("step sleep end");
                let child = context.launch_child("script", inputs).await?;
                self.child = Some(child.to_string());
                Ok(Next::wait_for([child]))
            }
            "outcome" => {
                let child: Pid = self.child.as_deref().ok_or("no child")?.parse()?;
                match context.outcome_of(&child).await? {
                    Some(Outcome::Finished { outputs, .. }) => Ok(Next::finish(outputs)),
                    other => Err(format!("the child is {other:?}").into()),
                }
            }
            _ => Ok(Next::finish(self.name.as_str())),
        }
    }
}

/// The same, for what must not be done twice.
#[derive(Serialize, Deserialize)]
struct Once(Script);

impl Process for Once {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        Ok(Once(Script::new(inputs)?))
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        Process::step(&mut self.0, context).await
    }

    fn after_loss() -> AfterLoss {
        AfterLoss::MarkLost
    }
}

/// Works until its standard input is closed, or its place has come.
fn worker(at: u64) -> ExitCode {
    let variable = |name: &str| std::env::var(name).expect(name);
    let folder = PathBuf::from(variable("CHILD_FOLDER"));
    let ledger = OpenOptions::new().append(true).create(true).open(folder.join("ledger")).expect("the ledger");
    let count = AtomicU64::new(0);
    let after = Duration::from_millis(variable(CRASH_AFTER).parse().expect("milliseconds"));
    assert!(PLACES.set(Places { at, after, count, ledger }).is_ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let worked = runtime.block_on(async {
        let communicator = options(&variable("CHILD_URL"), &variable("CHILD_PREFIX")).connect().await?;
        let store = Guarded(SqlitePersister::open(folder.join("store")).await?);
        let registry = Registry::new().register::<Script>("script")?.register::<Once>("once")?;
        let worker = ProcessWorker::builder(&communicator, store, registry)
            .slots(2)
            .on_change(|change| {
                places().pass("a change of state");
                places().note(&format!("announced {} {}", change.pid(), change.to()));
            })
            .start()
            .await?;
        tokio::io::stdin().read_to_end(&mut Vec::new()).await.ok();
        worker.drain(LONG).await;
        communicator.close().await.map(drop)
    });
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

// The test.

/// What is launched: name, class, script, whether its outputs are awaited, and how it is to end.
const LAUNCHED: [(&str, &str, &str, bool, End); 4] = [
    ("awaited", "script", "step sleep log end", true, End::Finished),
    ("parent", "script", "child outcome", false, End::FinishedAsChild),
    ("failing", "script", "step fail", false, End::Boom),
    ("once", "once", "step sleep end", false, End::FinishedOrLost),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    FinishedAsChild,
    Boom,
    FinishedOrLost,
}

/// What came of one try.
struct Tried {
    /// How many places the first worker passed.
    passed: u64,
    /// Where the workers were killed.
    killed: Vec<String>,
    was_lost: bool,
    /// How many launches got no answer.
    unanswered: usize,
}

/// A worker is killed at each so many of the places.
fn killed_anywhere(broker: &Broker, every: usize) -> TestResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(async {
        let whole =
            try_once(broker, &[], Duration::ZERO).await.map_err(|error| format!("nobody is killed: {error}"))?;
        // Runs differ by a little: two workers' slots, and the broker's time.
        let all = (1..=whole.passed + 5).step_by(every);
        // In full at each place in both manners, else at one in one and at the next in the other.
        let all = all.enumerate().flat_map(|(n, at)| {
            let manners = [Duration::ZERO, LINGERS];
            let some = if every == 1 { &manners[..] } else { &manners[n % 2..=n % 2] };
            some.iter().map(|after| (at, *after)).collect::<Vec<_>>()
        });
        let tried = futures_util::stream::iter(all).map(|(at, after)| async move {
            // Of each fourth the successor is killed too, soon.
            let kills: &[u64] = if at % 4 == 0 { &[at, 1 + at % 11] } else { &[at] };
            try_once(broker, kills, after)
                .await
                .map_err(|error| format!("killed at {kills:?} after {after:?}: {error}"))
        });
        let tried: Vec<_> = tried.buffer_unordered(SIDE_BY_SIDE).collect().await;
        Ok::<_, String>((whole.passed, tried))
    });
    let (places, tried) = done?;
    let failed: Vec<&String> = tried.iter().filter_map(|tried| tried.as_ref().err()).collect();
    let tries = tried.len();
    if !failed.is_empty() {
        let shown = failed.iter().take(5).map(|text| text.as_str()).collect::<Vec<_>>().join("\n");
        return Err(format!("{} of {tries} failed:\n{shown}", failed.len()).into());
    }
    let tried: Vec<Tried> = tried.into_iter().flatten().collect();
    let mut kills: BTreeMap<&str, usize> = BTreeMap::new();
    for place in tried.iter().flat_map(|tried| &tried.killed) {
        *kills.entry(place).or_default() += 1;
    }
    let lost = tried.iter().filter(|tried| tried.was_lost).count();
    let unanswered: usize = tried.iter().map(|tried| tried.unanswered).sum();
    println!(
        "{places} places, {tries} tries, {lost} with a process that was reported as lost, {unanswered} launches without an answer; \
         killed: {kills:?}"
    );
    if every > 1 {
        assert!(kills.len() > 3, "at places of more than one kind: {kills:?}");
        return Ok(());
    }
    for place in
        ["create", "claim", "save", "log"].iter().flat_map(|call| [format!("before {call}"), format!("after {call}")])
    {
        assert!(kills.contains_key(place.as_str()), "nobody was killed {place}: {kills:?}");
    }
    assert!(kills.contains_key("a change of state") && lost > 0 && lost < tries, "{lost} of {tries}: {kills:?}");
    Ok(())
}

/// A folder that goes with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs everything with workers one after the other, of which these are killed at these places.
async fn try_once(broker: &Broker, kills: &[u64], after: Duration) -> Anything<Tried> {
    let folder = Folder(std::env::temp_dir().join(support::unique("crashes")));
    std::fs::create_dir_all(&folder.0)?;
    let prefix = support::unique("crashes");
    let tried = timeout(LONG, try_in(&folder.0, broker.url(), &prefix, kills, after)).await;
    let ledger = std::fs::read_to_string(folder.0.join("ledger")).unwrap_or_default();
    let tried = tried.unwrap_or_else(|_| Err("it has not come to an end".into()));
    tried.map_err(|error| format!("{error}\n--- the ledger ---\n{ledger}").into())
}

fn start(folder: &Path, url: &str, prefix: &str, at: u64, after: Duration) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(CRASH_AT, at.to_string()).env(CRASH_AFTER, after.as_millis().to_string());
    command.env("CHILD_FOLDER", folder).env("CHILD_URL", url);
    // Ended by a signal on purpose: no trace of where.
    command.env("CHILD_PREFIX", prefix).env("RUST_BACKTRACE", "0").stdin(Stdio::piped()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn()
}

async fn try_in(folder: &Path, url: &str, prefix: &str, kills: &[u64], after: Duration) -> Anything<Tried> {
    let communicator = options(url, prefix).connect().await?;
    let controller = ProcessController::new(&communicator);
    let store = SqlitePersister::open(folder.join("store")).await?;
    let mut launches = LAUNCHED.map(|(name, class, script, is_awaited, _)| {
        let launch = controller.launch(class).arg(name).arg(script);
        tokio::spawn(async move {
            let answer = if is_awaited { launch.await } else { launch.nowait().await.map(Into::into) };
            answer.map_err(|error| format!("the launch of {name}: {error}"))
        })
    });
    let waiting = async || -> Anything<u32> {
        let queue = inspect::target(&options(url, prefix))?.task_queue;
        Ok(inspect::depth(&options(url, prefix), &queue).await?.ready)
    };
    // Runs one worker until it is killed, or everything is done and it has ended in order; true in the second case.
    let work = async |at: u64| -> Anything<bool> {
        let mut child = start(folder, url, prefix, at, after)?;
        // Its end is what the worker waits for. Taken out, for `wait` closes it.
        let mut input = child.stdin.take();
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status?;
                    if at == 0 || status.code().is_some() {
                        return Err(format!("a worker ended by itself: {status}").into());
                    }
                    return Ok(false);
                }
                () = sleep(Duration::from_millis(10)) => {
                    let listing = store.list(ListFilter::new()).await?;
                    // The child of one of them is launched after it. Tasks of processes that have ended are taken and done with.
                    let ended = listing.processes.iter().filter(|process| process.state().is_terminal()).count();
                    if ended > LAUNCHED.len() && waiting().await? == 0 {
                        drop(input.take());
                        let status = child.wait().await?;
                        if !status.success() && status.code().is_some() {
                            return Err(format!("a worker failed: {status}").into());
                        }
                        return Ok(status.success());
                    }
                }
            }
        }
    };
    for at in kills.iter().copied().chain([0]) {
        if work(at).await? {
            break;
        }
    }
    // A task is acknowledged and then answered, as kiwipy does it: a worker that is killed in between answers nobody.
    let mut unanswered = 0;
    for (launch, (name, _, _, is_awaited, _)) in launches.iter_mut().zip(LAUNCHED) {
        match timeout(ANSWERED, launch).await {
            Ok(answer) => match answer?? {
                outputs if is_awaited && outputs.as_str() != Some(name) => {
                    return Err(format!("who launched {name} was answered {outputs:?}").into());
                }
                _ => {}
            },
            Err(_) => unanswered += 1,
        }
    }
    launches.iter().for_each(tokio::task::JoinHandle::abort);
    if unanswered > kills.len() {
        return Err(format!("{unanswered} launches were not answered").into());
    }
    // A task on its way to a worker that ends in order goes back to the queue, as does that of a killed worker once the broker
    // has noticed its end. Neither is counted as waiting meanwhile. One more worker is done with what is left.
    if waiting().await? != 0 && !work(0).await? {
        return Err("the last worker did not end in order".into());
    }
    let left = waiting().await?;
    if left != 0 {
        return Err(format!("{left} tasks are left in the queue").into());
    }
    communicator.close().await?;
    let (did, mut tried) = read_ledger(folder)?;
    tried.unanswered = unanswered;
    tried.was_lost = check(&store, &did).await?;
    Ok(tried)
}

/// Who did what: by name the pids, and how often each step was done.
type Did = HashMap<String, (BTreeSet<String>, BTreeMap<String, usize>)>;

fn read_ledger(folder: &Path) -> Anything<(Did, Tried)> {
    let (mut did, mut tried) = (Did::new(), Tried { passed: 0, killed: Vec::new(), was_lost: false, unanswered: 0 });
    let mut ends: HashMap<String, usize> = HashMap::new();
    for line in std::fs::read_to_string(folder.join("ledger"))?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["did", name, pid, step] => {
                let (pids, steps) = did.entry(name.to_owned()).or_default();
                pids.insert(pid.to_owned());
                *steps.entry(step.to_owned()).or_default() += 1;
            }
            ["announced", pid, "finished" | "excepted" | "killed"] => *ends.entry(pid.to_owned()).or_default() += 1,
            ["place", count, ..] if tried.killed.is_empty() => tried.passed = count.parse()?,
            ["killed", ..] => tried.killed.push(line["killed ".len()..].to_owned()),
            _ => {}
        }
    }
    match ends.iter().find(|(_, times)| **times > 1) {
        Some((pid, times)) => Err(format!("the end of process {pid} was announced {times} times").into()),
        None => Ok((did, tried)),
    }
}

/// Whether each process has come to the end that it should, and did what it should. True if one was reported as lost.
async fn check(store: &SqlitePersister, did: &Did) -> Anything<bool> {
    let mut was_lost = false;
    let mut names: HashMap<String, Record> = HashMap::new();
    for summary in store.list(ListFilter::new()).await?.processes {
        let record = store.record(summary.pid().clone()).await?.ok_or("it was listed")?;
        let name = record.inputs().args().first().and_then(Value::as_str).unwrap_or_default().to_owned();
        if record.lease().is_some() {
            return Err(format!("{name} has a lease after its end").into());
        }
        let terminal = record.transitions().iter().filter(|transition| transition.state.is_terminal()).count();
        if terminal != 1 {
            return Err(format!("{name} has ended {terminal} times").into());
        }
        if names.insert(name.clone(), record).is_some() {
            return Err(format!("{name} was made twice").into());
        }
    }
    let mut expected = LAUNCHED.map(|(name, _, script, _, end)| (name.to_owned(), script, end)).to_vec();
    expected.push(("parent-child".to_owned(), "step sleep end", End::Finished));
    if names.len() != expected.len() {
        return Err(format!("there are {} processes: {:?}", names.len(), names.keys()).into());
    }
    for (name, script, end) in expected {
        let record = names.get(&name).ok_or_else(|| format!("{name} is not there"))?;
        let finished = |outputs: &str| Outcome::Finished { exit_status: 0, outputs: outputs.into() };
        let (outcome, nothing) = (record.outcome().ok_or("it has ended")?, Default::default());
        let (pids, steps) = did.get(&name).unwrap_or(&nothing);
        let is_lost = matches!(outcome, Outcome::Excepted { type_name, .. } if type_name == "Lost");
        let is_right = match end {
            End::Finished => *outcome == finished(&name),
            End::FinishedAsChild => *outcome == finished("parent-child"),
            End::Boom => matches!(outcome, Outcome::Excepted { type_name, .. } if type_name == "Boom"),
            End::FinishedOrLost => is_lost || *outcome == finished(&name),
        };
        was_lost |= is_lost;
        let wanted: BTreeSet<String> =
            script.split(' ').enumerate().map(|(step, word)| format!("{step}:{word}")).collect();
        let done: BTreeSet<String> = steps.keys().cloned().collect();
        // By its key each step was done; by one process of this name.
        let is_done = if is_lost { done.is_subset(&wanted) } else { done == wanted };
        if !is_right || !is_done || pids.iter().any(|pid| *pid != record.pid().to_string()) {
            return Err(format!("{name}: {outcome:?} after {steps:?} by {pids:?}").into());
        }
        let most = steps.values().max().copied().unwrap_or(0);
        if end == End::FinishedOrLost && most > 1 {
            return Err(format!("{name} did a step {most} times, which must not be done twice").into());
        }
    }
    Ok(was_lost)
}
