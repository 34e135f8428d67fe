//! `homing rpc serve`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use homing::{Answer, Communicator, Failure as Refusal, HandlerError, Identifier, RpcRequest, RpcSubscriber};
use tokio::sync::Semaphore;

use super::outcome::Subject;
use super::start::Start;
use super::{Crew, End, enough, signalled};
use crate::args::{Global, Serve};
use crate::connection::{Watched, begin_to_stay, close, options};
use crate::exec::Ended;
use crate::failure::Failure;
use crate::presence::{self, Role};
use crate::stop::Stop;
use crate::{doctor, not_given, note, values, warning};

/// How long the broker may take to end a subscription.
const UNSUBSCRIBING: Duration = Duration::from_secs(5);
/// How long other servers have to answer that they are there.
const OTHERS: Duration = Duration::from_millis(300);

pub(crate) async fn run(command: Serve, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let identifier = Identifier::new(&command.identifier)?;
    let crew = Crew::new(command.handler, command.timeout).await?;
    let server = Arc::new(Server {
        crew,
        identifier: identifier.clone(),
        places: Semaphore::new(usize::from(command.parallel.get())),
    });
    let options = options(global)?;
    let start = Start::new();
    let begin = async |communicator: &Communicator| {
        let role = Role { kind: "rpc", name: identifier.as_str().to_owned(), store: None };
        let mut others = presence::ask(communicator, Some(&role), OTHERS).await?.len();
        if let Some(url) = &command.management {
            others = others.max(doctor::listeners(&options, url, &identifier).await?);
        }
        if others > 0 {
            let who = if others == 1 { "another one answers".to_owned() } else { format!("{others} others answer") };
            let text = format!("{who} calls to {:?} already; every one of them runs every call", identifier.as_str());
            if command.exclusive {
                close(communicator).await?;
                return Err(Failure::Other(format!("{text}, and --exclusive was asked for")));
            }
            warning!("{text}");
        }
        let watched = Watched::new(communicator);
        let subscriber = {
            let server = Arc::clone(&server);
            RpcSubscriber::future(move |call| Arc::clone(&server).handle(call))
        };
        let _now = start.subscribing();
        let added = communicator.add_rpc_subscriber(identifier.clone(), subscriber).await?;
        presence::announce(communicator, role).await;
        Ok((watched, added))
    };
    let starting = begin_to_stay(global, options.clone(), begin);
    let (communicator, (mut watched, identifier)): (Communicator, (Watched, Identifier)) =
        match start.unless_signalled(&mut stop, starting).await {
            Ok(started) => started,
            Err(failure) => {
                server.crew.stop().await;
                return Err(failure);
            }
        };
    not_given::note(&global.broker);
    note!("answering calls to {:?} until Ctrl-C", identifier.as_str());
    let mut state = server.crew.watch();
    let end = tokio::select! {
        end = signalled(&mut stop) => end,
        end = enough(&mut state, None) => end,
        failure = watched.lost() => End::Lost(failure),
    };
    if let End::Lost(failure) = end {
        server.crew.stop().await;
        return Err(failure);
    }
    let unsubscribing = communicator.remove_rpc_subscriber(&identifier);
    if let Ok(Err(error)) = tokio::time::timeout(UNSUBSCRIBING, unsubscribing).await {
        tracing::info!(%error, "the subscription could not be ended in order");
    }
    // Calls that wait for their turn are not begun.
    server.places.close();
    server.crew.drain(command.drain).await;
    let closed = close(&communicator).await;
    server.crew.verdict().and(closed)
}

struct Server {
    crew: Crew,
    identifier: Identifier,
    /// For calls that run side by side.
    places: Semaphore,
}

impl Server {
    async fn handle(self: Arc<Self>, call: RpcRequest) -> Result<Answer, HandlerError> {
        let Ok(_place) = self.places.acquire().await else { return Err(Refusal::Cancelled.into()) };
        let Some(shift) = self.crew.begin(None) else { return Err(Refusal::Cancelled.into()) };
        let subject = Subject {
            kind: "call",
            id: call.correlation_id().unwrap_or("").to_owned(),
            at: self.identifier.as_str().to_owned(),
            attempt: 1,
            redelivered: false,
            begun: Instant::now(),
        };
        let ended = self.crew.work(call.body(), &environment(&call, self.identifier.as_str())).await;
        let (ended, outcome, answered) = match ended {
            Ended::Done(finished) if self.crew.is_echo() => {
                (Ended::Done(finished), "answered", Ok(Answer::Value(call.into_body())))
            }
            Ended::Done(finished) => match values::parse(&finished.out, "the command's output") {
                Ok(value) => (Ended::Done(finished), "answered", Ok(Answer::Value(value))),
                Err(failure) => exception(Ended::Failed(failure.to_string()), &failure.to_string()),
            },
            Ended::Stopped => (Ended::Stopped, "stopped, cancelled", Err(Refusal::Cancelled)),
            Ended::Failed(text) => exception(Ended::Failed(text.clone()), &text),
            Ended::TryAgain(text) => exception(Ended::TryAgain(text.clone()), &format!("not now, try again: {text}")),
            Ended::NotRunnable(text) => exception(Ended::NotRunnable(text.clone()), &text),
        };
        subject.log(&ended, outcome);
        drop(shift);
        // It has its line.
        answered.map_err(|refusal| HandlerError::from(refusal).without_warning())
    }
}

fn exception(ended: Ended, text: &str) -> (Ended, &'static str, Result<Answer, Refusal>) {
    (ended, "failed, its caller gets the exception", Err(Refusal::Exception(text.to_owned())))
}

/// What the command may want to know.
fn environment(call: &RpcRequest, identifier: &str) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("HOMING_KIND", "call".to_owned()),
        ("HOMING_IDENTIFIER", identifier.to_owned()),
        ("HOMING_ATTEMPT", "1".to_owned()),
        ("HOMING_REDELIVERED", "false".to_owned()),
    ];
    if let Some(id) = call.correlation_id() {
        environment.push(("HOMING_CORRELATION_ID", id.to_owned()));
    }
    environment
}
