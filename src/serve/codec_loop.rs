//! The codec thread: broadcasts are decoded once there, filtered, and handed to each subscriber's mailbox.
//!
//! It keeps the communicator thread free of users' decoders and of dropping users' values, and it never waits for a home: of a
//! home that does not keep up the oldest broadcasts are dropped, counted and reported.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::home::lock::Mutex;
use tokio::sync::mpsc;

use super::broadcast::{Broadcast, Delivered};
use super::context::Context;
use super::filter::BroadcastFilter;
use super::rpc;
use crate::broker::Body;
use crate::codec::CodecPlace;
use crate::driver::CodecLoop;
use crate::driver::command::{BroadcastOutcome, CodecWork, Command};
#[cfg(not(test))]
use crate::driver::port::Port;
use crate::driver::port::{Mailbox, count, count_many};
use crate::error::Result;
use crate::panics::{caught, drop_guarded};
use crate::threads;
use crate::wire::broadcast::Content;
use crate::wire::headers::TraceHeaders;
use crate::wire::names::Identifier;

/// How often it is looked whether homes turn.
#[cfg(not(test))]
const LOOK_AT_HOMES: std::time::Duration = std::time::Duration::from_secs(10);

/// What the codec thread is given.
pub(crate) enum CodecInput {
    /// A subscriber wants the broadcasts that pass its filter. Before its queue is set up, so that its first message is
    /// received.
    Add {
        number: u64,
        identifier: Identifier,
        filter: BroadcastFilter,
        mailbox: Arc<Mailbox<Delivered>>,
    },
    Remove {
        number: u64,
    },
    FromDriver(CodecWork),
}

struct Sink {
    identifier: Identifier,
    filter: BroadcastFilter,
    mailbox: Arc<Mailbox<Delivered>>,
}

impl Sink {
    /// Puts a broadcast into its mailbox. What is lost by that is counted and logged here: its home may never look.
    fn put(&self, context: &Context, delivered: Delivered) {
        let weight = delivered.weight();
        let dropped = self.mailbox.put(delivered, weight);
        if dropped.now == 0 {
            return;
        }
        count_many(&context.port.counters.broadcasts_lagged, dropped.now);
        if dropped.now == dropped.in_all {
            let identifier = &self.identifier;
            crate::log::warn!(%identifier, "a broadcast subscriber does not keep up: it loses the oldest until it takes one");
        }
    }
}

/// As the log names what the context has of a program's own.
const CODEC: &str = "the codec";

/// The context on its way to the codec thread.
///
/// Guards: the codec, which is a program's own, of a communicator that is not connected in the end. The plan for the connection is
/// dropped on the communicator thread, and must not be the last that holds it.
#[derive(Clone)]
pub(crate) struct Handover(Arc<Mutex<Option<Context>>>);

impl Handover {
    fn take(&self) -> Option<Context> {
        self.0.lock().take()
    }
}

/// The side of the home that connects. Dropped before the codec thread runs, it takes the context back.
pub(crate) struct Handing(Option<Handover>);

impl Handing {
    pub(crate) fn new(context: Context) -> (Self, Handover) {
        let handover = Handover(Arc::new(Mutex::new(Some(context))));
        (Handing(Some(handover.clone())), handover)
    }

    /// The codec thread has been started, and takes the context.
    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        let context = self.0.take().and_then(|handover| handover.take());
        drop_guarded(context, CODEC);
    }
}

/// Starts the thread.
///
/// # Errors
/// When the system gives none.
pub(crate) fn start(
    name: String,
    context: Handover,
    sender: mpsc::UnboundedSender<CodecInput>,
    inputs: mpsc::UnboundedReceiver<CodecInput>,
) -> io::Result<CodecLoop> {
    let thread = threads::start(name, move || run(context, inputs))?;
    // A thread that has ended needs no work.
    let send = Box::new(move |work| drop(sender.send(CodecInput::FromDriver(work))));
    Ok(CodecLoop { send, thread: Some(thread) })
}

async fn run(context: Handover, inputs: mpsc::UnboundedReceiver<CodecInput>) {
    // Nothing, where the connect was given up just now.
    let Some(context) = context.take() else { return };
    work(&context, inputs).await;
    drop_guarded(context, CODEC);
}

async fn work(context: &Context, mut inputs: mpsc::UnboundedReceiver<CodecInput>) {
    let mut sinks: BTreeMap<u64, Sink> = BTreeMap::new();
    let mut ticks = Ticks::new(context);
    while let Some(input) = ticks.next(&mut inputs).await {
        if matches!(input, CodecInput::FromDriver(CodecWork::End)) {
            return;
        }
        let tag = match &input {
            CodecInput::FromDriver(CodecWork::Broadcast { tag, .. }) => Some(*tag),
            _ => None,
        };
        // What is a user's may panic, as it is dropped too; that costs this broadcast, not those to come.
        let outcome = caught(|| handle(context, &mut sinks, input)).unwrap_or_else(|panic| {
            count(&context.port.counters.broadcasts_unreadable);
            crate::log::error!(panic, "a broadcast could not be handed out");
            BroadcastOutcome::Unreadable
        });
        if let Some(tag) = tag {
            context.port.notify(Command::BroadcastDone { tag, outcome });
        }
    }
}

/// What is read off every so often, in between.
#[cfg(not(test))]
struct Ticks {
    homes: tokio::time::Interval,
    port: Arc<Port>,
    #[cfg(feature = "metrics")]
    figures: (tokio::time::Interval, crate::observe::meter::Sampler),
}

#[cfg(not(test))]
impl Ticks {
    fn new(context: &Context) -> Self {
        use tokio::time::{MissedTickBehavior, interval};
        let mut homes = interval(LOOK_AT_HOMES);
        // Guards: looks that follow each other at once, after the program was stopped.
        homes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ticks {
            homes,
            port: Arc::clone(&context.port),
            #[cfg(feature = "metrics")]
            figures: (interval(std::time::Duration::from_secs(1)), crate::observe::meter::Sampler::new(&context.port)),
        }
    }

    async fn next(&mut self, inputs: &mut mpsc::UnboundedReceiver<CodecInput>) -> Option<CodecInput> {
        loop {
            #[cfg(feature = "metrics")]
            let figures = self.figures.0.tick();
            #[cfg(not(feature = "metrics"))]
            let figures = std::future::pending::<()>();
            tokio::select! {
                biased;
                // What a program has given its runtime may go here, and panic as it does.
                _ = self.homes.tick() => drop(caught(|| self.port.look_at_homes())),
                _ = figures => {
                    #[cfg(feature = "metrics")]
                    self.figures.1.take();
                }
                input = inputs.recv() => return input,
            }
        }
    }
}

/// The clock of the simulation is left alone.
#[cfg(test)]
struct Ticks;

#[cfg(test)]
impl Ticks {
    fn new(_: &Context) -> Self {
        Ticks
    }

    async fn next(&mut self, inputs: &mut mpsc::UnboundedReceiver<CodecInput>) -> Option<CodecInput> {
        inputs.recv().await
    }
}

fn handle(context: &Context, sinks: &mut BTreeMap<u64, Sink>, input: CodecInput) -> BroadcastOutcome {
    match input {
        CodecInput::Add { number, identifier, filter, mailbox } => {
            drop(sinks.insert(number, Sink { identifier, filter, mailbox }));
        }
        CodecInput::Remove { number } => drop(sinks.remove(&number)),
        CodecInput::FromDriver(CodecWork::Broadcast { body, trace, .. }) => return spread(context, sinks, body, trace),
        CodecInput::FromDriver(CodecWork::Refuse(delivery)) => rpc::refuse(context, &delivery),
        CodecInput::FromDriver(CodecWork::End) => {}
    }
    BroadcastOutcome::HandedOut
}

fn spread(
    context: &Context,
    sinks: &BTreeMap<u64, Sink>,
    body: Body,
    trace: Option<Box<TraceHeaders>>,
) -> BroadcastOutcome {
    if context.codec_place == CodecPlace::HomesOnly {
        for sink in sinks.values() {
            sink.put(context, Delivered::Unread(body.clone(), trace.clone()));
        }
        return BroadcastOutcome::HandedOut;
    }
    match read(context, body, trace) {
        Ok(Some(broadcast)) => {
            for sink in sinks.values() {
                if sink.filter.passes(broadcast.subject_value(), broadcast.sender()) {
                    sink.put(context, Delivered::Read(broadcast.clone()));
                }
            }
        }
        Ok(None) => {}
        Err(_) => return BroadcastOutcome::Unreadable,
    }
    BroadcastOutcome::HandedOut
}

/// Reads a broadcast. `None` for one of the wrong shape, which is dropped as one that cannot be read is: counted and logged.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read(context: &Context, body: Body, trace: Option<Box<TraceHeaders>>) -> Result<Option<Broadcast>> {
    let bytes = body.encoded_size();
    let value = context.decode(body).inspect_err(|error| {
        count(&context.port.counters.broadcasts_unreadable);
        crate::log::warn!(%error, "a broadcast that cannot be read was dropped");
    })?;
    let weight = value.weight();
    match Content::decode(value) {
        Ok(content) => Ok(Some(Broadcast::new(content, bytes, weight, trace))),
        Err(error) => {
            count(&context.port.counters.broadcasts_unreadable);
            crate::log::warn!(%error, "a broadcast of the wrong shape was dropped");
            Ok(None)
        }
    }
}
