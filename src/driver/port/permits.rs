//! How many messages, and of how many bytes, may be on their way to the broker at once.
//!
//! A message that finds no room waits here, in turn, and goes to the communicator thread when its turn comes, on whatever
//! thread that is. Its sender need not be polled for that: one that stands in an outer wait, and cannot go on before an
//! inner one has ended, would otherwise hold the room that the inner one waits for.
//!
//! A message whose turn comes is sent under the lock, by the function that each call is given. So whoever finds that a message
//! does not wait any more knows that it has been sent. That function must run nothing of a user's: what it cannot send it
//! returns, to be dropped afterwards.
//!
//! `C` is the command that carries the message.

use std::collections::BTreeMap;

use crate::home::lock::Mutex;

/// The unit in which bytes are counted.
const UNIT: usize = 1024;

/// What one message takes up, to be released once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a charge is to be released"]
pub(crate) struct Charge(u64);

impl Charge {
    /// Of a message that takes up nothing: it answers something, or has no room yet.
    pub(crate) const NOTHING: Self = Charge(u64::MAX);
}

/// One wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

pub(crate) struct Permits<C> {
    /// All the room there is, in units.
    units: u64,
    state: Mutex<State<C>>,
}

struct State<C> {
    messages: u64,
    units: u64,
    closed: bool,
    last: u64,
    waiters: BTreeMap<WaiterId, Waiter<C>>,
}

struct Waiter<C> {
    units: u64,
    command: C,
}

/// What became of a message.
pub(crate) enum Admission<C> {
    /// It may go.
    Taken(C, Charge),
    /// It goes when its turn comes.
    Waits(WaiterId),
    /// There is no room, and it is not to wait.
    Full(C),
    Closed(C),
}

/// Whether a message may wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Wait,
    Refuse,
}

impl<C> Permits<C> {
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        let (messages, units) = (messages.max(1) as u64, (bytes / UNIT).max(1) as u64);
        let state = State { messages, units, closed: false, last: 0, waiters: BTreeMap::new() };
        Permits { units, state: Mutex::new(state) }
    }

    /// What a message of so many bytes takes up. One that is larger than all the room takes all of it.
    fn units_of(&self, bytes: usize) -> u64 {
        (bytes.div_ceil(UNIT) as u64).min(self.units)
    }

    /// Room for a message of so many bytes, if it may go at once: the same as [`admit`](Self::admit) without its command, which
    /// is large. Its sender sends it, and does nothing else before: no message of this sender waits, for none does.
    pub(crate) fn admit_now(&self, bytes: usize) -> Option<Charge> {
        let units = self.units_of(bytes);
        let mut state = self.state.lock();
        (!state.closed && state.waiters.is_empty() && state.take(units)).then_some(Charge(units))
    }

    /// Asks for room for a message of so many bytes. It does not overtake those who wait.
    pub(crate) fn admit(&self, bytes: usize, command: C, when_full: WhenFull) -> Admission<C> {
        let units = self.units_of(bytes);
        let mut state = self.state.lock();
        if state.closed {
            return Admission::Closed(command);
        }
        if state.waiters.is_empty() && state.take(units) {
            return Admission::Taken(command, Charge(units));
        }
        if when_full == WhenFull::Refuse {
            return Admission::Full(command);
        }
        state.last += 1;
        let id = WaiterId(state.last);
        state.waiters.insert(id, Waiter { units, command });
        Admission::Waits(id)
    }

    /// Takes a message out that has waited long enough, or whose sender has gone; `None` when it has been sent before. And
    /// what could not be sent, which is a user's, and is to be dropped without a lock.
    pub(crate) fn give_up(&self, id: WaiterId, send: impl FnMut(C, Charge) -> Option<C>) -> (Option<C>, Vec<C>) {
        let mut state = self.state.lock();
        let waiter = state.waiters.remove(&id);
        // One that wanted much may have held up those behind it.
        let unsent = state.grant(send);
        (waiter.map(|waiter| waiter.command), unsent)
    }

    /// A message has come to its end.
    #[must_use = "what could not be sent is a user's, and is to be dropped without a lock"]
    pub(crate) fn release(&self, charge: Charge, send: impl FnMut(C, Charge) -> Option<C>) -> Vec<C> {
        if charge == Charge::NOTHING {
            return Vec::new();
        }
        let mut state = self.state.lock();
        state.messages += 1;
        state.units += charge.0;
        state.grant(send)
    }

    /// Nothing is admitted any more. Returns what waits.
    pub(crate) fn close(&self) -> Vec<C> {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.waiters).into_values().map(|waiter| waiter.command).collect()
    }

    /// How many messages hold room, of so many that may, and how many wait.
    #[cfg(any(test, feature = "metrics"))]
    pub(crate) fn held(&self, most: usize) -> (u64, usize) {
        let state = self.state.lock();
        (most as u64 - state.messages, state.waiters.len())
    }

    /// How much room is left, in messages and units, and how many wait.
    #[cfg(test)]
    pub(crate) fn left(&self) -> (u64, u64, usize) {
        let state = self.state.lock();
        (state.messages, state.units, state.waiters.len())
    }
}

impl<C> State<C> {
    fn take(&mut self, units: u64) -> bool {
        let fits = self.messages >= 1 && self.units >= units;
        if fits {
            self.messages -= 1;
            self.units -= units;
        }
        fits
    }

    /// Sends those whose turn it is, in the order in which they came.
    ///
    /// Guards: what its sender does when its message does not wait any more. It sends the next one, or goes and has the message
    /// forgotten. Either would overtake a message that is taken out here and sent later.
    fn grant(&mut self, mut send: impl FnMut(C, Charge) -> Option<C>) -> Vec<C> {
        let mut unsent = Vec::new();
        while let Some((&id, waiter)) = self.waiters.first_key_value() {
            let units = waiter.units;
            if !self.take(units) {
                break;
            }
            if let Some(waiter) = self.waiters.remove(&id) {
                unsent.extend(send(waiter.command, Charge(units)));
            }
        }
        unsent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;

    fn taken(permits: &Permits<u8>, bytes: usize) -> Charge {
        match permits.admit(bytes, 0, WhenFull::Refuse) {
            Admission::Taken(_, charge) => charge,
            _ => panic!("no room"),
        }
    }

    fn waits(permits: &Permits<u8>, bytes: usize, command: u8) -> WaiterId {
        match permits.admit(bytes, command, WhenFull::Wait) {
            Admission::Waits(id) => id,
            _ => panic!("it does not wait"),
        }
    }

    /// What was sent, in order.
    #[derive(Default)]
    struct Sent(Vec<(u8, Charge)>);

    impl Sent {
        fn send(&mut self) -> impl FnMut(u8, Charge) -> Option<u8> + '_ {
            |command, charge| {
                self.0.push((command, charge));
                None
            }
        }

        fn commands(&self) -> Vec<u8> {
            self.0.iter().map(|(command, _)| *command).collect()
        }
    }

    #[test]
    fn messages_wait_in_turn_and_those_that_leave_hold_nothing() {
        let (permits, mut sent) = (Permits::new(1, 10 * UNIT), Sent::default());
        let charge = taken(&permits, 1);
        let one = waits(&permits, 1, 1);
        let two = waits(&permits, 1, 2);
        assert!(matches!(permits.admit(1, 9, WhenFull::Refuse), Admission::Full(9)));
        assert!(matches!(permits.give_up(one, sent.send()), (Some(1), _)));
        assert!(sent.0.is_empty());
        let _ = permits.release(charge, sent.send());
        assert_eq!(sent.commands(), [2]);
        assert!(matches!(permits.give_up(two, sent.send()), (None, _)), "its turn has come");
        let _ = permits.release(sent.0[0].1, sent.send());
        assert_eq!((permits.left(), sent.commands()), ((1, 10, 0), vec![2]));
    }

    #[test]
    fn a_large_message_waits_for_all_the_room_and_small_ones_do_not_overtake() {
        let (permits, mut sent) = (Permits::new(10, 4 * UNIT), Sent::default());
        let small = taken(&permits, 1);
        let large = waits(&permits, 1 << 20, 1);
        waits(&permits, 1, 2);
        assert!(permits.admit_now(1).is_none(), "nor is there room for a new one at once");
        // Without the large one the small one has room at once.
        let (gone, _) = permits.give_up(large, sent.send());
        assert_eq!((gone, sent.commands()), (Some(1), vec![2]));
        let _ = permits.release(small, sent.send());
        let _ = permits.release(sent.0[0].1, sent.send());
        assert_eq!(permits.left(), (10, 4, 0));
        let all = taken(&permits, usize::MAX);
        assert!(matches!(permits.admit(0, 9, WhenFull::Refuse), Admission::Taken(..)));
        assert!(matches!(permits.admit(1, 9, WhenFull::Refuse), Admission::Full(9)));
        let _ = permits.release(all, sent.send());
    }

    /// Guards: a sender that goes as its turn comes. `FORGET`, which it sends then, would come before its message.
    #[test]
    fn nothing_that_follows_a_message_whose_turn_comes_is_sent_before_it() {
        const CALL: u8 = 1;
        const FORGET: u8 = 2;
        for comes_by_release in [true, false] {
            let permits = Permits::new(1, UNIT);
            let (channel, sent) = std::sync::mpsc::channel();
            let charge = taken(&permits, UNIT);
            let before = waits(&permits, UNIT, 0);
            let call = waits(&permits, UNIT, CALL);
            let mut charge = Some(charge);
            if comes_by_release {
                assert!(matches!(permits.give_up(before, |command, _| Some(command)), (Some(0), _)));
            } else {
                // The one before it wants more than there is when the room comes.
                permits.state.lock().waiters.get_mut(&before).expect("it waits").units = 2;
                let _ = permits.release(charge.take().expect("held"), |command, _| Some(command));
            }
            let turn_comes = |command: u8, _: Charge| {
                // Whoever leaves now finds that it waits, or that it was sent. It cannot look in between.
                let looks = permits.state.try_lock();
                if looks.is_some_and(|state| !state.waiters.contains_key(&call)) {
                    let _ = channel.send(FORGET);
                }
                channel.send(command).err().map(|unsent| unsent.0)
            };
            match charge {
                Some(charge) => drop(permits.release(charge, turn_comes)),
                None => drop(permits.give_up(before, turn_comes)),
            }
            if permits.give_up(call, |command, _| Some(command)).0.is_none() {
                let _ = channel.send(FORGET);
            }
            assert_eq!(sent.try_iter().collect::<Vec<_>>()[..2], [CALL, FORGET]);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_returned_and_outlives_the_lock() {
        struct Looks(Arc<Mutex<Vec<bool>>>, Weak<Permits<Looks>>);
        impl Drop for Looks {
            fn drop(&mut self) {
                self.0.lock().extend(self.1.upgrade().map(|permits| permits.state.is_locked()));
            }
        }
        let (permits, locked) = (Arc::new(Permits::new(1, UNIT)), Arc::new(Mutex::default()));
        let Some(charge) = permits.admit_now(0) else { panic!("no room") };
        let command = Looks(Arc::clone(&locked), Arc::downgrade(&permits));
        let Admission::Waits(_) = permits.admit(0, command, WhenFull::Wait) else { panic!("it does not wait") };
        drop(permits.release(charge, |command, _| Some(command)));
        assert_eq!(*locked.lock(), [false]);
    }

    #[test]
    fn after_the_close_nothing_is_admitted_and_what_waits_comes_back() {
        let (permits, mut sent) = (Permits::new(1, UNIT), Sent::default());
        let charge = taken(&permits, 1);
        waits(&permits, 1, 1);
        assert_eq!(permits.close(), [1]);
        let _ = permits.release(charge, sent.send());
        assert!(sent.0.is_empty());
        assert!(permits.admit_now(1).is_none());
        assert!(matches!(permits.admit(1, 2, WhenFull::Wait), Admission::Closed(2)));
    }
}
