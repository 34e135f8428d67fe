//! Real kiwipy processes as peers, in both directions, for every message kind and every behaviour of the wire.
//!
//! `docs/wire.md` has the behaviours as a table; each of its rows names the test here in which a live kiwipy process is the
//! peer. A row without a test, or a test that is not there, fails.

#[path = "../support/mod.rs"]
mod support;

mod broadcasts;
mod calls;
mod ours;
mod process;
mod tasks;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use homing::{Communicator, TestingMode};
use serde_json::{Value as Json, json};
use support::{Broker, Peer, Suite, TestResult};

/// A bound against hanging.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A homing communicator with the names of the trial, as the peer has them.
pub(crate) struct Rust {
    pub communicator: Communicator,
    runtime: tokio::runtime::Runtime,
}

impl Rust {
    pub(crate) fn connect(broker: &Broker) -> Self {
        Self::with(broker, |options| options)
    }

    pub(crate) fn with(
        broker: &Broker,
        options: impl FnOnce(homing::CommunicatorBuilder) -> homing::CommunicatorBuilder,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let builder = Communicator::builder(broker.url())
            .message_exchange(broker.message_exchange())
            .task_exchange(broker.task_exchange())
            .task_queue(broker.task_queue())
            .testing(TestingMode::Yes)
            .call_timeout(LONG)
            .task_timeout(LONG);
        let communicator = runtime.block_on(options(builder).connect()).unwrap();
        Rust { communicator, runtime }
    }

    pub(crate) fn run<T>(&self, work: impl IntoFuture<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(2 * LONG, work.into_future()).await.expect("it hangs") })
    }
}

/// A kiwipy communicator with the names of the trial.
pub(crate) fn python(broker: &Broker) -> Result<Peer, support::PeerError> {
    Peer::kiwipy(broker, json!({}))
}

/// Tests by the rows of the table that they are for.
pub(crate) struct Table<'a> {
    suite: &'a mut Suite,
    covered: BTreeSet<&'static str>,
}

impl Table<'_> {
    pub(crate) fn test(&mut self, name: &'static str, test: fn(&Broker) -> TestResult) {
        self.covered.insert(name);
        self.suite.kiwipy(name, test);
    }
}

/// Adds tests by their names.
#[macro_export]
macro_rules! interop {
    ($table:ident: $($name:ident),* $(,)?) => {
        $($table.test(stringify!($name), $name);)*
    };
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let mut table = Table { suite: &mut suite, covered: BTreeSet::new() };
    calls::add(&mut table);
    tasks::add(&mut table);
    broadcasts::add(&mut table);
    process::add(&mut table);
    ours::add(&mut table);
    let covered = Arc::new(table.covered);
    suite.plain("every_row_of_the_wire_has_a_test_with_a_live_kiwipy", move || every_row(&covered));
    suite.run()
}

fn every_row(covered: &BTreeSet<&'static str>) {
    let page = include_str!("../../docs/wire.md");
    let table = page.split_once("## Behaviour").expect("the table").1;
    let table = table.split_once("\n## ").map_or(table, |(table, _)| table);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| Case"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 27, "the table has lost rows: {}", rows.len());
    let mut named = BTreeSet::new();
    for row in &rows {
        let tests: Vec<&str> = row.last().unwrap_or(&"").split(", ").map(|name| name.trim_matches('`')).collect();
        for test in &tests {
            assert!(covered.contains(test), "the row {:?} names the test {test:?}, which is not there", row[0]);
            named.insert(*test);
        }
    }
    for test in covered {
        assert!(named.contains(test), "the test {test:?} stands in no row");
    }
}

/// Whether an outcome of the peer is this result.
pub(crate) fn is_result(outcome: &Json, value: &Json) -> TestResult {
    if outcome["outcome"] == "result" && &outcome["value"] == value {
        return Ok(());
    }
    Err(format!("the outcome is {outcome}, not the result {value}").into())
}

/// Whether an outcome of the peer is an exception with this in its text.
pub(crate) fn is_exception(outcome: &Json, kind: &str, text: &str) -> TestResult {
    let told = outcome["text"].as_str().unwrap_or("");
    if outcome["outcome"] == "exception" && outcome["type"] == kind && told.contains(text) {
        return Ok(());
    }
    Err(format!("the outcome is {outcome}, not a {kind} with {text:?}").into())
}
