//! Dead letters through exchanges, and what is written on them.

use super::super::*;
use super::world::*;

fn through(spec: QueueSpec, exchange: &str) -> QueueSpec {
    with(spec, "x-dead-letter-exchange", Field::text(exchange))
}

/// Takes the first message of a queue and refuses it.
fn refuse(world: &mut World, session: SessionId, queue: &str) {
    let got = world.get(session, queue).expect("a message");
    world.nack(session, got.tag, Nack::Discard);
}

#[test]
fn dead_letters_keep_their_keys_unless_their_queue_gives_them_one() {
    let (mut world, one) = World::with_queue(&through(queue("q"), "amq.direct"));
    world
        .declare(one, &with(through(queue("r"), "amq.direct"), "x-dead-letter-routing-key", Field::text("k")))
        .unwrap();
    for name in ["by q", "by cc", "by bcc", "by k"] {
        world.declare(one, &queue(name)).unwrap();
        world.bind(one, name, "amq.direct", &name[3..]).unwrap();
    }
    let parts = |key: &str, number| Parts {
        key: key.to_owned(),
        number,
        cc: vec!["cc".into()],
        bcc: vec!["bcc".into()],
        ..Parts::default()
    };
    world.publish_note(one, Note::of(parts("q", 1))).unwrap();
    refuse(&mut world, one, "q");
    assert_eq!(["by q", "by cc", "by bcc", "by k"].map(|name| world.waiting(name).len()), [1, 1, 1, 0]);
    let got = world.get(one, "by q").unwrap();
    assert_eq!(got.message.deaths[0].keys, ["q".into(), "cc".into()], "receivers do not see BCC");
    world.publish_note(one, Note::of(parts("r", 2))).unwrap();
    refuse(&mut world, one, "r");
    assert_eq!(["by q", "by cc", "by bcc", "by k"].map(|name| world.waiting(name).len()), [0, 1, 1, 1]);
    assert_eq!(world.get(one, "by k").unwrap().message.deaths[0].keys, ["r".into(), "cc".into()]);
}

#[test]
fn deaths_are_counted_by_queue_and_reason_the_last_one_first() {
    let (mut world, one) = World::with_queue(&lettered(queue("work"), "wait"));
    world.declare(one, &lettered(lasting(queue("wait"), SECOND), "work")).unwrap();
    world.send(one, "work", 1);
    for _ in 0..3 {
        refuse(&mut world, one, "work");
        world.pass(SECOND);
    }
    let got = world.get(one, "work").unwrap();
    let deaths: Vec<_> =
        got.message.deaths.iter().map(|death| (&*death.queue, death.reason, death.count, &*death.keys[0])).collect();
    assert_eq!(deaths, [("wait", Reason::Expired, 3, "wait"), ("work", Reason::Rejected, 3, "work")]);
}

#[test]
fn a_missing_exchange_takes_dead_letters_in_silence() {
    let (mut world, one) = World::with_queue(&through(queue("q"), "none"));
    world.send(one, "q", 1);
    refuse(&mut world, one, "q");
    assert_eq!(world.engine.bytes(), 0);
}

#[test]
fn a_dead_letter_goes_to_each_queue_of_its_exchange_but_back_to_none_in_a_circle() {
    let (mut world, one) = World::with_queue(&through(lasting(queue("q"), SECOND), "amq.fanout"));
    for name in ["q", "a", "b"] {
        world.declare(one, &queue(name)).ok();
        world.bind(one, name, "amq.fanout", "").unwrap();
    }
    world.send(one, "q", 1);
    world.pass(SECOND);
    assert_eq!(["q", "a", "b"].map(|name| world.waiting(name).len()), [0, 1, 1]);
}

#[test]
fn what_a_full_queue_drops_of_dead_letters_does_not_go_in_circles() {
    // Each of these sends what is too much to all of them.
    let full = |name: &str| with(through(queue(name), "amq.fanout"), "x-max-length", Field::I32(0));
    let (mut world, one) = World::with_queue(&full("a"));
    for name in ["b", "c"] {
        world.declare(one, &full(name)).unwrap();
    }
    world.declare(one, &queue("end")).unwrap();
    for name in ["a", "b", "c", "end"] {
        world.bind(one, name, "amq.fanout", "").unwrap();
    }
    world.send(one, "a", 1);
    world.pass(SECOND);
    // By a; by a and b, and by a and c; by all three in two orders.
    assert_eq!(world.waiting("end").len(), 5);
}

#[test]
fn very_many_dead_letters_are_sent_on_by_and_by_and_none_is_lost() {
    let full = |name: &str| with(through(queue(name), "amq.fanout"), "x-max-length", Field::I32(0));
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let (mut world, one) = World::with_queue(&queue("end"));
    world.bind(one, "end", "amq.fanout", "").unwrap();
    for name in names {
        world.declare(one, &full(name)).unwrap();
        world.bind(one, name, "amq.fanout", "").unwrap();
    }
    world.send(one, "a", 1);
    let mut requests = 1;
    assert!(world.waiting("end").len() <= 1000);
    while world.engine.next_deadline().is_some_and(|at| at <= world.now) {
        assert!(world.engine.bytes() > 110 * world.waiting("end").len(), "those that wait are counted");
        world.engine.advance(world.now);
        requests += 1;
    }
    // Every way through the seven that begins at the first, and ends anywhere.
    assert_eq!((world.waiting("end").len(), requests), (1957, 2));
    assert_eq!(world.engine.bytes(), 110 * 1957);
}

#[test]
fn a_deleted_or_purged_queue_sends_no_dead_letters() {
    let (mut world, one) = World::with_queue(&lettered(expiring(queue("q"), SECOND), "dead"));
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 1);
    world.engine.purge_queue(one, "q", world.now).unwrap();
    world.send(one, "q", 2);
    world.pass(SECOND);
    assert!(world.engine.queue("q").is_none());
    assert_eq!(world.waiting("dead"), [0; 0]);
}

#[test]
fn a_dead_letter_is_stored_before_it_is_forgotten_where_it_was() {
    let (mut world, one) = World::with_queue(&lettered(queue("q"), "dead"));
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 7);
    world.kept();
    refuse(&mut world, one, "q");
    assert_eq!(world.kept(), ["store 2 dead 7", "forget 1"]);
}
