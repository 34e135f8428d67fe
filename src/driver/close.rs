//! The end of a communicator, in order: new work is refused, what was asked before is done, everybody who still waits is
//! told, the connection ends, and last the report stands.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Driver, End, Inlets, next_of};
use crate::broker::Broker;
use crate::communicator::broadcast::CodecWork;
use crate::communicator::command::{CloseReport, Command};
use crate::communicator::events::{ConnectionState, Event};
use crate::error::{Error, ErrorKind};
use crate::home::Completer;

impl<B: Broker> Driver<B> {
    pub(super) async fn end(
        self: Rc<Self>,
        end: End,
        mut inlets: Inlets<B>,
        limit: Duration,
        codec_loop: thread::JoinHandle<()>,
    ) {
        let started = Instant::now();
        let mut closers = Vec::new();
        // The attempts to connect again end here.
        inlets.next = None;
        let lost = match end {
            End::Closed(done) => {
                closers.extend(done);
                self.shared.refuse_new_work();
                self.finish_publishes(&mut inlets, &mut closers, started + limit / 2).await;
                self.refuse_calls(&mut inlets, &mut closers, started + limit * 5 / 8).await;
                None
            }
            End::Lost(error) => Some(error),
        };
        if let Some(error) = &lost {
            let _ = self.shared.lost.set(error.clone());
            self.shared.refuse_new_work();
        }
        self.supply.end(self.shared.gone());
        let (requests_ended, calls) = self.requests.borrow_mut().fail_all(&self.shared.gone());
        if !calls.is_empty() && self.supply.now().is_some() {
            // Their subscribers may be at work for nobody. That they hear of it is worth no more than a part of the time.
            self.say_callers_gone(calls);
            self.finish_publishes(&mut inlets, &mut closers, started + limit * 3 / 4).await;
        }
        let (unconfirmed, in_hand) = (self.publishing.get(), self.tasks.borrow().in_hand());
        self.spawn_publish((), |driver| async move { driver.return_leases().await });
        self.go_on(&mut inlets, &mut closers, started + limit * 7 / 8, |driver| driver.publishing.get() <= unconfirmed)
            .await;
        let mut report =
            CloseReport { requests_ended, publishes_unconfirmed: unconfirmed, tasks_returned: in_hand, error: lost };
        let left = limit.saturating_sub(started.elapsed()).max(limit / 4);
        if let Some(link) = self.supply.now()
            && let Err(error) = link.broker.close(left).await
        {
            report.error.get_or_insert(error);
        }
        self.farewell(left).await;
        self.end_codec(codec_loop, &mut report, started + limit).await;
        tracing::info!(?report, took = ?started.elapsed(), "closed");
        self.shared.state(ConnectionState::Closed);
        self.say(Event::Closed);
        let _ = self.shared.report.set(report.clone());
        // Guards: a close that is asked for just now. From here on none comes in, and whoever asks finds the channel closed
        // here or the report there. What else is left holds completers, which end their futures as they are dropped.
        inlets.commands.close();
        while let Some(command) = inlets.commands.recv().await {
            if let Command::Close { done } = command {
                closers.extend(done);
            }
        }
        for closer in closers {
            drop(closer.complete(report.clone()));
        }
    }

    /// Goes on until nothing is being published, the connection is lost, or the time is up.
    async fn finish_publishes(
        self: &Rc<Self>,
        inlets: &mut Inlets<B>,
        closers: &mut Vec<Completer<CloseReport>>,
        until: Instant,
    ) {
        self.go_on(inlets, closers, until, |driver| driver.publishing.get() == 0).await;
    }

    /// Nobody calls these subscribers any more, and who has called them and has no answer hears that there will be none.
    async fn refuse_calls(
        self: &Rc<Self>,
        inlets: &mut Inlets<B>,
        closers: &mut Vec<Completer<CloseReport>>,
        until: Instant,
    ) {
        let Some(link) = self.supply.now() else { return };
        self.spawn_publish((), move |driver| async move { driver.unbind_calls(&link).await });
        self.finish_publishes(inlets, closers, until).await;
        while let Some(Ok(event)) = inlets.said.as_mut().map(mpsc::UnboundedReceiver::try_recv) {
            if let ControlFlow::Break(error) = self.on_event(event) {
                self.down(&error);
                inlets.said = None;
            }
        }
        for call in self.callers.borrow().in_hand() {
            let _ = self.codec.send(CodecWork::Refuse(call));
        }
        let answered =
            |driver: &Self| driver.callers.borrow().in_hand().next().is_none() && driver.publishing.get() == 0;
        self.go_on(inlets, closers, until, answered).await;
    }

    async fn go_on(
        self: &Rc<Self>,
        inlets: &mut Inlets<B>,
        closers: &mut Vec<Completer<CloseReport>>,
        until: Instant,
        is_done: impl Fn(&Self) -> bool,
    ) {
        loop {
            while let Ok(command) = inlets.commands.try_recv() {
                if let ControlFlow::Break(done) = self.on_command(command) {
                    closers.extend(done);
                }
            }
            if is_done(self) || inlets.said.is_none() {
                return;
            }
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            tokio::select! {
                () = idle => {}
                Some(event) = next_of(&mut inlets.said) => {
                    if let ControlFlow::Break(error) = self.on_event(event) {
                        self.down(&error);
                        inlets.said = None;
                    }
                }
                Some(command) = inlets.commands.recv() => {
                    if let ControlFlow::Break(done) = self.on_command(command) {
                        closers.extend(done);
                    }
                }
                () = tokio::time::sleep_until(until.into()) => return,
            }
        }
    }

    /// Ends the codec thread. It may be in a user's decoder, which cannot be stopped; then the report says so.
    async fn end_codec(&self, thread: thread::JoinHandle<()>, report: &mut CloseReport, until: Instant) {
        let _ = self.codec.send(CodecWork::End);
        while !thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        if thread.is_finished() {
            if thread.join().is_err() {
                tracing::error!("the codec thread panicked");
            }
        } else {
            report.error.get_or_insert_with(|| {
                Error::new(ErrorKind::TimedOut, "the codec thread is still in a decoder and was left behind")
            });
        }
    }
}
