//! What only the inside can bring about: a connection that is lost, a broker that blocks.

use std::time::{Duration, Instant};

use super::{Communicator, Event, Identifier, RpcRequest, RpcSubscriber};
use crate::broker::memory::fault;
use crate::codec::Value;
use crate::error::ErrorKind;

async fn on_a_broker_of_its_own() -> (String, Communicator) {
    let name = uuid::Uuid::new_v4().to_string();
    let communicator = Communicator::connect(&format!("memory:{name}")).await.unwrap();
    (name, communicator)
}

fn never() -> RpcSubscriber {
    RpcSubscriber::future(|_: RpcRequest| std::future::pending::<Value>())
}

#[tokio::test]
async fn a_lost_connection_ends_every_future_says_so_and_closes() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    let mut events = communicator.events();
    communicator.add_rpc_subscriber("never", never()).await.unwrap();
    let mut replies = Vec::new();
    for _ in 0..100 {
        replies.push(communicator.rpc_send("never", 0).send().await.unwrap());
    }
    fault::lose_connections(&name);
    for reply in replies {
        assert_eq!(reply.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    }
    assert!(matches!(events.next().await, Some(Event::Lost(error)) if error.kind() == ErrorKind::ConnectionLost));
    assert!(matches!(events.next().await, Some(Event::Closed)));
    assert_eq!(communicator.rpc_send("never", 0).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    let report = communicator.close().await.unwrap();
    assert_eq!(report.requests_ended, 100);
    assert_eq!(report.error.unwrap().kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn a_blocked_broker_is_said_and_does_not_hold_a_close_up() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    let mut events = communicator.events();
    communicator.broadcast_send("through").await.unwrap();
    fault::set_blocked(&name, Some("memory"));
    assert!(matches!(events.next().await, Some(Event::Blocked { reason }) if reason == "memory"));
    let sending = tokio::spawn(std::future::IntoFuture::into_future(communicator.broadcast_send("stuck")));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!sending.is_finished());
    let started = Instant::now();
    let report = communicator.close().await.unwrap();
    assert_eq!(report.publishes_unconfirmed, 1);
    assert!(started.elapsed() < Duration::from_secs(20), "bounded: {:?}", started.elapsed());
    assert!(sending.await.unwrap().is_err());
    fault::set_blocked(&name, None);
}

#[tokio::test]
async fn a_subscriber_whose_home_ends_before_it_was_ever_polled_answers_what_came_in() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    // Nobody drives it.
    let home = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let at = crate::home::Home::of_runtime(home.handle());
    communicator.add_rpc_subscriber_on(&at, Identifier::new("echo").unwrap(), never()).await.unwrap();
    let reply = communicator.rpc_send("echo", 0).timeout(Duration::from_secs(20)).send().await.unwrap();
    // It is in the subscriber's hands by now: what the broker took over later has come through before.
    communicator.broadcast_send("behind it").await.unwrap();
    home.shutdown_background();
    assert_eq!(reply.await.unwrap_err().kind(), ErrorKind::RemoteException);
}
