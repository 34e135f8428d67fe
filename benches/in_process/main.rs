//! What is inside the process: completions across homes, the `memory:` broker, the codecs. `cargo bench --bench in_process`.
//!
//! Ratios are of one run: each group has the opponent beside ours, and criterion takes them in turn.

mod brokers;
mod codecs;
mod homes;

use criterion::{criterion_group, criterion_main};

/// The benchmarks are built as the tests are, and measured as programs are.
fn uninstrumented(_: &mut criterion::Criterion) {
    homing::home::do_without_audit();
}

criterion_group!(
    benches,
    uninstrumented,
    homes::one_at_a_time,
    homes::batches,
    homes::drains,
    brokers::memory,
    codecs::codecs
);
criterion_main!(benches);
