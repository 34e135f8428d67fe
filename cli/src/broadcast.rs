//! `homing broadcast send` and `homing broadcast watch`.

use std::time::Instant;

use homing::codec::Map;
use homing::{
    Broadcast as Received, BroadcastFilter, BroadcastSubscriber, Communicator, ConnectionEvent, ErrorKind, Value,
};
use tokio::sync::mpsc;

use crate::args::{Broadcast, Format, Global};
use crate::call::finish;
use crate::connection::{News, Watched, begin_to_stay, close, connect, options, while_sending};
use crate::failure::Failure;
use crate::glob::Glob;
use crate::progress::{Progress, Stage, bounded};
use crate::stop::Stop;
use crate::{not_given, note, out, output, values, warning};

pub(crate) async fn run(command: Broadcast, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Broadcast::Send { body, subject, sender, correlation_id, timeout } => {
            let deadline = timeout.map(|timeout| Instant::now() + timeout);
            let progress = Progress::default();
            let work = async {
                let body = values::read_body(body.as_deref()).await?;
                let sender = sender.map(|sender| values::parse(sender.as_bytes(), "the sender")).transpose()?;
                progress.at(Stage::Connecting);
                let communicator = connect(global).await?;
                progress.at(Stage::Sending);
                let mut broadcast = communicator.broadcast_send(body);
                if let Some(subject) = subject {
                    broadcast = broadcast.subject(subject);
                }
                if let Some(sender) = sender {
                    broadcast = broadcast.sender(sender);
                }
                if let Some(correlation_id) = correlation_id {
                    broadcast = broadcast.correlation_id(correlation_id);
                }
                match while_sending(&communicator, broadcast.mandatory()).await {
                    // It is dropped, as a broadcast is; who has mistyped a prefix is to know.
                    Err(error) if error.kind() == ErrorKind::Unroutable => {
                        note!("no program receives broadcasts here: it was dropped (is the prefix right?)");
                        not_given::note(&global.broker);
                    }
                    sent => sent?,
                }
                Ok(communicator)
            };
            let communicator: Communicator = bounded(timeout, stop.clone(), &progress, work).await?;
            finish(&communicator, deadline, stop).await;
            Ok(())
        }
        Broadcast::Watch { subject, sender, count } => {
            let wanted = Wanted {
                subject: subject.as_deref().map(Glob::new),
                // A process id is a number on the wire, and a string on a command line.
                number: sender.as_ref().and_then(|sender| match values::parse(sender.as_bytes(), "the sender") {
                    Ok(Value::Int(id)) => Some(Value::Int(id)),
                    _ => None,
                }),
                sender: sender.as_deref().map(Glob::new),
            };
            watch(global, stop, wanted, count.map(u64::from)).await
        }
    }
}

/// Which broadcasts are printed.
struct Wanted {
    subject: Option<Glob>,
    sender: Option<Glob>,
    number: Option<Value>,
}

impl Wanted {
    /// As in kiwipy, a broadcast without a subject or a sender passes a filter on it.
    fn passes(&self, broadcast: &Received) -> bool {
        let (subject, sender) = (broadcast.subject_value(), broadcast.sender());
        let by_glob = |glob: &Option<Glob>, value: &Value| {
            value.is_null() || glob.as_ref().is_none_or(|glob| value.as_str().is_some_and(|text| glob.matches(text)))
        };
        by_glob(&self.subject, subject) && (by_glob(&self.sender, sender) || self.number.as_ref() == Some(sender))
    }
}

async fn watch(global: &Global, mut stop: Stop, wanted: Wanted, count: Option<u64>) -> Result<(), Failure> {
    // Bounded by the library's own backlog behind it: the handler waits here, and that one drops the oldest and counts them.
    let (sender, mut receiver) = mpsc::channel::<Received>(16);
    let begin = async |communicator: &Communicator| {
        let sender = sender.clone();
        let subscriber = BroadcastSubscriber::future(move |broadcast: Received| {
            let sender = sender.clone();
            async move {
                // Nobody reads any more when the command ends.
                let _ = sender.send(broadcast).await;
            }
        });
        let watched = Watched::new(communicator);
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), subscriber).await?;
        Ok(watched)
    };
    let options = options(global)?;
    let mut reader_gone = std::pin::pin!(output::reader_gone());
    let (communicator, mut watched): (Communicator, Watched) = tokio::select! {
        started = begin_to_stay(global, options, begin) => started?,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
        () = &mut reader_gone => return Ok(()),
    };
    not_given::note(&global.broker);
    note!("watching broadcasts until Ctrl-C");
    let mut left = count;
    let ended = loop {
        if left == Some(0) {
            break Ok(());
        }
        tokio::select! {
            signal = stop.wait() => break Err(Failure::Interrupted(signal, None)),
            () = &mut reader_gone => break Err(Failure::ReaderGone),
            (event, news) = watched.next() => match (event, news) {
                (_, News::Ended(failure)) => break Err(failure),
                (Some(ConnectionEvent::Gap { away, .. }), _) => warning!(
                    "broadcasts of {:.1} s are missing, for there was no connection, and the broker keeps none",
                    away.as_secs_f64()
                ),
                (Some(ConnectionEvent::Lagged { missed, .. }), _) => {
                    warning!("{missed} broadcasts are missing: they came faster than they could be printed");
                }
                _ => {}
            },
            Some(broadcast) = receiver.recv() => {
                if !wanted.passes(&broadcast) {
                    continue;
                }
                if let Err(failure) = print(&broadcast, global.output.format) {
                    break Err(failure);
                }
                left = left.map(|left| left - 1);
            }
        }
    };
    if ended.is_ok() {
        return close(&communicator).await;
    }
    ended
}

fn print(broadcast: &Received, format: Format) -> Result<(), Failure> {
    let mut map = Map::new();
    map.insert("time", output::now());
    map.insert("subject", broadcast.subject_value().clone());
    map.insert("sender", broadcast.sender().clone());
    map.insert("correlation_id", broadcast.correlation_id().clone());
    map.insert("body", broadcast.body().clone());
    if format == Format::Text {
        out!("---")?;
    }
    values::print(&Value::Map(map), format)
}
