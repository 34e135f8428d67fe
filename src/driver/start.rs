//! The beginning: the thread starts, connects, and tells whoever waits for it. And the call that ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::answers::Answers;
use super::callers::Callers;
use super::command::{CloseReport, Closing, CodecWork, Command};
use super::jobs::Jobs;
use super::outbox::Outbox;
use super::port::{ConnectionEvent, ConnectionState, Port, home_ended};
use super::requests::Requests;
use super::session::{self, Made, ReconnectPolicy, Session};
use super::subscriptions::Subscriptions;
use super::tasks::TaskBook;
use super::timers::Timers;
use super::{Alarm, Driver, Limits, Phase};
use crate::broker::memory::Memory;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::url::BrokerUrl;
use crate::broker::{Broker, ConnectOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, Home, ReserveError};
use crate::threads::{self, ThreadHandle};

/// The codec thread, as the communicator thread has it.
pub(crate) struct CodecLoop {
    pub(crate) send: Box<dyn Fn(CodecWork)>,
    /// Taken when it has ended.
    pub(crate) thread: Option<ThreadHandle>,
}

impl CodecLoop {
    pub(super) fn hand(&self, work: CodecWork) {
        (self.send)(work);
    }

    /// The thread, if it has ended.
    pub(super) fn ended(&mut self) -> Option<ThreadHandle> {
        self.thread.take_if(|thread| thread.is_finished())
    }
}

/// What the communicator thread starts with.
pub(crate) struct Plan {
    pub(crate) port: Arc<Port>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) urls: Arc<[BrokerUrl]>,
    pub(crate) connect: ConnectOptions,
    pub(crate) reconnect: ReconnectPolicy,
    pub(crate) limits: Limits,
    /// Starts the codec thread.
    pub(crate) codec: Box<dyn FnOnce() -> io::Result<CodecLoop> + Send>,
    pub(crate) thread_name: String,
}

/// Starts the thread of a communicator, and waits until it is connected.
pub(crate) async fn start(plan: Plan) -> Result<()> {
    let port = Arc::clone(&plan.port);
    // Without waiting: there is no thread yet whose clock could end the wait.
    let (completer, connected) = Home::current().try_future::<Result<()>>().map_err(|refused| match refused {
        ReserveError::Full => Error::with_source(
            ErrorKind::Full,
            "connecting: the calling home has as many futures open as it may have",
            refused,
        ),
        _ => home_ended("connecting"),
    })?;
    let name = format!("{}-communicator", plan.thread_name);
    let thread = threads::start(name, move || plan.main(completer));
    port.add_thread(thread.map_err(|error| no_thread(&error))?);
    let outcome = connected.await.map_err(|end| port.ended(end, "connecting"))?;
    if outcome.is_err() {
        port.join();
    }
    outcome
}

fn no_thread(error: &io::Error) -> Error {
    Error::new(ErrorKind::Connection, format!("the system gave no thread for the communicator: {error}"))
}

/// Closes, or waits for a close that is under way.
pub(crate) async fn close(port: &Arc<Port>, drain: Duration) -> Result<CloseReport> {
    port.check_process()?;
    let (done, future) = match Home::current().try_future() {
        Ok(pair) => pair,
        Err(_) => {
            // A home that is full does not keep a communicator from closing.
            port.notify(Command::Close { how: Closing::Drain(drain), done: None });
            let limit = crate::time::from_now(drain.saturating_add(port.close_timeout));
            match (port.future(&"closing goes on without a report", Some(limit)).await, port.report()) {
                (Ok(pair), _) => pair,
                // The wait ended with the thread.
                (Err(_), Some(report)) => {
                    let report = report.clone();
                    port.join();
                    return Ok(report);
                }
                (Err(error), None) => return Err(error),
            }
        }
    };
    port.notify(Command::Close { how: Closing::Drain(drain), done: Some(done) });
    let told = future.await;
    // Where the thread had ended before it saw this close, it has left its report.
    let report = match (told, port.report()) {
        (Ok(report), _) => report,
        (Err(_), Some(report)) => report.clone(),
        (Err(end), None) => return Err(port.ended(end, "closing")),
    };
    port.join();
    Ok(report)
}

/// Tells the world when the communicator thread panics, which it must not: callers find out by their futures, which end as
/// this unwinds.
struct PanicGuard(Arc<Port>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let port = &self.0;
        let error = Error::new(
            ErrorKind::Internal,
            format!(
                "the communicator thread on {} panicked, which is a fault of homing; what was under way is lost or goes back \
                 to its queue. Connect a new communicator, and report the panic",
                port.broker
            ),
        );
        port.refuse_new_work(error.clone());
        port.set_state(ConnectionState::Closed);
        port.emit(&ConnectionEvent::Lost(error.clone()));
        port.emit(&ConnectionEvent::Closed);
        port.set_report(CloseReport { error: Some(error.clone()), ..CloseReport::default() });
        port.close_feed();
        crate::log::error!(%error, "the communicator ends");
    }
}

impl Plan {
    async fn main(self, connected: Completer<Result<()>>) {
        match self.urls.first() {
            Some(BrokerUrl::Amqp(_) | BrokerUrl::Local(_)) => {
                #[cfg(feature = "rabbitmq")]
                self.run::<RabbitMq>(connected).await;
                #[cfg(not(feature = "rabbitmq"))]
                drop(connected.complete(Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "this program was built without the feature `rabbitmq`: only `memory:` can be connected to",
                ))));
            }
            #[cfg(test)]
            Some(BrokerUrl::Simulated { .. }) => self.run::<crate::simulation::Simulated>(connected).await,
            _ => self.run::<Memory>(connected).await,
        }
    }

    async fn run<B: Broker>(self, connected: Completer<Result<()>>) {
        let port = Arc::clone(&self.port);
        port.set_state(ConnectionState::Connecting);
        // The first attempt is for the user to see: it fails at once, whatever is to be done about later losses.
        let made = match session::connect::<B>(&self.urls, &self.connect).await {
            Ok(made) => made,
            Err(error) => return Self::failed(&port, connected, error),
        };
        let close_timeout = self.limits.close_timeout;
        let mut driver = match self.driver(made) {
            Ok(driver) => driver,
            Err((error, made)) => {
                made.close(close_timeout).await;
                return Self::failed(&port, connected, no_thread(&error));
            }
        };
        // Dropped first, so that whoever is ended by the rest of an unwinding finds the reason.
        let _guard = PanicGuard(port);
        // Whoever gave up waiting for this has sent a close, which is the first command below.
        drop(connected.complete(Ok(())));
        let end = driver.run().await;
        driver.end(end).await;
    }

    fn failed(port: &Port, connected: Completer<Result<()>>, error: Error) {
        port.refuse_new_work(error.clone());
        port.close_feed();
        drop(connected.complete(Err(error)));
    }

    fn driver<B: Broker>(self, made: Made<B>) -> Result<Driver<B>, (io::Error, Made<B>)> {
        let codec = match (self.codec)() {
            Ok(codec) => codec,
            Err(error) => return Err((error, made)),
        };
        let operation_timeout = self.connect.operation_timeout;
        let port = self.port;
        let mut driver = Driver {
            subscriptions: Subscriptions::new(port.names.clone(), operation_timeout),
            outbox: Outbox::new(&port.broker, self.limits.reply_timeout),
            session: Session::new(Arc::clone(&port), self.urls, self.connect, self.reconnect),
            tasks: TaskBook::new(self.limits.tasks),
            port,
            limits: self.limits,
            commands: self.commands,
            requests: Requests::default(),
            answers: Answers::default(),
            callers: Callers::default(),
            broadcast_key: crate::wire::names::BROADCAST_TOPIC.into(),
            last_call: 0,
            actions: Vec::new(),
            lists: super::perform::Lists::default(),
            ownership_lost: Default::default(),
            copies: Default::default(),
            last_copy: 0,
            pulls: Default::default(),
            unclaimed: Default::default(),
            pulled: Default::default(),
            held_acks: Default::default(),
            timers: Timers::default(),
            asks: Default::default(),
            next_probe: None,
            jobs: Jobs::default(),
            freeing: 0,
            leases_fail: false,
            codec,
            away: None,
            phase: Phase::Open,
            drain_until: None,
            unbinding: false,
            letting_go: 0,
            closers: Vec::new(),
            alarm: Alarm::default(),
            first: 0,
        };
        driver.up(made);
        driver.perform();
        Ok(driver)
    }
}
