//! Random requests against simple invariants, after each of them. A failing seed is printed; `HOMING_TEST_SEED` runs it alone,
//! `HOMING_TEST_SEEDS` sets how many there are, and `HOMING_TEST_LOG` prints what is done.

use std::time::{Duration, Instant};

mod audit;
mod random;
mod requests;
mod routes;
mod store;

use requests::Run;

const SEEDS: u64 = 40;
const STEPS: usize = 300;

/// Prints the seed when a step fails.
struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {0}: HOMING_TEST_SEED={0} runs it alone", self.0);
        }
    }
}

fn run(seed: u64, begun: Instant) -> String {
    let _shown = Shown(seed);
    let mut run = Run::new(seed, begun);
    for _ in 0..STEPS {
        run.step();
    }
    run.finish();
    run.log
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn whatever_is_asked_no_message_is_lost_or_doubled_and_the_same_requests_have_the_same_effects() {
    let one = number("HOMING_TEST_SEED");
    let seeds = one.map_or(0..number("HOMING_TEST_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let begun = Instant::now() + Duration::from_secs(1);
    let mut longest = 0;
    for seed in seeds {
        let log = run(seed, begun);
        assert_eq!(log, run(seed, begun), "seed {seed} runs otherwise the second time");
        longest = longest.max(log.matches("\n  to ").count());
    }
    assert!(one.is_some() || longest > STEPS / 5, "the runs do something: {longest} deliveries at most");
}
