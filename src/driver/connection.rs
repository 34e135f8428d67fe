//! One connection to the broker, and what was declared on it: all of that goes when it goes.
//!
//! Connections are numbered. What came by one may be settled by that one only: an acknowledgement of an older generation
//! would name another message on a newer channel.
//!
//! What takes several questions to the broker is a job: a future that holds the connection and plain data, and whose
//! outcome comes back to the driver. A job changes no state of the driver.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::command::QueueName;
use super::gate::{Gate, SIDE_BY_SIDE};
use super::once::Once;
use super::outbox::{TakenKey, Wanted};
use super::port::Port;
use super::tasks::Generation;
use crate::broker::{Broker, BrokerEvent, ConsumeSpec, Delivery, EventSender, Lane, Nack, QueueSpec, Receipt};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Progress;
use crate::wire::names::{Exchange, TestingMode};

/// The lane of broadcasts, replies and what is looked for once.
pub(super) const SERVICE_LANE: Lane = Lane(0);

/// The lane by which keys are freed. No consumer has it.
// Guards: a subscriber that shares its channel with a question which the broker may close it for.
pub(super) const KEYS_LANE: Lane = Lane(u32::MAX);

/// How long after a loss a recipient that is not to be found may be connecting again, as we just have.
const SETTLING: Duration = Duration::from_secs(3);

/// How often a binding is tried whose queue or exchange goes in between.
const BIND_TRIES: usize = 4;

/// How often the end of a consumer is tried before the connection is given up.
const END_TRIES: u32 = 3;
const END_PAUSE: Duration = Duration::from_millis(100);

/// How many keys of tasks are asked for at once, behind which other questions may stand: enough that the broker always has the next
/// one, and few enough that it has more time for the tasks whose keys are taken.
const KEYS_SIDE_BY_SIDE: usize = 4;

/// How many task queues are remembered as declared.
const DECLARED_MOST: usize = 4096;

pub(super) struct Connection<B> {
    pub(super) generation: Generation,
    pub(super) broker: B,
    port: Arc<Port>,
    since: Instant,
    /// Into the broker's own events.
    events: EventSender,
    lost: Cell<bool>,
    message_exchange: Once,
    task_exchange: Once,
    task_queues: RefCell<BTreeMap<QueueName, Rc<Once>>>,
    /// When the broker has last answered a look into a queue, and when another question. A look has a channel of its own, and says
    /// nothing of how declarations go.
    looked: Progress,
    answered: Rc<Progress>,
    /// For task queues that are declared, for keys of tasks, and for consumers that are set up.
    declaring: Gate,
    keys: Gate,
    setting_up: Gate,
    /// Whose turn it is to free a key.
    freeing: Mutex<()>,
}

/// A consumer that is to be set up: its queue, the consumer, the bindings.
#[derive(Clone, Debug)]
pub(super) struct ConsumerPlan {
    pub(super) queue: PlannedQueue,
    pub(super) consume: ConsumeSpec,
    pub(super) bindings: Vec<Binding>,
}

#[derive(Clone, Debug)]
pub(super) enum PlannedQueue {
    /// For this consumer alone: it is deleted where the set-up fails.
    Own(QueueSpec),
    /// A task queue, which stays.
    Tasks(QueueName, Sureness),
}

/// How sure it has to be that a task queue stands before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sureness {
    /// It was declared by this connection at some time. Somebody may have deleted it since.
    Declared,
    /// It is declared right before.
    DeclaredNow,
}

#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) exchange: Exchange,
    pub(super) key: String,
    pub(super) need: Need,
}

/// Whether a subscription fails where its binding does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    /// An extension of ours, of which a broker's permissions may know nothing.
    Extension,
}

/// When the broker has last answered, if it has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    /// A question of those that a set-up waits behind.
    pub(super) set_up: Option<Instant>,
    pub(super) any: Option<Instant>,
}

impl Answers {
    pub(super) fn later(self, other: Answers) -> Answers {
        Answers { set_up: self.set_up.max(other.set_up), any: self.any.max(other.any) }
    }
}

/// Notes that the broker has answered, whatever it says.
async fn noting<T>(answered: &Progress, question: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = question.await;
    let is_answered = outcome.as_ref().err().is_none_or(|error| {
        !matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionLost | ErrorKind::CommunicatorClosed)
    });
    if is_answered {
        answered.note();
    }
    outcome
}

/// How questions about leases are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Many at once.
    Beside,
    /// One after the other, with all others.
    InTurn,
}

/// Whether something was asked of the broker.
#[derive(Default)]
struct Begun(Cell<bool>);

/// Why a consumer was not set up.
#[derive(Debug)]
pub(super) struct NotSetUp {
    pub(super) error: Error,
    pub(super) queue: OwnQueue,
}

/// What a failed set-up leaves of a queue of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnQueue {
    Missing,
    MayStand,
}

/// How a consumer is ended.
#[derive(Clone, Debug)]
pub(super) struct EndPlan {
    pub(super) tag: String,
    /// The queue, where it goes with its consumer.
    pub(super) own_queue: Option<String>,
    /// Taken away first, so that nothing comes into a queue that nobody reads any more.
    pub(super) bindings: Vec<Binding>,
    /// Where what is left in the queue is handed to the consumer before the end, to be refused by name.
    pub(super) drain: Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    Yes,
    No,
}

/// True when the connection went, rather than what was asked was wrong.
pub(super) fn is_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::ConnectionLost
}

impl<B: Broker> Connection<B> {
    pub(super) fn new(generation: Generation, broker: B, events: EventSender, port: Arc<Port>) -> Rc<Self> {
        let (limit, answered) = (port.operation_timeout, Rc::<Progress>::default());
        Rc::new(Connection {
            generation,
            broker,
            port,
            since: Instant::now(),
            events,
            lost: Cell::new(false),
            message_exchange: Once::default(),
            task_exchange: Once::default(),
            task_queues: RefCell::default(),
            looked: Progress::default(),
            declaring: Gate::new(SIDE_BY_SIDE, limit, Rc::clone(&answered)),
            keys: Gate::new(KEYS_SIDE_BY_SIDE, limit, Rc::clone(&answered)),
            setting_up: Gate::new(SIDE_BY_SIDE, limit, Rc::clone(&answered)),
            freeing: Mutex::new(()),
            answered,
        })
    }

    /// When the broker has last answered.
    pub(super) fn answers(&self) -> Answers {
        let set_up = self.answered.last();
        Answers { set_up, any: set_up.max(self.looked.last()) }
    }

    /// Asks the broker, and notes that it has answered.
    async fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        noting(&self.answered, question).await
    }

    /// True while others, who have lost the same broker, may not be back yet.
    pub(super) fn is_settling(&self) -> bool {
        self.generation.0 > 1 && self.since.elapsed() < SETTLING
    }

    /// How long it has stood.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn set_lost(&self) {
        self.lost.set(true);
    }

    /// A delivery that nobody is here for goes back.
    pub(super) fn give_back(&self, receipt: Receipt) {
        // Guards: a consumer that was set up half-way. What comes by this lane is not acknowledged, and settling it would have
        // the broker close the channel.
        if receipt.lane != SERVICE_LANE {
            self.broker.nack(receipt, Nack::Requeue);
        }
    }

    /// Gives the connection up as lost: something is in a state that only a new beginning mends.
    pub(super) fn give_up(&self, error: Error) {
        if !self.lost.get() {
            let _ = self.events.send(BrokerEvent::Lost { error });
        }
    }

    /// Declares an exchange, if that was not done before.
    pub(super) async fn exchange(&self, exchange: Exchange) -> Result<()> {
        self.once_of(exchange).get_or_try(async || self.declare_exchange(exchange).await).await
    }

    fn once_of(&self, exchange: Exchange) -> &Once {
        match exchange {
            Exchange::Message => &self.message_exchange,
            Exchange::Task => &self.task_exchange,
        }
    }

    /// Declares an exchange whether or not that was done before: in testing mode it goes with the last queue that is bound
    /// to it, whosesoever that is.
    pub(super) async fn declare_exchange(&self, exchange: Exchange) -> Result<()> {
        let declared = self.ask(self.broker.declare_exchange(&self.port.names.exchange(exchange))).await;
        if declared.is_ok() {
            // Guards: the first answer of a worker, behind all that is being declared for what it sends. Its subscribers' bindings
            // have declared the exchange.
            self.once_of(exchange).set_done();
        }
        declared
    }

    /// An exchange was not there when it should have been.
    ///
    /// # Errors
    /// `ConnectionLost` where everything has to be set up anew.
    pub(super) async fn exchange_vanished(&self, exchange: Exchange, error: &Error) -> Result<()> {
        match self.port.names.testing {
            // It went with its last binding, so that nothing of ours was bound to it.
            TestingMode::Yes => self.declare_exchange(exchange).await,
            // Somebody deleted it, and all our bindings with it.
            TestingMode::No => {
                let text =
                    format!("an exchange was deleted under this communicator, and all that was bound to it: {error}");
                self.give_up(Error::with_source(ErrorKind::ConnectionLost, text, error.clone()));
                Err(Error::new(ErrorKind::ConnectionLost, "the exchange was deleted"))
            }
        }
    }

    /// Binds a queue to an exchange; both are declared just before, each time: the queue by this, where it has no consumer of ours.
    ///
    /// Guards: a queue that is deleted between the two; and somebody else's last queue that goes there, in testing mode, and takes
    /// the exchange with it.
    async fn bind(&self, queue: &str, binding: &Binding, declare: impl AsyncFn() -> Result<()>) -> Result<()> {
        let exchange = self.port.names.exchange_name(binding.exchange);
        let mut tries = 1;
        loop {
            declare().await?;
            self.declare_exchange(binding.exchange).await?;
            match self.ask(self.broker.bind(queue, exchange, &binding.key)).await {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < BIND_TRIES => tries += 1,
                bound => return bound,
            }
        }
    }

    /// Declares what a stream of tasks to this queue needs: `None` when nobody wants it any more before anything was asked. What has
    /// been asked is waited for.
    // Guards: streams without number, whose messages have all been given up behind a silent broker. They would keep their memory, and
    // be declared one after the other once it answers, before what somebody waits for.
    pub(super) async fn open_tasks(&self, queue: &QueueName, wanted: Wanted) -> Option<Result<()>> {
        let begun = Begun::default();
        let declared = async {
            let names = &self.port.names;
            match (names.delay_queue(queue), names.marker_queue(queue)) {
                (Some((spec, to)), _) => self.delay_queue(&spec, &to, &begun).await,
                (None, Some(spec)) => self.marker_queue(&spec, &begun).await,
                (None, None) => self.task_queue_begun(queue, &begun).await.map(drop),
            }
        };
        let mut declared = pin!(declared);
        match select(pin!(wanted.until_over()), declared.as_mut()).await {
            Either::Left(_) if begun.0.get() => Some(declared.await),
            Either::Left(_) => None,
            Either::Right((outcome, _)) => Some(outcome),
        }
    }

    /// A task queue and its binding. Sending declares it too, so that a task is never unroutable.
    async fn task_queue(&self, name: &QueueName, sureness: Sureness) -> Result<Rc<Once>> {
        if sureness == Sureness::DeclaredNow {
            let mut declared = self.task_queues.borrow_mut();
            // Those who come while it is being declared wait for that.
            if declared.get(name).is_some_and(|once| once.is_done()) {
                declared.remove(name);
            }
        }
        self.task_queue_begun(name, &Begun::default()).await
    }

    async fn task_queue_begun(&self, name: &QueueName, begun: &Begun) -> Result<Rc<Once>> {
        let once = {
            let mut declared = self.task_queues.borrow_mut();
            if declared.len() >= DECLARED_MOST && !declared.contains_key(name) {
                // Declared again at their next use.
                declared.clear();
            }
            Rc::clone(declared.entry(name.clone()).or_default())
        };
        once.get_or_try(async || {
            let _pass = self.declaring.enter().await?;
            begun.0.set(true);
            let spec = self.port.names.task_queue(name);
            let binding = Binding { exchange: Exchange::Task, key: name.to_string(), need: Need::Required };
            self.bind(name, &binding, async || self.declare_queue(&spec).await).await
        })
        .await?;
        Ok(once)
    }

    /// A queue in which tasks wait for their time, and the task queue that they go to then: what has nowhere to go is lost. It is
    /// declared each time, for it may have been deleted, and needs no binding: they go there by its name.
    async fn delay_queue(&self, spec: &QueueSpec, to: &QueueName, begun: &Begun) -> Result<()> {
        let _pass = self.declaring.enter().await?;
        begun.0.set(true);
        self.declare_queue(&self.port.names.task_queue(to)).await?;
        self.declare_queue(spec).await
    }

    pub(super) async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        self.ask(self.broker.declare_queue(spec)).await
    }

    pub(super) async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.ask(self.broker.delete_queue(queue)).await
    }

    /// Declares the queue of a lease.
    // Guards: leases of hundreds of tasks, each of which would wait for the answers to all before it, and be over by then.
    pub(super) async fn declare_lease(&self, spec: &QueueSpec, asked: Asked) -> Result<()> {
        match asked {
            Asked::Beside => self.ask(self.broker.declare_queue_beside(spec)).await,
            Asked::InTurn => self.declare_queue(spec).await,
        }
    }

    /// Deletes the queue of a lease; how many copies went with it, where that is known.
    pub(super) async fn delete_lease(&self, queue: &str, asked: Asked) -> Result<Option<u32>> {
        match asked {
            Asked::Beside => self.ask(self.broker.delete_queue_beside(queue)).await,
            Asked::InTurn => self.delete_queue(queue).await.map(|()| None),
        }
    }

    /// Looks for a task once. A queue that was deleted since it was declared here is declared again.
    pub(super) async fn get_task(&self, queue: &QueueName, lane: Lane, sureness: Sureness) -> Result<Option<Delivery>> {
        let declared = self.task_queue(queue, sureness).await?;
        let is_missing =
            |outcome: &Result<_>| outcome.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::NotFound);
        let mut outcome = self.get(queue, lane).await;
        if is_missing(&outcome) {
            self.forget(queue, &declared);
            self.task_queue(queue, sureness).await?;
            outcome = self.get(queue, lane).await;
        }
        // One that is deleted again has nothing.
        if is_missing(&outcome) { Ok(None) } else { outcome }
    }

    /// Looks into a queue once.
    async fn get(&self, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        noting(&self.looked, self.broker.get(queue, lane)).await
    }

    /// Takes a marker away, by which others may have its key.
    ///
    /// Guards: those who take the key while that is under way. RabbitMQ confirms markers that come to a queue as it is deleted, though
    /// they go with it; so each of them would have the key, and the next one, too.
    pub(super) async fn free_key(&self, taken: &TakenKey, lane: Lane) -> Result<()> {
        // Guards: a program with thousands of keys to free, each of which would wait behind the others beyond its time.
        let _turn = self.freeing.lock().await;
        if !taken.can_be_freed(Instant::now(), self.port.operation_timeout) {
            return Ok(());
        }
        if let Some(found) = self.get(&taken.marker, lane).await? {
            if found.properties.message_id == taken.id {
                self.broker.ack(found.receipt);
            } else {
                // Guards: the marker of somebody who has taken the key since.
                self.broker.nack(found.receipt, Nack::Requeue);
            }
        }
        Ok(())
    }

    /// The queue of a key, which is declared before each use.
    // Guards: tasks whose keys are taken, and whose own queues would wait behind all keys that others want.
    async fn marker_queue(&self, spec: &QueueSpec, begun: &Begun) -> Result<()> {
        let _pass = self.keys.enter().await?;
        begun.0.set(true);
        self.declare_queue(spec).await
    }

    /// The queue may be gone: it is declared again at its next use.
    pub(super) fn forget_task_queue(&self, name: &QueueName) {
        self.task_queues.borrow_mut().remove(name);
    }

    /// The queue that was declared so is gone.
    ///
    /// Guards: a thousand who find that at once, each of whom would have it declared anew.
    fn forget(&self, name: &QueueName, declared: &Rc<Once>) {
        let mut queues = self.task_queues.borrow_mut();
        if queues.get(name).is_some_and(|known| Rc::ptr_eq(known, declared)) {
            queues.remove(name);
        }
    }

    /// Sets a consumer up. Where a step fails there is no consumer afterwards; a queue of our own stays, with what is in it,
    /// for the next attempt.
    pub(super) async fn set_up(&self, plan: &ConsumerPlan) -> Result<(), NotSetUp> {
        let entered = self.setting_up.enter().await;
        let _pass = entered.map_err(|error| NotSetUp { error, queue: OwnQueue::MayStand })?;
        match self.try_set_up(plan).await {
            // A task queue that was deleted since it was declared here, for which nobody who subscribes is to blame.
            Err(failed)
                if failed.error.kind() == ErrorKind::NotFound && matches!(plan.queue, PlannedQueue::Tasks(..)) =>
            {
                self.try_set_up(plan).await
            }
            outcome => outcome,
        }
    }

    async fn try_set_up(&self, plan: &ConsumerPlan) -> Result<(), NotSetUp> {
        let (queue, declared) = match &plan.queue {
            PlannedQueue::Own(spec) => {
                if let Err(error) = self.declare_queue(spec).await {
                    // Guards: a queue that stands although its declaration had no answer.
                    let queue =
                        if error.kind() == ErrorKind::TimedOut { OwnQueue::MayStand } else { OwnQueue::Missing };
                    return Err(NotSetUp { error, queue });
                }
                (&*spec.name, None)
            }
            PlannedQueue::Tasks(name, sureness) => {
                let declared = self
                    .task_queue(name, *sureness)
                    .await
                    .map_err(|error| NotSetUp { error, queue: OwnQueue::Missing })?;
                (&**name, Some((name, declared)))
            }
        };
        let Err(error) = self.begin(queue, plan).await else { return Ok(()) };
        if let Some((name, declared)) = declared
            && error.kind() == ErrorKind::NotFound
        {
            // It was deleted since it was declared.
            self.forget(name, &declared);
        }
        if !is_lost(&error) {
            let undo =
                EndPlan { tag: plan.consume.tag.clone(), own_queue: None, bindings: Vec::new(), drain: Drain::No };
            // Guards: a consumer that stands at the broker and whose tag is forgotten here: each delivery would go back and
            // come again at once.
            self.end(&undo).await;
        }
        Err(NotSetUp { error, queue: OwnQueue::MayStand })
    }

    async fn begin(&self, queue: &str, plan: &ConsumerPlan) -> Result<()> {
        self.ask(self.broker.consume(&plan.consume)).await?;
        for binding in &plan.bindings {
            match self.bind(queue, binding, async || Ok(())).await {
                Err(error) if binding.need == Need::Extension && !is_lost(&error) => {
                    crate::log::debug!(queue, key = binding.key, %error, "an extension of homing is refused, and not used");
                }
                bound => bound?,
            }
        }
        Ok(())
    }

    /// Ends a consumer, and waits until what came through it has found its way. Whatever fails, the consumer is gone in the
    /// end: with the connection where there is no other way.
    pub(super) async fn end(&self, plan: &EndPlan) {
        let mut pause = END_PAUSE;
        for attempt in 1..=END_TRIES {
            let Err(error) = self.try_end(plan).await else { return };
            if is_lost(&error) || error.kind() == ErrorKind::CommunicatorClosed {
                return;
            }
            crate::log::debug!(consumer = plan.tag, attempt, %error, "a consumer could not be ended");
            if attempt == END_TRIES {
                let text = format!("the consumer {:?} could not be ended: {error}", plan.tag);
                return self.give_up(Error::with_source(ErrorKind::ConnectionLost, text, error));
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
    }

    async fn try_end(&self, plan: &EndPlan) -> Result<()> {
        let mut outcome = Ok(());
        if let Some(queue) = &plan.own_queue {
            for binding in &plan.bindings {
                let exchange = self.port.names.exchange_name(binding.exchange);
                outcome = outcome.and(self.ask(self.broker.unbind(queue, exchange, &binding.key)).await);
            }
        }
        outcome = outcome.and(self.ask(self.broker.cancel(&plan.tag)).await);
        self.barrier().await;
        if let Some(queue) = &plan.own_queue {
            if plan.drain == Drain::Yes {
                outcome = outcome.and(self.hand_over_rest(plan, queue).await);
                self.barrier().await;
            }
            let deleted = self.delete_queue(queue).await;
            // A queue that is gone has no binding and no consumer.
            outcome = if deleted.is_ok() { Ok(()) } else { outcome.and(deleted) };
        }
        outcome
    }

    async fn hand_over_rest(&self, plan: &EndPlan, queue: &str) -> Result<()> {
        while let Some(delivery) = self.get(queue, SERVICE_LANE).await? {
            self.deliver(&plan.tag, delivery);
        }
        Ok(())
    }

    /// Puts a delivery among the broker's own events.
    fn deliver(&self, tag: &str, delivery: Delivery) {
        let _ = self.events.send(BrokerEvent::Delivery { consumer: tag.into(), delivery });
    }

    /// Waits until every event before this has been handled.
    ///
    /// Guards: a delivery that lies in the broker's events while its consumer is forgotten.
    async fn barrier(&self) {
        let (done, passed) = oneshot::channel();
        if self.events.send(BrokerEvent::Barrier(done)).is_ok() {
            // Where nobody reads the events any more, nothing finds its way.
            let _ = passed.await;
        }
    }
}
