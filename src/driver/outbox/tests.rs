//! The outbox by itself: no broker, no clock.

use super::*;
use crate::broker::{Body, Durability, Origin, Properties, Routing};
use crate::driver::port::Charge;

type Box = Outbox<u32>;

fn outbox() -> Box {
    Outbox::new("test", Duration::from_secs(10))
}

fn message() -> Message {
    Message {
        exchange: "e".into(),
        routing_key: "k".into(),
        properties: Properties::default(),
        body: Body::Encoded(bytes::Bytes::new()),
        routing: Routing::Mandatory,
        durability: Durability::Transient,
        origin: Origin::Sent,
    }
}

fn broadcast(outbox: &mut Box, number: u32) {
    outbox.send(Stream::Broadcasts, Kind::Broadcast { published: number }, message(), Charge::NOTHING, None);
}

fn published(acts: &[Act<u32>]) -> Vec<(PublishId, u32)> {
    acts.iter()
        .filter_map(|act| match act {
            Act::Publish { id, message, .. } => Some((*id, headers::number(&message.properties, headers::RESEND))),
            _ => None,
        })
        .collect()
}

fn completed(acts: &[Act<u32>]) -> Vec<(u32, Option<ErrorKind>)> {
    acts.iter()
        .filter_map(|act| match act {
            Act::Complete { published, outcome } => {
                Some((*published, outcome.as_ref().err().map(crate::error::Error::kind)))
            }
            _ => None,
        })
        .collect()
}

fn open(outbox: &mut Box) -> Vec<Act<u32>> {
    outbox.up();
    outbox.acts();
    outbox.opened(&Stream::Broadcasts, Ok(None), Instant::now());
    outbox.acts()
}

#[test]
fn a_stream_is_opened_once_and_keeps_its_order() {
    let mut outbox = outbox();
    outbox.up();
    (1..=3).for_each(|n| broadcast(&mut outbox, n));
    let opens = outbox.acts().iter().filter(|act| matches!(act, Act::Open(..))).count();
    assert_eq!(opens, 1);
    outbox.opened(&Stream::Broadcasts, Ok(None), Instant::now());
    let ids: Vec<u64> = published(&outbox.acts()).iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
}

/// Guards: an exchange that is declared five hundred times.
#[test]
fn an_exchange_that_is_gone_is_declared_once_for_all_that_come_back() {
    let (mut outbox, now) = (outbox(), Instant::now());
    (1..=3).for_each(|number| broadcast(&mut outbox, number));
    let sent = published(&open(&mut outbox));
    assert_eq!(sent.len(), 3);
    let gone = || Err(crate::error::Error::new(ErrorKind::NotFound, "no exchange"));
    for (id, _) in &sent {
        outbox.published(*id, gone(), Peers::Settled, now);
    }
    let declared = |acts: &[Act<u32>]| acts.iter().filter(|act| matches!(act, Act::ExchangeVanished { .. })).count();
    assert_eq!(declared(&outbox.acts()), 1);
    outbox.exchange_is_back(Exchange::Message);
    outbox.opened(&Stream::Broadcasts, Ok(None), now);
    assert_eq!(published(&outbox.acts()).len(), 3, "they go again");
    outbox.published(sent[0].0, gone(), Peers::Settled, now);
    assert_eq!(declared(&outbox.acts()), 1, "it is gone again");
}

/// Guards: a copy of a task that is not taken, and one whose answer comes to whoever made the copy.
#[test]
fn a_copy_whose_queue_is_gone_goes_again_and_keeps_its_sender() {
    let (mut outbox, now) = (outbox(), Instant::now());
    let (queue, stream) = (QueueName::from("work"), Stream::Copies("work".into()));
    outbox.up();
    let properties = Properties { reply_to: Some("sender".into()), ..Properties::default() };
    outbox.send(stream.clone(), Kind::Copy(CopyId(7)), Message { properties, ..message() }, Charge::NOTHING, None);
    let opens = |acts: &[Act<u32>]| acts.iter().filter(|act| matches!(act, Act::Open(..))).count();
    assert_eq!(opens(&outbox.acts()), 1);
    for _ in 0..2 {
        outbox.opened(&stream, Ok(None), now);
        let acts = outbox.acts();
        let [Act::Publish { id, message, replies: None }] = &acts[..] else { panic!("{} acts", acts.len()) };
        assert_eq!(message.properties.reply_to.as_deref(), Some("sender"));
        let unroutable = crate::error::Error::new(ErrorKind::Unroutable, "no queue");
        outbox.published(*id, Err(unroutable), Peers::Settled, now);
        let acts = outbox.acts();
        assert!(acts.iter().any(|act| matches!(act, Act::QueueVanished(gone) if *gone == queue)));
        assert_eq!(opens(&acts), 1);
    }
    outbox.opened(&stream, Ok(None), now);
    let id = published(&outbox.acts())[0].0;
    outbox.published(id, Ok(()), Peers::Settled, now);
    assert!(matches!(outbox.acts()[..], [Act::Release(_), Act::Copied { copy: CopyId(7), known: Known::Yes }]));
    assert!(outbox.is_empty());
}

/// Guards: a sender that is told that its message was not taken, though it may have arrived before.
#[test]
fn what_may_have_arrived_is_not_said_to_have_failed() {
    let now = Instant::now();
    let error = |outbox: &mut Box| {
        let error = outbox.acts().into_iter().find_map(|act| match act {
            Act::Complete { outcome, .. } => outcome.err(),
            _ => None,
        });
        error.expect("it ends")
    };
    let missing = || crate::error::Error::new(ErrorKind::NotFound, "no exchange");
    let refused = || crate::error::Error::with_detail(ErrorKind::DeliveryFailed, "a nack", Detail::NotTaken);
    for was_sent in [false, true] {
        for is_opened in [false, true] {
            let mut outbox = outbox();
            broadcast(&mut outbox, 1);
            outbox.up();
            if was_sent {
                assert_eq!(published(&open(&mut outbox)).len(), 1);
                outbox.down();
                outbox.up();
            }
            if is_opened {
                let mut id = published(&open(&mut outbox))[0].0;
                let mut at = now;
                for _ in 0..TRIES {
                    outbox.published(id, Err(refused()), Peers::Settled, at);
                    at += 2 * REFUSED_PAUSE;
                    outbox.tick(at, &Away::default());
                    id = published(&outbox.acts())[0].0;
                }
                outbox.published(id, Err(refused()), Peers::Settled, at);
            } else {
                outbox.opened(&Stream::Broadcasts, Err(missing()), now);
            }
            let error = error(&mut outbox);
            assert_eq!(error.kind(), if is_opened { ErrorKind::DeliveryFailed } else { ErrorKind::NotFound });
            assert_eq!(error.to_string().contains("whether it arrived is not known"), was_sent, "{error}");
        }
    }
}

/// Guards: a queue that was deleted after its declaration, and before the message that relies on it.
#[test]
fn what_comes_while_a_queue_is_being_declared_has_it_declared_again() {
    let (mut outbox, now) = (outbox(), Instant::now());
    let queue: QueueName = "homing-delay-1000-work".into();
    let stream = Stream::Tasks(queue.clone());
    outbox.up();
    let send = |outbox: &mut Box, number| {
        outbox.close_stream_of(&queue);
        let kind = Kind::Task { correlation: None, published: Some(number), key: None };
        outbox.send(stream.clone(), kind, message(), Charge::NOTHING, None);
    };
    let opens = |acts: &[Act<u32>]| acts.iter().filter(|act| matches!(act, Act::Open(..))).count();
    send(&mut outbox, 1);
    assert_eq!(opens(&outbox.acts()), 1);
    (2..=3).for_each(|number| send(&mut outbox, number));
    assert_eq!(opens(&outbox.acts()), 0, "one at a time");
    outbox.opened(&stream, Ok(None), now);
    let acts = outbox.acts();
    assert_eq!((published(&acts), opens(&acts)), (vec![(PublishId(1), 0)], 1));
    outbox.opened(&stream, Ok(None), now);
    let acts = outbox.acts();
    assert_eq!(
        (published(&acts), opens(&acts)),
        (vec![(PublishId(2), 0), (PublishId(3), 0)], 0),
        "once for all of them"
    );
    send(&mut outbox, 4);
    let acts = outbox.acts();
    assert_eq!((published(&acts), opens(&acts)), (vec![], 1));
}

/// Guards: a message that came at the end of an attempt that was begun long before, failed with it.
#[test]
fn a_stream_that_cannot_be_opened_fails_those_for_whom_it_was_tried() {
    let mut outbox = outbox();
    outbox.up();
    broadcast(&mut outbox, 1);
    outbox.acts();
    broadcast(&mut outbox, 2);
    let no_answer = || Err(crate::error::Error::new(ErrorKind::TimedOut, "no answer"));
    outbox.opened(&Stream::Broadcasts, no_answer(), Instant::now());
    let acts = outbox.acts();
    assert_eq!(completed(&acts), [(1, Some(ErrorKind::TimedOut))]);
    assert!(acts.iter().any(|act| matches!(act, Act::Open(..))), "it is tried again for the second");
    outbox.opened(&Stream::Broadcasts, no_answer(), Instant::now());
    let acts = outbox.acts();
    assert_eq!(completed(&acts), [(2, Some(ErrorKind::TimedOut))]);
    assert!(!acts.iter().any(|act| matches!(act, Act::Open(..))), "nothing waits for it");
}

#[test]
fn what_was_with_the_broker_is_sent_again_first_and_marked() {
    let mut outbox = outbox();
    (1..=2).for_each(|n| broadcast(&mut outbox, n));
    let sent = published(&open(&mut outbox));
    assert_eq!(sent, [(PublishId(1), 0), (PublishId(2), 0)]);
    outbox.published(PublishId(1), Ok(()), Peers::Settled, Instant::now());
    outbox.down();
    broadcast(&mut outbox, 3);
    assert_eq!(completed(&outbox.acts()), [(1, None)]);
    let again = published(&open(&mut outbox));
    assert_eq!(again, [(PublishId(2), 1), (PublishId(3), 0)]);
}

#[test]
fn a_call_is_not_sent_again_unless_it_may_be() {
    for (repeat, ends) in [(Repeat::Never, true), (Repeat::Allowed, false)] {
        let mut outbox = outbox();
        let (correlation, recipient) = (Uuid::from_u128(1), Identifier::new("x").expect("a name"));
        let kind = Kind::Call { correlation, recipient, repeat, published: Some(7) };
        outbox.send(Stream::Calls, kind, message(), Charge::NOTHING, None);
        outbox.up();
        outbox.opened(&Stream::Calls, Ok(Some("replies".into())), Instant::now());
        outbox.acts();
        outbox.down();
        let acts = outbox.acts();
        let failed = acts.iter().any(|act| matches!(act, Act::Fail { correlation: id, .. } if *id == correlation));
        assert_eq!((failed, outbox.is_empty()), (ends, ends));
        assert_eq!(completed(&acts).is_empty(), !ends);
    }
}

#[test]
fn a_call_whose_caller_went_before_it_went_out_does_not_go_out() {
    let mut outbox = outbox();
    let (correlation, recipient) = (Uuid::from_u128(1), Identifier::new("x").expect("a name"));
    let kind = Kind::Call { correlation, recipient, repeat: Repeat::Never, published: Some(3) };
    outbox.send(Stream::Calls, kind, message(), Charge::NOTHING, None);
    outbox.forget_call(correlation, crate::error::Error::new(ErrorKind::TimedOut, "its deadline"));
    outbox.up();
    outbox.opened(&Stream::Calls, Ok(None), Instant::now());
    let acts = outbox.acts();
    assert!(published(&acts).is_empty());
    // Whoever waits for the call to be taken over gets the error of the call, whatever ended it.
    assert_eq!(completed(&acts), [(3, Some(ErrorKind::TimedOut))]);
    assert!(outbox.is_empty() && outbox.calls.is_empty() && outbox.due.is_empty());
}

#[test]
fn every_message_ends_once_and_leaves_nothing() {
    let now = Instant::now();
    let mut outbox = outbox();
    let until = Some(after(now, Duration::from_secs(1)));
    outbox.send(Stream::Broadcasts, Kind::Broadcast { published: 1 }, message(), Charge::NOTHING, until);
    outbox.send(Stream::Broadcasts, Kind::Broadcast { published: 2 }, message(), Charge::NOTHING, until);
    open(&mut outbox);
    let refused = || Err(crate::error::Error::new(ErrorKind::DeliveryFailed, "nack"));
    for _ in 0..=TRIES {
        outbox.published(PublishId(1), refused(), Peers::Settled, now);
        outbox.tick(after(now, REFUSED_PAUSE), &Away::default());
    }
    outbox.tick(after(now, Duration::from_secs(2)), &Away::default());
    let ends = completed(&outbox.acts());
    assert_eq!(ends, [(1, Some(ErrorKind::DeliveryFailed)), (2, Some(ErrorKind::TimedOut))]);
    assert_eq!(outbox.in_flight(), 0);
    // What comes late is for nobody.
    outbox.published(PublishId(2), Ok(()), Peers::Settled, now);
    assert!(matches!(outbox.acts()[..], [Act::Release(_)]) && outbox.is_empty() && outbox.due.is_empty());
    assert_eq!(outbox.in_flight(), 0);
}

#[test]
fn what_is_reported_as_unconfirmed_is_somebodys_message() {
    let mut outbox = outbox();
    broadcast(&mut outbox, 1);
    outbox.send(Stream::Direct, Kind::Notice, message(), Charge::NOTHING, None);
    assert_eq!((outbox.in_flight(), outbox.unconfirmed()), (2, 1), "closing waits for a notice all the same");
}

#[test]
fn a_reply_whose_exchange_had_no_answer_is_tried_again_until_its_time_is_up() {
    let (mut outbox, mut now) = (outbox(), Instant::now());
    open(&mut outbox);
    let stream = Stream::Replies(Exchange::Task);
    let kind = Kind::Reply { stage: ReplyStage::Last, correlation: None, late: None, sent: None };
    outbox.send(stream.clone(), kind, message(), Charge::NOTHING, None);
    let no_answer = || Error::new(ErrorKind::TimedOut, "no answer");
    let mut opened = 0;
    while !outbox.is_empty() {
        let acts = outbox.acts();
        assert_eq!(published(&acts), []);
        for act in acts {
            if let Act::Open(stream, _) = act {
                opened += 1;
                outbox.opened(&stream, Err(no_answer()), now);
            }
        }
        let Some(next) = outbox.next_deadline() else { break };
        now = next;
        outbox.tick(now, &Away::default());
    }
    assert!(opened > 5 && outbox.is_empty(), "{opened} attempts");
    // One that is opened after all goes out.
    let kind = Kind::Reply { stage: ReplyStage::Last, correlation: None, late: None, sent: None };
    outbox.send(stream.clone(), kind, message(), Charge::NOTHING, None);
    outbox.opened(&stream, Err(no_answer()), now);
    outbox.tick(outbox.next_deadline().expect("a pause"), &Away::default());
    outbox.acts();
    outbox.opened(&stream, Ok(None), now);
    assert_eq!(published(&outbox.acts()).len(), 1);
}

#[test]
fn of_idle_task_queues_a_bounded_number_keeps_its_stream() {
    let mut outbox = outbox();
    outbox.up();
    for n in 0..5 * IDLE_STREAMS_MOST {
        let stream = Stream::Tasks(n.to_string().as_str().into());
        let kind = Kind::Task { correlation: None, published: None, key: None };
        outbox.send(stream.clone(), kind, message(), Charge::NOTHING, None);
        outbox.opened(&stream, Ok(None), Instant::now());
        for (id, _) in published(&outbox.acts()) {
            outbox.published(id, Ok(()), Peers::Settled, Instant::now());
        }
    }
    assert!(outbox.is_empty());
    assert!(outbox.queues.len() <= IDLE_STREAMS_MOST, "{} streams", outbox.queues.len());
}

/// A task with a key, whose marker is open to go.
fn keyed(outbox: &mut Box, until: Option<Instant>) -> PublishId {
    let key = UniqueKey::new("key".into(), Duration::from_secs(60), "q").expect("a key");
    let (marker, stream) = (Stream::Tasks(key.marker.clone()), Stream::Tasks("q".into()));
    let (queue, correlation, since) = ("q".into(), None, Instant::now());
    let marked = Marked { key, queue, stream, message: message(), correlation, published: Some(1), since };
    outbox.send(marker.clone(), Kind::Marker(marked.into()), message(), Charge::NOTHING, until);
    outbox.up();
    outbox.opened(&marker, Ok(None), Instant::now());
    let sent = published(&outbox.acts());
    assert_eq!(sent.len(), 1, "the marker, and not yet the task");
    sent[0].0
}

/// The broker has the marker, and the task queue is declared.
fn task_of(outbox: &mut Box, marker: PublishId) -> PublishId {
    outbox.published(marker, Ok(()), Peers::Settled, Instant::now());
    outbox.opened(&Stream::Tasks("q".into()), Ok(None), Instant::now());
    let acts = outbox.acts();
    assert!(completed(&acts).is_empty(), "a key is no task");
    published(&acts)[0].0
}

#[test]
fn a_key_is_freed_as_long_as_nobody_else_can_have_it_by_then() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let taken = TakenKey { marker: "marker".into(), id: None, until: now + 10 * second };
    assert!(taken.can_be_freed(now, 9 * second));
    assert!(!taken.can_be_freed(now, 10 * second));
    assert!(!taken.can_be_freed(now + 7 * second, 4 * second));
    assert!(!taken.can_be_freed(now, Duration::MAX));
}

fn freed(acts: &[Act<u32>]) -> usize {
    acts.iter().filter(|act| matches!(act, Act::FreeKey(_))).count()
}

fn full() -> Result<()> {
    Err(Error::with_detail(ErrorKind::DeliveryFailed, "it is full", Detail::NotTaken))
}

#[test]
fn a_task_with_a_key_goes_when_its_marker_is_confirmed() {
    let mut outbox = outbox();
    let marker = keyed(&mut outbox, None);
    let task = task_of(&mut outbox, marker);
    outbox.published(task, Ok(()), Peers::Settled, Instant::now());
    let acts = outbox.acts();
    assert_eq!((completed(&acts), freed(&acts)), (vec![(1, None)], 0));
    assert!(outbox.is_empty());
    assert_eq!(outbox.queues.len(), 1, "the stream of a marker does not stay");
}

#[test]
fn a_task_whose_key_is_taken_is_not_sent() {
    let mut outbox = outbox();
    let marker = keyed(&mut outbox, None);
    outbox.published(marker, full(), Peers::Settled, Instant::now());
    let acts = outbox.acts();
    assert_eq!((completed(&acts), freed(&acts)), (vec![(1, Some(ErrorKind::DuplicateTask))], 0));
    assert!(published(&acts).is_empty() && outbox.is_empty());
}

/// Guards: a marker that is sent again and refused because of itself: its task would be sent by nobody.
#[test]
fn a_marker_that_was_with_the_broker_is_not_sent_again() {
    let mut outbox = outbox();
    keyed(&mut outbox, None);
    outbox.down();
    assert_eq!(completed(&outbox.acts()), [(1, Some(ErrorKind::ConnectionLost))]);
    outbox.up();
    assert!(outbox.acts().is_empty() && outbox.is_empty());
    // And one whose channel was closed.
    let mut outbox = self::outbox();
    let marker = keyed(&mut outbox, None);
    let closed = Error::new(ErrorKind::DeliveryFailed, "the channel was closed");
    outbox.published(marker, Err(closed), Peers::Settled, Instant::now());
    assert_eq!(completed(&outbox.acts()), [(1, Some(ErrorKind::DeliveryFailed))]);
    assert!(outbox.is_empty());
}

#[test]
fn a_marker_queue_that_is_gone_is_declared_again() {
    let mut outbox = outbox();
    let marker = keyed(&mut outbox, None);
    let gone = Error::new(ErrorKind::Unroutable, "no such queue");
    outbox.published(marker, Err(gone), Peers::Settled, Instant::now());
    assert!(outbox.acts().iter().any(|act| matches!(act, Act::Open(..))));
    assert!(!outbox.is_empty());
}

#[test]
fn a_key_is_free_again_where_its_task_was_certainly_not_sent() {
    // The task queue cannot be declared.
    let mut outbox = outbox();
    let marker = keyed(&mut outbox, None);
    outbox.published(marker, Ok(()), Peers::Settled, Instant::now());
    let differs = Error::new(ErrorKind::PreconditionFailed, "it differs");
    outbox.opened(&Stream::Tasks("q".into()), Err(differs), Instant::now());
    let acts = outbox.acts();
    assert_eq!((completed(&acts), freed(&acts)), (vec![(1, Some(ErrorKind::PreconditionFailed))], 1));
    // It is full, each time.
    let mut outbox = self::outbox();
    let marker = keyed(&mut outbox, None);
    let task = task_of(&mut outbox, marker);
    let mut now = Instant::now();
    for _ in 0..=TRIES {
        outbox.published(task, full(), Peers::Settled, now);
        now = after(now, REFUSED_PAUSE);
        outbox.tick(now, &Away::default());
    }
    let acts = outbox.acts();
    assert_eq!((completed(&acts), freed(&acts)), (vec![(1, Some(ErrorKind::DeliveryFailed))], 1));
    // Its time is up before it goes out.
    let mut outbox = self::outbox();
    let until = after(Instant::now(), Duration::from_secs(1));
    let marker = keyed(&mut outbox, Some(until));
    outbox.published(marker, Ok(()), Peers::Settled, Instant::now());
    outbox.tick(until, &Away::default());
    let acts = outbox.acts();
    assert_eq!((completed(&acts), freed(&acts)), (vec![(1, Some(ErrorKind::TimedOut))], 1));
}

/// Guards: a second task with the key of one that the broker may have.
#[test]
fn a_key_stays_where_its_task_may_have_been_sent() {
    let until = after(Instant::now(), Duration::from_secs(1));
    type Trouble = fn(&mut Box, PublishId);
    let troubles: [Trouble; 3] = [
        |outbox, _| outbox.down(),
        |outbox, task| {
            let closed = Error::new(ErrorKind::DeliveryFailed, "the channel was closed");
            outbox.published(task, Err(closed), Peers::Settled, Instant::now());
        },
        |_, _| {},
    ];
    for trouble in troubles {
        let mut outbox = outbox();
        let marker = keyed(&mut outbox, Some(until));
        let task = task_of(&mut outbox, marker);
        trouble(&mut outbox, task);
        outbox.tick(until, &Away::default());
        let acts = outbox.acts();
        assert_eq!((completed(&acts), freed(&acts)), (vec![(1, Some(ErrorKind::TimedOut))], 0));
        // What the broker decides later.
        outbox.published(task, Ok(()), Peers::Settled, until);
        assert_eq!(freed(&outbox.acts()), 0);
        assert!(outbox.is_empty());
    }
}

fn to_queue(outbox: &mut Box, queue: &str, number: u32, until: Instant) {
    let kind = Kind::Task { correlation: None, published: Some(number), key: None };
    outbox.send(Stream::Tasks(queue.into()), kind, message(), Charge::NOTHING, Some(until));
}

/// Guards: a silent connection that has more and more, since each sender that is told so makes room for the next.
#[test]
fn what_is_given_up_keeps_its_room_until_the_broker_has_decided() {
    let now = Instant::now();
    let until = after(now, Duration::from_secs(1));
    let failed = |kind| Some(Err(crate::error::Error::new(kind, "on purpose")));
    let kinds = [ErrorKind::DeliveryFailed, ErrorKind::NotFound, ErrorKind::Unroutable, ErrorKind::ConnectionLost];
    // Lost, where there is no outcome.
    for outcome in kinds.map(failed).into_iter().chain([Some(Ok(())), None]) {
        let mut outbox = self::outbox();
        outbox.up();
        to_queue(&mut outbox, "q", 1, until);
        outbox.opened(&Stream::Tasks("q".into()), Ok(None), now);
        let sent = published(&outbox.acts());
        outbox.tick(until, &Away::default());
        let acts = outbox.acts();
        assert_eq!(completed(&acts), [(1, Some(ErrorKind::TimedOut))]);
        assert!(!acts.iter().any(|act| matches!(act, Act::Release(_))), "the connection still has it");
        assert_eq!((outbox.in_flight(), outbox.unconfirmed()), (0, 0), "nobody waits for it");
        match outcome {
            Some(outcome) => outbox.published(sent[0].0, outcome, Peers::Settled, until),
            None => outbox.down(),
        }
        assert!(matches!(outbox.acts()[..], [Act::Release(_)]), "and it is not sent again");
        outbox.up();
        outbox.tick(after(until, Duration::from_secs(60)), &Away::default());
        assert!(outbox.acts().is_empty() && outbox.is_empty() && outbox.due.is_empty() && outbox.given_up.is_empty());
    }
}

/// Guards: queues that are declared one after the other for messages that were given up long ago.
#[test]
fn a_stream_whose_messages_are_given_up_is_not_wanted_until_there_are_others() {
    let now = Instant::now();
    let until = after(now, Duration::from_secs(1));
    let mut outbox = outbox();
    outbox.up();
    let queues = ["a", "b", "c"];
    queues.iter().for_each(|queue| to_queue(&mut outbox, queue, 1, until));
    to_queue(&mut outbox, "c", 2, after(until, Duration::from_secs(1)));
    let mut opens: Vec<(Stream, Wanted)> = outbox
        .acts()
        .into_iter()
        .filter_map(|act| if let Act::Open(stream, wanted) = act { Some((stream, wanted)) } else { None })
        .collect();
    assert_eq!(opens.len(), 3);
    assert!(opens.iter_mut().all(|(_, wanted)| !wanted.is_over_now()));
    outbox.tick(until, &Away::default());
    assert_eq!(
        outbox.acts().iter().filter(|act| matches!(act, Act::Release(_))).count(),
        3,
        "none of them has gone out"
    );
    let over: Vec<bool> = opens.iter_mut().map(|(_, wanted)| wanted.is_over_now()).collect();
    assert_eq!(over, [true, true, false]);
    // One comes before it is known that the first stream is not opened.
    to_queue(&mut outbox, "a", 3, after(until, Duration::from_secs(1)));
    assert!(outbox.acts().is_empty(), "it is being opened");
    outbox.not_opened(&opens[0].0);
    outbox.not_opened(&opens[1].0);
    let acts = outbox.acts();
    assert!(matches!(&acts[..], [Act::Open(stream, _)] if *stream == opens[0].0), "anew, for the one who wants it");
    assert_eq!(outbox.queues.len(), 2, "nothing is kept of the other one");
    // What is known too late changes nothing.
    outbox.not_opened(&opens[0].0);
    assert!(outbox.acts().is_empty());
    outbox.tick(after(until, Duration::from_secs(2)), &Away::default());
    queues.iter().for_each(|queue| outbox.opened(&Stream::Tasks((*queue).into()), Ok(None), until));
    assert!(outbox.is_empty() && outbox.queues.is_empty(), "{} streams", outbox.queues.len());
}

/// Guards: probes without number on a connection that stays silent.
#[test]
fn there_is_a_probe_until_the_broker_has_decided_on_it() {
    for outcome in [Some(Ok(())), None] {
        let mut outbox = outbox();
        outbox.up();
        assert!(!outbox.is_probing());
        outbox.send(Stream::Direct, Kind::Probe(Turn::default()), message(), Charge::NOTHING, None);
        let sent = published(&outbox.acts());
        assert!(outbox.is_probing());
        match outcome {
            Some(outcome) => outbox.published(sent[0].0, outcome, Peers::Settled, Instant::now()),
            None => outbox.down(),
        }
        assert!(!outbox.is_probing() && outbox.is_empty());
    }
}

/// Guards: a queue that confirms nothing, whose messages would have all the room of a connection that works.
#[test]
fn what_is_given_up_makes_room_when_the_broker_has_decided_on_a_later_one() {
    let now = Instant::now();
    let until = after(now, Duration::from_secs(1));
    let mut outbox = outbox();
    outbox.up();
    for queue in ["a", "b"] {
        to_queue(&mut outbox, queue, 1, until);
        to_queue(&mut outbox, queue, 2, until);
        outbox.opened(&Stream::Tasks(queue.into()), Ok(None), now);
    }
    let sent: Vec<PublishId> = published(&outbox.acts()).into_iter().map(|(id, _)| id).collect();
    assert_eq!(sent.len(), 4);
    outbox.tick(until, &Away::default());
    outbox.acts();
    let later = |outbox: &mut Box, id: PublishId| {
        outbox.published(id, Ok(()), Peers::Settled, until);
        let acts = outbox.acts();
        assert!(acts.iter().all(|act| matches!(act, Act::Release(_))), "nobody waits for it");
        acts.len()
    };
    assert_eq!(later(&mut outbox, sent[0]), 1, "those after it may still be unread");
    assert_eq!(later(&mut outbox, sent[2]), 2, "it and the one before");
    assert_eq!(later(&mut outbox, sent[1]), 0, "it has been given back");
    // One of a sender who waits, as well.
    to_queue(&mut outbox, "b", 3, after(until, Duration::from_secs(1)));
    let id = published(&outbox.acts())[0].0;
    outbox.published(id, Ok(()), Peers::Settled, until);
    let acts = outbox.acts();
    assert_eq!(completed(&acts), [(3, None)]);
    assert_eq!(acts.iter().filter(|act| matches!(act, Act::Release(_))).count(), 2);
    assert!(outbox.is_empty() && outbox.given_up.is_empty());
}
