//! How a command reaches a broker that runs: a Unix socket in the broker's directory, which only its owner can open. One JSON line is
//! the request, one the answer, and the connection is closed. Passwords go over it hashed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use homing_broker::server::{
    Accounts, Admin, Change, ChangeError, GrantedTopics, PasswordHash, Permissions, TopicPermissions,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::definitions::Topology;
use crate::failure::Failure;
use crate::own_socket::{self, SocketFile};
use crate::supervise::{own_directory, socket_directories};

/// The name of the socket in the broker's directory.
const SOCKET: &str = "control";
/// The longest path of a socket that every system takes, in bytes, with room for a name that is there only for a moment.
const LONGEST_PATH: usize = 88;
/// How many clients are served at once; others wait to be accepted.
const CLIENTS: usize = 16;
/// The longest request, and the longest answer, in bytes.
const LONGEST: u64 = 64 << 20;
/// How long a client may take to send its line, and to take ours.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take: what is in a virtual host that is removed has to go.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    Status,
    /// Answered when the broker has ended, with how it ended.
    Stop,
    Accounts,
    Definitions {
        vhost: String,
    },
    AddUser {
        name: String,
        password: Option<String>,
        tags: Vec<String>,
    },
    RemoveUser {
        name: String,
    },
    SetPassword {
        name: String,
        password: Option<String>,
    },
    SetTags {
        name: String,
        tags: Vec<String>,
    },
    AddVhost {
        name: String,
    },
    RemoveVhost {
        name: String,
    },
    SetPermissions {
        user: String,
        vhost: String,
        configure: String,
        write: String,
        read: String,
    },
    ClearPermissions {
        user: String,
        vhost: String,
    },
    SetTopicPermissions {
        user: String,
        vhost: String,
        exchange: String,
        write: String,
        read: String,
    },
    ClearTopicPermissions {
        user: String,
        vhost: String,
        exchange: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Done,
    Status(Status),
    Accounts(Listing),
    /// `None` where there is no such virtual host.
    Definitions(Option<Topology>),
    Refused(String),
}

/// How a broker is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub pid: u32,
    pub version: String,
    pub since: String,
    pub data: PathBuf,
    pub listening: Vec<String>,
    pub connections: usize,
    /// Why publishers are stopped, if they are.
    pub blocked: Option<String>,
    pub vhosts: Vec<VhostStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct VhostStatus {
    pub name: String,
    pub queues: usize,
    pub messages: usize,
}

/// Users, virtual hosts and permissions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Listing {
    pub users: Vec<UserEntry>,
    pub vhosts: Vec<String>,
    pub permissions: Vec<PermissionEntry>,
    pub topics: Vec<TopicEntry>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct UserEntry {
    pub name: String,
    pub tags: Vec<String>,
    pub has_password: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PermissionEntry {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct TopicEntry {
    pub user: String,
    pub vhost: String,
    pub exchange: String,
    pub write: String,
    pub read: String,
}

impl From<Accounts> for Listing {
    fn from(accounts: Accounts) -> Self {
        let user = |user: homing_broker::server::User| UserEntry {
            name: user.name,
            tags: user.tags,
            has_password: user.has_password,
        };
        let granted = |granted: homing_broker::server::Granted| PermissionEntry {
            user: granted.user,
            vhost: granted.virtual_host,
            configure: granted.permissions.configure,
            write: granted.permissions.write,
            read: granted.permissions.read,
        };
        let topic = |granted: GrantedTopics| TopicEntry {
            user: granted.user,
            vhost: granted.virtual_host,
            exchange: granted.exchange,
            write: granted.permissions.write,
            read: granted.permissions.read,
        };
        Listing {
            topics: accounts.topics.into_iter().map(topic).collect(),
            users: accounts.users.into_iter().map(user).collect(),
            vhosts: accounts.virtual_hosts,
            permissions: accounts.permissions.into_iter().map(granted).collect(),
        }
    }
}

impl Request {
    /// The change that it asks for, if it asks for one.
    pub(super) fn change(self) -> Result<Option<Change>, String> {
        let hash = |password: Option<String>| match password {
            None => Ok(None),
            Some(hash) => PasswordHash::from_phc(&hash).map(Some).map_err(|error| error.to_string()),
        };
        Ok(Some(match self {
            Request::Status | Request::Stop | Request::Accounts | Request::Definitions { .. } => return Ok(None),
            Request::AddUser { name, password, tags } => Change::AddUser { name, password: hash(password)?, tags },
            Request::RemoveUser { name } => Change::RemoveUser { name },
            Request::SetPassword { name, password } => Change::SetPassword { name, password: hash(password)? },
            Request::SetTags { name, tags } => Change::SetTags { name, tags },
            Request::AddVhost { name } => Change::AddVirtualHost { name },
            Request::RemoveVhost { name } => Change::RemoveVirtualHost { name },
            Request::SetPermissions { user, vhost, configure, write, read } => {
                let permissions = Permissions { configure, write, read };
                Change::SetPermissions { user, virtual_host: vhost, permissions }
            }
            Request::ClearPermissions { user, vhost } => Change::ClearPermissions { user, virtual_host: vhost },
            Request::SetTopicPermissions { user, vhost, exchange, write, read } => {
                let permissions = TopicPermissions { write, read };
                Change::SetTopicPermissions { user, virtual_host: vhost, exchange, permissions }
            }
            Request::ClearTopicPermissions { user, vhost, exchange } => {
                Change::ClearTopicPermissions { user, virtual_host: vhost, exchange }
            }
        }))
    }
}

/// Where the socket of a broker with this directory may be, the best place first.
fn places(data: &Path) -> Vec<PathBuf> {
    let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let own = data.join(SOCKET);
    if own.as_os_str().len() <= LONGEST_PATH {
        return vec![own];
    }
    // A system takes no socket with so long a path.
    let name = format!("broker-{:016x}.sock", crate::supervise::fnv(data.as_os_str().as_encoded_bytes()));
    socket_directories().into_iter().map(|folder| folder.join(&name)).collect()
}

/// What the socket needs of the broker.
#[derive(Clone)]
pub(super) struct Served {
    pub admin: Admin,
    /// What does not change of the status.
    pub status: Status,
    pub stop: mpsc::Sender<()>,
}

/// How the broker ended: `None` until it has, then with why not all that was done is on its disk.
type End = Option<Result<(), String>>;

/// The socket of a broker that runs; its file goes when this is dropped.
pub(super) struct Control {
    // Dropped behind the end of `accepting`.
    _file: SocketFile,
    accepting: JoinHandle<()>,
    end: watch::Sender<End>,
}

impl Control {
    /// Opens the socket of the broker that has this directory.
    ///
    /// # Errors
    /// There is no place for it.
    pub(super) fn open(data: &Path, served: &Served) -> Result<Self, Failure> {
        let mut why = Vec::new();
        for path in places(data) {
            match Control::open_at(&path, data, served.clone()) {
                Ok(control) => return Ok(control),
                Err(error) => why.push(format!("{}: {error}", path.display())),
            }
        }
        Err(Failure::Other(format!("there is no place for the broker's control socket: {}", why.join("; "))))
    }

    fn open_at(path: &Path, data: &Path, served: Served) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(data);
        if folder != fs::canonicalize(data)? {
            own_directory(folder)?;
        }
        // Only the broker that has the store comes here. Under another name until its rights are set: nobody else can connect in
        // between. The name takes the place of a socket that a killed broker left behind.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        fs::rename(&temporary, path)?;
        let file = SocketFile::at(path)?;
        let (end, ending) = watch::channel(None);
        let serving = move |stream| serve(stream, served.clone(), ending.clone());
        let accepting = tokio::spawn(own_socket::accept(listener, CLIENTS, PATIENCE / 10, serving));
        Ok(Control { _file: file, accepting, end })
    }

    /// Tells those who have asked the broker to end how it ended, as long as they take it.
    pub(super) async fn ended(self, how: Result<(), String>) {
        self.accepting.abort();
        // They may all have gone.
        let _ = self.end.send(Some(how));
        // Each holds its end until it has its answer.
        let _ = tokio::time::timeout(PATIENCE, self.end.closed()).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request, one answer.
async fn serve(mut stream: UnixStream, served: Served, mut ending: watch::Receiver<End>) {
    let Ok(line) = read_line(&mut stream, PATIENCE).await else { return };
    let response = match serde_json::from_str(&line) {
        Ok(Request::Stop) => stop(&served, &mut ending).await,
        Ok(request) => answer(request, served).await,
        Err(error) => {
            let version = env!("CARGO_PKG_VERSION");
            Response::Refused(format!("the broker, of version {version}, does not understand the request: {error}"))
        }
    };
    // A client that has gone does not need it.
    let _ = write_line(&mut stream, &response).await;
}

/// Orders the end, and waits for it.
async fn stop(served: &Served, ending: &mut watch::Receiver<End>) -> Response {
    // One order is enough.
    let _ = served.stop.try_send(());
    match ending.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Err(why))) => Response::Refused(why.clone()),
        _ => Response::Done,
    }
}

async fn answer(request: Request, Served { admin, status, .. }: Served) -> Response {
    let refused = |error: ChangeError| Response::Refused(error.to_string());
    match request {
        Request::Accounts => admin.accounts().await.map_or_else(refused, |all| Response::Accounts(all.into())),
        Request::Definitions { vhost } => {
            let found = admin.definitions(&vhost).await;
            found.map_or_else(refused, |found| Response::Definitions(found.map(Topology::from)))
        }
        Request::Status => {
            let now = match admin.status().await {
                Ok(now) => now,
                Err(error) => return refused(error),
            };
            let vhost = |host: homing_broker::server::VirtualHostStatus| VhostStatus {
                name: host.name,
                queues: host.queues,
                messages: host.messages,
            };
            let vhosts = now.virtual_hosts.into_iter().map(vhost).collect();
            Response::Status(Status { connections: now.connections, blocked: now.blocked, vhosts, ..status })
        }
        change => match change.change() {
            Ok(Some(change)) => admin.change(change).await.map_or_else(refused, |()| Response::Done),
            Ok(None) => Response::Done,
            Err(reason) => Response::Refused(reason),
        },
    }
}

/// Asks the broker that has this directory; `None` where nobody is there.
///
/// # Errors
/// It does not answer, or its answer cannot be read.
pub(super) async fn ask(data: &Path, request: &Request) -> Result<Option<Response>, Failure> {
    ask_within(data, request, ANSWER).await
}

/// The same, for an answer that may take so long.
pub(super) async fn ask_within(
    data: &Path,
    request: &Request,
    patience: Duration,
) -> Result<Option<Response>, Failure> {
    for path in places(data) {
        let Ok(mut stream) = UnixStream::connect(&path).await else { continue };
        let failed = |what: &str| Failure::Other(format!("the broker at {} {what}", path.display()));
        if write_line(&mut stream, request).await.is_err() {
            return Err(failed("does not take the request"));
        }
        let line = match read_line(&mut stream, patience).await {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let path = path.display();
                return Err(Failure::TimedOut(format!("the broker at {path} has not answered for {patience:?}")));
            }
            Err(_) => return Err(failed("has ended, or closed the connection, without an answer")),
        };
        let response = serde_json::from_str(&line);
        return response.map(Some).map_err(|error| failed(&format!("has sent what is no answer: {error}")));
    }
    Ok(None)
}

/// A line of a peer that may send something else, or nothing.
async fn read_line(stream: &mut UnixStream, patience: Duration) -> io::Result<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LONGEST));
    tokio::time::timeout(patience, reader.read_line(&mut line)).await??;
    if line.ends_with('\n') { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes a line to a peer that may not take it.
async fn write_line(stream: &mut UnixStream, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, stream.write_all(&line)).await?
}
