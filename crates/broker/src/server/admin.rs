//! What an operator asks of a server that runs.

use super::{
    accounts::{AccountStore, Accounts, Change, ChangeError, Entry},
    aside::aside,
    builder::{Removal, Storage},
    definitions::Definitions,
    host::Host,
    shared::Shared,
};
use crate::engine::Engine;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
#[cfg(feature = "management")]
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// So many requests wait; whoever has another one waits for room.
const WAITING: usize = 16;

/// How often it is checked whether all have left a virtual host that is removed.
const LEAVING: Duration = Duration::from_millis(2);

/// Asks a [`Server`](super::Server) that runs for what an operator may ask: users, virtual hosts and permissions. Cheap to clone, and for
/// every thread and runtime.
#[derive(Clone, Debug)]
pub struct Admin {
    requests: mpsc::Sender<Request>,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// How many clients are connected.
    pub connections: usize,
    /// Why publishers are stopped, if they are.
    pub blocked: Option<String>,
    /// The virtual hosts, sorted by name.
    pub virtual_hosts: Vec<VirtualHostStatus>,
}

/// How a virtual host is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VirtualHostStatus {
    /// Its name.
    pub name: String,
    /// How many queues it has.
    pub queues: usize,
    /// How many messages are in them, those that are out with consumers too.
    pub messages: usize,
}

#[cfg(feature = "management")]
type Work = Box<dyn FnOnce(&Rc<Shared>) + Send>;

pub(super) enum Request {
    Change(Change, oneshot::Sender<Result<(), ChangeError>>),
    Accounts(oneshot::Sender<Accounts>),
    Status(oneshot::Sender<Status>),
    Definitions(String, oneshot::Sender<Option<Definitions>>),
    /// Anything that takes no time.
    #[cfg(feature = "management")]
    Do(Work),
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Request")
    }
}

impl Admin {
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(WAITING);
        (Self { requests }, receiver)
    }

    /// Makes a change, and returns when it is on the disk and counts. Of a user or a virtual host that is removed the connections
    /// have ended then. Changes are made one after the other.
    ///
    /// # Errors
    /// As [`AccountStore::change`], and [`ChangeError::Stopped`]: it may have been made then.
    ///
    /// # Cancel safety
    /// A change that was asked for is made, whether its answer is waited for or not.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        self.ask(|answer| Request::Change(change, answer)).await?
    }

    /// Users, virtual hosts and permissions as they are.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`].
    pub async fn accounts(&self) -> Result<Accounts, ChangeError> {
        self.ask(Request::Accounts).await
    }

    /// How the server is.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`].
    pub async fn status(&self) -> Result<Status, ChangeError> {
        self.ask(Request::Status).await
    }

    /// What is declared in a virtual host; `None` where there is no such host.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`].
    pub async fn definitions(&self, virtual_host: &str) -> Result<Option<Definitions>, ChangeError> {
        let name = virtual_host.to_owned();
        self.ask(|answer| Request::Definitions(name, answer)).await
    }

    /// Does this on the server's thread, between two requests of clients, who wait meanwhile.
    #[cfg(feature = "management")]
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Rc<Shared>) -> T + Send + 'static,
    ) -> Result<T, ChangeError> {
        self.ask(|answer| Request::Do(Box::new(move |server| _ = answer.send(work(server))))).await
    }

    /// Waits until all that was done in a virtual host is on the disk.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`]. The answer is the reason where the disk takes nothing.
    #[cfg(feature = "management")]
    pub(super) async fn until_safe(&self, host: &str) -> Result<Result<(), String>, ChangeError> {
        let name = host.to_owned();
        let wait = |answer: oneshot::Sender<_>| {
            Request::Do(Box::new(move |server: &Rc<Shared>| {
                let host = server.host(&name);
                spawn_local(async move {
                    let safe = match host {
                        Some(host) => host.until_safe(host.recorded()).await,
                        None => Ok(()),
                    };
                    _ = answer.send(safe);
                });
            }))
        };
        self.ask(wait).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| ChangeError::Stopped)?;
        answered.await.map_err(|_| ChangeError::Stopped)
    }
}

/// What answers it: one request after the other.
pub(super) struct Administration {
    pub(super) server: Rc<Shared>,
    /// `None` while another thread has it.
    pub(super) store: Option<AccountStore>,
    pub(super) storage: Option<Box<dyn Storage>>,
}

impl Administration {
    /// Answers as long as the server runs.
    pub(super) async fn run(&mut self, requests: &mut mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            // Whoever asked may not wait any more.
            match request {
                Request::Change(change, answer) => _ = answer.send(self.change(change).await),
                Request::Accounts(answer) => _ = answer.send(self.server.accounts.list()),
                #[cfg(feature = "management")]
                Request::Do(work) => work(&self.server),
                Request::Status(answer) => _ = answer.send(self.server.status()),
                Request::Definitions(name, answer) => {
                    _ = answer.send(self.server.host(&name).map(|host| Definitions::read(&host)));
                }
            }
        }
    }

    async fn change(&mut self, change: Change) -> Result<(), ChangeError> {
        let opened = match &change {
            Change::AddVirtualHost { name } if self.server.host(name).is_none() => {
                // Whether it can be added is checked before something of it is on the disk.
                self.server.accounts.check_change(&change)?;
                Some(self.open_host(name)?)
            }
            _ => None,
        };
        let made = self.write(move |store| store.make(&change).map(|entries| (entries, change))).await;
        let (entries, change) = match made {
            Ok(made) => made,
            Err(error) => {
                opened.iter().for_each(|host| host.discard());
                return Err(error);
            }
        };
        if let Some(host) = opened {
            self.server.start_host(host);
        }
        self.take_over(&entries);
        match change {
            Change::RemoveUser { name } => {
                self.server.end_some(&format!("user '{name}' is deleted"), |peer| *peer.user() == *name);
            }
            Change::RemoveVirtualHost { name } => self.remove_host(&name).await,
            _ => {}
        }
        Ok(())
    }

    /// What is kept counts.
    fn take_over(&self, entries: &[Entry]) {
        if let Some(store) = &self.store {
            self.server.accounts.replace(store.table().clone(), entries);
        }
    }

    /// Does something with the store on another thread: a disk may take its time.
    async fn write<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut AccountStore) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let Some(mut store) = self.store.take() else { return Err(ChangeError::Stopped) };
        let (store, done) = aside(move || {
            let done = work(&mut store);
            (store, done)
        })
        .await
        // It panicked: what is on the disk is not known any more.
        .ok_or(ChangeError::Stopped)?;
        self.store = Some(store);
        done
    }

    /// Nobody else is served while its files are created.
    fn open_host(&mut self, name: &str) -> Result<Rc<Host>, ChangeError> {
        let now = Instant::now();
        let host = match &mut self.storage {
            None => Host::new(name, Engine::new(now), self.server.room.clone()),
            Some(storage) => {
                let failed = |error| ChangeError::Refused(format!("virtual host '{name}' cannot be kept: {error}"));
                Host::kept(name, storage.open(name, now).map_err(failed)?, self.server.room.clone())
            }
        };
        Ok(Rc::new(host))
    }

    async fn remove_host(&mut self, name: &str) {
        let Some(host) = self.server.stop_host(name) else { return };
        self.server.end_some(&format!("vhost '{name}' is deleted"), |peer| peer.is_in(&host));
        let server = self.server.clone();
        let left = async {
            while server.has_some(|peer| peer.is_in(&host)) {
                sleep(LEAVING).await;
            }
        };
        _ = timeout(self.server.limits.close, left).await;
        host.discard();
        let remove: Removal = match &mut self.storage {
            Some(storage) => storage.remove(name),
            None => Box::new(|| Ok(())),
        };
        match aside(remove).await {
            Some(Ok(())) => {
                let name = name.to_owned();
                let forgotten = self.write(move |store| store.forget_removed(&name).map_err(ChangeError::Store)).await;
                if let Err(error) = forgotten {
                    tracing::warn!(%error, "that a virtual host is gone from the disk could not be written; it is at the next start");
                }
                self.take_over(&[]);
            }
            Some(Err(error)) => {
                tracing::warn!(vhost = name, %error, "what was in a virtual host cannot be removed; it is at the next start");
            }
            None => {}
        }
    }
}
