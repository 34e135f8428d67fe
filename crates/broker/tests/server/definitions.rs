//! What an operator gets of what is declared.

use crate::server;
use homing_broker::engine::{Access, Binding, Destination, Field, Naming};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};

#[test]
fn definitions_have_what_was_declared_with_its_arguments_and_how_much_is_in_it() {
    let (server, address) = server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let url = format!("amqp://guest:guest@{address}/%2f");
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("it connects");
        let channel = connection.create_channel().await.expect("a channel");
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::ShortInt(7));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("b".into(), durable, arguments).await.expect("declared");
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("a".into(), own, FieldTable::default()).await.expect("declared");
        let named = channel.queue_declare("".into(), durable, FieldTable::default()).await.expect("declared");
        let named = named.name().to_string();
        let kind = ExchangeKind::Headers;
        let internal = ExchangeDeclareOptions { internal: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare("e".into(), kind, internal, FieldTable::default()).await.expect("declared");
        let mut arguments = FieldTable::default();
        arguments.insert("i".into(), AMQPValue::ShortShortInt(1));
        for queue in ["a", "b"] {
            let bound = channel.queue_bind(
                queue.into(),
                "e".into(),
                "k".into(),
                QueueBindOptions::default(),
                arguments.clone(),
            );
            bound.await.expect("bound");
        }
        let options = ExchangeBindOptions::default();
        let bound = channel.exchange_bind("e".into(), "amq.topic".into(), "t".into(), options, FieldTable::default());
        bound.await.expect("bound");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        for _ in 0..3 {
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), "b".into(), options, b"body", BasicProperties::default());
            sent.await.expect("sent").await.expect("confirmed");
        }
        let options = BasicGetOptions { no_ack: false };
        channel.basic_get("b".into(), options).await.expect("got").expect("a message");
        // It is cancelled when it is dropped.
        let _consumer = channel
            .basic_consume("a".into(), "c".into(), Default::default(), FieldTable::default())
            .await
            .expect("a consumer");

        let admin = server.admin();
        assert_eq!(admin.definitions("elsewhere").await.expect("it runs"), None);
        let found = admin.definitions("/").await.expect("it runs").expect("it is there");
        let exchanges: Vec<_> = found.exchanges.iter().map(|spec| &*spec.name).collect();
        assert_eq!(exchanges, ["e"], "not those that are there anyway");
        let queues: Vec<_> = found.queues.iter().map(|queue| &*queue.spec.name).collect();
        assert_eq!(queues, ["a", &named, "b"]);
        let [a, by_server, b] = &found.queues[..] else { unreachable!() };
        assert_eq!((a.spec.access, a.consumers, by_server.spec.naming), (Access::Exclusive, 1, Naming::Server));
        assert_eq!((b.waiting, b.out, b.consumers), (2, 1, 0));
        assert!(b.bytes >= 2 * 4, "{}", b.bytes);
        assert_eq!(b.spec.arguments.get("x-max-length"), Some(&Field::I16(7)), "with its type");
        let with = Binding { arguments: found.bindings[1].arguments.clone(), ..Binding::to_queue("e", "b", "k") };
        let between =
            Binding { destination: Destination::Exchange("e".into()), ..Binding::to_queue("amq.topic", "", "t") };
        assert_eq!(found.bindings, [between, with], "none of an exclusive queue");
        assert_eq!(found.bindings[1].arguments.get("i"), Some(&Field::I8(1)));
    });
}
