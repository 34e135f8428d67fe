//! Clients that are slow.

use super::super::*;
use super::world::*;

#[test]
fn a_paused_session_is_passed_over_and_others_are_served() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let two = world.connect();
    world.consume(one, "q", "a", 0).unwrap();
    world.consume(two, "q", "b", 1).unwrap();
    world.engine.pause(one, world.now);
    for number in 0..3 {
        world.send(one, "q", number);
    }
    assert_eq!(world.consumers(), ["b"]);
    assert!(world.get(one, "q").is_some(), "it may ask");
    world.engine.resume(one, world.now);
    world.engine.resume(one, world.now);
    assert_eq!(world.consumers(), ["a"]);
    // Also on a channel that it opens meanwhile.
    world.engine.pause(one, world.now);
    world.engine.open_channel(one, ChannelId(9), world.now).unwrap();
    world.consume_by(one, &ConsumeSpec::new("q", ChannelId(9), "c")).unwrap();
    world.send(one, "q", 9);
    assert_eq!(world.consumers(), [""; 0]);
    world.engine.resume(one, world.now);
    assert_eq!(world.numbers(), [9]);
}

#[test]
fn a_session_with_an_allowance_is_paused_when_it_has_had_it() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let each = Note::new("", "q", 0).weight();
    for number in 0..100 {
        world.send(one, "q", number);
    }
    world.engine.deliver_at_most(one, 3 * each);
    let free = ConsumeSpec { acknowledge: Acknowledge::None, ..ConsumeSpec::new("q", CHANNEL, "free") };
    world.consume_by(one, &free).unwrap();
    assert_eq!(world.numbers(), [0, 1, 2]);
    world.consume_by(one, &ConsumeSpec::new("q", SECOND_CHANNEL, "other")).unwrap();
    assert_eq!(world.numbers(), [0; 0], "it is the session's");
    world.engine.resume(one, world.now);
    assert_eq!(world.numbers().len(), 3);
    let two = world.connect();
    world.consume(two, "q", "c", 0).unwrap();
    assert_eq!(world.numbers().len(), 94, "another's is not touched");
}

#[test]
fn a_consumer_without_acknowledgements_waits_for_its_channels_prefetch_too() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.declare(one, &queue("r")).unwrap();
    world.engine.qos(one, CHANNEL, Prefetch::Channel(1), world.now).unwrap();
    world.consume(one, "q", "a", 0).unwrap();
    world.send(one, "q", 1);
    let free = ConsumeSpec { acknowledge: Acknowledge::None, ..ConsumeSpec::new("r", CHANNEL, "free") };
    world.consume_by(one, &free).unwrap();
    for number in 2..5 {
        world.send(one, "r", number);
    }
    let got = world.delivered();
    assert_eq!(got.len(), 1, "as in RabbitMQ");
    world.ack(one, got[0].tag);
    assert_eq!(world.numbers(), [2, 3, 4], "they do not count");
}

#[test]
fn a_consumer_that_ends_while_it_is_held_up_is_forgotten() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume(one, "q", "a", 0).unwrap();
    world.engine.pause(one, world.now);
    world.send(one, "q", 1);
    world.cancel(one, "a");
    world.consume(one, "q", "a", 0).unwrap();
    world.delete(one, "q").unwrap();
    world.engine.effects().count();
    world.engine.resume(one, world.now);
    assert_eq!(world.engine.effects().count(), 0);
}
