//! Task queues: who gets a task, and what becomes of it.
//!
//! A task in hand has a number of its own. The broker's delivery stands beside it and may go with its connection: the task
//! is then *away*, its handler is told, and when the broker hands the very task out again here, the one that runs takes the
//! new delivery over instead of running twice.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::lease::{LEASE, Lease};
use super::link::{Generation, Link, Ticket};
use super::outcomes::Outcomes;
use super::publish::{RESEND, header};
use super::subscribe::{QueueName, duplicate, next_lane, unknown};
use super::supervise::is_lost;
use super::{Consumer, Driver};
use crate::broker::{Acknowledge, Body, Broker, ConsumeSpec, Delivery, Lane, Nack, Properties};
use crate::communicator::command::{OutgoingReply, Requeue, Settlement, TaskDelivery, TaskId};
use crate::communicator::events::Event;
use crate::communicator::names::Identifier;
use crate::communicator::shared::{Shared, count};
use crate::communicator::signal::Watch;
use crate::communicator::task::{Attempt, Claim, Hold};
use crate::error::{ErrorKind, Result};

/// The pause before a task that was tried goes back: this long at first, twice as long each time it comes again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For how many tasks it is remembered how often they came.
const PAUSES_REMEMBERED: usize = 10_000;

/// Which attempt a copy of ours is.
const ATTEMPT: &str = "homing-attempt";
/// The longest pause before another attempt.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Tasks {
    queues: HashMap<QueueName, Queue>,
    in_hand: HashMap<TaskId, InHand>,
    /// Those in hand that have a message id.
    by_message: HashMap<String, TaskId>,
    last: u64,
    outcomes: Outcomes,
    /// How often a task went back after it was tried, by message id. Forgotten all at once when there are too many: the
    /// pause is against spinning, not a promise.
    tried: HashMap<String, u32>,
}

pub(super) struct Queue {
    /// Whose turn it is to send a task to it.
    pub(super) turn: Rc<tokio::sync::Mutex<()>>,
    lane: Lane,
    pull_lane: Lane,
    prefetch: u16,
    /// That its consumer has fewer places than that, for tasks are in hand that it does not know of.
    shrunk: bool,
    subscribers: Vec<(Identifier, mpsc::UnboundedSender<TaskDelivery>)>,
    /// The consumer's tag, and on which connection it is. Held while it is started or ended.
    consumer: Rc<tokio::sync::Mutex<Option<(Generation, String)>>>,
}

/// A task that somebody here works on.
struct InHand {
    queue: QueueName,
    redelivered: bool,
    attempt: Attempt,
    properties: Properties,
    body: Body,
    /// What it is acknowledged by; `None` while it is away.
    ticket: Option<Ticket>,
    /// Other deliveries of the same message, which was sent again.
    copies: Vec<Ticket>,
    lease: Lease,
    claim: Claim,
    /// Handlers that want to know when it is away.
    watches: Vec<Watch>,
    been_away: bool,
    /// The subscribers that are still to be asked, in order.
    left: std::vec::IntoIter<mpsc::UnboundedSender<TaskDelivery>>,
}

impl InHand {
    fn new(
        queue: &QueueName,
        ticket: Ticket,
        delivery: Delivery,
        left: Vec<mpsc::UnboundedSender<TaskDelivery>>,
    ) -> Self {
        let number = header(&delivery.properties, ATTEMPT).unwrap_or(1).max(1);
        // What comes back from a lease was in somebody's hands.
        let redelivered = delivery.redelivered || header(&delivery.properties, LEASE).is_some();
        InHand {
            queue: queue.clone(),
            redelivered,
            attempt: if redelivered { Attempt::AtLeast(number.saturating_add(1)) } else { Attempt::Exactly(number) },
            properties: delivery.properties,
            body: delivery.body,
            ticket: Some(ticket),
            copies: Vec::new(),
            lease: Lease::default(),
            claim: Claim::default(),
            watches: Vec::new(),
            been_away: false,
            left: left.into_iter(),
        }
    }

    /// For whoever is to work on it.
    fn delivery(&mut self, shared: &Arc<Shared>, task: TaskId) -> TaskDelivery {
        self.claim = Claim::default();
        let hold = Hold {
            shared: Arc::clone(shared),
            task,
            claim: self.claim.clone(),
            redelivered: self.redelivered,
            resent: header(&self.properties, RESEND).is_some(),
            attempt: self.attempt,
            message_id: self.properties.message_id.clone(),
            reply_to: self.properties.reply_to.clone(),
            correlation_id: self.properties.correlation_id.clone(),
            settled: false,
        };
        TaskDelivery { hold, body: self.body.clone() }
    }

    /// The same message, and not another that has taken its id.
    fn is_of(&self, delivery: &Delivery) -> bool {
        let same_body = match (&self.body, &delivery.body) {
            (Body::Encoded(one), Body::Encoded(other)) => one == other,
            (Body::Value(one), Body::Value(other)) => one == other,
            _ => false,
        };
        same_body && self.properties.correlation_id == delivery.properties.correlation_id
    }
}

impl Tasks {
    pub(super) fn queue(&mut self, name: &QueueName, lanes: &Cell<u32>) -> &mut Queue {
        self.queues.entry(name.clone()).or_insert_with(|| Queue {
            turn: Rc::default(),
            lane: next_lane(lanes),
            pull_lane: next_lane(lanes),
            prefetch: 0,
            shrunk: false,
            subscribers: Vec::new(),
            consumer: Rc::default(),
        })
    }

    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Those that have subscribers.
    pub(super) fn subscribed(&self) -> Vec<QueueName> {
        self.queues.iter().filter(|(_, queue)| !queue.subscribers.is_empty()).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn closed(&self) -> Vec<(QueueName, Identifier)> {
        let queues = self.queues.iter();
        queues
            .flat_map(|(name, queue)| queue.subscribers.iter().map(move |subscriber| (name, subscriber)))
            .filter(|(_, (_, sink))| sink.is_closed())
            .map(|(name, (identifier, _))| (name.clone(), identifier.clone()))
            .collect()
    }

    fn next(&mut self) -> TaskId {
        self.last += 1;
        TaskId(self.last)
    }

    fn insert(&mut self, task: TaskId, in_hand: InHand) {
        if let Some(id) = &in_hand.properties.message_id {
            self.by_message.insert(id.clone(), task);
        }
        self.in_hand.insert(task, in_hand);
    }

    fn take(&mut self, task: TaskId) -> Option<InHand> {
        let in_hand = self.in_hand.remove(&task)?;
        if let Some(id) = &in_hand.properties.message_id
            && self.by_message.get(id) == Some(&task)
        {
            self.by_message.remove(id);
        }
        Some(in_hand)
    }

    /// Whether a task is on lease; `None` when it is not in hand any more.
    pub(super) fn lease_stands(&self, task: TaskId) -> Option<bool> {
        self.in_hand.get(&task).map(|in_hand| in_hand.lease.stands())
    }

    /// What a lease is made of. The lease is taken out while that is done.
    #[expect(clippy::type_complexity, reason = "parts of one thing, for one caller")]
    pub(super) fn begin_lease(
        &mut self,
        task: TaskId,
    ) -> Option<(QueueName, (Properties, Body), Option<Ticket>, Lease)> {
        let in_hand = self.in_hand.get_mut(&task)?;
        let copy = (in_hand.properties.clone(), in_hand.body.clone());
        Some((in_hand.queue.clone(), copy, in_hand.ticket, std::mem::take(&mut in_hand.lease)))
    }

    /// Puts it back. It is returned where the task has ended meanwhile: then it is to end too.
    pub(super) fn keep_lease(&mut self, task: TaskId, lease: Lease) -> Option<Lease> {
        match self.in_hand.get_mut(&task) {
            Some(in_hand) => {
                in_hand.lease = lease;
                None
            }
            None => Some(lease),
        }
    }

    pub(super) fn drop_ticket(&mut self, task: TaskId, ticket: Ticket) {
        if let Some(in_hand) = self.in_hand.get_mut(&task)
            && in_hand.ticket == Some(ticket)
        {
            in_hand.ticket = None;
        }
    }

    /// Tells the handler of a task whose lease is over.
    pub(super) fn lease_over(
        &mut self,
        task: TaskId,
        is_over: impl FnOnce(&Lease) -> bool,
    ) -> Option<(String, Option<String>)> {
        let in_hand = self.in_hand.get_mut(&task)?;
        if in_hand.been_away || !is_over(&in_hand.lease) {
            return None;
        }
        in_hand.been_away = true;
        in_hand.watches.drain(..).for_each(Watch::tell);
        Some((in_hand.queue.to_string(), in_hand.properties.message_id.clone()))
    }

    /// Those on lease, which are not in hand any more then.
    pub(super) fn take_leased(&mut self) -> Vec<(QueueName, (Properties, Body), Lease)> {
        let leased: Vec<TaskId> =
            self.in_hand.iter().filter(|(_, in_hand)| in_hand.lease.stands()).map(|(task, _)| *task).collect();
        let taken = leased.into_iter().filter_map(|task| self.take(task));
        taken.map(|in_hand| (in_hand.queue, (in_hand.properties, in_hand.body), in_hand.lease)).collect()
    }

    fn in_hand_of(&self, queue: &QueueName) -> usize {
        self.in_hand.values().filter(|in_hand| in_hand.queue == *queue).count()
    }

    fn on_lease_of(&self, queue: &QueueName) -> usize {
        self.in_hand.values().filter(|in_hand| in_hand.queue == *queue && in_hand.lease.stands()).count()
    }

    fn pause(&mut self, message_id: Option<&String>) -> Duration {
        let Some(id) = message_id else { return FIRST_PAUSE };
        if self.tried.len() >= PAUSES_REMEMBERED {
            self.tried.clear();
        }
        let tried = self.tried.entry(id.clone()).or_insert(0);
        let pause = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(*tried).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        *tried = (*tried + 1).min(16);
        pause
    }
}

impl<B: Broker> Driver<B> {
    pub(super) async fn add_task(
        &self,
        queue: QueueName,
        prefetch: u16,
        identifier: Identifier,
        sink: mpsc::UnboundedSender<TaskDelivery>,
    ) -> Result<()> {
        {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.queue(&queue, &self.next_lane);
            if entry.subscribers.iter().any(|(known, _)| *known == identifier) {
                return Err(duplicate("a task subscriber", &identifier));
            }
            if entry.subscribers.is_empty() {
                entry.prefetch = prefetch;
            }
            entry.subscribers.push((identifier.clone(), sink));
        }
        let what = format!("a subscriber to the task queue {queue:?}");
        let added = self.in_time(&what, self.on_a_link(async |link| self.ensure_tasks(link, &queue).await)).await;
        if added.is_err()
            && let Some(queue) = self.tasks.borrow_mut().queues.get_mut(&queue)
        {
            queue.subscribers.retain(|(known, _)| *known != identifier);
        }
        added
    }

    /// Starts the consumer of a queue on this connection, if there are subscribers and that was not done before.
    async fn ensure_tasks(&self, link: &Rc<Link<B>>, queue: &QueueName) -> Result<()> {
        let (lane, prefetch, consumer) = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.queue(queue, &self.next_lane);
            (entry.lane, entry.prefetch, Rc::clone(&entry.consumer))
        };
        let mut consumer = consumer.lock().await;
        let nobody = self.tasks.borrow().queues.get(queue).is_none_or(|queue| queue.subscribers.is_empty());
        if nobody || consumer.as_ref().is_some_and(|(generation, _)| *generation == link.generation) {
            return Ok(());
        }
        *consumer = None;
        self.hear_of_lost_answers(link).await?;
        self.task_queue(link, queue).await?;
        // What is on lease does not come by this consumer, and has its place.
        let on_lease = self.tasks.borrow().on_lease_of(queue);
        *consumer = self.consume_tasks(link, queue, lane, prefetch, on_lease).await?;
        Ok(())
    }

    /// A consumer with the places that are left; none where none is.
    async fn consume_tasks(
        &self,
        link: &Rc<Link<B>>,
        queue: &QueueName,
        lane: Lane,
        prefetch: u16,
        taken: usize,
    ) -> Result<Option<(Generation, String)>> {
        let places = match prefetch {
            0 => 0,
            prefetch => {
                let left = usize::from(prefetch).saturating_sub(taken);
                self.tasks.borrow_mut().queue(queue, &self.next_lane).shrunk = taken > 0;
                match u16::try_from(left) {
                    Ok(0) | Err(_) => return Ok(None),
                    Ok(left) => left,
                }
            }
        };
        let tag = Uuid::new_v4().to_string();
        link.consumers.borrow_mut().insert(tag.clone(), Consumer::Task(queue.clone()));
        let acknowledge = Acknowledge::Manual { prefetch: places };
        let consume = ConsumeSpec { queue: queue.to_string(), tag: tag.clone(), lane, acknowledge };
        if let Err(error) = link.broker.consume(&consume).await {
            link.consumers.borrow_mut().remove(&tag);
            if error.kind() == ErrorKind::NotFound {
                // It was deleted since it was declared.
                link.task_queues.borrow_mut().remove(queue);
            }
            return Err(error);
        }
        Ok(Some((link.generation, tag)))
    }

    /// Ends the consumer of a queue and starts another with the places that are left.
    pub(super) async fn start_again(&self, link: &Rc<Link<B>>, queue: &QueueName) -> Result<()> {
        let (lane, prefetch, consumer) = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.queue(queue, &self.next_lane);
            if entry.prefetch == 0 || entry.subscribers.is_empty() {
                return Ok(());
            }
            (entry.lane, entry.prefetch, Rc::clone(&entry.consumer))
        };
        let mut consumer = consumer.lock().await;
        if let Some((generation, tag)) = consumer.take()
            && generation == link.generation
        {
            link.end_consumer(&tag).await?;
        }
        let taken = self.tasks.borrow().in_hand_of(queue);
        *consumer = self.consume_tasks(link, queue, lane, prefetch, taken).await?;
        Ok(())
    }

    /// A task has left the hand: where a consumer has fewer places than it might, it gets another.
    fn place_is_free(self: &Rc<Self>, queue: &QueueName) {
        if !self.tasks.borrow_mut().queue(queue, &self.next_lane).shrunk {
            return;
        }
        if let Some(link) = self.supply.now() {
            let queue = queue.clone();
            self.spawn(move |driver| async move { driver.fit_consumer(&link, &queue).await });
        }
    }

    pub(super) async fn keep_tasks(&self, link: &Rc<Link<B>>, queue: &QueueName) {
        self.keep(link, queue, async || self.ensure_tasks(link, queue).await).await;
    }

    /// The server ended the consumer of this queue, which may be gone.
    pub(super) async fn consumer_gone(&self, link: &Link<B>, queue: &QueueName) {
        link.task_queues.borrow_mut().remove(queue);
        let consumer = self.tasks.borrow_mut().queue(queue, &self.next_lane).consumer.clone();
        *consumer.lock().await = None;
    }

    /// With the last subscriber goes the consumer. Tasks in hand stay there until they are settled.
    pub(super) async fn remove_task(&self, queue: &QueueName, identifier: &Identifier) -> Result<()> {
        let consumer = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.queue(queue, &self.next_lane);
            let before = entry.subscribers.len();
            entry.subscribers.retain(|(known, _)| known != identifier);
            if entry.subscribers.len() == before {
                return Err(unknown("task subscriber", identifier));
            }
            Rc::clone(&entry.consumer)
        };
        let mut consumer = consumer.lock().await;
        let empty = self.tasks.borrow().queues.get(queue).is_none_or(|queue| queue.subscribers.is_empty());
        match (consumer.take_if(|_| empty), self.supply.now()) {
            // What is delivered before the end of the consumer finds no subscriber and goes back.
            (Some((generation, tag)), Some(link)) if link.generation == generation => {
                match link.end_consumer(&tag).await {
                    Err(error) if is_lost(&error) => Ok(()),
                    ended => ended,
                }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn deliver_task(self: &Rc<Self>, link: &Rc<Link<B>>, queue: &QueueName, delivery: Delivery) {
        let Some(delivery) = self.is_new(link, delivery) else { return };
        let subscribers: Vec<_> = match self.tasks.borrow().queues.get(queue) {
            Some(queue) => queue.subscribers.iter().map(|(_, sink)| sink.clone()).collect(),
            None => Vec::new(),
        };
        if subscribers.is_empty() {
            return link.give_back(delivery.receipt);
        }
        let ticket = link.ticket(delivery.receipt);
        let in_hand = InHand::new(queue, ticket, delivery, subscribers);
        let task = self.tasks.borrow_mut().next();
        self.tasks.borrow_mut().insert(task, in_hand);
        self.look_after(task);
        self.offer(task);
    }

    /// A delivery that is not of a task which runs here, or has ended here. Such a one is taken over, or acknowledged and
    /// answered again. Only what says that it may have come before is looked at.
    fn is_new(self: &Rc<Self>, link: &Rc<Link<B>>, delivery: Delivery) -> Option<Delivery> {
        let is_marked = |name| header(&delivery.properties, name).is_some();
        let may_be_known = delivery.redelivered || is_marked(RESEND) || is_marked(LEASE);
        let Some(id) = delivery.properties.message_id.as_ref().filter(|_| may_be_known) else { return Some(delivery) };
        let ticket = link.ticket(delivery.receipt);
        let mut tasks = self.tasks.borrow_mut();
        if let Some(task) = tasks.by_message.get(id).copied()
            && let Some(in_hand) = tasks.in_hand.get_mut(&task)
        {
            if !in_hand.is_of(&delivery) {
                return Some(delivery);
            }
            match in_hand.ticket {
                None => in_hand.ticket = Some(ticket),
                Some(_) => in_hand.copies.push(ticket),
            }
            let queue = in_hand.queue.to_string();
            tracing::info!(queue, message_id = %id, "a task that runs here came again, and is not run twice");
            count(&self.shared.counters.tasks_adopted);
            self.say(Event::TaskAdopted { queue, message_id: id.clone() });
            return None;
        }
        let Some(reply) = tasks.outcomes.of(id) else {
            drop(tasks);
            return Some(delivery);
        };
        drop(tasks);
        tracing::info!(message_id = %id, "a task that had ended here came again, and is not run twice");
        count(&self.shared.counters.tasks_answered_again);
        link.broker.ack(delivery.receipt);
        if let Some(reply) = reply {
            self.send_reply(reply);
        }
        None
    }

    /// Deliveries are gone: the broker has taken these tasks back. One that nobody has begun is not begun; the handler of
    /// another is told.
    pub(super) fn tasks_are_away(&self, gone: impl Fn(&Ticket) -> bool) {
        let mut tasks = self.tasks.borrow_mut();
        let mut unbegun = Vec::new();
        let mut away = Vec::new();
        for (task, in_hand) in &mut tasks.in_hand {
            in_hand.copies.retain(|ticket| !gone(ticket));
            if !in_hand.ticket.as_ref().is_some_and(&gone) {
                continue;
            }
            in_hand.ticket = in_hand.copies.pop();
            if in_hand.ticket.is_some() {
                continue;
            }
            if in_hand.claim.withdraw() {
                unbegun.push(*task);
            } else {
                in_hand.been_away = true;
                in_hand.watches.drain(..).for_each(Watch::tell);
                away.push((in_hand.queue.to_string(), in_hand.properties.message_id.clone()));
            }
        }
        for task in unbegun {
            tasks.take(task);
        }
        drop(tasks);
        for (queue, message_id) in away {
            self.say(Event::OwnershipLost { queue, message_id });
        }
    }

    pub(super) fn watch_task(&self, task: TaskId, watch: Watch) {
        if let Some(in_hand) = self.tasks.borrow_mut().in_hand.get_mut(&task) {
            // Guards: a loss before anybody watched.
            if in_hand.been_away {
                watch.tell();
            } else {
                in_hand.watches.push(watch);
            }
        }
    }

    /// Gives a task to the next subscriber that is still there; after the last it goes back, with a pause.
    fn offer(self: &Rc<Self>, task: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(in_hand) = tasks.in_hand.get_mut(&task) else { return };
        while let Some(sink) = in_hand.left.next() {
            let offered = in_hand.delivery(&self.shared, task);
            match sink.send(offered) {
                Ok(()) => return,
                // Its home has ended; the next one may still be there.
                Err(refused) => refused.0.hold.release(),
            }
        }
        drop(tasks);
        self.requeue(task, Requeue::AfterPause);
    }

    pub(super) fn settle(self: &Rc<Self>, task: TaskId, settlement: Settlement) {
        match settlement {
            Settlement::Done { reply } => {
                let Some(in_hand) = self.tasks.borrow_mut().take(task) else { return };
                self.end_task(in_hand, reply);
            }
            Settlement::Rejected => self.offer(task),
            Settlement::Requeue(how) => self.requeue(task, how),
            Settlement::TryAgain { reason, reply } => self.try_again(task, &reason, reply),
            Settlement::Quarantine { reason, reply } => self.quarantine(task, reason, reply),
        }
    }

    /// As kiwipy: acknowledged, then answered. While it is away it is only answered, and acknowledged when it comes again.
    fn end_task(self: &Rc<Self>, in_hand: InHand, reply: Option<OutgoingReply>) {
        if let Some(id) = in_hand.properties.message_id {
            let mut tasks = self.tasks.borrow_mut();
            tasks.tried.remove(&id);
            tasks.outcomes.remember(id, reply.clone());
        }
        in_hand.ticket.into_iter().chain(in_hand.copies).for_each(|ticket| self.ack(ticket));
        let leases = in_hand.lease.queues;
        if leases.is_empty() {
            if let Some(reply) = reply {
                self.send_reply(reply);
            }
        } else {
            self.spawn_publish((), move |driver| async move {
                driver.end_leases(&leases).await;
                if let Some(reply) = reply {
                    driver.send_reply(reply);
                }
            });
        }
        self.place_is_free(&in_hand.queue);
    }

    fn requeue(self: &Rc<Self>, task: TaskId, how: Requeue) {
        let Some(in_hand) = self.tasks.borrow_mut().take(task) else { return };
        self.place_is_free(&in_hand.queue);
        if in_hand.lease.stands() {
            let queue = in_hand.queue.to_string();
            return self.spawn_publish((), move |driver| async move {
                driver.move_task(queue, &in_hand, &[(LEASE, (in_hand.lease.times + 1).to_string())]).await;
            });
        }
        // The broker needs one of them back.
        in_hand.copies.into_iter().for_each(|ticket| self.ack(ticket));
        let Some(ticket) = in_hand.ticket else { return };
        match how {
            Requeue::AtOnce => self.nack(ticket, Nack::Requeue),
            Requeue::AfterPause => {
                let pause = self.tasks.borrow_mut().pause(in_hand.properties.message_id.as_ref());
                self.spawn(move |driver| async move {
                    tokio::time::sleep(pause).await;
                    driver.nack(ticket, Nack::Requeue);
                });
            }
        }
    }

    /// Another attempt after a pause: a copy that counts goes back, and when the broker has it, the original is done with.
    fn try_again(self: &Rc<Self>, task: TaskId, reason: &str, reply: Option<OutgoingReply>) {
        let attempt = self.tasks.borrow().in_hand.get(&task).map(|in_hand| in_hand.attempt);
        let Some(Attempt::Exactly(attempt) | Attempt::AtLeast(attempt)) = attempt else { return };
        if attempt >= self.limits.task_attempts {
            return self.quarantine(task, format!("given up after {attempt} attempts: {reason}"), reply);
        }
        let pause = self.limits.retry_pause.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_RETRY);
        tracing::info!(reason, attempt, ?pause, "a task is to be tried again");
        self.spawn(move |driver| async move {
            tokio::time::sleep(pause).await;
            let Some(in_hand) = driver.tasks.borrow_mut().take(task) else { return };
            driver.place_is_free(&in_hand.queue);
            let marks = [(ATTEMPT, (attempt + 1).to_string())];
            driver.move_task(in_hand.queue.to_string(), &in_hand, &marks).await;
        });
    }

    /// Puts a copy of a task into a queue; when the broker has it, the original is done with. True when that is done. What is
    /// away by now the broker hands out again of itself.
    async fn move_task(&self, to: String, in_hand: &InHand, marks: &[(&'static str, String)]) -> bool {
        let Some(link) = self.supply.now() else { return false };
        let stands = in_hand.ticket.is_some_and(|ticket| ticket.generation == link.generation);
        if !stands && !in_hand.lease.stands() {
            return false;
        }
        match self.publish_to_queue(&link, to, &in_hand.properties, marks, in_hand.body.clone()).await {
            Ok(()) => {
                in_hand.ticket.iter().chain(&in_hand.copies).for_each(|ticket| self.ack(*ticket));
                self.end_leases(&in_hand.lease.queues).await;
                true
            }
            // Then the broker hands it out again of itself.
            Err(error) if is_lost(&error) => false,
            Err(error) => {
                tracing::error!(queue = %in_hand.queue, %error, "a task could not be moved, and goes back");
                tokio::time::sleep(LONGEST_PAUSE).await;
                in_hand.ticket.into_iter().for_each(|ticket| self.nack(ticket, Nack::Requeue));
                false
            }
        }
    }

    fn quarantine(self: &Rc<Self>, task: TaskId, reason: String, reply: Option<OutgoingReply>) {
        let Some(in_hand) = self.tasks.borrow_mut().take(task) else { return };
        self.place_is_free(&in_hand.queue);
        self.spawn(move |driver| async move {
            let queue = in_hand.queue.to_string();
            let marks =
                [("homing-quarantine-reason", reason.clone()), ("homing-quarantine-queue", in_hand.queue.to_string())];
            let spec = driver.shared.names.quarantine_queue(&queue);
            let declared = match driver.supply.now() {
                Some(link) => link.broker.declare_queue(&spec).await,
                None => return,
            };
            if let Err(error) = declared {
                tracing::error!(queue, %error, "there is no quarantine queue to be had, and a task goes back");
                tokio::time::sleep(LONGEST_PAUSE).await;
                return in_hand.ticket.into_iter().for_each(|ticket| driver.nack(ticket, Nack::Requeue));
            }
            if driver.move_task(spec.name, &in_hand, &marks).await {
                count(&driver.shared.counters.tasks_quarantined);
                tracing::warn!(queue, reason, "a task was put into quarantine");
                driver.say(Event::Quarantined { queue, reason });
                if let Some(reply) = reply {
                    driver.send_reply(reply);
                }
            }
        });
    }

    /// Takes one task out, if there is one.
    pub(super) async fn take_task(self: &Rc<Self>, queue: &QueueName) -> Result<Option<TaskDelivery>> {
        let lane = self.tasks.borrow_mut().queue(queue, &self.next_lane).pull_lane;
        let take = self.on_a_link(async |link| {
            self.task_queue(link, queue).await?;
            while let Some(delivery) = link.broker.get(queue, lane).await? {
                if let Some(delivery) = self.is_new(link, delivery) {
                    return Ok(Some(self.hold(link, queue, delivery)));
                }
            }
            Ok(None)
        });
        self.in_time("taking a task", take).await
    }

    /// Waits for a task: a consumer for one message, so that it comes at once and nobody polls.
    pub(super) async fn await_task(
        self: &Rc<Self>,
        queue: &QueueName,
        patience: Duration,
    ) -> Result<Option<TaskDelivery>> {
        let until = tokio::time::Instant::now() + patience;
        let mut failed = Generation::default();
        loop {
            // Without a connection there is no task, but there may be one before the time is up.
            let Ok(link) = tokio::time::timeout_at(until, self.link_after(failed)).await else { return Ok(None) };
            let link = link?;
            match self.await_task_on(&link, queue, until).await {
                Err(error) if is_lost(&error) => failed = link.generation,
                Ok(Some(delivery)) => {
                    if let Some(delivery) = self.is_new(&link, delivery) {
                        return Ok(Some(self.hold(&link, queue, delivery)));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn await_task_on(
        &self,
        link: &Rc<Link<B>>,
        queue: &QueueName,
        until: tokio::time::Instant,
    ) -> Result<Option<Delivery>> {
        self.task_queue(link, queue).await?;
        let lane = self.tasks.borrow_mut().queue(queue, &self.next_lane).pull_lane;
        let tag = Uuid::new_v4().to_string();
        let (waiting, mut came) = oneshot::channel();
        link.consumers.borrow_mut().insert(tag.clone(), Consumer::Pull(waiting));
        let consume = ConsumeSpec {
            queue: queue.to_string(),
            tag: tag.clone(),
            lane,
            acknowledge: Acknowledge::Manual { prefetch: 1 },
        };
        let started = link.broker.consume(&consume).await;
        if let Err(error) = started {
            link.consumers.borrow_mut().remove(&tag);
            return Err(error);
        }
        let delivery = tokio::time::timeout_at(until, &mut came).await.ok().and_then(Result::ok);
        let ended = link.end_consumer(&tag).await;
        // Guards: a task that came while the consumer was being cancelled. It is taken, not lost.
        match delivery.or_else(|| came.try_recv().ok()) {
            Some(delivery) if self.is_now(link) => Ok(Some(delivery)),
            _ => ended.map(|()| None),
        }
    }

    fn hold(self: &Rc<Self>, link: &Link<B>, queue: &QueueName, delivery: Delivery) -> TaskDelivery {
        let mut in_hand = InHand::new(queue, link.ticket(delivery.receipt), delivery, Vec::new());
        let mut tasks = self.tasks.borrow_mut();
        let held = in_hand.delivery(&self.shared, tasks.next());
        // Whoever pulls it has it: there is no way between on which it could be withdrawn.
        in_hand.claim.take();
        tasks.insert(held.hold.task, in_hand);
        drop(tasks);
        self.look_after(held.hold.task);
        held
    }
}
