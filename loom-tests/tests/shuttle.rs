//! Models that are too large for loom: eight threads, thousands of sends, homes that end at random. They run the code that
//! ships on shuttle's locks, flags and threads, each model under a random scheduler and under PCT (which finds a bug of
//! depth d with a probability that it states), and print the seed, the schedules and the sends.
//!
//! `tests/tools/shuttle-models` runs them. `HOMING_SHUTTLE_SEED` gives the seed, `HOMING_SHUTTLE_TIMES` how many times as
//! many schedules. Where a model fails, shuttle prints the schedule, which `shuttle::replay` takes.
//!
//! A home that sleeps and that nobody will ring is a deadlock, and shuttle reports it; an event off home fails by
//! `home::audit`; what was dropped where is in the `Ledger` of each model.
//!
//! That they can fail is shown by mutations of `loom-tests/mutations`, those with a line `# shuttle: MODEL`:
//! `tests/tools/shuttle-models --mutations` applies each to a copy of the tree and demands that this model fails.
#![cfg(homing_shuttle)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::task::Poll;

use homing_home::model::{self, RuntimeHome};
use homing_home::{Completer, HomeFuture};
use loom_tests::{
    At, Count, DrainThread, Dropped, Kind, Ledger, Local, Saw, Task, Token, block_on_elsewhere, complete,
    explore_at_random, lock, panic_with, saw,
};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

const PRODUCERS: usize = 8;
/// Of each producer.
const SENDS: usize = 256;

/// What threads of a model hand to each other.
struct Mailbox<T> {
    queue: Mutex<(VecDeque<T>, bool)>,
    filled: Condvar,
}

impl<T> Mailbox<T> {
    fn new() -> Arc<Self> {
        Arc::new(Mailbox { queue: Mutex::new((VecDeque::new(), false)), filled: Condvar::new() })
    }

    fn put(&self, item: T) {
        lock(&self.queue).0.push_back(item);
        self.filled.notify_one();
    }

    fn close(&self) {
        lock(&self.queue).1 = true;
        self.filled.notify_all();
    }

    /// Waits for the next one; `None` when it is closed and empty.
    fn take(&self) -> Option<T> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(item) = queue.0.pop_front() {
                return Some(item);
            }
            if queue.1 {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Does something with a completer; true when a value was handed back.
fn any_deed(completer: Completer<Token>, ledger: &Ledger) -> bool {
    match thread_rng().gen_range(0..16) {
        0..=9 => return complete(completer, ledger.token()),
        10..=11 => {
            if !completer.is_unwanted() {
                return complete(completer, ledger.token());
            }
        }
        12..=13 => completer.cancel(),
        14 => drop(completer),
        _ => panic_with(completer),
    }
    false
}

/// Guards the whole of it at once: eight producers complete, cancel, drop and panic, the home waits for some futures, polls
/// and drops others, keeps others, and ends at a random point. Whatever the schedule: a wait ends, a poll behind the end of
/// the home ends, every value is dropped once, at home or by the sender who had it back, and nothing is handed back by a
/// home that lives.
fn producers_meet_a_home_that_ends_at_random<K: Kind>() {
    explore_at_random(12, || {
        let mut home = K::new(PRODUCERS * SENDS);
        let ledger = Ledger::new(home.at());
        let mut futures = Vec::new();
        let mut producers = Vec::new();
        for _ in 0..PRODUCERS {
            let mut completers = Vec::new();
            for _ in 0..SENDS {
                let (completer, future) = home.future::<Token>().unwrap();
                completers.push(completer);
                futures.push(future);
            }
            let ledger = ledger.clone();
            producers.push(thread::spawn(move || {
                completers.into_iter().filter_map(|completer| any_deed(completer, &ledger).then_some(())).count()
            }));
        }
        let all = futures.len();
        let ends_at = thread_rng().gen_range(0..all + all / 4);
        let mut kept = Vec::new();
        for (n, mut future) in futures.into_iter().enumerate() {
            if n == ends_at {
                home.end();
            }
            if n >= ends_at {
                assert!(
                    Count::new().poll(&mut future).is_ready(),
                    "a poll behind the end of its home would wait for ever"
                );
                continue;
            }
            match thread_rng().gen_range(0..16) {
                0..=7 => assert!(saw(home.wait(future)) != Saw::HomeEnded),
                8..=9 => drop(future),
                10..=12 => match Count::new().poll(&mut future) {
                    Poll::Ready(outcome) => assert!(saw(outcome) != Saw::HomeEnded),
                    Poll::Pending => drop(future),
                },
                _ => kept.push(future),
            }
        }
        if ends_at < all {
            // After its end, and before it.
            drop(kept);
        } else {
            for future in kept {
                assert!(saw(home.wait(future)) != Saw::HomeEnded);
            }
        }
        let handed_back: usize = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        home.end();
        assert!(ends_at < all || handed_back == 0, "a home that lives handed something back");
        let dropped = ledger.settle();
        let by_sender = dropped.iter().filter(|dropped| **dropped == Dropped::BySender).count();
        assert_eq!(by_sender, handed_back);
        assert!(dropped.iter().all(|dropped| *dropped != Dropped::Away), "a value was dropped off its home");
        all
    });
}

#[test]
fn producers_meet_a_task_that_ends_at_random() {
    producers_meet_a_home_that_ends_at_random::<Task>();
}

#[test]
fn producers_meet_a_thread_that_ends_at_random() {
    producers_meet_a_home_that_ends_at_random::<Local>();
}

/// Guards homes that post to each other while each of them sleeps: eight threads, each a home with futures that the seven
/// others complete. Some end when they have seen a part of theirs. A ring that is lost is a deadlock.
#[test]
fn eight_homes_complete_each_other() {
    const OF_EACH: usize = 36;
    type Parcel = (Completer<Token>, Ledger);

    explore_at_random(12, || {
        let mailboxes: Vec<Arc<Mailbox<Parcel>>> = (0..PRODUCERS).map(|_| Mailbox::new()).collect();
        let threads: Vec<_> = (0..PRODUCERS)
            .map(|me| {
                let mailboxes = mailboxes.clone();
                thread::spawn(move || {
                    let mut home = Local::new(PRODUCERS * OF_EACH);
                    let ledger = Ledger::new(home.at());
                    let mut futures = Vec::new();
                    for _ in 0..OF_EACH {
                        for other in (0..PRODUCERS).filter(|other| *other != me) {
                            let (completer, future) = home.future::<Token>().unwrap();
                            mailboxes[other].put((completer, ledger.clone()));
                            futures.push(future);
                        }
                    }
                    // As many come in as went out.
                    for _ in 0..futures.len() {
                        let (completer, theirs) = mailboxes[me].take().unwrap();
                        complete(completer, theirs.token());
                    }
                    let ends_at = thread_rng().gen_range(0..futures.len() * 2);
                    for future in futures.drain(..ends_at.min(futures.len())) {
                        assert_eq!(saw(home.wait(future)), Saw::Value);
                    }
                    home.end();
                    drop(futures);
                    ledger
                })
            })
            .collect();
        let ledgers: Vec<Ledger> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for ledger in ledgers {
            assert!(
                ledger.settle().iter().all(|dropped| *dropped != Dropped::Away),
                "a value was dropped off its home"
            );
        }
        PRODUCERS * (PRODUCERS - 1) * OF_EACH
    });
}

/// Guards the places of an inbox with few of them, and futures that move between the threads of their runtime: one thread
/// drains, two make futures and wait for room, two wait for what those made, three complete. Each place comes back; each
/// wait ends.
#[test]
fn a_runtime_of_eight_threads_has_few_places() {
    const MAKERS: usize = 2;
    const OF_EACH: usize = 500;
    type Parcel = (Completer<Token>, Ledger);

    explore_at_random(12, || {
        let (home, drain) = model::runtime(4);
        let ledger = Ledger::new(At::Runtime(home.clone()));
        let drain = DrainThread::start(&home, drain);
        let completers: Arc<Mailbox<Parcel>> = Mailbox::new();
        let futures: Arc<Mailbox<HomeFuture<Token>>> = Mailbox::new();
        let entered = |home: &RuntimeHome, run: Box<dyn FnOnce(&RuntimeHome) + Send>| {
            let home = home.clone();
            thread::spawn(move || {
                home.enter();
                run(&home);
            })
        };
        let mut makers = Vec::new();
        for _ in 0..MAKERS {
            let (completers, futures, ledger) = (Arc::clone(&completers), Arc::clone(&futures), ledger.clone());
            makers.push(entered(
                &home,
                Box::new(move |home| {
                    for _ in 0..OF_EACH {
                        let made = block_on_elsewhere(home.reserve::<Token>().0);
                        let (completer, mut future) = made.unwrap();
                        completers.put((completer, ledger.clone()));
                        match thread_rng().gen_range(0..4) {
                            0 => drop(future),
                            1 => match Count::new().poll(&mut future) {
                                Poll::Ready(outcome) => drop(outcome),
                                // To be polled with another waker, on another thread.
                                Poll::Pending => futures.put(future),
                            },
                            _ => futures.put(future),
                        }
                    }
                }),
            ));
        }
        let mut others = Vec::new();
        for _ in 0..2 {
            let futures = Arc::clone(&futures);
            others.push(entered(
                &home,
                Box::new(move |_| {
                    while let Some(future) = futures.take() {
                        let outcome = saw(block_on_elsewhere(future));
                        assert!(matches!(outcome, Saw::Value | Saw::Cancelled | Saw::Abandoned), "{outcome:?}");
                    }
                }),
            ));
        }
        for _ in 0..3 {
            let completers = Arc::clone(&completers);
            // No thread of the runtime.
            others.push(thread::spawn(move || {
                while let Some((completer, ledger)) = completers.take() {
                    assert!(!any_deed(completer, &ledger), "the home lives");
                }
            }));
        }
        for maker in makers {
            maker.join().unwrap();
        }
        completers.close();
        futures.close();
        for other in others {
            other.join().unwrap();
        }
        drain.stop();
        ledger.settle_at_home();
        MAKERS * OF_EACH
    });
}

/// Guards the ring of a foreign loop that sleeps until it is rung, and takes a few envelopes a turn: eight producers, and
/// callbacks that count. A ring that is lost is a deadlock; a hook that rings more often than something came or was left
/// would be heard here.
#[test]
fn a_foreign_loop_is_rung_for_all_that_comes() {
    explore_at_random(12, || {
        let bell: Arc<Mailbox<()>> = Mailbox::new();
        let rings = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (ring, counted) = (Arc::clone(&bell), Arc::clone(&rings));
        let hook = move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            ring.put(());
        };
        let home = model::foreign_loop(hook, PRODUCERS * SENDS);
        let ledger = Ledger::new(At::Thread(thread::current().id()));
        let done = Rc::new(Cell::new(0));
        let mut producers = Vec::new();
        for _ in 0..PRODUCERS {
            let mut completers = Vec::new();
            for _ in 0..SENDS {
                let (completer, future) = home.future::<Token>().unwrap();
                let done = Rc::clone(&done);
                future.on_done(move |outcome| {
                    assert!(saw(outcome) != Saw::HomeEnded);
                    done.set(done.get() + 1);
                });
                completers.push(completer);
            }
            let ledger = ledger.clone();
            producers.push(thread::spawn(move || {
                for completer in completers {
                    assert!(!any_deed(completer, &ledger), "the home lives");
                }
            }));
        }
        let limit = thread_rng().gen_range(1..32);
        let (mut envelopes, mut turns) = (0, 0);
        while done.get() < PRODUCERS * SENDS {
            let _rung = bell.take();
            envelopes += model::turn_and_ring_again(&home, limit);
            turns += 1;
        }
        for producer in producers {
            producer.join().unwrap();
        }
        assert!(rings.load(std::sync::atomic::Ordering::Relaxed) <= envelopes + turns, "it was rung for nothing");
        model::end(&home);
        ledger.settle_at_home();
        PRODUCERS * SENDS
    });
}
