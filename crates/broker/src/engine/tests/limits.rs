//! Queues with limits and priorities.

use super::super::*;
use super::world::*;

fn limited(length: i32) -> QueueSpec {
    with(queue("q"), "x-max-length", Field::I32(length))
}

fn overflowing(spec: QueueSpec, overflow: &str) -> QueueSpec {
    with(spec, "x-overflow", Field::text(overflow))
}

fn sized(number: i64, size: usize) -> Note {
    Note::of(Parts { key: "q".to_owned(), number, size, ..Parts::default() })
}

#[test]
fn a_full_queue_drops_its_oldest() {
    let (mut world, one) = World::with_queue(&limited(2));
    for number in 1..=4 {
        assert!(world.send(one, "q", number));
    }
    assert_eq!(world.waiting("q"), [3, 4]);
    // What is out does not count, and counts when it comes back.
    let got = world.get(one, "q").unwrap();
    world.send(one, "q", 5);
    assert_eq!(world.waiting("q"), [4, 5]);
    world.nack(one, got.tag, Nack::Requeue);
    assert_eq!((got.message.number, world.waiting("q")), (3, vec![4, 5]), "it came back to the head, and went");
    assert_eq!(world.engine.bytes(), 2 * 110);
}

#[test]
fn a_queue_without_room_serves_consumers_that_wait() {
    let (mut world, one) = World::with_queue(&limited(0));
    world.consume(one, "q", "c", 1).unwrap();
    world.send(one, "q", 1);
    world.send(one, "q", 2);
    assert_eq!(world.numbers(), [1]);
    assert_eq!(world.waiting("q"), [0; 0]);
}

#[test]
fn bytes_are_those_of_bodies() {
    let (mut world, one) = World::with_queue(&with(queue("q"), "x-max-length-bytes", Field::I32(100)));
    for (number, size) in [(1, 40), (2, 60), (3, 0)] {
        world.publish_note(one, sized(number, size)).unwrap();
    }
    assert_eq!(world.waiting("q"), [1, 2, 3]);
    world.publish_note(one, sized(4, 50)).unwrap();
    assert_eq!(world.waiting("q"), [3, 4], "as many as it takes");
    world.publish_note(one, sized(5, 101)).unwrap();
    assert_eq!(world.waiting("q"), [0; 0], "it has no room for itself");
}

#[test]
fn a_queue_that_refuses_keeps_what_it_has() {
    let (mut world, one) = World::with_queue(&overflowing(limited(1), "reject-publish"));
    world.send(one, "q", 1);
    let refused = world.engine.publish(one, Note::new("", "q", 2), world.now).unwrap();
    assert!(matches!(refused, Published::Rejected));
    assert_eq!(world.waiting("q"), [1]);
    // What comes back is never refused.
    let got = world.get(one, "q").unwrap();
    world.send(one, "q", 3);
    world.nack(one, got.tag, Nack::Requeue);
    assert_eq!(world.waiting("q"), [1, 3]);
    // As in RabbitMQ, that a consumer waits does not help.
    world.delete(one, "q").unwrap();
    world.declare(one, &overflowing(limited(0), "reject-publish")).unwrap();
    world.consume(one, "q", "c", 0).unwrap();
    assert!(!world.send(one, "q", 4));
    assert_eq!(world.numbers(), [0; 0]);
}

#[test]
fn an_engine_without_room_refuses_what_queues_that_sessions_share_would_hold() {
    let mut world = World::new();
    world.engine = Engine::new(world.now).holding_at_most(250);
    let one = world.connect();
    let own = QueueSpec { access: Access::Exclusive, ..queue("own") };
    for spec in [queue("q"), own, lettered(with(queue("short"), "x-max-length", Field::I32(1)), "q")] {
        world.declare(one, &spec).unwrap();
        world.bind(one, &spec.name, "amq.fanout", "").unwrap();
    }
    assert!(world.send(one, "short", 1) && world.send(one, "q", 2));
    for (exchange, key) in [("", "q"), ("amq.fanout", "")] {
        let refused = world.engine.publish(one, Note::new(exchange, key, 3), world.now).unwrap_err();
        assert!(matches!(refused, Refusal::NoRoom { held: 220, most: 250 }), "{refused:?}");
    }
    assert_eq!((world.waiting("q"), world.waiting("own")), (vec![2], vec![]), "no queue has what was refused");
    assert!(world.send(one, "own", 4), "by a reply others leave");
    let first = world.get(one, "q").unwrap();
    assert!(world.engine.publish(one, Note::new("", "q", 5), world.now).is_err(), "what is out is held");
    world.ack(one, first.tag);
    let reply = world.get(one, "own").unwrap();
    world.ack(one, reply.tag);
    assert!(world.send(one, "short", 6), "there is room again");
    assert_eq!(world.waiting("q"), [1], "a dead letter comes in");
    assert!(world.engine.publish(one, Note::new("", "short", 7), world.now).is_err());

    // An exclusive queue is taken from up to twice as many bytes, and what makes room always is.
    while world.engine.bytes() <= 390 {
        assert!(world.send(one, "own", 8));
    }
    let refused = world.engine.publish(one, Note::new("", "own", 9), world.now).unwrap_err();
    assert!(matches!(refused, Refusal::NoRoom { most: 500, .. }), "{refused:?}");
    let nowhere = world.engine.publish(one, Note::new("amq.direct", "", 9), world.now).unwrap();
    assert!(matches!(nowhere, Published::Unroutable(_)), "it takes no room");
    for queue in ["q", "own"] {
        let parts = Parts { key: queue.to_owned(), number: 10, size: 10, makes_room: true, ..Parts::default() };
        assert!(matches!(world.engine.publish(one, Note::of(parts), world.now), Ok(Published::Routed { .. })));
        assert_eq!(world.waiting(queue).last(), Some(&10));
    }
}

#[test]
fn one_queue_that_refuses_is_a_refusal_though_others_take_the_message() {
    let (mut world, one) = World::with_queue(&overflowing(limited(0), "reject-publish"));
    world.declare(one, &queue("other")).unwrap();
    for name in ["q", "other"] {
        world.bind(one, name, "amq.fanout", "").unwrap();
    }
    let refused = world.engine.publish(one, Note::new("amq.fanout", "", 2), world.now).unwrap();
    assert!(matches!(refused, Published::Rejected));
    assert_eq!(world.waiting("other"), [2]);
}

#[test]
fn what_is_too_much_is_dead_lettered_where_that_is_asked() {
    let dropping = lettered(limited(1), "dead");
    let refusing = overflowing(dropping.clone(), "reject-publish");
    let burying = overflowing(dropping.clone(), "reject-publish-dlx");
    for (spec, waits, dead) in [(dropping, 2, vec![1]), (refusing, 1, vec![]), (burying, 1, vec![2])] {
        let (mut world, one) = World::with_queue(&spec);
        world.declare(one, &queue("dead")).unwrap();
        world.send(one, "q", 1);
        world.send(one, "q", 2);
        assert_eq!((world.waiting("q"), world.waiting("dead")), (vec![waits], dead), "{spec:?}");
        if let Some(got) = world.get(one, "dead") {
            assert_eq!(got.message.deaths[0].reason, Reason::MaxLength);
        }
    }
}

#[test]
fn the_most_urgent_comes_first_and_of_those_the_oldest() {
    let (mut world, one) = World::with_queue(&with(queue("q"), "x-max-priority", Field::U8(3)));
    for (number, priority) in [(1, 0), (2, 3), (3, 1), (4, 9), (5, 0)] {
        let parts = Parts { key: "q".to_owned(), number, priority, ..Parts::default() };
        world.publish_note(one, Note::of(parts)).unwrap();
    }
    assert_eq!(world.waiting("q"), [2, 4, 3, 1, 5], "more than the most is the most");
    let first = world.get(one, "q").unwrap();
    world.get(one, "q").unwrap();
    world.nack(one, first.tag, Nack::Requeue);
    assert_eq!(world.waiting("q"), [2, 3, 1, 5], "it has its place again");
    let plain = world.declare(one, &queue("plain"));
    plain.unwrap();
    for (number, priority) in [(1, 0), (2, 3)] {
        let parts = Parts { key: "plain".to_owned(), number, priority, ..Parts::default() };
        world.publish_note(one, Note::of(parts)).unwrap();
    }
    assert_eq!(world.waiting("plain"), [1, 2], "elsewhere nobody asks");
}

#[test]
fn a_message_with_less_time_is_over_when_it_is_at_the_head() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let lasting = |number, seconds| Parts {
        key: "q".to_owned(),
        number,
        ttl: (seconds > 0).then_some(seconds * SECOND),
        ..Parts::default()
    };
    for (number, seconds) in [(1, 0), (2, 1), (3, 5), (4, 0)] {
        world.publish_note(one, Note::of(lasting(number, seconds))).unwrap();
    }
    world.pass(2 * SECOND);
    assert_eq!(world.waiting("q"), [1, 2, 3, 4], "the first has no end");
    let got = world.try_get(one, "q").unwrap().unwrap();
    assert_eq!((got.handed.message.number, got.left), (1, 2), "what is over behind it is not left");
    let got = world.try_get(one, "q").unwrap().unwrap();
    assert_eq!((got.handed.message.number, got.left), (3, 1));
    world.pass(10 * SECOND);
    assert_eq!((world.waiting("q"), world.engine.next_deadline()), (vec![4], None));
}

#[test]
fn the_next_message_is_over_in_time_when_the_first_was_handed_to_a_consumer() {
    let (mut world, one) = World::with_queue(&lettered(queue("q"), "dead"));
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 1);
    let short = Parts { key: "q".to_owned(), number: 2, ttl: Some(SECOND), ..Parts::default() };
    world.publish_note(one, Note::of(short)).unwrap();
    world.consume(one, "q", "c", 1).unwrap();
    assert_eq!(world.numbers(), [1]);
    assert_eq!(world.engine.next_deadline(), Some(world.now + SECOND));
    world.pass(SECOND);
    assert_eq!((world.waiting("q"), world.waiting("dead")), (vec![], vec![2]));
}

#[test]
fn the_next_message_is_over_in_time_when_the_first_was_taken_by_a_get() {
    let (mut world, one) = World::with_queue(&lettered(queue("q"), "dead"));
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 1);
    let short = Parts { key: "q".to_owned(), number: 2, ttl: Some(SECOND), ..Parts::default() };
    world.publish_note(one, Note::of(short)).unwrap();
    world.get(one, "q").unwrap();
    assert_eq!(world.engine.next_deadline(), Some(world.now + SECOND));
    world.pass(SECOND);
    assert_eq!((world.waiting("q"), world.waiting("dead")), (vec![], vec![2]));
}

#[test]
fn a_queue_that_was_long_gives_its_memory_back() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for number in 0..100_000 {
        world.send(one, "q", number);
    }
    let room = |world: &World| world.engine.queues.get(world.engine.queue_names["q"]).unwrap().room();
    assert!(room(&world) >= 100_000);
    for _ in 0..99_000 {
        world.engine.get(one, CHANNEL, "q", Acknowledge::None, world.now).unwrap().unwrap();
    }
    assert!(room(&world) <= 4 * 1024, "{}", room(&world));
    world.engine.effects().count();
    world.engine.advance(world.now);
    assert!(world.engine.effects.capacity() <= 5000);
    assert_eq!(world.waiting("q").len(), 1000);
}

#[test]
fn a_quorum_queue_counts_what_comes_back_and_gives_it_up_in_the_end() {
    let spec = with(queue("q"), "x-queue-type", Field::text("quorum"));
    let spec = lettered(with(spec, "x-delivery-limit", Field::I32(2)), "dead");
    let (mut world, one) = World::with_queue(&spec);
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 1);
    for returns in 0..3 {
        let got = world.get(one, "q").unwrap();
        assert_eq!((got.returns, got.redelivered), (Some(returns), returns > 0));
        world.nack(one, got.tag, Nack::Requeue);
    }
    assert_eq!((world.waiting("q"), world.waiting("dead")), (vec![], vec![1]));
    let got = world.get(one, "dead").unwrap();
    assert_eq!((got.returns, got.message.deaths[0].reason), (None, Reason::DeliveryLimit));
}
