//! The semantics of a broker, one by one. Time is an argument: nothing here waits.

use std::time::Duration;

use super::*;
use crate::broker::samples::queue;
use crate::broker::{Body, Message, Properties, Routing};
use crate::codec::Value;

const LANE: Lane = Lane(1);
const SECOND: Duration = Duration::from_secs(1);

fn exchange(name: &str, auto_delete: AutoDelete) -> ExchangeSpec {
    ExchangeSpec { name: name.into(), durability: Durability::Transient, auto_delete }
}

pub(super) fn content(exchange: &str, key: &str, body: i64) -> Arc<Content> {
    Content::new(Message {
        exchange: exchange.into(),
        routing_key: key.into(),
        properties: Properties::default(),
        body: Body::Value(Arc::new(Value::from(body))),
        routing: Routing::Mandatory,
        durability: Durability::Durable,
    })
}

pub(super) fn number(content: &Content) -> i64 {
    match &content.body {
        Body::Value(value) => value.as_i64().unwrap(),
        Body::Encoded(_) => panic!("not encoded here"),
    }
}

/// An engine and the time.
struct World {
    engine: Engine,
    now: Instant,
}

/// A delivery: consumer, body, whether it was redelivered, receipt.
type Got = (String, i64, bool, Receipt);

impl World {
    fn new() -> Self {
        let now = Instant::now();
        World { engine: Engine::new(now), now }
    }

    /// With one session and a queue.
    fn with_queue(spec: &QueueSpec) -> (Self, SessionId) {
        let mut world = World::new();
        let session = world.connect();
        world.declare(session, spec).unwrap();
        (world, session)
    }

    fn connect(&mut self) -> SessionId {
        self.engine.connect(self.now)
    }

    fn disconnect(&mut self, session: SessionId) {
        self.engine.disconnect(session, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.advance(self.now);
    }

    fn declare(&mut self, session: SessionId, spec: &QueueSpec) -> Result<()> {
        self.engine.declare_queue(session, spec, self.now)
    }

    fn send(&mut self, session: SessionId, key: &str, body: i64) -> bool {
        self.publish(session, "", key, body).unwrap()
    }

    fn publish(&mut self, session: SessionId, exchange: &str, key: &str, body: i64) -> Result<bool> {
        let published = self.engine.publish(session, content(exchange, key, body), self.now)?;
        Ok(matches!(published, Published::Routed))
    }

    fn consume(&mut self, session: SessionId, queue: &str, tag: &str, prefetch: u16) -> Result<()> {
        self.consume_by(session, queue, tag, LANE, Acknowledge::Manual { prefetch })
    }

    fn consume_by(
        &mut self,
        session: SessionId,
        queue: &str,
        tag: &str,
        lane: Lane,
        acknowledge: Acknowledge,
    ) -> Result<()> {
        let spec = ConsumeSpec { queue: queue.to_owned(), tag: tag.to_owned(), lane, acknowledge };
        self.engine.consume(session, &spec, self.now)
    }

    fn get(&mut self, session: SessionId, queue: &str) -> Option<Handed> {
        self.engine.get(session, queue, LANE, self.now).unwrap()
    }

    /// The bodies that wait in a queue, taken and put back.
    fn waiting(&mut self, queue: &str) -> Vec<i64> {
        let session = self.connect();
        let taken = std::iter::from_fn(|| self.get(session, queue)).map(|got| number(&got.content)).collect();
        self.disconnect(session);
        taken
    }

    fn ack(&mut self, session: SessionId, receipt: Receipt) {
        self.engine.ack(session, receipt, self.now);
    }

    fn nack(&mut self, session: SessionId, receipt: Receipt, then: Nack) {
        self.engine.nack(session, receipt, then, self.now);
    }

    fn delivered(&mut self) -> Vec<Got> {
        let got = |effect| match effect {
            Effect::Delivery { consumer, message, .. } => {
                (consumer.to_string(), number(&message.content), message.redelivered, message.receipt)
            }
            effect => panic!("unexpected: {effect:?}"),
        };
        self.engine.effects().map(got).collect()
    }

    fn bodies(&mut self) -> Vec<i64> {
        self.delivered().into_iter().map(|(_, body, ..)| body).collect()
    }

    fn tags(&mut self) -> Vec<String> {
        self.delivered().into_iter().map(|(tag, ..)| tag).collect()
    }
}

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
    world.ack(one, first[0].3);
    assert_eq!(world.bodies(), [3]);
    world.disconnect(one);
    world.disconnect(one);
    world.send(two, "q", 4);
    world.consume(two, "q", "c", 0).unwrap();
    let seen: Vec<_> = world.delivered().into_iter().map(|(_, body, redelivered, _)| (body, redelivered)).collect();
    assert_eq!(seen, [(2, true), (3, true), (4, false)]);
}

#[test]
fn a_requeued_message_is_at_its_place_again_and_marked() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for body in 1..=4 {
        world.send(one, "q", body);
    }
    let taken: Vec<_> = (0..3).map(|_| world.get(one, "q").unwrap().receipt).collect();
    for receipt in [taken[1], taken[0], taken[2]] {
        world.nack(one, receipt, Nack::Requeue);
    }
    let seen: Vec<_> =
        std::iter::from_fn(|| world.get(one, "q")).map(|got| (number(&got.content), got.redelivered)).collect();
    assert_eq!(seen, [(1, true), (2, true), (3, true), (4, false)]);
}

#[test]
fn a_discarded_message_is_gone() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.send(one, "q", 1);
    let got = world.get(one, "q").unwrap();
    drop(got.content);
    world.nack(one, got.receipt, Nack::Discard);
    assert!(world.get(one, "q").is_none());
    assert_eq!((world.engine.bytes(), world.engine.released().len()), (0, 1));
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
    let tags: Vec<_> = got.iter().map(|(tag, ..)| tag.as_str()).collect();
    assert_eq!(tags, ["a", "b", "a", "a"], "b has its one");
    world.ack(one, got[1].3);
    for body in 4..6 {
        world.send(one, "q", body);
    }
    assert_eq!(world.tags(), ["a", "b"], "b has come back behind a");
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
        got.iter().map(|(tag, body, ..)| (tag.as_str(), *body)).collect::<Vec<_>>(),
        [("a", 0), ("a", 1), ("b", 2)]
    );
    world.ack(one, got[2].3);
    assert_eq!(world.tags(), ["b"]);
    world.nack(one, got[0].3, Nack::Requeue);
    assert_eq!(world.bodies(), [0], "the first again, not the next");
}

#[test]
fn a_consumer_without_acknowledgements_has_everything_at_once() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume_by(one, "q", "c", LANE, Acknowledge::None).unwrap();
    for body in 0..3 {
        world.send(one, "q", body);
    }
    assert_eq!(world.bodies(), [0, 1, 2]);
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
    world.engine.cancel(one, "c", world.now).unwrap();
    world.engine.cancel(one, "c", world.now).unwrap();
    world.ack(one, got[0].3);
    assert_eq!(world.bodies(), [0; 0]);
    assert_eq!(world.waiting("q"), [2]);
    world.consume(one, "q", "c", 1).unwrap();
    assert_eq!(world.bodies(), [2], "the tag is free again");
}

#[test]
fn a_tag_is_one_consumer_of_a_session() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let two = world.connect();
    world.consume(one, "q", "c", 1).unwrap();
    assert_eq!(world.consume_by(one, "q", "c", Lane(2), Acknowledge::None), Err(Refusal::TagTaken("c".into())));
    world.consume(two, "q", "c", 1).unwrap();
    world.engine.cancel(one, "c", world.now).unwrap();
    world.send(one, "q", 1);
    assert!(matches!(world.engine.effects().next(), Some(Effect::Delivery { session, .. }) if session == two));
}

#[test]
fn messages_expire_by_themselves_and_in_hand_they_do_not() {
    let (mut world, one) = World::with_queue(&QueueSpec { message_ttl: Some(10 * SECOND), ..queue("q") });
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
    world.nack(one, in_hand.receipt, Nack::Requeue);
    assert_eq!(world.bodies(), [0; 0]);
}

#[test]
fn a_time_to_live_of_nothing_is_now_or_never() {
    let (mut world, one) = World::with_queue(&QueueSpec { message_ttl: Some(Duration::ZERO), ..queue("q") });
    assert!(world.send(one, "q", 1));
    assert!(world.get(one, "q").is_none());
    world.consume(one, "q", "c", 0).unwrap();
    world.send(one, "q", 2);
    assert_eq!(world.bodies(), [2]);
}

#[test]
fn times_that_cannot_be_written_never_come() {
    let forever = Some(Duration::MAX);
    let (mut world, one) = World::with_queue(&QueueSpec { message_ttl: forever, expires: forever, ..queue("q") });
    world.send(one, "q", 1);
    assert_eq!(world.engine.next_deadline(), None);
    world.pass(100 * 365 * 86_400 * SECOND);
    assert_eq!(world.waiting("q"), [1]);
}

#[test]
fn a_clock_that_goes_backwards_does_no_harm() {
    let (mut world, one) = World::with_queue(&QueueSpec { message_ttl: Some(10 * SECOND), ..queue("q") });
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
    let spec = |name: &str| QueueSpec { expires: Some(10 * SECOND), ..queue(name) };
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
    world.engine.cancel(one, "c", world.now).unwrap();
    world.pass(9 * SECOND);
    assert!(!world.send(one, "declared", 1));
    assert!(world.send(one, "consumed", 1), "its time began when its last consumer went");
    world.pass(SECOND);
    assert!(!world.send(one, "consumed", 1));
    assert_eq!(world.engine.next_deadline(), None);
    let zero = QueueSpec { expires: Some(Duration::ZERO), ..queue("zero") };
    assert!(matches!(world.declare(one, &zero), Err(Refusal::BadArgument { argument: "x-expires", .. })));
}

#[test]
fn an_expired_message_goes_on_to_its_dead_letter_queue_and_is_marked() {
    let lease = QueueSpec { message_ttl: Some(SECOND), dead_letter_to: Some("work".to_owned()), ..queue("lease") };
    let (mut world, one) = World::with_queue(&lease);
    world.declare(one, &queue("work")).unwrap();
    world.consume(one, "work", "c", 0).unwrap();
    world.send(one, "lease", 7);
    assert_eq!(world.engine.next_deadline(), Some(world.now + SECOND));
    world.pass(SECOND);
    let Some(Effect::Delivery { message, .. }) = world.engine.effects().next() else { panic!("nothing came") };
    let content = &message.content;
    assert_eq!((number(content), message.redelivered), (7, false));
    assert_eq!((&*content.exchange, &*content.routing_key), ("", "work"));
    let header = |name: &str| content.properties.text(name);
    assert_eq!(header("x-first-death-queue"), Some("lease"));
    assert_eq!(header("x-first-death-reason"), Some("expired"));
    assert_eq!(header("x-first-death-exchange"), Some(""));
}

#[test]
fn a_refused_message_is_dead_lettered_too() {
    let spec = QueueSpec { dead_letter_to: Some("dead".to_owned()), ..queue("q") };
    let (mut world, one) = World::with_queue(&spec);
    world.declare(one, &queue("dead")).unwrap();
    world.send(one, "q", 1);
    let got = world.get(one, "q").unwrap();
    world.nack(one, got.receipt, Nack::Discard);
    assert_eq!((world.waiting("q"), world.waiting("dead")), (vec![], vec![1]));
}

#[test]
fn a_dead_letter_that_no_queue_takes_is_dropped() {
    let spec = QueueSpec { message_ttl: Some(SECOND), dead_letter_to: Some("none".to_owned()), ..queue("q") };
    let (mut world, one) = World::with_queue(&spec);
    world.send(one, "q", 1);
    world.pass(SECOND);
    assert_eq!((world.engine.bytes(), world.engine.next_deadline()), (0, None));
}

#[test]
fn dead_letters_that_go_in_circles_end_unless_a_client_refused_them() {
    let circle = |name: &str, to: &str| QueueSpec {
        message_ttl: Some(Duration::ZERO),
        dead_letter_to: Some(to.to_owned()),
        ..queue(name)
    };
    let (mut world, one) = World::with_queue(&circle("a", "b"));
    world.declare(one, &circle("b", "a")).unwrap();
    world.declare(one, &circle("self", "self")).unwrap();
    for name in ["a", "self"] {
        world.send(one, name, 1);
    }
    world.pass(Duration::ZERO);
    assert_eq!((world.engine.bytes(), world.engine.next_deadline()), (0, None));
    // A client that refuses is a way out of it, so that RabbitMQ keeps the message.
    let refused = QueueSpec { dead_letter_to: Some("r".to_owned()), ..queue("r") };
    world.declare(one, &refused).unwrap();
    world.send(one, "r", 1);
    for _ in 0..3 {
        let got = world.get(one, "r").unwrap();
        world.nack(one, got.receipt, Nack::Discard);
    }
    assert_eq!(world.waiting("r"), [1]);
}

#[test]
fn an_exclusive_queue_is_its_sessions_alone_and_goes_with_it() {
    let spec = QueueSpec { access: Access::Exclusive, ..queue("q") };
    let (mut world, one) = World::with_queue(&spec);
    let two = world.connect();
    let locked = || Refusal::Locked { queue: "q".to_owned() };
    let now = world.now;
    assert_eq!(world.consume(two, "q", "c", 0), Err(locked()));
    assert_eq!(world.declare(two, &spec), Err(locked()));
    assert_eq!(world.engine.bind(two, "q", "amq.topic", "k", now), Err(locked()));
    assert_eq!(world.engine.unbind(two, "q", "amq.topic", "k", now), Err(locked()));
    assert_eq!(world.engine.delete_queue(two, "q", now), Err(locked()));
    assert_eq!(world.engine.get(two, "q", LANE, now).unwrap_err(), locked());
    assert_eq!(world.declare(one, &queue("q")), Err(locked()), "as another kind, even by its owner");
    assert!(world.send(two, "q", 1), "anybody may send to it");
    world.disconnect(one);
    assert!(!world.send(two, "q", 1));
    assert_eq!(world.engine.bytes(), 0);
}

#[test]
fn an_exchange_routes_each_message_once_to_a_queue_and_goes_with_its_last_binding() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    world.engine.declare_exchange(one, &exchange("e", AutoDelete::Yes), ExchangeKind::Topic, now).unwrap();
    world.consume(one, "q", "c", 0).unwrap();
    for key in ["a.b", "a.*", "#", "#"] {
        world.engine.bind(one, "q", "e", key, now).unwrap();
    }
    assert_eq!(world.publish(one, "e", "a.b", 7), Ok(true));
    assert_eq!(world.bodies(), [7]);
    for key in ["a.b", "a.*", "no such", "#"] {
        assert_eq!(world.publish(one, "e", "a.b", 7), Ok(true));
        world.engine.unbind(one, "q", "e", key, now).unwrap();
    }
    assert_eq!(world.publish(one, "e", "a.b", 7), Err(Refusal::NoExchange("e".to_owned())));
    world.engine.unbind(one, "q", "e", "#", now).unwrap();
    world.engine.unbind(one, "none", "e", "#", now).unwrap();
}

#[test]
fn a_deleted_queue_takes_its_bindings_along() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    for (name, auto_delete) in [("goes", AutoDelete::Yes), ("stays", AutoDelete::No)] {
        world.engine.declare_exchange(one, &exchange(name, auto_delete), ExchangeKind::Topic, now).unwrap();
        world.engine.bind(one, "q", name, "k.#", now).unwrap();
    }
    world.engine.delete_queue(one, "q", now).unwrap();
    world.engine.delete_queue(one, "q", now).unwrap();
    assert_eq!(world.publish(one, "goes", "k", 1), Err(Refusal::NoExchange("goes".to_owned())));
    assert_eq!(world.publish(one, "stays", "k", 1), Ok(false));
    // A queue of the same name has none of them.
    world.declare(one, &queue("q")).unwrap();
    assert_eq!(world.publish(one, "stays", "k", 1), Ok(false));
}

#[test]
fn a_direct_exchange_compares_keys_as_they_are() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.engine.bind(one, "q", "amq.direct", "a.*", world.now).unwrap();
    assert_eq!(world.publish(one, "amq.direct", "a.b", 1), Ok(false));
    assert_eq!(world.publish(one, "amq.direct", "a.*", 1), Ok(true));
    let redeclared = exchange("amq.direct", AutoDelete::No);
    let refused = world.engine.declare_exchange(one, &redeclared, ExchangeKind::Topic, world.now);
    assert!(matches!(refused, Err(Refusal::Differs { argument: "type", .. })), "{refused:?}");
}

#[test]
fn a_deleted_queue_is_news_to_its_consumers_and_what_they_have_can_be_acknowledged() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let two = world.connect();
    world.consume(one, "q", "c", 0).unwrap();
    world.send(two, "q", 1);
    let got = world.delivered();
    world.engine.delete_queue(two, "q", world.now).unwrap();
    let effects: Vec<_> = world.engine.effects().collect();
    assert!(
        matches!(&effects[..], [Effect::ConsumerCancelled { session, consumer }] if *session == one && **consumer == *"c")
    );
    // A new queue in the old one's place has nothing to do with it.
    world.declare(one, &queue("q")).unwrap();
    world.nack(one, got[0].3, Nack::Requeue);
    assert_eq!((world.waiting("q"), world.engine.bytes()), (vec![], 0));
    assert_eq!(world.engine.effects().count(), 0);
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
    world.engine.cancel(one, "a", world.now).unwrap();
    assert!(world.send(one, "q", 3));
    world.engine.cancel(one, "b", world.now).unwrap();
    assert!(!world.send(one, "q", 4));
}

#[test]
fn a_delivery_tag_that_is_not_known_closes_its_lane_and_no_other() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.declare(one, &queue("other")).unwrap();
    world.consume(one, "q", "b", 0).unwrap();
    world.consume(one, "q", "a", 0).unwrap();
    world.consume_by(one, "other", "other", Lane(2), Acknowledge::Manual { prefetch: 0 }).unwrap();
    world.send(one, "q", 1);
    let got = world.delivered();
    world.ack(one, Receipt { tag: 99, ..got[0].3 });
    let effects: Vec<_> = world.engine.effects().collect();
    let [Effect::LaneClosed { lane, opening: 1, consumers, why, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((*lane, why), (LANE, &Refusal::UnknownDeliveryTag(99)));
    assert_eq!(consumers.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["a", "b"]);
    world.send(one, "other", 2);
    assert_eq!(world.bodies(), [2]);
    world.consume(one, "q", "a", 0).unwrap();
    let again = world.delivered();
    assert!(again[0].2, "redelivered");
    assert_eq!((again[0].3.opening, again[0].3.tag), (2, got[0].3.tag));
    // Of the lane as it was before: it means nothing now.
    world.ack(one, got[0].3);
    assert_eq!(world.engine.effects().count(), 0);
    world.ack(one, again[0].3);
    assert_eq!(world.waiting("q"), [0; 0]);
    // Twice is once too often.
    world.ack(one, again[0].3);
    assert!(matches!(world.engine.effects().next(), Some(Effect::LaneClosed { .. })));
}

#[test]
fn what_a_queue_refuses_closes_the_lane_that_asked() {
    let mut world = World::new();
    let one = world.connect();
    let missing = || Refusal::NoQueue("none".to_owned());
    assert_eq!(world.consume(one, "none", "c", 0), Err(missing()));
    assert_eq!(world.engine.get(one, "none", Lane(2), world.now).unwrap_err(), missing());
    let lanes: Vec<_> = world
        .engine
        .effects()
        .map(|effect| match effect {
            Effect::LaneClosed { lane, opening, consumers, .. } => (lane.0, opening, consumers.len()),
            effect => panic!("unexpected: {effect:?}"),
        })
        .collect();
    assert_eq!(lanes, [(1, 1, 0), (2, 1, 0)]);
    assert_eq!(world.consume(one, "none", "c", 0), Err(missing()), "the tag was not kept");
}

#[test]
fn declarations_that_differ_are_refused_with_what_differs() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for (argument, other) in [
        ("durable", QueueSpec { durability: Durability::Transient, ..queue("q") }),
        ("auto_delete", QueueSpec { auto_delete: AutoDelete::Yes, ..queue("q") }),
        ("x-message-ttl", QueueSpec { message_ttl: Some(SECOND), ..queue("q") }),
        ("x-expires", QueueSpec { expires: Some(SECOND), ..queue("q") }),
        ("x-dead-letter-routing-key", QueueSpec { dead_letter_to: Some("d".to_owned()), ..queue("q") }),
    ] {
        match world.declare(one, &other) {
            Err(Refusal::Differs { object: "queue", argument: named, .. }) => assert_eq!(named, argument),
            other => panic!("{argument}: {other:?}"),
        }
    }
    let exclusive = QueueSpec { access: Access::Exclusive, ..queue("q") };
    assert_eq!(world.declare(one, &exclusive), Err(Refusal::Locked { queue: "q".to_owned() }));
    world.declare(one, &queue("q")).unwrap();
}

#[test]
fn names_of_the_brokers_own_are_refused() {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    let reserved = |result: Result<()>| assert!(matches!(result, Err(Refusal::Reserved { .. })), "{result:?}");
    reserved(world.declare(one, &queue("amq.mine")));
    for name in ["amq.mine", ""] {
        reserved(world.engine.declare_exchange(one, &exchange(name, AutoDelete::No), ExchangeKind::Topic, now));
    }
    reserved(world.engine.bind(one, "q", "", "k", now));
}

#[test]
fn an_ended_session_can_do_nothing() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.consume(one, "q", "c", 0).unwrap();
    world.disconnect(one);
    let now = world.now;
    assert_eq!(world.declare(one, &queue("r")), Err(Refusal::NoSession));
    assert_eq!(world.publish(one, "", "q", 1).unwrap_err(), Refusal::NoSession);
    assert_eq!(world.engine.cancel(one, "c", now), Err(Refusal::NoSession));
    world.ack(one, Receipt { lane: LANE, opening: 1, tag: 1 });
    assert_eq!(world.engine.effects().count(), 0);
}

#[test]
fn bytes_are_counted_where_they_are() {
    let (mut world, one) = World::with_queue(&queue("q"));
    world.declare(one, &queue("r")).unwrap();
    for queue in ["q", "r"] {
        world.engine.bind(one, queue, "amq.topic", "k", world.now).unwrap();
    }
    let body = Body::Encoded(bytes::Bytes::from(vec![0; 1000]));
    let message = Message {
        exchange: "amq.topic".into(),
        routing_key: "k".into(),
        properties: Properties::default(),
        body,
        routing: Routing::Mandatory,
        durability: Durability::Transient,
    };
    world.engine.publish(one, Content::new(message), world.now).unwrap();
    let (each, _) = world.engine.queue_bytes("q").unwrap();
    assert!((1000..1500).contains(&each), "{each}");
    assert_eq!(world.engine.bytes(), 2 * each);
    let got = world.get(one, "q").unwrap();
    assert_eq!((world.engine.queue_bytes("q"), world.engine.bytes()), (Some((0, each)), 2 * each));
    world.engine.delete_queue(one, "r", world.now).unwrap();
    assert_eq!(world.engine.bytes(), each);
    world.engine.delete_queue(one, "q", world.now).unwrap();
    assert_eq!(world.engine.bytes(), each, "in hand");
    world.ack(one, got.receipt);
    assert_eq!(world.engine.bytes(), 0);
}

/// The shortest time that some requests take in an engine that has so many other queues, bindings, consumers and messages.
fn cost_beside(many: usize) -> Duration {
    let (mut world, one) = World::with_queue(&queue("q"));
    let now = world.now;
    for other in 0..many {
        let name = format!("other.{other}");
        world.declare(one, &QueueSpec { expires: Some(SECOND), message_ttl: Some(SECOND), ..queue(&name) }).unwrap();
        world.engine.bind(one, &name, "amq.topic", &format!("{name}.*"), now).unwrap();
        world.engine.bind(one, "q", "amq.topic", &format!("q.{other}.*"), now).unwrap();
        world.send(one, &name, 0);
        world.consume(one, &name, &name, 1).unwrap();
        world.send(one, "q", 0);
    }
    world.engine.effects().count();
    let rounds = (0..5).map(|_| {
        let begun = std::time::Instant::now();
        for body in 0..100 {
            world.publish(one, "amq.topic", "q.7.x", body).unwrap();
            let got = world.get(one, "q").unwrap();
            world.nack(one, got.receipt, Nack::Requeue);
            let got = world.get(one, "q").unwrap();
            world.ack(one, got.receipt);
            let two = world.connect();
            let own = QueueSpec { access: Access::Exclusive, ..queue("own") };
            world.declare(two, &own).unwrap();
            world.engine.bind(two, "own", "amq.topic", "own.#", now).unwrap();
            world.consume(two, "own", "c", 1).unwrap();
            world.publish(one, "amq.topic", "own.x", body).unwrap();
            world.engine.cancel(two, "c", now).unwrap();
            world.disconnect(two);
            world.engine.effects().count();
        }
        begun.elapsed()
    });
    rounds.min().unwrap()
}

#[test]
fn requests_cost_the_same_however_much_there_is() {
    // A walk through any of it would cost a hundred times as much.
    let (few, many) = (cost_beside(100), cost_beside(10_000));
    println!("beside 100: {few:?}, beside 10,000: {many:?}");
    assert!(many < 10 * few, "beside 100: {few:?}, beside 10,000: {many:?}");
}
