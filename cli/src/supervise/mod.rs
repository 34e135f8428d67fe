//! `homing worker --workers N` and `homing workers`: a process that keeps worker processes alive, and the control of it.
//!
//! What it decides is pure: one worker in [`worker`], all of them in [`pool`]. Around that are the processes ([`child`]), the
//! lock by which there is one supervisor ([`lock`]), the socket by which it is controlled ([`socket`], [`protocol`], [`client`])
//! and the one log ([`log`]). A worker notices the end of its supervisor by its [`lifeline`], and drains.

mod child;
pub(crate) mod client;
pub(crate) mod detach;
mod identity;
pub(crate) mod lifeline;
mod lock;
mod log;
mod pool;
mod protocol;
mod socket;
mod stats;
mod worker;

pub(crate) use identity::{fnv, own_directory, socket_directories};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use self::child::{Ask, Child, News, Report};
use self::identity::Identity;
use self::lifeline::Lifeline;
use self::lock::{Lock, Record};
use self::log::{Level, Log, Manner};
use self::pool::{Order, Pool, Refused, Verdict};
use self::protocol::{Reply, Request, Response, RestartStatus, Status, SupervisorStatus, WorkerStatus};
use self::socket::{Asked, Socket};
use self::stats::Stats;
use self::worker::{Action, End, How, Incarnation, Moment, Number, State};
use crate::args::{Global, MOST_WORKERS, Supervision, WorkerOptions};
use crate::failure::Failure;
use crate::stop::Stop;
use crate::worker::processes;
use crate::{connection, output, store};

/// What a worker may need beyond its drain: programs that are stopped, and a broker that is slow. Then it is killed.
const BEYOND_DRAIN: Duration = Duration::from_secs(30);

/// How often the supervisor checks that it can be found, and samples what its workers use.
const CHECKS: Duration = Duration::from_secs(5);

/// What to do about a supervisor that runs already.
fn advice(supervision: &Supervision, store: Option<&Path>, global: &Global) -> String {
    let typed = |command| identity::typed(global, command, store, supervision.name.as_deref());
    let (status, add) = (typed("workers status"), typed("workers add"));
    format!("`{status}` shows it, `{add}` gives it more workers; one beside it has a --name of its own")
}

/// `homing worker`, alone or many.
pub(crate) async fn run(options: WorkerOptions, global: &Global, stop: Stop) -> Result<(), Failure> {
    match (options.supervision.supervised, options.supervision.workers) {
        (None, Some(_)) if options.supervision.detach && !options.supervision.detached => {
            detach::run(&options, global, stop).await
        }
        (None, Some(workers)) if options.supervision.detached => {
            // A detached supervisor does not end with its starter.
            let starter = Lifeline::of_this_process(stop.clone())?.0;
            detach::leave_session();
            let ended = supervise(workers.get(), Some(starter), options, global, stop).await;
            ended.inspect_err(|failure| lifeline::failed(&failure.to_string()))
        }
        (None, Some(workers)) => supervise(workers.get(), None, options, global, stop).await,
        (Some(_), _) | (None, None) => processes::run(options, global, stop).await,
    }
}

async fn supervise(
    workers: u16,
    starter: Option<Lifeline>,
    options: WorkerOptions,
    global: &Global,
    mut stop: Stop,
) -> Result<(), Failure> {
    // What is wrong with these is found once, here, and not by each worker.
    drop(connection::options(global)?);
    crate::not_given::note(&global.broker);
    let path = store::path(options.store.as_deref())?;
    tokio::select! {
        opened = store::open(&path) => drop(opened?),
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
    }
    let name = options.supervision.name.as_deref();
    let identity = Identity::new(&path, &global.names, name)?;
    let lock = Lock::take(&identity, || advice(&options.supervision, options.store.as_deref(), global))?;
    let manner = Manner { json: output::errors_are_json(), quiet: global.output.quiet };
    let log = Log::new(manner, output::write_err);
    let drain = options.drain.unwrap_or(processes::DRAIN);
    let control = identity::typed(global, "workers status", options.store.as_deref(), name);
    let supervisor = Supervisor {
        begun: Instant::now(),
        since: output::now(),
        drain,
        arguments: std::env::args_os().collect(),
        log,
        children: HashMap::new(),
        reports: mpsc::channel(usize::from(MOST_WORKERS)),
        requests: mpsc::channel(1),
        stats: Stats::new(),
        log_file: options.supervision.detached.then(|| identity.log_file()),
        identity,
        lock,
        starter,
    };
    supervisor.run(workers, &control, stop).await
}

struct Supervisor {
    begun: Instant,
    since: String,
    drain: Duration,
    /// The command line of this process, which is the workers' too.
    arguments: Vec<OsString>,
    log: Log,
    /// The processes that run.
    children: HashMap<Number, (Incarnation, Child)>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    requests: (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    stats: Stats,
    log_file: Option<PathBuf>,
    identity: Identity,
    lock: Lock,
    /// Whoever waits until a detached supervisor is up.
    starter: Option<Lifeline>,
}

impl Supervisor {
    fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    async fn run(mut self, workers: u16, control: &str, mut stop: Stop) -> Result<(), Failure> {
        let mut socket = self.open_socket()?;
        let store = self.identity.store().display().to_string();
        let start = format!("a supervisor starts {workers} workers; `{control}` shows them");
        self.log.own_line(Level::Info, &start, &[("pid", std::process::id().into()), ("store", store.into())]);
        let (mut pool, orders) = Pool::new(workers, self.drain.saturating_add(BEYOND_DRAIN), self.now());
        self.obey(&mut pool, orders);
        let mut checks = tokio::time::interval(CHECKS);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_asked_to_end = false;
        loop {
            match pool.verdict() {
                Verdict::GoesOn => {}
                Verdict::Over => {
                    self.log.own_line(Level::Info, "the supervisor ends: no worker is left", &[]);
                    // Nobody gets an answer to what has come meanwhile, and is notified of that.
                    self.requests.1.close();
                    while self.requests.1.try_recv().is_ok() {}
                    socket.finish().await;
                    return Ok(());
                }
                Verdict::NoneCameUp(number, end) => return Err(none_came_up(number, &end)),
            }
            let deadline = pool.deadline().map(|at| tokio::time::Instant::from_std(self.begun + at));
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let orders = tokio::select! {
                Some(report) = self.reports.1.recv() => self.report(&mut pool, report).await,
                Some((request, answer)) = self.requests.1.recv() => {
                    let (response, orders) = self.answer(&mut pool, &request);
                    // The orders first: the status has the workers that a request has started.
                    self.obey(&mut pool, orders);
                    let response = response.map(|workers| Reply { workers, status: self.status(&pool, &socket) });
                    let _ = answer.send(match response {
                        Ok(reply) => Response::Done(Box::new(reply)),
                        Err(Refused(why)) => Response::Refused(why),
                    });
                    Vec::new()
                }
                () = timer => pool.time_passed(self.now()),
                _ = checks.tick() => {
                    self.sample(&pool);
                    if !socket.is_there() {
                        socket = self.open_again(socket);
                    }
                    Vec::new()
                }
                _ = stop.wait(), if !is_asked_to_end => {
                    is_asked_to_end = true;
                    self.stop(&mut pool)
                }
            };
            self.obey(&mut pool, orders);
        }
    }

    fn open_socket(&mut self) -> Result<Socket, Failure> {
        let socket = Socket::open(&self.identity, &self.requests.0)?;
        self.lock.write(&Record::own(socket.path().to_owned(), self.log_file.clone()))?;
        Ok(socket)
    }

    /// The socket's file is gone, with the user's runtime directory perhaps. The workers go on if there is no other place.
    fn open_again(&mut self, gone: Socket) -> Socket {
        match self.open_socket() {
            Ok(socket) => {
                let path = socket.path().display().to_string();
                self.log.own_line(Level::Warn, "the socket was gone and is there again", &[("socket", path.into())]);
                socket
            }
            Err(failure) => {
                let why = failure.to_string();
                self.log.own_line(
                    Level::Warn,
                    "the socket is gone: the workers cannot be controlled",
                    &[("why", why.into())],
                );
                gone
            }
        }
    }

    /// Does what the pool asks for. A process that cannot be started has ended, which may lead to more.
    fn obey(&mut self, pool: &mut Pool, orders: Vec<Order>) {
        let mut orders = std::collections::VecDeque::from(orders);
        while let Some(Order { worker, action }) = orders.pop_front() {
            let to_child = |incarnation: Incarnation| {
                self.children.get(&worker).filter(|(known, _)| *known == incarnation).map(|(_, child)| child)
            };
            match action {
                Action::Start(incarnation) => {
                    let started = Child::start(worker, incarnation, &self.arguments, &self.log, &self.reports.0);
                    match started {
                        Ok(child) => {
                            let fields = [("worker", worker.0.into()), ("pid", child.pid().into())];
                            self.log.own_line(Level::Info, "a worker is started", &fields);
                            self.children.insert(worker, (incarnation, child));
                        }
                        Err(error) => {
                            let end = End { how: How::NotStarted(error.to_string()), last_line: None };
                            orders.extend(self.ended(pool, worker, incarnation, end));
                        }
                    }
                }
                Action::Terminate(incarnation) => {
                    if let Some(child) = to_child(incarnation) {
                        child.ask(Ask::End);
                    }
                }
                Action::Kill(incarnation) => {
                    if let Some(child) = to_child(incarnation) {
                        let fields = [("worker", worker.0.into()), ("pid", child.pid().into())];
                        self.log.own_line(Level::Warn, "a worker does not end and is killed", &fields);
                        child.ask(Ask::Kill);
                    }
                }
            }
        }
    }

    async fn report(&mut self, pool: &mut Pool, (worker, incarnation, news): Report) -> Vec<Order> {
        match news {
            News::Up => {
                let orders = pool.up(worker, incarnation, self.now());
                if pool.ever_up()
                    && let Some(mut starter) = self.starter.take()
                {
                    starter.up().await;
                }
                orders
            }
            News::Ended(end) => {
                if self.children.get(&worker).is_some_and(|(known, _)| *known == incarnation) {
                    self.children.remove(&worker);
                }
                self.ended(pool, worker, incarnation, end)
            }
        }
    }

    /// A process has ended: what it is for the log, and for the pool.
    fn ended(&mut self, pool: &mut Pool, worker: Number, incarnation: Incarnation, end: End) -> Vec<Order> {
        let now = self.now();
        let was_asked = pool.worker(worker).is_some_and(|worker| matches!(worker.state(), State::Stopping { .. }));
        let how = end.to_string();
        let last_line = end.last_line.clone();
        let orders = pool.ended(worker, incarnation, end, now);
        let mut fields: Vec<(&str, Value)> = vec![("worker", worker.0.into()), ("how", how.into())];
        if was_asked {
            self.log.own_line(Level::Info, "a worker has ended, as it was asked to", &fields);
            return orders;
        }
        if let Some(worker) = pool.worker(worker) {
            let pause = match worker.state() {
                State::BackingOff { until } => until.saturating_sub(now),
                _ => Duration::ZERO,
            };
            fields.push(("deaths", worker.deaths().into()));
            fields.push(("again_in_seconds", pause.as_secs_f64().into()));
        }
        fields.extend(last_line.map(|line| ("last_line", line.into())));
        self.log.own_line(Level::Warn, "a worker has ended, and was not asked to", &fields);
        orders
    }

    fn stop(&mut self, pool: &mut Pool) -> Vec<Order> {
        let drain = humantime::format_duration(self.drain).to_string();
        let text = "the supervisor ends: its workers drain; a second signal stops them at once";
        self.log.own_line(Level::Info, text, &[("workers", pool.workers().count().into()), ("drain", drain.into())]);
        pool.stop(self.now())
    }

    /// What a request leads to: the workers that it is about, and what is to be done.
    fn answer(&mut self, pool: &mut Pool, request: &Request) -> (Result<Vec<u16>, Refused>, Vec<Order>) {
        let now = self.now();
        let done = match request {
            Request::Status => Ok((Vec::new(), Vec::new())),
            Request::Add { count } => pool.add(*count, now),
            Request::Remove { count } => pool.remove(*count, now),
            Request::Restart => pool.restart(now).map(|(_, orders)| (Vec::new(), orders)),
            Request::Stop if pool.is_stopping() => Ok((Vec::new(), Vec::new())),
            Request::Stop => Ok((Vec::new(), self.stop(pool))),
        };
        match done {
            Ok((workers, orders)) => {
                match request {
                    Request::Add { count } => {
                        self.log.own_line(Level::Info, "workers are added", &[("count", (*count).into())]);
                    }
                    Request::Remove { count } => {
                        self.log.own_line(Level::Info, "workers are removed", &[("count", (*count).into())]);
                    }
                    Request::Restart => self.log.own_line(Level::Info, "the workers are restarted one by one", &[]),
                    Request::Status | Request::Stop => {}
                }
                (Ok(workers.iter().map(|number| number.0).collect()), orders)
            }
            Err(refused) => (Err(refused), Vec::new()),
        }
    }

    fn sample(&mut self, pool: &Pool) {
        let mut processes = vec![(std::process::id(), Duration::ZERO)];
        for (number, (incarnation, child)) in &self.children {
            let worker = pool.worker(*number).filter(|worker| worker.incarnation() == *incarnation);
            if let Some(started) = worker.and_then(worker::Worker::started) {
                processes.push((child.pid(), started));
            }
        }
        self.stats.sample(&processes, self.now());
    }

    fn status(&mut self, pool: &Pool, socket: &Socket) -> Status {
        self.sample(pool);
        let now = self.now();
        let workers = pool.workers().map(|(number, worker)| {
            let child = self.children.get(&number).filter(|(known, _)| *known == worker.incarnation());
            let pid = child.filter(|_| worker.has_process()).map(|(_, child)| child.pid());
            let starts_in = match worker.state() {
                State::BackingOff { until } => Some(until.saturating_sub(now).as_secs_f64()),
                _ => None,
            };
            WorkerStatus {
                worker: number.0,
                state: worker.state().name().to_owned(),
                pid,
                age_seconds: worker.started().map(|started| now.saturating_sub(started).as_secs_f64()),
                usage: pid.map(|pid| self.stats.usage(pid)).unwrap_or_default(),
                restarts: worker.restarts(),
                deaths: worker.deaths(),
                starts_in_seconds: starts_in,
                last_end: worker.last_end().map(ToString::to_string),
                last_line: worker.last_end().and_then(|end| end.last_line.clone()),
            }
        });
        let numbers = |numbers: &[Number]| numbers.iter().map(|number| number.0).collect();
        Status {
            workers: workers.collect(),
            restart: pool.rolling().map(|rolling| RestartStatus {
                id: rolling.id,
                under_way: rolling.is_under_way(),
                restarted: numbers(&rolling.restarted),
                given_up: rolling.given_up.clone(),
            }),
            supervisor: SupervisorStatus {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                state: if pool.is_stopping() { "stopping" } else { "running" }.to_owned(),
                since: self.since.clone(),
                age_seconds: now.as_secs_f64(),
                store: self.identity.store().display().to_string(),
                socket: socket.path().to_owned(),
                log: self.log_file.clone(),
                drain_seconds: self.drain.as_secs_f64(),
                usage: self.stats.usage(std::process::id()),
            },
        }
    }
}

/// The end of a supervisor none of whose workers ever came up is that of one of them.
fn none_came_up(number: Number, end: &End) -> Failure {
    let code = match end.how {
        How::Code(code) => u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(1),
        How::Signal(_) | How::NotStarted(_) => 1,
    };
    let last_line = end.last_line.as_ref().map(|line| format!(": {line}")).unwrap_or_default();
    Failure::Several(code, format!("none of the workers came up; worker {number}: {end}{last_line}"))
}
