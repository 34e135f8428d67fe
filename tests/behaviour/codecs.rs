//! Codecs of a program's own: objects within values, and where the codec is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use homing::codec::{Codec, CodecPlace, Json, Map, Opaque, Tagged, Yaml};
use homing::home::Home;
use homing::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ErrorKind, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber, Value,
};
use parking_lot::Mutex;

use crate::support::{Broker, Suite};
use crate::{LONG, behaviours, options};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        objects_of_the_programs_own_go_through_a_codec_of_its_own,
        a_codec_for_homes_is_called_at_homes_alone,
        an_object_that_no_codec_knows_is_refused_with_its_place,
        an_object_that_panics_as_it_is_dropped_costs_only_itself,
        what_a_codec_passes_on_is_dropped_where_it_is_called,
        a_codec_is_dropped_by_the_home_that_gives_a_connect_up,
    );
}

/// What YAML does not know.
#[derive(Debug, PartialEq)]
struct Point(i64, i64);

/// Writes points as `!point [x, y]`, and keeps the names of the threads on which it is called.
#[derive(Clone)]
struct Points {
    place: CodecPlace,
    threads: Arc<Mutex<Vec<String>>>,
}

impl Points {
    fn called_at(place: CodecPlace) -> Self {
        Points { place, threads: Arc::default() }
    }

    fn called(&self) {
        self.threads.lock().push(std::thread::current().name().unwrap_or_default().to_owned());
    }
}

const TAG: &str = "!point";

fn mapped(value: Value, map: &dyn Fn(Value) -> Value) -> Value {
    match value {
        Value::List(items) => Value::List(items.into_iter().map(|item| mapped(item, map)).collect()),
        Value::Tuple(items) => Value::Tuple(items.into_iter().map(|item| mapped(item, map)).collect()),
        Value::Map(pairs) => {
            Value::Map(pairs.into_iter().map(|(key, value)| (key, mapped(value, map))).collect::<Map>())
        }
        other => map(other),
    }
}

impl Codec for Points {
    fn name(&self) -> &'static str {
        "points"
    }

    fn place(&self) -> CodecPlace {
        self.place
    }

    fn encode(&self, value: &Value) -> homing::Result<Vec<u8>> {
        self.called();
        let plain = |value: Value| match value.as_opaque().and_then(Opaque::downcast_ref::<Point>) {
            Some(point) => Value::Tagged(Box::new(Tagged { tag: TAG.to_owned(), value: [point.0, point.1].into() })),
            None => value,
        };
        Yaml::default().encode(&mapped(value.clone(), &plain))
    }

    fn decode(&self, body: &[u8]) -> homing::Result<Value> {
        self.called();
        let object = |value: Value| match &value {
            Value::Tagged(tagged) if tagged.tag == TAG => {
                let [x, y] = tagged.value.deserialize::<[i64; 2]>().unwrap();
                Opaque::new(Point(x, y)).into()
            }
            _ => value,
        };
        Ok(mapped(Yaml::default().decode(body)?, &object))
    }
}

fn point(value: &Value) -> &Point {
    value.as_opaque().and_then(Opaque::downcast_ref).expect("a point")
}

async fn objects_of_the_programs_own_go_through_a_codec_of_its_own(broker: Broker) {
    for place in [CodecPlace::Anywhere, CodecPlace::HomesOnly] {
        let communicator = options(&broker).codec(Points::called_at(place)).connect().await.unwrap();
        let sent = Value::from(Opaque::new(Point(1, -2)));
        let same = sent.clone();
        let add = move |value: &Value| {
            // Written and read, in this process too: what a broker holds is bytes.
            assert_ne!(value, &same);
            let Point(x, y) = point(value);
            Value::from(Opaque::new(Point(x + 1, y + 1)))
        };
        let serve = {
            let add = add.clone();
            RpcSubscriber::closure(move |request: RpcRequest| add(request.body()))
        };
        communicator.add_rpc_subscriber("add", serve).await.unwrap();
        let answer = communicator.rpc_send("add", sent.clone()).await.unwrap();
        assert_eq!(point(&answer), &Point(2, -1));

        let work = TaskSubscriber::closure(move |task: TaskRequest| add(task.body()));
        let identifier = communicator.add_task_subscriber(work).await.unwrap();
        let outcome = communicator.task_send(sent.clone()).await.unwrap();
        assert_eq!(point(&outcome), &Point(2, -1));
        communicator.remove_task_subscriber(&identifier).await.unwrap();
        communicator.task_send(sent.clone()).no_reply().await.unwrap();
        let task = communicator.default_task_queue().unwrap().next_task(LONG).await.unwrap();
        assert_eq!(point(task.body()), &Point(1, -2));
        task.finish(());

        let filter = BroadcastFilter::new().subject("right").unwrap();
        let mut stream = communicator.broadcasts(filter.clone()).await.unwrap();
        let (emit, mut received) = tokio::sync::mpsc::unbounded_channel();
        let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| emit.send(broadcast).unwrap());
        communicator.add_broadcast_subscriber(filter, subscriber).await.unwrap();
        for subject in ["wrong", "right", "wrong", "right"] {
            communicator.broadcast_send(sent.clone()).sender(4).subject(subject).await.unwrap();
        }
        for _ in 0..2 {
            let next = async { (stream.next().await.unwrap().unwrap(), received.recv().await.unwrap()) };
            let (streamed, called) = tokio::time::timeout(LONG, next).await.unwrap();
            for broadcast in [streamed, called] {
                assert_eq!((broadcast.subject(), broadcast.sender()), (Some("right"), &Value::from(4)));
                assert_eq!(point(broadcast.body()), &Point(1, -2));
            }
        }
        communicator.close().await.unwrap();
    }
}

async fn a_codec_for_homes_is_called_at_homes_alone(broker: Broker) {
    let codec = Points::called_at(CodecPlace::HomesOnly);
    let threads = Arc::clone(&codec.threads);
    let communicator = options(&broker).codec(codec).connect().await.unwrap();
    let mut broadcasts = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();
    communicator.broadcast_send("first").await.unwrap();
    assert_eq!(broadcasts.next().await.unwrap().unwrap().body().as_str(), Some("first"));

    // Nobody drives it: a call that it was handed has nobody to answer it when it ends.
    let home = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let at = Home::of_runtime(home.handle());
    let never = RpcSubscriber::future(|_: RpcRequest| std::future::pending::<Value>());
    communicator.bound_to(&at).add_rpc_subscriber("gone", never).await.unwrap();
    let reply = communicator.rpc_send("gone", 0).timeout(LONG).send().await.unwrap();
    // What the broker took over later has come through before.
    communicator.broadcast_send("behind it").await.unwrap();
    assert!(broadcasts.next().await.unwrap().is_ok());
    std::thread::spawn(move || home.shutdown_timeout(Duration::ZERO)).join().unwrap();
    let error = reply.await.unwrap_err();
    assert_eq!(error.remote_text(), Some("the subscriber ended before it had answered"), "{error}");
    communicator.close().await.unwrap();

    let threads = threads.lock();
    let ours: Vec<_> = threads.iter().filter(|name| name.starts_with("homing-")).collect();
    assert!(threads.len() > 4 && ours.is_empty(), "called on {ours:?}");
}

async fn an_object_that_no_codec_knows_is_refused_with_its_place(broker: Broker) {
    let body = || Value::from_iter([("points", vec![Value::Null, Opaque::new(Point(0, 0)).into()])]);
    let refused = |error: homing::Error| {
        assert_eq!(error.kind(), ErrorKind::Encode);
        let text = error.to_string();
        assert!(text.contains("Point") && text.ends_with("/points/1)"), "{text}");
    };
    let yaml: Communicator = options(&broker).connect().await.unwrap();
    let json = options(&broker).codec(Json::default()).connect().await.unwrap();
    for communicator in [yaml, json] {
        refused(communicator.rpc_send("nobody", body()).await.unwrap_err());
        refused(communicator.task_send(body()).no_reply().await.unwrap_err());
        refused(communicator.broadcast_send(body()).await.unwrap_err());
        communicator.close().await.unwrap();
    }
}

/// Panics as it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a bomb goes off");
    }
}

/// Writes bombs as `!bomb ''`.
struct Bombs(CodecPlace);

impl Codec for Bombs {
    fn name(&self) -> &'static str {
        "bombs"
    }

    fn place(&self) -> CodecPlace {
        self.0
    }

    fn encode(&self, value: &Value) -> homing::Result<Vec<u8>> {
        let plain = |value: Value| match value {
            Value::Opaque(_) => Value::Tagged(Box::new(Tagged { tag: "!bomb".to_owned(), value: "".into() })),
            value => value,
        };
        Yaml::default().encode(&mapped(value.clone(), &plain))
    }

    fn decode(&self, body: &[u8]) -> homing::Result<Value> {
        let object = |value: Value| match value {
            Value::Tagged(_) => Opaque::new(Bomb).into(),
            value => value,
        };
        Ok(mapped(Yaml::default().decode(body)?, &object))
    }
}

async fn an_object_that_panics_as_it_is_dropped_costs_only_itself(broker: Broker) {
    for place in [CodecPlace::Anywhere, CodecPlace::HomesOnly] {
        let communicator = options(&broker).codec(Bombs(place)).connect().await.unwrap();
        // Two of them in one value: the second goes off while the first is dealt with.
        let bombs = || Value::List(vec![Opaque::new(Bomb).into(), Opaque::new(Bomb).into()]);

        let subscriber = RpcSubscriber::closure(move |_: RpcRequest| bombs());
        communicator.add_rpc_subscriber("bombs", subscriber).await.unwrap();
        assert!(
            matches!(communicator.rpc_send("bombs", bombs()).await.unwrap(), Value::List(bombs) if bombs.len() == 2)
        );

        let runs = Arc::new(AtomicUsize::new(0));
        let worker = TaskSubscriber::closure({
            let runs = Arc::clone(&runs);
            move |_: TaskRequest| {
                runs.fetch_add(1, Ordering::Relaxed);
                bombs()
            }
        });
        communicator.add_task_subscriber(worker).await.unwrap();
        assert!(matches!(communicator.task_send(bombs()).await.unwrap(), Value::List(bombs) if bombs.len() == 2));
        assert_eq!(runs.load(Ordering::Relaxed), 1);

        let (emit, mut received) = tokio::sync::mpsc::unbounded_channel();
        let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
            emit.send(broadcast.subject().unwrap().to_owned()).unwrap();
            bombs()
        });
        let filter = BroadcastFilter::new().subject("right.*").unwrap();
        communicator.add_broadcast_subscriber(filter, subscriber).await.unwrap();
        for subject in ["right.1", "wrong", "right.2"] {
            communicator.broadcast_send(bombs()).subject(subject).await.unwrap();
        }
        for subject in ["right.1", "right.2"] {
            let received = tokio::time::timeout(LONG, received.recv()).await.unwrap();
            assert_eq!(received.as_deref(), Some(subject));
        }
        let report = communicator.close().await.unwrap();
        assert!(report.error.is_none(), "{report:?}");
    }
}

type Threads = Arc<Mutex<Vec<ThreadId>>>;

/// Keeps on which threads its copies are dropped.
struct Probe(Threads);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.lock().push(std::thread::current().id());
    }
}

/// Makes of what it passes an object, or something that is too deep.
struct Passing {
    dropped: Threads,
    _probe: Probe,
}

impl Passing {
    fn new() -> (Self, Threads, Threads) {
        let (objects, own) = (Threads::default(), Threads::default());
        (Passing { dropped: Arc::clone(&objects), _probe: Probe(Arc::clone(&own)) }, objects, own)
    }
}

impl Codec for Passing {
    fn name(&self) -> &'static str {
        "passing"
    }

    fn encode(&self, value: &Value) -> homing::Result<Vec<u8>> {
        let plain = |value: Value| if value.as_opaque().is_some() { "an object".into() } else { value };
        Yaml::default().encode(&mapped(value.clone(), &plain))
    }

    fn decode(&self, body: &[u8]) -> homing::Result<Value> {
        Yaml::default().decode(body)
    }

    fn pass(&self, value: Value) -> homing::Result<Value> {
        let object = |value: Value| match value.as_str() {
            Some("object") => Opaque::new(Probe(Arc::clone(&self.dropped))).into(),
            Some("deep") => (0..1000).fold(Value::Null, |inner, _| Value::List(vec![inner])),
            _ => value,
        };
        Ok(mapped(value, &object))
    }
}

async fn what_a_codec_passes_on_is_dropped_where_it_is_called(broker: Broker) {
    let (codec, dropped, _) = Passing::new();
    let communicator = options(&broker).codec(codec).connect().await.unwrap();
    let mut stream = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();
    let is_passed = broker.is_memory();
    // Called here, where it does not wait.
    let (here, send) = (std::thread::current().id(), communicator.broadcast_send("object"));
    let send = std::future::IntoFuture::into_future(send);
    let mut send = std::pin::pin!(send);
    let sent = futures_util::poll!(send.as_mut());
    assert_eq!(*dropped.lock(), vec![here; usize::from(is_passed)], "written, and dropped here");
    if sent.is_pending() {
        send.await.unwrap();
    }
    let expected = if is_passed { "an object" } else { "object" };
    assert_eq!(stream.next().await.unwrap().unwrap().body().as_str(), Some(expected));
    let deep = communicator.broadcast_send("deep").await;
    assert_eq!(deep.map_err(|error| error.kind()), if is_passed { Err(ErrorKind::Encode) } else { Ok(()) });
    communicator.close().await.unwrap();
}

async fn a_codec_is_dropped_by_the_home_that_gives_a_connect_up(_: Broker) {
    // A broker that never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
    let (codec, _, dropped) = Passing::new();
    let connect = Communicator::builder(&url).codec(codec).connect_timeout(LONG).connect();
    let mut connect = Box::pin(connect);
    assert!(futures_util::poll!(connect.as_mut()).is_pending());
    let here = std::thread::current().id();
    drop(connect);
    assert_eq!(*dropped.lock(), [here]);
}
