//! Exchanges, queues, bindings and messages of a broker of our own on another broker: the part behind `homing broker move`.
//!
//! Stands on the broker as every communicator does: the same URLs, time limits and errors. Not public, for it may change.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use homing_broker::engine::{Binding, ExchangeSpec, QueueSpec};
use tokio::sync::{mpsc, oneshot, watch};

use super::{FAREWELL, brokers, connect, on_thread};
use crate::CommunicatorBuilder;
use crate::broker::Broker;
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::rabbitmq::transfer::Carrier;
pub use crate::broker::rabbitmq::transfer::{Carried, Found};
use crate::error::{Error, ErrorKind, Result};

type Job = Box<dyn for<'a> FnOnce(&'a Both) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

/// Connections to two brokers.
#[derive(Debug)]
pub struct Transfer {
    jobs: mpsc::UnboundedSender<Job>,
    ended: oneshot::Receiver<Result<()>>,
}

/// What the thread of the connections has.
struct Both {
    source: RabbitMq,
    target: RabbitMq,
}

/// Which messages are moved, and how.
#[derive(Clone)]
pub struct Plan {
    /// The queue, of this name on both brokers.
    pub queue: QueueSpec,
    /// So many messages are under way at once.
    pub window: u16,
    /// Turns true when it is to end.
    pub stop: watch::Receiver<bool>,
    /// Called on the connections' thread for each message that was moved. It must not block.
    pub moved: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("queue", &self.queue.name).field("window", &self.window).finish_non_exhaustive()
    }
}

/// The directory of a broker of `local:`; `None` for another URL.
///
/// # Errors
/// `InvalidArgument` for what is no URL, and where there is no place for it.
#[cfg(all(unix, feature = "local"))]
pub fn local_directory(url: &str) -> Result<Option<std::path::PathBuf>> {
    use crate::broker::url::BrokerUrl;

    match BrokerUrl::parse(url)? {
        BrokerUrl::Local(place) => crate::broker::rabbitmq::local::directory(&place).map(Some),
        _ => Ok(None),
    }
}

impl Transfer {
    /// Connects to both.
    ///
    /// # Errors
    /// As [`CommunicatorBuilder::connect`], with which of the two it is about; `InvalidArgument` where they are one.
    ///
    /// # Cancel safety
    /// Dropped, the attempt is given up; what has been opened is closed in the background.
    pub async fn connect(source: &CommunicatorBuilder, target: &CommunicatorBuilder) -> Result<Self> {
        let (sources, targets) = (named("source", brokers(source))?, named("target", brokers(target))?);
        let (source, target) = (source.connect.clone(), target.connect.clone());
        let (jobs, mut todo) = mpsc::unbounded_channel::<Job>();
        let (report, connected) = oneshot::channel();
        let ended = on_thread(async move || {
            let both = async {
                // Nobody waits for their events: operations have the errors.
                let (events, _unheard) = mpsc::unbounded_channel();
                let target = named("target", connect(&targets, &target, events).await)?;
                let (events, _unheard) = mpsc::unbounded_channel();
                let source = named("source", connect(&sources, &source, events).await)?;
                let both = Both { source, target };
                if both.source.is_where(&both.target).await? {
                    let text = "source and target are one virtual host of one broker";
                    both.close().await?;
                    return Err(Error::new(ErrorKind::InvalidArgument, text));
                }
                Ok(both)
            };
            let both = match both.await {
                Ok(both) => both,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return Ok(());
                }
            };
            if report.send(Ok(())).is_ok() {
                while let Some(job) = todo.recv().await {
                    job(&both).await;
                }
            }
            both.close().await
        })?;
        connected.await.unwrap_or_else(|_| Err(abandoned()))?;
        Ok(Transfer { jobs, ended })
    }

    /// Compares an exchange with the target's. Nothing is created.
    ///
    /// # Errors
    /// `PreconditionFailed` where there is another one of this name.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn compare_exchange(&self, spec: &ExchangeSpec) -> Result<Found> {
        let spec = spec.clone();
        self.ask(async move |both| both.target.compare_with_exchange(&spec).await).await
    }

    /// Compares a queue with the target's. Nothing is created.
    ///
    /// # Errors
    /// `PreconditionFailed` where there is another one of this name.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn compare_queue(&self, spec: &QueueSpec) -> Result<Found> {
        let spec = spec.clone();
        self.ask(async move |both| both.target.compare_with_queue(&spec).await).await
    }

    /// Declares an exchange on the target.
    ///
    /// # Errors
    /// Of the target.
    ///
    /// # Cancel safety
    /// Dropped, it may be declared all the same.
    pub async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        let spec = spec.clone();
        self.ask(async move |both| both.target.declare_same_exchange(&spec).await).await
    }

    /// Declares a queue on the target.
    ///
    /// # Errors
    /// Of the target.
    ///
    /// # Cancel safety
    /// Dropped, it may be declared all the same.
    pub async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        let spec = spec.clone();
        self.ask(async move |both| both.target.declare_same_queue(&spec).await).await
    }

    /// Makes a binding on the target.
    ///
    /// # Errors
    /// Of the target.
    ///
    /// # Cancel safety
    /// Dropped, it may be made all the same.
    pub async fn bind(&self, binding: &Binding) -> Result<()> {
        let binding = binding.clone();
        self.ask(async move |both| both.target.bind_same(&binding).await).await
    }

    /// How many messages wait in a queue of the source.
    ///
    /// # Errors
    /// `NotFound` when there is no such queue.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn waiting(&self, queue: &str) -> Result<u32> {
        let queue = queue.to_owned();
        self.ask(async move |both| both.source.ready(&queue).await).await
    }

    /// Moves the messages of a queue, until it is empty. Each is confirmed by the target before it is acknowledged on the source.
    ///
    /// # Errors
    /// Of either broker. What was under way stays on the source then, and may be on the target too.
    ///
    /// # Cancel safety
    /// Dropped, it goes on until its end is asked for.
    pub async fn carry(&self, plan: Plan) -> Result<Carried> {
        self.ask(async move |Both { source, target }| {
            let Plan { queue, window, stop, moved } = plan;
            Carrier { source, target, queue: &queue, window, stop, moved: &*moved }.carry().await
        })
        .await
    }

    /// Closes both in order. Everything that was not acknowledged goes back, in its order.
    ///
    /// # Errors
    /// When a connection could not be closed in order.
    ///
    /// # Cancel safety
    /// Dropped, they are closed all the same.
    pub async fn close(self) -> Result<()> {
        let Transfer { jobs, ended } = self;
        drop(jobs);
        ended.await.unwrap_or_else(|_| Err(abandoned()))
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl AsyncFnOnce(&Both) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |both| {
            Box::pin(async move {
                // Whoever asked may have gone.
                let _ = answer.send(question(both).await);
            })
        });
        let _ = self.jobs.send(job);
        answered.await.unwrap_or_else(|_| Err(abandoned()))
    }
}

impl Both {
    async fn close(self) -> Result<()> {
        let (source, target) = tokio::join!(self.source.close(FAREWELL), self.target.close(FAREWELL));
        source.and(target)
    }
}

/// Which of the two an error is about.
fn named<T>(which: &str, outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| Error::with_source(error.kind(), format!("the {which}: {error}"), error))
}

fn abandoned() -> Error {
    Error::new(ErrorKind::Abandoned, "the thread that asked the brokers ended without an answer")
}
