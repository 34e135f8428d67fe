//! Subscribers that are `tower` services: what layers do around a handler.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use homing::{
    BroadcastFilter, BroadcastSubscriber, Communicator, ErrorKind, Failure, HandlerError, RpcRequest, RpcSubscriber,
    TaskRequest, TaskSubscriber,
};
use tower::retry::Policy;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

const LIMIT: Duration = Duration::from_secs(20);

async fn connect() -> Communicator {
    Communicator::builder("memory:").call_timeout(LIMIT).task_timeout(LIMIT).connect().await.unwrap()
}

#[tokio::test]
async fn a_timeout_ends_a_call_with_an_exception() {
    let communicator = connect().await;
    let service = ServiceBuilder::new().timeout(Duration::from_millis(1500)).service(service_fn(
        |request: RpcRequest| async move {
            if request.body().as_str() == Some("slow") {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>("in time")
        },
    ));
    communicator.add_rpc_subscriber("limited", RpcSubscriber::service(service)).await.unwrap();
    assert_eq!(communicator.rpc_send("limited", "quick").await.unwrap().as_str(), Some("in time"));
    let error = communicator.rpc_send("limited", "slow").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn a_limit_on_concurrency_is_shared_by_all_messages() {
    let communicator = connect().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, highest) = (Arc::clone(&now), Arc::clone(&most));
    let service = ServiceBuilder::new().concurrency_limit(2).service(service_fn(move |_: RpcRequest| {
        let (running, highest) = (Arc::clone(&running), Arc::clone(&highest));
        async move {
            highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, HandlerError>(())
        }
    }));
    communicator.add_rpc_subscriber("limited", RpcSubscriber::service(service)).await.unwrap();
    let calls = join_all((0..20).map(|n| communicator.rpc_send("limited", n))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    assert_eq!((most.load(Ordering::SeqCst), now.load(Ordering::SeqCst)), (2, 0));
}

#[tokio::test]
async fn a_limit_on_the_rate_holds_back_what_is_too_much() {
    let communicator = connect().await;
    // The layer counts, and so has to be one for all: the buffer is what can be cloned.
    let service = ServiceBuilder::new()
        .buffer(16)
        .rate_limit(3, Duration::from_secs(3600))
        .service(service_fn(|request: RpcRequest| async move { Ok::<_, BoxError>(request.into_body()) }));
    communicator.add_rpc_subscriber("limited", RpcSubscriber::service(service)).await.unwrap();
    let calls = (0..5).map(|n| communicator.rpc_send("limited", n).timeout(Duration::from_secs(3)));
    let calls = join_all(calls).await;
    let late = calls.iter().filter_map(|call| call.as_ref().err());
    assert!(late.clone().all(|error| error.kind() == ErrorKind::TimedOut), "{calls:?}");
    assert_eq!(late.count(), 2, "{calls:?}");
}

/// Tries a request that failed again, so often.
#[derive(Clone)]
struct Again(usize);

impl<R, E> Policy<RpcRequest, R, E> for Again {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut RpcRequest, result: &mut Result<R, E>) -> Option<Self::Future> {
        let again = result.is_err() && self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        again.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &RpcRequest) -> Option<RpcRequest> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn a_retry_calls_the_handler_again() {
    let communicator = connect().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let service = ServiceBuilder::new().retry(Again(2)).service(service_fn(move |_: RpcRequest| {
        let run = count.fetch_add(1, Ordering::SeqCst);
        async move { if run < 2 { Err("not yet") } else { Ok("third") } }
    }));
    communicator.add_rpc_subscriber("again", RpcSubscriber::service(service)).await.unwrap();
    assert_eq!(communicator.rpc_send("again", ()).await.unwrap().as_str(), Some("third"));
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_is_shed_is_an_exception_or_what_the_program_makes_of_it() {
    let communicator = Communicator::builder("memory:")
        .task_timeout(LIMIT)
        .call_timeout(LIMIT)
        .task_attempts(NonZeroU32::new(20).unwrap(), Duration::from_millis(5))
        .connect()
        .await
        .unwrap();
    let busy = || {
        ServiceBuilder::new().load_shed().concurrency_limit(1).service(service_fn(|_: RpcRequest| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, BoxError>(1)
        }))
    };
    communicator.add_rpc_subscriber("shed", RpcSubscriber::service(busy())).await.unwrap();
    let calls = join_all((0..5).map(|n| communicator.rpc_send("shed", n))).await;
    assert!(calls.iter().any(Result::is_ok), "{calls:?}");
    let refused = calls.iter().filter_map(|call| call.as_ref().err());
    assert!(refused.clone().count() > 0 && refused.clone().all(|error| error.to_string().contains("overloaded")));
    // A task is put off instead.
    let service = ServiceBuilder::new()
        .map_err(|error: BoxError| Failure::TryAgain(error.to_string()))
        .load_shed()
        .concurrency_limit(1)
        .service(service_fn(|task: TaskRequest| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, BoxError>(task.into_body())
        }));
    communicator.add_task_subscriber(TaskSubscriber::service(service)).await.unwrap();
    let tasks = join_all((0..4).map(|n| communicator.task_send(n))).await;
    assert!(tasks.iter().all(Result::is_ok), "{tasks:?}");
}

#[tokio::test]
async fn a_failure_keeps_its_meaning_and_a_panic_is_an_exception() {
    let communicator = connect().await;
    let service = service_fn(|request: RpcRequest| async move {
        match request.body().as_str() {
            Some("cancel") => Err(Failure::Cancelled),
            Some("panic") => panic!("on purpose"),
            _ => Ok(request.into_body()),
        }
    });
    communicator.add_rpc_subscriber("fails", RpcSubscriber::service(service)).await.unwrap();
    assert_eq!(communicator.rpc_send("fails", "cancel").await.unwrap_err().kind(), ErrorKind::Cancelled);
    let error = communicator.rpc_send("fails", "panic").await.unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
    assert_eq!(communicator.rpc_send("fails", "fine").await.unwrap().as_str(), Some("fine"));
}

#[tokio::test]
async fn broadcasts_go_through_a_service_too() {
    let communicator = connect().await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    // Boxed, and so not `Sync`.
    let service = service_fn(move |broadcast: homing::Broadcast| {
        tell.send(broadcast.subject().map(str::to_owned)).ok();
        async { Ok::<_, HandlerError>(()) }
    });
    let service = service.boxed_clone();
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), BroadcastSubscriber::service(service)).await.unwrap();
    communicator.broadcast_send(1).subject("news").await.unwrap();
    assert_eq!(told.recv().await.unwrap().as_deref(), Some("news"));
}
