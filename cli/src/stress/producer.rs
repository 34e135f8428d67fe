//! The other side of the futures: threads that complete, cancel, drop and panic, and those that do with a future what
//! belongs to its home.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::{future::Future, pin::Pin};

use fastrand::Rng;
use homing::home::{Completer, Deadline, HomeFuture};

use super::decision::{Deed, Delay, FutureKind, Route};
use super::ledger::{Entry, Token, Watch};
use super::race;
use super::world::World;
use crate::args::Fault;

/// Thrown while a completer is held.
pub(crate) struct OnPurpose;

/// Something for a producer.
pub(crate) enum Job {
    Do(Work),
    /// Polls a future off its home.
    PollAway(HomeFuture<Token>, Watch),
    /// Drops a future off its home.
    DropAway(HomeFuture<Token>, Watch),
    Fire(Deadline, Delay),
    /// Something of the communicator's part.
    Run(Box<dyn FnOnce() + Send>, Delay),
}

/// A completer, and what is to be done with it.
pub(crate) struct Work {
    pub completer: Completer<Token>,
    pub entry: Arc<Entry>,
    pub deed: Deed,
    pub delay: Delay,
}

impl Work {
    /// Has it done by whom the route says.
    pub(crate) fn send(self, route: Route, world: &Arc<World>, rng: &mut Rng) {
        match route {
            Route::Here => self.run(world),
            Route::Producer => world.jobs.put(Job::Do(self)),
            Route::Home => match world.any_home(rng) {
                Some(record) => {
                    if let Some(home) = record.home() {
                        let world = Arc::clone(world);
                        drop(home.spawn(async move { self.run(&world) }));
                    }
                }
                None => world.jobs.put(Job::Do(self)),
            },
        }
    }

    fn run(self, world: &World) {
        let Work { completer, entry, deed, delay } = self;
        if delay != Delay::None && entry.route() == Route::Producer {
            delay.pass();
        }
        let waits_for_ever = || entry.home.drains() && entry.kind().ends_by_its_completer_only();
        if world.is_due(Fault::Lost, waits_for_ever) {
            std::mem::forget(completer);
            return;
        }
        if world.is_due(Fault::Misplaced, || waits_for_ever() && !entry.home.is_here()) {
            drop(Token::new(&entry));
        }
        if world.is_due(Fault::Doubled, waits_for_ever) {
            entry.will_be_doubled();
        }
        race::touch();
        match deed {
            Deed::Complete => deliver(completer, &entry),
            Deed::CompleteIfWanted if completer.is_unwanted() => drop(completer),
            Deed::CompleteIfWanted => deliver(completer, &entry),
            Deed::Cancel => completer.cancel(),
            Deed::Drop => drop(completer),
            Deed::Panic => {
                // Without the hook that prints: it is one of many.
                let thrown = catch_unwind(AssertUnwindSafe(move || {
                    let _held = completer;
                    resume_unwind(Box::new(OnPurpose));
                }));
                drop(thrown);
            }
        }
    }
}

fn deliver(completer: Completer<Token>, entry: &Arc<Entry>) {
    if let Err(mut back) = completer.complete(Token::new(entry)) {
        back.0.is_handed_back();
    }
}

/// Works until there will be no more.
pub(crate) fn produce(world: &World) {
    while let Some(job) = world.jobs.next() {
        match job {
            Job::Do(work) => work.run(world),
            Job::PollAway(mut future, watch) => {
                match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(outcome) => watch.saw(outcome),
                    Poll::Pending => watch.wrong("it could be polled off its home"),
                }
            }
            Job::DropAway(future, watch) => {
                watch.gives_up();
                drop(future);
            }
            Job::Fire(deadline, delay) => {
                delay.pass();
                deadline.fire();
            }
            Job::Run(call, delay) => {
                delay.pass();
                call();
            }
        }
        world.jobs.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl FutureKind {
    /// True for those whose waiter goes on waiting until something is done with the completer.
    fn ends_by_its_completer_only(self) -> bool {
        matches!(
            self,
            FutureKind::Awaited
                | FutureKind::Repolled
                | FutureKind::PolledBehindItsEnd
                | FutureKind::Callback
                | FutureKind::Waited
        )
    }
}
