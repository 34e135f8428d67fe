//! `homing broker move`: what is declared and what waits, from a broker of homing's own to another broker.
//!
//! Everything is compared with the target before anything is declared there, and everything is declared before a message is moved.
//! A message is confirmed by the target before it is acknowledged on the source, so that whoever is killed in between leaves those
//! that were under way on both and none on neither; starting again goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use homing::inspect::transfer::{Carried, Found, Plan, Transfer, local_directory};
use homing::{Communicator, ErrorKind};
use homing_broker::engine::{Access, Naming, QueueSpec};
use homing_broker::server::LocalBroker;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::control::{self, Request, Response};
use super::definitions::{QueueEntry, Topology};
use crate::args::{BrokerMove, Format, Global};
use crate::failure::Failure;
use crate::stop::Stop;
use crate::{note, out, output, warning};

/// The virtual host where none is given.
const USUAL_VHOST: &str = "/";
/// Names that the server gives.
const RESERVED: &str = "amq.";
/// So many messages are under way at once, and about so many bytes.
const MOST: usize = 500;
const MOST_BYTES: usize = 32 << 20;
/// How long the clients of a local broker that was hosted here have to agree to its end.
const FAREWELL: Duration = Duration::from_secs(1);

/// A broker whose messages are moved.
struct Source {
    url: String,
    vhost: String,
    place: Place,
}

/// How the definitions of a source are read.
enum Place {
    /// A broker that runs on this directory.
    Running(std::path::PathBuf),
    /// One of `local:`, which is hosted here.
    Hosted(LocalBroker),
}

pub(super) async fn run(options: BrokerMove, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    if options.to.starts_with("memory:") {
        return Err(Failure::Usage(
            "memory: is a broker inside one process; --to has to be one that others reach".to_owned(),
        ));
    }
    let source = tokio::select! {
        source = Source::find(&options) => source?,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
    };
    let moved = move_all(&source, &options, global, stop).await;
    if let Place::Hosted(broker) = source.place {
        let stopped = spawn_blocking(move || broker.shutdown(FAREWELL)).await;
        let stopped = stopped.map_err(|error| Failure::Other(error.to_string()))?;
        moved?;
        return stopped.failure.map_or(Ok(()), |failure| Err(Failure::Other(failure)));
    }
    moved
}

async fn move_all(source: &Source, options: &BrokerMove, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let prepare = async {
        let topology = source.definitions().await?;
        let transfer = connect(source, options).await?;
        let prepared = Move::prepare(topology, &transfer).await;
        Ok::<_, Failure>((transfer, prepared))
    };
    let (transfer, prepared) = tokio::select! {
        prepared = prepare => prepared?,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
    };
    let work = async {
        let plan = prepared?;
        if options.dry_run {
            return plan.show(global.output.format);
        }
        plan.declare(&transfer, &mut stop).await?;
        plan.carry_all(source, &transfer, global, &mut stop).await
    };
    let worked = work.await;
    let closed = transfer.close().await;
    worked?;
    Ok(closed?)
}

async fn connect(source: &Source, options: &BrokerMove) -> Result<Transfer, Failure> {
    let (from, to) = (Communicator::builder(&source.url), Communicator::builder(&options.to));
    match Transfer::connect(&from, &to).await {
        Ok(transfer) => Ok(transfer),
        Err(error)
            if options.from.is_none() && is_about_login(&error) && error.to_string().starts_with("the source:") =>
        {
            let hint = "--from gives the URL of a user who may read all queues".to_owned();
            Err(Failure::Advised(Box::new(error.into()), hint))
        }
        Err(error) => Err(error.into()),
    }
}

fn is_about_login(error: &homing::Error) -> bool {
    matches!(error.kind(), ErrorKind::AccessRefused | ErrorKind::PermissionDenied)
}

impl Source {
    async fn find(options: &BrokerMove) -> Result<Self, Failure> {
        if let Some(from) = &options.from
            && let Some(directory) = local_directory(from)?
        {
            return Source::host(directory, from).await;
        }
        let data = super::data(options.data.data.clone())?;
        let status = match control::ask(&data, &Request::Status).await? {
            None => {
                let hint = "`homing broker start` starts it; --data names another directory, --from local: the broker of local:";
                return Err(Failure::Advised(Box::new(super::nobody(&data)), hint.to_owned()));
            }
            Some(Response::Status(status)) => status,
            Some(other) => return Err(unexpected(other)),
        };
        let (url, vhost) = match &options.from {
            Some(from) => (from.clone(), vhost_of(from)?),
            None => {
                let vhost = options.vhost.clone().unwrap_or_else(|| USUAL_VHOST.to_owned());
                let address = status.listening.iter().find(|place| place.parse::<std::net::SocketAddr>().is_ok());
                let address = address.ok_or_else(|| {
                    Failure::Usage("the broker has no address without TLS; give its URL by --from".to_owned())
                })?;
                (url_of(address, &vhost)?, vhost)
            }
        };
        Ok(Source { url, vhost, place: Place::Running(data) })
    }

    /// Hosts a broker of `local:`, for everybody, as any program that uses it.
    async fn host(directory: std::path::PathBuf, url: &str) -> Result<Self, Failure> {
        if !directory.is_dir() {
            let text = format!("there is no local broker in {}", directory.display());
            return Err(Failure::Nobody(text));
        }
        let place = directory.clone();
        let hosted = spawn_blocking(move || LocalBroker::host(&place)).await;
        let hosted = hosted.map_err(|error| Failure::Other(error.to_string()))?;
        match hosted.map_err(|error| Failure::Other(error.to_string()))? {
            Some(broker) => {
                Ok(Source { url: url.to_owned(), vhost: USUAL_VHOST.to_owned(), place: Place::Hosted(broker) })
            }
            None => {
                let hint = "`homing doctor --broker local:` shows which process hosts it";
                let text = format!("a program uses the local broker in {}; end it first", directory.display());
                Err(Failure::Advised(Box::new(Failure::Other(text)), hint.to_owned()))
            }
        }
    }

    async fn definitions(&self) -> Result<Topology, Failure> {
        let no_vhost = || Failure::Usage(format!("the broker has no virtual host {:?}", self.vhost));
        match &self.place {
            Place::Running(data) => {
                match control::ask(data, &Request::Definitions { vhost: self.vhost.clone() }).await? {
                    Some(Response::Definitions(found)) => found.ok_or_else(no_vhost),
                    Some(other) => Err(unexpected(other)),
                    None => Err(super::nobody(data)),
                }
            }
            Place::Hosted(broker) => {
                let gone = || Failure::Other("the local broker has stopped".to_owned());
                let found = broker.admin().ok_or_else(gone)?.definitions(&self.vhost).await;
                let found = found.map_err(|error| Failure::Other(error.to_string()))?;
                found.map(Topology::from).ok_or_else(no_vhost)
            }
        }
    }

    /// What the source is called in errors.
    fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Running(data) => Some(data),
            Place::Hosted(_) => None,
        }
    }
}

fn unexpected(response: Response) -> Failure {
    match response {
        Response::Refused(reason) => Failure::Other(reason),
        other => Failure::Other(format!("the broker has answered something else: {other:?}")),
    }
}

/// The URL of a broker of this machine for the user whom a new broker has.
fn url_of(address: &str, vhost: &str) -> Result<String, Failure> {
    let failed = || Failure::Other(format!("{address} is no address"));
    let mut url = url::Url::parse(&format!("amqp://guest:guest@{address}/")).map_err(|_| failed())?;
    url.path_segments_mut().map_err(|()| failed())?.pop_if_empty().push(vhost);
    Ok(url.into())
}

/// The virtual host of a URL, as the library reads it.
fn vhost_of(url: &str) -> Result<String, Failure> {
    // Without what is wrong with it: it may hold a password.
    let url = url::Url::parse(url).map_err(|_| Failure::Usage("--from is not the URL of a broker".to_owned()))?;
    let path = url.path().strip_prefix('/').unwrap_or_default();
    if path.is_empty() {
        return Ok(USUAL_VHOST.to_owned());
    }
    // Percent-escapes are all that is undone.
    let pair = format!("v={}", path.replace('+', "%2B").replace('&', "%26"));
    let named = url::form_urlencoded::parse(pair.as_bytes()).next();
    Ok(named.map_or_else(String::new, |(_, vhost)| vhost.into_owned()))
}

/// A queue that is moved.
struct Queue {
    spec: QueueSpec,
    entry: QueueEntry,
    found: Found,
}

/// What is moved.
struct Move {
    exchanges: Vec<(homing_broker::engine::ExchangeSpec, Found)>,
    queues: Vec<Queue>,
    bindings: Vec<homing_broker::engine::Binding>,
}

impl Move {
    /// Compares everything with the target, and creates nothing.
    async fn prepare(topology: Topology, transfer: &Transfer) -> Result<Self, Failure> {
        let mut differ = Vec::new();
        let mut exchanges = Vec::new();
        for entry in &topology.exchanges {
            let spec = entry.spec().ok_or_else(|| Failure::Other(format!("there is no such exchange: {entry:?}")))?;
            if let Some(found) = same(transfer.compare_exchange(&spec).await, &mut differ)? {
                exchanges.push((spec, found));
            }
        }
        let mut queues = Vec::new();
        for entry in topology.queues {
            let spec = entry.spec();
            let why = match (spec.access, spec.naming) {
                (Access::Exclusive, _) => Some("a connection has it for itself alone"),
                (_, Naming::Server) => Some("the server gave it its name"),
                _ if spec.name.starts_with(RESERVED) => Some("the server gave it its name"),
                _ => None,
            };
            if let Some(why) = why {
                let messages = messages(entry.waiting as u64);
                note!("the queue {:?} stays, with {messages}: {why}", &*spec.name);
                continue;
            }
            // A broker that is not the one whose definitions these are.
            if let Err(error) = transfer.waiting(&spec.name).await {
                let hint = "--from and --data have to be about the same broker".to_owned();
                return Err(Failure::Advised(Box::new(error.into()), hint));
            }
            if let Some(found) = same(transfer.compare_queue(&spec).await, &mut differ)? {
                queues.push(Queue { spec, entry, found });
            }
        }
        let names = |name: &str| queues.iter().any(|queue| &*queue.spec.name == name);
        let bindings = topology.bindings.iter().map(super::definitions::BindingEntry::binding);
        let bindings = bindings.filter(|binding| match &binding.destination {
            homing_broker::engine::Destination::Queue(name) => names(name),
            homing_broker::engine::Destination::Exchange(_) => true,
        });
        let bindings = bindings.collect();
        match differ.len() {
            0 => Ok(Move { exchanges, queues, bindings }),
            1 => {
                let failure = Failure::Homing(differ.remove(0));
                Err(Failure::Advised(Box::new(failure), "nothing was declared, and nothing was moved".to_owned()))
            }
            several => {
                differ.iter().for_each(|error| warning!("{error}"));
                let text =
                    format!("{several} exchanges and queues are others on the target; nothing was declared or moved");
                Err(Failure::Other(text))
            }
        }
    }

    /// Prints what would be moved.
    fn show(&self, format: Format) -> Result<(), Failure> {
        let state = |found: &Found| if *found == Found::Absent { "to be declared" } else { "there already" };
        let exchanges = self.exchanges.iter().map(|(spec, found)| ("exchange", &spec.name, state(found), None));
        let queues = self.queues.iter().map(|queue| {
            let there = state(&queue.found);
            ("queue", &queue.spec.name, there, Some((queue.entry.waiting, queue.entry.consumers)))
        });
        let all = exchanges.chain(queues);
        if format == Format::Json {
            for (kind, name, state, counts) in all {
                let is_there = state == "there already";
                let mut line = json!({ "kind": kind, "name": &**name, "is_there": is_there });
                if let Some((messages, consumers)) = counts {
                    line["messages"] = messages.into();
                    line["consumers"] = consumers.into();
                }
                out!("{line}")?;
            }
            return Ok(());
        }
        let mut rows = vec![["kind", "name", "on the target", "messages", "consumers"].map(str::to_owned)];
        rows.extend(all.map(|(kind, name, state, counts)| {
            let count = |of: fn((usize, usize)) -> usize| counts.map_or(String::new(), |counts| of(counts).to_string());
            [kind.to_owned(), name.to_string(), state.to_owned(), count(|(messages, _)| messages), count(|(_, of)| of)]
        }));
        output::table(rows)?;
        note!("{} would be bound, and {} moved", bindings(self.bindings.len()), messages(self.waiting()));
        Ok(())
    }

    fn waiting(&self) -> u64 {
        self.queues.iter().map(|queue| queue.entry.waiting as u64).sum()
    }

    /// Declares what is not there yet.
    async fn declare(&self, transfer: &Transfer, stop: &mut Stop) -> Result<(), Failure> {
        let work = async {
            for (spec, _) in self.exchanges.iter().filter(|(_, found)| *found == Found::Absent) {
                transfer.declare_exchange(spec).await?;
            }
            for queue in self.queues.iter().filter(|queue| queue.found == Found::Absent) {
                transfer.declare_queue(&queue.spec).await?;
            }
            for binding in &self.bindings {
                transfer.bind(binding).await?;
            }
            Ok(())
        };
        let declared: Result<(), homing::Error> = tokio::select! {
            declared = work => declared,
            signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
        };
        declared.map_err(|error| {
            let advice = "nothing was moved; what was declared on the target before stays there".to_owned();
            Failure::Advised(Box::new(error.into()), advice)
        })
    }

    async fn carry_all(
        &self,
        source: &Source,
        transfer: &Transfer,
        global: &Global,
        stop: &mut Stop,
    ) -> Result<(), Failure> {
        for Queue { spec, entry, .. } in &self.queues {
            if entry.consumers > 0 {
                let has = if entry.consumers == 1 {
                    "a consumer".to_owned()
                } else {
                    format!("{} consumers", entry.consumers)
                };
                warning!(
                    "the queue {:?} has {has} on the source, which get some of its messages; stop them first",
                    &*spec.name
                );
            }
        }
        let bar = progress_bar(self.waiting(), global);
        let moved = Arc::new(AtomicU64::new(0));
        let (end, ends) = watch::channel(false);
        let mut signal = None;
        let mut failed = None;
        let mut kept = 0;
        for queue in &self.queues {
            let (counted, shown) = (Arc::clone(&moved), bar.clone());
            let plan = Plan {
                queue: queue.spec.clone(),
                window: queue.window(),
                stop: ends.clone(),
                moved: Arc::new(move || {
                    // Ordering: Relaxed, for it orders nothing.
                    counted.fetch_add(1, Ordering::Relaxed);
                    shown.inc(1);
                }),
            };
            let mut carrying = std::pin::pin!(transfer.carry(plan));
            let carried = tokio::select! {
                carried = &mut carrying => carried,
                came = stop.wait() => {
                    signal = Some(came);
                    // What is in hand is not to be on both.
                    let _ = end.send(true);
                    carrying.await
                }
            };
            match carried {
                Ok(carried) => {
                    kept += carried.kept;
                    let printed = bar.suspend(|| print(&queue.spec, &carried, global.output.format));
                    if let Err(failure) = printed {
                        failed = Some(failure);
                    }
                }
                Err(error) => failed = Some(error.into()),
            }
            if failed.is_some() || signal.is_some() {
                break;
            }
        }
        bar.finish_and_clear();
        let moved = moved.load(Ordering::Relaxed);
        if let Some(failure) = failed.or(signal.map(|signal| Failure::Interrupted(signal, None))) {
            warning!(
                "not all of it was moved: {} were, and the next up to {MOST} may be on both brokers; start it again to go on",
                messages(moved)
            );
            return Err(failure);
        }
        let queues = self.queues.len();
        note!(
            "{} moved, of {queues} {}; {} and {} are there",
            messages(moved),
            if queues == 1 { "queue" } else { "queues" },
            exchanges(self.exchanges.len()),
            bindings(self.bindings.len())
        );
        self.what_stays(source, kept).await
    }

    /// Reports what came meanwhile, what consumers have, and what could not be sent.
    async fn what_stays(&self, source: &Source, kept: u64) -> Result<(), Failure> {
        let now = source.definitions().await?;
        let mut stays = 0;
        for entry in &now.queues {
            let spec = entry.spec();
            let left = entry.waiting + entry.out;
            if left > 0 && self.queues.iter().any(|queue| queue.spec.name == spec.name) {
                stays += left as u64;
                warning!(
                    "the queue {:?} still has {} on the source, of which consumers have {}",
                    &*spec.name,
                    messages(left as u64),
                    entry.out
                );
            }
        }
        if stays == 0 {
            return Ok(());
        }
        let place = source.directory().map_or(String::new(), |data| format!(" in {}", data.display()));
        let failure = Failure::Other(format!("{} left on the source{place}", messages(stays)));
        let advice = if kept > 0 {
            "a message that cannot be sent as it is has to be got by a consumer"
        } else {
            "stop those who consume from it and publish to it, and start it again"
        };
        Err(Failure::Advised(Box::new(failure), advice.to_owned()))
    }
}

impl Queue {
    /// How many are under way at once: fewer where they are large.
    fn window(&self) -> u16 {
        let average = (self.entry.bytes / self.entry.waiting.max(1)).max(1);
        u16::try_from((MOST_BYTES / average).clamp(1, MOST)).unwrap_or(1)
    }
}

/// What is the same, or is not there; `None`, and the error with the others, for what is another one.
fn same(compared: homing::Result<Found>, differ: &mut Vec<homing::Error>) -> Result<Option<Found>, Failure> {
    match compared {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::PreconditionFailed | ErrorKind::ResourceLocked) => {
            differ.push(error);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn print(queue: &QueueSpec, carried: &Carried, format: Format) -> Result<(), Failure> {
    let name = &*queue.name;
    if let Some(why) = &carried.why_kept {
        warning!("the queue {name:?}: {} cannot be sent as they are ({why})", messages(carried.kept));
    }
    match format {
        Format::Json => out!("{}", json!({ "queue": name, "moved": carried.moved, "kept": carried.kept })),
        Format::Text => out!("{}: {}", output::without_controls(name), messages(carried.moved)),
    }
}

fn progress_bar(messages: u64, global: &Global) -> ProgressBar {
    if global.output.quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} messages, {per_sec}, {eta}");
    ProgressBar::new(messages).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn messages(number: u64) -> String {
    format!("{number} {}", if number == 1 { "message" } else { "messages" })
}

fn exchanges(number: usize) -> String {
    format!("{number} {}", if number == 1 { "exchange" } else { "exchanges" })
}

fn bindings(number: usize) -> String {
    format!("{number} {}", if number == 1 { "binding" } else { "bindings" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtual_host_is_in_the_url_and_comes_out_of_it() {
        for vhost in ["/", "lab", "a b/ü%", "+"] {
            let url = url_of("127.0.0.1:5672", vhost).expect("a URL");
            assert_eq!(vhost_of(&url).expect("a virtual host"), vhost, "{url}");
        }
        assert_eq!(vhost_of("amqp://h").expect("the usual one"), "/");
        assert_eq!(vhost_of("amqp://h/").expect("the usual one"), "/");
    }
}
