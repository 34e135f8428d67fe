//! Carries out what the parts want to be done.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::time::Instant;

use super::command::TaskDelivery;
use super::connection::Connection;
use super::outbox::{Act, CopyId, Kind, Peers, Stream, TakenKey, Wanted};
use super::port::{Charge, ConnectionEvent, Signal, count};
use super::subscriptions::{self, Key};
use super::tasks::{
    Action, Cause, Contents, DeliveryTag, Destination, Handed, Input, Known, LeaseId, Live, Marks, Ownership,
    Settlement, SubscriberId, TaskId, TaskMessage, write_marks,
};
use super::{CopyOf, CopyTo, Done, Driver, JobDone, QueueName};
use crate::broker::{Broker, Durability, Message, Nack, Origin, Routing};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::delay;
use crate::wire::headers;
use crate::wire::names::Exchange;

/// How much of a reason goes into a header.
const REASON_MOST: usize = 1000;

/// What the parts want, while it is carried out.
#[derive(Default)]
pub(super) struct Lists {
    out: Vec<Act<Done>>,
    subscribed: Vec<subscriptions::Act<Done>>,
    actions: Vec<Action<Live>>,
}

/// How many entries a list keeps its memory for.
const KEPT: usize = 1024;

impl Lists {
    /// Gives back what an unusual number of acts took.
    fn shrink(&mut self) {
        self.out.shrink_to(KEPT);
        self.subscribed.shrink_to(KEPT);
        self.actions.shrink_to(KEPT);
    }
}

impl<B: Broker> Driver<B> {
    /// Carries out what the parts want, and what follows from that, until nothing is left.
    pub(super) fn perform(&mut self) {
        self.release_acks();
        while self.outbox.has_acts() || self.subscriptions.has_acts() || !self.actions.is_empty() {
            // Lists that keep their memory from one call to the next.
            let mut lists = std::mem::take(&mut self.lists);
            let Lists { out, subscribed, actions } = &mut lists;
            self.outbox.swap_acts(out);
            self.subscriptions.swap_acts(subscribed);
            std::mem::swap(&mut self.actions, actions);
            self.act_for_all_tasks(actions);
            subscribed.drain(..).for_each(|act| self.act_for_subscriptions(act));
            out.drain(..).for_each(|act| self.act_for_outbox(act));
            lists.shrink();
            self.lists = lists;
        }
    }

    /// Runs a job on the present connection.
    fn job<F: Future<Output = JobDone> + 'static>(&mut self, make: impl FnOnce(Rc<Connection<B>>) -> F) {
        if let Some(connection) = self.connection() {
            self.jobs.push(make(connection));
        }
    }

    pub(super) fn peers(&self) -> Peers {
        match self.session.now() {
            Some(connection) if connection.is_settling() => Peers::Settling,
            _ => Peers::Settled,
        }
    }

    // The outbox.

    fn act_for_outbox(&mut self, act: Act<Done>) {
        match act {
            Act::Publish { id, message, replies } => {
                if let Some((correlation, exchange, queue)) = replies {
                    self.requests.replies_to(correlation, exchange, &queue);
                }
                let decided = match self.session.now() {
                    Some(connection) => connection.broker.publish(id, delay::expiring(message)),
                    None => Some(Err(Error::new(ErrorKind::ConnectionLost, "there is no connection"))),
                };
                if let Some(outcome) = decided {
                    let peers = self.peers();
                    self.outbox.published(id, outcome, peers, Instant::now());
                }
            }
            Act::Open(stream, wanted) => self.open(stream, wanted),
            Act::Complete { published, outcome } => {
                // A caller whose home has ended does not ask any more.
                drop(published.complete(outcome));
            }
            Act::Fail { correlation, error } => {
                if let Some(ended) = self.requests.end(correlation)
                    && let Some(reply) = ended.reply
                {
                    drop(reply.complete(Err(error)));
                }
            }
            Act::Release(charge) => self.port.release(charge),
            Act::ExchangeVanished { exchange, error } => self.job(|connection| async move {
                let generation = connection.generation;
                let outcome = connection.exchange_vanished(exchange, &error).await;
                JobDone::ExchangeBack { exchange, generation, outcome }
            }),
            Act::QueueVanished(queue) => {
                if let Some(connection) = self.session.now() {
                    connection.forget_task_queue(&queue);
                }
            }
            Act::FreeKey(taken) => self.free_key(taken),
            Act::CallerGone(correlation) => self.callers.gone(correlation),
            Act::ReplyUndeliverable => count(&self.port.counters.replies_unroutable),
            Act::Copied { copy, known } => self.copied(copy, known),
            // Guards: a probe of a queue that was deleted on purpose, or set up again, while it was on its way.
            Act::BindingGone { bound, .. } if !self.subscriptions.stands_since(bound) => {}
            Act::BindingGone { error, .. } => {
                let text = format!("the exchange of this communicator's bindings was deleted: {error}");
                if let Some(connection) = self.session.now() {
                    connection.give_up(Error::with_source(ErrorKind::ConnectionLost, text, error));
                }
            }
        }
    }

    fn open(&mut self, stream: Stream, wanted: Wanted) {
        let now = Instant::now();
        match stream {
            Stream::Calls => self.subscriptions.replies_for(Exchange::Message, stream, now),
            Stream::Broadcasts => self.declare_exchange(stream, Exchange::Message),
            Stream::Replies(exchange) => self.declare_exchange(stream, exchange),
            Stream::Tasks(ref queue) | Stream::Copies(ref queue) => {
                let queue = queue.clone();
                self.job(|connection| async move {
                    let generation = connection.generation;
                    match connection.open_tasks(&queue, wanted).await {
                        Some(outcome) => JobDone::Declared { stream, generation, outcome },
                        None => JobDone::NotWanted { stream, generation },
                    }
                });
            }
            Stream::Quarantine(ref queue) => {
                let spec = self.port.names.quarantine_queue(queue);
                self.declare(stream, async move |connection| connection.declare_queue(&spec).await);
            }
            Stream::Direct => self.outbox.opened(&stream, Ok(None), now),
        }
    }

    /// Nothing was sent under this key: others may have it.
    fn free_key(&mut self, taken: TakenKey) {
        if self.session.now().is_none() || !taken.can_be_freed(Instant::now(), self.port.operation_timeout) {
            return;
        }
        self.freeing += 1;
        let lane = self.subscriptions.lane_for_keys();
        self.job(|connection| async move {
            if let Err(error) = connection.free_key(&taken, lane).await {
                crate::log::debug!(queue = %taken.marker, %error, "a key of a task that was not sent stays until its time is over");
            }
            JobDone::KeyFreed
        });
    }

    fn declare_exchange(&mut self, stream: Stream, exchange: Exchange) {
        // A broker that was started again has no exchange before somebody declares it.
        self.declare(stream, async move |connection| connection.exchange(exchange).await);
    }

    /// Declares what a stream needs, and opens it.
    fn declare(&mut self, stream: Stream, question: impl AsyncFnOnce(&Connection<B>) -> Result<()> + 'static) {
        self.job(|connection| async move {
            let (generation, outcome) = (connection.generation, question(&connection).await);
            JobDone::Declared { stream, generation, outcome }
        });
    }

    // Subscriptions.

    fn act_for_subscriptions(&mut self, act: subscriptions::Act<Done>) {
        use subscriptions::Act;
        match act {
            Act::SetUp { key, turn, plan } => self.job(|connection| async move {
                let outcome = connection.set_up(&plan).await;
                JobDone::SetUp { key, turn, outcome }
            }),
            Act::End { key, turn, plan } => self.job(|connection| async move {
                connection.end(&plan).await;
                JobDone::Ended { key, turn }
            }),
            Act::Get { key, turn, queue, lane, sureness } => self.job(|connection| async move {
                let generation = connection.generation;
                let outcome = connection.get_task(&queue, lane, sureness).await;
                JobDone::Got { key, turn, generation, outcome }
            }),
            Act::Complete { done, outcome } => drop(done.complete(outcome)),
            Act::Pulled { pull, outcome } => self.nothing_pulled(pull, outcome),
            Act::StreamReady { stream, outcome } => self.outbox.opened(&stream, outcome, Instant::now()),
            Act::Reclaimed(queue) => {
                crate::log::debug!(%queue, "the replies of requests under way come in again");
                self.plan_ask(queue, 0, Instant::now());
            }
            Act::ForgetQueue(queue) => {
                if let Some(connection) = self.session.now() {
                    connection.forget_task_queue(&queue);
                }
                self.outbox.close_stream_of(&queue);
            }
            Act::Subscribed { queue, subscriber } => self.step_tasks(Input::Subscribed { queue, subscriber }),
            Act::Unsubscribed { queue, subscriber } => self.step_tasks(Input::Unsubscribed { queue, subscriber }),
            Act::Emit(event) => self.emit(&event),
            Act::Restored => self.on_restored(),
        }
    }

    fn on_restored(&mut self) {
        let Some(away) = self.away.take() else { return };
        count(&self.port.counters.reconnects);
        crate::log::info!(broker = self.port.broker, ?away, "connected again");
        self.emit(&ConnectionEvent::Restored { away });
        for identifier in self.subscriptions.broadcast_subscribers() {
            self.emit(&ConnectionEvent::Gap { identifier, away });
        }
    }

    // Tasks.

    /// Guards: a place that the broker fills with another task although the one that had it still runs here, on a lease. An
    /// acknowledgement behind a [`Action::Fit`] waits until the consumer with too many places has ended. And a task that
    /// comes by the consumer of a pull that has one already: it would go back, and be overtaken by the next one.
    fn act_for_all_tasks(&mut self, actions: &mut Vec<Action<Live>>) {
        let mut refits = None;
        for action in actions.drain(..) {
            match action {
                Action::Fit { queue, taken } => {
                    if self.subscriptions.fit(&queue, taken, Instant::now()) {
                        refits = Some(Key::Tasks(queue));
                    }
                }
                Action::Ack(tag) => match self.pulled.get(&tag).map(|pull| Key::Pull(*pull)).or_else(|| refits.clone())
                {
                    Some(key) => self.held_acks.entry(key).or_default().push(tag),
                    None => self.ack_task(tag),
                },
                action => self.act_for_tasks(action),
            }
        }
    }

    /// Sends the acknowledgements that wait for a consumer which has ended.
    fn release_acks(&mut self) {
        if self.pulled.is_empty() && self.held_acks.is_empty() {
            return;
        }
        let subscriptions = &self.subscriptions;
        self.pulled.retain(|_, pull| subscriptions.is_ending(&Key::Pull(*pull)));
        let (held, released): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.held_acks).into_iter().partition(|(key, _)| subscriptions.is_ending(key));
        self.held_acks = held;
        released.into_values().flatten().for_each(|tag| self.ack_task(tag));
    }

    /// Sends them all, for a connection that is about to be closed: nothing is handed out by it any more.
    pub(super) fn release_all_acks(&mut self) {
        std::mem::take(&mut self.held_acks).into_values().flatten().for_each(|tag| self.ack_task(tag));
    }

    fn ack_task(&mut self, tag: DeliveryTag) {
        self.subscriptions.task_settled(tag.channel);
        self.ack(tag);
    }

    fn act_for_tasks(&mut self, action: Action<Live>) {
        match action {
            Action::Offer { to, task } => self.offer(to, task),
            // Handed to whoever pulled it where it came in.
            Action::Hand(handed) => {
                let settlement = Settlement::Dropped(Cause::HomeEnded);
                self.step_tasks(Input::Settled { hand: handed.hand, settlement });
            }
            // See `act_for_all_tasks`.
            Action::Ack(_) | Action::Fit { .. } => {}
            Action::Requeue(tag) => {
                self.subscriptions.task_settled(tag.channel);
                self.nack(tag, Nack::Requeue);
            }
            Action::Answer(reply) => self.send_reply(reply),
            Action::AnswerAgain { message } => {
                count(&self.port.counters.tasks_answered_again);
                let properties = message.properties();
                crate::log::info!(
                    message_id = properties.message_id.as_deref(),
                    "a task that had ended here came again, and is not run twice"
                );
                let known = properties.correlation_id.as_deref().and_then(|correlation| self.answers.of(correlation));
                if let Some(reply) = known.cloned() {
                    self.send_reply(reply);
                }
            }
            Action::MakeLease { lease, queue, message, marks, lasts } => {
                let spec = self.port.names.lease_queue(self.lease_queue(lease), &queue, lasts);
                let message = self.copy_of(&message, marks, spec.name.clone(), None);
                self.copy(CopyOf::Lease(lease), CopyTo::Own(spec), message);
            }
            Action::DeleteLease { lease } => self.delete_lease(lease),
            Action::Move { task, queue, to, message, marks } => self.move_task(task, &queue, to, &message, marks),
            Action::OwnershipLost { task, queue, message } => {
                if let Some(signal) = self.ownership_lost.get(&task) {
                    signal.give();
                }
                let message_id = message.properties().message_id.clone();
                crate::log::warn!(%queue, message_id = message_id.as_deref(), "the broker has taken back a task that runs here");
                let message_id = message_id.map(|id| id.to_string());
                self.emit(&ConnectionEvent::OwnershipLost { queue: queue.to_string(), message_id });
            }
            Action::Adopted { task, queue, message } => {
                let message_id = message.properties().message_id.as_deref().unwrap_or_default().to_owned();
                crate::log::info!(%queue, task = task.0, message_id, "a task that runs here came again, and is not run twice");
                count(&self.port.counters.tasks_adopted);
                self.emit(&ConnectionEvent::TaskAdopted { queue: queue.to_string(), message_id });
            }
            Action::Quarantined { queue, reason, message } => {
                count(&self.port.counters.tasks_quarantined);
                let message_id = &message.properties().message_id;
                crate::log::warn!(%queue, reason, message_id = message_id.as_deref(), "a task was put into quarantine");
                self.emit(&ConnectionEvent::Quarantined { queue: queue.to_string(), reason });
            }
            Action::MoveFailed { queue, to } => {
                crate::log::error!(%queue, ?to, "a task could not be copied to another queue; it is tried again");
            }
            Action::LeaseLeft { lease } => {
                let queue = self.lease_queue(lease);
                crate::log::warn!(queue, "a lease queue could not be deleted: its task comes again when it expires");
            }
            Action::Released { task } => {
                self.ownership_lost.remove(&task);
            }
        }
    }

    /// The signal of a task in hand.
    pub(super) fn ownership_signal(&mut self, task: TaskId) -> Signal {
        let giver = self.ownership_lost.entry(task).or_default();
        if self.tasks.ownership(task) == Ownership::Lost {
            giver.give();
        }
        giver.signal()
    }

    fn offer(&mut self, to: SubscriberId, handed: Handed) {
        let hand = handed.hand;
        let delivery = TaskDelivery { ownership_lost: self.ownership_signal(hand.task), handed };
        let sent = self.subscriptions.task_sink(to).map(|sink| sink.send(delivery));
        if !matches!(sent, Some(Ok(()))) {
            let settlement = Settlement::Dropped(Cause::HomeEnded);
            self.step_tasks(Input::Settled { hand, settlement });
        }
    }

    fn move_task(&mut self, task: TaskId, queue: &QueueName, to: Destination, message: &TaskMessage, marks: Marks) {
        match to {
            Destination::Queue => {
                let message = self.copy_of(message, marks, queue.to_string(), None);
                self.copy(CopyOf::Moved(task), CopyTo::Shared(Stream::Copies(queue.clone())), message);
            }
            Destination::Quarantine { reason } => {
                let name = self.port.names.quarantine_queue(queue).name;
                let message = self.copy_of(message, marks, name, Some((queue, &reason)));
                self.copy(CopyOf::Moved(task), CopyTo::Shared(Stream::Quarantine(queue.clone())), message);
            }
        }
    }

    /// Publishes a copy of a task, to a queue that is declared first.
    fn copy(&mut self, of: CopyOf, to: CopyTo, message: Message) {
        self.last_copy += 1;
        let copy = CopyId(self.last_copy);
        self.copies.insert(copy, of);
        if self.session.now().is_none() {
            return self.copied(copy, Known::No);
        }
        match to {
            CopyTo::Own(spec) => {
                let asked = self.subscriptions.leases_are_asked();
                self.job(|connection| async move {
                    let outcome = connection.declare_lease(&spec, asked).await;
                    JobDone::CopyReady { copy, message: Box::new(message), outcome }
                });
            }
            // Guards: a queue that was deleted, and one that is declared for each of hundreds of copies. It is declared for them as
            // for all that is sent.
            CopyTo::Shared(stream) => self.outbox.send(stream, Kind::Copy(copy), message, Charge::NOTHING, None),
        }
    }

    pub(super) fn send_copy(&mut self, copy: CopyId, message: Message) {
        // Guards: the copy of a task that has ended since its lease was asked for. Nobody needs it, and somebody would run it once the
        // lease is over, if that cannot be deleted before.
        let is_wanted = match self.copies.get(&copy) {
            Some(CopyOf::Lease(lease)) => self.tasks.awaits(*lease),
            _ => true,
        };
        if self.session.now().is_none() || !is_wanted {
            return self.copied(copy, Known::No);
        }
        self.outbox.send(Stream::Direct, Kind::Copy(copy), message, Charge::NOTHING, None);
    }

    pub(super) fn copied(&mut self, copy: CopyId, known: Known) {
        match self.copies.remove(&copy) {
            Some(CopyOf::Moved(task)) => self.step_tasks(Input::Moved { task, known }),
            Some(CopyOf::Lease(lease)) => self.step_tasks(Input::LeaseMade { lease, known }),
            None => {}
        }
    }

    fn delete_lease(&mut self, lease: LeaseId) {
        let queue = self.lease_queue(lease);
        if self.session.now().is_none() {
            return self.step_tasks(Input::LeaseDeleted { lease, known: Known::No, contents: Contents::NotKnown });
        }
        let asked = self.subscriptions.leases_are_asked();
        self.job(|connection| async move {
            let outcome = connection.delete_lease(&queue, asked).await;
            JobDone::LeaseDeleted { lease, outcome }
        });
    }

    /// A copy of a task for the queue of this name, by the default exchange, which routes by the queue's name.
    fn copy_of(
        &self,
        message: &TaskMessage,
        marks: Marks,
        queue: String,
        quarantine: Option<(&QueueName, &str)>,
    ) -> Message {
        let mut properties = message.properties().clone().moved();
        properties.message_id.get_or_insert_with(super::events::message_id);
        write_marks(&mut properties, marks);
        if let Some((from, reason)) = quarantine {
            let reason: String = reason.chars().take(REASON_MOST).collect();
            properties.set_text(headers::QUARANTINE_REASON, reason);
            properties.set_text(headers::QUARANTINE_QUEUE, from.to_string());
        }
        if let Some(connection) = self.session.now()
            && !properties.fit(connection.broker.properties_limit())
        {
            crate::log::warn!(queue, "the properties of a task are too large to be copied, whatever is cut");
        }
        Message {
            exchange: "".into(),
            routing_key: queue.into(),
            properties,
            body: message.body().clone(),
            routing: Routing::Mandatory,
            durability: Durability::Durable,
            origin: Origin::Handling,
        }
    }
}
