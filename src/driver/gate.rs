//! How many go through something that takes several questions to the broker, side by side.
//!
//! The broker is asked one question after the other. Where a thousand ask their first one at once, the second ones stand
//! behind all first ones: nobody is done before all are. So a few go through to their end, and then the next.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, ErrorKind, Result};
use crate::time::Progress;

/// Enough that the broker always has the next question.
pub(super) const SIDE_BY_SIDE: usize = 16;

/// How long those who wait behind others are patient with a broker that answers nothing, where one question may take this long.
/// A question of theirs that was asked has had its whole time by then.
pub(super) fn patience(limit: Duration) -> Duration {
    limit.saturating_mul(2)
}

pub(super) struct Gate {
    places: Semaphore,
    /// When the broker has last answered a question of this kind, whatever it said.
    answered: Rc<Progress>,
    /// How long one question may take.
    limit: Duration,
}

impl Gate {
    pub(super) fn new(places: usize, limit: Duration, answered: Rc<Progress>) -> Self {
        Gate { places: Semaphore::new(places), answered, limit }
    }

    /// Waits for a place; that is, as long as the broker answers those who are before.
    ///
    /// # Errors
    /// `TimedOut` when it answers nothing.
    // Guards: a broker that answers each question in good time, where nobody has come through yet: those who go through have
    // several questions each, and ask them side by side.
    pub(super) async fn enter(&self) -> Result<Pass<'_>> {
        let patience = patience(self.limit);
        match self.answered.wait(patience, self.places.acquire()).await {
            // It is closed by nobody.
            Some(place) => Ok(Pass { _place: place.ok() }),
            None => {
                let text = format!("the broker has answered nothing of what was asked before for {patience:?}");
                Err(Error::new(ErrorKind::TimedOut, text))
            }
        }
    }
}

/// Somebody who goes through; dropped, the place is free again.
#[must_use = "it ends what it is for when it is dropped"]
pub(super) struct Pass<'a> {
    _place: Option<SemaphorePermit<'a>>,
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
        let ends = all_go_through(STEP * 100, 2).await.expect("all come through");
        assert!(ends[0] <= STEP * 40, "the first after {:?}", ends[0]);
        assert!(ends.is_sorted() && ends[999] <= STEP * 2001, "the last after {:?}", ends[999]);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_broker_that_is_slow_everybody_has_a_turn() {
        // Each question takes almost as long as it may, and sixteen ask side by side.
        let ends = all_go_through(STEP * 11 / 10, 4).await.expect("the line moves");
        assert!(ends[0] > STEP * 40, "the first after {:?}", ends[0]);
    }

    /// When each of a thousand has come through, at a broker that answers one question at a time.
    async fn all_go_through(limit: Duration, questions: u32) -> Result<Vec<Duration>> {
        let answered = Rc::new(Progress::default());
        let (gate, broker) = (Gate::new(SIDE_BY_SIDE, limit, Rc::clone(&answered)), Mutex::new(()));
        let began = Instant::now();
        let ends = join_all((0..1000).map(|_| async {
            let _pass = gate.enter().await?;
            for _ in 0..questions {
                let _turn = broker.lock().await;
                sleep(STEP).await;
                answered.note();
            }
            Ok(began.elapsed())
        }));
        ends.await.into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_silent_broker_nobody_waits_for_all_the_others() {
        let gate = Gate::new(SIDE_BY_SIDE, STEP, Rc::default());
        let began = Instant::now();
        let silent = async || {
            let _pass = gate.enter().await?;
            sleep(STEP).await;
            Ok(())
        };
        let ends: Vec<Result<()>> = join_all((0..1000).map(|_| silent())).await;
        let refused = ends.iter().filter(|end| end.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut));
        assert!(refused.count() >= 1000 - SIDE_BY_SIDE * 3);
        assert!(began.elapsed() <= STEP * 3, "{:?}", began.elapsed());
        drop(gate.enter().await.expect("the places are free again"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_gives_the_place_back() {
        let gate = Gate::new(SIDE_BY_SIDE, STEP, Rc::default());
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
