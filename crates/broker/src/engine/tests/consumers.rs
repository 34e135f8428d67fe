//! Which consumer gets a message.

use super::super::*;
use super::world::*;

fn urgent(tag: &str, priority: i32, prefetch: u16) -> ConsumeSpec {
    ConsumeSpec { priority, prefetch: Some(prefetch), ..ConsumeSpec::new("q", CHANNEL, tag) }
}

#[test]
fn the_most_urgent_consumer_has_all_it_takes() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for (tag, priority, prefetch) in [("low", -1, 0), ("a", 5, 1), ("normal", 0, 2), ("b", 5, 1)] {
        world.consume_by(one, &urgent(tag, priority, prefetch)).unwrap();
    }
    for number in 0..6 {
        world.send(one, "q", number);
    }
    let got = world.delivered();
    let tags: Vec<_> = got.iter().map(|got| got.consumer.as_str()).collect();
    assert_eq!(tags, ["a", "b", "normal", "normal", "low", "low"]);
    world.ack(one, got[2].tag);
    world.ack(one, got[0].tag);
    world.send(one, "q", 6);
    world.send(one, "q", 7);
    assert_eq!(world.consumers(), ["a", "normal"]);
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let in_use = || Err(Refusal::ExclusiveUse { queue: "q".into() });
    let exclusive = |tag: &str| ConsumeSpec { access: Access::Exclusive, ..ConsumeSpec::new("q", CHANNEL, tag) };
    world.consume(one, "q", "shared", 0).unwrap();
    assert_eq!(world.consume_by(one, &exclusive("e")), in_use());
    world.cancel(one, "shared");
    world.consume_by(one, &exclusive("e")).unwrap();
    assert_eq!(world.consume(one, "q", "shared", 0), in_use());
    assert_eq!(world.consume_by(one, &exclusive("f")), in_use());
    world.cancel(one, "e");
    world.consume(one, "q", "shared", 0).unwrap();
}

#[test]
fn a_single_active_consumer_is_followed_by_the_next() {
    let (mut world, one) = World::with_queue(&with(queue("q"), "x-single-active-consumer", Field::Bool(true)));
    let two = world.connect();
    let exclusive = ConsumeSpec { access: Access::Exclusive, ..ConsumeSpec::new("q", CHANNEL, "e") };
    assert_eq!(world.consume_by(one, &exclusive), Err(Refusal::ExclusiveUse { queue: "q".into() }));
    world.consume(one, "q", "a", 1).unwrap();
    world.consume(two, "q", "b", 0).unwrap();
    world.consume(two, "q", "c", 0).unwrap();
    for number in 1..=3 {
        world.send(one, "q", number);
    }
    let got = world.delivered();
    assert_eq!((got.len(), got[0].consumer.as_str()), (1, "a"), "that it is full makes no other active");
    let active: Vec<_> = world.engine.consumers().filter(|known| known.is_active).map(|known| &**known.tag).collect();
    assert_eq!(active, ["a"]);
    world.cancel(one, "a");
    assert_eq!(world.consumers(), ["b", "b"]);
    world.nack(one, got[0].tag, Nack::Requeue);
    assert_eq!(world.consumers(), ["b"], "what the one before had goes to the next");
    world.disconnect(two);
    world.consume(one, "q", "d", 0).unwrap();
    assert_eq!(world.consumers(), ["d", "d", "d"]);
}

#[test]
fn a_prefetch_is_the_channels_or_that_of_each_new_consumer() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    world.engine.qos(one, CHANNEL, Prefetch::EachConsumer(2), now).unwrap();
    world.consume_by(one, &ConsumeSpec::new("q", CHANNEL, "a")).unwrap();
    world.engine.qos(one, CHANNEL, Prefetch::EachConsumer(1), now).unwrap();
    world.consume_by(one, &ConsumeSpec::new("q", CHANNEL, "b")).unwrap();
    world.consume_by(one, &ConsumeSpec::new("q", SECOND_CHANNEL, "c")).unwrap();
    for number in 0..5 {
        world.send(one, "q", number);
    }
    let mut tags = world.consumers();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "a", "b", "c", "c"], "c is on another channel, without a limit");
}

#[test]
fn a_channels_prefetch_counts_what_all_of_its_consumers_have() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.declare(one, &queue("r")).unwrap();
    let now = world.now;
    world.consume(one, "q", "a", 0).unwrap();
    world.consume(one, "r", "b", 0).unwrap();
    world.engine.qos(one, CHANNEL, Prefetch::Channel(2), now).unwrap();
    for number in 0..3 {
        world.send(one, "q", number);
        world.send(one, "r", 10 + number);
    }
    let got = world.delivered();
    assert_eq!(got.iter().map(|got| got.number).collect::<Vec<_>>(), [0, 10]);
    // What a get brings does not count.
    world.get(one, "q").unwrap();
    world.get(one, "q").unwrap();
    world.ack(one, got[0].tag);
    assert_eq!(world.numbers(), [11], "b was passed over since");
    world.engine.qos(one, CHANNEL, Prefetch::Channel(3), now).unwrap();
    assert_eq!(world.numbers(), [12], "more is allowed at once");
    world.engine.qos(one, CHANNEL, Prefetch::Channel(1), now).unwrap();
    world.send(one, "r", 13);
    assert_eq!(world.numbers(), [0; 0]);
    world.engine.qos(one, CHANNEL, Prefetch::Channel(0), now).unwrap();
    assert_eq!(world.numbers(), [13]);
}

#[test]
fn consumers_of_one_queue_that_share_a_channels_prefetch_take_turns() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.engine.qos(one, CHANNEL, Prefetch::Channel(2), world.now).unwrap();
    world.consume(one, "q", "a", 0).unwrap();
    world.consume(one, "q", "b", 0).unwrap();
    for number in 0..6 {
        world.send(one, "q", number);
    }
    for _ in 0..3 {
        let got = world.delivered();
        let mut turns: Vec<_> = got.iter().map(|got| &*got.consumer).collect();
        turns.sort_unstable();
        assert_eq!(turns, ["a", "b"]);
        world.engine.ack(one, CHANNEL, Tags::UpTo(0), world.now).unwrap();
    }
}

#[test]
fn a_prefetch_of_each_consumer_ends_the_channels() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    world.engine.qos(one, CHANNEL, Prefetch::EachConsumer(2), now).unwrap();
    world.engine.qos(one, CHANNEL, Prefetch::Channel(1), now).unwrap();
    world.consume_by(one, &ConsumeSpec::new("q", CHANNEL, "a")).unwrap();
    for number in 0..4 {
        world.send(one, "q", number);
    }
    assert_eq!(world.numbers(), [0], "both limits hold");
    world.engine.qos(one, CHANNEL, Prefetch::EachConsumer(3), now).unwrap();
    assert_eq!(world.numbers(), [1], "the channel has none now, and the consumer has what it began with");
    world.consume_by(one, &ConsumeSpec::new("q", CHANNEL, "b")).unwrap();
    assert_eq!(world.numbers(), [2, 3]);
}

#[test]
fn consumers_that_share_a_channels_prefetch_take_turns() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.declare(one, &queue("r")).unwrap();
    world.engine.qos(one, CHANNEL, Prefetch::Channel(1), world.now).unwrap();
    world.consume(one, "q", "a", 0).unwrap();
    world.consume(one, "r", "b", 0).unwrap();
    for number in 0..4 {
        world.send(one, "q", number);
        world.send(one, "r", number);
    }
    let mut turns = String::new();
    while let Some(got) = world.delivered().pop() {
        turns += &got.consumer;
        world.ack(one, got.tag);
    }
    assert_eq!(turns, "abababab");
}
