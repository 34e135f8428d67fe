//! The homes that a communicator runs something at, to be read off, and whether they turn.

use parking_lot::Mutex;

use crate::home::{Home, Occupancy};

/// How often in a row a home is seen standing before that is reported.
const LOOKS: u32 = 4;

/// Each that lives, once. Those that have ended are taken out when it is used.
#[derive(Default)]
pub(super) struct Homes(Mutex<Vec<Known>>);

struct Known {
    home: Home,
    turns: Turns,
}

/// Whether a home turns to what arrives there.
#[derive(Default)]
struct Turns {
    rounds: u64,
    /// How often in a row it was seen with something there, and had not turned since the last time.
    standing: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Stands,
    GoesOn,
}

impl Turns {
    /// What is to be reported, which is each change once. Looks are counted and not time, in which a program may have been stopped.
    fn look(&mut self, now: Occupancy) -> Option<Change> {
        let turned = std::mem::replace(&mut self.rounds, now.rounds) != now.rounds;
        if turned || now.queued == 0 {
            let stood = std::mem::take(&mut self.standing) >= LOOKS;
            return stood.then_some(Change::GoesOn);
        }
        self.standing = self.standing.saturating_add(1);
        (self.standing == LOOKS).then_some(Change::Stands)
    }
}

impl Homes {
    pub(super) fn add(&self, home: &Home) {
        self.with_living(|homes| {
            if !homes.iter().any(|known| known.home.is_same(home)) {
                homes.push(Known { home: home.clone(), turns: Turns::default() });
            }
        });
    }

    #[cfg(all(feature = "metrics", not(test)))]
    pub(super) fn occupancies(&self) -> Vec<Occupancy> {
        self.with_living(|homes| homes.iter().map(|known| known.home.occupancy()).collect())
    }

    /// Reports each home that has not turned in the last looks though there is something for it, and each that does again.
    #[cfg(not(test))]
    pub(super) fn look(&self) {
        // Not under the lock: a log is the program's own.
        for (home, waiting, change) in self.changes() {
            match change {
                Change::Stands => crate::log::warn!(
                    %home,
                    waiting,
                    "a home does not turn to what arrives there, answers and the ends of its waits among it: something that it runs \
                     blocks, or waits for what this home alone can bring"
                ),
                Change::GoesOn => crate::log::info!(%home, "a home that stood goes on"),
            }
        }
    }

    /// By home: how much waits there, and what has changed.
    fn changes(&self) -> Vec<(String, usize, Change)> {
        self.with_living(|homes| {
            let changes = homes.iter_mut().filter_map(|known| {
                let now = known.home.occupancy();
                let change = known.turns.look(now)?;
                Some((format!("{:?}", known.home), now.queued, change))
            });
            changes.collect()
        })
    }

    fn with_living<R>(&self, work: impl FnOnce(&mut Vec<Known>) -> R) -> R {
        let (result, ended) = {
            let mut homes = self.0.lock();
            let ended: Vec<Known> = homes.extract_if(.., |known| known.home.has_ended()).collect();
            (work(&mut homes), ended)
        };
        // Guards: what a program has given its runtime, which goes with the last home of it. It may come back here as it is dropped.
        drop(ended);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_home_stands_that_has_something_and_does_not_turn() {
        let home = Home::current();
        let at = |queued, rounds| {
            let mut occupancy = home.occupancy();
            (occupancy.queued, occupancy.rounds) = (queued, rounds);
            occupancy
        };
        let mut turns = Turns::default();
        // Idle for as long as it will; full, and turning.
        for round in 0..20 {
            assert_eq!(turns.look(at(0, 5)), None);
            assert_eq!(turns.look(at(9, 6 + round)), None);
        }
        let looks: Vec<_> = (0..10).map(|_| turns.look(at(1, 25))).collect();
        assert_eq!(looks.iter().position(Option::is_some), Some(LOOKS as usize - 1), "{looks:?}");
        assert_eq!(looks.iter().flatten().count(), 1, "it is reported once: {looks:?}");
        assert_eq!(turns.look(at(3, 26)), Some(Change::GoesOn));
        assert_eq!(turns.look(at(3, 27)), None);
        // What is taken out by somebody who waits within is a turn, too.
        for _ in 0..LOOKS {
            turns.look(at(1, 27));
        }
        assert_eq!(turns.look(at(0, 27)), Some(Change::GoesOn));
    }

    #[test]
    fn a_runtime_that_does_not_run_stands_until_it_does() {
        let homes = Homes::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let entered = runtime.enter();
        homes.add(&Home::current());
        let (completer, future) = Home::current().try_future::<u8>().expect("a place");
        completer.complete(7).expect("the home lives");
        let looks: Vec<usize> = (0..2 * LOOKS).map(|_| homes.changes().len()).collect();
        assert_eq!(looks.iter().sum::<usize>(), 1, "{looks:?}");
        drop(entered);
        assert_eq!(runtime.block_on(future).expect("an outcome"), 7);
        let changes = homes.changes();
        assert!(matches!(changes[..], [(_, 0, Change::GoesOn)]), "{changes:?}");
    }

    /// Guards: what a program has given its runtime, and whose drop adds a subscriber.
    #[test]
    fn a_home_that_has_ended_is_dropped_without_the_lock() {
        struct Looks(Arc<Homes>, std::sync::mpsc::Sender<bool>);
        impl Drop for Looks {
            fn drop(&mut self) {
                let _ = self.1.send(self.0.0.is_locked());
            }
        }
        let homes = Arc::new(Homes::default());
        let (tell, told) = std::sync::mpsc::channel();
        let looks = Looks(Arc::clone(&homes), tell);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.on_thread_park(move || {
            let _ = &looks;
        });
        let runtime = builder.build().expect("a runtime");
        drop(builder);
        homes.add(&Home::of_runtime(runtime.handle()));
        drop(runtime);
        assert!(told.try_recv().is_err(), "the list has the last of it");
        homes.add(&Home::current());
        assert_eq!(told.try_recv(), Ok(false));
        assert_eq!(homes.0.lock().len(), 1);
    }
}
