//! Faults that were reported of other clients and brokers in public: each kind with the peer, the limit or the permission
//! that shows it. `docs/faults.md` has them as a table; each of its rows names tests, and one that is not there fails here.

#[path = "../support/mod.rs"]
mod support;

mod deleted;
mod limits;
mod moved;
mod names;
mod odd;
mod rights;
mod settings;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use homing::{Communicator, CommunicatorBuilder, ConnectionEvent, Events, TestingMode};
use support::{Broker, Peer, PeerError, Suite};

/// A bound against hanging, ten times and more what anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn options(url: &str, broker: &Broker) -> CommunicatorBuilder {
    Communicator::builder(url)
        .message_exchange(broker.message_exchange())
        .task_exchange(broker.task_exchange())
        .task_queue(broker.task_queue())
        .testing(TestingMode::Yes)
        .call_timeout(LONG)
        .task_timeout(LONG)
}

/// A client of pika, connected.
pub(crate) fn pika(broker: &Broker) -> Result<Peer, PeerError> {
    let peer = Peer::start("pika_peer.py");
    peer.call("connect", serde_json::json!({"url": broker.url()}))?;
    Ok(peer)
}

pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(5 * LONG, test).await.expect("the test hangs") })
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + 2 * LONG;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Closes the communicator, and fails if its connection or one of its channels was lost before.
pub(crate) async fn close_undisturbed(communicator: Communicator, mut events: Events) {
    communicator.close().await.unwrap();
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Closed => return,
            ConnectionEvent::Quarantined { .. } => {}
            event => panic!("{event:?}"),
        }
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(400));
    odd::add(&mut suite);
    deleted::add(&mut suite);
    limits::add(&mut suite);
    moved::add(&mut suite);
    names::add(&mut suite);
    rights::add(&mut suite);
    settings::add(&mut suite);
    table::add(&mut suite);
    suite.run()
}
