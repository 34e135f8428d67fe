//! A tokio runtime as a home, multi-thread or current-thread: *at home* means in the context of that runtime.
//!
//! There is one home a runtime, made when it is first asked for; its [`Drain`] is a task of the runtime and ends with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use super::DEFAULT_CAPACITY;
use super::drain::{Drain, Spawn};
use super::identity::Identity;
use super::inbox::{Bell, Inbox};

/// The inboxes of the runtimes that live. A drain task holds its inbox, so that an entry is dead when its runtime is.
static RUNTIMES: Mutex<Option<HashMap<Id, Weak<Inbox>>>> = Mutex::new(None);

thread_local! {
    /// The last one found on this thread, since a worker asks for the same one again and again.
    static LAST: RefCell<Option<(Id, Weak<Inbox>)>> = const { RefCell::new(None) };
}

/// The inbox of a runtime, and with it its home.
pub(crate) fn inbox_of(runtime: &Handle) -> Arc<Inbox> {
    let id = runtime.id();
    // A thread that ends may have forgotten.
    let known = LAST.try_with(|last| match &*last.borrow() {
        Some((last, inbox)) if *last == id => inbox.upgrade(),
        _ => None,
    });
    if let Ok(Some(inbox)) = known {
        return inbox;
    }
    let inbox = find_or_make(runtime, id);
    let _ = LAST.try_with(|last| last.replace(Some((id, Arc::downgrade(&inbox)))));
    inbox
}

/// How many runtimes are known, and how many of their homes live.
#[cfg(test)]
pub(crate) fn known() -> (usize, usize) {
    let runtimes = RUNTIMES.lock();
    let known = || runtimes.iter().flatten();
    (known().count(), known().filter(|(_, inbox)| inbox.strong_count() > 0).count())
}

fn find_or_make(runtime: &Handle, id: Id) -> Arc<Inbox> {
    let mut runtimes = RUNTIMES.lock();
    let runtimes = runtimes.get_or_insert_with(HashMap::new);
    if let Some(inbox) = runtimes.get(&id).and_then(Weak::upgrade) {
        return inbox;
    }
    runtimes.retain(|_, inbox| inbox.strong_count() > 0);
    let inbox = Inbox::new(Identity::Runtime(id), Bell::Task, DEFAULT_CAPACITY);
    runtimes.insert(id, Arc::downgrade(&inbox));
    // Spawning does not poll, so nothing comes back to this lock; on a runtime that is shutting down the drain is dropped
    // at once, which closes the inbox and no more.
    let handle = runtime.clone();
    let spawn: Spawn = Arc::new(move |drain| drop(handle.spawn(drain)));
    spawn(Drain::new(Arc::clone(&inbox), Arc::clone(&spawn)));
    inbox
}
