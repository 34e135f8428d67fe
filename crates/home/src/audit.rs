//! Counts what happens to futures, and whether it happened at home.
//!
//! The invariant holds by construction; this is how a run shows it in numbers. The counters are compiled in with the
//! feature `audit` (tests, the stress program, the demo) and cost nothing without it.

use super::identity::Identity;

/// What may happen to a future at its home only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its outcome is written.
    Write,
    /// Its waiter is woken.
    Wake,
    /// Something that was to be called at home is called: a task polled, a timer fired, a call run.
    Callback,
    /// Its value is dropped without being taken.
    Drop,
}

/// How many events were looked at, and how many of them were off home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// Writes, wakes, callbacks and drops that were looked at.
    pub checked: u64,
    /// Outcomes written off their home.
    pub writes_off_home: u64,
    /// Waiters woken off their home.
    pub wakes_off_home: u64,
    /// Calls of a home that were run off it.
    pub callbacks_off_home: u64,
    /// Values dropped off their home while it lived.
    pub drops_off_home: u64,
}

#[cfg(all(feature = "audit", not(homing_loom)))]
mod counting {
    use super::{Audit, Event, Identity};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    static CHECKED: AtomicU64 = AtomicU64::new(0);
    static OFF_HOME: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    static UNWANTED: AtomicBool = AtomicBool::new(false);

    /// Counts nothing from here on. For benchmarks, which are built with the tests' features and are to be as fast as a
    /// program without them.
    #[doc(hidden)]
    pub fn do_without_audit() {
        UNWANTED.store(true, Relaxed);
    }

    pub(crate) fn event(identity: Identity, event: Event) {
        if UNWANTED.load(Relaxed) {
            return;
        }
        CHECKED.fetch_add(1, Relaxed);
        if !identity.is_here() {
            OFF_HOME[event as usize].fetch_add(1, Relaxed);
        }
    }

    /// What was counted in this process so far.
    #[must_use]
    pub fn audit() -> Audit {
        Audit {
            checked: CHECKED.load(Relaxed),
            writes_off_home: OFF_HOME[Event::Write as usize].load(Relaxed),
            wakes_off_home: OFF_HOME[Event::Wake as usize].load(Relaxed),
            callbacks_off_home: OFF_HOME[Event::Callback as usize].load(Relaxed),
            drops_off_home: OFF_HOME[Event::Drop as usize].load(Relaxed),
        }
    }
}

/// What a seeded fault does away from home, so that a run can show that its checks can fail.
#[cfg(all(feature = "audit", not(homing_loom)))]
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffHome {
    Write,
    Wake,
    Callback,
    Drop,
}

/// Does to a future of this home, on the calling thread, what only the home may do.
#[cfg(all(feature = "audit", not(homing_loom)))]
#[doc(hidden)]
pub fn seed_off_home(kind: OffHome, home: &super::Home) {
    use super::cell::Cell;
    use super::envelope::Landing;
    use std::task::{Context, Waker};

    let Ok(permit) = home.inbox().try_reserve() else { return };
    let cell = Cell::<()>::new(permit);
    match kind {
        OffHome::Write => {
            cell.put(Ok(()));
            cell.land();
        }
        OffHome::Wake => {
            let _pending = cell.poll(&mut Context::from_waker(Waker::noop()));
            cell.put(Ok(()));
            cell.land();
        }
        OffHome::Callback => home.inbox().call(|| ()),
        OffHome::Drop => cell.discard(),
    }
}

#[cfg(all(feature = "audit", not(homing_loom)))]
pub(crate) use counting::event;
#[cfg(all(feature = "audit", not(homing_loom)))]
pub use counting::{audit, do_without_audit};

// Under loom an event off its home fails the model then and there.
#[cfg(homing_loom)]
pub(crate) fn event(identity: Identity, event: Event) {
    assert!(identity.is_here(), "{event:?} of a future off its home");
}

#[cfg(not(any(feature = "audit", homing_loom)))]
#[inline(always)]
pub(crate) fn event(_identity: Identity, _event: Event) {}
