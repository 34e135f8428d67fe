//! Queues, consumers, acknowledgements and expiry.

use std::time::Duration;

use super::super::*;
use super::world::*;

#[test]
fn what_a_session_has_in_hand_goes_back_in_order_when_it_ends() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let two = world.connect();
    world.consume(one, "q", "c", 2).unwrap();
    for body in 1..=3 {
        world.send(two, "q", body);
    }
    let first = world.delivered();
    assert_eq!(first.len(), 2, "the prefetch");
    world.ack(one, first[0].tag);
    assert_eq!(world.numbers(), [3]);
    world.disconnect(one);
    world.disconnect(one);
    world.send(two, "q", 4);
    world.consume(two, "q", "c", 0).unwrap();
    let seen: Vec<_> = world.delivered().into_iter().map(|got| (got.number, got.redelivered)).collect();
    assert_eq!(seen, [(2, true), (3, true), (4, false)]);
}

#[test]
fn a_requeued_message_is_at_its_place_again_and_marked() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for body in 1..=4 {
        world.send(one, "q", body);
    }
    let taken: Vec<_> = (0..3).map(|_| world.get(one, "q").unwrap().tag).collect();
    for receipt in [taken[1], taken[0], taken[2]] {
        world.nack(one, receipt, Nack::Requeue);
    }
    let seen: Vec<_> =
        std::iter::from_fn(|| world.get(one, "q")).map(|got| (got.message.number, got.redelivered)).collect();
    assert_eq!(seen, [(1, true), (2, true), (3, true), (4, false)]);
}

#[test]
fn what_has_gone_through_a_queue_counts_when_the_queue_has_gone() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for body in 1..=3 {
        world.send(one, "q", body);
    }
    let tags: Vec<_> = (0..2).map(|_| world.get(one, "q").unwrap().tag).collect();
    world.ack(one, tags[0]);
    world.nack(one, tags[1], Nack::Requeue);
    world.get(one, "q").unwrap();
    let counts = world.engine.counts();
    assert_eq!((counts.published, counts.delivered, counts.redelivered, counts.acknowledged), (3, 3, 1, 1));
    world.delete(one, "q").unwrap();
    assert_eq!(world.engine.counts(), counts);
    world.declare(one, &queue("q")).unwrap();
    world.send(one, "q", 4);
    assert_eq!(world.engine.counts().published, 4);
}

#[test]
fn a_discarded_message_is_gone() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.send(one, "q", 1);
    let got = world.get(one, "q").unwrap();
    drop(got.message);
    world.nack(one, got.tag, Nack::Discard);
    assert!(world.get(one, "q").is_none());
    assert_eq!((world.engine.bytes(), world.engine.released().len()), (0, 0));
}

#[test]
fn consumers_take_turns_and_one_that_is_full_is_passed_over() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume(one, "q", "a", 0).unwrap();
    world.consume(one, "q", "b", 1).unwrap();
    for body in 0..4 {
        world.send(one, "q", body);
    }
    let got = world.delivered();
    let tags: Vec<_> = got.iter().map(|got| got.consumer.as_str()).collect();
    assert_eq!(tags, ["a", "b", "a", "a"], "b has its one");
    world.ack(one, got[1].tag);
    for body in 4..6 {
        world.send(one, "q", body);
    }
    assert_eq!(world.consumers(), ["a", "b"], "b has come back behind a");
}

#[test]
fn a_prefetch_is_each_consumers_own_and_an_acknowledgement_makes_room() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for body in 0..6 {
        world.send(one, "q", body);
    }
    world.consume(one, "q", "a", 2).unwrap();
    world.consume(one, "q", "b", 1).unwrap();
    let got = world.delivered();
    assert_eq!(
        got.iter().map(|got| (got.consumer.as_str(), got.number)).collect::<Vec<_>>(),
        [("a", 0), ("a", 1), ("b", 2)]
    );
    world.ack(one, got[2].tag);
    assert_eq!(world.consumers(), ["b"]);
    world.nack(one, got[0].tag, Nack::Requeue);
    assert_eq!(world.numbers(), [0], "the first again, not the next");
}

#[test]
fn a_consumer_without_acknowledgements_has_everything_at_once() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let spec = ConsumeSpec { acknowledge: Acknowledge::None, ..ConsumeSpec::new("q", CHANNEL, "c") };
    world.consume_by(one, &spec).unwrap();
    for body in 0..3 {
        world.send(one, "q", body);
    }
    assert_eq!(world.numbers(), [0, 1, 2]);
    assert_eq!(world.engine.bytes(), 0);
    world.disconnect(one);
    assert_eq!(world.waiting("q"), [0; 0]);
}

#[test]
fn a_cancelled_consumer_gets_no_more_and_keeps_what_it_has() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume(one, "q", "c", 1).unwrap();
    world.send(one, "q", 1);
    world.send(one, "q", 2);
    let got = world.delivered();
    world.cancel(one, "c");
    world.cancel(one, "c");
    world.ack(one, got[0].tag);
    assert_eq!(world.numbers(), [0; 0]);
    assert_eq!(world.waiting("q"), [2]);
    world.consume(one, "q", "c", 1).unwrap();
    assert_eq!(world.numbers(), [2], "the tag is free again");
}

#[test]
fn a_tag_is_one_consumer_of_a_channel() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let two = world.connect();
    world.consume(one, "q", "c", 1).unwrap();
    assert_eq!(world.consume(one, "q", "c", 1), Err(Refusal::TagTaken("c".into())));
    world.consume_by(one, &ConsumeSpec::new("q", SECOND_CHANNEL, "c")).unwrap();
    world.engine.cancel(one, SECOND_CHANNEL, "c", world.now).unwrap();
    world.consume(two, "q", "c", 1).unwrap();
    world.cancel(one, "c");
    world.send(one, "q", 1);
    let to = world.engine.effects().find_map(|effect| match effect {
        Effect::Delivery { session, .. } => Some(session),
        _ => None,
    });
    assert_eq!(to, Some(two));
}

#[test]
fn messages_expire_by_themselves_and_in_hand_they_do_not() {
    let (mut world, one) = World::with_queue(&lasting(queue("q"), 10 * SECOND));
    world.send(one, "q", 1);
    let in_hand = world.get(one, "q").unwrap();
    world.pass(4 * SECOND);
    world.send(one, "q", 2);
    world.pass(5 * SECOND);
    world.send(one, "q", 3);
    let due = world.engine.next_deadline().unwrap();
    assert!(due <= world.now + 5 * SECOND);
    world.pass(5 * SECOND);
    assert_eq!(world.waiting("q"), [3]);
    // What comes back after its time is over at once, even where a consumer waits.
    world.get(one, "q").unwrap();
    world.consume(one, "q", "c", 0).unwrap();
    world.nack(one, in_hand.tag, Nack::Requeue);
    assert_eq!(world.numbers(), [0; 0]);
}

#[test]
fn a_time_to_live_of_nothing_is_now_or_never() {
    let (mut world, one) = World::with_queue(&lasting(queue("q"), Duration::ZERO));
    assert!(world.send(one, "q", 1));
    assert!(world.get(one, "q").is_none());
    world.consume(one, "q", "c", 0).unwrap();
    world.send(one, "q", 2);
    assert_eq!(world.numbers(), [2]);
}

#[test]
fn times_that_cannot_be_written_never_come() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world
        .publish_note(
            one,
            Note::of(Parts { key: "q".to_owned(), number: 1, ttl: Some(Duration::MAX), ..Parts::default() }),
        )
        .unwrap();
    assert_eq!(world.engine.next_deadline(), None);
    world.pass(100 * 365 * 86_400 * SECOND);
    assert_eq!(world.waiting("q"), [1]);
}

#[test]
fn a_clock_that_goes_backwards_does_no_harm() {
    let (mut world, one) = World::with_queue(&lasting(queue("q"), 10 * SECOND));
    world.pass(20 * SECOND);
    world.send(one, "q", 1);
    world.now -= 15 * SECOND;
    world.send(one, "q", 2);
    assert_eq!(world.waiting("q"), [1, 2]);
    world.pass(25 * SECOND);
    assert_eq!(world.waiting("q"), [0; 0]);
}

#[test]
fn an_unused_queue_expires_and_a_declare_or_a_get_is_a_use() {
    let spec = |name: &str| expiring(queue(name), 10 * SECOND);
    let (mut world, one) = World::with_queue(&spec("unused"));
    for name in ["consumed", "declared", "got"] {
        world.declare(one, &spec(name)).unwrap();
    }
    world.consume(one, "consumed", "c", 0).unwrap();
    world.pass(9 * SECOND);
    world.declare(one, &spec("declared")).unwrap();
    assert!(world.get(one, "got").is_none());
    assert!(world.send(one, "unused", 1), "to send to it is no use of it");
    world.pass(9 * SECOND);
    assert!(!world.send(one, "unused", 1));
    for name in ["consumed", "declared", "got"] {
        assert!(world.send(one, name, 1), "{name}");
    }
    world.cancel(one, "c");
    world.pass(9 * SECOND);
    assert!(!world.send(one, "declared", 1));
    assert!(world.send(one, "consumed", 1), "its time began when its last consumer went");
    world.pass(SECOND);
    assert!(!world.send(one, "consumed", 1));
    assert_eq!(world.engine.next_deadline(), None);
    let zero = expiring(queue("zero"), Duration::ZERO);
    assert!(matches!(world.declare(one, &zero), Err(Refusal::BadArgument { problem: Problem::Zero, .. })));
}

#[test]
fn an_expired_message_goes_on_to_its_dead_letter_queue_and_is_marked() {
    let lease = lettered(lasting(queue("lease"), SECOND), "work");
    let (mut world, one) = World::with_queue(&lease);
    world.declare(one, &queue("work")).unwrap();
    world.consume(one, "work", "c", 0).unwrap();
    world.send(one, "lease", 7);
    assert_eq!(world.engine.next_deadline(), Some(world.now + SECOND));
    world.pass(SECOND);
    let delivered = world.engine.effects().find_map(|effect| match effect {
        Effect::Delivery { handed, .. } => Some(handed),
        _ => None,
    });
    let Handed { redelivered, message, .. } = delivered.expect("a delivery");
    assert_eq!((message.number, redelivered), (7, false));
    assert_eq!((&*message.exchange, &*message.key), ("", "work"));
    let expected = Death {
        queue: "lease".into(),
        reason: Reason::Expired,
        count: 1,
        exchange: "".into(),
        keys: vec!["lease".into()],
        at: None,
        original_expiration: None,
    };
    assert_eq!(message.deaths, [expected]);
}

#[test]
fn a_refused_message_is_dead_lettered_too() {
    let spec = lettered(queue("q"), "dead");
    let (mut world, one) = World::with_queue(&spec);
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 1);
    let got = world.get(one, "q").unwrap();
    world.nack(one, got.tag, Nack::Discard);
    assert_eq!((world.waiting("q"), world.waiting("dead")), (vec![], vec![1]));
}

#[test]
fn a_dead_letter_that_no_queue_takes_is_dropped() {
    let spec = lettered(lasting(queue("q"), SECOND), "none");
    let (mut world, one) = World::with_queue(&spec);
    world.send(one, "q", 1);
    world.pass(SECOND);
    assert_eq!((world.engine.bytes(), world.engine.next_deadline()), (0, None));
}

#[test]
fn dead_letters_that_go_in_circles_end_unless_a_client_refused_them() {
    let circle = |name: &str, to: &str| lettered(lasting(queue(name), Duration::ZERO), to);
    let (mut world, one) = World::with_queue(&circle("a", "b"));
    world.declare(one, &circle("b", "a")).unwrap();
    world.declare(one, &circle("self", "self")).unwrap();
    for name in ["a", "self"] {
        world.send(one, name, 1);
    }
    world.pass(Duration::ZERO);
    assert_eq!((world.engine.bytes(), world.engine.next_deadline()), (0, None));
    // A client that refuses is a way out of it, so that RabbitMQ keeps the message.
    let refused = lettered(queue("r"), "r");
    world.declare(one, &refused).unwrap();
    world.send(one, "r", 1);
    for _ in 0..3 {
        let got = world.get(one, "r").unwrap();
        world.nack(one, got.tag, Nack::Discard);
    }
    assert_eq!(world.waiting("r"), [1]);
}

#[test]
fn an_exclusive_queue_is_its_sessions_alone_and_goes_with_it() {
    let spec = QueueSpec { access: Access::Exclusive, ..queue("q") };
    let (mut world, one) = World::with_queue(&spec);
    let two = world.connect();
    let locked = || Refusal::Locked { queue: "q".into() };
    assert_eq!(world.consume(two, "q", "c", 0), Err(locked()));
    assert_eq!(world.declare(two, &spec), Err(locked()));
    assert_eq!(world.bind(two, "q", "amq.topic", "k"), Err(locked()));
    assert_eq!(world.unbind(two, "q", "amq.topic", "k"), Ok(()), "there is nothing to be taken away");
    world.bind(one, "q", "amq.topic", "k").unwrap();
    assert_eq!(world.unbind(two, "q", "amq.topic", "k"), Err(locked()));
    assert_eq!(world.delete(two, "q"), Err(locked()));
    assert_eq!(world.try_get(two, "q").unwrap_err(), locked());
    assert_eq!(world.declare(one, &queue("q")), Err(locked()), "as another kind, even by its owner");
    assert!(world.send(two, "q", 1), "anybody may send to it");
    world.disconnect(one);
    assert!(!world.send(two, "q", 1));
    assert_eq!(world.engine.bytes(), 0);
}

#[test]
fn an_exchange_routes_each_message_once_to_a_queue_and_goes_with_its_last_binding() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let e = ExchangeSpec { auto_delete: AutoDelete::Yes, ..exchange("e", ExchangeKind::Topic) };
    world.declare_exchange(one, &e);
    world.consume(one, "q", "c", 0).unwrap();
    for key in ["a.b", "a.*", "#", "#"] {
        world.bind(one, "q", "e", key).unwrap();
    }
    assert_eq!(world.publish(one, "e", "a.b", 7), Ok(true));
    assert_eq!(world.numbers(), [7]);
    for key in ["a.b", "a.*", "no such", "#"] {
        assert_eq!(world.publish(one, "e", "a.b", 7), Ok(true));
        world.unbind(one, "q", "e", key).unwrap();
    }
    assert_eq!(
        world.publish(one, "e", "a.b", 7),
        Err(Refusal::NotFound { object: Object::Exchange, name: "e".into() })
    );
    world.unbind(one, "q", "e", "#").unwrap();
    world.unbind(one, "none", "e", "#").unwrap();
}

#[test]
fn a_deleted_queue_takes_its_bindings_along() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for (name, auto_delete) in [("goes", AutoDelete::Yes), ("stays", AutoDelete::No)] {
        world.declare_exchange(one, &ExchangeSpec { auto_delete, ..exchange(name, ExchangeKind::Topic) });
        world.bind(one, "q", name, "k.#").unwrap();
    }
    world.delete(one, "q").unwrap();
    world.delete(one, "q").unwrap();
    assert_eq!(
        world.publish(one, "goes", "k", 1),
        Err(Refusal::NotFound { object: Object::Exchange, name: "goes".into() })
    );
    assert_eq!(world.publish(one, "stays", "k", 1), Ok(false));
    // A queue of the same name has none of them.
    world.declare(one, &queue("q")).unwrap();
    assert_eq!(world.publish(one, "stays", "k", 1), Ok(false));
}

#[test]
fn a_direct_exchange_compares_keys_as_they_are() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.bind(one, "q", "amq.direct", "a.*").unwrap();
    assert_eq!(world.publish(one, "amq.direct", "a.b", 1), Ok(false));
    assert_eq!(world.publish(one, "amq.direct", "a.*", 1), Ok(true));
    let redeclared = exchange("amq.direct", ExchangeKind::Topic);
    let refused = world.engine.declare_exchange(one, &redeclared, world.now);
    assert!(matches!(&refused, Err(Refusal::Differs { argument, .. }) if &**argument == "type"), "{refused:?}");
}

#[test]
fn a_deleted_queue_is_news_to_its_consumers_and_what_they_have_can_be_acknowledged() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let two = world.connect();
    world.consume(one, "q", "c", 0).unwrap();
    world.send(two, "q", 1);
    let got = world.delivered();
    world.delete(two, "q").unwrap();
    let effects: Vec<_> = world.engine.effects().collect();
    assert!(
        matches!(
            &effects[..],
            [Effect::ConsumerCancelled { session, channel: CHANNEL, consumer }, Effect::Undefined(_)]
                if *session == one && **consumer == *"c"
        ),
        "{effects:?}"
    );
    // A new queue in the old one's place has nothing to do with it.
    world.declare(one, &queue("q")).unwrap();
    world.kept();
    world.nack(one, got[0].tag, Nack::Requeue);
    assert_eq!((world.waiting("q"), world.engine.bytes()), (vec![], 0));
    assert!(matches!(world.engine.effects().collect::<Vec<_>>()[..], [Effect::Forget { .. }]), "it outlived its queue");
}

#[test]
fn a_queue_that_deletes_itself_goes_with_its_last_consumer_and_not_before_its_first() {
    let spec = QueueSpec { auto_delete: AutoDelete::Yes, ..queue("q") };
    let (mut world, one) = World::with_queue(&spec);
    world.send(one, "q", 1);
    let two = world.connect();
    world.get(two, "q").unwrap();
    world.disconnect(two);
    assert!(world.send(one, "q", 2), "it had no consumer yet");
    for tag in ["a", "b"] {
        world.consume(one, "q", tag, 1).unwrap();
    }
    world.cancel(one, "a");
    assert!(world.send(one, "q", 3));
    world.cancel(one, "b");
    assert!(!world.send(one, "q", 4));
}

#[test]
fn declarations_that_differ_are_refused_with_what_differs() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for (argument, other) in [
        ("durable", QueueSpec { durability: Durability::Transient, ..queue("q") }),
        ("auto_delete", QueueSpec { auto_delete: AutoDelete::Yes, ..queue("q") }),
        ("x-message-ttl", lasting(queue("q"), SECOND)),
        ("x-expires", expiring(queue("q"), SECOND)),
        ("x-dead-letter-exchange", lettered(queue("q"), "d")),
    ] {
        match world.declare(one, &other) {
            Err(Refusal::Differs { object: Object::Queue, argument: named, .. }) => assert_eq!(&*named, argument),
            other => panic!("{argument}: {other:?}"),
        }
    }
    let exclusive = QueueSpec { access: Access::Exclusive, ..queue("q") };
    assert_eq!(world.declare(one, &exclusive), Err(Refusal::Locked { queue: "q".into() }));
    world.declare(one, &queue("q")).unwrap();
}

#[test]
fn names_of_the_brokers_own_are_refused() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    let reserved = |result: Result<()>| assert!(matches!(result, Err(Refusal::Reserved { .. })), "{result:?}");
    reserved(world.declare(one, &queue("amq.mine")).map(drop));
    reserved(world.engine.declare_exchange(one, &exchange("amq.mine", ExchangeKind::Topic), now));
    reserved(world.engine.delete_exchange(one, "amq.topic", DeleteExchange::Always, now));
    let topic = exchange("", ExchangeKind::Topic);
    assert_eq!(world.engine.declare_exchange(one, &topic, now), Err(Refusal::DefaultExchange));
    assert_eq!(world.engine.delete_exchange(one, "", DeleteExchange::Always, now), Err(Refusal::DefaultExchange));
    assert_eq!(world.bind(one, "q", "", "k"), Err(Refusal::DefaultExchange));
    assert_eq!(world.unbind(one, "q", "", "k"), Err(Refusal::DefaultExchange));
    // What the server made up for a client is none of them.
    let named = QueueSpec { naming: Naming::Server, ..queue("amq.gen-1") };
    world.declare(one, &named).unwrap();
    world.declare(one, &queue("amq.gen-1")).unwrap();
}

#[test]
fn an_ended_session_can_do_nothing() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume(one, "q", "c", 0).unwrap();
    world.disconnect(one);
    let now = world.now;
    assert_eq!(world.declare(one, &queue("r")), Err(Refusal::NoSession));
    assert_eq!(world.publish(one, "", "q", 1).unwrap_err(), Refusal::NoSession);
    assert_eq!(world.engine.cancel(one, CHANNEL, "c", now), Err(Refusal::NoSession));
    assert_eq!(world.engine.ack(one, CHANNEL, Tags::One(1), now), Err(Refusal::NoSession));
    assert_eq!(world.engine.open_channel(one, CHANNEL, now), Err(Refusal::NoSession));
    world.engine.close_channel(one, CHANNEL, now);
    assert!(world.delivered().is_empty());
}

#[test]
fn bytes_are_counted_where_they_are() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.declare(one, &queue("r")).unwrap();
    for queue in ["q", "r"] {
        world.bind(one, queue, "amq.topic", "k").unwrap();
    }
    world.publish(one, "amq.topic", "k", 1).unwrap();
    let bytes = |world: &World| world.engine.queue("q").map(|queue| (queue.waiting_bytes, queue.out_bytes));
    let each = Note::new("amq.topic", "k", 1).weight();
    assert_eq!(bytes(&world), Some((each, 0)));
    assert_eq!(world.engine.bytes(), 2 * each);
    let got = world.get(one, "q").unwrap();
    assert_eq!((bytes(&world), world.engine.bytes()), (Some((0, each)), 2 * each));
    world.delete(one, "r").unwrap();
    assert_eq!(world.engine.bytes(), each);
    world.delete(one, "q").unwrap();
    assert_eq!(world.engine.bytes(), each, "in hand");
    world.ack(one, got.tag);
    assert_eq!(world.engine.bytes(), 0);
}

#[test]
fn what_is_over_behind_the_message_of_a_get_is_not_left() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let short = |number| Parts { key: "q".to_owned(), number, ttl: Some(Duration::from_millis(5)), ..Parts::default() };
    world.send(one, "q", 1);
    world.publish_note(one, Note::of(short(2))).unwrap();
    world.send(one, "q", 3);
    world.pass(Duration::from_millis(5));
    let got = world.try_get(one, "q").unwrap().unwrap();
    assert_eq!((got.handed.message.number, got.left), (1, 1));
    assert_eq!(world.waiting("q"), [3]);
}

#[test]
fn a_quorum_queue_with_a_single_active_consumer_serves_no_gets() {
    let single = |spec| with(spec, "x-single-active-consumer", Field::Bool(true));
    let quorum =
        QueueSpec { durability: Durability::Durable, ..with(queue("q"), "x-queue-type", Field::text("quorum")) };
    let (mut world, one) = World::with_queue(&single(quorum));
    world.send(one, "q", 1);
    assert_eq!(world.try_get(one, "q").unwrap_err(), Refusal::OnlyConsumed { queue: "q".into() });
    assert_eq!(world.waiting("q"), [1]);
    let (mut world, one) = World::with_queue(&single(queue("q")));
    assert!(world.try_get(one, "q").unwrap().is_none(), "a classic one serves them");
}

#[test]
fn an_exclusive_queue_is_the_same_however_durable_it_is_declared() {
    let exclusive = |durability| QueueSpec { access: Access::Exclusive, durability, ..queue("q") };
    let (mut world, one) = World::with_queue(&exclusive(Durability::Transient));
    world.declare(one, &exclusive(Durability::Durable)).unwrap();
}
