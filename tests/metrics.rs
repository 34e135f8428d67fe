//! Each figure that docs/observability.md names is recorded, by a recorder as a program has one, and none that it does not name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use homing::{
    BroadcastFilter, BroadcastSubscriber, Communicator, Failure, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber,
};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

const LIMIT: Duration = Duration::from_secs(20);

/// What was recorded under a name and labels; of a histogram, how many values.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, f64>>>);

struct Figure(Recorded, String);

impl Figure {
    fn add(&self, value: f64) {
        assert!(
            !std::thread::current().name().is_some_and(|name| name.ends_with("-communicator")),
            "{} was recorded on the communicator thread",
            self.1
        );
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
}

impl CounterFn for Figure {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }
    fn absolute(&self, _: u64) {
        panic!("no figure is absolute");
    }
}

impl GaugeFn for Figure {
    fn increment(&self, value: f64) {
        self.add(value);
    }
    fn decrement(&self, value: f64) {
        self.add(-value);
    }
    fn set(&self, _: f64) {
        panic!("several communicators share a gauge");
    }
}

impl HistogramFn for Figure {
    fn record(&self, value: f64) {
        assert!((0.0..100.0).contains(&value), "{} took {value} s", self.1);
        self.add(1.0);
    }
}

impl Recorded {
    fn figure(&self, key: &Key) -> Arc<Figure> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Figure(self.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
    }

    fn get(&self, name: &str) -> f64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0.0)
    }

    async fn eventually(&self, name: &str, value: f64) {
        let until = std::time::Instant::now() + LIMIT;
        while self.get(name) != value {
            assert!(std::time::Instant::now() < until, "{name} is {}, not {value}", self.get(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.figure(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.figure(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.figure(key))
    }
}

/// One test, since a process has one recorder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_figure_that_is_documented_is_recorded_and_no_other() {
    let figures = Recorded::default();
    metrics::set_global_recorder(figures.clone()).map_err(|_| "there is a recorder").unwrap();
    let communicator = Communicator::connect("memory:").await.unwrap();

    let worker = RpcSubscriber::future(|request: RpcRequest| async move {
        match request.body().as_str() {
            Some("fail") => Err(Failure::Exception("no".into())),
            Some("hang") => std::future::pending().await,
            _ => Ok(request.into_body()),
        }
    });
    communicator.add_rpc_subscriber("worker", worker).await.unwrap();
    for n in 0..5 {
        communicator.rpc_send("worker", n).await.unwrap();
    }
    communicator.rpc_send("worker", "fail").await.unwrap_err();
    communicator.rpc_send("nobody", 0).await.unwrap_err();
    let hanging = communicator.rpc_send("worker", "hang").send().await.unwrap();
    assert_eq!(figures.get("homing_sent_total{kind=call}"), 8.0);
    assert_eq!(figures.get("homing_outcomes_total{kind=call,outcome=ok}"), 5.0);
    assert_eq!(figures.get("homing_outcomes_total{kind=call,outcome=remote_exception}"), 1.0);
    assert_eq!(figures.get("homing_outcomes_total{kind=call,outcome=unroutable}"), 1.0);
    assert_eq!(figures.get("homing_outcome_seconds{kind=call}"), 7.0);
    assert_eq!(figures.get("homing_open{kind=call}"), 1.0);
    figures.eventually("homing_received_total{kind=call}", 7.0).await;
    figures.eventually("homing_handling{kind=call}", 1.0).await;
    figures.eventually("homing_handled_total{kind=call,outcome=ok}", 5.0).await;
    assert_eq!(figures.get("homing_handled_total{kind=call,outcome=exception}"), 1.0);
    assert_eq!(figures.get("homing_handler_seconds{kind=call}"), 6.0);
    // What is read off now and then.
    figures.eventually("homing_connections{}", 1.0).await;
    figures.eventually("homing_home_open{}", 1.0).await;
    assert!(figures.get("homing_home_slots{}") >= 1024.0);
    drop(hanging);
    assert_eq!(figures.get("homing_outcomes_total{kind=call,outcome=given_up}"), 1.0);
    assert_eq!(figures.get("homing_open{kind=call}"), 0.0);

    communicator.add_task_subscriber(TaskSubscriber::closure(|task: TaskRequest| task.into_body())).await.unwrap();
    communicator.task_send(1).await.unwrap();
    communicator.task_send(2).no_reply().await.unwrap();
    figures.eventually("homing_handled_total{kind=task,outcome=ok}", 2.0).await;
    assert_eq!(figures.get("homing_sent_total{kind=task}"), 2.0);
    let listener = BroadcastSubscriber::closure(|_: homing::Broadcast| ());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), listener).await.unwrap();
    communicator.broadcast_send(1).await.unwrap();
    figures.eventually("homing_handled_total{kind=broadcast,outcome=ok}", 1.0).await;
    assert_eq!(figures.get("homing_outcomes_total{kind=broadcast,outcome=ok}"), 1.0);

    communicator.close().await.unwrap();
    for gauge in ["homing_connections{}", "homing_in_flight{}", "homing_home_open{}", "homing_home_slots{}"] {
        figures.eventually(gauge, 0.0).await;
    }

    let documented = include_str!("../docs/observability.md");
    let documented: BTreeSet<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `homing_"))
        .filter_map(|line| line.split('`').next())
        .map(|name| name.split('{').next().unwrap_or(name))
        .collect();
    let recorded = figures.0.lock().unwrap();
    let recorded: BTreeSet<&str> = recorded
        .keys()
        .filter_map(|name| name.strip_prefix("homing_"))
        .map(|name| name.split('{').next().unwrap_or(name))
        .collect();
    assert_eq!(documented, recorded);
}
