//! The communicator thread: it alone owns the broker connection.
//!
//! It takes commands and the broker's events in turn and never waits in between; what takes several questions to the
//! broker is a task of its own on this thread. It runs no user code: it sees identifiers, bytes and completers.

mod answers;
mod bindings;
mod callers;
mod ending;
mod lease;
mod link;
mod outcomes;
mod publish;
mod requests;
mod subscribe;
mod supervise;
mod tasks;
mod topology;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use uuid::Uuid;

use link::Link;
pub(crate) use link::Ticket;

use super::broadcast::{CodecWork, codec_thread};
use super::builder::{Builder, Limits, Reconnect};
use super::command::{CloseReport, Command, Left, ReplyExchange};
use super::events::{ConnectionState, Event};
use super::names::Identifier;
use super::shared::{Shared, Transfer, count, home_ended};
use crate::broker::memory::Memory;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::url::BrokerUrl;
use crate::broker::{Broker, BrokerEvent, ConnectOptions, Delivery, Lane, Nack};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, Home, HomeFuture};

/// The lane of calls, broadcasts and replies. Task queues have lanes of their own, for their acknowledgements take long.
const SERVICE_LANE: Lane = Lane(0);

/// How many commands or events are taken before it is looked for the others, and for the tasks of this thread.
const AT_ONCE: usize = 64;

/// What a consumer's deliveries are.
enum Consumer {
    Reply(ReplyExchange),
    Rpc(Identifier),
    Broadcast,
    Control,
    Task(Arc<str>),
    /// For whoever waits for one task.
    Pull(oneshot::Sender<Delivery>),
}

struct Driver<B> {
    supply: supervise::Supply<B>,
    shared: Arc<Shared>,
    connect: ConnectOptions,
    limits: Limits,
    codec: crossbeam_channel::Sender<CodecWork>,
    turns: publish::Turns,
    requests: RefCell<requests::Requests>,
    rpc: RefCell<HashMap<Identifier, subscribe::Rpc>>,
    callers: RefCell<callers::Callers>,
    /// What was answered lately, by correlation id.
    answers: RefCell<outcomes::Outcomes>,
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
pub(super) async fn start(builder: Builder, urls: Vec<BrokerUrl>) -> Result<Connecting> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(
        commands,
        builder.limits,
        builder.codec,
        if urls.iter().any(BrokerUrl::is_memory) { Transfer::Passed } else { Transfer::Encoded },
        builder.names,
        builder.task_prefetch,
        (builder.call_timeout, builder.task_timeout),
        urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    ));
    let (completer, connected) = Home::current().future::<Result<()>>().await.map_err(|_| home_ended("connecting"))?;
    let main = Main {
        shared: Arc::clone(&shared),
        urls: urls.into(),
        connect: builder.connect,
        reconnect: builder.reconnect,
        limits: builder.limits,
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
    urls: Arc<[BrokerUrl]>,
    connect: ConnectOptions,
    reconnect: Reconnect,
    limits: Limits,
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
        match self.urls.first() {
            Some(BrokerUrl::Amqp(_)) => {
                #[cfg(feature = "rabbitmq")]
                local.block_on(&runtime, self.main::<RabbitMq>(connected, commands));
                #[cfg(not(feature = "rabbitmq"))]
                drop(connected.complete(Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "this program was built without the feature `rabbitmq`: only `memory:` can be connected to",
                ))));
            }
            _ => local.block_on(&runtime, self.main::<Memory>(connected, commands)),
        }
        drop(local);
        // A name look-up that hangs has a thread of this runtime; it is not waited for.
        runtime.shutdown_background();
    }

    async fn main<B: Broker>(self, connected: Completer<Result<()>>, commands: mpsc::UnboundedReceiver<Command>) {
        self.shared.state(ConnectionState::Connecting);
        // The first attempt is for the user to see: it fails at once, whatever is to be done about later losses.
        let made = match supervise::connect::<B>(&self.urls, &self.connect).await {
            Ok(made) => made,
            Err(error) => return drop(connected.complete(Err(error))),
        };
        let (codec, work) = crossbeam_channel::unbounded();
        let shared = Arc::clone(&self.shared);
        let codec_loop = thread::Builder::new()
            .name(format!("{}-codec", self.thread_name))
            .spawn(move || codec_thread(&shared, &work));
        let codec_loop = match codec_loop {
            Ok(thread) => thread,
            Err(error) => {
                made.close(self.close_timeout).await;
                return drop(connected.complete(Err(no_thread(&error))));
            }
        };
        let driver = Rc::new(Driver {
            supply: supervise::Supply::new(),
            shared: self.shared,
            connect: self.connect,
            limits: self.limits,
            codec,
            turns: publish::Turns::default(),
            requests: RefCell::default(),
            rpc: RefCell::default(),
            callers: RefCell::default(),
            answers: RefCell::default(),
            broadcasts: RefCell::default(),
            tasks: RefCell::default(),
            next_lane: Cell::new(SERVICE_LANE.0 + 1),
            publishing: Cell::new(0),
            idle: tokio::sync::Notify::new(),
        });
        let said = driver.up(made);
        // Whoever gave up waiting for this has sent a close, which is the first command below.
        drop(connected.complete(Ok(())));
        let mut inlets = Inlets { commands, said: Some(said), next: None, urls: self.urls, reconnect: self.reconnect };
        let end = driver.run(&mut inlets).await;
        driver.end(end, inlets, self.close_timeout, codec_loop).await;
    }
}

/// Why the main loop ended.
enum End {
    Closed(Option<Completer<CloseReport>>),
    Lost(Error),
}

/// What the main loop listens to.
struct Inlets<B> {
    commands: mpsc::UnboundedReceiver<Command>,
    /// The broker, while there is a connection.
    said: Option<supervise::Said>,
    /// The attempts to get one, while there is none. Dropped, they end.
    next: Option<LocalBoxFuture<'static, Result<supervise::Made<B>>>>,
    urls: Arc<[BrokerUrl]>,
    reconnect: Reconnect,
}

async fn next_of<T>(receiver: &mut Option<mpsc::UnboundedReceiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn made<B>(next: &mut Option<LocalBoxFuture<'static, Result<supervise::Made<B>>>>) -> Result<supervise::Made<B>> {
    match next {
        Some(next) => next.await,
        None => std::future::pending().await,
    }
}

impl<B: Broker> Driver<B> {
    async fn run(self: &Rc<Self>, inlets: &mut Inlets<B>) -> End {
        let mut alarm = pin!(Alarm::default());
        loop {
            alarm.as_mut().set(self.requests.borrow().next_deadline());
            tokio::select! {
                Some(event) = next_of(&mut inlets.said) => {
                    if let ControlFlow::Break(error) = self.on_events(event, &mut inlets.said)
                        && let ControlFlow::Break(error) = self.on_loss(inlets, error)
                    {
                        return End::Lost(error);
                    }
                }
                command = inlets.commands.recv() => {
                    let Some(command) = command else { return End::Closed(None) };
                    if let ControlFlow::Break(done) = self.on_commands(command, &mut inlets.commands) {
                        return End::Closed(done);
                    }
                }
                made = made(&mut inlets.next) => {
                    inlets.next = None;
                    match made {
                        Ok(made) => inlets.said = Some(self.up(made)),
                        Err(error) => return End::Lost(error),
                    }
                }
                () = alarm.as_mut().rings() => {
                    let given_up = self.requests.borrow_mut().expire(Instant::now());
                    self.say_callers_gone(given_up);
                }
            }
        }
    }

    /// An event, and those behind it that are there already.
    fn on_events(self: &Rc<Self>, first: BrokerEvent, said: &mut Option<supervise::Said>) -> ControlFlow<Error> {
        self.on_event(first)?;
        for _ in 1..AT_ONCE {
            match said.as_mut().map(mpsc::UnboundedReceiver::try_recv) {
                Some(Ok(event)) => self.on_event(event)?,
                _ => break,
            }
        }
        ControlFlow::Continue(())
    }

    fn on_commands(
        self: &Rc<Self>,
        first: Command,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> ControlFlow<Option<Completer<CloseReport>>> {
        self.on_command(first)?;
        for _ in 1..AT_ONCE {
            match commands.try_recv() {
                Ok(command) => self.on_command(command)?,
                Err(_) => break,
            }
        }
        ControlFlow::Continue(())
    }

    /// Begins to connect again, where the user wants that.
    fn on_loss(self: &Rc<Self>, inlets: &mut Inlets<B>, error: Error) -> ControlFlow<Error> {
        self.down(&error);
        inlets.said = None;
        if inlets.reconnect == Reconnect::Never {
            return ControlFlow::Break(error);
        }
        let (shared, urls) = (Arc::clone(&self.shared), Arc::clone(&inlets.urls));
        inlets.next =
            Some(supervise::reconnect(shared, urls, self.connect.clone(), inlets.reconnect, error).boxed_local());
        ControlFlow::Continue(())
    }

    fn on_event(self: &Rc<Self>, event: BrokerEvent) -> ControlFlow<Error> {
        let Some(link) = self.supply.now() else { return ControlFlow::Continue(()) };
        match event {
            BrokerEvent::Published { id, outcome } => link.published(id, outcome),
            BrokerEvent::Delivery { consumer, delivery } => self.on_delivery(&link, &consumer, delivery),
            BrokerEvent::ConsumerCancelled { consumer } => self.consumer_cancelled(&link, &consumer),
            BrokerEvent::LaneClosed { lane, opening, consumers, error } => {
                self.lane_closed(&link, (lane, opening), consumers, error);
            }
            BrokerEvent::Blocked { reason } => {
                tracing::warn!(reason, "the broker reads no messages for now");
                self.shared.state(ConnectionState::Blocked);
                self.say(Event::Blocked { reason });
            }
            BrokerEvent::Unblocked => {
                tracing::info!("the broker reads messages again");
                self.shared.state(ConnectionState::Connected);
                self.say(Event::Unblocked);
            }
            // Whoever waited for it may have been given up.
            BrokerEvent::SeenTo(done) => drop(done.send(())),
            BrokerEvent::Lost { error } => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }

    fn on_delivery(self: &Rc<Self>, link: &Rc<Link<B>>, tag: &str, delivery: Delivery) {
        let mut consumers = link.consumers.borrow_mut();
        match consumers.get(tag) {
            Some(Consumer::Reply(_)) => {
                drop(consumers);
                self.on_reply(delivery);
            }
            Some(Consumer::Rpc(identifier)) => {
                let identifier = identifier.clone();
                drop(consumers);
                self.deliver_rpc(link, &identifier, delivery);
            }
            Some(Consumer::Control) => {
                drop(consumers);
                self.on_control(&delivery);
            }
            Some(Consumer::Broadcast) => {
                drop(consumers);
                self.deliver_broadcast(link, delivery);
            }
            Some(Consumer::Task(queue)) => {
                let queue = queue.clone();
                drop(consumers);
                self.deliver_task(link, &queue, delivery);
            }
            Some(Consumer::Pull(_)) => {
                if let Some(Consumer::Pull(waiting)) = consumers.remove(tag) {
                    drop(consumers);
                    if let Err(delivery) = waiting.send(delivery) {
                        link.give_back(delivery.receipt);
                    }
                }
            }
            None => {
                drop(consumers);
                link.give_back(delivery.receipt);
            }
        }
    }

    fn on_reply(&self, delivery: Delivery) {
        let Delivery { properties, body, .. } = delivery;
        let correlation = properties.correlation_id.as_deref().and_then(|id| Uuid::try_parse(id).ok());
        let wanted = correlation.is_some_and(|id| self.requests.borrow_mut().reply(id, body));
        if !wanted && !bindings::is_probe(&properties) {
            count(&self.shared.counters.late_replies);
            tracing::debug!(?correlation, "a reply was dropped: nobody waits for it");
        }
    }

    fn on_command(self: &Rc<Self>, command: Command) -> ControlFlow<Option<Completer<CloseReport>>> {
        match command {
            Command::Rpc { recipient, body, expected, published, repeat, slot } => {
                self.send_call(recipient, body, expected, published, repeat, slot);
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
            Command::Ack { ticket } => self.ack(ticket),
            Command::Discard { ticket } => self.nack(ticket, Nack::Discard),
            Command::Reply(reply) => self.send_reply(reply),
            Command::Settle { task, settlement } => self.settle(task, settlement),
            Command::WatchTask { task, watch } => self.watch_task(task, watch),
            Command::Alarm { after, done } => self.spawn(move |_| async move {
                tokio::time::sleep(after).await;
                drop(done.complete(()));
            }),
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
        let driver = Rc::clone(self);
        let publish = task(Rc::clone(self)).map(move |()| {
            drop(held);
            driver.publishing.set(driver.publishing.get() - 1);
            if driver.publishing.get() == 0 {
                driver.idle.notify_waiters();
            }
        });
        // Mostly this poll is all. Unconstrained, since one that tokio's budget made wait would be overtaken by the next.
        let mut publish = Box::pin(publish);
        let mut begun = tokio::task::unconstrained(publish.as_mut());
        if Pin::new(&mut begun).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            drop(tokio::task::spawn_local(publish));
        }
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

    /// Guards: an acknowledgement that would name another message on a newer connection.
    fn ack(&self, ticket: Ticket) {
        match self.supply.now() {
            Some(link) if link.generation == ticket.generation => link.broker.ack(ticket.receipt),
            _ => tracing::trace!(?ticket, "an acknowledgement for a lost connection was dropped"),
        }
    }

    fn nack(&self, ticket: Ticket, then: Nack) {
        match self.supply.now() {
            Some(link) if link.generation == ticket.generation => link.broker.nack(ticket.receipt, then),
            _ => tracing::trace!(?ticket, "a refusal for a lost connection was dropped"),
        }
    }

    fn say(&self, event: Event) {
        // Nobody may be listening.
        let _ = self.shared.events.send(event);
    }
}

/// A timer that is set anew only when it has to ring earlier than it would: deadlines mostly go away unrung.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    wanted: bool,
}

impl Alarm {
    fn set(mut self: Pin<&mut Self>, at: Option<Instant>) {
        self.wanted = at.is_some();
        let Some(at) = at.map(tokio::time::Instant::from_std) else { return };
        match &mut self.sleep {
            Some(sleep) if sleep.deadline() <= at => {}
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// It may ring too early: whoever is woken looks at the clock.
    async fn rings(mut self: Pin<&mut Self>) {
        let wanted = self.wanted;
        match &mut self.sleep {
            Some(sleep) if wanted => sleep.as_mut().await,
            _ => std::future::pending().await,
        }
        self.sleep = None;
    }
}
