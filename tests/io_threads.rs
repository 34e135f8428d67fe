//! A thread of lapin's that panics costs its connection, and nothing else.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use homing::{Communicator, ConnectionEvent};
use tracing::{Event, Level, Metadata, Subscriber, span};

use support::fake_broker::{self as fake, FakeBroker, Mischief, Then, When};

const LIMIT: Duration = Duration::from_secs(30);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Panics on the I/O threads, where lapin logs an error.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {
        if std::thread::current().name() == Some("lapin-io-loop") {
            PANICS.fetch_add(1, Ordering::SeqCst);
            panic!("on an I/O thread");
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_io_thread_that_panics_is_a_connection_that_is_lost() {
    tracing::subscriber::set_global_default(Panics).unwrap();
    let closes =
        |_| fake::method(0, 10, 50, &[&320u16.to_be_bytes()[..], &fake::short_text("for a test"), &[0; 4]].concat());
    let broker = FakeBroker::start(Mischief { when: When::Publish, says: closes, then: Then::GoesOn }).unwrap();
    let communicator = Communicator::builder(&broker.url())
        .heartbeat(Duration::from_secs(4))
        .close_timeout(LIMIT / 6)
        .connect()
        .await
        .unwrap();
    let mut events = communicator.events();
    let works = async {
        communicator.broadcast_send("while it is lost").await.unwrap();
        while !matches!(events.next().await.unwrap(), ConnectionEvent::Restored { .. }) {}
        communicator.broadcast_send("again").await.unwrap();
    };
    tokio::time::timeout(LIMIT, works).await.expect("it is connected again");
    assert!(PANICS.load(Ordering::SeqCst) > 0, "a thread has panicked");
    let report = tokio::time::timeout(LIMIT, communicator.close()).await.expect("a close is a close").unwrap();
    assert!(report.error.is_none(), "{report:?}");
}
