//! Homing's own workers and servers answer when they are asked who is there: by broadcasts, which others do not know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use homing::codec::Map;
use homing::process::ProcessLauncher;
use homing::{Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, Value};
use tokio::sync::mpsc;

use crate::args::{Format, Global, WorkerCommand};
use crate::connection::{close, connect};
use crate::failure::Failure;
use crate::output::without_controls;
use crate::stop::{Stop, or_interrupted};
use crate::{not_given, note, out, store, values};

/// How long is waited before it is asked once more who is there.
const AGAIN: Duration = Duration::from_millis(500);

const PING: &str = "homing.worker.ping";
const PONG: &str = "homing.worker.pong";

/// What one of them does.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// `task`, `rpc` or `process`.
    pub kind: &'static str,
    /// The queue or the identifier.
    pub name: String,
    /// The store of a worker.
    pub store: Option<Stored>,
}

/// The file that a worker has open, as it was when it opened it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    path: PathBuf,
    mark: Option<String>,
    /// Of the worker itself: it knows whether it can use the file.
    launcher: Option<ProcessLauncher>,
}

impl Stored {
    pub(crate) fn at(path: &Path) -> Self {
        Stored { path: path.to_owned(), mark: store::mark(path), launcher: None }
    }

    /// That of the worker in this process.
    pub(crate) fn used_by(self, launcher: &ProcessLauncher) -> Self {
        Stored { launcher: Some(launcher.clone()), ..self }
    }

    /// Why the worker cannot use it at present.
    fn failure(&self) -> Option<String> {
        Some(self.launcher.as_ref()?.store_failure()?.to_string())
    }

    /// Whether it is the one that this worker has open.
    pub(crate) fn is_that_of(&self, worker: &Value) -> bool {
        self.mark.is_some() && worker.get("store").and_then(Value::as_str) == self.mark.as_deref()
    }

    /// Whether it is not at its place any more, so that nobody can store anything in it.
    pub(crate) fn is_lost(&self) -> bool {
        self.mark.is_some() && store::mark(&self.path) != self.mark
    }
}

/// Whether a worker has answered that its store was removed, moved or replaced.
pub(crate) fn has_lost_its_store(answer: &Value) -> bool {
    answer.get("store_lost").and_then(Value::as_bool) == Some(true)
}

/// Why a worker that has answered cannot use its store at present, if it cannot.
pub(crate) fn store_failure(answer: &Value) -> Option<String> {
    answer.get("store_failure").map(plain)
}

fn exactly(subject: &str) -> Result<BroadcastFilter, homing::Error> {
    BroadcastFilter::new().subject_regex(&format!("{}$", subject.replace('.', "[.]")))
}

/// Answers whoever asks, as long as the communicator lives. Without it the work goes on.
pub(crate) async fn announce(communicator: &Communicator, role: Role) {
    let Ok(filter) = exactly(PING) else { return };
    let answering = communicator.clone();
    let subscriber = BroadcastSubscriber::future(move |ping: Broadcast| {
        let (communicator, role) = (answering.clone(), role.clone());
        async move {
            if !concerns(ping.body(), &role) {
                return;
            }
            let mut body = Map::new();
            body.insert("kind", role.kind);
            body.insert("name", role.name.as_str());
            body.insert("process_id", i64::from(std::process::id()));
            body.insert("version", env!("CARGO_PKG_VERSION"));
            if let Some(store) = &role.store {
                if let Some(mark) = &store.mark {
                    body.insert("store", mark.as_str());
                }
                if store.is_lost() {
                    body.insert("store_lost", true);
                }
                if let Some(failure) = store.failure() {
                    body.insert("store_failure", failure);
                }
            }
            let pong = communicator.broadcast_send(Value::Map(body)).subject(PONG);
            if let Err(error) = pong.correlation_id(ping.correlation_id().clone()).await {
                tracing::debug!(%error, "a ping could not be answered");
            }
        }
    });
    if let Err(error) = communicator.add_broadcast_subscriber(filter, subscriber).await {
        tracing::info!(%error, "`homing worker ping` will not see this worker");
    }
}

/// Whether a ping asks for a role: for all, or for this one.
fn concerns(ping: &Value, role: &Role) -> bool {
    let Value::Map(map) = ping else { return true };
    let is = |name: &str, own: &str| map.get(name).is_none_or(|wanted| wanted.as_str() == Some(own));
    is("kind", role.kind) && is("name", &role.name)
}

/// A question who is there that is under way.
struct Asking {
    identifier: homing::Identifier,
    /// By which its answers are known.
    mark: String,
    answers: mpsc::Receiver<Value>,
}

async fn begin_to_ask(communicator: &Communicator, role: Option<&Role>) -> Result<Asking, Failure> {
    let mark = crate::mark::draw();
    let (sender, answers) = mpsc::channel(1024);
    let own = mark.clone();
    let subscriber = BroadcastSubscriber::closure(move |pong: Broadcast| {
        if pong.correlation_id().as_str() == Some(own.as_str()) {
            // More than fit are not counted.
            let _ = sender.try_send(pong.body().clone());
        }
    });
    let identifier = communicator.add_broadcast_subscriber(exactly(PONG)?, subscriber).await?;
    send_ping(communicator, role, &mark).await?;
    Ok(Asking { identifier, mark, answers })
}

async fn send_ping(communicator: &Communicator, role: Option<&Role>, mark: &str) -> homing::Result<()> {
    let mut body = Map::new();
    if let Some(role) = role {
        body.insert("kind", role.kind);
        body.insert("name", role.name.as_str());
    }
    communicator.broadcast_send(Value::Map(body)).subject(PING).correlation_id(mark).await
}

/// Asks who is there, and collects the answers for this long.
///
/// # Errors
/// Of the broadcasts.
pub(crate) async fn ask(
    communicator: &Communicator,
    role: Option<&Role>,
    wait: Duration,
) -> Result<Vec<Value>, Failure> {
    let Asking { identifier, answers: mut receiver, .. } = begin_to_ask(communicator, role).await?;
    tokio::time::sleep(wait).await;
    communicator.remove_broadcast_subscriber(&identifier).await?;
    let mut answers = Vec::new();
    while let Ok(answer) = receiver.try_recv() {
        answers.push(answer);
    }
    Ok(answers)
}

/// Asks who is there, and waits for the first that is meant, no longer than this. Without one, the first of the others.
///
/// # Errors
/// Of the broadcasts.
pub(crate) async fn first(
    communicator: &Communicator,
    role: &Role,
    wait: Duration,
    is_meant: impl Fn(&Value) -> bool,
) -> Result<Option<Value>, Failure> {
    let Asking { identifier, mark, mut answers } = begin_to_ask(communicator, Some(role)).await?;
    let mut first = None;
    let meant = async {
        while let Some(answer) = answers.recv().await {
            let is_it = is_meant(&answer);
            if is_it || first.is_none() {
                first = Some(answer);
            }
            if is_it {
                return;
            }
        }
    };
    // Guards: a worker that is just starting, or whose connection is just made again. It does not receive what was sent before.
    let again = async {
        loop {
            tokio::time::sleep(AGAIN).await;
            if let Err(error) = send_ping(communicator, Some(role), &mark).await {
                tracing::debug!(%error, "workers could not be asked again");
            }
        }
    };
    let asking = async {
        tokio::select! {
            () = meant => {}
            () = again => {}
        }
    };
    let _ = tokio::time::timeout(wait, asking).await;
    communicator.remove_broadcast_subscriber(&identifier).await?;
    Ok(first)
}

/// One that answered, for a person: `homing worker ping` and `homing rpc list` show it alike.
pub(crate) fn shown(answer: &Map) -> String {
    let text = |name: &str| answer.get(name).map_or_else(|| "?".to_owned(), plain);
    let failure = answer.get("store_failure").map(|failure| format!("; it takes no task: {}", plain(failure)));
    format!("homing process {} version {}{}", text("process_id"), text("version"), failure.unwrap_or_default())
}

fn plain(value: &Value) -> String {
    without_controls(&value.as_str().map_or_else(|| value.to_json_text(), str::to_owned))
}

/// `homing worker ping`.
pub(crate) async fn run(command: WorkerCommand, global: &Global, stop: Stop) -> Result<(), Failure> {
    let WorkerCommand::Ping { wait } = command;
    or_interrupted(stop, async {
        let communicator = connect(global).await?;
        let answers = ask(&communicator, None, wait).await?;
        if answers.is_empty() {
            note!("none of homing's workers or servers answered within {}", humantime::format_duration(wait));
            not_given::note(&global.broker);
        }
        for answer in &answers {
            match (global.output.format, answer) {
                (Format::Text, Value::Map(map)) => {
                    let text = |name: &str| map.get(name).map_or_else(|| "?".to_owned(), plain);
                    out!("{}  {}  {}", text("kind"), text("name"), shown(map))?;
                }
                _ => values::print(answer, global.output.format)?,
            }
        }
        close(&communicator).await
    })
    .await
}
