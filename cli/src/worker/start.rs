//! The start of a worker, which a signal may meet at any point.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

use crate::failure::Failure;
use crate::stop::Stop;

/// How long a start that has a worker subscribed may still take when a signal has come.
const FINISHING: Duration = Duration::from_secs(10);

/// Whether work may have come already.
///
/// Guards: a signal that comes between the first piece of work and the end of the start. A start that were cut off there would
/// leave what is in hand to nobody, where a worker that is up drains.
#[derive(Debug)]
pub(crate) struct Start(watch::Sender<bool>);

/// A worker is being subscribed. Dropped when its start has ended, or is given up to be begun again.
#[derive(Debug)]
pub(crate) struct Subscribing<'a>(&'a Start);

impl Start {
    pub(crate) fn new() -> Self {
        Start(watch::Sender::new(false))
    }

    /// Work may come from now on, until the start is given up.
    pub(crate) fn subscribing(&self) -> Subscribing<'_> {
        self.0.send_replace(true);
        Subscribing(self)
    }

    /// Starts, unless a signal comes before work may have come. After that the start goes on to its end: the signal is still
    /// there for the worker, which drains.
    pub(crate) async fn unless_signalled<T>(
        &self,
        stop: &mut Stop,
        starting: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut starting = pin!(starting);
        let signal = tokio::select! {
            biased;
            started = &mut starting => return started,
            signal = stop.wait() => signal,
        };
        let mut may_have_come = self.0.subscribe();
        let given_up = async {
            // The sender lives as long as this.
            let _ = may_have_come.wait_for(|may_have_come| !may_have_come).await;
        };
        tokio::select! {
            biased;
            started = &mut starting => started,
            () = given_up => Err(Failure::Interrupted(signal, None)),
            () = tokio::time::sleep(FINISHING) => Err(Failure::Interrupted(signal, Some("before the worker was up"))),
        }
    }
}

impl Drop for Subscribing<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::failure::Interruption;

    fn interrupted<T>(result: &Result<T, Failure>) -> bool {
        matches!(result, Err(Failure::Interrupted(Interruption::Terminate, _)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_cuts_off_what_has_no_work() {
        let mut stop = Stop::given(Interruption::Terminate);
        let start = Start::new();
        assert!(interrupted(&start.unless_signalled(&mut stop, pending::<Result<(), _>>()).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_leaves_a_start_its_end_when_work_may_have_come() {
        let mut stop = Stop::given(Interruption::Terminate);
        let start = Start::new();
        let starting = async {
            let _now = start.subscribing();
            tokio::time::sleep(FINISHING / 2).await;
            Ok(7)
        };
        assert!(matches!(start.unless_signalled(&mut stop, starting).await, Ok(7)));
        // It is still there for the worker.
        assert_eq!(stop.wait().await, Interruption::Terminate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_is_begun_again_after_a_signal_is_cut_off() {
        let mut stop = Stop::given(Interruption::Terminate);
        let start = Start::new();
        let starting = async {
            let now = start.subscribing();
            tokio::time::sleep(FINISHING / 2).await;
            drop(now);
            pending::<Result<(), _>>().await
        };
        let begun = tokio::time::Instant::now();
        assert!(interrupted(&start.unless_signalled(&mut stop, starting).await));
        assert_eq!(begun.elapsed(), FINISHING / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_does_not_end_is_cut_off_in_time() {
        let mut stop = Stop::given(Interruption::Terminate);
        let start = Start::new();
        let starting = async {
            let _now = start.subscribing();
            pending::<Result<(), _>>().await
        };
        let begun = tokio::time::Instant::now();
        assert!(interrupted(&start.unless_signalled(&mut stop, starting).await));
        assert_eq!(begun.elapsed(), FINISHING);
    }
}
