//! What comes in: commands of handles and subscribers, and events of the broker.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::command::{
    BroadcastOutcome, Closing, CodecWork, Command, Expected, Extras, PullId, QueueName, Repeat, RequestEnd,
    TaskDelivery, TaskReply, Turn,
};
use super::connection::KEYS_LANE;
use super::outbox::{Kind, Marked, Stream};
use super::port::{ChannelCause, Charge, ConnectionEvent, ConnectionState, count, count_many};
use super::requests::{Arrived, Ended, Next};
use super::subscriptions::{Key, Probed, Route};
use super::tasks::{self, Cause, Channel, DeliveryTag, Generation, Input, Settlement, TaskMessage};
use super::{Completer, Driver, End, Phase, RawReply, Result};
use crate::broker::{
    Body, Broker, BrokerEvent, Delivery, Durability, Lane, Message, Nack, Origin, Properties, Receipt, Routing,
};
use crate::error::{Error, ErrorKind};
use crate::wire::headers::{Control, TraceHeaders};
use crate::wire::names::{ANSWERS_KEY, Exchange, Identifier};

/// How many answers are asked for in one message.
const ASKED_AT_ONCE: usize = 1000;

/// What a message has beside its content.
struct Sending {
    published: Option<super::Done>,
    charge: Charge,
    extras: Extras,
}

impl<B: Broker> Driver<B> {
    pub(super) fn on_command(&mut self, command: Command) -> Option<End> {
        // Read where it is needed, which is not for most commands.
        let now = Instant::now;
        match command {
            Command::Call { recipient, body, expected, published, repeat, charge, extras } => {
                self.send_call(recipient, body, expected, repeat, Sending { published, charge, extras });
            }
            Command::Task { queue, body, reply, published, charge, extras } => {
                self.send_task(queue, body, reply, Sending { published, charge, extras });
            }
            Command::Broadcast { body, routing, published, until, charge, extras } => {
                let kind = Kind::Broadcast { published };
                let mut properties = request(None);
                extras.write(&mut properties);
                let message = self.message(Exchange::Message, Arc::clone(&self.broadcast_key), properties, body);
                let message = Message { routing, ..message };
                self.send(Stream::Broadcasts, kind, message, charge, Some(until));
            }
            Command::NextReply { correlation, reply } => match self.requests.next(correlation, reply) {
                Next::Kept(reply, body) => complete(reply, Ok(body)),
                Next::Waits => {}
                Next::Ended(reply) => {
                    let error = if self.port.has_ended() { self.port.gone() } else { asked_too_late() };
                    complete(reply, Err(error));
                }
            },
            Command::Forget { correlation, end } => self.forget(correlation, end),
            Command::Subscribe { id, subscription, done } => {
                self.subscriptions.subscribe(id, subscription, done, now());
            }
            Command::Unsubscribe { name, done } => self.subscriptions.unsubscribe(&name, done, now()),
            Command::SubscriberEnded { id, served_by } => self.subscriptions.subscriber_ended(id, served_by, now()),
            Command::Pull { id, queue, wait, done } => {
                self.pulls.insert(id, done);
                self.subscriptions.pull(id, queue, wait, now());
            }
            Command::CancelPull { id } => self.cancel_pull(id),
            Command::Ack { tag } => self.ack(tag),
            Command::BroadcastDone { tag, outcome: BroadcastOutcome::HandedOut } => self.ack(tag),
            Command::BroadcastDone { tag, outcome: BroadcastOutcome::Unreadable } => self.nack(tag, Nack::Discard),
            Command::Reply { reply, sent } => self.send_reply_and(reply, sent),
            Command::CallEnded { call } => self.callers.ended(call),
            Command::Settle { task, settlement } => self.step_tasks(Input::Settled { hand: task, settlement }),
            Command::StartTimer { id, at, expiry } => self.timers.start(id, at, expiry),
            Command::CancelTimer { id } => self.timers.cancel(id),
            #[cfg(test)]
            Command::Panic => panic!("a fault that a test has put in"),
            Command::Close { how, done } => {
                self.closers.extend(done);
                match (self.phase, how) {
                    (Phase::Open, Closing::Drain(drain)) => return Some(End::Closed { drain }),
                    (Phase::Open, Closing::LastHandle) => return Some(End::Closed { drain: Duration::ZERO }),
                    // Another close ends the drain where it is to take no longer.
                    (Phase::Draining, Closing::Drain(drain)) => {
                        let until = crate::time::after(now(), drain);
                        self.drain_until = Some(self.drain_until.map_or(until, |known| known.min(until)));
                    }
                    (Phase::Draining, Closing::LastHandle) | (Phase::Closing, _) => {}
                }
            }
        }
        None
    }

    pub(super) fn on_event(&mut self, event: BrokerEvent) -> Option<End> {
        let now = Instant::now();
        match event {
            BrokerEvent::Published { id, outcome } => {
                let peers = self.peers();
                self.outbox.published(id, outcome, peers, now);
            }
            BrokerEvent::Delivery { consumer, delivery } => self.on_delivery(&consumer, delivery, now),
            BrokerEvent::ConsumerCancelled { consumer } => self.subscriptions.cancelled(&consumer, now),
            BrokerEvent::LaneClosed { lane, opening, consumers, error } => {
                self.on_lane_closed(lane, opening, &consumers, error);
            }
            BrokerEvent::Blocked { reason } => {
                crate::log::warn!(reason, "the broker reads no messages for now");
                self.port.set_state(ConnectionState::Blocked);
                self.emit(&ConnectionEvent::Blocked { reason });
            }
            BrokerEvent::Unblocked => {
                crate::log::info!("the broker reads messages again");
                self.port.set_state(ConnectionState::Connected);
                self.emit(&ConnectionEvent::Unblocked);
            }
            // Whoever waited for it may have been given up.
            BrokerEvent::Barrier(passed) => drop(passed.send(())),
            BrokerEvent::Lost { error } => return self.on_lost(error),
        }
        None
    }

    fn on_delivery(&mut self, consumer: &str, delivery: Delivery, now: Instant) {
        let Some(route) = self.subscriptions.route(consumer) else {
            // Its consumer was ended here, and it was on its way.
            crate::log::debug!(consumer, "a delivery for a consumer that has ended goes back");
            if let Some(connection) = self.session.now() {
                connection.give_back(delivery.receipt);
            }
            return;
        };
        match route {
            Route::Replies => self.on_reply(delivery, now),
            Route::Control => self.on_control(&delivery),
            Route::Broadcasts => {
                if let Some(tag) = self.tag(delivery.receipt) {
                    let trace = TraceHeaders::of(&delivery.properties);
                    self.codec.hand(CodecWork::Broadcast { tag, body: delivery.body, trace });
                }
            }
            Route::Rpc(identifier) => {
                let identifier = identifier.clone();
                self.on_call(&identifier, delivery);
            }
            Route::Tasks(queue) => {
                let queue = queue.clone();
                self.on_task(queue, delivery);
            }
            Route::Pull(pull) => {
                let pull = *pull;
                self.on_pulled(pull, delivery);
            }
        }
    }

    /// By what a delivery of the present connection is settled.
    fn tag(&self, receipt: Receipt) -> Option<DeliveryTag> {
        let generation = self.session.now()?.generation;
        let channel = Channel { generation, lane: receipt.lane.0, incarnation: receipt.opening };
        Some(DeliveryTag { channel, number: receipt.tag })
    }

    fn receipt(tag: DeliveryTag) -> Receipt {
        Receipt { lane: Lane(tag.channel.lane), opening: tag.channel.incarnation, tag: tag.number }
    }

    /// Guards: an acknowledgement that would name another message on a newer connection.
    pub(super) fn ack(&self, tag: DeliveryTag) {
        match self.session.of(tag.channel.generation) {
            Some(connection) => connection.broker.ack(Self::receipt(tag)),
            None => crate::log::trace!(?tag, "an acknowledgement for a lost connection was dropped"),
        }
    }

    pub(super) fn nack(&self, tag: DeliveryTag, then: Nack) {
        match self.session.of(tag.channel.generation) {
            Some(connection) => connection.broker.nack(Self::receipt(tag), then),
            None => crate::log::trace!(?tag, "a refusal for a lost connection was dropped"),
        }
    }

    // Requests and their replies.

    fn send_call(
        &mut self,
        recipient: Identifier,
        body: Body,
        expected: Expected,
        repeat: Repeat,
        Sending { published, charge, extras }: Sending,
    ) {
        let correlation = expected.correlation;
        let sender_until = expected.sender_until(published.as_ref());
        let subject = super::command::Subject::Call(recipient.clone());
        if self.expect(subject, expected) {
            let mut properties = request(Some(crate::ids::text(correlation)));
            extras.write(&mut properties);
            let message = self.message(Exchange::Message, recipient.routing_key(), properties, body);
            let kind = Kind::Call { correlation, recipient, repeat, published };
            self.outbox.send_request(Stream::Calls, kind, message, charge, None, sender_until);
        } else {
            self.refuse(published, charge);
        }
    }

    fn send_task(
        &mut self,
        queue: QueueName,
        body: Body,
        reply: TaskReply,
        Sending { published, charge, extras }: Sending,
    ) {
        // A task is wanted even when its sender has gone: others may have gone on because of it.
        let (correlation, until, sender_until) = match reply {
            TaskReply::Expected(expected) => {
                let correlation = expected.correlation;
                let sender_until = expected.sender_until(published.as_ref());
                if !self.expect(super::command::Subject::Task(queue.clone()), expected) {
                    return self.refuse(published, charge);
                }
                (Some(correlation), None, sender_until)
            }
            TaskReply::NotWanted { until } => (None, Some(until), None),
        };
        if self.phase == Phase::Closing {
            return self.refuse(published, charge);
        }
        // kiwipy names a correlation id even where no reply is wanted.
        let id = crate::ids::text(correlation.unwrap_or_else(crate::ids::unique));
        let mut properties = request(Some(id));
        let (first_to, unique) = extras.write(&mut properties);
        let mut message = Message {
            durability: Durability::Durable,
            ..self.message(Exchange::Task, first_to.clone().unwrap_or(queue.clone()), properties, body)
        };
        if let Some(delay_queue) = &first_to {
            // By the default exchange, which routes by the queue's name.
            message.exchange = "".into();
            // Guards: a delay queue that expires with what lies in it. Only a declaration counts as its use.
            self.outbox.close_stream_of(delay_queue);
        }
        let stream = Stream::Tasks(first_to.unwrap_or_else(|| queue.clone()));
        let Some(key) = unique else {
            let kind = Kind::Task { correlation, published, key: None };
            return self.outbox.send_request(stream, kind, message, charge, until, sender_until);
        };
        let marker = Message {
            exchange: "".into(),
            routing_key: Arc::clone(&key.marker),
            properties: Properties { message_id: Some(message_id()), ..Properties::default() },
            body: Body::Encoded(bytes::Bytes::new()),
            routing: Routing::Mandatory,
            durability: Durability::Durable,
            origin: Origin::Sent,
        };
        // Guards: a marker queue that expires with its marker. Only a declaration counts as its use.
        self.outbox.close_stream_of(&key.marker);
        let marker_stream = Stream::Tasks(Arc::clone(&key.marker));
        let kind = Kind::Marker(Box::new(Marked {
            key,
            queue,
            stream,
            message,
            correlation,
            published,
            since: Instant::now(),
        }));
        self.outbox.send_request(marker_stream, kind, marker, charge, until, sender_until);
    }

    /// Registers a request. False when the communicator takes nothing new any more.
    fn expect(&mut self, subject: super::command::Subject, expected: Expected) -> bool {
        let Expected { correlation, reply, timeout, due } = expected;
        if self.phase == Phase::Closing {
            complete(reply, Err(self.port.gone()));
            return false;
        }
        self.requests.add(correlation, subject, reply, timeout, due, Instant::now());
        true
    }

    fn refuse(&self, published: Option<super::Done>, charge: Charge) {
        self.port.release(charge);
        if let Some(published) = published {
            drop(published.complete(Err(self.port.gone())));
        }
    }

    fn message(&self, exchange: Exchange, routing_key: Arc<str>, properties: Properties, body: Body) -> Message {
        Message {
            exchange: self.port.names.exchange_name(exchange).clone(),
            routing_key,
            properties,
            body,
            routing: Routing::Mandatory,
            durability: Durability::Transient,
            origin: Origin::Sent,
        }
    }

    pub(super) fn send(
        &mut self,
        stream: Stream,
        kind: Kind<super::Done>,
        message: Message,
        charge: Charge,
        until: Option<Instant>,
    ) {
        if self.phase == Phase::Closing
            && let Kind::Broadcast { published } = kind
        {
            return self.refuse(Some(published), charge);
        }
        self.outbox.send(stream, kind, message, charge, until);
    }

    fn on_reply(&mut self, delivery: Delivery, now: Instant) {
        let Delivery { properties, body, .. } = delivery;
        let correlation = properties.correlation_id.as_deref().and_then(|id| uuid::Uuid::try_parse(id).ok());
        let arrived = correlation.map(|id| self.requests.reply(id, body, now));
        match arrived {
            Some(Arrived::For(reply, body)) => complete(reply, Ok(body)),
            Some(Arrived::Kept { pushed_out }) => count_many(&self.port.counters.late_replies, pushed_out as u64),
            _ if Control::Probe.is(&properties) => {}
            _ => {
                count(&self.port.counters.late_replies);
                crate::log::debug!(
                    correlation = correlation.map(tracing::field::display),
                    "a reply was dropped: nobody waits for it"
                );
            }
        }
    }

    fn forget(&mut self, correlation: uuid::Uuid, end: RequestEnd) {
        let Some(ended) = self.requests.end(correlation) else { return };
        count_many(&self.port.counters.late_replies, ended.unread as u64);
        if end == RequestEnd::GivenUp {
            self.give_up_call(&ended, Error::new(ErrorKind::Cancelled, "the call was given up before it was sent"));
        }
    }

    /// Ends a request with an error.
    pub(super) fn end_request(&mut self, mut ended: Ended<Completer<RawReply>>, error: &Error) {
        if let Some(reply) = ended.reply.take() {
            complete(reply, Err(error.clone()));
        }
        self.give_up_call(&ended, error.clone());
    }

    /// Nobody waits for this call any more: it need not go out, and whoever works on it is notified.
    fn give_up_call(&mut self, ended: &Ended<Completer<RawReply>>, error: Error) {
        let Some(recipient) = ended.recipient().cloned() else { return };
        self.outbox.forget_call(ended.correlation, error);
        let Some(routing_key) = recipient.gone_key().filter(|_| self.session.now().is_some()) else { return };
        let properties = Properties {
            correlation_id: Some(crate::ids::text(ended.correlation)),
            ..Control::CallerGone.properties()
        };
        let message = Message {
            routing: Routing::Optional,
            origin: Origin::Handling,
            ..self.message(Exchange::Message, routing_key.into(), properties, Body::Encoded(bytes::Bytes::new()))
        };
        // In the stream of calls, so that it does not overtake its call.
        self.outbox.send(Stream::Calls, Kind::Notice, message, Charge::NOTHING, None);
    }

    /// Replies go out in the order in which they come, `pending` before the outcome.
    pub(super) fn send_reply(&mut self, reply: super::command::OutgoingReply) {
        self.send_reply_and(reply, None);
    }

    fn send_reply_and(&mut self, reply: super::command::OutgoingReply, sent: Option<super::Done>) {
        if reply.stage == super::command::ReplyStage::Last {
            if let Some(call) = reply.call {
                self.callers.ended(call);
            }
            self.answers.remember(&reply);
            self.subscriptions.answered(Instant::now);
        }
        let super::command::OutgoingReply { exchange, reply_to, correlation_id, stage, body, .. } = reply;
        let kind = Kind::Reply { stage, correlation: correlation_id.clone(), late: None, sent };
        let message =
            Message { origin: Origin::Handling, ..self.message(exchange, reply_to, request(correlation_id), body) };
        self.outbox.send(Stream::Replies(exchange), kind, message, Charge::NOTHING, None);
    }

    // Messages among communicators of homing.

    /// A caller asks for answers that it may have lost.
    fn on_control(&mut self, delivery: &Delivery) {
        let (true, Body::Encoded(body)) = (Control::AnswerAgain.is(&delivery.properties), &delivery.body) else {
            return;
        };
        let Ok(text) = std::str::from_utf8(body) else { return };
        for correlation in text.lines().take(ASKED_AT_ONCE) {
            if let Some(reply) = self.answers.of(correlation).cloned() {
                count(&self.port.counters.answered_again);
                crate::log::debug!(correlation, "an answer that may have been lost is sent again");
                self.send_reply(reply);
            }
        }
    }

    /// Asks for the answers to requests whose reply queue was away.
    pub(super) fn ask_for_lost_answers(&mut self, queue: &Arc<str>, step: usize, now: Instant) {
        let waiting = self.requests.answered_to(queue);
        if waiting.is_empty() {
            return;
        }
        for some in waiting.chunks(ASKED_AT_ONCE) {
            let ids: Vec<String> = some.iter().map(ToString::to_string).collect();
            let body = Body::Encoded(bytes::Bytes::from(ids.join("\n")));
            let message = Message {
                routing: Routing::Optional,
                origin: Origin::Handling,
                ..self.message(Exchange::Message, ANSWERS_KEY.into(), Control::AnswerAgain.properties(), body)
            };
            self.outbox.send(Stream::Direct, Kind::Notice, message, Charge::NOTHING, None);
        }
        self.plan_ask(queue.clone(), step + 1, now);
    }

    pub(super) fn plan_ask(&mut self, queue: Arc<str>, step: usize, now: Instant) {
        if let Some(pause) = super::ASKS.get(step) {
            self.asks.insert((crate::time::after(now, *pause), queue), step);
        }
    }

    /// Writes to itself by each way that others write to it: what comes back shows that a binding is gone, of which no broker
    /// tells.
    pub(super) fn probe(&mut self) {
        // Guards: a silent connection that would have more of them as long as it lasts.
        if self.outbox.is_probing() {
            return;
        }
        for Probed { exchange, queue, turn } in self.subscriptions.probed() {
            let nothing = Body::Encoded(bytes::Bytes::new());
            let message = Message {
                origin: Origin::Handling,
                ..self.message(exchange, queue, Control::Probe.properties(), nothing)
            };
            self.outbox.send(Stream::Direct, Kind::Probe(turn), message, Charge::NOTHING, None);
        }
    }

    // Subscribers.

    fn on_call(&mut self, identifier: &Identifier, delivery: Delivery) {
        let Some(tag) = self.tag(delivery.receipt) else { return };
        if Control::CallerGone.is(&delivery.properties) {
            self.ack(tag);
            if let Some(correlation) = delivery.properties.correlation_id {
                self.callers.gone(correlation);
            }
            return;
        }
        if delivery.redelivered && self.answer_again(&delivery.properties) {
            return self.ack(tag);
        }
        self.last_call += 1;
        let call = match self.callers.takes(super::command::CallId(self.last_call), tag, delivery) {
            super::callers::Taken::New(call) => call,
            super::callers::Taken::InHand => return self.ack(tag),
            super::callers::Taken::Void => return,
        };
        let sink = self.subscriptions.rpc_sink(identifier).filter(|_| self.phase == Phase::Open);
        let undelivered = match sink {
            Some(sink) => sink.send(call).err().map(|refused| refused.0),
            None => Some(call),
        };
        if let Some(call) = undelivered {
            // Nobody serves it. Nothing of it is touched or dropped on this thread.
            self.codec.hand(CodecWork::Refuse(call));
        }
    }

    /// A call that comes again after it was answered here gets the same answer.
    fn answer_again(&mut self, properties: &Properties) -> bool {
        let known = properties.correlation_id.as_deref().and_then(|correlation| self.answers.of(correlation));
        let same = known.filter(|reply| Some(&reply.reply_to) == properties.reply_to.as_ref()).cloned();
        let is_known = same.is_some();
        if let Some(reply) = same {
            count(&self.port.counters.answered_again);
            self.send_reply(reply);
        }
        is_known
    }

    fn on_task(&mut self, queue: QueueName, delivery: Delivery) {
        let Some(tag) = self.tag(delivery.receipt) else { return };
        let Delivery { redelivered, properties, body, .. } = delivery;
        let message = TaskMessage::new(properties, body);
        self.subscriptions.task_came(tag.channel);
        self.step_tasks(Input::Delivered(tasks::Delivery { queue, tag, message, redelivered }));
    }

    /// A task has come for somebody who pulls.
    fn on_pulled(&mut self, pull: PullId, delivery: Delivery) {
        let now = Instant::now();
        let Some(tag) = self.tag(delivery.receipt) else { return };
        let queue = self.subscriptions.pulled_from(pull).filter(|_| self.pulls.contains_key(&pull));
        let Some(queue) = queue else {
            // Guards: a close, which takes in what has come before it goes on. A task that is put back comes again at once, as
            // long as the consumer of the pull is there; the end of the connection puts it back too.
            if self.phase != Phase::Closing {
                self.nack(tag, Nack::Requeue);
            }
            return;
        };
        let Delivery { redelivered, properties, body, .. } = delivery;
        let message = TaskMessage::new(properties, body);
        // What the book wanted before is done first: the next task that it hands out is this one.
        self.perform();
        self.subscriptions.task_came(tag.channel);
        self.step_tasks(Input::Pulled(tasks::Delivery { queue, tag, message, redelivered }));
        match self.take_handed() {
            Some(handed) => self.hand_to(pull, tag, handed),
            // It was no new task.
            None => self.subscriptions.pull_again(pull, now),
        }
    }

    fn take_handed(&mut self) -> Option<tasks::Handed> {
        let at = self.actions.iter().position(|action| matches!(action, tasks::Action::Hand(_)))?;
        match self.actions.remove(at) {
            tasks::Action::Hand(handed) => Some(handed),
            _ => None,
        }
    }

    fn hand_to(&mut self, pull: PullId, tag: DeliveryTag, handed: tasks::Handed) {
        let now = Instant::now();
        let (hand, claim) = (handed.hand, handed.claim.clone());
        let delivery = TaskDelivery { ownership_lost: self.ownership_signal(hand.task), handed };
        self.unclaimed.retain(|_, (_, claim)| !claim.is_taken());
        self.unclaimed.insert(pull, (hand, claim));
        let delivered = self.pulls.remove(&pull).map(|done| done.complete(Ok(Some(delivery))));
        if !matches!(delivered, Some(Ok(()))) {
            self.let_go(pull, Cause::HomeEnded);
        }
        self.subscriptions.end_pull(pull, now);
        if self.subscriptions.is_ending(&Key::Pull(pull)) {
            self.pulled.insert(tag, pull);
        }
    }

    /// A task that nobody has begun goes back.
    fn let_go(&mut self, pull: PullId, cause: Cause) {
        if let Some((hand, claim)) = self.unclaimed.remove(&pull)
            && claim.withdraw()
        {
            self.step_tasks(Input::Settled { hand, settlement: Settlement::Dropped(cause) });
        }
    }

    fn cancel_pull(&mut self, pull: PullId) {
        drop(self.pulls.remove(&pull));
        self.subscriptions.end_pull(pull, Instant::now());
        self.let_go(pull, Cause::LetGo);
    }

    /// One look into a queue has ended.
    pub(super) fn on_got(&mut self, key: &Key, turn: Turn, generation: Generation, outcome: Result<Option<Delivery>>) {
        let now = Instant::now();
        let (delivery, outcome) = match outcome {
            Ok(delivery) => (delivery, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let wanted = self.subscriptions.got(key, turn, &outcome, now);
        let Key::Pull(pull) = key else { return };
        // A delivery of a connection that is gone is the broker's again.
        let delivery = delivery.filter(|_| self.session.of(generation).is_some());
        match delivery {
            Some(delivery) if wanted => self.on_pulled(*pull, delivery),
            Some(delivery) => {
                if let Some(tag) = self.tag(delivery.receipt) {
                    self.nack(tag, Nack::Requeue);
                }
            }
            None if wanted => self.nothing_pulled(*pull, Ok(())),
            None => {}
        }
    }

    pub(super) fn nothing_pulled(&mut self, pull: PullId, outcome: Result<()>) {
        self.subscriptions.end_pull(pull, Instant::now());
        if let Some(done) = self.pulls.remove(&pull) {
            drop(done.complete(outcome.map(|()| None)));
        }
    }

    /// The server closed a channel: what it had handed out by it is back in the queues.
    fn on_lane_closed(&mut self, lane: Lane, opening: u32, consumers: &[String], error: Error) {
        let Some(generation) = self.session.now().map(|connection| connection.generation) else { return };
        let channel = Channel { generation, lane: lane.0, incarnation: opening };
        self.step_tasks(Input::ChannelClosed(channel));
        self.callers.channel_closed(channel);
        self.subscriptions.tasks_gone(channel);
        if lane == KEYS_LANE {
            // Nobody has anything by it, and whoever asked has the error.
            return;
        }
        let queue = self.subscriptions.channel_closed(consumers, Instant::now()).map(|queue| queue.to_string());
        let cause = ChannelCause::of(&error);
        crate::log::warn!(lane = lane.0, queue, ?cause, %error, "the broker closed a channel");
        self.emit(&ConnectionEvent::ChannelClosed { queue, cause, error });
    }
}

fn complete(reply: Completer<RawReply>, outcome: RawReply) {
    // A home that has ended hands the bytes back, and they are dropped here.
    drop(reply.complete(outcome));
}

fn asked_too_late() -> Error {
    Error::new(ErrorKind::TimedOut, "the answer after `pending` was asked for too late: its time had passed")
}

/// Properties as kiwipy sends them: a random message id, as hex digits.
fn request(correlation_id: Option<Arc<str>>) -> Properties {
    Properties { message_id: Some(message_id()), correlation_id, ..Properties::default() }
}

pub(super) fn message_id() -> Arc<str> {
    crate::ids::digits(crate::ids::unique())
}
