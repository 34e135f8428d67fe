//! Messages that wait are put away: what the store has is dropped from memory, and read again when its turn comes.

use crate::engine::CopyId;
use crate::server::content::Parts;
use crate::store::Reader;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::record::Record;

/// So many bytes of bodies wait at the head of a queue before the next message is put away, about.
const NEAR_BYTES: usize = 1 << 20;
/// The same in messages.
const NEAR_MESSAGES: usize = 4096;

/// Where messages are put away, and got from again.
#[derive(Debug)]
pub(in crate::server) struct Shelf {
    /// Set once the store is open.
    reader: OnceCell<Reader>,
    /// Up to here everything is on the disk.
    durable: Cell<CopyId>,
    /// What was put away and is not on the disk yet.
    unwritten: RefCell<BTreeMap<CopyId, Rc<Parts>>>,
}

impl Default for Shelf {
    fn default() -> Self {
        Shelf { reader: OnceCell::new(), durable: Cell::new(CopyId(0)), unwritten: RefCell::default() }
    }
}

impl Shelf {
    pub(super) fn set_reader(&self, reader: Reader) {
        _ = self.reader.set(reader);
    }

    /// Whether a message with so many before it will not be wanted for a while.
    pub(in crate::server) fn is_far(before: usize, body_len: usize) -> bool {
        before > NEAR_MESSAGES || before.saturating_mul(body_len) > NEAR_BYTES
    }

    /// Takes over what is to be found again under this copy. It is kept here until it is on the disk.
    pub(in crate::server) fn put(&self, copy: CopyId, parts: Rc<Parts>) {
        if copy > self.durable.get() {
            self.unwritten.borrow_mut().insert(copy, parts);
        }
    }

    /// Copies up to this one are on the disk.
    pub(super) fn is_durable(&self, copy: CopyId) {
        self.durable.set(copy);
        let mut unwritten = self.unwritten.borrow_mut();
        if unwritten.first_key_value().is_some_and(|(first, _)| *first <= copy) {
            *unwritten = unwritten.split_off(&CopyId(copy.0.saturating_add(1)));
        }
    }

    /// Reads a message again. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(in crate::server) fn get(&self, copy: CopyId) -> Result<Rc<Parts>, String> {
        if let Some(parts) = self.unwritten.borrow().get(&copy) {
            return Ok(parts.clone());
        }
        let reader = self.reader.get().ok_or("the store is not open")?;
        let stored = reader.read(copy.0).map_err(|error| error.to_string())?;
        let parts = Record::read(&stored.header).and_then(|record| Parts::stored(&record, &stored.body));
        parts.ok_or_else(|| "it is not in a form that this version knows".to_owned())
    }
}
