//! What homing relies on. `offline` needs nothing but local sockets; `online` needs a broker, whose URL is in
//! `HOMING_TEST_AMQP`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::RabbitMq;
use super::endpoint::{Endpoint, Transport};
use crate::broker::{Broker, BrokerEvent, ConnectOptions, EventSender, Kept, Message, PublishId};
use crate::error::{Error, ErrorKind, Result};

mod faults;
mod odd;
mod offline;
mod online;
mod proxy;
mod raw;

/// Runs a test as the communicator thread would, and fails it rather than let it hang.
fn on_communicator_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    // Some ask `rabbitmqctl` a dozen things, which takes seconds each on a loaded machine.
    let bounded = async { tokio::time::timeout(Duration::from_secs(300), test).await };
    local.block_on(&runtime, bounded).expect("the test hangs");
}

fn options() -> ConnectOptions {
    ConnectOptions {
        connect_timeout: Duration::from_secs(10),
        operation_timeout: Duration::from_secs(10),
        heartbeat: None,
        connection_name: "homing test".to_owned(),
        kept: Kept::default(),
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        transport: Transport::Plain,
        socket: None,
        host: "127.0.0.1".to_owned(),
        port,
        username: "guest".to_owned(),
        password: "guest".to_owned(),
        vhost: "/".to_owned(),
        connect_timeout: None,
        server_name: None,
        heartbeat: None,
        channel_max: None,
        frame_max: None,
        connection_name: None,
        trusted_certificates: None,
        identity: None,
    }
}

/// The broker to test with; says so and gives `None` where there is none.
fn test_broker() -> Option<Endpoint> {
    let Ok(url) = std::env::var("HOMING_TEST_AMQP") else {
        let required = std::env::var("HOMING_TEST_REQUIRE").is_ok_and(|required| required == "1");
        assert!(!required, "needs RabbitMQ: HOMING_TEST_AMQP is not set");
        println!("needs RabbitMQ: set HOMING_TEST_AMQP or run tests/run");
        return None;
    };
    let authority = url.strip_prefix("amqp://")?.split(['/', '?']).next()?;
    let (user, place) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
    let (username, password) = user.split_once(':')?;
    let (host, port) = place.rsplit_once(':').unwrap_or((place, "5672"));
    Some(Endpoint {
        host: host.to_owned(),
        username: username.to_owned(),
        password: password.to_owned(),
        ..endpoint(port.parse().expect("a port"))
    })
}

type Events = UnboundedReceiver<BrokerEvent>;

/// A broker whose publishes can be waited for.
struct Client {
    broker: RabbitMq,
    publishes: Rc<Publishes>,
}

#[derive(Default)]
struct Publishes {
    next: Cell<u64>,
    waiting: RefCell<HashMap<PublishId, oneshot::Sender<Result<()>>>>,
}

impl std::ops::Deref for Client {
    type Target = RabbitMq;

    fn deref(&self) -> &RabbitMq {
        &self.broker
    }
}

impl Client {
    /// Publishes at once; the future is the outcome, or *closed* where none comes any more.
    fn publish(&self, message: Message) -> impl Future<Output = Result<()>> + 'static {
        let id = PublishId(self.publishes.next.get());
        self.publishes.next.set(id.0 + 1);
        let (outcome, known) = oneshot::channel();
        match self.broker.publish(id, Rc::new(message)) {
            Some(decided) => drop(outcome.send(decided)),
            None => drop(self.publishes.waiting.borrow_mut().insert(id, outcome)),
        }
        async move { known.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::CommunicatorClosed, "closed"))) }
    }

    async fn close(&self, limit: Duration) -> Result<()> {
        let closed = self.broker.close(limit).await;
        // What the broker has said so far is handed on.
        tokio::task::yield_now().await;
        self.publishes.waiting.take();
        closed
    }
}

/// Hands events on, outcomes to those who wait for them. After a loss no outcome is known.
async fn hand_on(publishes: Rc<Publishes>, mut said: Events, events: EventSender) {
    while let Some(event) = said.recv().await {
        match event {
            BrokerEvent::Published { id, outcome } => {
                let waiting = publishes.waiting.borrow_mut().remove(&id).expect("one outcome for each publish");
                drop(waiting.send(outcome));
                continue;
            }
            BrokerEvent::Lost { ref error } => {
                for (_, waiting) in publishes.waiting.take() {
                    drop(waiting.send(Err(error.clone())));
                }
            }
            _ => {}
        }
        drop(events.send(event));
    }
}

async fn connect(endpoint: &Endpoint, options: &ConnectOptions) -> Result<(Client, Events)> {
    let (sender, said) = unbounded_channel();
    let broker = RabbitMq::connect_to(endpoint, options, sender).await?;
    let publishes = Rc::<Publishes>::default();
    let (sender, events) = unbounded_channel();
    tokio::task::spawn_local(hand_on(Rc::clone(&publishes), said, sender));
    Ok((Client { broker, publishes }, events))
}

/// Connects, or ends the test with the reason.
async fn connected(endpoint: &Endpoint) -> (Client, Events) {
    connect(endpoint, &options()).await.expect("a connection")
}

fn unique(name: &str) -> String {
    format!("homing-test.{name}.{}", uuid::Uuid::new_v4().simple())
}

/// How many threads and descriptors this process has.
fn threads_and_descriptors() -> (usize, usize) {
    let count = |folder: &str| std::fs::read_dir(folder).expect("a proc file system").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// Runs a test in a process of its own, where nothing else opens threads and descriptors.
fn in_own_process(name: &str, test: impl FnOnce()) {
    if std::env::var("HOMING_TEST_CHILD").as_deref() == Ok(name) {
        return test();
    }
    let path = format!("{}::{name}", module_path!().split_once("::").expect("a module").1);
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &path, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("HOMING_TEST_CHILD", name)
        .output()
        .expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "the child ran no test: {said}");
}
