//! Broadcasts: who hears what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use homing::home::{EventLoop, Home};
use homing::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ConnectionEvent, ErrorKind, Failure, Identifier,
    TaskRequest, TaskSubscriber, Value,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{Broker, Suite, eventually};
use crate::{LONG, behaviours, connect};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        every_subscriber_of_every_communicator_hears_a_broadcast,
        a_broadcast_carries_its_five_facts,
        filters_on_subject_and_sender_let_pass_what_they_should,
        a_late_subscriber_hears_nothing_old,
        a_removed_subscriber_hears_nothing_more,
        broadcasts_are_heard_in_order,
        a_subscriber_that_fails_stops_nobody,
        a_home_that_does_not_keep_up_loses_the_oldest_and_hears_so,
        a_broadcast_that_nobody_hears_is_sent_all_the_same,
        a_mandatory_broadcast_fails_where_nobody_subscribes,
        so_many_handlers_of_a_subscriber_run_at_once_and_no_more,
        a_subscriber_that_is_given_up_while_it_is_added_is_no_end_of_a_home,
    );
}

async fn hear(communicator: &Communicator, filter: BroadcastFilter) -> UnboundedReceiver<Broadcast> {
    let (tell, told) = unbounded_channel();
    let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
        tell.send(broadcast).ok();
    });
    communicator.add_broadcast_subscriber(filter, subscriber).await.unwrap();
    told
}

async fn next(heard: &mut UnboundedReceiver<Broadcast>) -> Broadcast {
    tokio::time::timeout(LONG, heard.recv()).await.expect("nothing heard").unwrap()
}

async fn every_subscriber_of_every_communicator_hears_a_broadcast(broker: Broker) {
    let (one, two) = (connect(&broker).await, connect(&broker).await);
    let mut ears = [
        hear(&one, BroadcastFilter::new()).await,
        hear(&one, BroadcastFilter::new()).await,
        hear(&two, BroadcastFilter::new()).await,
    ];
    one.broadcast_send("all").await.unwrap();
    for ear in &mut ears {
        assert_eq!(next(ear).await.body(), &Value::from("all"));
    }
}

async fn a_broadcast_carries_its_five_facts(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut heard = hear(&communicator, BroadcastFilter::new()).await;
    communicator.broadcast_send("body").sender(4).subject("state").correlation_id("mark").await.unwrap();
    let broadcast = next(&mut heard).await;
    assert_eq!(broadcast.body(), &Value::from("body"));
    assert_eq!(broadcast.sender(), &Value::from(4));
    assert_eq!(broadcast.subject(), Some("state"));
    assert_eq!(broadcast.correlation_id(), &Value::from("mark"));
    communicator.broadcast_send(Value::Null).await.unwrap();
    let broadcast = next(&mut heard).await;
    assert_eq!((broadcast.sender(), broadcast.subject()), (&Value::Null, None));
}

async fn filters_on_subject_and_sender_let_pass_what_they_should(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut state = hear(&communicator, BroadcastFilter::new().subject("state_changed.*.finished").unwrap()).await;
    let mut four = hear(&communicator, BroadcastFilter::new().sender_is(4)).await;
    let mut both = hear(&communicator, BroadcastFilter::new().subject("state").unwrap().sender_is(5)).await;
    let sends = [("state_changed.a.finished", 4), ("state_changed.a.running", 5), ("kill", 4), ("kill", 5)];
    for (subject, sender) in sends {
        communicator.broadcast_send(Value::Null).subject(subject).sender(sender).await.unwrap();
    }
    communicator.broadcast_send("end").await.unwrap();
    let mut subjects = Vec::new();
    for ear in [&mut state, &mut four, &mut both] {
        let mut heard = Vec::new();
        loop {
            let broadcast = next(ear).await;
            if broadcast.body() == &Value::from("end") {
                break;
            }
            heard.push(broadcast.subject().unwrap().to_owned());
        }
        subjects.push(heard);
    }
    assert_eq!(subjects[0], ["state_changed.a.finished"]);
    assert_eq!(subjects[1], ["state_changed.a.finished", "kill"]);
    assert_eq!(subjects[2], ["state_changed.a.running"]);
}

async fn a_late_subscriber_hears_nothing_old(broker: Broker) {
    let communicator = connect(&broker).await;
    let first = hear(&communicator, BroadcastFilter::new()).await;
    drop(first);
    let (tell, _told) = unbounded_channel();
    let once = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
        tell.send(broadcast).ok();
    });
    let other = connect(&broker).await;
    let identifier = other.add_broadcast_subscriber(BroadcastFilter::new(), once).await.unwrap();
    other.remove_broadcast_subscriber(&identifier).await.unwrap();
    communicator.broadcast_send("old").await.unwrap();
    let mut late = hear(&other, BroadcastFilter::new()).await;
    communicator.broadcast_send("new").await.unwrap();
    assert_eq!(next(&mut late).await.body(), &Value::from("new"));
}

async fn a_removed_subscriber_hears_nothing_more(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut stays = hear(&communicator, BroadcastFilter::new()).await;
    let (tell, mut told) = unbounded_channel();
    let goes = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
        tell.send(broadcast).ok();
    });
    let identifier = communicator.add_broadcast_subscriber(BroadcastFilter::new(), goes).await.unwrap();
    communicator.broadcast_send(1).await.unwrap();
    assert_eq!(next(&mut told).await.body(), &Value::from(1));
    communicator.remove_broadcast_subscriber(&identifier).await.unwrap();
    communicator.broadcast_send(2).await.unwrap();
    assert_eq!(next(&mut stays).await.body(), &Value::from(1));
    assert_eq!(next(&mut stays).await.body(), &Value::from(2));
    assert!(tokio::time::timeout(LONG, told.recv()).await.unwrap().is_none(), "its handler is dropped");
}

async fn broadcasts_are_heard_in_order(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut closure = hear(&communicator, BroadcastFilter::new()).await;
    let (tell, mut future) = unbounded_channel();
    let subscriber = BroadcastSubscriber::future(move |broadcast: Broadcast| {
        let tell = tell.clone();
        async move {
            tell.send(broadcast).ok();
        }
    });
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), subscriber).await.unwrap();
    for n in 0..200 {
        communicator.broadcast_send(n).await.unwrap();
    }
    for n in 0..200 {
        assert_eq!(next(&mut closure).await.body(), &Value::from(n));
        assert_eq!(next(&mut future).await.body(), &Value::from(n));
    }
}

async fn a_subscriber_that_fails_stops_nobody(broker: Broker) {
    let communicator = connect(&broker).await;
    let fails = BroadcastSubscriber::closure(|_: Broadcast| Err::<Value, _>(Failure::Exception("no".into())));
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), fails).await.unwrap();
    let panics =
        BroadcastSubscriber::closure(|_: Broadcast| -> Value { panic!("on purpose, in a broadcast subscriber") });
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), panics).await.unwrap();
    let mut heard = hear(&communicator, BroadcastFilter::new()).await;
    for n in 0..3 {
        communicator.broadcast_send(n).await.unwrap();
        assert_eq!(next(&mut heard).await.body(), &Value::from(n));
    }
}

async fn a_home_that_does_not_keep_up_loses_the_oldest_and_hears_so(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut events = communicator.events();
    let (tell, mut told) = unbounded_channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(Some(wait));
    let event_loop = homing::home::EventLoop::start("slow").unwrap();
    let slow = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
        // The first one holds the loop up until all are sent.
        let first = wait.lock().unwrap().take();
        if let Some(wait) = first {
            wait.recv_timeout(LONG).unwrap();
        }
        tell.send(broadcast).ok();
    });
    let home = event_loop.handle().home();
    let name = homing::Identifier::unique();
    let slow = slow.with_identifier(name.clone());
    communicator.bound_to(&home).add_broadcast_subscriber(BroadcastFilter::new(), slow).await.unwrap();
    let mut fast = hear(&communicator, BroadcastFilter::new()).await;
    // More than wait for one subscriber.
    let all = 1524_usize;
    for n in 0..all {
        communicator.broadcast_send(i64::try_from(n).unwrap()).await.unwrap();
        next(&mut fast).await;
    }
    // Who only looks at the counts learns of it while the home does not.
    assert!(communicator.counts().broadcasts_lagged > 0);
    go.send(()).unwrap();
    let Some(ConnectionEvent::Lagged { identifier, missed }) = events.next().await else {
        panic!("no lag was reported")
    };
    assert_eq!(identifier, name);
    // Everything that was not lost is heard, up to the last.
    let mut heard = 0;
    while next(&mut told).await.body() != &Value::from(i64::try_from(all - 1).unwrap()) {
        heard += 1;
    }
    assert_eq!(u64::try_from(heard + 1).unwrap() + missed, u64::try_from(all).unwrap());
    assert_eq!(communicator.counts().broadcasts_lagged, missed);
    communicator.close().await.unwrap();
    event_loop.stop();
}

async fn a_broadcast_that_nobody_hears_is_sent_all_the_same(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.broadcast_send("to the wind").await.unwrap();
}

async fn a_mandatory_broadcast_fails_where_nobody_subscribes(broker: Broker) {
    let (one, two) = (connect(&broker).await, connect(&broker).await);
    let error = one.broadcast_send("to the wind").mandatory().await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unroutable, "{error}");
    assert!(error.to_string().contains("no communicator receives"), "{error}");
    // Whatever a subscriber filters by, it counts.
    let mut heard = hear(&two, BroadcastFilter::new().subject("other").unwrap()).await;
    one.broadcast_send("filtered out").subject("one").mandatory().await.unwrap();
    one.broadcast_send("heard").subject("other").mandatory().await.unwrap();
    assert_eq!(next(&mut heard).await.body(), &Value::from("heard"));
}

/// On a runtime and on a loop.
async fn so_many_handlers_of_a_subscriber_run_at_once_and_no_more(broker: Broker) {
    const MOST: usize = 256;
    const SENT: usize = 300;
    let communicator = connect(&broker).await;
    let event_loop = EventLoop::start("handlers").unwrap();
    for home in [Home::current(), event_loop.handle().home()] {
        let (open, begun, ended) = (Arc::new(Semaphore::new(0)), Arc::default(), Arc::default());
        let subscriber = {
            let (open, begun, ended) = (Arc::clone(&open), Arc::clone(&begun), Arc::clone(&ended));
            BroadcastSubscriber::future(move |_: Broadcast| {
                let (open, begun, ended): (_, Arc<AtomicUsize>, Arc<AtomicUsize>) =
                    (Arc::clone(&open), Arc::clone(&begun), Arc::clone(&ended));
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    drop(open.acquire().await);
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let bound = communicator.bound_to(&home);
        let identifier = bound.add_broadcast_subscriber(BroadcastFilter::new(), subscriber).await.unwrap();
        for number in 0..SENT {
            communicator.broadcast_send(number).await.unwrap();
        }
        eventually(|| begun.load(Ordering::SeqCst) >= MOST).await;
        // One more would begin now, if it may.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!((begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst)), (MOST, 0));
        open.add_permits(1);
        eventually(|| ended.load(Ordering::SeqCst) == SENT).await;
        assert_eq!(begun.load(Ordering::SeqCst), SENT);
        communicator.remove_broadcast_subscriber(&identifier).await.unwrap();
    }
}

async fn a_subscriber_that_is_given_up_while_it_is_added_is_no_end_of_a_home(broker: Broker) {
    let communicator = connect(&broker).await;
    // The consumer stands, so that the next subscriber is added at once.
    let first = BroadcastSubscriber::closure(|_| ());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), first).await.unwrap();
    communicator.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await.unwrap();
    let mut events = communicator.events();
    let nobody = Identifier::new("nobody").unwrap();
    // The answer comes behind those to all that was asked before.
    let answered = || async { communicator.remove_broadcast_subscriber(&nobody).await.unwrap_err() };
    for _ in 0..20 {
        let adding =
            communicator.add_broadcast_subscriber(BroadcastFilter::new(), BroadcastSubscriber::closure(|_| ()));
        let mut adding = Box::pin(adding);
        let mut working = Box::pin(communicator.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)));
        // On a busy machine the answer may be there before the first look has ended: then it stands, and stays.
        assert!(!matches!(futures_util::poll!(&mut adding), Poll::Ready(Err(_))));
        assert!(!matches!(futures_util::poll!(&mut working), Poll::Ready(Err(_))));
        answered().await;
        // Both stand, and nobody has looked.
        drop((adding, working));
    }
    answered().await;
    communicator.close().await.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, ConnectionEvent::SubscriberGone { .. }), "the home goes on: {event:?}");
    }
}
