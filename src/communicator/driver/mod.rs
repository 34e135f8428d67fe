//! The communicator thread: it alone owns the broker connection.
//!
//! It takes commands and the broker's events in turn and never waits in between; what takes several questions to the
//! broker is a task of its own on this thread. It runs no user code: it sees identifiers, bytes and completers.

mod callers;
mod publish;
mod requests;
mod subscribe;
mod tasks;
mod topology;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use uuid::Uuid;

pub(super) use callers::Watch;

use super::broadcast::{CodecWork, codec_thread};
use super::builder::Builder;
use super::command::{CloseReport, Command, Left};
use super::events::Event;
use super::names::Identifier;
use super::shared::{Shared, Transfer, count, home_ended};
use crate::broker::memory::Memory;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::url::BrokerUrl;
use crate::broker::{Broker, BrokerEvent, ConnectOptions, Delivery, EventSender, Lane, Nack};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, Home, HomeFuture};

/// The lane of calls, broadcasts and replies. Task queues have lanes of their own, for their acknowledgements take long.
const SERVICE_LANE: Lane = Lane(0);

/// What a consumer's deliveries are.
enum Consumer {
    Reply,
    Rpc(Identifier),
    Broadcast,
    Task(Arc<str>),
    /// For whoever waits for one task.
    Pull(oneshot::Sender<Delivery>),
}

struct Driver<B> {
    broker: B,
    /// Into the broker's own events, for [`BrokerEvent::SeenTo`].
    events: EventSender,
    shared: Arc<Shared>,
    codec: crossbeam_channel::Sender<CodecWork>,
    topology: topology::Topology,
    turns: publish::Turns,
    requests: RefCell<requests::Requests>,
    consumers: RefCell<HashMap<String, Consumer>>,
    rpc: RefCell<HashMap<Identifier, subscribe::Rpc>>,
    callers: RefCell<callers::Callers>,
    broadcasts: RefCell<subscribe::Broadcasts>,
    tasks: RefCell<tasks::Tasks>,
    next_lane: Cell<u32>,
    /// How many publishes are under way.
    publishing: Cell<usize>,
    idle: tokio::sync::Notify,
}

/// A communicator whose thread has started and is connecting.
pub(super) struct Connecting {
    pub(super) shared: Arc<Shared>,
    connected: HomeFuture<Result<()>>,
}

impl Connecting {
    /// Waits for the connection. Whoever gives up in between sends a close, which is done once the connection stands.
    pub(super) async fn finish(self) -> Result<()> {
        let outcome = self.connected.await.map_err(|end| self.shared.ended(end, "connecting"))?;
        if outcome.is_err() {
            join(&self.shared);
        }
        outcome
    }
}

/// Starts the thread of a communicator, which connects.
pub(super) async fn start(builder: Builder, url: BrokerUrl) -> Result<Connecting> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(
        commands,
        builder.publishes_under_way,
        builder.codec,
        if url.is_memory() { Transfer::Passed } else { Transfer::Encoded },
        builder.names,
        builder.task_prefetch,
        (builder.call_timeout, builder.task_timeout),
        url.to_string(),
    ));
    let (completer, connected) = Home::current().future::<Result<()>>().await.map_err(|_| home_ended("connecting"))?;
    let main = Main {
        shared: Arc::clone(&shared),
        url,
        connect: builder.connect,
        close_timeout: builder.close_timeout,
        thread_name: builder.thread_name,
    };
    let name = format!("{}-communicator", main.thread_name);
    let thread = thread::Builder::new().name(name).spawn(move || main.run(completer, inbox));
    shared.threads.lock().push(thread.map_err(|error| no_thread(&error))?);
    Ok(Connecting { shared, connected })
}

fn no_thread(error: &io::Error) -> Error {
    Error::new(ErrorKind::Connection, format!("the system gave no thread for the communicator: {error}"))
}

/// Closes, or waits for a close that is under way.
pub(super) async fn close(shared: &Arc<Shared>) -> Result<CloseReport> {
    let (done, future) = Home::current().future().await.map_err(|_| home_ended("closing"))?;
    shared.tell(Command::Close { done: Some(done) });
    let told = future.await;
    // Where the thread had ended before it saw this close, it has left its report.
    let report = match (told, shared.report.get()) {
        (Ok(report), _) => report,
        (Err(_), Some(report)) => report.clone(),
        (Err(end), None) => return Err(shared.ended(end, "closing")),
    };
    join(shared);
    Ok(report)
}

/// Joins the threads, which have nothing left to do but return; except where the caller is one of them.
fn join(shared: &Shared) {
    // Held meanwhile, so that whoever closes at the same time returns only when the threads have ended, too.
    let mut threads = shared.threads.lock();
    for thread in threads.drain(..) {
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("a thread of the communicator panicked");
        }
    }
}

/// What the communicator thread starts with.
struct Main {
    shared: Arc<Shared>,
    url: BrokerUrl,
    connect: ConnectOptions,
    close_timeout: Duration,
    thread_name: String,
}

impl Main {
    fn run(self, connected: Completer<Result<()>>, commands: mpsc::UnboundedReceiver<Command>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let error = Error::with_source(ErrorKind::Connection, format!("no tokio runtime: {error}"), error);
                drop(connected.complete(Err(error)));
                return;
            }
        };
        let local = LocalSet::new();
        match &self.url {
            BrokerUrl::Memory { .. } => local.block_on(&runtime, self.main::<Memory>(connected, commands)),
            #[cfg(feature = "rabbitmq")]
            BrokerUrl::Amqp(_) => local.block_on(&runtime, self.main::<RabbitMq>(connected, commands)),
            #[cfg(not(feature = "rabbitmq"))]
            BrokerUrl::Amqp(_) => {
                drop(connected.complete(Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "this program was built without the feature `rabbitmq`: only `memory:` can be connected to",
                ))));
            }
        }
        drop(local);
        // A name look-up that hangs has a thread of this runtime; it is not waited for.
        runtime.shutdown_background();
    }

    async fn main<B: Broker>(self, connected: Completer<Result<()>>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let (say, mut events) = mpsc::unbounded_channel();
        let broker = match B::connect(&self.url, &self.connect, say.clone()).await {
            Ok(broker) => broker,
            Err(error) => return drop(connected.complete(Err(error))),
        };
        tracing::info!(broker = self.shared.broker, "connected");
        let _ = self.shared.server_properties.set(broker.server_properties());
        let (codec, work) = crossbeam_channel::unbounded();
        let shared = Arc::clone(&self.shared);
        let codec_loop = thread::Builder::new()
            .name(format!("{}-codec", self.thread_name))
            .spawn(move || codec_thread(&shared, &work));
        let codec_loop = match codec_loop {
            Ok(thread) => thread,
            Err(error) => {
                let _ = broker.close(self.close_timeout).await;
                return drop(connected.complete(Err(no_thread(&error))));
            }
        };
        // Whoever gave up waiting for this has sent a close, which is the first command below.
        drop(connected.complete(Ok(())));
        let driver = Rc::new(Driver {
            broker,
            events: say,
            shared: self.shared,
            codec,
            topology: topology::Topology::default(),
            turns: publish::Turns::default(),
            requests: RefCell::default(),
            consumers: RefCell::default(),
            rpc: RefCell::default(),
            callers: RefCell::default(),
            broadcasts: RefCell::default(),
            tasks: RefCell::default(),
            next_lane: Cell::new(SERVICE_LANE.0 + 1),
            publishing: Cell::new(0),
            idle: tokio::sync::Notify::new(),
        });
        let end = driver.run(&mut commands, &mut events).await;
        driver.end(end, commands, &mut events, self.close_timeout, codec_loop).await;
    }
}

/// Why the main loop ended.
enum End {
    Closed(Option<Completer<CloseReport>>),
    Lost(Error),
}

impl<B: Broker> Driver<B> {
    async fn run(
        self: &Rc<Self>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        events: &mut mpsc::UnboundedReceiver<BrokerEvent>,
    ) -> End {
        loop {
            let deadline = self.requests.borrow().next_deadline();
            tokio::select! {
                Some(event) = events.recv() => {
                    if let ControlFlow::Break(error) = self.on_event(event) {
                        return End::Lost(error);
                    }
                }
                command = commands.recv() => match command {
                    Some(command) => {
                        if let ControlFlow::Break(done) = self.on_command(command) {
                            return End::Closed(done);
                        }
                    }
                    None => return End::Closed(None),
                },
                () = sleep_until(deadline), if deadline.is_some() => {
                    let given_up = self.requests.borrow_mut().expire(Instant::now());
                    self.say_callers_gone(given_up);
                }
            }
        }
    }

    fn on_event(self: &Rc<Self>, event: BrokerEvent) -> ControlFlow<Error> {
        match event {
            BrokerEvent::Delivery { consumer, delivery } => self.on_delivery(&consumer, delivery),
            BrokerEvent::ConsumerCancelled { consumer } => {
                if let Some(error) = self.consumer_cancelled(&consumer) {
                    return ControlFlow::Break(error);
                }
            }
            // Until lanes are opened again and their consumers with them, a communicator without one would be half alive.
            BrokerEvent::LaneClosed { lane, consumers, error } => {
                tracing::warn!(?lane, ?consumers, %error, "the broker closed a channel");
                let text = format!("the broker closed a channel of this communicator: {error}");
                return ControlFlow::Break(Error::with_source(ErrorKind::ConnectionLost, text, error));
            }
            BrokerEvent::Blocked { reason } => {
                tracing::warn!(reason, "the broker reads no messages for now");
                self.say(Event::Blocked { reason });
            }
            BrokerEvent::Unblocked => {
                tracing::info!("the broker reads messages again");
                self.say(Event::Unblocked);
            }
            // Whoever waited for it may have been given up.
            BrokerEvent::SeenTo(done) => drop(done.send(())),
            BrokerEvent::Lost { error } => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }

    /// Ends a consumer, and waits until what came through it has found its way.
    ///
    /// Guards: a delivery that lies in the broker's events while its consumer is forgotten.
    async fn end_consumer(&self, tag: &str) -> Result<()> {
        let cancelled = self.broker.cancel(tag).await;
        let (done, seen_to) = oneshot::channel();
        if self.events.send(BrokerEvent::SeenTo(done)).is_ok() {
            // Where the main loop has ended, nothing finds its way any more.
            let _ = seen_to.await;
        }
        self.consumers.borrow_mut().remove(tag);
        cancelled
    }

    fn on_delivery(self: &Rc<Self>, tag: &str, delivery: Delivery) {
        let mut consumers = self.consumers.borrow_mut();
        match consumers.get(tag) {
            Some(Consumer::Reply) => {
                drop(consumers);
                self.on_reply(delivery);
            }
            Some(Consumer::Rpc(identifier)) => {
                let identifier = identifier.clone();
                drop(consumers);
                self.deliver_rpc(&identifier, delivery);
            }
            Some(Consumer::Broadcast) => {
                drop(consumers);
                self.deliver_broadcast(delivery);
            }
            Some(Consumer::Task(queue)) => {
                let queue = queue.clone();
                drop(consumers);
                self.deliver_task(&queue, delivery);
            }
            Some(Consumer::Pull(_)) => {
                if let Some(Consumer::Pull(waiting)) = consumers.remove(tag) {
                    drop(consumers);
                    if let Err(delivery) = waiting.send(delivery) {
                        self.give_back(&delivery);
                    }
                }
            }
            None => {
                drop(consumers);
                self.give_back(&delivery);
            }
        }
    }

    fn on_reply(&self, delivery: Delivery) {
        let correlation = delivery.properties.correlation_id.as_deref().and_then(|id| Uuid::try_parse(id).ok());
        let wanted = correlation.is_some_and(|id| self.requests.borrow_mut().reply(id, delivery.body));
        if !wanted {
            count(&self.shared.counters.late_replies);
            tracing::debug!(?correlation, "a reply was dropped: nobody waits for it");
        }
    }

    fn on_command(self: &Rc<Self>, command: Command) -> ControlFlow<Option<Completer<CloseReport>>> {
        match command {
            Command::Rpc { recipient, body, expected, published, slot } => {
                self.send_call(recipient, body, expected, published, slot);
            }
            Command::Task { queue, body, expected, published, slot } => {
                self.send_task(queue, body, expected, published, slot);
            }
            Command::Broadcast { body, published, slot } => self.send_broadcast(body, published, slot),
            Command::NextReply { correlation, reply } => self.requests.borrow_mut().next(correlation, reply),
            Command::Forget { correlation, left } => {
                let Some(request) = self.requests.borrow_mut().done(correlation) else {
                    return ControlFlow::Continue(());
                };
                (0..request.unread).for_each(|_| count(&self.shared.counters.late_replies));
                if left == Left::GivenUp {
                    self.say_callers_gone(request.recipient.map(|recipient| (recipient, correlation)));
                }
            }
            Command::WatchCaller { correlation, watch } => self.callers.borrow_mut().watch(correlation, watch),
            Command::AddRpc { identifier, sink, done } => {
                self.answer(done, move |driver| async move { driver.add_rpc(identifier, sink).await });
            }
            Command::RemoveRpc { identifier, done } => {
                self.answer(done, move |driver| async move { driver.remove_rpc(&identifier).await });
            }
            Command::AddTask { queue, prefetch, identifier, sink, done } => {
                self.answer(
                    done,
                    move |driver| async move { driver.add_task(queue, prefetch, identifier, sink).await },
                );
            }
            Command::RemoveTask { queue, identifier, done } => {
                self.answer(done, move |driver| async move { driver.remove_task(&queue, &identifier).await });
            }
            Command::AddBroadcast { identifier, sink, done } => {
                self.answer(done, move |driver| async move { driver.add_broadcast(identifier, sink).await });
            }
            Command::RemoveBroadcast { identifier, done } => {
                self.answer(done, move |driver| async move { driver.remove_broadcast(&identifier).await });
            }
            Command::Sweep => self.sweep(),
            Command::TakeTask { queue, done } => {
                self.answer(done, move |driver| async move { driver.take_task(&queue).await });
            }
            Command::AwaitTask { queue, patience, done } => {
                self.answer(done, move |driver| async move { driver.await_task(&queue, patience).await });
            }
            Command::Ack { receipt } => self.broker.ack(receipt),
            Command::Discard { receipt } => self.broker.nack(receipt, Nack::Discard),
            Command::Reply(reply) => self.send_reply(reply),
            Command::Settle { queue, receipt, settlement } => self.settle(queue, receipt, settlement),
            Command::Close { done } => return ControlFlow::Break(done),
        }
        ControlFlow::Continue(())
    }

    /// Runs a task on this thread.
    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, task: impl FnOnce(Rc<Self>) -> F) {
        drop(tokio::task::spawn_local(task(Rc::clone(self))));
    }

    /// The same for a publish: closing waits for it. What it holds until its end goes with it.
    fn spawn_publish<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        held: impl Sized + 'static,
        task: impl FnOnce(Rc<Self>) -> F,
    ) {
        self.publishing.set(self.publishing.get() + 1);
        let publish = task(Rc::clone(self));
        self.spawn(|driver| async move {
            publish.await;
            drop(held);
            driver.publishing.set(driver.publishing.get() - 1);
            if driver.publishing.get() == 0 {
                driver.idle.notify_waiters();
            }
        });
    }

    fn answer<T: Send + 'static, F: Future<Output = Result<T>> + 'static>(
        self: &Rc<Self>,
        done: Completer<Result<T>>,
        task: impl FnOnce(Rc<Self>) -> F,
    ) {
        let task = task(Rc::clone(self));
        // An answer for a home that has ended is dropped: it holds nothing of the user's, and a task in it goes back.
        self.spawn(|_| async move { drop(done.complete(task.await)) });
    }

    fn say_callers_gone(self: &Rc<Self>, calls: impl IntoIterator<Item = (Identifier, Uuid)>) {
        for (recipient, correlation) in calls {
            self.say_caller_gone(&recipient, correlation);
        }
    }

    fn say(&self, event: Event) {
        // Nobody may be listening.
        let _ = self.shared.events.send(event);
    }

    /// The end, in order: new work is refused, what was asked before is done, everybody who still waits is told, the
    /// connection ends, and last the report stands.
    async fn end(
        self: Rc<Self>,
        end: End,
        mut commands: mpsc::UnboundedReceiver<Command>,
        events: &mut mpsc::UnboundedReceiver<BrokerEvent>,
        limit: Duration,
        codec_loop: thread::JoinHandle<()>,
    ) {
        let started = Instant::now();
        let mut closers = Vec::new();
        let lost = match end {
            End::Closed(done) => {
                closers.extend(done);
                self.shared.refuse_new_work();
                self.finish_what_is_under_way(&mut commands, events, &mut closers, started + limit / 2).await
            }
            End::Lost(error) => Some(error),
        };
        if let Some(error) = &lost {
            tracing::warn!(%error, "the connection is lost");
            let _ = self.shared.lost.set(error.clone());
            self.say(Event::Lost(error.clone()));
            self.shared.refuse_new_work();
        }
        let (requests_ended, calls) = self.requests.borrow_mut().fail_all(&self.shared.gone());
        if lost.is_none() && !calls.is_empty() {
            // Their subscribers may be at work for nobody. That they hear of it is worth no more than a part of the time.
            self.say_callers_gone(calls);
            let until = started + limit * 3 / 4;
            let _ = self.finish_what_is_under_way(&mut commands, events, &mut closers, until).await;
        }
        let mut report = CloseReport {
            requests_ended,
            publishes_unconfirmed: self.publishing.get(),
            tasks_returned: self.tasks.borrow().in_hand(),
            error: lost,
        };
        if let Err(error) = self.broker.close(limit.saturating_sub(started.elapsed()).max(limit / 4)).await {
            report.error.get_or_insert(error);
        }
        self.end_codec(codec_loop, &mut report, started + limit).await;
        tracing::info!(?report, took = ?started.elapsed(), "closed");
        self.say(Event::Closed);
        let _ = self.shared.report.set(report.clone());
        // Guards: a close that comes now. The report stands before the channel closes, so that its caller finds either us
        // here or the report there. What else is left holds completers, which end their futures as they are dropped.
        commands.close();
        while let Some(command) = commands.recv().await {
            if let Command::Close { done } = command {
                closers.extend(done);
            }
        }
        for closer in closers {
            drop(closer.complete(report.clone()));
        }
    }

    /// Goes on until nothing is being published, or the time is up. A loss in between is returned.
    async fn finish_what_is_under_way(
        self: &Rc<Self>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        events: &mut mpsc::UnboundedReceiver<BrokerEvent>,
        closers: &mut Vec<Completer<CloseReport>>,
        until: Instant,
    ) -> Option<Error> {
        loop {
            while let Ok(command) = commands.try_recv() {
                if let ControlFlow::Break(done) = self.on_command(command) {
                    closers.extend(done);
                }
            }
            if self.publishing.get() == 0 {
                return None;
            }
            tokio::select! {
                () = self.idle.notified() => {}
                Some(event) = events.recv() => {
                    if let ControlFlow::Break(error) = self.on_event(event) {
                        return Some(error);
                    }
                }
                Some(command) = commands.recv() => {
                    if let ControlFlow::Break(done) = self.on_command(command) {
                        closers.extend(done);
                    }
                }
                () = sleep_until(Some(until)) => return None,
            }
        }
    }

    /// Ends the codec thread. It may be in a user's decoder, which cannot be stopped; then the report says so.
    async fn end_codec(&self, thread: thread::JoinHandle<()>, report: &mut CloseReport, until: Instant) {
        let _ = self.codec.send(CodecWork::End);
        while !thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        if thread.is_finished() {
            if thread.join().is_err() {
                tracing::error!("the codec thread panicked");
            }
        } else {
            report.error.get_or_insert_with(|| {
                Error::new(ErrorKind::TimedOut, "the codec thread is still in a decoder and was left behind")
            });
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
