//! Exchanges, queues, bindings and messages of one broker on another one, exactly as they are.
//!
//! Messages do not go through [`Message`](crate::broker::Message), which is what a communicator sends: what lapin has read it writes
//! again, so that every property is the same, those included that are not there. What has been delivered before says so by one header
//! more, for the target does not know.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use homing_broker::engine::{
    Access, Arguments, AutoDelete, Binding, Destination, Durability, ExchangeKind, ExchangeSpec, Field, Publishers,
    QueueSpec,
};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldTable};
use lapin::{Channel, Confirmation};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::message::properties;
use super::topology::{settle, short};
use super::{RabbitMq, Shared, errors};
use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::headers;

/// How long a server may take to answer one question.
const QUESTION: Duration = Duration::from_secs(30);
/// How long the target may take to confirm the next message.
const CONFIRM: Duration = Duration::from_secs(60);
/// How long the source may deliver nothing although messages wait.
const DELIVER: Duration = Duration::from_secs(10);
/// After so long without news it is checked how things stand.
const SILENCE: Duration = Duration::from_millis(200);
/// When the end is asked for, how long the messages in hand may take to be on one broker and not on both.
const LAST: Duration = Duration::from_millis(200);

/// What exchanges are called by which messages reach one queue alone, whatever their routing keys are.
const DETOUR: &str = "homing.move.";

/// The longest name of an exchange.
const LONGEST: usize = 255;

/// What came of the messages of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// So many are on the target and not on the source any more.
    pub moved: u64,
    /// So many stay on the source, for they cannot be sent as they are.
    pub kept: u64,
    /// Why the first of them cannot.
    pub why_kept: Option<String>,
    /// Whether it went on to the end of the queue. If not, the end was asked for.
    pub is_whole: bool,
}

/// What there is on a broker under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// Nothing.
    Absent,
    /// The same as is asked for. Of a queue, how many messages wait in it.
    Same(u32),
}

impl RabbitMq {
    /// Looks whether there is an exchange of this name. Nothing is created.
    ///
    /// # Errors
    /// `PreconditionFailed` where it is another one.
    pub(crate) async fn compare_with_exchange(&self, spec: &ExchangeSpec) -> Result<Found> {
        let name = short("exchange name", &*spec.name)?;
        let what = format!("look at the exchange {:?}", spec.name);
        let found = self.asked(&what, async |channel| {
            let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name, kind(spec), passive, FieldTable::default()).await
        });
        match found.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Absent),
            Err(error) => Err(error),
            // It is there, so that this changes nothing.
            Ok(()) => self.declare_same_exchange(spec).await.map(|()| Found::Same(0)),
        }
    }

    /// Declares an exchange as it is elsewhere.
    pub(crate) async fn declare_same_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        let name = short("exchange name", &*spec.name)?;
        let arguments = table(&spec.arguments)?;
        let options = ExchangeDeclareOptions {
            durable: spec.durability == Durability::Durable,
            auto_delete: spec.auto_delete == AutoDelete::Yes,
            internal: spec.publishers == Publishers::Exchanges,
            ..ExchangeDeclareOptions::default()
        };
        self.asked(&format!("declare the exchange {:?}", spec.name), async |channel| {
            channel.exchange_declare(name, kind(spec), options, arguments).await
        })
        .await
    }

    /// Looks whether there is a queue of this name. Nothing is created.
    ///
    /// # Errors
    /// `PreconditionFailed` where it is another one.
    pub(crate) async fn compare_with_queue(&self, spec: &QueueSpec) -> Result<Found> {
        match self.ready(&spec.name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Absent),
            Err(error) => Err(error),
            // It is there, so that this changes nothing.
            Ok(ready) => self.declare_same_queue(spec).await.map(|()| Found::Same(ready)),
        }
    }

    /// Declares a queue as it is elsewhere.
    pub(crate) async fn declare_same_queue(&self, spec: &QueueSpec) -> Result<()> {
        let name = short("queue name", &*spec.name)?;
        let arguments = table(&spec.arguments)?;
        let options = QueueDeclareOptions {
            durable: spec.durability == Durability::Durable,
            exclusive: spec.access == Access::Exclusive,
            auto_delete: spec.auto_delete == AutoDelete::Yes,
            ..QueueDeclareOptions::default()
        };
        self.asked(&format!("declare the queue {:?}", spec.name), async |channel| {
            channel.queue_declare(name, options, arguments).await.map(drop)
        })
        .await
    }

    /// Binds as it is elsewhere.
    pub(crate) async fn bind_same(&self, binding: &Binding) -> Result<()> {
        let (source, key) = (short("exchange name", &*binding.source)?, short("routing key", &*binding.key)?);
        let arguments = table(&binding.arguments)?;
        let (what, to) = match &binding.destination {
            Destination::Queue(name) => ("queue", name),
            Destination::Exchange(name) => ("exchange", name),
        };
        let named = short("name", &**to)?;
        let text = format!("bind the {what} {to:?} to the exchange {:?} by {:?}", binding.source, binding.key);
        self.asked(&text, async |channel| match &binding.destination {
            Destination::Queue(_) => {
                channel.queue_bind(named, source, key, QueueBindOptions::default(), arguments).await
            }
            Destination::Exchange(_) => {
                channel.exchange_bind(named, source, key, ExchangeBindOptions::default(), arguments).await
            }
        })
        .await
    }

    /// How many messages wait in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> Result<u32> {
        let name = short("queue name", queue)?;
        self.asked(&format!("look at the queue {queue:?}"), async |channel| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name, passive, FieldTable::default()).await.map(|found| found.message_count())
        })
        .await
    }

    /// Whether both are in one virtual host of one broker: a queue that this one has for itself is there for the other one too.
    pub(crate) async fn is_where(&self, other: &RabbitMq) -> Result<bool> {
        let name = format!("homing.same.{}", uuid::Uuid::new_v4());
        let own = QueueSpec { access: Access::Exclusive, durability: Durability::Transient, ..QueueSpec::new(&name) };
        self.declare_same_queue(&own).await?;
        let seen = other.ready(&name).await;
        Broker::delete_queue(self, &name).await?;
        match seen {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == ErrorKind::ResourceLocked => Ok(true),
            seen => seen.map(|_| true),
        }
    }

    /// Asks on a channel of its own, for a refusal closes it.
    async fn asked<T>(&self, what: &str, ask: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> Result<T> {
        let shared = &self.shared;
        asked(shared, what, async {
            let channel = shared.consuming.open_channel().await?;
            let answer = ask(&channel).await?;
            channel.close(200, "asked".into()).await?;
            Ok(answer)
        })
        .await
    }

    async fn delete_exchange(&self, name: &str) -> Result<()> {
        let exchange = short("exchange name", name)?;
        self.asked(&format!("delete the exchange {name:?}"), async |channel| {
            channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await
        })
        .await
    }
}

/// Moves the messages of one queue to the queue of the same name on another broker.
pub(crate) struct Carrier<'a> {
    pub source: &'a RabbitMq,
    pub target: &'a RabbitMq,
    pub queue: &'a QueueSpec,
    /// So many are under way at once.
    pub window: u16,
    /// Turns true when it is to end.
    pub stop: watch::Receiver<bool>,
    /// Called for each message that was moved.
    pub moved: &'a (dyn Fn() + Send + Sync),
}

/// A message that was given to the target.
struct UnderWay {
    tag: u64,
    confirm: Pin<Box<dyn Future<Output = lapin::Result<Confirmation>>>>,
}

impl Carrier<'_> {
    /// Moves until the queue is empty. Each message is acknowledged on the source when the target has confirmed it.
    ///
    /// # Errors
    /// Of either broker. What was under way then stays on the source, and may be on the target too.
    pub(crate) async fn carry(self) -> Result<Carried> {
        let mut carried = Carried::default();
        let waiting = self.source.ready(&self.queue.name).await?;
        if waiting == 0 {
            carried.is_whole = true;
            return Ok(carried);
        }
        let mut detour = None;
        let carried = if self.queue.auto_delete == AutoDelete::Yes {
            self.carry_by_gets(&mut detour, carried).await
        } else {
            self.carry_by(&mut detour, waiting, carried).await
        };
        if let Some(detour) = detour {
            let deleted = self.target.delete_exchange(&detour).await;
            return carried.and_then(|carried| deleted.map(|()| carried));
        }
        carried
    }

    async fn carry_by(&self, detour: &mut Option<String>, waiting: u32, mut carried: Carried) -> Result<Carried> {
        let name = &*self.queue.name;
        let (from, to) = (&self.source.shared, &self.target.shared);
        let consume = format!("consume from the queue {name:?}");
        let queue = short("queue name", name)?;
        let window = self.window;
        let (source, mut consumer) = asked(from, &consume, async {
            let channel = from.consuming.open_channel().await?;
            channel.basic_qos(window, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume(queue, "homing-move".into(), options, FieldTable::default()).await?;
            Ok((channel, consumer))
        })
        .await?;
        let target = self.confirming().await?;
        let came_back = to.publisher.returned();
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        let mut last_news = Instant::now();
        // So many are waited for before it is checked whether more wait.
        let mut awaited = u64::from(waiting);
        let mut received = 0;
        // Nothing waits, and what comes was on its way before.
        let mut is_empty = false;
        let mut stop = self.stop.clone();
        let mut stopped = pin!(async move {
            // Whoever could ask for the end may have gone, which is an end too.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        loop {
            if under_way.is_empty() && received >= awaited && !is_empty {
                let ready = self.ready_behind(&source).await?;
                is_empty = ready == 0;
                awaited = received + u64::from(ready);
            }
            let is_done = is_empty && under_way.is_empty();
            let confirmed = async {
                match under_way.front_mut() {
                    Some(first) => first.confirm.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stopped => break,
                outcome = confirmed => {
                    last_news = Instant::now();
                    let Some(first) = under_way.pop_front() else { continue };
                    self.confirmed(&source, first.tag, outcome, came_back).await?;
                    carried.moved += 1;
                }
                delivery = consumer.next() => {
                    last_news = Instant::now();
                    let delivery = match delivery {
                        Some(Ok(delivery)) => delivery,
                        Some(Err(error)) => return Err(settle(&from.life, &consume, &error).await),
                        None => {
                            from.life.check()?;
                            let text = format!("the queue {name:?} was deleted on the source while it was moved");
                            return Err(Error::new(ErrorKind::NotFound, text));
                        }
                    };
                    received += 1;
                    is_empty = false;
                    let delivery = marked(delivery);
                    match self.unsendable(source.id(), &delivery) {
                        Some(why) => {
                            carried.kept += 1;
                            carried.why_kept.get_or_insert(why);
                            // They are not acknowledged, so that nothing more would come.
                            if carried.kept >= u64::from(window) {
                                break;
                            }
                        }
                        None => under_way.push_back(self.send(&target, delivery, detour).await?),
                    }
                }
                () = std::future::ready(()), if is_done => {
                    carried.is_whole = true;
                    break;
                }
                () = sleep(SILENCE) => {
                    from.life.check()?;
                    to.life.check()?;
                    if !under_way.is_empty() {
                        if last_news.elapsed() > CONFIRM {
                            return Err(self.not_confirmed());
                        }
                    } else if self.ready_behind(&source).await? == 0 {
                        // Other consumers have taken what was awaited.
                        awaited = received;
                        is_empty = true;
                    } else if last_news.elapsed() > DELIVER {
                        let text = format!(
                            "the source delivers nothing of the queue {name:?}, although messages wait in it: another consumer is \
                             served before; stop those who consume from it"
                        );
                        return Err(Error::new(ErrorKind::TimedOut, text));
                    }
                }
            }
        }
        // Where the end was asked for: what the target has is not to stay here too.
        let until = Instant::now() + LAST;
        while let Some(first) = under_way.front_mut() {
            let Ok(outcome) = tokio::time::timeout_at(until, first.confirm.as_mut()).await else { break };
            let Some(first) = under_way.pop_front() else { continue };
            self.confirmed(&source, first.tag, outcome, came_back).await?;
            carried.moved += 1;
        }
        self.acknowledged(&source).await?;
        Ok(carried)
    }

    /// One after the other, without a consumer.
    ///
    /// Guards: a queue that goes with its last consumer, which would be this one, with all that is not moved yet.
    async fn carry_by_gets(&self, detour: &mut Option<String>, mut carried: Carried) -> Result<Carried> {
        let name = &*self.queue.name;
        let from = &self.source.shared;
        let what = format!("get from the queue {name:?}");
        let source = asked(from, &what, async { from.consuming.open_channel().await }).await?;
        let target = self.confirming().await?;
        let came_back = self.target.shared.publisher.returned();
        while !*self.stop.borrow() {
            let queue = short("queue name", name)?;
            let got = async { source.basic_get(queue, BasicGetOptions { no_ack: false }).await };
            let Some(got) = asked(from, &what, got).await? else {
                carried.is_whole = true;
                break;
            };
            let delivery = marked(got.delivery);
            if let Some(why) = self.unsendable(source.id(), &delivery) {
                carried.kept += 1;
                carried.why_kept.get_or_insert(why);
                continue;
            }
            let UnderWay { tag, confirm } = self.send(&target, delivery, detour).await?;
            let confirmed = async { Ok(timeout(CONFIRM, confirm).await) };
            match self.target.shared.life.until_end(pin!(confirmed)).await? {
                Ok(outcome) => self.confirmed(&source, tag, outcome, came_back).await?,
                Err(_) => return Err(self.not_confirmed()),
            }
            carried.moved += 1;
        }
        self.acknowledged(&source).await?;
        Ok(carried)
    }

    /// A channel on the target that confirms.
    async fn confirming(&self) -> Result<Channel> {
        let to = &self.target.shared;
        asked(to, &format!("send the messages of the queue {:?}", self.queue.name), async {
            let channel = to.publishing.open_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        })
        .await
    }

    /// Closes the channel, which is answered behind the acknowledgements: they have counted then.
    async fn acknowledged(&self, source: &Channel) -> Result<()> {
        let closed = async { source.close(200, "moved".into()).await };
        asked(&self.source.shared, "acknowledge what was moved", closed).await
    }

    /// How many wait. Asked on the consumer's own channel, so that what was delivered before is here when the answer is.
    async fn ready_behind(&self, source: &Channel) -> Result<u32> {
        let (from, name) = (&self.source.shared, &self.queue.name);
        let what = format!("look at the queue {name:?}");
        let queue = short("queue name", &**name)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = asked(from, &what, async { source.queue_declare(queue, passive, FieldTable::default()).await });
        Ok(found.await?.message_count())
    }

    /// Acknowledges a message that the target has.
    async fn confirmed(
        &self,
        source: &Channel,
        tag: u64,
        outcome: lapin::Result<Confirmation>,
        came_back: usize,
    ) -> Result<()> {
        let name = &self.queue.name;
        // Guards: lapin, which hands a message that came back to whichever is confirmed next. One that came back ends all.
        if self.target.shared.publisher.returned() != came_back {
            let text =
                format!("the queue {name:?} is not on the target any more; what was not moved stays where it was");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        match outcome {
            Ok(Confirmation::Ack(None)) => {}
            Ok(_) => {
                let text = format!(
                    "the target refused a message for the queue {name:?} (a nack): it may have as many as its x-max-length allows"
                );
                return Err(Error::new(ErrorKind::DeliveryFailed, text));
            }
            Err(error) => {
                let error =
                    settle(&self.target.shared.life, &format!("send a message of the queue {name:?}"), &error).await;
                if error.to_string().contains("user_id property") {
                    let text = format!(
                        "{error}; it was sent under another name than yours, which the target takes only from a user with the \
                         tag impersonator"
                    );
                    return Err(Error::with_source(error.kind(), text, error));
                }
                return Err(error);
            }
        }
        if let Err(error) = source.basic_ack(tag, BasicAckOptions::default()).await {
            return Err(settle(&self.source.shared.life, "acknowledge what was moved", &error).await);
        }
        (self.moved)();
        Ok(())
    }

    /// Why a message cannot be sent as it is.
    fn unsendable(&self, channel: u16, delivery: &Delivery) -> Option<String> {
        let (from, to) = (&self.source.shared, &self.target.shared);
        if let Some(diverted) = from.consuming.diverted.take(channel, delivery.delivery_tag) {
            let odd = diverted.oddities().first().map(|odd| format!("its {} {}", odd.part.name(), odd.reason));
            return Some(odd.unwrap_or_else(|| "its properties cannot be read".to_owned()));
        }
        let most = to.publisher.properties_limit();
        if most >= from.publisher.properties_limit() {
            return None;
        }
        let bytes = properties(&delivery.properties).wire_size();
        (bytes > most)
            .then(|| format!("its properties take {bytes} bytes, and a frame of the target has room for {most}"))
    }

    /// Gives a message to the target.
    async fn send(&self, target: &Channel, delivery: Delivery, detour: &mut Option<String>) -> Result<UnderWay> {
        let name = &*self.queue.name;
        let Delivery { delivery_tag: tag, routing_key, properties, data, .. } = delivery;
        let (exchange, key) = if self.needs_detour(routing_key.as_str(), &properties) {
            if detour.is_none() {
                *detour = Some(self.make_detour().await?);
            }
            (detour.clone().unwrap_or_default(), routing_key)
        } else {
            (String::new(), short("queue name", name)?)
        };
        let exchange = short("exchange name", exchange)?;
        let target = target.clone();
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let mut confirm: Pin<Box<dyn Future<Output = lapin::Result<Confirmation>>>> = Box::pin(async move {
            let written = target.basic_publish(exchange, key, options, &data, properties).await?;
            written.await
        });
        // lapin puts the frames into its queue at the first poll, which so is in order.
        let polled = poll_fn(|context| Poll::Ready(confirm.as_mut().poll(context))).await;
        let confirm = match polled {
            Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
            Poll::Pending => confirm,
        };
        Ok(UnderWay { tag, confirm })
    }

    /// Whether the default exchange would do something else with the message than put it into its queue: send copies to those in
    /// its header `CC`, or make it lose a routing key by which its queue dead-letters it.
    fn needs_detour(&self, key: &str, properties: &lapin::BasicProperties) -> bool {
        let arguments = &self.queue.arguments;
        let by_key = arguments.get("x-dead-letter-exchange").is_some()
            && arguments.get("x-dead-letter-routing-key").is_none()
            && key != &*self.queue.name;
        by_key || properties.headers().as_ref().is_some_and(|headers| headers.contains_key("CC"))
    }

    /// An exchange that leads to this queue alone. One that a killed move has left is used again.
    async fn make_detour(&self) -> Result<String> {
        let queue = &self.queue.name;
        let mut name = format!("{DETOUR}{queue}");
        while name.len() > LONGEST {
            name.pop();
        }
        let spec = ExchangeSpec {
            durability: Durability::Transient,
            auto_delete: AutoDelete::Yes,
            ..ExchangeSpec::new(&name, ExchangeKind::Fanout)
        };
        self.target.declare_same_exchange(&spec).await?;
        self.target.bind_same(&Binding::to_queue(&name, queue, "")).await?;
        Ok(name)
    }

    fn not_confirmed(&self) -> Error {
        let why = if self.target.shared.publishing.blocked.get() {
            "it blocks publishers, for it is short of memory or disk"
        } else {
            "whether it has them is not known"
        };
        let text = format!(
            "the target has not confirmed the messages of the queue {:?} within {CONFIRM:?}; {why}. They stay where they were, \
             and may be on the target too",
            self.queue.name
        );
        Error::new(ErrorKind::TimedOut, text)
    }
}

/// The answer of a server, within its time and while the connection lasts.
async fn asked<T>(shared: &Shared, what: &str, question: impl Future<Output = lapin::Result<T>>) -> Result<T> {
    let answer = async {
        match question.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(settle(&shared.life, what, &error).await),
        }
    };
    match timeout(QUESTION, shared.life.until_end(pin!(answer))).await {
        Ok(answer) => answer,
        Err(_) => Err(errors::timed_out(what, &shared.address, QUESTION)),
    }
}

/// A message that the source has delivered before, marked so.
///
/// Guards: a task that runs twice, and the second time without a mark.
fn marked(delivery: Delivery) -> Delivery {
    if !delivery.redelivered {
        return delivery;
    }
    let times = headers::number(&properties(&delivery.properties), headers::LEASE).saturating_add(1);
    let mut table = delivery.properties.headers().clone().unwrap_or_default();
    table.insert(headers::LEASE.into(), AMQPValue::LongString(times.to_string().into()));
    Delivery { properties: delivery.properties.clone().with_headers(table), ..delivery }
}

fn kind(spec: &ExchangeSpec) -> lapin::ExchangeKind {
    match spec.kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Headers => lapin::ExchangeKind::Headers,
    }
}

fn table(arguments: &Arguments) -> Result<FieldTable> {
    let mut table = FieldTable::default();
    for (name, field) in arguments.iter() {
        table.insert(short("argument", &**name)?, value(field)?);
    }
    Ok(table)
}

fn value(field: &Field) -> Result<AMQPValue> {
    Ok(match field {
        Field::Void => AMQPValue::Void,
        Field::Bool(value) => AMQPValue::Boolean(*value),
        Field::I8(value) => AMQPValue::ShortShortInt(*value),
        Field::U8(value) => AMQPValue::ShortShortUInt(*value),
        Field::I16(value) => AMQPValue::ShortInt(*value),
        Field::U16(value) => AMQPValue::ShortUInt(*value),
        Field::I32(value) => AMQPValue::LongInt(*value),
        Field::U32(value) => AMQPValue::LongUInt(*value),
        Field::I64(value) => AMQPValue::LongLongInt(*value),
        Field::F32(value) => AMQPValue::Float(*value),
        Field::F64(value) => AMQPValue::Double(*value),
        Field::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value }),
        Field::Text(bytes) => AMQPValue::LongString(bytes.to_vec().into()),
        Field::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.to_vec())),
        Field::Timestamp(value) => AMQPValue::Timestamp(*value),
        Field::Array(fields) => AMQPValue::FieldArray(fields.iter().map(value).collect::<Result<Vec<_>>>()?.into()),
        Field::Table(arguments) => AMQPValue::FieldTable(table(arguments)?),
    })
}
