//! What the integration tests share: which brokers there are, trials that cannot hang, names that cannot collide, Python
//! peers and RabbitMQ nodes of a test's own.
//!
//! The environment says what is there; `tests/run` sets all of it:
//! - `HOMING_TEST_AMQP`: the URL of a RabbitMQ node that all tests share;
//! - `HOMING_TEST_PYTHON`: a Python interpreter that has kiwipy;
//! - `HOMING_TEST_AIIDA`: a Python interpreter that has AiiDA;
//! - `HOMING_TEST_NODE`: the directory of the script `rabbitmq-node`, for tests that need a node to break, or another script
//!   with its verbs (`broker-node`, for our own broker);
//! - `HOMING_TEST_FULL=1`: trials that take long run too;
//! - `HOMING_TEST_REQUIRE=1`: what is missing is a failure. Without it, it is a skipped test that says so.

#![allow(dead_code, unused_imports)] // each test target uses its own part of it

pub mod fake_broker;
#[path = "../../crates/home/tests/support/homes.rs"]
pub mod homes;
pub mod node;
pub mod peer;
pub mod proxy;
pub mod suite;
pub mod watch;

pub use node::{Node, Tls};
pub use peer::{Peer, PeerError};
pub use suite::{Broker, Suite, TestResult};

use std::time::Duration;

/// How long a trial may take until it counts as hung.
pub const TRIAL_DEADLINE: Duration = Duration::from_secs(240);

/// The shared RabbitMQ node.
pub fn broker_url() -> Option<String> {
    variable("HOMING_TEST_AMQP")
}

/// The Python interpreter that has kiwipy.
pub fn python() -> Option<String> {
    variable("HOMING_TEST_PYTHON")
}

/// The Python interpreter that has AiiDA.
pub fn aiida() -> Option<String> {
    variable("HOMING_TEST_AIIDA")
}

/// Whether a missing broker or Python is a failure.
pub fn required() -> bool {
    variable("HOMING_TEST_REQUIRE").as_deref() == Some("1")
}

/// Waits until something is so, which should take no time.
pub async fn eventually(is_so: impl Fn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < until, "what should happen did not");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A name that nothing else has: a uuid, so that what it is for can be appended.
pub fn unique(what: &str) -> String {
    format!("t{}.{what}", uuid::Uuid::new_v4().simple())
}

/// Whether trials run that take too long for every day.
pub fn full() -> bool {
    variable("HOMING_TEST_FULL").as_deref() == Some("1")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
