//! The homes that a communicator runs something at, to be read off.

use parking_lot::Mutex;

use crate::home::Home;

/// Each that lives, once. Those that have ended are taken out when it is used.
#[derive(Default)]
pub(super) struct Homes(Mutex<Vec<Home>>);

impl Homes {
    pub(super) fn add(&self, home: &Home) {
        self.with_living(|homes| {
            if !homes.iter().any(|known| known.is_same(home)) {
                homes.push(home.clone());
            }
        });
    }

    #[cfg(not(test))]
    pub(super) fn occupancies(&self) -> Vec<crate::home::Occupancy> {
        self.with_living(|homes| homes.iter().map(Home::occupancy).collect())
    }

    fn with_living<R>(&self, work: impl FnOnce(&mut Vec<Home>) -> R) -> R {
        let (result, ended) = {
            let mut homes = self.0.lock();
            let ended: Vec<Home> = homes.extract_if(.., |known| known.has_ended()).collect();
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
