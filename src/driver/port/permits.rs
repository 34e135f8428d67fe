//! How many messages, and of how many bytes, may be on their way to the broker at once.
//!
//! Whoever finds no room waits at its home, in turn. A permit may come back on any thread; the waiter is completed through
//! its home's inbox, so that its waker runs there and nowhere else.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::home::Completer;

/// The unit in which bytes are counted.
const UNIT: usize = 1024;

/// What one message takes up, to be released once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a charge is to be released"]
pub(crate) struct Charge(u64);

impl Charge {
    /// Of a message that takes up nothing, since it answers something.
    pub(crate) const NOTHING: Self = Charge(u64::MAX);
}

/// One wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// How a wait for room ends.
#[derive(Debug)]
pub(crate) enum Granted {
    Room,
    TimedOut,
    Closed,
}

pub(crate) struct Permits {
    messages: u64,
    units: u64,
    state: Mutex<State>,
}

struct State {
    messages: u64,
    units: u64,
    closed: bool,
    last: u64,
    waiters: BTreeMap<WaiterId, Waiter>,
    /// Room that was given to a waiter which has not taken it yet.
    granted: BTreeMap<WaiterId, Charge>,
}

struct Waiter {
    units: u64,
    completer: Completer<Granted>,
}

/// What became of an attempt.
pub(crate) enum Attempt {
    Taken(Charge),
    /// Give a completer to [`Permits::wait`].
    Full,
    Closed,
}

impl Permits {
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        let (messages, units) = (messages.max(1) as u64, (bytes / UNIT).max(1) as u64);
        let state =
            State { messages, units, closed: false, last: 0, waiters: BTreeMap::new(), granted: BTreeMap::new() };
        Permits { messages, units, state: Mutex::new(state) }
    }

    /// A message that is larger than all the room takes all of it.
    fn units(&self, bytes: usize) -> u64 {
        (bytes.div_ceil(UNIT) as u64).min(self.units)
    }

    /// Room for a message of so many bytes, without waiting and without overtaking those who wait.
    pub(crate) fn attempt(&self, bytes: usize) -> Attempt {
        let units = self.units(bytes);
        let mut state = self.state.lock();
        if state.closed {
            Attempt::Closed
        } else if state.waiters.is_empty() && state.take(units) {
            Attempt::Taken(Charge(units))
        } else {
            Attempt::Full
        }
    }

    /// Joins those who wait. The completer is completed when there is room, or by [`expire`](Self::expire).
    pub(crate) fn wait(&self, bytes: usize, completer: Completer<Granted>) -> WaiterId {
        let units = self.units(bytes);
        let mut state = self.state.lock();
        state.last += 1;
        let id = WaiterId(state.last);
        if state.closed {
            drop(state);
            drop(completer.complete(Granted::Closed));
            return id;
        }
        state.waiters.insert(id, Waiter { units, completer });
        // Guards: room that came between the attempt and this.
        let ready = state.grant();
        drop(state);
        complete(ready);
        id
    }

    /// The waiter has seen that it has room, and has it from here on.
    pub(crate) fn taken(&self, id: WaiterId) -> Option<Charge> {
        self.state.lock().granted.remove(&id)
    }

    /// The waiter's time is up.
    pub(crate) fn expire(&self, id: WaiterId) {
        let mut state = self.state.lock();
        let expired = state.waiters.remove(&id);
        // One that wanted much may have held up those behind it.
        let ready = state.grant();
        drop(state);
        if let Some(waiter) = expired {
            drop(waiter.completer.complete(Granted::TimedOut));
        }
        complete(ready);
    }

    /// The waiter is gone. Room that was on its way to it goes to the next.
    pub(crate) fn forget(&self, id: WaiterId) {
        let mut state = self.state.lock();
        let waiter = state.waiters.remove(&id);
        if let Some(charge) = state.granted.remove(&id) {
            state.give_back(charge);
        }
        let ready = state.grant();
        drop(state);
        drop(waiter);
        complete(ready);
    }

    /// The message has come to its end.
    pub(crate) fn release(&self, charge: Charge) {
        if charge == Charge::NOTHING {
            return;
        }
        let mut state = self.state.lock();
        state.give_back(charge);
        let ready = state.grant();
        drop(state);
        complete(ready);
    }

    /// Ends every wait, and every later attempt.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        for waiter in waiters.into_values() {
            drop(waiter.completer.complete(Granted::Closed));
        }
    }

    /// Messages that hold a permit, and waiters.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (u64, usize) {
        let state = self.state.lock();
        (self.messages - state.messages, state.waiters.len() + state.granted.len())
    }
}

impl State {
    fn take(&mut self, units: u64) -> bool {
        let fits = self.messages >= 1 && self.units >= units;
        if fits {
            self.messages -= 1;
            self.units -= units;
        }
        fits
    }

    fn give_back(&mut self, charge: Charge) {
        self.messages += 1;
        self.units += charge.0;
    }

    /// Those whose turn it is, in the order in which they came.
    fn grant(&mut self) -> Vec<Completer<Granted>> {
        let mut ready = Vec::new();
        while let Some((&id, waiter)) = self.waiters.first_key_value() {
            let units = waiter.units;
            if !self.take(units) {
                break;
            }
            if let Some(waiter) = self.waiters.remove(&id) {
                self.granted.insert(id, Charge(units));
                ready.push(waiter.completer);
            }
        }
        ready
    }
}

/// Not under the lock: it rings homes.
fn complete(ready: Vec<Completer<Granted>>) {
    for completer in ready {
        // Where its home has ended, the waiter's guard has given the room back or will.
        drop(completer.complete(Granted::Room));
    }
}

/// Gives up a wait that ends in whatever way.
pub(crate) struct Waiting<'a> {
    pub(crate) permits: &'a Permits,
    pub(crate) id: WaiterId,
}

impl Waiting<'_> {
    /// The room that was granted.
    pub(crate) fn take(&self) -> Option<Charge> {
        self.permits.taken(self.id)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.permits.forget(self.id);
    }
}

/// Releases a charge unless it is handed on.
pub(crate) struct Held<'a> {
    pub(crate) permits: &'a Permits,
    charge: Option<Charge>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(permits: &'a Permits, charge: Charge) -> Self {
        Held { permits, charge: Some(charge) }
    }

    /// Whoever has the message releases the charge from here on.
    pub(crate) fn hand_on(mut self) -> Charge {
        self.charge.take().unwrap_or(Charge::NOTHING)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            self.permits.release(charge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    fn taken(permits: &Permits, bytes: usize) -> Charge {
        match permits.attempt(bytes) {
            Attempt::Taken(charge) => charge,
            _ => panic!("no room"),
        }
    }

    #[tokio::test]
    async fn waiters_are_served_in_turn_and_those_who_leave_hold_nothing() {
        let permits = Permits::new(1, 10 * UNIT);
        let charge = taken(&permits, 1);
        let (one, first) = Home::current().try_future().unwrap();
        let (two, second) = Home::current().try_future().unwrap();
        let one = permits.wait(1, one);
        let two = permits.wait(1, two);
        assert!(matches!(permits.attempt(1), Attempt::Full));
        permits.release(charge);
        assert!(matches!(first.await, Ok(Granted::Room)));
        // It is gone before it has taken its room, which the next one gets.
        permits.forget(one);
        assert!(matches!(second.await, Ok(Granted::Room)));
        permits.release(permits.taken(two).unwrap());
        assert_eq!(permits.held(), (0, 0));
    }

    #[tokio::test]
    async fn a_wait_that_expires_or_closes_ends() {
        let permits = Permits::new(1, UNIT);
        let charge = taken(&permits, 1 << 30);
        let (one, first) = Home::current().try_future().unwrap();
        let one = permits.wait(1, one);
        permits.expire(one);
        assert!(matches!(first.await, Ok(Granted::TimedOut)));
        let (two, second) = Home::current().try_future().unwrap();
        permits.wait(1, two);
        permits.close();
        assert!(matches!(second.await, Ok(Granted::Closed)));
        permits.release(charge);
        assert_eq!(permits.held(), (0, 0));
        assert!(matches!(permits.attempt(1), Attempt::Closed));
    }

    #[test]
    fn a_large_message_waits_for_all_the_room_and_small_ones_do_not_overtake() {
        let permits = Permits::new(10, 4 * UNIT);
        let small = taken(&permits, 1);
        let (completer, future) = Home::current().try_future().unwrap();
        let large = permits.wait(1 << 20, completer);
        assert!(matches!(permits.attempt(1), Attempt::Full), "it is after the large one");
        permits.release(small);
        drop(future);
        permits.release(permits.taken(large).unwrap());
        assert_eq!(permits.held(), (0, 0));
    }
}
