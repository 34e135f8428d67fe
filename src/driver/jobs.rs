//! What the driver waits for beside everything else: questions to the broker, and what is done with their answers.

use std::future::Future;
use std::task::{Context, Poll};

use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::unconstrained;

pub(super) struct Jobs<T>(FuturesUnordered<LocalBoxFuture<'static, T>>);

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        Jobs(FuturesUnordered::new())
    }
}

impl<T> Jobs<T> {
    // Guards: a hundred thousand jobs that wait for their turn. What tokio lets a task do in one go is for all of them together; whoever
    // looks for its turn beyond that is woken at once to look again, so that each step would look at all of them.
    pub(super) fn push(&mut self, job: impl Future<Output = T> + 'static) {
        self.0.push(unconstrained(job).boxed_local());
    }

    /// The next one that is done. Pending where there is none.
    pub(super) fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<T> {
        match self.0.poll_next_unpin(context) {
            Poll::Ready(Some(done)) => Poll::Ready(done),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// The next one that is done, if there is any.
    pub(super) async fn next(&mut self) -> Option<T> {
        self.0.next().await
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::rc::Rc;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    #[tokio::test]
    async fn a_job_is_looked_at_when_it_is_its_turn_and_not_for_every_other_one() {
        const JOBS: usize = 5000;
        let polls = Rc::new(Cell::new(0));
        let mut jobs = Jobs::default();
        let mut answers = Vec::new();
        for number in 0..JOBS {
            let (answer, mut question) = oneshot::channel::<()>();
            answers.push(answer);
            let polls = Rc::clone(&polls);
            jobs.push(async move {
                poll_fn(|context| {
                    polls.set(polls.get() + 1);
                    question.poll_unpin(context)
                })
                .await
                .expect("an answer");
                number
            });
        }
        // What came before them in the same go has used up what tokio lets a task do.
        let open = Semaphore::new(JOBS);
        let looked = poll_fn(|context| {
            while let Poll::Ready(place) = pin!(open.acquire()).poll(context) {
                place.expect("it stays open").forget();
            }
            assert!(open.available_permits() > 0, "it is used up");
            Poll::Ready(jobs.poll_done(context))
        });
        assert!(looked.await.is_pending());
        tokio::task::yield_now().await;
        assert!(poll_fn(|context| Poll::Ready(jobs.poll_done(context))).await.is_pending());
        assert_eq!(polls.get(), JOBS, "each is looked at once");
        for (number, answer) in answers.drain(..JOBS / 10).enumerate() {
            answer.send(()).expect("it waits");
            assert_eq!(jobs.next().await, Some(number));
        }
        assert_eq!(polls.get(), JOBS + JOBS / 10, "and once more when it is done");
        assert_eq!(jobs.len(), JOBS - JOBS / 10);
    }
}
