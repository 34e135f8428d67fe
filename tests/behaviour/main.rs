//! One set of behaviour tests, run against both brokers: `memory::…` and `rabbitmq::…`.
//!
//! Each test gets a broker of its own, or names of its own on the shared node, so that they run side by side.

#[path = "../support/mod.rs"]
mod support;

mod broadcasts;
mod calls;
mod closing;
mod codecs;
mod homes;
mod limits;
mod refusals;
mod tasks;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use homing::{Communicator, TestingMode};
use support::{Broker, Suite};

/// A bound against hanging, ten times and more what anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A communicator for one test.
pub(crate) async fn connect(broker: &Broker) -> Communicator {
    options(broker).connect().await.expect("a communicator")
}

pub(crate) fn options(broker: &Broker) -> homing::CommunicatorBuilder {
    Communicator::builder(broker.url())
        .prefix(broker.prefix())
        .testing(TestingMode::Yes)
        .call_timeout(LONG)
        .task_timeout(LONG)
}

/// Runs a test in a runtime of its own.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(3 * LONG, test).await.expect("the test hangs") });
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    calls::add(&mut suite);
    tasks::add(&mut suite);
    broadcasts::add(&mut suite);
    closing::add(&mut suite);
    codecs::add(&mut suite);
    homes::add(&mut suite);
    limits::add(&mut suite);
    refusals::add(&mut suite);
    suite.run()
}

/// Adds async tests by their names.
#[macro_export]
macro_rules! behaviours {
    ($suite:ident: $($name:ident),* $(,)?) => {
        $($suite.both(stringify!($name), |broker| $crate::run($name(broker.clone())));)*
    };
}
