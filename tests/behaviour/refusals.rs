//! What cannot be: each a clear error in bounded time, and the communicator goes on.

use std::time::Duration;

use homing::{Communicator, ErrorKind, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value};

use crate::support::{Broker, Suite};
use crate::{behaviours, connect, options};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        an_identifier_with_a_wildcard_is_refused,
        an_identifier_that_is_too_long_is_refused_before_anything_is_sent,
        a_queue_that_exists_with_other_arguments_is_named_with_what_differs,
        an_exchange_that_exists_with_other_flags_is_refused,
        a_value_that_cannot_be_encoded_is_refused_at_once,
        an_unreadable_answer_is_a_clear_error,
        the_broker_says_who_it_is,
    );
}

async fn works(communicator: &Communicator) {
    communicator.add_rpc_subscriber("works", RpcSubscriber::closure(|_: RpcRequest| 1)).await.unwrap();
    assert_eq!(communicator.rpc_send("works", 0).await.unwrap(), Value::from(1));
}

async fn an_identifier_with_a_wildcard_is_refused(broker: Broker) {
    let communicator = connect(&broker).await;
    for bad in ["*", "#", "a.*.b", "a.#"] {
        let error = communicator.add_rpc_subscriber(bad, RpcSubscriber::closure(|_: RpcRequest| 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(communicator.rpc_send(bad, 0).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    works(&communicator).await;
}

async fn an_identifier_that_is_too_long_is_refused_before_anything_is_sent(broker: Broker) {
    let communicator = connect(&broker).await;
    let error = communicator.rpc_send("x".repeat(250), 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let longest = "x".repeat(249);
    communicator.add_rpc_subscriber(&longest, RpcSubscriber::closure(|_: RpcRequest| 1)).await.unwrap();
    assert_eq!(communicator.rpc_send(&longest, 0).await.unwrap(), Value::from(1));
}

async fn a_queue_that_exists_with_other_arguments_is_named_with_what_differs(broker: Broker) {
    let first = connect(&broker).await;
    first.task_send(1).no_reply().await.unwrap();
    let other = options(&broker).task_ttl(Duration::from_secs(1234)).connect().await.unwrap();
    let error = other.task_send(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    let text = error.to_string();
    for part in ["x-message-ttl", "1234000", "604800000", "process.queue"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    works(&other).await;
    // It was not half declared: the right arguments still go.
    first.add_task_subscriber(TaskSubscriber::closure(|_: TaskRequest| 2)).await.unwrap();
    assert_eq!(first.task_send(1).await.unwrap(), Value::from(2));
}

async fn an_exchange_that_exists_with_other_flags_is_refused(broker: Broker) {
    let first = connect(&broker).await;
    works(&first).await;
    let other = options(&broker).testing(homing::TestingMode::No).connect().await.unwrap();
    let error = other.broadcast_send(0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    assert!(error.to_string().contains("auto_delete"), "{error}");
}

async fn a_value_that_cannot_be_encoded_is_refused_at_once(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut deep = Value::Null;
    for _ in 0..1_000 {
        deep = Value::List(vec![deep]);
    }
    let error = communicator.rpc_send("x", deep).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
    works(&communicator).await;
}

async fn an_unreadable_answer_is_a_clear_error(broker: Broker) {
    // A subscriber whose result cannot be written answers with an exception.
    let communicator = connect(&broker).await;
    let deep = RpcSubscriber::closure(|_: RpcRequest| {
        let mut deep = Value::Null;
        for _ in 0..1_000 {
            deep = Value::List(vec![deep]);
        }
        deep
    });
    communicator.add_rpc_subscriber("deep", deep).await.unwrap();
    let error = communicator.rpc_send("deep", 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    assert!(error.remote_text().unwrap().contains("cannot be encoded"), "{error}");
    works(&communicator).await;
}

async fn the_broker_says_who_it_is(broker: Broker) {
    let communicator = connect(&broker).await;
    let properties = communicator.server_properties();
    for key in ["product", "version"] {
        assert!(properties.iter().any(|(name, text)| name == key && !text.is_empty()), "{key} of {properties:?}");
    }
}
