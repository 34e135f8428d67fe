//! What a server is made of.

#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{
    Limits,
    accounts::AccountStore,
    content::Content,
    disk::Shelf,
    handle::{self, Server},
    journal::Journal,
    listen::{self, Listener},
};
use crate::engine::Engine;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

/// Makes a [`Server`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_broker::server::Server;
///
/// let server = Server::builder().listen("127.0.0.1:5672".parse()?).start()?;
/// println!("listening on {:?}", server.addresses());
/// # Ok(()) }
/// ```
#[must_use = "nothing runs before it is started"]
pub struct ServerBuilder {
    addresses: Vec<SocketAddr>,
    #[cfg(feature = "tls")]
    with_tls: Vec<(SocketAddr, Tls)>,
    sockets: Vec<PathBuf>,
    reach: Reach,
    pub(super) users: Vec<(String, String)>,
    pub(super) virtual_hosts: Vec<String>,
    pub(super) limits: Limits,
    pub(super) storage: Option<Box<dyn Storage>>,
}

/// From where clients may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    ThisMachine,
    AnyMachine,
}

/// Keeps what has to survive a restart.
pub trait Storage: Send {
    /// Opens what was kept of a virtual host. Called once for each, on the server's thread, before any client is let in.
    ///
    /// # Errors
    /// It cannot be read. The server does not start then.
    fn open(&mut self, virtual_host: &str, now: Instant) -> io::Result<Opened>;

    /// Opens users, virtual hosts and permissions. Called once, before anything else. Where a storage does not keep them, an
    /// operator's changes go with the server.
    ///
    /// # Errors
    /// They cannot be read. The server does not start then.
    fn accounts(&mut self) -> io::Result<AccountStore> {
        Ok(AccountStore::in_memory())
    }

    /// What removes everything that was kept of a virtual host, whose journal was [discarded](Journal::discard) before. It is run on
    /// another thread, and again at the next start if it fails.
    fn remove(&mut self, virtual_host: &str) -> Removal {
        _ = virtual_host;
        Box::new(|| Ok(()))
    }
}

/// Removes what was kept of a virtual host; see [`Storage::remove`].
pub type Removal = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A virtual host as it was kept.
pub struct Opened {
    pub(super) engine: Engine<Content>,
    pub(super) journal: Box<dyn Journal>,
    pub(super) shelf: Option<Rc<Shelf>>,
}

impl Opened {
    /// The engine, as it was, and where its changes go.
    pub fn new(engine: Engine<Content>, journal: impl Journal + 'static) -> Self {
        Self { engine, journal: Box::new(journal), shelf: None }
    }

    /// Messages that wait are put away there.
    pub(super) fn with_shelf(self, shelf: Rc<Shelf>) -> Self {
        Self { shelf: Some(shelf), ..self }
    }
}

/// A server that could not be started.
#[derive(Debug)]
pub struct StartError {
    what: String,
    source: io::Error,
}

impl StartError {
    pub(super) fn new(what: impl Into<String>, source: io::Error) -> Self {
        Self { what: what.into(), source }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            #[cfg(feature = "tls")]
            with_tls: Vec::new(),
            sockets: Vec::new(),
            reach: Reach::ThisMachine,
            users: Vec::new(),
            virtual_hosts: Vec::new(),
            limits: Limits::default(),
            storage: None,
        }
    }
}

impl ServerBuilder {
    /// Listens on this address too. With port 0 the system chooses one.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Listens on this address too, for clients that begin TLS (`amqps://`). With port 0 the system chooses one.
    #[cfg(feature = "tls")]
    pub fn listen_tls(mut self, address: SocketAddr, tls: &Tls) -> Self {
        self.with_tls.push((address, tls.clone()));
        self
    }

    /// Listens on a Unix socket too. Only its owner can connect.
    pub fn listen_unix(mut self, path: impl AsRef<Path>) -> Self {
        self.sockets.push(path.as_ref().to_owned());
        self
    }

    /// Listens also on addresses that other machines can reach. Without this, such an address is an error.
    pub fn allow_other_machines(mut self) -> Self {
        self.reach = Reach::AnyMachine;
        self
    }

    /// Lets this user in, who may do everything. A user that is given here is the program's: it is not kept, and an operator
    /// cannot change it. Without any, there is `guest` with the password `guest`, until an operator removes it; a user of that name
    /// is always let in from this machine only.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Has this virtual host, which an operator cannot remove. Without any, there is `/`.
    pub fn virtual_host(mut self, name: &str) -> Self {
        self.virtual_hosts.push(name.to_owned());
        self
    }

    /// Limits what one client may cost.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits.with_times_that_pass();
        self
    }

    /// Keeps what has to survive a restart. Without this, everything is in memory only and goes with the server.
    pub fn storage(mut self, storage: impl Storage + 'static) -> Self {
        self.storage = Some(Box::new(storage));
        self
    }

    /// Starts the server on a thread of its own.
    ///
    /// # Errors
    /// An address cannot be listened on, or what was kept cannot be read.
    pub fn start(mut self) -> Result<Server, StartError> {
        let mut listeners = Vec::new();
        for address in std::mem::take(&mut self.addresses) {
            listeners.push(self.listener(address, listen::tcp)?);
        }
        #[cfg(feature = "tls")]
        for (address, tls) in std::mem::take(&mut self.with_tls) {
            listeners.push(self.listener(address, |address| listen::tls(address, tls))?);
        }
        for path in std::mem::take(&mut self.sockets) {
            let listener = listen::unix(&path)
                .map_err(|error| StartError::new(format!("{} cannot be listened on", path.display()), error))?;
            listeners.push(listener);
        }
        handle::start(self, listeners)
    }

    fn listener(
        &self,
        address: SocketAddr,
        listen: impl FnOnce(SocketAddr) -> io::Result<Listener>,
    ) -> Result<Listener, StartError> {
        if self.reach == Reach::ThisMachine && !listen::is_loopback(address.ip()) {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "other machines can reach this address");
            return Err(StartError::new(format!("listening on {address} was not allowed"), source));
        }
        listen(address).map_err(|error| StartError::new(format!("{address} cannot be listened on"), error))
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("addresses", &self.addresses)
            .field("sockets", &self.sockets)
            .field("users", &self.users.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("virtual_hosts", &self.virtual_hosts)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
