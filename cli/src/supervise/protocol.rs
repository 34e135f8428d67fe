//! What goes over the socket of a supervisor: one JSON line as the request, one as the answer, and the connection is closed.
//!
//! No request takes long: a restart, a removal and a stop are begun by it, and whoever wants to know their end asks for the
//! status again.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The longest request.
const LONGEST_REQUEST: u64 = 4 << 10;
/// The longest answer; the most workers that there may be need less.
const LONGEST_ANSWER: u64 = 1 << 20;
/// How long a peer may take to send its line, and to take ours.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    Status,
    Add { count: u16 },
    Remove { count: u16 },
    Restart,
    Stop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Done(Box<Reply>),
    Refused(String),
}

/// What a request has led to, and how things stand then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Reply {
    /// The workers that were added or removed.
    pub workers: Vec<u16>,
    pub status: Status,
}

/// How a supervisor and its workers stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub supervisor: SupervisorStatus,
    pub workers: Vec<WorkerStatus>,
    /// The last restart of all of them.
    pub restart: Option<RestartStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SupervisorStatus {
    pub pid: u32,
    pub version: String,
    /// `running` or `stopping`.
    pub state: String,
    pub since: String,
    pub age_seconds: f64,
    pub store: String,
    pub socket: PathBuf,
    pub log: Option<PathBuf>,
    /// How long a worker's processes may go on when it ends.
    pub drain_seconds: f64,
    #[serde(flatten)]
    pub usage: Usage,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WorkerStatus {
    pub worker: u16,
    /// `starting`, `running`, `stopping` or `backing off`.
    pub state: String,
    pub pid: Option<u32>,
    pub age_seconds: Option<f64>,
    #[serde(flatten)]
    pub usage: Usage,
    pub restarts: u64,
    /// Ends in a row from which it has not recovered.
    pub deaths: u32,
    /// In how many seconds it is started again, where it backs off.
    pub starts_in_seconds: Option<f64>,
    /// How its last process ended, and the last line that it wrote.
    pub last_end: Option<String>,
    pub last_line: Option<String>,
}

/// What a process uses itself, without the programs that it has started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    /// Resident memory.
    pub memory_bytes: Option<u64>,
    /// Of one processor, over the last seconds.
    pub cpu_percent: Option<f64>,
    /// Processor time since the process was started.
    pub cpu_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RestartStatus {
    pub id: u64,
    pub under_way: bool,
    /// The workers whose new process takes work.
    pub restarted: Vec<u16>,
    /// Why it was given up.
    pub given_up: Option<String>,
}

/// Reads the request of a client; why it is none, for the client. `None` where nothing more is to be said to it.
pub(super) async fn read_request(stream: &mut UnixStream) -> Option<Result<Request, String>> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LONGEST_REQUEST));
    let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await;
    match read {
        Ok(Ok(0)) | Ok(Err(_)) | Err(_) => None,
        Ok(Ok(_)) if !line.ends_with('\n') => {
            Some(Err(format!("a request is one line of JSON, of {LONGEST_REQUEST} bytes at most")))
        }
        Ok(Ok(_)) => {
            let version = env!("CARGO_PKG_VERSION");
            Some(serde_json::from_str(&line).map_err(|error| {
                format!("the supervisor, of version {version}, does not understand the request: {error}")
            }))
        }
    }
}

/// Writes a line to a peer that may not take it.
pub(super) async fn write_line(stream: &mut UnixStream, line: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, stream.write_all(&line)).await?
}

/// Reads the answer of a supervisor.
pub(super) async fn read_response(stream: &mut UnixStream) -> std::io::Result<Response> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LONGEST_ANSWER));
    // It may have to finish what it writes to the log.
    tokio::time::timeout(PATIENCE * 2, reader.read_line(&mut line)).await??;
    if line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}
