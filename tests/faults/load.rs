//! What is under way while a fault happens, and the books that are kept of it: a file that every run of a handler is written
//! to and synced, outside of homing.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::future::IntoFuture;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use homing::{
    Communicator, CommunicatorBuilder, ConnectionEvent, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber,
};

/// How much is under way, and for how long each of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub calls: i64,
    pub tasks: i64,
    pub hold: Duration,
}

/// Where every run is written down.
pub struct Ledger {
    file: Mutex<File>,
    path: PathBuf,
}

impl Ledger {
    pub fn new() -> Arc<Self> {
        let path = std::env::temp_dir().join(crate::support::unique("ledger"));
        let file = Mutex::new(File::create(&path).expect("a file for the ledger"));
        Arc::new(Ledger { file, path })
    }

    /// A line, on the disk when this returns.
    fn write(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").and_then(|()| file.sync_data()).expect("the ledger takes a line");
    }

    /// Of each message how often it ran, and how often with a mark that it may have run before.
    fn runs(&self, kind: &str) -> HashMap<i64, (usize, usize)> {
        let text = std::fs::read_to_string(&self.path).expect("the ledger can be read");
        let mut runs = HashMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [of, id, marked] = words[..] else { panic!("{line:?}") };
            if of == kind {
                let (all, with_mark) = runs.entry(id.parse().expect("a number")).or_insert((0, 0));
                *all += 1;
                *with_mark += usize::from(marked == "marked");
            }
        }
        runs
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What became of it all.
#[derive(Debug, Default)]
pub struct Report {
    pub calls: usize,
    pub calls_answered: usize,
    pub tasks: usize,
    pub tasks_answered: usize,
    pub errors: Vec<String>,
    pub hanging: usize,
    /// Tasks that were sent all the while, and those of them that never ran.
    pub sent: usize,
    pub lost: usize,
    /// Runs after the first, and those of them without a mark.
    pub again: usize,
    pub again_unmarked: usize,
    pub under_way: usize,
    pub losses: usize,
    pub works_again: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { calls, calls_answered, tasks, tasks_answered, sent, lost, hanging, .. } = self;
        write!(
            f,
            "calls {calls_answered} of {calls}, tasks {tasks_answered} of {tasks}, sent meanwhile {sent}, lost {lost}, hanging \
             {hanging}, run again {} ({} unmarked), under way {}, losses {}, works again after {:.2} s",
            self.again,
            self.again_unmarked,
            self.under_way,
            self.losses,
            self.works_again.as_secs_f64()
        )
    }
}

/// Both ends of the load.
pub struct Load {
    pub server: Communicator,
    pub client: Communicator,
    ledger: Arc<Ledger>,
    begun: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    size: Size,
    losses: Arc<AtomicUsize>,
}

/// How long an outcome may take beyond its time.
fn patience() -> Duration {
    // A broker that stands still for a minute is part of the long form.
    Duration::from_secs(if crate::support::full() { 240 } else { 60 })
}

impl Load {
    pub async fn new(server: CommunicatorBuilder, client: CommunicatorBuilder, size: Size) -> Load {
        let options = |builder: CommunicatorBuilder| builder.call_timeout(patience()).task_timeout(patience());
        let server = options(server).unlimited_task_prefetch().connect().await.unwrap();
        let client = options(client).connect().await.unwrap();
        let (ledger, begun, done) = (Ledger::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (books, counter, ends) = (Arc::clone(&ledger), Arc::clone(&begun), Arc::clone(&done));
        let call = RpcSubscriber::future(move |request: RpcRequest| {
            let (books, counter, ends) = (Arc::clone(&books), Arc::clone(&counter), Arc::clone(&ends));
            async move {
                let id = request.body().as_i64().unwrap_or(-1);
                books.write(&format!("call {id} plain"));
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(if id < 0 { Duration::ZERO } else { size.hold }).await;
                ends.fetch_add(1, Ordering::SeqCst);
                id
            }
        });
        server.add_rpc_subscriber("load", call).await.unwrap();
        let (books, counter, ends) = (Arc::clone(&ledger), Arc::clone(&begun), Arc::clone(&done));
        let task = TaskSubscriber::future(move |task: TaskRequest| {
            let (books, counter, ends) = (Arc::clone(&books), Arc::clone(&counter), Arc::clone(&ends));
            async move {
                let id = task.body().as_i64().unwrap_or(-1);
                let is_meanwhile = task.is_no_reply();
                let mark = if task.is_redelivered() || task.is_resent() { "marked" } else { "plain" };
                books.write(&format!("{} {id} {mark}", if is_meanwhile { "meanwhile" } else { "task" }));
                if !is_meanwhile && id >= 0 {
                    counter.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(size.hold).await;
                    ends.fetch_add(1, Ordering::SeqCst);
                }
                id
            }
        });
        server.add_task_subscriber(task).await.unwrap();
        let losses = Arc::new(AtomicUsize::new(0));
        for communicator in [&server, &client] {
            let (mut events, losses) = (communicator.events(), Arc::clone(&losses));
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    if let ConnectionEvent::Lost(error) = &event {
                        println!("  lost: {error}");
                        losses.fetch_add(1, Ordering::SeqCst);
                    }
                    if matches!(event, ConnectionEvent::Closed) {
                        break;
                    }
                }
            });
        }
        Load { server, client, ledger, begun, done, size, losses }
    }

    /// Puts everything under way, lets the fault happen, and waits for all of it. The fault returns when it is over: when the
    /// broker can be reached again.
    pub async fn through<F: Future<Output = ()>>(self, fault: impl FnOnce() -> F) -> Report {
        let Size { calls, tasks, .. } = self.size;
        let all = usize::try_from(calls + tasks).expect("a count");
        let mut outcomes = Vec::new();
        for id in 0..calls {
            outcomes.push((true, id, tokio::spawn(self.client.rpc_send("load", id).into_future())));
        }
        for id in 0..tasks {
            outcomes.push((false, id, tokio::spawn(self.client.task_send(id).into_future())));
        }
        until("everything is under way", || self.begun.load(Ordering::SeqCst) >= all).await;
        let stop = Arc::new(AtomicBool::new(false));
        let meanwhile = {
            let (client, stop) = (self.client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut sent = Vec::new();
                for id in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // Many under way at once, so that some are on the wire when the fault comes.
                    sent.push((id, tokio::spawn(client.task_send(id).no_reply().into_future())));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                sent
            })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let under_way = all - self.done.load(Ordering::SeqCst);
        fault().await;
        let over = Instant::now();
        self.works().await;
        let mut report = Report { under_way, works_again: over.elapsed(), ..Report::default() };
        stop.store(true, Ordering::SeqCst);
        let mut sent_for_good = Vec::new();
        for (id, sent) in meanwhile.await.unwrap() {
            match tokio::time::timeout(patience(), sent).await {
                Ok(Ok(Ok(()))) => sent_for_good.push(id),
                Ok(outcome) => report.errors.push(format!("sent meanwhile: {outcome:?}")),
                Err(_) => report.hanging += 1,
            }
        }
        for (is_call, id, outcome) in outcomes {
            let answered = match tokio::time::timeout(patience() * 2, outcome).await {
                Ok(Ok(Ok(value))) if value.as_i64() == Some(id) => 1,
                Ok(outcome) => {
                    report.errors.push(format!("{}: {outcome:?}", if is_call { "call" } else { "task" }));
                    0
                }
                Err(_) => {
                    report.hanging += 1;
                    0
                }
            };
            let (count, done) = if is_call {
                (&mut report.calls, &mut report.calls_answered)
            } else {
                (&mut report.tasks, &mut report.tasks_answered)
            };
            *count += 1;
            *done += answered;
        }
        report.sent = sent_for_good.len();
        let ledger = Arc::clone(&self.ledger);
        until("every task that was sent has run", || {
            let runs = ledger.runs("meanwhile");
            sent_for_good.iter().all(|id| runs.contains_key(id))
        })
        .await;
        // Time for what should not come.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let runs = self.ledger.runs("meanwhile");
        report.lost = sent_for_good.iter().filter(|id| !runs.contains_key(id)).count();
        for kind in ["call", "task", "meanwhile"] {
            for (id, (all, marked)) in self.ledger.runs(kind) {
                if id >= 0 && all > 1 {
                    report.again += all - 1;
                    report.again_unmarked += (all - 1).saturating_sub(marked);
                }
            }
        }
        report.losses = self.losses.load(Ordering::SeqCst);
        let begun = Instant::now();
        let (one, other) = tokio::join!(self.client.close(), self.server.close());
        assert!(begun.elapsed() < Duration::from_secs(25), "a close took {:?}", begun.elapsed());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.requests_ended, other.tasks_returned), (0, 0), "something was left");
        report
    }

    /// Returns when a new call and a new task are answered.
    async fn works(&self) {
        let until = Instant::now() + patience();
        loop {
            let call = self.client.rpc_send("load", -1).timeout(Duration::from_millis(500));
            let task = self.client.task_send(-1).timeout(Duration::from_secs(5));
            let (call, task) = tokio::join!(call.into_future(), task.into_future());
            match (call, task) {
                (Ok(_), Ok(_)) => return,
                outcome => assert!(Instant::now() < until, "it does not work again: {outcome:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + patience();
    while !is_so() {
        assert!(Instant::now() < limit, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
