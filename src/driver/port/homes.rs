//! The homes that a communicator runs something at, to be read off, and whether they turn.

use std::sync::{Arc, Weak};

use crate::home::lock::Mutex;

use crate::home::{Home, Occupancy};

/// How often in a row a home is seen standing before that is reported: thirty to forty seconds after it last turned.
const LOOKS: u32 = 3;

/// Each that has subscribers, once.
#[derive(Default)]
pub(super) struct Homes(Mutex<Vec<Known>>);

struct Known {
    serves: Weak<Serves>,
    turns: Turns,
}

/// Held by each subscriber of a home.
pub(crate) struct Serves(Home);

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
    pub(super) fn add(&self, home: &Home) -> Arc<Serves> {
        self.with_living(|homes, living| {
            let known = living.iter().find(|serves| serves.0.is_same(home)).map(Arc::clone);
            known.unwrap_or_else(|| {
                let serves = Arc::new(Serves(home.clone()));
                homes.push(Known { serves: Arc::downgrade(&serves), turns: Turns::default() });
                serves
            })
        })
    }

    #[cfg(all(feature = "metrics", not(test)))]
    pub(super) fn occupancies(&self) -> Vec<Occupancy> {
        self.with_living(|_, living| living.iter().map(|serves| serves.0.occupancy()).collect())
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
                    "a home has not turned to what arrives there for half a minute, ends of timeouts among it: something that it runs \
                     blocks, or waits for what this home alone can bring"
                ),
                Change::GoesOn => crate::log::info!(%home, "a home that stood goes on"),
            }
        }
    }

    /// By home: how much waits there, and what has changed.
    fn changes(&self) -> Vec<(String, usize, Change)> {
        self.with_living(|homes, living| {
            let changes = homes.iter_mut().zip(living).filter_map(|(known, serves)| {
                let now = serves.0.occupancy();
                let change = known.turns.look(now)?;
                Some((format!("{:?}", serves.0), now.queued, change))
            });
            changes.collect()
        })
    }

    /// Those that have subscribers, in the order of the list.
    fn with_living<R>(&self, work: impl FnOnce(&mut Vec<Known>, &[Arc<Serves>]) -> R) -> R {
        let (result, living) = {
            let mut homes = self.0.lock();
            let mut living = Vec::with_capacity(homes.len());
            homes.retain(|known| {
                let serves = known.serves.upgrade();
                let lives = serves.is_some();
                living.extend(serves);
                lives
            });
            (work(&mut homes, &living), living)
        };
        // Guards: what a program has given its runtime, which goes with the last that holds it. It may come back here as it is dropped.
        drop(living);
        result
    }
}

#[cfg(test)]
mod tests {
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
        let _serves = homes.add(&Home::current());
        let (completer, future) = Home::current().try_future::<u8>().expect("a place");
        completer.complete(7).expect("the home lives");
        let looks: Vec<usize> = (0..2 * LOOKS).map(|_| homes.changes().len()).collect();
        assert_eq!(looks.iter().sum::<usize>(), 1, "{looks:?}");
        drop(entered);
        assert_eq!(runtime.block_on(future).expect("an outcome"), 7);
        let changes = homes.changes();
        assert!(matches!(changes[..], [(_, 0, Change::GoesOn)]), "{changes:?}");
    }

    #[test]
    fn a_home_is_known_as_long_as_it_has_a_subscriber() {
        let homes = Homes::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (first, second) = (homes.add(&Home::of_runtime(runtime.handle())), homes.add(&Home::current()));
        let again = homes.add(&Home::of_runtime(runtime.handle()));
        assert!(Arc::ptr_eq(&first, &again), "each once");
        drop(first);
        assert_eq!(homes.with_living(|homes, living| (homes.len(), living.len())), (2, 2));
        drop(again);
        assert_eq!(homes.with_living(|homes, living| (homes.len(), living.len())), (1, 1));
        drop(second);
        assert_eq!(homes.with_living(|homes, living| (homes.len(), living.len())), (0, 0));
    }
}
