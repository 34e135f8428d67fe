//! Finds what stands still, and says which home it is and what it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ledger::HomeRecord;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// What one worker says of itself.
pub(crate) struct Pulse {
    pub name: String,
    state: Mutex<State>,
    /// Anything that moves there.
    pub beats: AtomicU64,
}

struct State {
    stage: &'static str,
    record: Option<Arc<HomeRecord>>,
    /// Times of the stage, so that each is another one.
    entered: u64,
}

#[derive(Clone, Copy, PartialEq)]
struct Sign(u64, u64, u64, usize);

impl Pulse {
    pub(crate) fn new(name: String) -> Self {
        Pulse {
            name,
            state: Mutex::new(State { stage: "starting", record: None, entered: 0 }),
            beats: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_at(&self, stage: &'static str, record: Option<&Arc<HomeRecord>>) {
        let old = {
            let mut state = self.state.lock();
            state.stage = stage;
            state.entered += 1;
            std::mem::replace(&mut state.record, record.cloned())
        };
        drop(old);
    }

    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    fn sign(&self) -> Sign {
        let state = self.state.lock();
        let (steps, open) =
            state.record.as_ref().map_or((0, 0), |record| (record.steps.load(Ordering::Relaxed), record.open()));
        Sign(state.entered, self.beats.load(Ordering::Relaxed), steps, open)
    }

    fn is_done(&self) -> bool {
        self.state.lock().stage == "done"
    }

    /// What stands still here, and how many futures of it.
    fn in_words(&self, still: Duration) -> (String, usize) {
        let state = self.state.lock();
        match &state.record {
            Some(record) => (
                format!(
                    "stuck: {} has stood still for {:.1} s while {}; open there: {}",
                    record.name(),
                    still.as_secs_f64(),
                    state.stage,
                    record.open_in_words()
                ),
                record.open(),
            ),
            None => (
                format!("stuck: {} has stood still for {:.1} s while {}", self.name, still.as_secs_f64(), state.stage),
                0,
            ),
        }
    }
}

/// What was found.
pub(crate) struct Stuck {
    pub words: Vec<String>,
    /// The futures that are open where it stands still.
    pub open: usize,
}

/// Watches until every worker is done.
///
/// # Errors
/// What stands still for longer than this.
pub(crate) fn watch(pulses: &[Arc<Pulse>], patience: Duration) -> Result<(), Stuck> {
    let mut signs: Vec<(Sign, Instant)> = pulses.iter().map(|pulse| (pulse.sign(), Instant::now())).collect();
    while !pulses.iter().all(|pulse| pulse.is_done()) {
        std::thread::sleep(LOOK);
        let mut stuck = Stuck { words: Vec::new(), open: 0 };
        for (pulse, (sign, since)) in pulses.iter().zip(&mut signs) {
            let now = pulse.sign();
            if now != *sign || pulse.is_done() {
                (*sign, *since) = (now, Instant::now());
            } else if since.elapsed() > patience {
                let (words, open) = pulse.in_words(since.elapsed());
                stuck.words.push(words);
                stuck.open += open;
            }
        }
        if !stuck.words.is_empty() {
            return Err(stuck);
        }
    }
    Ok(())
}
