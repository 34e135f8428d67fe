//! A server that runs, as its owner has it; and the thread that it runs on.

use super::{
    accounts::AccountStore,
    admin::{Admin, Administration, Request},
    builder::{ServerBuilder, StartError},
    host::Host,
    journal::Progress,
    listen::{self, Listener},
    shared::{Alarm, Shared},
};
use crate::engine::Engine;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc as tokio_mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

/// How long a server that is dropped takes for its clients.
const AT_DROP: Duration = Duration::from_secs(1);

/// What clients get when the server stops: RabbitMQ's words.
const SHUTDOWN: &str = "broker forced connection closure with reason 'shutdown'";

/// A broker that runs on a thread of its own. Dropping it stops it within a second; [`shutdown`](Self::shutdown) gives
/// clients more time.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    #[cfg(feature = "tls")]
    tls_addresses: Vec<SocketAddr>,
    admin: Admin,
    stop: Option<oneshot::Sender<Duration>>,
    thread: Option<JoinHandle<Stopped>>,
}

/// How a server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Clients that did not agree to the end in time. Their sockets were closed.
    pub abandoned: usize,
    /// Why the server could not go on, if it did not stop because it was asked to; or why what clients did last is not on the
    /// disk. Nobody was told that it is: see [the server](super).
    pub failure: Option<String>,
}

impl Server {
    /// Makes a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The addresses that it listens on without TLS, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses that it listens on with TLS, with the ports that the system chose.
    #[cfg(feature = "tls")]
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Asks it for what an operator may ask.
    pub fn admin(&self) -> Admin {
        self.admin.clone()
    }

    /// Stops: nobody new is let in, confirms are written, clients get 320 (`CONNECTION_FORCED`), and those that do not
    /// agree within this time lose their socket. Blocks for so long at most, and for the time that the disk takes.
    pub fn shutdown(mut self, within: Duration) -> Stopped {
        self.stop(within)
    }

    /// Whether it has stopped by itself, which it does if it cannot keep what it should. [`wait`](Self::wait) has the reason then.
    pub fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the server has stopped by itself, which it does if it cannot keep what it should. Blocks.
    pub fn wait(mut self) -> Stopped {
        // Kept, so that the server is not asked to stop.
        let stop = self.stop.take();
        let stopped = self.join();
        drop(stop);
        stopped
    }

    fn stop(&mut self, within: Duration) -> Stopped {
        if let Some(stop) = self.stop.take() {
            // One that has ended by itself cannot be asked.
            _ = stop.send(within);
        }
        self.join()
    }

    fn join(&mut self) -> Stopped {
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(stopped)) => stopped,
            Some(Err(_)) => Stopped { abandoned: 0, failure: Some("the server's thread panicked".to_owned()) },
            None => Stopped { abandoned: 0, failure: None },
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop(AT_DROP);
        }
    }
}

/// Starts the thread and waits until it is ready.
pub(super) fn start(builder: ServerBuilder, listeners: Vec<Listener>) -> Result<Server, StartError> {
    let known = |address: io::Result<_>| address.map_err(|error| StartError::new("a listener has no address", error));
    let addresses = listeners.iter().filter_map(Listener::address).map(known).collect::<Result<_, _>>()?;
    #[cfg(feature = "tls")]
    let tls_addresses = listeners.iter().filter_map(Listener::tls_address).map(known).collect::<Result<_, _>>()?;
    let (stop, stopping) = oneshot::channel();
    let (ready, is_ready) = mpsc::channel();
    let (admin, requests) = Admin::new();
    let thread = std::thread::Builder::new()
        .name("homing-broker".to_owned())
        .spawn(move || run(builder, listeners, stopping, requests, &ready))
        .map_err(|error| StartError::new("the server's thread cannot be started", error))?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(Server {
            addresses,
            #[cfg(feature = "tls")]
            tls_addresses,
            admin,
            stop: Some(stop),
            thread: Some(thread),
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::new("the server did not start", io::Error::other("its thread panicked"))),
    }
}

fn run(
    builder: ServerBuilder,
    listeners: Vec<Listener>,
    stopping: oneshot::Receiver<Duration>,
    requests: tokio_mpsc::Receiver<Request>,
    ready: &mpsc::Sender<Result<(), StartError>>,
) -> Stopped {
    let nothing = Stopped { abandoned: 0, failure: None };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            _ = ready.send(Err(StartError::new("the server's runtime cannot be made", error)));
            return nothing;
        }
    };
    let opened = match open(builder) {
        Ok(opened) => opened,
        Err(error) => {
            _ = ready.send(Err(error));
            return nothing;
        }
    };
    _ = ready.send(Ok(()));
    let tasks = LocalSet::new();
    let (mut stopped, store, hosts) = tasks.block_on(&runtime, serve(opened, listeners, stopping, requests));
    // Connections end with it, and what they leave is written below.
    drop(tasks);
    drop(runtime);
    // Guards: whoever waits until the directory is free looks at the store of users. Those of the virtual hosts are closed before.
    for host in hosts {
        if let Err(error) = host.close() {
            let name = &host.name;
            tracing::error!(vhost = &**name, error, "what was done last is not on the disk; what was confirmed is");
            stopped
                .failure
                .get_or_insert_with(|| format!("what was done last in the vhost {name} is not on the disk: {error}"));
        }
    }
    if let Some(Err(error)) = store.map(AccountStore::close) {
        tracing::error!(%error, "the broker's store of users was not closed in order; what was changed is safe");
    }
    stopped
}

/// All that there is before anybody is let in.
struct Opened {
    server: Rc<Shared>,
    hosts: Vec<Rc<Host>>,
    administration: Administration,
    failures: tokio_mpsc::Receiver<String>,
}

fn open(builder: ServerBuilder) -> Result<Opened, StartError> {
    let ServerBuilder { users, virtual_hosts, limits, mut storage, .. } = builder;
    let now = Instant::now();
    let store = match &mut storage {
        None => AccountStore::in_memory(),
        Some(storage) => storage.accounts().map_err(|error| StartError::new("users cannot be read", error))?,
    };
    let mut store = store.with_program(users, virtual_hosts);
    let mut hosts = Vec::new();
    if let Some(storage) = &mut storage {
        for name in store.table().removed.clone() {
            // Guards: the server was killed after a virtual host was removed, and before its messages were.
            let failed =
                |error| StartError::new(format!("what was in the removed vhost {name} cannot be removed"), error);
            storage.remove(&name)().map_err(failed)?;
            store.forget_removed(&name).map_err(|error| failed(io::Error::other(error)))?;
        }
    }
    let (fail, failures) = tokio_mpsc::channel(1);
    let server = Rc::new(Shared::new(limits, store.table().clone(), fail));
    for name in store.table().virtual_hosts.keys() {
        let host = match &mut storage {
            None => Host::new(name, Engine::new(now), server.room.clone()),
            Some(storage) => {
                let opened = storage
                    .open(name, now)
                    .map_err(|error| StartError::new(format!("what was kept of vhost {name} cannot be read"), error))?;
                Host::kept(name, opened, server.room.clone())
            }
        };
        hosts.push(Rc::new(host));
    }
    let administration = Administration { server: server.clone(), store: Some(store), storage };
    Ok(Opened { server, hosts, administration, failures })
}

async fn serve(
    opened: Opened,
    listeners: Vec<Listener>,
    stopping: oneshot::Receiver<Duration>,
    mut requests: tokio_mpsc::Receiver<Request>,
) -> (Stopped, Option<AccountStore>, Vec<Rc<Host>>) {
    let Opened { server, hosts, mut administration, mut failures } = opened;
    hosts.into_iter().for_each(|host| server.start_host(host));
    let listening: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let server = server.clone();
            spawn_local(async move {
                if let Err(error) = listen::run(listener, server.clone()).await {
                    server.fail(format!("a listener failed: {error}"));
                }
            })
        })
        .collect();
    let watching = spawn_local(watch_memory(server.clone()));
    let (within, failure) = tokio::select! {
        within = stopping => (within.unwrap_or(AT_DROP), None),
        failure = failures.recv() => (AT_DROP, failure),
        // The server's own handle to it lives as long as the server.
        () = administration.run(&mut requests) => (AT_DROP, None),
    };
    if let Some(failure) = &failure {
        tracing::error!(failure, "the server stops");
    }
    server.is_stopping.set(true);
    listening.iter().for_each(tokio::task::JoinHandle::abort);
    watching.abort();
    server.end_all(SHUTDOWN);
    let gone = async {
        while server.connections() > 0 {
            server.ended.wait().await;
        }
    };
    _ = timeout(within, gone).await;
    drop(requests);
    let stopped = Stopped { abandoned: server.connections(), failure };
    (stopped, administration.store, server.take_hosts())
}

/// Stops publishers while messages take too much memory.
async fn watch_memory(server: Rc<Shared>) {
    loop {
        server.room.changed.wait().await;
        // RabbitMQ's words.
        server.set_alarm(&Alarm::Memory, server.room.is_full().then_some("low on memory"));
    }
}

/// Passes on what the journal of a virtual host reports.
pub(super) async fn follow(host: Rc<Host>, server: Rc<Shared>) {
    loop {
        match host.progress().await {
            Progress::Durable(mark) => host.is_durable(mark),
            Progress::Blocked(reason) => {
                server.set_alarm(&Alarm::Disk(host.name.clone()), Some(&reason));
            }
            Progress::Unblocked => server.set_alarm(&Alarm::Disk(host.name.clone()), None),
            Progress::Failed(reason) => {
                server.fail(reason);
                return;
            }
        }
    }
}
