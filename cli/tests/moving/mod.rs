//! `homing broker move`, from a broker of homing's own to a RabbitMQ.

use std::process::{Command, Stdio};
use std::time::Duration;

use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

use super::Run;
use super::shell::{Directory, ended, eventually, exits, homing, signal, wait};
use super::support::{Broker, TestResult};

/// Publishes 128 kB that only memory keeps, which is more than the broker takes, and takes it out again.
pub(super) fn fills(address: &str, data: &str) -> TestResult {
    let is_blocked = || -> Result<bool, Any> {
        let status: serde_json::Value = serde_json::from_str(&super::done(data, &["status"], "")?)?;
        Ok(!status["blocked"].is_null())
    };
    assert!(!is_blocked()?);
    let (publisher, consumer) =
        (Client::new(&format!("amqp://{address}"))?, Client::new(&format!("amqp://{address}"))?);
    publisher.queue("full", FieldTable::default())?;
    let channel = publisher.channel.clone();
    // Not waited for: a client that is told to stop keeps what it has not written yet.
    let publishing = publisher.runtime.spawn(async move {
        for _ in 0..16 {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish("".into(), "full".into(), options, &[0; 8 << 10], properties).await?;
        }
        Ok::<_, lapin::Error>(())
    });
    eventually("publishers are stopped", || is_blocked().unwrap_or(false));
    consumer.runtime.block_on(consumer.channel.queue_purge("full".into(), QueuePurgeOptions::default()))?;
    // What it had not read yet comes now, and may be too much once more.
    let goes_on = || {
        let purged = consumer.channel.queue_purge("full".into(), QueuePurgeOptions::default());
        consumer.runtime.block_on(purged).is_ok() && publishing.is_finished() && !is_blocked().unwrap_or(true)
    };
    eventually("publishers go on", goes_on);
    publisher.runtime.block_on(publishing)??;
    Ok(())
}

type Any = Box<dyn std::error::Error + Send + Sync>;

/// A channel on a broker, as a client of another library has it.
struct Client {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
    channel: Channel,
}

impl Client {
    fn new(url: &str) -> Result<Self, Any> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            // What stands behind the slash is the name of the virtual host: nothing would be an empty one.
            let url = format!("{}/%2f", url.trim_end_matches('/'));
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>((connection, channel))
        })?;
        Ok(Client { runtime, connection, channel })
    }

    fn queue(&self, name: &str, arguments: FieldTable) -> lapin::Result<()> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.runtime.block_on(self.channel.queue_declare(name.into(), options, arguments)).map(drop)
    }

    fn exchange(&self, name: &str, kind: ExchangeKind, arguments: FieldTable) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.runtime.block_on(self.channel.exchange_declare(name.into(), kind, options, arguments))
    }

    fn bind(&self, queue: &str, exchange: &str, key: &str, arguments: FieldTable) -> lapin::Result<()> {
        let options = QueueBindOptions::default();
        self.runtime.block_on(self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments))
    }

    /// Publishes all of them, which the broker confirms.
    fn publish(
        &self,
        exchange: &str,
        key: &str,
        messages: impl Iterator<Item = (BasicProperties, Vec<u8>)>,
    ) -> lapin::Result<()> {
        self.runtime.block_on(async {
            let mut confirms = Vec::new();
            for (properties, body) in messages {
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let published = self.channel.basic_publish(exchange.into(), key.into(), options, &body, properties);
                confirms.push(published.await?);
            }
            for confirm in confirms {
                assert!(matches!(confirm.await?, lapin::Confirmation::Ack(None)), "{exchange} {key}");
            }
            Ok(())
        })
    }

    /// Takes all that there is.
    fn take(&self, queue: &str) -> lapin::Result<Vec<lapin::message::Delivery>> {
        self.runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(got) = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
                all.push(got.delivery);
            }
            Ok(all)
        })
    }

    /// Takes the first one and gives it back, as a worker that ends.
    fn hand_out(&self, queue: &str) -> lapin::Result<()> {
        self.runtime.block_on(async {
            let got = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await?;
            let tag = got.expect("a message").delivery.delivery_tag;
            self.channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await
        })
    }

    /// How much waits; `None` where there is no such queue. A channel of its own, for the question may end it.
    fn waiting(&self, queue: &str) -> Option<u32> {
        self.runtime.block_on(async {
            let channel = self.connection.create_channel().await.ok()?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.ok()?;
            channel.close(200, "asked".into()).await.ok()?;
            Some(found.message_count())
        })
    }

    fn has_exchange(&self, name: &str) -> bool {
        self.runtime.block_on(async {
            let Ok(channel) = self.connection.create_channel().await else { return false };
            let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let kind = ExchangeKind::Fanout;
            channel.exchange_declare(name.into(), kind, passive, FieldTable::default()).await.is_ok()
        })
    }
}

fn moving(data: &str, to: &Broker, options: &[&str]) -> Command {
    homing(&[&["broker", "move", "--data", data, "--to", to.url(), "--format", "json"], options].concat())
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// A value of each type.
fn headers() -> FieldTable {
    let inner = table([("deep", AMQPValue::LongLongInt(i64::MIN))]);
    table([
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-300)),
        ("u16", AMQPValue::ShortUInt(60_000)),
        ("i32", AMQPValue::LongInt(-70_000)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(i64::MAX)),
        ("f32", AMQPValue::Float(0.1)),
        ("f64", AMQPValue::Double(1e300)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("string", string("täxt")),
        ("no UTF-8", AMQPValue::LongString(vec![0xff, 0xfe].into())),
        ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![0, 1, 255]))),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("void", AMQPValue::Void),
        ("array", AMQPValue::FieldArray(FieldArray::from(vec![string("a"), AMQPValue::Void]))),
        ("table", AMQPValue::FieldTable(inner)),
    ])
}

fn everything() -> BasicProperties {
    BasicProperties::default()
        .with_headers(headers())
        .with_content_type("text/plain".into())
        .with_content_encoding("gzip".into())
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("86400000".into())
        .with_message_id("m".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("a".into())
        .with_cluster_id("cl".into())
}

fn named(number: u32) -> (BasicProperties, Vec<u8>) {
    let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(number.to_string().into());
    (properties, number.to_be_bytes().to_vec())
}

pub fn whole(to: &Broker) -> TestResult {
    const EACH: u32 = 667;
    let directory = Directory::new()?;
    let data = directory.path("data");
    let broker = Run::start(&data)?;
    let source = Client::new(&broker.url)?;
    let (plain, limited, quorum) = (to.name("plain"), to.name("limited"), to.name("quorum"));
    let (fanout, by_headers, dead) = (to.name("fanout"), to.name("headers"), to.name("dead"));
    let arguments = [
        ("x-max-length", AMQPValue::LongInt(5000)),
        ("x-message-ttl", AMQPValue::LongLongInt(86_400_000)),
        ("x-max-priority", AMQPValue::ShortShortUInt(5)),
        ("x-dead-letter-exchange", string(&fanout)),
    ];
    source.queue(&plain, FieldTable::default())?;
    source.queue(&limited, table(arguments))?;
    source.queue(&quorum, table([("x-queue-type", string("quorum"))]))?;
    let alternate = table([("alternate-exchange", string(&fanout))]);
    source.exchange(&fanout, ExchangeKind::Fanout, FieldTable::default())?;
    source.exchange(&by_headers, ExchangeKind::Headers, alternate)?;
    source.exchange(&dead, ExchangeKind::Topic, FieldTable::default())?;
    source.bind(&plain, &fanout, "", FieldTable::default())?;
    source.bind(&quorum, &by_headers, "", table([("x-match", string("all")), ("i8", AMQPValue::ShortShortInt(-8))]))?;
    source.bind(&limited, &dead, "a.*", FieldTable::default())?;
    let between = source.channel.exchange_bind(
        dead.as_str().into(),
        fanout.as_str().into(),
        "".into(),
        ExchangeBindOptions::default(),
        FieldTable::default(),
    );
    source.runtime.block_on(between)?;
    for queue in [&plain, &quorum] {
        source.publish("", queue, (0..EACH).map(named))?;
    }
    // Most of them have a key by which they are dead-lettered, and the first a copy elsewhere, which has been made.
    source.publish(&dead, "a.key", (1..EACH).map(named))?;
    let copied = table([("CC", AMQPValue::FieldArray(FieldArray::from(vec![string(&plain)])))]);
    source.publish(&dead, "a.cc", [(BasicProperties::default().with_headers(copied.clone()), vec![7])].into_iter())?;
    source.publish("", &plain, [(everything(), vec![1]), (BasicProperties::default(), Vec::new())].into_iter())?;
    source.publish(&by_headers, "k", [(BasicProperties::default().with_headers(headers()), vec![2])].into_iter())?;
    source.hand_out(&plain)?;
    let before = source.waiting(&plain);
    let (out, _) = exits(&ended(moving(&data, to, &["--dry-run"]))?, 0);
    assert!(out.lines().count() == 6 && out.contains(&format!(r#""name":"{limited}""#)), "{out}");
    let target = Client::new(to.url())?;
    assert_eq!((source.waiting(&plain), target.waiting(&plain)), (before, None), "a dry run does nothing");

    let (out, err) = exits(&ended(moving(&data, to, &[]))?, 0);
    assert!(
        err.contains(&format!("{} messages moved, of 3 queues; 3 exchanges and 4 bindings", 3 * EACH + 3)),
        "{err}"
    );
    assert!(out.contains(&format!(r#"{{"kept":0,"moved":{},"queue":"{plain}"}}"#, EACH + 2)), "{out}");
    for queue in [&plain, &limited, &quorum] {
        assert_eq!(source.waiting(queue), Some(0), "{queue}");
    }
    let got = target.take(&plain)?;
    let bodies: Vec<Vec<u8>> = got.iter().map(|delivery| delivery.data.clone()).collect();
    let mut expected: Vec<Vec<u8>> = (0..EACH).map(|number| number.to_be_bytes().to_vec()).collect();
    // The copy of the message with CC does not come here: it went to the default exchange's queue of another exchange.
    expected.extend([vec![1], Vec::new()]);
    assert_eq!(bodies, expected, "in their order");
    assert_eq!(got[EACH as usize].properties, everything());
    assert_eq!(got[EACH as usize + 1].properties, BasicProperties::default(), "nothing is added");
    assert_eq!(got[5].properties, named(5).0);
    let mark =
        |of: usize| got[of].properties.headers().as_ref().and_then(|all| all.inner().get("homing-lease").cloned());
    assert_eq!((mark(0), mark(1)), (Some(string("1")), None), "what was handed out says so");
    let got = target.take(&limited)?;
    assert_eq!(got.len(), EACH as usize);
    let keys: Vec<&ShortString> = got.iter().map(|delivery| &delivery.routing_key).collect();
    assert!(keys[..EACH as usize - 1].iter().all(|key| key.as_str() == "a.key"), "{keys:?}");
    assert_eq!(keys[EACH as usize - 1].as_str(), "a.cc");
    assert_eq!(got[EACH as usize - 1].properties.headers().as_ref(), Some(&copied));
    let got = target.take(&quorum)?;
    assert_eq!(got.len(), EACH as usize + 1);
    // Every quorum queue counts its own deliveries there.
    let own = |entry: &(&ShortString, &AMQPValue)| entry.0.as_str() != "x-delivery-count";
    let last = got[EACH as usize].properties.headers().clone().unwrap_or_default();
    assert!(last.inner().iter().filter(own).eq(headers().inner().iter()), "{last:?}");
    assert!(!target.has_exchange(&format!("homing.move.{limited}")), "what was there for the move is gone");
    // The topology is the same: declared with other arguments it is refused, and the bindings lead where they did.
    let other = Client::new(to.url())?;
    assert!(other.queue(&limited, table([("x-max-length", AMQPValue::LongInt(4))])).is_err());
    target.publish(&fanout, "a.x", [named(1)].into_iter())?;
    target.publish(&by_headers, "", [(BasicProperties::default().with_headers(headers()), vec![3])].into_iter())?;
    // To the alternate exchange, since no header is there.
    target.publish(&by_headers, "", [named(2)].into_iter())?;
    assert_eq!(target.take(&plain)?.len(), 2);
    assert_eq!(target.take(&limited)?.len(), 1);
    assert_eq!(target.take(&quorum)?.len(), 1);
    // Once more: all is there, and nothing is moved.
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 0);
    assert!(err.contains("0 messages moved"), "{err}");
    Ok(())
}

pub fn killed(to: &Broker) -> TestResult {
    const MANY: u32 = 6000;
    let directory = Directory::new()?;
    let data = directory.path("data");
    let broker = Run::start(&data)?;
    let source = Client::new(&broker.url)?;
    let target = Client::new(to.url())?;
    let queue = to.name("long");
    source.queue(&queue, FieldTable::default())?;
    source.publish("", &queue, (0..MANY).map(named))?;
    let begun = |already: u32| -> Result<std::process::Child, Any> {
        let child = moving(&data, to, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        eventually("messages arrive", || target.waiting(&queue).is_some_and(|count| count > already));
        Ok(child)
    };
    // One that is asked to end: what it had in hand is on one of the two.
    let child = begun(0)?;
    signal(child.id(), "INT");
    let (_, err) = exits(&wait(child)?, 130);
    assert!(err.contains("not all of it was moved"), "{err}");
    let (here, there) = (source.waiting(&queue).unwrap_or(0), target.waiting(&queue).unwrap_or(0));
    assert!(here > 0 && here + there == MANY, "{here} and {there} of {MANY}");
    // One that is killed.
    let mut child = begun(there)?;
    signal(child.id(), "KILL");
    child.wait()?;
    // Whatever the killed one had in hand is given back when the broker sees that it is gone.
    eventually("the messages go back", || {
        let listed =
            ended(homing(&["broker", "move", "--data", &data, "--to", to.url(), "--dry-run", "--format", "json"]));
        listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(r#""consumers":0"#))
    });
    let left = source.waiting(&queue).unwrap_or(0);
    assert!(left > 0, "it was killed too late");
    exits(&ended(moving(&data, to, &[]))?, 0);
    assert_eq!(source.waiting(&queue), Some(0));
    let got = target.take(&queue)?;
    let mut numbers: Vec<u32> =
        got.iter().filter_map(|got| got.properties.message_id().as_ref()?.as_str().parse().ok()).collect();
    assert!(numbers.len() <= (MANY + 500) as usize, "doubles of what was under way only: {}", numbers.len());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (0..MANY).collect::<Vec<_>>(), "none is lost");
    Ok(())
}

/// To a broker that reports exactly what was in a queue. (RabbitMQ confirms what was on its way to a queue that is deleted.)
pub fn deleted() -> TestResult {
    const MANY: u32 = 6000;
    let directory = Directory::new()?;
    let data = directory.path("data");
    let (broker, other) = (Run::start(&data)?, Run::start(&directory.path("other"))?);
    let (source, target) = (Client::new(&broker.url)?, Client::new(&other.url)?);
    let (to, queue) = (Broker::at(&other.url), "deleted".to_owned());
    source.queue(&queue, FieldTable::default())?;
    source.publish("", &queue, (0..MANY).map(named))?;
    let child = moving(&data, &to, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    eventually("messages arrive", || target.waiting(&queue).is_some_and(|count| count > 0));
    let delete = target.channel.queue_delete(queue.as_str().into(), Default::default());
    let deleted = target.runtime.block_on(delete)?;
    let (_, err) = exits(&wait(child)?, 1);
    assert!(err.contains("not on the target any more") && err.contains(&queue), "{err}");
    // What came back to its sender is not taken for one that arrived.
    let left = source.waiting(&queue).unwrap_or(0);
    assert!(left > 0 && left + deleted >= MANY, "{left} are left and {deleted} were deleted, of {MANY}");
    Ok(())
}

pub fn refused(to: &Broker) -> TestResult {
    let directory = Directory::new()?;
    let data = directory.path("data");
    let broker = Run::start(&data)?;
    let source = Client::new(&broker.url)?;
    let target = Client::new(to.url())?;
    let (first, second, exchange) = (to.name("a"), to.name("b"), to.name("exchange"));
    source.exchange(&exchange, ExchangeKind::Topic, FieldTable::default())?;
    source.queue(&first, FieldTable::default())?;
    source.queue(&second, table([("x-max-length", AMQPValue::LongInt(10))]))?;
    source.publish("", &first, (0..3).map(named))?;
    // Others of the same names: each is reported, and nothing is done.
    target.queue(&second, FieldTable::default())?;
    for dry in [&["--dry-run"][..], &[]] {
        let (_, err) = exits(&ended(moving(&data, to, dry))?, 1);
        assert!(err.contains(&second) && err.contains("x-max-length") && err.contains("nothing was moved"), "{err}");
    }
    target.exchange(&exchange, ExchangeKind::Direct, FieldTable::default())?;
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 1);
    assert!(err.contains(&second) && err.contains(&exchange) && err.contains("2 exchanges and queues"), "{err}");
    assert_eq!((source.waiting(&first), target.waiting(&first)), (Some(3), None));
    target.runtime.block_on(async {
        target.channel.queue_delete(second.as_str().into(), Default::default()).await?;
        target.channel.exchange_delete(exchange.as_str().into(), Default::default()).await
    })?;
    // A queue that the target's user may not declare.
    let other = Run::start(&directory.path("other"))?;
    let at_other = |arguments: &[&str]| {
        let mut command = homing(&[&["broker"], arguments, &["--data", &directory.path("other")]].concat());
        command.stdin(Stdio::null());
        ended(command)
    };
    exits(&at_other(&["permission", "set", "guest", "a$|exchange$", ".*", ".*"])?, 0);
    let (_, err) = exits(&ended(homing(&["broker", "move", "--data", &data, "--to", &other.url]))?, 7);
    assert!(err.contains(&second) && err.contains("configure") && err.contains("nothing was moved"), "{err}");
    assert_eq!(source.waiting(&first), Some(3));
    drop(other);
    // A queue that is full.
    let full = to.name("full");
    let limits = [("x-max-length", AMQPValue::LongInt(2)), ("x-overflow", string("reject-publish"))];
    // One that goes with its last consumer must not go with the move.
    let goes = QueueDeclareOptions { durable: true, auto_delete: true, ..QueueDeclareOptions::default() };
    for client in [&source, &target] {
        let declared = client.channel.queue_declare(full.as_str().into(), goes, table(limits.clone()));
        client.runtime.block_on(declared)?;
    }
    source.publish("", &full, (0..2).map(named))?;
    target.publish("", &full, (5..7).map(named))?;
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 1);
    assert!(err.contains(&full) && err.contains("x-max-length") && err.contains("start it again"), "{err}");
    assert_eq!((source.waiting(&full), target.waiting(&full)), (Some(2), Some(2)));
    target.take(&full)?;
    exits(&ended(moving(&data, to, &[]))?, 0);
    // A message in the name of another user, to a user who may not send such.
    let named_guest = BasicProperties::default().with_user_id("guest".into());
    source.publish("", &first, [(named_guest, vec![9])].into_iter())?;
    let strict = Run::start(&directory.path("strict"))?;
    let password = directory.path("password");
    std::fs::write(&password, "secret")?;
    let strict_data = directory.path("strict");
    let add = ["broker", "user", "add", "ada", "--password-file", &password, "--data", &strict_data];
    exits(&ended(homing(&add))?, 0);
    let may = ["broker", "permission", "set", "ada", ".*", ".*", ".*", "--data", &strict_data];
    exits(&ended(homing(&may))?, 0);
    let as_ada = format!("amqp://ada:secret@{}/", strict.address);
    let (_, err) = exits(&ended(homing(&["broker", "move", "--data", &data, "--to", &as_ada]))?, 1);
    assert!(err.contains("impersonator") && err.contains(&first), "{err}");
    assert_eq!(source.waiting(&first), Some(1), "it stays");
    assert_eq!(source.take(&first)?.len(), 1);
    // What belongs to others stays, and is named.
    let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let (exclusive, by_server) = source.runtime.block_on(async {
        let exclusive = to.name("exclusive");
        source.channel.queue_declare(exclusive.as_str().into(), own, FieldTable::default()).await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let by_server = source.channel.queue_declare("".into(), options, FieldTable::default()).await?;
        Ok::<_, lapin::Error>((exclusive, by_server.name().to_string()))
    })?;
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 0);
    assert!(err.contains(&exclusive) && err.contains(&by_server), "{err}");
    assert!(target.waiting(&exclusive).is_none() && target.waiting(&by_server).is_none());
    // A consumer that has a message: it is warned of, and what it has stays.
    source.publish("", &first, (0..4).map(named))?;
    let consumer = Client::new(&broker.url)?;
    // Kept: it is cancelled when it is dropped.
    let (_consumer, got) = consumer.runtime.block_on(async {
        consumer.channel.basic_qos(1, Default::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer =
            consumer.channel.basic_consume(first.as_str().into(), "c".into(), options, FieldTable::default()).await?;
        let got = futures_util::StreamExt::next(&mut consumer).await.transpose()?;
        Ok::<_, lapin::Error>((consumer, got))
    })?;
    let got = got.ok_or("a message")?;
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 1);
    assert!(err.contains("a consumer on the source") && err.contains("1 message left"), "{err}");
    assert_eq!(target.take(&first)?.len(), 6, "three of the first and three of the last");
    consumer.runtime.block_on(got.acker.ack(BasicAckOptions::default()))?;
    Ok(())
}

pub fn wrong(to: &Broker) -> TestResult {
    let directory = Directory::new()?;
    let data = directory.path("data");
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 3);
    assert!(err.contains("no broker runs on"), "{err}");
    let broker = Run::start(&data)?;
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let elsewhere = format!("amqp://{silent}/");
    for (options, code, part) in [
        (&["--to", "memory:"][..], 2, "memory:"),
        (&["--to", "nothing"], 2, "amqp://"),
        (&["--to", &elsewhere], 6, "the target:"),
        (&["--to", &broker.url], 2, "one virtual host of one broker"),
        (&["--to", to.url(), "--vhost", "none"], 2, "no virtual host"),
        (&["--to", to.url(), "--from", "amqp://guest:wrong@127.0.0.1:1/"], 6, "the source:"),
        (&["--to", to.url(), "--from", &broker.url, "--vhost", "/"], 2, "--vhost"),
    ] {
        let command = homing(&[&["broker", "move", "--data", &data], options].concat());
        let (_, err) = exits(&ended(command)?, code);
        assert!(err.contains(part), "{options:?}: {err}");
    }
    // A broker of another directory.
    let source = Client::new(&broker.url)?;
    source.queue(&to.name("q"), FieldTable::default())?;
    let other = Run::start(&directory.path("other"))?;
    let (_, err) = exits(&ended(moving(&data, to, &["--from", &other.url]))?, 1);
    assert!(err.contains("--data") && err.contains(&to.name("q")), "{err}");
    // Without guest the URL has to be given.
    exits(&ended(homing(&["broker", "user", "remove", "guest", "--data", &data]))?, 0);
    let (_, err) = exits(&ended(moving(&data, to, &[]))?, 7);
    assert!(err.contains("--from"), "{err}");
    Ok(())
}

pub fn local(to: &Broker) -> TestResult {
    let directory = Directory::new()?;
    let url = format!("local:{}", directory.path("l"));
    let prefix = to.prefix().to_owned();
    let local = |arguments: &[&str]| ended(homing(&[&["--broker", &url, "--prefix", &prefix], arguments].concat()));
    for number in ["1", "2", "3"] {
        exits(&local(&["task", "send", number, "--no-reply"])?, 0);
    }
    let nowhere = format!("local:{}", directory.path("nowhere"));
    let from = |from: &str| ended(homing(&["broker", "move", "--from", from, "--to", to.url()]));
    let (_, err) = exits(&from(&nowhere)?, 3);
    assert!(err.contains("there is no local broker"), "{err}");
    let (_, err) = exits(&from(&url)?, 0);
    assert!(err.contains("3 messages moved"), "{err}");
    let worked = homing(&["--broker", to.url(), "--prefix", &prefix, "task", "work", "--exec", "cat", "--count", "3"]);
    exits(&ended(worked)?, 0);
    // A program that uses it has it.
    let mut watch = homing(&["--broker", &url, "--prefix", &prefix, "broadcast", "watch"]);
    let mut watch = watch.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut last = String::new();
    for _ in 0..600 {
        let output = from(&url)?;
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(1) && last.contains("end it first") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    watch.kill()?;
    watch.wait()?;
    assert!(last.contains("end it first"), "{last}");
    Ok(())
}
