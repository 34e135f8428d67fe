//! The crash of 2020, replayed: a subscriber hands back a future, and somebody at another home fails it, cancels it, drops
//! it, panics while holding it, or completes it and is too late with more. For every ordered pair of kinds of homes, over
//! both brokers: the caller gets the right outcome, close takes no time, and nothing happens off home.
//!
//! In kiwipy 0.5 the future's callbacks then ran on the foreign thread: 5 of 5 callers hung, and the connection could not
//! be closed.

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use homing::home::{Completer, Home, audit};
use homing::{
    Answer, Communicator, ErrorKind, Failure, HandlerResult, Identifier, Promise, RpcRequest, RpcSubscriber,
    TestingMode, Value,
};

use support::homes::{Kind, Place};
use support::{Broker, Suite};

/// A bound against hanging.
const LONG: Duration = Duration::from_secs(60);

/// What the culprit does to the future that the subscriber has handed back.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Fails,
    Cancels,
    Drops,
    Panics,
    CompletesTwice,
}

const DEEDS: [Deed; 5] = [Deed::Fails, Deed::Cancels, Deed::Drops, Deed::Panics, Deed::CompletesTwice];

fn main() -> ExitCode {
    // Panics on purpose are not to fill the log.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload().downcast_ref::<&str>().is_some_and(|text| text.starts_with("on purpose")) {
            usual(panic);
        }
    }));
    let mut suite = Suite::new();
    for subscriber in Kind::ALL {
        for culprit in Kind::ALL {
            suite.both(&format!("subscriber_on_{subscriber}_culprit_on_{culprit}"), move |broker| {
                replay(broker, subscriber, culprit);
            });
        }
    }
    let ended = suite.run();

    let audit = audit();
    println!(
        "{} events checked; off home: {} writes, {} wakes, {} callbacks, {} drops",
        audit.checked, audit.writes_off_home, audit.wakes_off_home, audit.callbacks_off_home, audit.drops_off_home
    );
    let off_home = audit.writes_off_home + audit.wakes_off_home + audit.callbacks_off_home + audit.drops_off_home;
    if off_home == 0 { ended } else { ExitCode::FAILURE }
}

fn replay(broker: &Broker, subscriber: Kind, culprit: Kind) {
    let served_at = Place::start(subscriber);
    let culprit_at = Place::start(culprit);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for deed in DEEDS {
            let named = format!("{deed:?}, subscriber on {subscriber}, culprit on {culprit}");
            let one = replay_one(broker, served_at.home(), culprit_at.home(), deed, &named);
            tokio::time::timeout(LONG, one).await.unwrap_or_else(|_| panic!("{named}: it hangs"));
        }
    });
    served_at.stop();
    culprit_at.stop();
}

async fn replay_one(broker: &Broker, served_at: &Home, culprit_at: &Home, deed: Deed, named: &str) {
    let server = connect(broker).await;
    let client = connect(broker).await;
    let (at, off) = (served_at.clone(), culprit_at.clone());
    let landed: Arc<Mutex<Vec<bool>>> = Arc::default();
    let seen = landed.clone();
    let crash = RpcSubscriber::closure(move |_: RpcRequest| {
        assert!(at.is_here(), "the subscriber runs on its home");
        let (promise, answer) = Answer::promise()?;
        // A second one to complete, whose outcome the answer goes on from: where it lands is looked at.
        let (second, future) = at.try_future::<()>()?;
        off.spawn(async move { commit(deed, promise, second) }).unwrap();
        let (at, seen) = (at.clone(), seen.clone());
        HandlerResult::Ok(Answer::later(async move {
            // Dropped by a panic or by choice, it is abandoned; that is an outcome as well.
            let _second = future.await;
            seen.lock().unwrap().push(at.is_here());
            HandlerResult::Ok(answer)
        }))
    });
    let name = Identifier::new("crash").unwrap();
    server.bound_to(served_at).add_rpc_subscriber(name, crash).await.unwrap();

    let answers = futures_util::future::join_all((0..5).map(|_| async { client.rpc_send("crash", 1).await })).await;
    for answer in answers {
        match deed {
            Deed::Fails => assert_eq!(answer.unwrap_err().remote_text(), Some("failed from afar"), "{named}"),
            Deed::Cancels => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Cancelled, "{named}"),
            Deed::Drops | Deed::Panics => {
                let error = answer.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::RemoteException, "{named}");
                assert!(error.remote_text().is_some_and(|text| text.contains("dropped its completer")), "{error}");
            }
            Deed::CompletesTwice => assert_eq!(answer.unwrap(), Value::from("first"), "{named}"),
        }
    }
    assert_eq!(*landed.lock().unwrap(), [true; 5], "{named}: the outcomes land on the subscriber's home");

    for communicator in [client, server] {
        let begun = Instant::now();
        let report = communicator.close().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{named}: close took {:?}", begun.elapsed());
        assert_eq!((report.requests_ended, report.error.map(|error| error.to_string())), (0, None), "{named}");
    }
}

fn commit(deed: Deed, promise: Promise, second: Completer<()>) {
    match deed {
        Deed::Fails => {
            promise.fail(Failure::Exception("failed from afar".into()));
            second.complete(()).unwrap();
        }
        Deed::Cancels => {
            promise.cancel();
            second.cancel();
        }
        Deed::Drops => drop((promise, second)),
        Deed::Panics => {
            let _held = (promise, second);
            panic!("on purpose, with a future in hand");
        }
        // Completing twice does not compile; the nearest is to be late, from another thread, with what is left.
        Deed::CompletesTwice => {
            promise.answer("first");
            std::thread::spawn(move || second.complete(())).join().unwrap().unwrap();
        }
    }
}

async fn connect(broker: &Broker) -> Communicator {
    Communicator::builder(broker.url())
        .prefix(broker.prefix())
        .testing(TestingMode::Yes)
        .call_timeout(LONG)
        .connect()
        .await
        .unwrap()
}
