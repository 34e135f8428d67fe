//! What is declared once for everybody who needs it, however many ask at once.

use std::cell::Cell;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

#[derive(Default)]
pub(super) struct Once {
    done: Cell<bool>,
    /// Whoever has this declares it; what the last attempt had no answer to, and when that was begun.
    turn: Mutex<Option<(Instant, Error)>>,
}

impl Once {
    /// It was declared by another way.
    pub(super) fn set_done(&self) {
        self.done.set(true);
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Declares it, if that was not done before.
    ///
    /// # Errors
    /// Those of the attempt. Where the broker does not answer it, those who have waited for all of its time get its error.
    // Guards: a broker that is silent, which each of a thousand would ask anew, for the whole time that a question may take.
    pub(super) async fn get_or_try(&self, declare: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        if self.done.get() {
            return Ok(());
        }
        let came = Instant::now();
        let mut unanswered = self.turn.lock().await;
        if self.done.get() {
            return Ok(());
        }
        if let Some((begun, error)) = &*unanswered
            && *begun >= came
        {
            return Err(error.clone());
        }
        let begun = Instant::now();
        let outcome = declare().await;
        *unanswered = match &outcome {
            Err(error) if error.kind() == ErrorKind::TimedOut => Some((begun, error.clone())),
            _ => None,
        };
        self.done.set(outcome.is_ok());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// An attempt that the broker does not answer.
    async fn unanswered() -> Result<()> {
        sleep(LIMIT).await;
        Err(Error::new(ErrorKind::TimedOut, "no answer"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_wait_for_what_a_silent_broker_does_not_declare_end_together() {
        let (once, began) = (Once::default(), Instant::now());
        let first = once.get_or_try(unanswered);
        let behind = join_all((0..1000).map(|number| {
            let once = &once;
            async move {
                // They come one after the other, while the first one waits.
                sleep(LIMIT * number / 2000).await;
                once.get_or_try(unanswered).await
            }
        }));
        let (first, behind) = tokio::join!(first, behind);
        assert!(behind.iter().chain([&first]).all(|end| end.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut)));
        assert!(began.elapsed() <= LIMIT * 2, "{:?}", began.elapsed());
        assert!(once.get_or_try(async || Ok(())).await.is_ok(), "who comes later asks anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_for_the_one_who_asked_and_what_is_done_is_done_for_all() {
        let (once, asked) = (Once::default(), Cell::new(0));
        let declare = async || {
            asked.set(asked.get() + 1);
            sleep(LIMIT / 2).await;
            if asked.get() > 2 { Ok(()) } else { Err(Error::new(ErrorKind::PreconditionFailed, "it differs")) }
        };
        let ends = join_all((0..100).map(|_| once.get_or_try(declare))).await;
        assert_eq!((ends.iter().filter(|end| end.is_err()).count(), asked.get()), (2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_given_up_leaves_its_turn() {
        let once = Once::default();
        assert!(timeout(LIMIT / 2, once.get_or_try(unanswered)).await.is_err());
        assert!(once.get_or_try(async || Ok(())).await.is_ok());
    }
}
