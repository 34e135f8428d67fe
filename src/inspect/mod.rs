//! Checks a broker as an operator would, and looks into a queue while workers run. It creates and changes nothing.
//!
//! [`inspect`] gives a [`Report`]: whether the broker can be reached, by which protocol and how fast, whether it accepts the credentials, what its version means
//! for this program, and whether its exchanges and queues are as this program would declare them. [`depth`] counts a queue,
//! [`peek`] shows its messages.
//!
//! The connection is made on a thread of its own that ends with the question, so any runtime may ask.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
//! use homing::inspect::{Verdict, inspect};
//!
//! let options = homing::Communicator::builder("amqp://guest:guest@127.0.0.1:5672/");
//! for finding in inspect(&options).await?.findings() {
//!     if finding.verdict() == Verdict::Problem {
//!         println!("{}: {}", finding.check(), finding.text());
//!     }
//! }
//! # Ok(()) }
//! ```

mod checks;
mod declared;
#[doc(hidden)]
pub mod mend;
mod report;
mod tasks;
#[doc(hidden)]
pub mod transfer;
mod version;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

pub use declared::{Declared, Kind, Target, declared, target};
pub use report::{Finding, Report, Verdict};
pub use tasks::{Depth, Peek, PeekedTask, depth, peek};

use crate::CommunicatorBuilder;
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::rabbitmq::endpoint::Endpoint;
use crate::broker::url::BrokerUrl;
use crate::broker::{Broker, BrokerEvent, ConnectOptions, EventSender, Kept};
use crate::error::{Error, ErrorKind, Result};

/// How long the end of the connection may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// Checks the broker of these options, and the exchanges and queues that they name.
///
/// What is wrong with the broker is in the report, also when it cannot be reached at all. A broker of `local:` is checked where a
/// process hosts it; this hosts none.
///
/// # Errors
/// `InvalidArgument` for a URL or a name that cannot be used, or for `memory:`.
///
/// # Cancel safety
/// Dropping it leaves the question to end by itself, in bounded time.
pub async fn inspect(options: &CommunicatorBuilder) -> Result<Report> {
    options.names.check()?;
    let mut brokers = brokers(options)?;
    let options = options.clone();
    match (brokers.pop(), brokers.is_empty()) {
        (Some(BrokerUrl::Local(place)), true) => {
            on_own_thread(async move || Ok(checks::local(&place, &options).await)).await
        }
        (Some(broker), true) => {
            let endpoint = Endpoint::from_url(&broker)?;
            on_own_thread(async move || Ok(checks::run(&endpoint, &options).await)).await
        }
        _ => Err(Error::new(
            ErrorKind::InvalidArgument,
            "several brokers cannot be inspected at once; give the URL of one",
        )),
    }
}

/// The brokers of these options, in the order in which they are tried.
fn brokers(options: &CommunicatorBuilder) -> Result<Vec<BrokerUrl>> {
    let urls = options.urls()?;
    if urls.iter().any(BrokerUrl::is_memory) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "memory: is a broker inside one process, which cannot be inspected from outside; give the URL of a RabbitMQ",
        ));
    }
    Ok(urls)
}

/// Connects to the first that answers; the error is that of the last.
async fn connect(brokers: &[BrokerUrl], options: &ConnectOptions, events: EventSender) -> Result<RabbitMq> {
    let mut failure = Error::new(ErrorKind::InvalidArgument, "there is no broker to connect to");
    // Guards: another connection by the same options, whose local broker would end with this one.
    let options = ConnectOptions { kept: Kept::default(), ..options.clone() };
    for broker in brokers {
        match <RabbitMq as Broker>::connect(broker, &options, events.clone()).await {
            Ok(broker) => return Ok(broker),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects, asks and closes, on a thread of its own.
async fn with_broker<T: Send + 'static>(
    options: &CommunicatorBuilder,
    ask: impl AsyncFnOnce(&RabbitMq) -> Result<T> + Send + 'static,
) -> Result<T> {
    let brokers = brokers(options)?;
    let options = options.connect.clone();
    on_own_thread(async move || {
        let (events, _unheard) = mpsc::unbounded_channel::<BrokerEvent>();
        let broker = connect(&brokers, &options, events).await?;
        let answer = ask(&broker).await;
        let closed = broker.close(FAREWELL).await;
        answer.and_then(|answer| closed.map(|()| answer))
    })
    .await
}

/// The connection's parts stay on one thread.
async fn on_own_thread<T: Send + 'static>(work: impl AsyncFnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    on_thread(work)?.await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Abandoned, "the thread that asked the broker ended without an answer"))
    })
}

fn on_thread<T: Send + 'static>(
    work: impl AsyncFnOnce() -> Result<T> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T>>> {
    let (answer, answered) = oneshot::channel();
    let failed = |error: std::io::Error| {
        Error::with_source(
            ErrorKind::InvalidState,
            format!("could not start a thread to ask the broker: {error}"),
            error,
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("homing-inspect".to_owned());
    crate::home::fork::spawn(thread, move || {
        let result = LocalSet::new().block_on(&runtime, work());
        // A name look-up that is stuck must not keep this thread.
        runtime.shutdown_background();
        // The caller may have gone.
        let _ = answer.send(result);
    })
    .map_err(failed)?;
    Ok(answered)
}
