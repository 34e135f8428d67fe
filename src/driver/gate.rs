//! How many go through something that takes several questions to the broker, side by side.
//!
//! The broker is asked one question after the other. Where a thousand ask their first one at once, the second ones stand
//! behind all first ones: nobody is done before all are. So a few go through to their end, and then the next.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, ErrorKind, Result};
use crate::time::Progress;

/// Enough that the broker always has the next question.
const SIDE_BY_SIDE: usize = 16;

/// How many questions one who goes through may have.
const QUESTIONS: u32 = 4;

pub(super) struct Gate {
    places: Semaphore,
    /// When somebody has last come through, with whatever outcome the broker gave.
    passed: Progress,
    /// How long one question may take.
    limit: Duration,
}

impl Gate {
    pub(super) fn new(limit: Duration) -> Self {
        Gate { places: Semaphore::new(SIDE_BY_SIDE), passed: Progress::default(), limit }
    }

    /// Waits for a place; that is, as long as others come through, each in the time that their questions may take.
    ///
    /// # Errors
    /// `TimedOut` when nobody comes through.
    pub(super) async fn enter(&self) -> Result<Pass<'_>> {
        let limit = self.limit.saturating_mul(QUESTIONS);
        match self.passed.wait(limit, self.places.acquire()).await {
            // It is closed by nobody.
            Some(place) => Ok(Pass { gate: self, _place: place.ok() }),
            None => {
                let text = format!("the broker has answered nothing of what was asked before for {limit:?}");
                Err(Error::new(ErrorKind::TimedOut, text))
            }
        }
    }
}

/// Somebody who goes through; dropped, the place is free again.
#[must_use = "it ends what it is for when it is dropped"]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    _place: Option<SemaphorePermit<'a>>,
}

impl Pass<'_> {
    /// It has come through, with this error if there is one.
    pub(super) fn end(self, error: Option<&Error>) {
        if error.is_none_or(|error| error.kind() != ErrorKind::TimedOut) {
            self.gate.passed.note();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::sync::Mutex;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_thousand_are_done_long_before_the_last_begin() {
        let (gate, broker) = (Gate::new(STEP * 100), Mutex::new(()));
        let question = async || {
            let _turn = broker.lock().await;
            sleep(STEP).await;
        };
        let began = Instant::now();
        let ends = join_all((0..1000).map(|_| async {
            let pass = gate.enter().await?;
            question().await;
            question().await;
            pass.end(None);
            Ok(began.elapsed())
        }));
        let ends: Vec<Duration> = ends.await.into_iter().collect::<Result<_>>().expect("all come through");
        assert!(ends[0] <= STEP * 40, "the first after {:?}", ends[0]);
        assert!(ends.is_sorted() && ends[999] <= STEP * 2001, "the last after {:?}", ends[999]);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_silent_broker_nobody_waits_for_all_the_others() {
        let gate = Gate::new(STEP);
        let began = Instant::now();
        let silent = async || {
            let pass = gate.enter().await?;
            sleep(STEP).await;
            pass.end(Some(&Error::new(ErrorKind::TimedOut, "no answer")));
            Ok(())
        };
        let ends: Vec<Result<()>> = join_all((0..1000).map(|_| silent())).await;
        let refused = ends.iter().filter(|end| end.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut));
        assert!(refused.count() >= 1000 - SIDE_BY_SIDE * (QUESTIONS as usize + 1));
        assert!(began.elapsed() <= STEP * (QUESTIONS + 2), "{:?}", began.elapsed());
        gate.enter().await.expect("the places are free again").end(None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_gives_the_place_back() {
        let gate = Gate::new(STEP);
        for _ in 0..2 * SIDE_BY_SIDE {
            let never = async {
                let _pass = gate.enter().await;
                std::future::pending::<()>().await;
            };
            assert!(timeout(Duration::ZERO, never).await.is_err());
        }
        assert!(gate.enter().await.is_ok());
    }
}
