//! What lanes add to the engine. Its semantics are tested where it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use homing_broker::engine::{Object, Published, Refusal, SessionId};

use super::content::Content;
use super::lanes::Lanes;
use crate::broker::samples::{message, queue, text};
use crate::broker::{Acknowledge, BrokerEvent, ConsumeSpec, Delivery, Lane, Nack, QueueSpec, Receipt};
use crate::error::ErrorKind;

const LANE: Lane = Lane(1);
const SECOND: Duration = Duration::from_secs(1);

struct World {
    lanes: Lanes,
    now: Instant,
}

impl World {
    /// With one session and a queue `q`.
    fn new() -> (Self, SessionId) {
        let now = Instant::now();
        let mut lanes = Lanes::new(now);
        let session = lanes.connect(now);
        lanes.declare_queue(session, &queue("q"), now).unwrap();
        (World { lanes, now }, session)
    }

    fn send(&mut self, session: SessionId, to: &str, body: &str) {
        let content = Content::new(message("", to, body));
        let published = self.lanes.publish(session, content, self.now).unwrap();
        assert!(matches!(published, Published::Routed { .. }));
    }

    fn consume(&mut self, session: SessionId, from: &str, tag: &str, lane: Lane) -> Result<(), Refusal> {
        let acknowledge = Acknowledge::Manual { prefetch: 0 };
        let spec = ConsumeSpec { queue: from.to_owned(), tag: tag.to_owned(), lane, acknowledge };
        self.lanes.consume(session, &spec, self.now)
    }

    fn events(&mut self) -> Vec<BrokerEvent> {
        self.lanes.events().map(|(_, event)| event).collect()
    }

    fn delivered(&mut self) -> Vec<Delivery> {
        let delivery = |event| match event {
            BrokerEvent::Delivery { delivery, .. } => delivery,
            event => panic!("unexpected: {event:?}"),
        };
        self.events().into_iter().map(delivery).collect()
    }
}

#[test]
fn a_delivery_tag_that_is_not_known_closes_its_lane_and_no_other() {
    let (mut world, one) = World::new();
    world.lanes.declare_queue(one, &queue("other"), world.now).unwrap();
    world.consume(one, "q", "b", LANE).unwrap();
    world.consume(one, "q", "a", LANE).unwrap();
    world.consume(one, "other", "other", Lane(2)).unwrap();
    world.send(one, "q", "1");
    let got = world.delivered();
    world.lanes.ack(one, Receipt { tag: 99, ..got[0].receipt }, world.now);
    let events = world.events();
    let [BrokerEvent::LaneClosed { lane, opening: 1, consumers, error }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((*lane, error.kind()), (LANE, ErrorKind::PreconditionFailed));
    assert!(error.to_string().contains("unknown delivery tag 99"), "{error}");
    assert_eq!(*consumers, ["a", "b"]);
    world.send(one, "other", "2");
    assert_eq!(text(&world.delivered()[0]), "2");
    world.consume(one, "q", "a", LANE).unwrap();
    let again = world.delivered();
    assert!(again[0].redelivered);
    assert_eq!((again[0].receipt.opening, again[0].receipt.tag), (2, got[0].receipt.tag));
    // Of the lane as it was before: it means nothing now.
    world.lanes.ack(one, got[0].receipt, world.now);
    assert_eq!(world.events().len(), 0);
    world.lanes.ack(one, again[0].receipt, world.now);
    assert_eq!(world.events().len(), 0);
    // Twice is once too often.
    world.lanes.ack(one, again[0].receipt, world.now);
    assert!(matches!(world.events()[..], [BrokerEvent::LaneClosed { opening: 2, .. }]));
}

#[test]
fn what_was_sent_on_a_lane_before_it_closed_has_its_old_number() {
    let (mut world, one) = World::new();
    world.consume(one, "q", "c", LANE).unwrap();
    world.send(one, "q", "1");
    world.lanes.ack(one, Receipt { lane: LANE, opening: 1, tag: 99 }, world.now);
    world.consume(one, "q", "c", LANE).unwrap();
    let openings = world.events().into_iter().map(|event| match event {
        BrokerEvent::Delivery { delivery, .. } => ("delivery", delivery.receipt.opening),
        BrokerEvent::LaneClosed { opening, .. } => ("closed", opening),
        event => panic!("unexpected: {event:?}"),
    });
    assert_eq!(openings.collect::<Vec<_>>(), [("delivery", 1), ("closed", 1), ("delivery", 2)]);
}

#[test]
fn what_a_queue_refuses_closes_the_lane_that_asked() {
    let (mut world, one) = World::new();
    let missing = || Refusal::NotFound { object: Object::Queue, name: "none".into() };
    assert_eq!(world.consume(one, "none", "c", LANE), Err(missing()));
    assert_eq!(world.lanes.get(one, "none", Lane(2), world.now).unwrap_err(), missing());
    let lanes = world.events().into_iter().map(|event| match event {
        BrokerEvent::LaneClosed { lane, opening, consumers, .. } => (lane.0, opening, consumers.len()),
        event => panic!("unexpected: {event:?}"),
    });
    assert_eq!(lanes.collect::<Vec<_>>(), [(1, 1, 0), (2, 1, 0)]);
    assert_eq!(world.consume(one, "none", "c", LANE), Err(missing()), "the tag was not kept");
}

#[test]
fn a_tag_is_one_consumer_of_a_session_until_it_ends() {
    let (mut world, one) = World::new();
    let two = world.lanes.connect(world.now);
    world.consume(one, "q", "c", LANE).unwrap();
    let taken = || Err(Refusal::TagTaken("c".into()));
    assert_eq!(world.consume(one, "q", "c", Lane(2)), taken());
    assert_eq!(world.consume(one, "q", "c", LANE), taken());
    world.consume(two, "q", "c", LANE).unwrap();
    assert_eq!(world.events().len(), 0, "no lane was closed");
    world.lanes.cancel(one, "c", world.now).unwrap();
    world.lanes.cancel(one, "c", world.now).unwrap();
    world.consume(one, "q", "c", Lane(2)).unwrap();
    // Its queue goes, and the events were not taken yet.
    world.lanes.delete_queue(two, "q", world.now).unwrap();
    world.lanes.declare_queue(one, &queue("q"), world.now).unwrap();
    world.consume(one, "q", "c", LANE).unwrap();
}

#[test]
fn a_dead_letter_is_marked_and_has_no_time_of_its_own_left() {
    let (mut world, one) = World::new();
    let lease = QueueSpec { message_ttl: Some(SECOND), dead_letter_to: Some("q".to_owned()), ..queue("lease") };
    world.lanes.declare_queue(one, &lease, world.now).unwrap();
    world.send(one, "lease", "1");
    world.now += SECOND;
    let got = world.lanes.get(one, "q", LANE, world.now).unwrap().unwrap();
    let header = |name: &str| got.properties.text(name);
    assert_eq!(header("x-first-death-queue"), Some("lease"));
    assert_eq!(header("x-first-death-reason"), Some("expired"));
    assert_eq!(header("x-first-death-exchange"), Some(""));
    assert!(!got.redelivered);
    world.lanes.nack(one, got.receipt, Nack::Requeue, world.now);
    assert_eq!(world.lanes.next_deadline(), None);
}

#[test]
fn times_that_cannot_be_written_never_come() {
    let (mut world, one) = World::new();
    let forever = Some(Duration::MAX);
    let spec = QueueSpec { message_ttl: forever, expires: forever, ..queue("forever") };
    world.lanes.declare_queue(one, &spec, world.now).unwrap();
    world.send(one, "forever", "1");
    world.now += Duration::from_secs(9 * 365 * 86_400);
    assert!(world.lanes.get(one, "forever", LANE, world.now).unwrap().is_some());
}

#[test]
fn a_message_that_nobody_else_holds_is_moved_to_its_consumer() {
    let content = Content::new(message("e", "k", "1"));
    let shared = content.clone();
    let (properties, body) = content.into_properties_and_body();
    assert_eq!((properties.wire_size(), body.size()), (shared.parts().properties.wire_size(), 1));
    assert_eq!(Arc::strong_count(shared.arc()), 1, "the copy is not kept");
}
