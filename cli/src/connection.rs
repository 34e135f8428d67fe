//! A connection for a command: made from its settings, waited for, and closed in order.

use std::time::{Duration, Instant};

use homing::{Communicator, CommunicatorBuilder, ConnectionEvent, ErrorKind, Events, ReconnectPolicy, TestingMode};

use crate::args::Global;
use crate::failure::Failure;
use crate::{DEFAULT_BROKER, note};

/// The pauses between attempts at a broker that is not there yet.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A communicator with the names of the settings.
pub(crate) fn builder(global: &Global, url: &str) -> CommunicatorBuilder {
    let mut builder = Communicator::builder(url);
    if let Some(prefix) = &global.names.prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(name) = &global.names.message_exchange {
        builder = builder.message_exchange(name);
    }
    if let Some(name) = &global.names.task_exchange {
        builder = builder.task_exchange(name);
    }
    if let Some(name) = &global.names.task_queue {
        builder = builder.task_queue(name);
    }
    if global.names.testing {
        builder = builder.testing(TestingMode::Yes);
    }
    builder
}

/// The options for a broker that other programs can reach.
pub(crate) fn options(global: &Global) -> Result<CommunicatorBuilder, Failure> {
    let url = global.broker.broker.as_deref().unwrap_or(DEFAULT_BROKER);
    if url.starts_with("memory:") {
        return Err(Failure::Usage(
            "memory: is a broker inside one process, and this command would be alone with it; only `homing demo` and \
             `homing bench` take it. local: is a broker for the programs of this machine"
                .to_owned(),
        ));
    }
    Ok(builder(global, url))
}

/// Connects for one thing to be done, which its user can start again.
pub(crate) async fn connect(global: &Global) -> Result<Communicator, Failure> {
    start(global, options(global)?, ReconnectPolicy::Never).await
}

async fn start(
    global: &Global,
    options: CommunicatorBuilder,
    policy: ReconnectPolicy,
) -> Result<Communicator, Failure> {
    let options = options.reconnect(global.broker.reconnect.unwrap_or(policy));
    waiting_for_broker(global, || options.clone().connect()).await
}

/// Connects a command that stays, which reconnects when the connection is lost, and begins what it stays for. Where the connection is lost before that is done, both are begun
/// again, as the command would reconnect later: `begin` may be called several times.
pub(crate) async fn begin_to_stay<T>(
    global: &Global,
    options: CommunicatorBuilder,
    begin: impl AsyncFn(&Communicator) -> Result<T, Failure>,
) -> Result<(Communicator, T), Failure> {
    let mut again = global.clone();
    let until = match global.broker.reconnect {
        Some(ReconnectPolicy::For(time)) => Some(Instant::now() + time),
        _ => None,
    };
    let gives_up = global.broker.reconnect == Some(ReconnectPolicy::Never);
    loop {
        let begun = async {
            let communicator = start(&again, options.clone(), ReconnectPolicy::ForEver).await?;
            match begin(&communicator).await {
                Ok(begun) => Ok((communicator, begun)),
                Err(failure) => {
                    // In the background: it may have no connection.
                    drop(communicator);
                    Err(failure)
                }
            }
        };
        match begun.await {
            Err(Failure::Homing(error))
                if error.kind() == ErrorKind::ConnectionLost
                    && !gives_up
                    && until.is_none_or(|until| Instant::now() < until) =>
            {
                note!("starting again: {error}");
                // From now on the broker is one that was there.
                again.broker.reconnect.get_or_insert(ReconnectPolicy::ForEver);
                tokio::time::sleep(FIRST_PAUSE).await;
            }
            begun => return begun,
        }
    }
}

/// Connects, by whatever makes the connection; with `--reconnect` this waits for a broker that is not there yet.
pub(crate) async fn waiting_for_broker<T, C: Future<Output = homing::Result<T>>>(
    global: &Global,
    connect: impl Fn() -> C,
) -> Result<T, Failure> {
    let until = match global.broker.reconnect {
        Some(ReconnectPolicy::ForEver) => None,
        Some(ReconnectPolicy::For(time)) => Some(Instant::now() + time),
        _ => return Ok(connect().await?),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match connect().await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        if !may_come(&error) || until.is_some_and(|until| Instant::now() + pause > until) {
            return Err(error.into());
        }
        if pause == FIRST_PAUSE {
            note!("waiting for the broker: {error}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether this is about a broker that may be there later.
pub(crate) fn may_come(error: &homing::Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::ConnectionLost | ErrorKind::TimedOut)
}

/// Closes in order, and fails when something was left undone.
pub(crate) async fn close(communicator: &Communicator) -> Result<(), Failure> {
    let report = communicator.close().await?;
    match report.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Sends something, and reports how the wait can be ended while the broker takes no messages. That it takes none, and why, is in the log.
pub(crate) async fn while_sending<T>(communicator: &Communicator, sending: impl Future<Output = T>) -> T {
    // Before anything is sent: the broker reports it to those who send.
    let mut events = communicator.events();
    let mut sending = std::pin::pin!(sending);
    loop {
        let event = tokio::select! {
            biased;
            sent = &mut sending => return sent,
            event = events.next() => event,
        };
        match event {
            Some(ConnectionEvent::Blocked { .. }) => {
                note!(
                    "this waits until the broker takes messages again; --timeout limits the time, and Ctrl-C ends it"
                );
            }
            Some(ConnectionEvent::Unblocked) => note!("the broker takes messages again"),
            Some(_) => {}
            None => return sending.await,
        }
    }
}

/// What a command that stays does about an event of its connection.
pub(crate) enum News {
    /// Nothing.
    None,
    /// The connection is lost for good.
    Ended(Failure),
}

/// Follows the events of a connection, and reports what becomes of it.
pub(crate) struct Watched {
    events: Events,
    why: Option<homing::Error>,
}

impl Watched {
    pub(crate) fn new(communicator: &Communicator) -> Self {
        Watched { events: communicator.events(), why: None }
    }

    /// The next event, and what it means for the command.
    ///
    /// # Cancel safety
    /// No event is lost when it is dropped.
    pub(crate) async fn next(&mut self) -> (Option<ConnectionEvent>, News) {
        match self.events.next().await {
            Some(ConnectionEvent::Lost(error)) => {
                self.why = Some(error.clone());
                (Some(ConnectionEvent::Lost(error)), News::None)
            }
            Some(ConnectionEvent::Restored { away }) => {
                note!("connected again after {:.1} s", away.as_secs_f64());
                self.why = None;
                (Some(ConnectionEvent::Restored { away }), News::None)
            }
            None | Some(ConnectionEvent::Closed) => match self.why.take() {
                Some(error) => (None, News::Ended(error.into())),
                // It was closed by this command, which knows.
                None => std::future::pending().await,
            },
            Some(event) => (Some(event), News::None),
        }
    }

    /// Resolves when the connection is lost for good.
    pub(crate) async fn lost(&mut self) -> Failure {
        loop {
            if let (_, News::Ended(failure)) = self.next().await {
                return failure;
            }
        }
    }
}
