//! One question to the server at a time, each with the whole of its limit.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::time::Progress;

/// Whose turn it is, and what whoever has the turn works with.
pub(super) struct Turn<T> {
    place: Mutex<T>,
    /// When a question was last answered.
    answered: Progress,
}

impl<T> Turn<T> {
    pub(super) fn new(place: T) -> Self {
        Turn { place: Mutex::new(place), answered: Progress::default() }
    }

    /// Asks when the turn comes, and has the limit for the answer from then on. A question waits for its turn as long as those
    /// before it are answered, each within the limit; where none is answered for that long, it is given up unasked.
    ///
    /// None means that there was no answer. Where it was asked, `not_answered` has run, before the next one's turn.
    // Guards: a question that waits behind slow ones. It would be given up, and with it what it never used: the channel, with
    // everybody's consumers on it.
    pub(super) async fn ask<R>(
        &self,
        limit: Duration,
        question: impl AsyncFnOnce(&mut T) -> R,
        not_answered: impl FnOnce(&mut T),
    ) -> Option<R> {
        let mut place = self.answered.wait(limit, self.place.lock()).await?;
        let answer = timeout(limit, question(&mut place)).await;
        match answer {
            Ok(_) => self.answered.note(),
            // Guards: the next one, which gets the turn with the lock. What is to be put right is put right under it.
            Err(_) => not_answered(&mut place),
        }
        answer.ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// What a question finds, which takes so long to be answered. It leaves a trace where it is not.
    async fn asked(turn: &Turn<u32>, takes: Duration) -> Option<u32> {
        let question = async |trace: &mut u32| {
            let found = *trace;
            tokio::time::sleep(takes).await;
            found
        };
        turn.ask(LIMIT, question, |trace| *trace += 1).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_behind_slow_ones_has_its_turn_and_its_whole_limit() {
        let turn = Turn::new(0);
        let began = Instant::now();
        let slow = (0..7).map(|_| asked(&turn, LIMIT * 2 / 3));
        assert_eq!(futures_util::future::join_all(slow).await, [Some(0); 7]);
        assert!(began.elapsed() > LIMIT * 4, "they are asked one after the other");
    }

    #[tokio::test(start_paused = true)]
    async fn questions_behind_a_silent_server_are_given_up_in_time_and_not_taken_for_asked() {
        let turn = Turn::new(0);
        let began = Instant::now();
        let behind = futures_util::future::join_all((0..1000).map(|_| asked(&turn, LIMIT / 2)));
        let (silent, behind) = tokio::join!(asked(&turn, Duration::MAX), behind);
        assert_eq!(silent, None);
        // The limits of all end at the same moment; the first may have its turn in it.
        assert!(behind.iter().filter(|answer| answer.is_none()).count() >= 998, "{behind:?}");
        assert!(began.elapsed() <= LIMIT * 2, "{:?}", began.elapsed());
        assert_eq!(asked(&turn, Duration::ZERO).await, Some(1), "one was asked in vain, and the turn is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_question_without_an_answer_leaves_is_put_right_before_the_next_has_its_turn() {
        let turn = Turn::new(0);
        let later = async {
            tokio::time::sleep(LIMIT / 2).await;
            asked(&turn, Duration::ZERO).await
        };
        let (silent, behind) = tokio::join!(asked(&turn, Duration::MAX), later);
        assert_eq!((silent, behind), (None, Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_dropped_leaves_its_turn() {
        let turn = Turn::new(0);
        for waits in [Duration::ZERO, LIMIT / 2] {
            assert!(timeout(waits, asked(&turn, LIMIT * 2 / 3)).await.is_err());
        }
        assert_eq!(asked(&turn, LIMIT / 2).await, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_limit_is_a_limit() {
        assert_eq!(Turn::new(7).ask(Duration::MAX, async |seven| *seven, |_| {}).await, Some(7));
    }
}
