//! What a worker of the stress program may decide, drawn from its own generator: the same seed draws the same sequence in
//! each worker, however the threads interleave.

use std::thread;
use std::time::Duration;

use fastrand::Rng;

/// A generator of one worker's own: by the seed of the run, what the worker is, and its number.
pub(crate) fn generator(seed: u64, role: &str, number: u64) -> Rng {
    // FNV-1a: spreads neighbours far apart, and is the same on every machine.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed.to_le_bytes().into_iter().chain(role.bytes()).chain(number.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Rng::with_seed(hash)
}

/// One of these by weight.
fn weighted<T: Copy>(rng: &mut Rng, table: &[(u32, T)]) -> T {
    let mut left = rng.u32(0..table.iter().map(|(weight, _)| weight).sum());
    for (weight, item) in table {
        if left < *weight {
            return *item;
        }
        left -= weight;
    }
    table[0].1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HomeKind {
    MultiThread,
    CurrentThread,
    EventLoop,
    ForeignLoop,
    PlainThread,
}

impl HomeKind {
    pub(crate) const ALL: [HomeKind; 5] = [
        HomeKind::MultiThread,
        HomeKind::CurrentThread,
        HomeKind::EventLoop,
        HomeKind::ForeignLoop,
        HomeKind::PlainThread,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            HomeKind::MultiThread => "tokio multi-thread",
            HomeKind::CurrentThread => "tokio current-thread",
            HomeKind::EventLoop => "event loop",
            HomeKind::ForeignLoop => "foreign loop",
            HomeKind::PlainThread => "plain thread",
        }
    }

    /// True for those that may wait within a callback.
    pub(crate) fn may_wait(self) -> bool {
        !matches!(self, HomeKind::MultiThread | HomeKind::CurrentThread)
    }
}

/// What is done with a future at its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FutureKind {
    /// A task awaits it.
    Awaited,
    /// It is polled with one waker, and awaited with another.
    Repolled,
    /// It is awaited, and polled once more behind its end.
    PolledBehindItsEnd,
    /// A callback gets its outcome.
    Callback,
    /// The thread waits for it.
    Waited,
    /// The thread waits, within a callback.
    WaitedInCallback,
    /// The thread waits for a short time.
    WaitedForATime,
    /// A thread that is not its home fires its deadline.
    DeadlineFromAway,
    /// A task awaits it for a short time, and drops it.
    AwaitedForATime,
    /// It is dropped before anything.
    DroppedAtOnce,
    /// It is polled and dropped.
    PolledAndDropped,
    /// It is sent to another thread and polled there.
    PolledAway,
    /// It is sent to another thread and dropped there.
    DroppedAway,
    /// A call over a communicator is awaited.
    Call,
    /// A call with a short timeout.
    CallForATime,
    /// A call that the home's thread waits for.
    CallWaited,
    /// A call that is given up before its answer.
    CallGivenUp,
}

impl FutureKind {
    pub(crate) const ALL: [FutureKind; 17] = [
        FutureKind::Awaited,
        FutureKind::Repolled,
        FutureKind::PolledBehindItsEnd,
        FutureKind::Callback,
        FutureKind::Waited,
        FutureKind::WaitedInCallback,
        FutureKind::WaitedForATime,
        FutureKind::DeadlineFromAway,
        FutureKind::AwaitedForATime,
        FutureKind::DroppedAtOnce,
        FutureKind::PolledAndDropped,
        FutureKind::PolledAway,
        FutureKind::DroppedAway,
        FutureKind::Call,
        FutureKind::CallForATime,
        FutureKind::CallWaited,
        FutureKind::CallGivenUp,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            FutureKind::Awaited => "awaited",
            FutureKind::Repolled => "re-polled with another waker",
            FutureKind::PolledBehindItsEnd => "polled behind its end",
            FutureKind::Callback => "callback",
            FutureKind::Waited => "waited for",
            FutureKind::WaitedInCallback => "waited for in a callback",
            FutureKind::WaitedForATime => "waited for with a timeout",
            FutureKind::DeadlineFromAway => "deadline from another thread",
            FutureKind::AwaitedForATime => "awaited for a time",
            FutureKind::DroppedAtOnce => "dropped at once",
            FutureKind::PolledAndDropped => "polled and dropped",
            FutureKind::PolledAway => "polled off its home",
            FutureKind::DroppedAway => "dropped off its home",
            FutureKind::Call => "call",
            FutureKind::CallForATime => "call with a short timeout",
            FutureKind::CallWaited => "call waited for",
            FutureKind::CallGivenUp => "call given up",
        }
    }

    /// True for those that may end as timed out.
    pub(crate) fn has_deadline(self) -> bool {
        matches!(self, FutureKind::WaitedForATime | FutureKind::DeadlineFromAway | FutureKind::CallForATime)
    }

    pub(crate) fn draw_on_a_thread(rng: &mut Rng) -> Self {
        weighted(
            rng,
            &[
                (30, FutureKind::Awaited),
                (10, FutureKind::Repolled),
                (5, FutureKind::PolledBehindItsEnd),
                (20, FutureKind::Callback),
                (5, FutureKind::Waited),
                (3, FutureKind::WaitedInCallback),
                (3, FutureKind::WaitedForATime),
                (4, FutureKind::DeadlineFromAway),
                (6, FutureKind::DroppedAtOnce),
                (6, FutureKind::PolledAndDropped),
                (4, FutureKind::PolledAway),
                (4, FutureKind::DroppedAway),
            ],
        )
    }

    pub(crate) fn draw_on_a_runtime(rng: &mut Rng) -> Self {
        weighted(
            rng,
            &[
                (45, FutureKind::Awaited),
                (15, FutureKind::Repolled),
                (6, FutureKind::PolledBehindItsEnd),
                (6, FutureKind::AwaitedForATime),
                (8, FutureKind::DroppedAtOnce),
                (8, FutureKind::PolledAndDropped),
                (6, FutureKind::PolledAway),
                (6, FutureKind::DroppedAway),
            ],
        )
    }

    pub(crate) fn draw_call(rng: &mut Rng) -> Self {
        weighted(
            rng,
            &[
                (60, FutureKind::Call),
                (12, FutureKind::CallForATime),
                (10, FutureKind::CallWaited),
                (18, FutureKind::CallGivenUp),
            ],
        )
    }
}

/// What is done with a completer; with a call, by its subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Complete,
    /// Completes if somebody waits.
    CompleteIfWanted,
    Cancel,
    Drop,
    /// Panics while it holds it.
    Panic,
}

impl Deed {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        weighted(
            rng,
            &[
                (70, Deed::Complete),
                (6, Deed::CompleteIfWanted),
                (10, Deed::Cancel),
                (10, Deed::Drop),
                (4, Deed::Panic),
            ],
        )
    }

    pub(crate) fn brings_a_value(self) -> bool {
        matches!(self, Deed::Complete | Deed::CompleteIfWanted)
    }
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A thread that is nobody's home.
    Producer,
    /// A task on another home, which may end before.
    Home,
    /// The home itself, at once.
    Here,
}

impl Route {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        weighted(rng, &[(88, Route::Producer), (8, Route::Home), (4, Route::Here)])
    }
}

/// How long a producer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    None,
    Yield,
    Sleep(Duration),
}

impl Delay {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.u32(0..1000) {
            0..900 => Delay::None,
            900..980 => Delay::Yield,
            980..998 => Delay::Sleep(Duration::from_micros(rng.u64(1..300))),
            _ => Delay::Sleep(Duration::from_micros(rng.u64(300..4000))),
        }
    }

    pub(crate) fn pass(self) {
        match self {
            Delay::None => {}
            Delay::Yield => thread::yield_now(),
            Delay::Sleep(time) => thread::sleep(time),
        }
    }
}
