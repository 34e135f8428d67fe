//! What is inside the process: completions across homes, the `memory:` broker, the codecs. `cargo bench --bench in_process`.
//!
//! Ratios are of one run: each group has the opponent beside ours, and criterion takes them in turn.

mod brokers;
mod codecs;
mod homes;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, homes::one_at_a_time, homes::batches, homes::drains, brokers::memory, codecs::codecs);
criterion_main!(benches);
