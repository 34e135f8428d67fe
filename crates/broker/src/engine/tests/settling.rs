//! Acknowledgements of several at once, and of none.

use super::super::*;
use super::world::*;

/// A world with a consumer that has these numbers, and their tags.
fn with_out(numbers: std::ops::RangeInclusive<i64>) -> (World, SessionId, Vec<u64>) {
    let (mut world, one) = World::with_queue(&queue("q"));
    for number in numbers {
        world.send(one, "q", number);
    }
    world.consume(one, "q", "c", 0).unwrap();
    let tags = world.delivered().iter().map(|got| got.tag).collect();
    (world, one, tags)
}

fn tags_out(world: &World, session: SessionId) -> Vec<u64> {
    world.engine.outstanding(session, CHANNEL).collect()
}

#[test]
fn several_are_acknowledged_at_once() {
    let (mut world, one, tags) = with_out(1..=5);
    let now = world.now;
    world.engine.ack(one, CHANNEL, Tags::UpTo(tags[1]), now).unwrap();
    assert_eq!(tags_out(&world, one), tags[2..]);
    assert!(world.engine.is_outstanding(one, CHANNEL, tags[2]) && !world.engine.is_outstanding(one, CHANNEL, tags[1]));
    world.ack(one, tags[3]);
    let unknown = |tag| Err(Refusal::UnknownDeliveryTag(tag));
    assert_eq!(world.engine.ack(one, CHANNEL, Tags::UpTo(tags[3]), now), unknown(tags[3]), "as in RabbitMQ 3.10");
    assert_eq!(world.engine.ack(one, CHANNEL, Tags::One(0), now), unknown(0));
    assert_eq!(world.engine.ack(one, CHANNEL, Tags::UpTo(99), now), unknown(99));
    assert_eq!(tags_out(&world, one), [tags[2], tags[4]], "nothing was acknowledged");
    world.engine.ack(one, CHANNEL, Tags::UpTo(0), now).unwrap();
    assert_eq!(tags_out(&world, one), [0; 0]);
    world.engine.ack(one, CHANNEL, Tags::UpTo(0), now).unwrap();
    assert_eq!(world.engine.bytes(), 0);
}

#[test]
fn several_are_refused_at_once_and_come_back_in_order() {
    let (mut world, one, tags) = with_out(1..=4);
    world.cancel(one, "c");
    world.engine.nack(one, CHANNEL, Tags::UpTo(tags[2]), Nack::Requeue, world.now).unwrap();
    assert_eq!(world.waiting("q"), [1, 2, 3]);
    world.engine.nack(one, CHANNEL, Tags::UpTo(0), Nack::Discard, world.now).unwrap();
    assert_eq!((world.waiting("q"), tags_out(&world, one)), (vec![1, 2, 3], vec![]));
}

#[test]
fn what_is_out_is_recovered_on_its_channel_alone() {
    let (mut world, one, _) = with_out(1..=3);
    world.send(one, "q", 4);
    world.delivered();
    let other = world.engine.get(one, SECOND_CHANNEL, "q", Acknowledge::Manual, world.now).unwrap();
    assert!(other.is_none());
    world.engine.recover(one, CHANNEL, world.now).unwrap();
    let again: Vec<_> = world.delivered().into_iter().map(|got| (got.number, got.redelivered)).collect();
    assert_eq!(again, [(1, true), (2, true), (3, true), (4, true)]);
    world.engine.recover(one, SECOND_CHANNEL, world.now).unwrap();
    assert_eq!(world.numbers(), [0; 0]);
}

#[test]
fn tags_count_all_that_a_channel_was_handed() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for number in 1..=4 {
        world.send(one, "q", number);
    }
    let now = world.now;
    let got = |world: &mut World, acknowledge| {
        world.engine.get(one, CHANNEL, "q", acknowledge, now).unwrap().unwrap().handed.tag
    };
    assert_eq!(got(&mut world, Acknowledge::None), 1);
    assert_eq!(got(&mut world, Acknowledge::Manual), 2);
    world
        .consume_by(one, &ConsumeSpec { acknowledge: Acknowledge::None, ..ConsumeSpec::new("q", CHANNEL, "c") })
        .unwrap();
    assert_eq!(world.delivered().iter().map(|got| got.tag).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(tags_out(&world, one), [2]);
    // A channel that is opened again begins anew.
    world.engine.close_channel(one, CHANNEL, now);
    assert_eq!(world.engine.get(one, CHANNEL, "q", Acknowledge::None, now).unwrap_err(), Refusal::NoChannel(CHANNEL));
    world.engine.open_channel(one, CHANNEL, now).unwrap();
    assert_eq!(world.engine.open_channel(one, CHANNEL, now), Err(Refusal::ChannelOpen(CHANNEL)));
    let got = world.get(one, "q").unwrap();
    assert_eq!((got.tag, got.message.number, got.redelivered), (1, 2, true));
}

#[test]
fn a_closed_channel_gives_back_what_it_has_and_leaves_others_alone() {
    let (mut world, one, _) = with_out(1..=2);
    world.consume_by(one, &ConsumeSpec::new("q", SECOND_CHANNEL, "other")).unwrap();
    world.engine.close_channel(one, CHANNEL, world.now);
    world.engine.close_channel(one, CHANNEL, world.now);
    let again: Vec<_> = world.delivered().into_iter().map(|got| (got.consumer, got.number)).collect();
    assert_eq!(again, [("other".to_owned(), 1), ("other".to_owned(), 2)]);
    assert_eq!(world.engine.consumers().count(), 1);
}

#[test]
fn counts_purges_and_conditions_see_what_waits() {
    let (mut world, one, tags) = with_out(1..=2);
    world.cancel(one, "c");
    world.consume(one, "q", "d", 1).unwrap();
    world.send(one, "q", 3);
    world.send(one, "q", 4);
    world.delivered();
    let now = world.now;
    assert_eq!(world.engine.check_queue(one, "q", now), Ok(Declared { messages: 1, consumers: 1 }));
    assert_eq!(world.declare(one, &queue("q")), Ok(Declared { messages: 1, consumers: 1 }));
    let delete = |world: &mut World, if_unused, if_empty| {
        world.engine.delete_queue(one, "q", DeleteQueue { if_unused, if_empty }, now)
    };
    assert_eq!(delete(&mut world, true, false), Err(Refusal::InUse { object: Object::Queue, name: "q".into() }));
    assert_eq!(delete(&mut world, false, true), Err(Refusal::NotEmpty { queue: "q".into() }));
    assert_eq!(world.engine.purge_queue(one, "q", now), Ok(1));
    assert_eq!(world.engine.purge_queue(one, "q", now), Ok(0));
    world.nack(one, tags[0], Nack::Requeue);
    assert_eq!(world.waiting("q"), [1], "what was out was not purged");
    world.cancel(one, "d");
    assert_eq!(delete(&mut world, true, false), Ok(1));
    assert_eq!(delete(&mut world, true, true), Ok(0));
    assert!(matches!(world.engine.check_queue(one, "q", now), Err(Refusal::NotFound { object: Object::Queue, .. })));
    assert!(matches!(world.engine.purge_queue(one, "q", now), Err(Refusal::NotFound { .. })));
}

#[test]
fn a_day_changes_nothing_for_what_is_out() {
    let (mut world, one, tags) = with_out(1..=1);
    assert_eq!(world.engine.next_deadline(), None);
    world.pass(100 * 86_400 * SECOND);
    assert_eq!(world.numbers(), [0; 0]);
    world.ack(one, tags[0]);
}

#[test]
fn a_recover_leaves_out_what_is_to_stay() {
    let (mut world, one, tags) = with_out(1..=4);
    let stay = std::collections::BTreeSet::from([tags[1], tags[3], 77]);
    world.engine.recover_others(one, CHANNEL, &stay, world.now).unwrap();
    let again: Vec<_> = world.delivered().into_iter().map(|got| (got.number, got.redelivered)).collect();
    assert_eq!(again, [(1, true), (3, true)]);
    world.ack(one, tags[1]);
    world.nack(one, tags[3], Nack::Requeue);
    assert_eq!(world.numbers(), [4]);
}

#[test]
fn a_queue_that_is_neither_empty_nor_unused_is_not_empty() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume(one, "q", "c", 1).unwrap();
    world.send(one, "q", 1);
    world.send(one, "q", 2);
    let both = DeleteQueue { if_unused: true, if_empty: true };
    let refused = world.engine.delete_queue(one, "q", both, world.now).unwrap_err();
    assert_eq!(refused, Refusal::NotEmpty { queue: "q".into() });
}

#[test]
fn a_binding_that_cannot_be_is_refused_before_another_sessions_queue() {
    let (mut world, one) = World::with_queue(&QueueSpec { access: Access::Exclusive, ..queue("q") });
    let other = world.connect();
    world.declare_exchange(one, &exchange("x", ExchangeKind::Headers));
    let mut binding = Binding::to_queue("x", "q", "k");
    let locked = world.engine.bind(other, &binding, world.now).unwrap_err();
    assert_eq!(locked, Refusal::Locked { queue: "q".into() });
    binding.arguments.insert("x-match", Field::text("some"));
    let refused = world.engine.bind(other, &binding, world.now).unwrap_err();
    assert!(matches!(refused, Refusal::BadArgument { .. }), "{refused:?}");
}

#[test]
fn a_quorum_queues_type_is_compared_before_its_time_to_live() {
    let typed = with(queue("q"), "x-queue-type", Field::text("quorum"));
    let spec = with(QueueSpec { durability: Durability::Durable, ..typed }, "x-message-ttl", Field::I32(5));
    let (mut world, one) = World::with_queue(&spec);
    let refused = world.declare(one, &QueueSpec { durability: Durability::Durable, ..queue("q") }).unwrap_err();
    assert!(matches!(&refused, Refusal::Differs { argument, .. } if &**argument == "x-queue-type"), "{refused:?}");
}
