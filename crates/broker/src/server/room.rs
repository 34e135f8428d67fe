//! How much memory messages may take, in all virtual hosts together.

use std::cell::Cell;

use super::signal::Signal;

/// What counts the bytes of messages in memory, and tells when they become too many.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    held: Cell<usize>,
    is_full: Cell<bool>,
    /// There is no room any more, or again.
    pub(super) changed: Signal,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self { most, held: Cell::new(0), is_full: Cell::new(false), changed: Signal::default() }
    }

    /// Whether publishers are to stop. They go on when a tenth is free, so that they do not stop for every message.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// Somebody who held so many bytes holds so many now.
    pub(super) fn count(&self, held: usize, holds: usize) {
        let all = self.held.get() - held + holds;
        self.held.set(all);
        let is_full = all > if self.is_full.get() { self.most - self.most / 10 } else { self.most };
        if is_full != self.is_full.replace(is_full) {
            self.changed.set();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn it_is_full_above_its_most_until_a_tenth_is_free() {
        let room = Room::new(100);
        let mut held = 0;
        for (holds, is_full) in [(100, false), (101, true), (100, true), (91, true), (90, false), (100, false)] {
            room.count(held, holds);
            held = holds;
            assert_eq!(room.is_full(), is_full, "{holds} bytes");
        }
        room.count(0, 1);
        assert!(room.is_full(), "what others hold counts");
    }
}
