//! The smallest types that the book can be instantiated with.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::super::message::{Claim, Identity, Kinds, Marks, Message};

#[derive(Clone, Debug)]
pub(super) enum Tiny {}

impl Kinds for Tiny {
    type Queue = u8;
    type Message = Note;
    type Claim = Token;
    type Answer = u8;

    fn copy_number() -> u64 {
        0
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Note {
    /// Which of the messages that were sent it is. The book does not see this.
    pub number: u8,
    /// Its id, if it can be trusted.
    pub id: Option<u8>,
    /// Its correlation id and body.
    pub content: u8,
    pub marks: Marks,
}

impl Message for Note {
    fn identity(&self) -> Option<Identity> {
        self.id.map(|id| Identity { id: id.into(), digest: self.content.into() })
    }

    fn marks(&self) -> Marks {
        self.marks
    }

    fn pause_key(&self) -> u64 {
        self.number.into()
    }
}

/// A claim by number. Its state belongs to the world, so that worlds can be copied; it lies in [`CLAIMS`] while the book
/// takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Token(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Claimed {
    Free,
    Begun,
    Withdrawn,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    pub states: BTreeMap<u32, Claimed>,
    pub last: u32,
}

thread_local! {
    pub(super) static CLAIMS: RefCell<Claims> = RefCell::default();
}

impl Default for Token {
    fn default() -> Self {
        CLAIMS.with_borrow_mut(|claims| {
            claims.last += 1;
            claims.states.insert(claims.last, Claimed::Free);
            Token(claims.last)
        })
    }
}

impl Claim for Token {
    fn withdraw(&self) -> bool {
        CLAIMS.with_borrow_mut(|claims| match claims.states.get_mut(&self.0) {
            Some(state @ Claimed::Free) => {
                *state = Claimed::Withdrawn;
                true
            }
            _ => false,
        })
    }
}
