//! What a user can set to its smallest or its largest: times, and the room of a home.

use std::future::IntoFuture;
use std::time::Duration;

use homing::home::Home;
use homing::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, ConnectionState, ErrorKind, LongTasks, RpcRequest,
};
use homing::{ReplyStage, RpcSubscriber, TaskRequest, TaskSubscriber, Value};

use crate::support::{Broker, Suite};
use crate::{LONG, behaviours, connect, options};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        the_longest_times_of_all_options_are_times_like_others,
        a_queue_that_expires_at_once_lives_until_it_is_consumed,
        an_answer_after_pending_is_waited_for_up_to_the_deadline_though_the_home_is_full,
        closing_ends_a_call_without_a_deadline_whose_home_is_full,
        a_value_that_is_nested_too_deep_is_an_error_and_no_end_of_the_process,
        waits_in_the_destructor_of_a_thread_local_value_end,
    );
}

async fn the_longest_times_of_all_options_are_times_like_others(broker: Broker) {
    let long = Duration::MAX;
    let communicator = options(&broker)
        .queue_expires(long)
        .message_ttl(long)
        .task_ttl(long)
        .heartbeat(long)
        .connect_timeout(long)
        .operation_timeout(long)
        .call_timeout(long)
        .task_timeout(long)
        .reply_timeout(long)
        .task_attempts(std::num::NonZeroU32::MAX, long)
        .long_tasks(LongTasks::new().after(long).lease(long))
        .close_timeout(long)
        .connect()
        .await
        .unwrap();
    let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
    communicator.add_rpc_subscriber("echo", echo).await.unwrap();
    let work = TaskSubscriber::closure(|task: TaskRequest| task.into_body());
    communicator.add_task_subscriber(work).await.unwrap();
    let hear = BroadcastSubscriber::closure(|_: Broadcast| ());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.unwrap();
    assert_eq!(communicator.rpc_send("echo", 1).await.unwrap(), Value::from(1));
    assert_eq!(communicator.task_send(2).await.unwrap(), Value::from(2));
    communicator.broadcast_send(3).await.unwrap();
    assert!(matches!(communicator.connection_state(), ConnectionState::Connected));
    let report = tokio::time::timeout(LONG, communicator.close()).await.expect("the close hangs").unwrap();
    assert!(report.error.is_none(), "{report:?}");
}

async fn a_queue_that_expires_at_once_lives_until_it_is_consumed(broker: Broker) {
    for time in [Duration::ZERO, Duration::from_nanos(1)] {
        let communicator = options(&broker).queue_expires(time).connect().await.unwrap();
        let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
        communicator.add_rpc_subscriber("echo", echo).await.unwrap();
        assert_eq!(communicator.rpc_send("echo", 1).await.unwrap(), Value::from(1), "{time:?}");
        communicator.close().await.unwrap();
    }
}

/// From now on the current home has no place for anything new.
fn fill() {
    Home::current().set_capacity(0);
}

async fn an_answer_after_pending_is_waited_for_up_to_the_deadline_though_the_home_is_full(broker: Broker) {
    let communicator = connect(&broker).await;
    let later = RpcSubscriber::closure(|_: RpcRequest| Answer::later(std::future::pending::<Value>()));
    communicator.add_rpc_subscriber("later", later).await.unwrap();
    let mut reply = communicator.rpc_send("later", 0).timeout(Duration::from_secs(4)).send().await.unwrap();
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Pending);
    fill();
    let stage = tokio::time::timeout(LONG, reply.stage()).await.expect("it hangs");
    assert_eq!(stage.unwrap_err().kind(), ErrorKind::TimedOut);
}

async fn closing_ends_a_call_without_a_deadline_whose_home_is_full(broker: Broker) {
    let communicator = connect(&broker).await;
    let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
    communicator.add_rpc_subscriber("echo", echo).await.unwrap();
    fill();
    let mut call = communicator.rpc_send("echo", 0).no_timeout().into_future();
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut call).await.is_err(), "there was a place");
    communicator.close().await.unwrap();
    let ended = tokio::time::timeout(LONG, call).await.expect("it hangs");
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::CommunicatorClosed);
}

async fn a_value_that_is_nested_too_deep_is_an_error_and_no_end_of_the_process(broker: Broker) {
    fn deep() -> Value {
        (0..100_000).fold(Value::Null, |value, _| Value::List(vec![value]))
    }
    let communicator = connect(&broker).await;
    let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
    communicator.add_rpc_subscriber("echo", echo).await.unwrap();
    communicator.add_rpc_subscriber("deep", RpcSubscriber::closure(|_: RpcRequest| deep())).await.unwrap();
    communicator.add_task_subscriber(TaskSubscriber::closure(|_: TaskRequest| deep())).await.unwrap();
    let hear = BroadcastSubscriber::closure(|_: Broadcast| deep());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.unwrap();

    let kind = |outcome: homing::Result<Value>| outcome.unwrap_err().kind();
    assert_eq!(kind(communicator.rpc_send("echo", deep()).await), ErrorKind::Encode);
    assert_eq!(kind(communicator.task_send(deep()).await), ErrorKind::Encode);
    let broadcast = communicator.broadcast_send(0).sender(deep()).await;
    assert_eq!(broadcast.unwrap_err().kind(), ErrorKind::Encode);
    assert_eq!(kind(communicator.rpc_send("deep", 0).await), ErrorKind::RemoteException);
    assert_eq!(kind(communicator.task_send(0).await), ErrorKind::RemoteException);
    communicator.task_send(0).no_reply().await.unwrap();
    communicator.broadcast_send(0).await.unwrap();
    assert_eq!(communicator.rpc_send("echo", 1).await.unwrap(), Value::from(1));
    let report = communicator.drain(LONG).await.unwrap();
    assert!(report.error.is_none(), "{report:?}");
}

async fn waits_in_the_destructor_of_a_thread_local_value_end(broker: Broker) {
    struct AtTheEnd(homing::blocking::Communicator, std::sync::mpsc::Sender<bool>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            let called = self.0.rpc_send("nobody", 0).wait();
            // It closes all the same, whether or not a wait can be here.
            let _ = self.0.close();
            self.1.send(called.is_err()).unwrap();
        }
    }
    thread_local! {
        static KEPT: std::cell::RefCell<Option<AtTheEnd>> = const { std::cell::RefCell::new(None) };
    }
    let (tell, told) = std::sync::mpsc::channel();
    let async_handle = connect(&broker).await;
    let communicator = homing::blocking::Communicator::from(async_handle.clone());
    let thread = std::thread::spawn(move || {
        // Registered before what a wait keeps for its thread, so that it is dropped after it.
        KEPT.with_borrow_mut(|kept| assert!(kept.is_none()));
        assert_eq!(communicator.rpc_send("nobody", 0).wait().unwrap_err().kind(), ErrorKind::Unroutable);
        KEPT.set(Some(AtTheEnd(communicator, tell)));
    });
    let ended = tokio::task::spawn_blocking(move || (thread.join().is_ok(), told.recv())).await.unwrap();
    assert_eq!(ended, (true, Ok(true)));
    tokio::time::timeout(LONG, async_handle.close()).await.expect("it hangs").unwrap();
}
