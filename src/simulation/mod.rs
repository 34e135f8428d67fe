//! Deterministic simulation of the whole communicator: several of them on a simulated broker, with users and workers, in
//! one thread and in virtual time. One number, the seed, decides which task is polled next, how long everything takes and
//! what goes wrong. What is right is decided outside, by the [ledger].
//!
//! - `cargo test --release --lib simulation` runs some seeds.
//! - `HOMING_SIM_SEEDS=0..100000` runs these instead, on `HOMING_SIM_THREADS` threads (default: as many as the machine
//!   has cores). With `HOMING_SIM_STOP=1` the first failing one ends the run; with `HOMING_SIM_BRIEF=1` none is explained.
//! - `tests/tools/simulation-mutations` breaks the library in one way after the other, and demands that it is found.
//! - `HOMING_SIM_SEED=17 cargo test --release --lib simulation::tests::replay -- --ignored --nocapture` shrinks a failing seed and
//!   prints what happens in it. `HOMING_SIM_KIND` picks one of several failures, by how it begins; `HOMING_SIM_WHOLE=1`
//!   leaves the seed as it is; `HOMING_SIM_PANICS=1` prints panics where they happen.

mod broker;
mod choices;
pub(crate) mod executor;
mod hooks;
mod ledger;
mod scripts;
mod shrink;
mod store;
mod workload;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(crate) use broker::Simulated;
use choices::{Key, Keys};
use executor::{Bounds, Log};

const BOUNDS: Bounds = Bounds { steps: 300_000, steps_a_second: 20_000 };
/// How often a seed is run at most while it is shrunk.
const SHRINKING: usize = 3000;

/// One seed, run.
struct Seen {
    wrong: Vec<String>,
    trace: u64,
    steps: u64,
    time: Duration,
    choices: Vec<Key>,
    log: Vec<String>,
}

fn run(seed: u64, kept: Option<Keys>, log: Log) -> Seen {
    let run = executor::run(seed, kept, log, BOUNDS, workload::scenario);
    let mut wrong = run.output.unwrap_or_default();
    wrong.extend(run.stopped);
    wrong.extend(run.panics.into_iter().map(|panic| format!("panic: {panic}")));
    Seen { wrong, trace: run.trace, steps: run.steps, time: run.time, choices: run.choices, log: run.log }
}

/// What kind of failure this is: its text without numbers and what stands in brackets. As specific as can be, for shrinking
/// may slip to another failure of the same kind.
fn kind(wrong: &str) -> String {
    let mut kind = String::new();
    for character in wrong.chars().take_while(|character| !matches!(character, '[' | '{')).take(120) {
        let character = if character.is_ascii_digit() { '#' } else { character };
        if !(character == '#' && kind.ends_with('#')) {
            kind.push(character);
        }
    }
    kind.trim_end().to_owned()
}

fn fails_as(seen: &Seen, wanted: &str) -> bool {
    seen.wrong.iter().any(|wrong| kind(wrong) == wanted)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a range of seeds has come to.
struct Summary {
    seeds: u64,
    failed: u64,
    /// By kind: how many seeds, and the first of them.
    kinds: BTreeMap<String, (u64, u64)>,
    took: Duration,
    steps: u64,
    time: Duration,
    choices: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (count, rate) = (self.seeds.max(1), self.seeds as f64 / self.took.as_secs_f64());
        let (steps, choices, time) = (self.steps / count, self.choices / count, self.time.as_secs() / count);
        write!(f, "{} seeds in {:.1?}, {rate:.0} a second; {} failed. ", self.seeds, self.took, self.failed)?;
        write!(f, "A seed has {steps} polls, {choices} choices and {time} s of virtual time.")?;
        for (kind, (count, first)) in &self.kinds {
            write!(f, "\n{count:>7}  first {first:>8}  {kind}")?;
        }
        Ok(())
    }
}

/// Runs seeds on some threads, for this long at most.
fn run_all(seeds: std::ops::Range<u64>, threads: usize, limit: Duration) -> Summary {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let over = AtomicBool::new(false);
    let (began, stops) = (Instant::now(), number("HOMING_SIM_STOP").is_some());
    let (failed, steps, choices, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let time = Mutex::new(Duration::ZERO);
    let kinds: Mutex<BTreeMap<String, (u64, u64)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // Ordering: Relaxed, for counters order nothing.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || over.load(Ordering::Relaxed) {
                        return;
                    }
                    let seen = run(seed, None, Log::None);
                    done.fetch_add(1, Ordering::Relaxed);
                    steps.fetch_add(seen.steps, Ordering::Relaxed);
                    choices.fetch_add(seen.choices.len() as u64, Ordering::Relaxed);
                    *time.lock() += seen.time;
                    if !seen.wrong.is_empty() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        if stops {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                    let mut known: Vec<String> = seen.wrong.iter().map(|wrong| kind(wrong)).collect();
                    known.sort();
                    known.dedup();
                    for kind in known {
                        let mut kinds = kinds.lock();
                        let (count, first) = kinds.entry(kind).or_insert((0, seed));
                        *count += 1;
                        *first = seed.min(*first);
                    }
                    if began.elapsed() > limit {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Summary {
        seeds: done.into_inner(),
        failed: failed.into_inner(),
        kinds: kinds.into_inner(),
        took: began.elapsed(),
        steps: steps.into_inner(),
        time: time.into_inner(),
        choices: choices.into_inner(),
    }
}

/// Shrinks a failing seed and prints what happens in it; returns how many choices were left.
fn explain(seed: u64, wanted: Option<&str>) -> Option<usize> {
    let first = run(seed, None, Log::None);
    println!("seed {seed}: {:#?}", first.wrong);
    let is_wanted = |wrong: &&String| wanted.is_none_or(|wanted| wrong.starts_with(wanted));
    let wanted = kind(first.wrong.iter().find(is_wanted)?);
    let kept = if number("HOMING_SIM_WHOLE").is_some() {
        first.choices.clone()
    } else {
        let began = Instant::now();
        let fails = |kept: &Keys| fails_as(&run(seed, Some(kept.clone()), Log::None), &wanted);
        let kept = shrink::shrink(&first.choices, SHRINKING, fails);
        println!("{} choices, {} after shrinking for {:.1?}", first.choices.len(), kept.len(), began.elapsed());
        kept
    };
    let seen = run(seed, Some(kept.iter().copied().collect()), Log::Kept);
    for line in &seen.log {
        println!("{line}");
    }
    println!("{:#?}", seen.wrong);
    Some(kept.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one test after the other, where nothing else is asked for.
    const SEEDS: u64 = 1500;
    const LIMIT: Duration = Duration::from_secs(25);

    #[test]
    fn nothing_is_wrong_in_some_seeds() {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = number("HOMING_SIM_THREADS").map_or(cores, |threads| threads as usize);
        let asked = std::env::var("HOMING_SIM_SEEDS").ok();
        let range = asked.as_deref().and_then(|range| {
            let (from, to) = range.split_once("..")?;
            Some(from.parse().ok()?..to.parse().ok()?)
        });
        let limit = if range.is_some() { Duration::MAX } else { LIMIT };
        let summary = run_all(range.unwrap_or(0..SEEDS), threads, limit);
        println!("{summary}");
        if let Some((_, (_, first))) = summary.kinds.iter().next()
            && number("HOMING_SIM_BRIEF").is_none()
        {
            explain(*first, None);
        }
        assert_eq!(summary.failed, 0, "{summary}\nreplay one by HOMING_SIM_SEED=… (see src/simulation/mod.rs)");
    }

    #[test]
    fn a_seed_is_the_same_in_every_run() {
        let differing: Vec<u64> = (0..100)
            .filter(|seed| {
                let traces: Vec<u64> = (0..2).map(|_| run(*seed, None, Log::None).trace).collect();
                traces[0] != traces[1]
            })
            .collect();
        assert!(differing.is_empty(), "two runs of a seed differ: {differing:?}");
    }

    #[test]
    #[ignore = "full: to look at one seed; see the module's documentation"]
    fn replay() {
        let Some(seed) = number("HOMING_SIM_SEED") else { return };
        let wanted = std::env::var("HOMING_SIM_KIND").ok();
        if explain(seed, wanted.as_deref()).is_none() {
            println!("nothing is wrong in it");
        }
    }
}
