//! What a store has to keep, and an engine that is made of it.

use super::super::*;
use super::world::*;

#[test]
fn what_is_durable_is_reported_and_nothing_else() {
    let mut world = World::new();
    let one = world.connect();
    world.declare(one, &queue("q")).unwrap();
    world.declare(one, &queue("q")).unwrap();
    world.declare(one, &QueueSpec { durability: Durability::Transient, ..queue("t") }).unwrap();
    world.declare(one, &QueueSpec { access: Access::Exclusive, ..queue("own") }).unwrap();
    world.declare_exchange(one, &exchange("e", ExchangeKind::Topic));
    let transient = ExchangeSpec { durability: Durability::Transient, ..exchange("x", ExchangeKind::Topic) };
    world.declare_exchange(one, &transient);
    for (queue, exchange) in [("q", "e"), ("t", "e"), ("own", "e"), ("q", "x"), ("q", "amq.topic"), ("q", "e")] {
        world.bind(one, queue, exchange, "k").unwrap();
    }
    assert_eq!(world.kept(), ["+queue q", "+exchange e", "+binding e-k-q", "+binding amq.topic-k-q"]);
    world.publish(one, "e", "k", 1).unwrap();
    let parts =
        Parts { exchange: "e".to_owned(), key: "k".to_owned(), number: 2, is_transient: true, ..Parts::default() };
    world.publish_note(one, Note::of(parts)).unwrap();
    assert_eq!(world.kept(), ["store 1 q 1"]);
    world.unbind(one, "q", "e", "k").unwrap();
    world.unbind(one, "q", "x", "k").unwrap();
    world.delete(one, "t").unwrap();
    world.delete(one, "q").unwrap();
    assert_eq!(world.kept(), ["-binding e-k-q", "-binding amq.topic-k-q", "-queue q", "forget 1"]);
    world.engine.delete_exchange(one, "e", DeleteExchange::Always, world.now).unwrap();
    world.disconnect(one);
    assert_eq!(world.kept(), ["-exchange e"]);
}

#[test]
fn a_publish_waits_for_its_last_copy_that_is_kept() {
    let mut world = World::new();
    let one = world.connect();
    for name in ["q", "r"] {
        world.declare(one, &queue(name)).unwrap();
        world.bind(one, name, "amq.fanout", "").unwrap();
    }
    let transient = QueueSpec { durability: Durability::Transient, ..queue("t") };
    world.declare(one, &transient).unwrap();
    world.bind(one, "t", "amq.fanout", "").unwrap();
    let mut stored = |exchange: &str, key: &str, is_transient| {
        let parts = Parts { exchange: exchange.to_owned(), key: key.to_owned(), is_transient, ..Parts::default() };
        match world.engine.publish(one, Note::of(parts), world.now) {
            Ok(Published::Routed { stored }) => stored,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(stored("amq.fanout", "", false), Some(CopyId(2)));
    assert_eq!(stored("amq.fanout", "", true), None);
    assert_eq!(stored("", "t", false), None);
    assert_eq!(stored("", "q", false), Some(CopyId(8)));
}

#[test]
fn a_quorum_queue_keeps_what_is_transient_elsewhere() {
    let (mut world, one) = World::with_queue(&with(queue("q"), "x-queue-type", Field::text("quorum")));
    world.kept();
    let parts = Parts { key: "q".to_owned(), number: 1, is_transient: true, ..Parts::default() };
    world.publish_note(one, Note::of(parts)).unwrap();
    assert_eq!(world.kept(), ["store 1 q 1"]);
}

#[test]
fn a_message_is_forgotten_when_it_has_left_its_queue_for_good() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.kept();
    for number in 1..=5 {
        world.send(one, "q", number);
    }
    world.kept();
    let got = world.get(one, "q").unwrap();
    assert_eq!(world.kept(), [""; 0], "it is out");
    world.nack(one, got.tag, Nack::Requeue);
    assert_eq!(world.kept(), [""; 0], "it is back");
    let got = world.get(one, "q").unwrap();
    world.ack(one, got.tag);
    assert_eq!(world.kept(), ["forget 1"]);
    world.engine.get(one, CHANNEL, "q", Acknowledge::None, world.now).unwrap().unwrap();
    assert_eq!(world.kept(), ["forget 2"]);
    let free = ConsumeSpec { acknowledge: Acknowledge::None, ..ConsumeSpec::new("q", CHANNEL, "c") };
    world.consume_by(one, &free).unwrap();
    assert_eq!(world.kept(), ["forget 3", "forget 4", "forget 5"]);
    world.send(one, "q", 6);
    assert_eq!(world.kept(), [""; 0], "it went through");
}

#[test]
fn an_engine_is_restored_and_numbers_go_on() {
    let mut before = World::new();
    let one = before.connect();
    before.declare(one, &lasting(queue("q"), 10 * SECOND)).unwrap();
    before
        .declare_exchange(one, &ExchangeSpec { auto_delete: AutoDelete::Yes, ..exchange("e", ExchangeKind::Headers) });
    let binding =
        Binding { arguments: Arguments::new().with("a", Field::Bool(true)), ..Binding::to_queue("e", "q", "k") };
    before.engine.bind(one, &binding, before.now).unwrap();
    for number in 1..=3 {
        before.send(one, "q", number);
        before.pass(SECOND);
    }
    let mut after = World::new();
    after.now = before.now;
    after.engine = Engine::new(after.now);
    for effect in before.engine.effects() {
        match effect {
            Effect::Defined(definition) => {
                after.engine.restore(&definition).unwrap();
                after.engine.restore(&definition).unwrap();
            }
            Effect::Store { copy, queue, expires, message } => {
                after.engine.restore_message(copy, &queue, expires, message).unwrap();
            }
            effect => panic!("unexpected: {effect:?}"),
        }
    }
    after.engine.number_copies_from(CopyId(100));
    assert_eq!(after.engine.effects().count(), 0);
    let one = after.connect();
    after.pass(7 * SECOND);
    assert_eq!(after.kept(), ["forget 1"], "its time went on");
    let got = after.get(one, "q").unwrap();
    assert_eq!((got.message.number, got.redelivered), (2, true), "nobody knows whether it was out");
    let parts = Parts {
        exchange: "e".to_owned(),
        number: 4,
        headers: Arguments::new().with("a", Field::Bool(true)),
        ..Parts::default()
    };
    after.publish_note(one, Note::of(parts)).unwrap();
    assert_eq!(after.kept(), ["store 100 q 4"]);
    after.engine.unbind(one, &binding, after.now).unwrap();
    assert!(after.engine.exchange("e").is_none(), "it deletes itself as before");
}

#[test]
fn what_joins_nothing_is_not_restored() {
    let mut engine = Engine::<Note>::new(std::time::Instant::now());
    let missing = |object, name: &str| Err(Refusal::NotFound { object, name: name.into() });
    let binding = Definition::Binding(Binding::to_queue("amq.topic", "q", "k"));
    assert_eq!(engine.restore(&binding), missing(Object::Queue, "q"));
    assert_eq!(engine.restore_message(CopyId(1), "q", None, Note::new("", "q", 1)), missing(Object::Queue, "q"));
    let bad = Definition::Queue(with(queue("q"), "x-expires", Field::I32(0)));
    assert!(matches!(engine.restore(&bad), Err(Refusal::BadArgument { .. })));
}
