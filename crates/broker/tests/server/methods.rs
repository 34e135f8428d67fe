//! Each method as lapin uses it.

use crate::raw::{Got, Raw, declare};
use crate::server;
use futures_util::StreamExt;
use homing_broker::protocol::{Properties, methods};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(address: SocketAddr) -> Connection {
    let url = format!("amqp://guest:guest@{address}/%2f");
    timeout(PATIENCE, Connection::connect(&url, ConnectionProperties::default()))
        .await
        .expect("in time")
        .expect("connected")
}

/// Runs a test with a channel, and closes in order.
fn with_channel<F: Future<Output = ()>>(test: impl FnOnce(Channel, SocketAddr) -> F) {
    let (_server, address) = server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let connection = connect(address).await;
        let channel = connection.create_channel().await.expect("a channel");
        // Kept to the end: a channel that is dropped closes by itself, in the middle of the connection's close.
        timeout(PATIENCE * 3, test(channel.clone(), address)).await.expect("in time");
        connection.close(200, "done".into()).await.expect("closed");
    });
}

fn none() -> FieldTable {
    FieldTable::default()
}

fn exclusive() -> QueueDeclareOptions {
    QueueDeclareOptions { exclusive: true, ..Default::default() }
}

async fn queue(channel: &Channel, name: &str) {
    channel.queue_declare(name.into(), exclusive(), none()).await.expect("declared");
}

async fn queue_with(channel: &Channel, name: &str, arguments: FieldTable) {
    channel.queue_declare(name.into(), exclusive(), arguments).await.expect("declared");
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &str) -> Confirmation {
    publish_with(channel, exchange, key, body, BasicProperties::default()).await
}

async fn publish_with(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &str,
    properties: BasicProperties,
) -> Confirmation {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties).await;
    confirm.expect("written").await.expect("confirmed")
}

async fn get(channel: &Channel, name: &str) -> Option<lapin::message::BasicGetMessage> {
    channel.basic_get(name.into(), BasicGetOptions { no_ack: true }).await.expect("got")
}

async fn body(channel: &Channel, name: &str) -> Option<String> {
    get(channel, name).await.map(|message| String::from_utf8(message.delivery.data.clone()).expect("text"))
}

async fn count(channel: &Channel, name: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(name.into(), options, none()).await.expect("there").message_count()
}

async fn next(consumer: &mut Consumer) -> lapin::message::Delivery {
    timeout(PATIENCE, consumer.next()).await.expect("in time").expect("a delivery").expect("a delivery")
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert((*name).into(), value.clone());
    }
    table
}

#[test]
fn exchanges_route_by_their_kind() {
    with_channel(|channel, _| async move {
        for (name, kind) in [
            ("d", ExchangeKind::Direct),
            ("f", ExchangeKind::Fanout),
            ("t", ExchangeKind::Topic),
            ("h", ExchangeKind::Headers),
        ] {
            channel
                .exchange_declare(name.into(), kind, ExchangeDeclareOptions::default(), none())
                .await
                .expect("declared");
        }
        queue(&channel, "q").await;
        let bind = |exchange: &'static str, key: &'static str, arguments| {
            channel.queue_bind("q".into(), exchange.into(), key.into(), QueueBindOptions::default(), arguments)
        };
        bind("d", "one", none()).await.expect("bound");
        bind("f", "", none()).await.expect("bound");
        bind("t", "a.*.#", none()).await.expect("bound");
        bind("h", "", table(&[("x-match", text("all")), ("kind", text("x"))])).await.expect("bound");
        for (exchange, key, is_routed) in
            [("d", "one", true), ("d", "two", false), ("f", "any", true), ("t", "a.b", true), ("t", "b.a", false)]
        {
            publish(&channel, exchange, key, key).await;
            assert_eq!(body(&channel, "q").await, is_routed.then(|| key.to_owned()), "{exchange} {key}");
        }
        let headers = BasicProperties::default().with_headers(table(&[("kind", text("x")), ("more", AMQPValue::Void)]));
        publish_with(&channel, "h", "", "matched", headers).await;
        assert_eq!(body(&channel, "q").await.as_deref(), Some("matched"));
        publish(&channel, "h", "", "not matched").await;
        assert_eq!(body(&channel, "q").await, None);
        // Exchange to exchange, and away again.
        channel
            .exchange_bind("f".into(), "d".into(), "through".into(), ExchangeBindOptions::default(), none())
            .await
            .expect("bound");
        publish(&channel, "d", "through", "twice removed").await;
        assert_eq!(body(&channel, "q").await.as_deref(), Some("twice removed"));
        channel
            .exchange_unbind("f".into(), "d".into(), "through".into(), ExchangeUnbindOptions::default(), none())
            .await
            .expect("unbound");
        publish(&channel, "d", "through", "lost").await;
        assert_eq!(body(&channel, "q").await, None);
        channel.queue_unbind("q".into(), "d".into(), "one".into(), none()).await.expect("unbound");
        publish(&channel, "d", "one", "lost").await;
        assert_eq!(body(&channel, "q").await, None);
        for name in ["d", "f", "t", "h", "never there"] {
            channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.expect("deleted");
        }
    });
}

#[test]
fn queues_are_declared_purged_and_deleted() {
    with_channel(|channel, _| async move {
        let made = channel.queue_declare("".into(), exclusive(), none()).await.expect("declared");
        let name = made.name().as_str().to_owned();
        assert!(name.starts_with("amq.gen-") && name.len() == 30, "{name}");
        for number in 0..5 {
            publish(&channel, "", &name, &number.to_string()).await;
        }
        assert_eq!(count(&channel, &name).await, 5);
        let purged = channel.queue_purge(name.as_str().into(), QueuePurgeOptions::default()).await.expect("purged");
        assert_eq!((purged, count(&channel, &name).await), (5, 0));
        publish(&channel, "", &name, "one").await;
        let deleted = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await;
        assert_eq!(deleted.expect("deleted"), 1);
        let again = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await;
        assert_eq!(again.expect("what is not there is deleted"), 0);
    });
}

#[test]
fn a_message_arrives_with_every_property_as_it_was_sent() {
    with_channel(|channel, _| async move {
        queue(&channel, "q").await;
        let mut list = FieldArray::default();
        list.push(AMQPValue::ShortInt(-5));
        list.push(AMQPValue::FieldTable(table(&[("deep", AMQPValue::Double(0.5))])));
        let headers = table(&[
            ("bool", AMQPValue::Boolean(true)),
            ("i8", AMQPValue::ShortShortInt(-1)),
            ("u8", AMQPValue::ShortShortUInt(200)),
            ("u16", AMQPValue::ShortUInt(60_000)),
            ("i32", AMQPValue::LongInt(-70_000)),
            ("u32", AMQPValue::LongUInt(4_000_000_000)),
            ("i64", AMQPValue::LongLongInt(i64::MIN)),
            ("f32", AMQPValue::Float(1.5)),
            ("text", text("grüße")),
            ("list", AMQPValue::FieldArray(list)),
            ("time", AMQPValue::Timestamp(1_700_000_000)),
            ("void", AMQPValue::Void),
            ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ]);
        let properties = BasicProperties::default()
            .with_content_type("a/b".into())
            .with_content_encoding("utf-8".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(3)
            .with_correlation_id("c".into())
            .with_reply_to("r".into())
            .with_expiration("60000".into())
            .with_message_id("m".into())
            .with_timestamp(5)
            .with_type("t".into())
            .with_user_id("guest".into())
            .with_app_id("a".into())
            .with_cluster_id("c".into());
        for size in [0, 1, 131_063, 131_064, 131_065, 1_000_000] {
            let sent = "x".repeat(size);
            publish_with(&channel, "", "q", &sent, properties.clone()).await;
            let got = get(&channel, "q").await.expect("it is there");
            assert_eq!(got.delivery.data.len(), size);
            assert!(got.delivery.data.iter().all(|octet| *octet == b'x'));
            assert_eq!(got.delivery.properties, properties);
            assert_eq!((got.delivery.exchange.as_str(), got.delivery.routing_key.as_str()), ("", "q"));
        }
    });
}

#[test]
fn confirms_come_for_every_publish_and_returns_before_them() {
    with_channel(|channel, _| async move {
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("selected");
        queue(&channel, "q").await;
        let mut confirms = Vec::new();
        for number in 0..500 {
            // Every tenth has no queue.
            let key = if number % 10 == 0 { "nowhere" } else { "q" };
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let sent = number.to_string();
            let confirm = channel
                .basic_publish("".into(), key.into(), options, sent.as_bytes(), BasicProperties::default())
                .await;
            confirms.push((number, confirm.expect("written")));
        }
        for (number, confirm) in confirms {
            match confirm.await.expect("confirmed") {
                Confirmation::Ack(Some(returned)) => {
                    assert_eq!(number % 10, 0, "{number}");
                    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
                    assert_eq!(returned.delivery.data, number.to_string().as_bytes());
                }
                Confirmation::Ack(None) => assert_ne!(number % 10, 0, "{number}"),
                other => panic!("{number}: {other:?}"),
            }
        }
        assert_eq!(count(&channel, "q").await, 450);
        // A queue that is full refuses.
        let full = table(&[("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]);
        queue_with(&channel, "full", full).await;
        assert!(publish(&channel, "", "full", "1").await.is_ack());
        assert!(publish(&channel, "", "full", "2").await.is_nack());
        assert_eq!(count(&channel, "full").await, 1);
    });
}

#[test]
fn consumers_get_what_they_have_room_for() {
    with_channel(|channel, _| async move {
        queue(&channel, "q").await;
        channel.basic_qos(2, BasicQosOptions::default()).await.expect("set");
        let mut consumer = channel
            .basic_consume("q".into(), "".into(), BasicConsumeOptions::default(), none())
            .await
            .expect("consumes");
        assert!(consumer.tag().as_str().starts_with("amq.ctag-"));
        for number in 0..5 {
            publish(&channel, "", "q", &number.to_string()).await;
        }
        let one = next(&mut consumer).await;
        let two = next(&mut consumer).await;
        assert_eq!((&one.data[..], &two.data[..]), (&b"0"[..], &b"1"[..]));
        assert_eq!(count(&channel, "q").await, 3, "no more than two are out");
        // Back to its place, and away.
        channel
            .basic_nack(two.delivery_tag, BasicNackOptions { requeue: true, multiple: false })
            .await
            .expect("nacked");
        let again = next(&mut consumer).await;
        assert!(again.redelivered && again.data == b"1");
        channel.basic_reject(again.delivery_tag, BasicRejectOptions { requeue: false }).await.expect("rejected");
        let three = next(&mut consumer).await;
        channel.basic_ack(three.delivery_tag, BasicAckOptions { multiple: true }).await.expect("acked");
        let (four, five) = (next(&mut consumer).await, next(&mut consumer).await);
        assert_eq!((&four.data[..], &five.data[..]), (&b"3"[..], &b"4"[..]));
        // A consumer that ends keeps what it has, and all of it comes back with a recover.
        channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.expect("cancelled");
        assert_eq!(count(&channel, "q").await, 0);
        channel.basic_recover(BasicRecoverOptions { requeue: true }).await.expect("recovered");
        assert_eq!(count(&channel, "q").await, 2);
        assert_eq!(body(&channel, "q").await.as_deref(), Some("3"));
    });
}

#[test]
fn a_consumer_is_told_when_its_queue_goes() {
    with_channel(|channel, address| async move {
        let shared = QueueDeclareOptions::default();
        channel.queue_declare("q".into(), shared, none()).await.expect("declared");
        let mut consumer = channel
            .basic_consume("q".into(), "c".into(), BasicConsumeOptions::default(), none())
            .await
            .expect("consumes");
        let other = connect(address).await;
        let second = other.create_channel().await.expect("a channel");
        second.queue_delete("q".into(), QueueDeleteOptions::default()).await.expect("deleted");
        assert!(timeout(PATIENCE, consumer.next()).await.expect("in time").is_none());
        other.close(200, "".into()).await.expect("closed");
    });
}

#[test]
fn a_channel_has_a_limit_of_its_own() {
    with_channel(|channel, _| async move {
        queue(&channel, "q").await;
        channel.basic_qos(3, BasicQosOptions { global: true }).await.expect("set");
        let one =
            channel.basic_consume("q".into(), "a".into(), BasicConsumeOptions::default(), none()).await.expect("one");
        let two =
            channel.basic_consume("q".into(), "b".into(), BasicConsumeOptions::default(), none()).await.expect("two");
        for number in 0..10 {
            publish(&channel, "", "q", &number.to_string()).await;
        }
        assert_eq!(count(&channel, "q").await, 7, "three are out to both together");
        channel.basic_qos(0, BasicQosOptions { global: true }).await.expect("set");
        assert_eq!(count(&channel, "q").await, 0, "raising the limit delivers at once");
        drop((one, two));
    });
}

#[test]
fn transactions_do_all_or_nothing() {
    with_channel(|channel, _| async move {
        queue(&channel, "q").await;
        let send = async |body: &str| {
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            channel.basic_publish("".into(), "q".into(), options, body.as_bytes(), properties).await.expect("written");
        };
        channel.tx_select().await.expect("selected");
        send("one").await;
        send("two").await;
        assert_eq!(count(&channel, "q").await, 0);
        channel.tx_rollback().await.expect("rolled back");
        channel.tx_commit().await.expect("committed");
        assert_eq!(count(&channel, "q").await, 0);
        send("three").await;
        channel.tx_commit().await.expect("committed");
        assert_eq!(count(&channel, "q").await, 1);
        // An acknowledgement that is rolled back can be made again, and is nothing until the commit.
        let got = channel.basic_get("q".into(), BasicGetOptions::default()).await.expect("got").expect("there");
        got.delivery.acker.ack(BasicAckOptions::default()).await.expect("sent");
        channel.tx_rollback().await.expect("rolled back");
        channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await.expect("sent");
        channel.tx_commit().await.expect("committed");
        channel.basic_recover(BasicRecoverOptions { requeue: true }).await.expect("recovered");
        assert_eq!(count(&channel, "q").await, 0);
    });
}

#[test]
fn what_a_transaction_has_acknowledged_cannot_be_acknowledged_again() {
    let (_server, address) = server();
    let mut raw = Raw::channel(address);
    raw.send(1, declare("q"));
    raw.expect("QueueDeclareOk");
    raw.publish(1, "", "q", false, Properties::default(), b"x");
    raw.send(1, methods::tx::Select {});
    raw.expect("TxSelectOk");
    raw.send(1, methods::basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetOk");
    assert!(matches!(raw.next(), Got::Header(..)) && matches!(raw.next(), Got::Body(..)));
    for _ in 0..2 {
        raw.send(1, methods::basic::Ack { delivery_tag: 1, multiple: false });
    }
    let close = raw.closed();
    assert!(close.contains("reply_code: 406") && close.contains("unknown delivery tag 1"), "{close}");
}

#[test]
fn acknowledging_all_in_a_transaction_means_what_was_out_then() {
    let (_server, address) = server();
    let (mut raw, mut other) = (Raw::channel(address), Raw::channel(address));
    raw.send(1, declare("q"));
    raw.expect("QueueDeclareOk");
    raw.send(1, methods::tx::Select {});
    raw.expect("TxSelectOk");
    let mut get = |raw: &mut Raw| {
        other.publish(1, "", "q", false, Properties::default(), b"x");
        other.send(1, declare("q"));
        other.expect("QueueDeclareOk");
        raw.send(1, methods::basic::Get { queue: "q", no_ack: false });
        raw.expect("BasicGetOk");
        assert!(matches!(raw.next(), Got::Header(..)) && matches!(raw.next(), Got::Body(..)));
    };
    get(&mut raw);
    raw.send(1, methods::basic::Ack { delivery_tag: 0, multiple: true });
    get(&mut raw);
    raw.send(1, methods::tx::Commit {});
    raw.expect("TxCommitOk");
    // The second is still out: it comes back.
    raw.send(1, methods::basic::Recover { requeue: true });
    raw.expect("BasicRecoverOk");
    raw.send(1, declare("q"));
    assert!(raw.expect("QueueDeclareOk").contains("message_count: 1"));
}

#[test]
fn consumers_see_how_often_a_message_came_back_from_the_second_time_on_and_gets_always() {
    with_channel(|channel, _| async move {
        let arguments = table(&[("x-queue-type", text("quorum"))]);
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("q".into(), durable, arguments).await.expect("declared");
        let count = |delivery: &lapin::message::Delivery| {
            let headers = delivery.properties.headers().as_ref();
            headers.and_then(|headers| headers.inner().get("x-delivery-count").cloned())
        };
        publish(&channel, "", "q", "one").await;
        let got = get(&channel, "q").await.expect("it is there");
        assert_eq!(count(&got.delivery), Some(AMQPValue::LongLongInt(0)));
        publish(&channel, "", "q", "two").await;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = channel.basic_consume("q".into(), "c".into(), options, none).await.expect("consumed");
        let first = next(&mut consumer).await;
        assert_eq!(count(&first), None);
        first.acker.nack(BasicNackOptions { requeue: true, ..Default::default() }).await.expect("sent");
        assert_eq!(count(&next(&mut consumer).await), Some(AMQPValue::LongLongInt(1)));
    });
}

#[test]
fn dead_letters_tell_why_they_died() {
    with_channel(|channel, _| async move {
        queue(&channel, "dead").await;
        let arguments = table(&[
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("dead")),
            ("x-message-ttl", AMQPValue::LongInt(30_000)),
        ]);
        queue_with(&channel, "q", arguments).await;
        let copies = table(&[("CC", AMQPValue::FieldArray(vec![text("elsewhere")].into())), ("own", text("kept"))]);
        let properties = BasicProperties::default().with_expiration("0".into()).with_headers(copies);
        publish_with(&channel, "", "q", "late", properties).await;
        let got = get(&channel, "dead").await.expect("it died at once");
        assert_eq!(got.delivery.data, b"late");
        assert_eq!(got.delivery.properties.expiration(), &None);
        let headers = got.delivery.properties.headers().clone().expect("headers");
        let headers = headers.inner();
        assert_eq!(headers.get("x-first-death-reason"), Some(&text("expired")));
        assert_eq!(headers.get("x-first-death-queue"), Some(&text("q")));
        assert_eq!(headers.get("own"), Some(&text("kept")));
        assert_eq!(headers.get("CC"), None, "the dead-letter key is the only one");
        let Some(AMQPValue::FieldArray(deaths)) = headers.get("x-death") else { panic!("{headers:?}") };
        let [AMQPValue::FieldTable(death)] = deaths.as_slice() else { panic!("{deaths:?}") };
        let death = death.inner();
        assert_eq!(death.get("count"), Some(&AMQPValue::LongLongInt(1)));
        assert_eq!(death.get("reason"), Some(&text("expired")));
        assert_eq!(death.get("original-expiration"), Some(&text("0")));
        assert!(matches!(death.get("time"), Some(AMQPValue::Timestamp(at)) if *at > 1_700_000_000));
        let keys = AMQPValue::FieldArray(vec![text("q"), text("elsewhere")].into());
        assert_eq!(death.get("routing-keys"), Some(&keys));
        // The second death is counted, the first stays the first.
        let headers = got.delivery.properties.headers().clone().expect("headers");
        publish_with(&channel, "", "q", "again", BasicProperties::default().with_headers(headers)).await;
        let taken = channel.basic_get("q".into(), BasicGetOptions::default()).await.expect("got").expect("there");
        taken.delivery.acker.reject(BasicRejectOptions { requeue: false }).await.expect("rejected");
        let got = get(&channel, "dead").await.expect("it died");
        let headers = got.delivery.properties.headers().clone().expect("headers");
        let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else { panic!("{headers:?}") };
        assert_eq!(deaths.as_slice().len(), 2, "one for each reason");
        assert_eq!(headers.inner().get("x-first-death-reason"), Some(&text("expired")));
    });
}

#[test]
fn blind_copies_are_not_seen() {
    with_channel(|channel, _| async move {
        for name in ["a", "b", "c"] {
            queue(&channel, name).await;
        }
        let list = |name: &str| AMQPValue::FieldArray(vec![text(name)].into());
        let headers = table(&[("CC", list("b")), ("BCC", list("c")), ("x", text("y"))]);
        publish_with(&channel, "", "a", "copied", BasicProperties::default().with_headers(headers)).await;
        for name in ["a", "b", "c"] {
            let got = get(&channel, name).await.expect("a copy");
            assert_eq!(got.delivery.routing_key.as_str(), "a");
            let headers = got.delivery.properties.headers().clone().expect("headers");
            let mut names: Vec<&str> = headers.inner().keys().map(ShortString::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["CC", "x"], "in {name}");
        }
    });
}

#[test]
fn direct_replies_come_back() {
    with_channel(|channel, address| async move {
        const ADDRESS: &str = "amq.rabbitmq.reply-to";
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut replies = channel.basic_consume(ADDRESS.into(), "r".into(), options, none()).await.expect("consumes");
        let other = connect(address).await;
        let server = other.create_channel().await.expect("a channel");
        server.confirm_select(ConfirmSelectOptions::default()).await.expect("selected");
        server.queue_declare("requests".into(), QueueDeclareOptions::default(), none()).await.expect("declared");
        let properties = BasicProperties::default().with_reply_to(ADDRESS.into()).with_correlation_id("7".into());
        publish_with(&channel, "", "requests", "question", properties).await;
        let request = get(&server, "requests").await.expect("it came");
        let to = request.delivery.properties.reply_to().clone().expect("an address");
        assert!(to.as_str().starts_with("amq.rabbitmq.reply-to."), "{to}");
        assert!(to.as_str().len() > 40, "it cannot be guessed: {to}");
        let properties = BasicProperties::default().with_correlation_id("7".into());
        assert!(publish_with(&server, "", to.as_str(), "answer", properties).await.is_ack());
        let reply = next(&mut replies).await;
        assert_eq!((&reply.data[..], reply.routing_key.as_str()), (&b"answer"[..], to.as_str()));
        // Whoever replies can ask whether anybody is there, and is told when nobody is.
        assert_eq!(count(&server, to.as_str()).await, 0);
        channel.basic_cancel("r".into(), BasicCancelOptions::default()).await.expect("cancelled");
        let late = publish(&server, "", to.as_str(), "late").await;
        assert!(late.take_message().is_some(), "it is returned");
        other.close(200, "".into()).await.expect("closed");
    });
}

#[test]
fn priorities_go_first() {
    with_channel(|channel, _| async move {
        queue_with(&channel, "q", table(&[("x-max-priority", AMQPValue::LongInt(5))])).await;
        for (priority, sent) in [(1, "low"), (5, "high"), (9, "as high"), (0, "least")] {
            publish_with(&channel, "", "q", sent, BasicProperties::default().with_priority(priority)).await;
        }
        for expected in ["high", "as high", "low", "least"] {
            assert_eq!(body(&channel, "q").await.as_deref(), Some(expected));
        }
    });
}

#[test]
fn messages_of_one_channel_stay_in_order() {
    with_channel(|channel, address| async move {
        channel.queue_declare("q".into(), QueueDeclareOptions::default(), none()).await.expect("declared");
        let other = connect(address).await;
        let receiving = other.create_channel().await.expect("a channel");
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut consumer = receiving.basic_consume("q".into(), "c".into(), options, none()).await.expect("consumes");
        let receive = async {
            for number in 0..20_000_u32 {
                assert_eq!(next(&mut consumer).await.data, number.to_be_bytes());
            }
        };
        let send = async {
            for number in 0..20_000_u32 {
                let options = BasicPublishOptions::default();
                let properties = BasicProperties::default();
                channel
                    .basic_publish("".into(), "q".into(), options, &number.to_be_bytes(), properties)
                    .await
                    .expect("written");
            }
        };
        tokio::join!(receive, send);
        other.close(200, "".into()).await.expect("closed");
    });
}

#[test]
fn flow_and_tickets_are_answered() {
    with_channel(|channel, _| async move {
        assert!(channel.channel_flow(ChannelFlowOptions { active: true }).await.expect("answered"));
        channel.access_request("/".into(), AccessRequestOptions::default()).await.expect("answered");
    });
}
