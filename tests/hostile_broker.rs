//! A broker that breaks the rules: half a frame, frames out of order, numbers that mean nothing, noise. Whatever it says, every
//! future ends, the communicator works again on the next connection, and a close is a close.

mod support;

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use homing::{Communicator, ConnectionEvent, ErrorKind, ReconnectPolicy, RpcSubscriber, TaskSubscriber};

use support::fake_broker::{self as fake, FakeBroker, Mischief, Then, When};
use support::proxy::Proxy;

/// Longer than the heartbeat of the fake broker and its grace, shorter than any deadline of a test.
const CALL: Duration = Duration::from_secs(16);

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has to go, and another has to come.
    Lost,
    /// It goes on.
    Kept,
    /// Either is right.
    Either,
}

/// Bytes that mean nothing, the same in each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| draw()).collect()
}

type Row = (&'static str, When, fn(u16) -> Vec<u8>, Then, Fate);

const ROWS: &[Row] = &[
    ("half a frame, then the end", When::Publish, |on| fake::ack(on, 1)[..9].to_vec(), Then::Closes, Fate::Lost),
    ("half a frame, then silence", When::Publish, |on| fake::ack(on, 1)[..9].to_vec(), Then::IsSilent, Fate::Lost),
    (
        "another octet at the end of a frame",
        When::Publish,
        |on| {
            let mut bytes = fake::ack(on, 1);
            *bytes.last_mut().unwrap() = 0;
            bytes
        },
        Then::GoesOn,
        Fate::Lost,
    ),
    (
        "a frame of 2 GiB is announced, and goes on as noise",
        When::Publish,
        |on| [&[1][..], &on.to_be_bytes(), &[0x7f, 0xff, 0xff, 0xff], &noise(7, 300_000)].concat(),
        Then::IsSilent,
        Fate::Lost,
    ),
    ("a frame of a kind that there is not", When::Publish, |on| fake::frame(77, on, b"?"), Then::GoesOn, Fate::Lost),
    ("a method that there is not", When::Publish, |on| fake::method(on, 60, 999, &[1, 2, 3]), Then::GoesOn, Fate::Lost),
    ("a method on a channel that is not open", When::Publish, |_| fake::ack(61, 1), Then::GoesOn, Fate::Lost),
    ("the confirm of a publish that never was", When::Publish, |on| fake::ack(on, 77), Then::GoesOn, Fate::Either),
    ("the body before its header", When::Publish, |on| fake::body(on, b"early"), Then::GoesOn, Fate::Either),
    ("a header of nothing", When::Publish, |on| fake::header(on, 5), Then::GoesOn, Fate::Either),
    (
        "a delivery whose body comes before its header",
        When::Consume,
        |on| [fake::deliver(on, "x"), fake::body(on, b"early"), fake::header(on, 5)].concat(),
        Then::GoesOn,
        Fate::Either,
    ),
    (
        "a delivery for nobody",
        When::Consume,
        |on| [fake::deliver(on, "nobody"), fake::header(on, 2), fake::body(on, b"{}")].concat(),
        Then::GoesOn,
        Fate::Either,
    ),
    (
        "more of a body than its header says",
        When::Consume,
        |on| [fake::deliver(on, "nobody"), fake::header(on, 2), fake::body(on, b"more than two")].concat(),
        Then::GoesOn,
        Fate::Either,
    ),
    (
        "the header of 2^63 bytes",
        When::Consume,
        |on| [fake::deliver(on, "nobody"), fake::header(on, 1 << 63), fake::body(on, b"and two")].concat(),
        Then::GoesOn,
        Fate::Either,
    ),
    ("noise", When::Publish, |_| noise(0x5eed, 10_000), Then::GoesOn, Fate::Lost),
    ("a little noise", When::Publish, |_| noise(0xbad, 7), Then::IsSilent, Fate::Lost),
    ("noise where a consumer begins", When::Consume, |_| noise(0xfeed, 5_000), Then::GoesOn, Fate::Lost),
    (
        "a declaration is answered by another's answer",
        When::Declare,
        |on| fake::method(on, 40, 11, &[]),
        Then::GoesOn,
        Fate::Lost,
    ),
    ("a declaration is not answered", When::Declare, |_| Vec::new(), Then::GoesOn, Fate::Either),
    (
        "an error of the server's own",
        When::Publish,
        |_| {
            fake::method(0, 10, 50, &[&541u16.to_be_bytes()[..], &fake::short_text("INTERNAL_ERROR"), &[0; 4]].concat())
        },
        Then::GoesOn,
        Fate::Lost,
    ),
    (
        "every publish is refused once",
        When::Publish,
        |on| fake::method(on, 60, 120, &[&1u64.to_be_bytes()[..], &[0]].concat()),
        Then::GoesOn,
        Fate::Kept,
    ),
    (
        "the publishing channel is closed for no reason",
        When::Publish,
        |on| {
            fake::method(
                on,
                20,
                40,
                &[&406u16.to_be_bytes()[..], &fake::short_text("PRECONDITION_FAILED - for no reason"), &[0; 4]]
                    .concat(),
            )
        },
        Then::ClosesChannel,
        Fate::Kept,
    ),
    ("the first publish is never confirmed", When::Publish, |_| Vec::new(), Then::GoesOn, Fate::Kept),
];

async fn row((name, when, says, then, fate): &Row) -> String {
    let broker = FakeBroker::start(Mischief { when: *when, says: *says, then: *then }).unwrap();
    let communicator = Communicator::builder(&broker.url())
        .prefix("hostile")
        .heartbeat(Duration::from_secs(4))
        .connect_timeout(Duration::from_secs(15))
        .operation_timeout(Duration::from_secs(8))
        .call_timeout(CALL)
        .task_timeout(CALL)
        .close_timeout(Duration::from_secs(4))
        .connect()
        .await
        .unwrap();
    let before = broker.accepted();
    let started = Instant::now();
    // Nobody answers: the fake broker takes everything over and hands out nothing.
    let under_way = [
        tokio::spawn(communicator.rpc_send("nobody", 1).into_future()),
        tokio::spawn(communicator.task_send(1).into_future()),
    ];
    // What it says at a consumer's beginning comes by now at the latest.
    let subscribed = async {
        let _ = communicator.add_rpc_subscriber("somebody", RpcSubscriber::closure(|_| 1)).await;
        let _ = communicator.add_task_subscriber(TaskSubscriber::closure(|_| 1)).await;
    };
    tokio::time::timeout(CALL * 3, subscribed).await.unwrap_or_else(|_| panic!("{name}: subscribing hangs"));
    support::eventually(|| broker.has_misbehaved()).await;
    for (which, ended) in under_way.into_iter().enumerate() {
        let ended = tokio::time::timeout(CALL * 2, ended).await.unwrap_or_else(|_| panic!("{name}: a future hangs"));
        let error = ended.unwrap().expect_err("nobody answers");
        let may_be = [
            ErrorKind::TimedOut,
            ErrorKind::ConnectionLost,
            ErrorKind::DeliveryFailed,
            ErrorKind::InvalidState,
            ErrorKind::Unroutable,
        ];
        assert!(may_be.contains(&error.kind()), "{name}, {which}: {error:?}");
    }
    // It works again: the broker takes something over.
    let confirmed = broker.confirmed();
    let mut works = Err(None);
    while started.elapsed() < Duration::from_secs(60) {
        works = communicator.broadcast_send("still there").await.map_err(Some);
        if works.is_ok() {
            break;
        }
    }
    assert!(works.is_ok(), "{name}: {works:?}");
    assert!(broker.confirmed() > confirmed, "{name}: the broker took it over");
    match fate {
        Fate::Lost => assert!(broker.accepted() > before, "{name}: another connection was made"),
        Fate::Kept => assert_eq!(broker.accepted(), before, "{name}: the connection goes on"),
        Fate::Either => {}
    }
    let closing = Instant::now();
    let closed = tokio::time::timeout(Duration::from_secs(12), communicator.close()).await;
    closed.unwrap_or_else(|_| panic!("{name}: closing hangs")).unwrap_or_else(|error| panic!("{name}: {error}"));
    format!(
        "{name}: {} connections, ended and works after {:.1} s, closed in {:.1} s",
        broker.accepted(),
        (closing - started).as_secs_f64(),
        closing.elapsed().as_secs_f64()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_broker_says_every_future_ends_and_the_next_connection_works() {
    // Side by side, for most of it is waiting.
    let rows = ROWS.iter().map(|each| tokio::spawn(tokio::time::timeout(Duration::from_secs(100), row(each))));
    let rows: Vec<_> = rows.collect();
    let mut failed = Vec::new();
    for (done, (name, ..)) in futures_util::future::join_all(rows).await.into_iter().zip(ROWS) {
        match done {
            Ok(Ok(done)) => println!("{done}"),
            Ok(Err(_)) => failed.push(format!("{name}: hangs")),
            // It has said why.
            Err(panicked) => failed.push(format!("{name}: {panicked}")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn a_greeting_that_is_noise_is_an_error_that_says_what_came() {
    for (says, then) in [
        ((|_| noise(0xabc, 500)) as fn(u16) -> Vec<u8>, Then::GoesOn),
        (|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Then::Closes),
        (|_| fake::method(0, 10, 10, &[0, 9, 0xff, 0xff, 0xff, 0xff]), Then::GoesOn),
        (|_| fake::method(0, 10, 30, &[0; 8]), Then::GoesOn),
        (|_| Vec::new(), Then::Closes),
        (|_| Vec::new(), Then::IsSilent),
    ] {
        let broker = FakeBroker::start(Mischief { when: When::Greeting, says, then }).unwrap();
        let connect = Communicator::builder(&broker.url()).connect_timeout(Duration::from_secs(2)).connect();
        let error = tokio::time::timeout(Duration::from_secs(60), connect).await.expect("connecting hangs");
        let error = error.expect_err("it is no broker");
        assert!(broker.has_misbehaved());
        let text = error.to_string();
        assert!(text.contains("127.0.0.1"), "{text}");
        assert!(!text.contains("guest:guest"), "{text}");
        println!("{:?}: {text}", error.kind());
    }
}

#[tokio::test]
async fn a_broker_that_goes_in_the_middle_of_the_handshake_is_an_error_at_once() {
    for when in [When::Greeting, When::Login, When::Limits, When::Open] {
        for says in [(|_| Vec::new()) as fn(u16) -> Vec<u8>, |_| vec![1, 0, 0]] {
            let broker = FakeBroker::start(Mischief { when, says, then: Then::Closes }).unwrap();
            // Whoever waits for this is told long before.
            let connect = Communicator::builder(&broker.url()).connect_timeout(Duration::from_secs(600)).connect();
            let ended = tokio::time::timeout(Duration::from_secs(60), connect).await;
            let error = ended.unwrap_or_else(|_| panic!("{when:?}: connecting hangs")).expect_err("it has gone");
            assert!(broker.has_misbehaved());
            // A server that knows no better way closes the socket where the password is wrong.
            let expected = if when == When::Login { ErrorKind::AccessRefused } else { ErrorKind::Connection };
            assert_eq!(error.kind(), expected, "{when:?}: {error}");
            assert!(error.to_string().contains("127.0.0.1"), "{when:?}: {error}");
        }
    }
}

/// A broker that behaves from now on, and a proxy before it.
async fn behind_a_proxy() -> (FakeBroker, Proxy) {
    let behaves = Mischief { when: When::Greeting, says: |_| Vec::new(), then: Then::GoesOn };
    let broker = FakeBroker::start(behaves).unwrap();
    // Its one mischief is done.
    assert!(Communicator::connect(&broker.url()).await.is_err());
    let proxy = Proxy::before(&broker.url()).unwrap();
    (broker, proxy)
}

#[tokio::test]
async fn a_limit_on_connecting_again_holds_at_a_broker_that_accepts_and_is_silent() {
    let (broker, proxy) = behind_a_proxy().await;
    let communicator = Communicator::builder(&proxy.url(&broker.url()))
        .reconnect(ReconnectPolicy::For(Duration::from_millis(500)))
        .connect_timeout(Duration::MAX)
        .connect()
        .await
        .unwrap();
    let mut events = communicator.events();
    proxy.stall();
    proxy.cut();
    let ended = async { while events.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends, though connecting has no limit");
    let error = communicator.broadcast_send(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert!(error.to_string().contains("within 500ms"), "{error}");
}

#[tokio::test]
async fn connecting_again_is_tried_up_to_its_limit() {
    let (broker, proxy) = behind_a_proxy().await;
    let builder = Communicator::builder(&proxy.url(&broker.url()));
    let communicator = builder.reconnect(ReconnectPolicy::For(Duration::from_secs(2))).connect().await.unwrap();
    let mut events = communicator.events();
    // Every attempt is refused from now on.
    drop(proxy);
    let mut pauses = Vec::new();
    let ended = async {
        while let Some(event) = events.next().await {
            if let ConnectionEvent::Reconnecting { delay, .. } = event {
                pauses.push(delay);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it gives up");
    // As they double, the last would be of half a second at least.
    assert!(pauses.len() > 5 && pauses[pauses.len() - 1] <= Duration::from_millis(50), "{pauses:?}");
}
