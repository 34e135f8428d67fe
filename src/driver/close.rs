//! The end of a communicator, in order: what is in hand may end, new work is refused, what was asked before is done,
//! everybody who still waits is told, the connection ends, and last the report stands.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::command::{CloseReport, CodecWork, Command};
use super::outbox::Peers;
use super::port::{ConnectionEvent, ConnectionState};
use super::tasks::Input;
use super::{Driver, End, JobDone, Next, Phase};
use crate::broker::Broker;
use crate::error::{Error, ErrorKind};
use crate::time::after;
use crate::wire::names::Identifier;

/// How long the codec thread is given beside the time for closing: it may be at work, which takes no time as a rule.
const CODEC_GRACE: Duration = Duration::from_millis(500);

impl<B: Broker> Driver<B> {
    pub(super) async fn end(mut self, end: End) {
        let mut lost = match end {
            End::Closed { drain } => {
                if drain.is_zero() {
                    None
                } else {
                    self.drain(drain).await
                }
            }
            End::Lost(error) => Some(error),
        };
        let limit = self.limits.close_timeout;
        let started = Instant::now();
        let part = |eighths: u32| after(started, (limit / 8).saturating_mul(eighths));
        self.phase = Phase::Closing;
        // The attempts to connect again end here.
        self.session.stop_connecting();
        if lost.is_none() {
            self.port.refuse_new_work(self.port.closed());
            // Guards: a key that stays for a month, since its sender ends as soon as it knows that its task was not taken.
            self.go_on(part(4), |driver| driver.outbox.in_flight() == 0 && driver.freeing == 0).await;
        }
        let calls_refused = if lost.is_none() { self.refuse_calls(part(5)).await } else { 0 };
        if let Some(error) = &lost {
            self.port.refuse_new_work(error.clone());
        }
        let gone = self.port.gone();
        let requests_ended = self.requests.len();
        for ended in self.requests.end_all() {
            self.end_request(ended, &gone);
        }
        self.perform();
        // Their subscribers may be at work for nobody. That they hear of it is worth no more than a part of the time.
        self.go_on(part(6), |driver| driver.outbox.in_flight() == 0).await;
        let (unconfirmed, tasks_returned) = (self.outbox.unconfirmed(), self.tasks.in_hand());
        self.step_tasks(Input::Close);
        self.perform();
        self.go_on(part(7), |driver| driver.tasks.is_quiet()).await;
        for done in std::mem::take(&mut self.pulls).into_values() {
            drop(done.complete(Err(gone.clone())));
        }
        self.outbox.give_up_all(&gone);
        self.perform();
        self.release_all_acks();
        let left = limit.saturating_sub(started.elapsed()).max(limit / 4);
        if let Some(connection) = self.connection()
            && let Err(error) = connection.broker.close(left).await
        {
            lost.get_or_insert(error);
        }
        let mut report = CloseReport {
            requests_ended,
            publishes_unconfirmed: unconfirmed,
            tasks_returned,
            calls_refused,
            error: lost,
        };
        self.let_go_of_connections(after(Instant::now(), left)).await;
        let until = after(started, limit).max(after(Instant::now(), CODEC_GRACE));
        self.end_codec(&mut report, until).await;
        self.last_words(report).await;
    }

    /// The report stands, and whoever asked for it gets it.
    async fn last_words(mut self, report: CloseReport) {
        crate::log::info!(?report, "closed");
        let port = std::sync::Arc::clone(&self.port);
        port.set_state(ConnectionState::Closed);
        port.emit(&ConnectionEvent::Closed);
        port.close_feed();
        port.set_report(report.clone());
        // Guards: a close that is asked for just now. From here on none comes in, and whoever asks finds the channel closed
        // here or the report there. What else is left holds completers, which end their futures as they are dropped.
        self.commands.close();
        let mut closers = std::mem::take(&mut self.closers);
        while let Some(command) = self.commands.recv().await {
            if let Command::Close { done, .. } = command {
                closers.extend(done);
            }
        }
        for closer in closers {
            drop(closer.complete(report.clone()));
        }
        #[cfg(test)]
        self.note_leftovers();
    }

    /// No new work comes in; what is in hand is finished, acknowledged and answered. Returns why the connection was lost for
    /// good meanwhile, if it was.
    async fn drain(&mut self, limit: Duration) -> Option<Error> {
        self.phase = Phase::Draining;
        crate::log::info!(?limit, "draining: no new work");
        self.step_tasks(Input::Drain);
        self.subscriptions.drain(Instant::now());
        self.perform();
        let is_done = |driver: &Self| {
            driver.tasks.in_hand() == 0
                && driver.callers.len() == 0
                && driver.outbox.in_flight() == 0
                && driver.freeing == 0
                && driver.subscriptions.is_drained()
                // Guards: callers that have lost the same broker and are back a little later than this communicator.
                && (driver.peers() == Peers::Settled || !driver.outbox.seeks_callers())
        };
        self.drain_until = Some(after(Instant::now(), limit));
        loop {
            let until = self.drain_until.filter(|until| *until > Instant::now());
            if is_done(self) || until.is_none() {
                return None;
            }
            let next = self.next(until).await;
            if let Some(End::Lost(error)) = self.handle(next) {
                return Some(error);
            }
        }
    }

    /// Nobody calls these subscribers any more, and who has called them and has no answer hears that there will be none.
    /// Returns how many those were.
    async fn refuse_calls(&mut self, until: Instant) -> usize {
        let Some(connection) = self.connection() else { return 0 };
        let bound = self.subscriptions.bound_calls();
        let exchange = self.port.names.message_exchange.clone();
        self.unbinding = true;
        self.jobs.push(async move {
            let unbind = |(identifier, queue): (Identifier, String)| {
                let (connection, exchange) = (&connection, &exchange);
                async move {
                    let unbound = connection.broker.unbind(&queue, exchange, &identifier.routing_key()).await;
                    if let Err(error) = unbound {
                        crate::log::debug!(%identifier, %error, "a subscriber could not be unbound");
                    }
                }
            };
            futures_util::stream::iter(bound).for_each_concurrent(64, unbind).await;
            JobDone::Unbound
        });
        self.go_on(until, |driver| !driver.unbinding).await;
        while let Some(event) = self.session.event_now() {
            let _ = self.on_event(event);
            self.perform();
        }
        let refusals = self.callers.refusals();
        let number = refusals.len();
        for call in refusals {
            self.codec.hand(CodecWork::Refuse(call));
        }
        self.go_on(until, |driver| driver.callers.len() == 0 && driver.outbox.in_flight() == 0).await;
        number
    }

    /// Goes on until that is so, there is no connection, or the time is up.
    async fn go_on(&mut self, until: Instant, is_done: impl Fn(&Self) -> bool) {
        // What was asked before the close is done.
        while Instant::now() < until
            && let Ok(command) = self.commands.try_recv()
        {
            let _ = self.on_command(command);
            self.perform();
        }
        while !is_done(self) && self.session.now().is_some() && Instant::now() < until {
            let next = self.next(Some(until)).await;
            // Guards: the last handle, which is dropped in the middle of a close. Its command channel ends, for ever ready.
            if matches!(next, Next::Command(None)) {
                return;
            }
            let _ = self.handle(next);
        }
    }

    /// Waits until lost connections have let go of their threads.
    async fn let_go_of_connections(&mut self, until: Instant) {
        while self.letting_go > 0 {
            let Ok(Some(done)) = tokio::time::timeout_at(until, self.jobs.next()).await else {
                crate::log::warn!("a lost connection has not let go of its threads");
                return;
            };
            if let JobDone::LetGo = done {
                self.letting_go -= 1;
            }
        }
    }

    /// Ends the codec thread. It may be in a user's decoder, which cannot be stopped; then the report says so.
    async fn end_codec(&mut self, report: &mut CloseReport, until: Instant) {
        self.codec.hand(CodecWork::End);
        loop {
            if let Some(thread) = self.codec.ended() {
                return self.port.add_thread(thread);
            }
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        report.error.get_or_insert_with(|| {
            Error::new(ErrorKind::TimedOut, "the codec thread is still in a decoder and was left behind")
        });
    }
}
