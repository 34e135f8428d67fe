//! What a broker and a network can do to a communicator, and what becomes of everything that was under way.
//!
//! Each fault is done to a private broker or to a proxy before it, while calls and tasks are in the hands of their handlers and
//! more tasks are being sent. For each: nothing is lost, nothing hangs, nothing runs twice without a mark, and how long it
//! takes until new work is done again. `tests/run` runs a small form; with `HOMING_TEST_FAULTS=50,50,3` (calls, tasks, seconds)
//! another size. Every row prints its figures: `cargo test --test faults -- --nocapture`.

mod load;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use homing::{Communicator, CommunicatorBuilder};

use load::{Load, Report, Size};
use support::proxy::Proxy;
use support::{Node, Suite, Tls};

/// The node of all rows, one after the other.
static NODE: Mutex<Option<Arc<Node>>> = Mutex::new(None);

fn node() -> Arc<Node> {
    let mut node = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(node.get_or_insert_with(|| Arc::new(Node::start(Tls::No).unwrap_or_else(|failed| panic!("{failed:?}")))))
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(1200));
    for (name, row) in ROWS {
        suite.node(name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let place = Place::new();
                let report = row(place).await;
                println!("{name}: {report}");
                holds(&report);
            });
        });
    }
    let code = suite.one_at_a_time().run();
    NODE.lock().unwrap_or_else(PoisonError::into_inner).take();
    code
}

type Row = fn(Place) -> std::pin::Pin<Box<dyn Future<Output = Report>>>;

macro_rules! rows {
    ($($name:ident),* $(,)?) => {
        const ROWS: &[(&str, Row)] = &[$((stringify!($name), |place| Box::pin($name(place)))),*];
    };
}

rows![
    the_broker_is_killed_and_started_on_its_data,
    the_broker_closes_all_connections,
    the_network_cuts_every_connection,
    the_network_is_silent,
    the_network_closes_one_half,
    the_network_changes_a_byte,
    the_network_is_slow_and_then_cuts,
    the_broker_stands_still,
    a_handshake_stalls,
    the_queues_are_deleted,
    an_alarm_comes_and_goes,
    the_password_is_changed_for_a_while,
    the_exchanges_are_deleted,
    everything_at_random,
];

/// Where the load runs, and what can be done to it.
struct Place {
    node: Arc<Node>,
    proxy: Proxy,
    prefix: String,
}

fn size() -> Size {
    let given = std::env::var("HOMING_TEST_FAULTS").ok();
    let numbers: Vec<i64> = given.iter().flat_map(|text| text.split(',')).filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [calls, tasks, seconds] => Size { calls, tasks, hold: Duration::from_secs(seconds.unsigned_abs()) },
        _ => Size { calls: 20, tasks: 20, hold: Duration::from_secs(2) },
    }
}

impl Place {
    fn new() -> Self {
        let node = node();
        let proxy = Proxy::before(node.url()).unwrap();
        Place { node, proxy, prefix: support::unique("faults") }
    }

    fn through_proxy(&self) -> CommunicatorBuilder {
        Communicator::builder(&self.proxy.url(self.node.url()))
            .prefix(&self.prefix)
            .heartbeat(Duration::from_secs(2))
            .connect_timeout(Duration::from_secs(2))
    }

    async fn load(&self) -> Load {
        Load::new(self.through_proxy(), self.through_proxy(), size()).await
    }

    async fn blocking(&self, work: impl FnOnce(&Node) + Send + 'static) {
        let node = Arc::clone(&self.node);
        tokio::task::spawn_blocking(move || work(&node)).await.unwrap();
    }

    async fn ctl(&self, arguments: &'static [&'static str]) {
        self.blocking(move |node| drop(node.ctl(arguments).unwrap_or_else(|failed| panic!("{failed:?}")))).await;
    }
}

/// What every row demands.
fn holds(report: &Report) {
    let text = format!("{report}: {:?}", &report.errors[..report.errors.len().min(5)]);
    assert_eq!(report.hanging, 0, "{text}");
    assert_eq!(report.lost, 0, "{text}");
    assert_eq!(report.again_unmarked, 0, "{text}");
    assert_eq!((report.calls_answered, report.tasks_answered), (report.calls, report.tasks), "{text}");
    assert!(report.under_way * 2 >= report.calls + report.tasks, "the fault came too late: {text}");
}

async fn the_broker_is_killed_and_started_on_its_data(place: Place) -> Report {
    let load = place.load().await;
    let report = load
        .through(|| {
            place.blocking(|node| {
                node.kill().unwrap_or_else(|failed| panic!("{failed:?}"));
                node.restart().unwrap_or_else(|failed| panic!("{failed:?}"));
            })
        })
        .await;
    assert!(report.losses >= 2, "{report}");
    report
}

async fn the_broker_closes_all_connections(place: Place) -> Report {
    let load = place.load().await;
    let report = load.through(|| place.ctl(&["close_all_connections", "a test"])).await;
    assert!(report.losses >= 2, "{report}");
    report
}

async fn the_network_cuts_every_connection(place: Place) -> Report {
    let load = place.load().await;
    let report = load.through(|| async { place.proxy.cut() }).await;
    assert!(report.losses >= 2 && place.proxy.done() >= 4, "{report}");
    report
}

async fn the_network_is_silent(place: Place) -> Report {
    let load = place.load().await;
    let losses = |load: &Load| (load.server.connection_state(), load.client.connection_state());
    let report = {
        let (server, client) = (load.server.clone(), load.client.clone());
        let _ = losses(&load);
        load.through(|| async {
            place.proxy.stall();
            // Neither end is closed: the heartbeat has to find it.
            load::until("the heartbeat finds the silence", || {
                [&server, &client].iter().all(|one| one.connection_state() != homing::ConnectionState::Connected)
            })
            .await;
            place.proxy.pass();
        })
        .await
    };
    assert!(report.losses >= 2, "{report}");
    report
}

async fn the_network_closes_one_half(place: Place) -> Report {
    let load = place.load().await;
    let report = load.through(|| async { place.proxy.half_close() }).await;
    assert!(report.losses >= 2, "{report}");
    report
}

async fn the_network_changes_a_byte(place: Place) -> Report {
    let load = place.load().await;
    let report = load
        .through(|| async {
            place.proxy.corrupt(4);
            load::until("bytes were changed", || place.proxy.done() >= 4).await;
        })
        .await;
    assert!(report.losses >= 1, "{report}");
    report
}

async fn the_network_is_slow_and_then_cuts(place: Place) -> Report {
    let load = place.load().await;
    let report = load
        .through(|| async {
            place.proxy.delay(Duration::from_millis(20));
            tokio::time::sleep(Duration::from_millis(500)).await;
            place.proxy.cut();
            place.proxy.pass();
        })
        .await;
    assert!(report.losses >= 2, "{report}");
    report
}

async fn the_broker_stands_still(place: Place) -> Report {
    let load = place.load().await;
    let report = load
        .through(|| async {
            place.blocking(|node| node.signal("STOP")).await;
            tokio::time::sleep(Duration::from_secs(stands_still())).await;
            place.blocking(|node| node.signal("CONT")).await;
        })
        .await;
    assert!(report.losses >= 2, "{report}");
    report
}

/// Seconds.
fn stands_still() -> u64 {
    if std::env::var_os("HOMING_TEST_FULL").is_some() { 60 } else { 8 }
}

async fn a_handshake_stalls(place: Place) -> Report {
    let load = place.load().await;
    let report = load
        .through(|| async {
            place.proxy.cut();
            place.proxy.stall();
            // Longer than an attempt to connect may take.
            tokio::time::sleep(Duration::from_secs(3)).await;
            place.proxy.pass();
        })
        .await;
    assert!(report.losses >= 2, "{report}");
    report
}

async fn the_queues_are_deleted(place: Place) -> Report {
    let load = place.load().await;
    load.through(|| {
        place.blocking(|node| {
            // Not the task queue: what lies in a queue that is deleted is what whoever deletes it wants gone.
            let listed = node.ctl(&["-q", "list_queues", "name", "--no-table-headers"]).unwrap_or_default();
            let mut deleted = 0;
            for queue in listed.lines().filter(|name| name.starts_with("rpc-") || name.contains("-reply-")) {
                let delete = format!(
                    "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
                         rabbit_amqqueue:delete_with(Q, none, false, false, <<\"guest\">>, false)."
                );
                let delete = delete.replace(
                    "delete_with(Q, none, false, false, <<\"guest\">>, false)",
                    "delete(Q, false, false, <<\"guest\">>)",
                );
                deleted += usize::from(node.ctl(&["eval", &delete]).is_ok());
            }
            assert!(deleted >= 2, "queues deleted: {deleted} of {listed}");
        })
    })
    .await
}

async fn the_exchanges_are_deleted(place: Place) -> Report {
    let load = place.load().await;
    let names = [format!("{}.messages", place.prefix), format!("{}.tasks", place.prefix)];
    load.through(|| {
        place.blocking(move |node| {
            for name in names {
                let delete = format!(
                    "rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"{name}\">>), false, <<\"guest\">>)."
                );
                let said = node.ctl(&["eval", &delete]).unwrap_or_else(|failed| panic!("{failed:?}"));
                assert_eq!(said.trim(), "ok", "the exchange {name} is there to be deleted");
            }
        })
    })
    .await
}

async fn an_alarm_comes_and_goes(place: Place) -> Report {
    let load = place.load().await;
    let client = load.client.clone();
    load.through(|| async {
        place.ctl(&["set_vm_memory_high_watermark", "0"]).await;
        load::until("the broker blocks", || client.connection_state() == homing::ConnectionState::Blocked).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        place.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    })
    .await
}

async fn the_password_is_changed_for_a_while(place: Place) -> Report {
    let load = place.load().await;
    let mut events = load.client.events();
    let report = load
        .through(|| async {
            place.ctl(&["change_password", "guest", "another"]).await;
            place.ctl(&["close_all_connections", "a test"]).await;
            let refused = async {
                while let Some(event) = events.next().await {
                    if matches!(event, homing::ConnectionEvent::Reconnecting { error, .. } if error.kind() == homing::ErrorKind::AccessRefused) {
                        break;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(30), refused).await.expect("an event says that access is refused");
            place.ctl(&["change_password", "guest", "guest"]).await;
        })
        .await;
    assert!(report.losses >= 2, "{report}");
    report
}

/// A soak: `HOMING_TEST_SOAK` seconds of it, 20 unless it says otherwise, with the seed of `HOMING_TEST_SEED`.
async fn everything_at_random(place: Place) -> Report {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("HOMING_TEST_SOAK").unwrap_or(20);
    let seed = number("HOMING_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("HOMING_TEST_SEED={seed}, {seconds} s");
    let mut state = seed | 1;
    let mut draw = move |below: u64| {
        // xorshift: nothing here needs more.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let load = place.load().await;
    let until = std::time::Instant::now() + Duration::from_secs(seconds);
    let report = load
        .through(|| async {
            while std::time::Instant::now() < until {
                match draw(7) {
                    0 => place.proxy.cut(),
                    1 => place.proxy.half_close(),
                    2 => place.proxy.corrupt(1 + draw(4)),
                    3 => {
                        place.proxy.stall();
                        tokio::time::sleep(Duration::from_millis(500 + draw(5000))).await;
                        place.proxy.pass();
                    }
                    4 => {
                        place.proxy.delay(Duration::from_millis(1 + draw(50)));
                        tokio::time::sleep(Duration::from_millis(draw(1000))).await;
                        place.proxy.pass();
                    }
                    5 => {
                        place.proxy.refuse();
                        place.proxy.cut();
                        tokio::time::sleep(Duration::from_millis(draw(2000))).await;
                        place.proxy.pass();
                    }
                    _ => place.ctl(&["close_all_connections", "a soak"]).await,
                }
                tokio::time::sleep(Duration::from_millis(draw(1500))).await;
            }
            place.proxy.pass();
        })
        .await;
    assert!(report.losses >= 2, "{report}");
    report
}
