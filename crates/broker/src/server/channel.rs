//! One channel of a connection, as the server sees it.

use super::{confirms::Confirms, content::Unfinished, transaction::Transaction};
use std::rc::Rc;
use std::sync::Arc;

/// A channel.
#[derive(Debug)]
pub(super) struct Channel {
    /// It was closed by an error, and the client has not agreed yet: all but its end is ignored.
    pub(super) is_closing: bool,
    pub(super) expected: Expected,
    /// The queue that was declared last, which an empty name stands for.
    pub(super) last_queue: Option<Arc<str>>,
    /// The exchange of the last publish: most publishes go to the same one.
    last_exchange: Arc<str>,
    pub(super) mode: Mode,
    /// How much of what is not finished its connection has counted, in bytes.
    pub(super) counted: usize,
    /// Where replies to the pseudo-queue of this channel go.
    pub(super) replies: Option<Replies>,
}

/// Which frame is due.
#[derive(Debug)]
pub(super) enum Expected {
    /// A method.
    Method,
    /// The content header of a publish.
    Header(Publish),
    /// More of its body.
    Body(Publish, Unfinished),
}

/// What came with `basic.publish`.
#[derive(Clone, Debug)]
pub(super) struct Publish {
    pub(super) exchange: Arc<str>,
    pub(super) key: Arc<str>,
    pub(super) is_mandatory: bool,
}

/// What becomes of publishes and acknowledgements.
#[derive(Debug)]
pub(super) enum Mode {
    /// They are done at once.
    Plain,
    /// The same, and publishes are confirmed.
    Confirm(Rc<Confirms>),
    /// They wait for a commit.
    Transaction(Transaction),
}

/// The consumer of direct replies.
#[derive(Debug)]
pub(super) struct Replies {
    pub(super) tag: Arc<str>,
    /// What replies are addressed to.
    pub(super) queue: Arc<str>,
}

impl Channel {
    pub(super) fn new() -> Self {
        Self {
            is_closing: false,
            expected: Expected::Method,
            last_queue: None,
            last_exchange: Arc::from(""),
            mode: Mode::Plain,
            counted: 0,
            replies: None,
        }
    }

    /// The name of an exchange, without a new string for each publish to the same one.
    #[inline]
    pub(super) fn exchange(&mut self, name: &str) -> Arc<str> {
        if *self.last_exchange != *name {
            self.last_exchange = Arc::from(name);
        }
        self.last_exchange.clone()
    }

    /// Nothing more is confirmed or done.
    pub(super) fn close(&mut self) {
        match &mut self.mode {
            Mode::Plain | Mode::Transaction(_) => {}
            Mode::Confirm(confirms) => confirms.close(),
        }
        self.expected = Expected::Method;
        self.mode = Mode::Plain;
    }

    /// What it has in memory of what is not finished, in bytes.
    pub(super) fn unfinished(&self) -> usize {
        let body = if let Expected::Body(_, unfinished) = &self.expected { unfinished.len() } else { 0 };
        let held = if let Mode::Transaction(transaction) = &self.mode { transaction.bytes() } else { 0 };
        body + held
    }
}
