//! A tokio runtime as a home, multi-thread or current-thread: *at home* means in the context of that runtime.
//!
//! There is one home a runtime, made when it is first asked for; its [`Drain`] is a task of the runtime and ends with it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use super::drain::{Drain, Spawn};
use super::identity::Identity;
use super::inbox::{Bell, Inbox};
use super::sync::Mutex;

/// The inboxes of the runtimes that live. A drain task holds its inbox, so that an entry is dead when its runtime is.
pub(crate) struct Registry<I>(Mutex<Option<HashMap<I, Weak<Inbox>>>>);

impl<I: Copy + Eq + Hash> Registry<I> {
    /// The inbox of this runtime; its home is made where there is none that lives, with this many permits.
    pub(crate) fn find_or_make(
        &self,
        id: I,
        identity: Identity,
        capacity: usize,
        spawn: impl FnOnce() -> Spawn,
    ) -> Arc<Inbox> {
        let mut runtimes = self.0.lock();
        let runtimes = runtimes.get_or_insert_with(HashMap::new);
        if let Some(inbox) = runtimes.get(&id).and_then(Weak::upgrade) {
            return inbox;
        }
        runtimes.retain(|_, inbox| inbox.strong_count() > 0);
        let inbox = Inbox::new(identity, Bell::Task, capacity);
        runtimes.insert(id, Arc::downgrade(&inbox));
        // Guards: two threads that ask at once. The lock is held until the home is made, so that there is one. Spawning does not
        // poll, so nothing comes back to this lock; on a runtime that is shutting down the drain is dropped at once, which closes
        // the inbox and no more.
        let spawn = spawn();
        spawn(Drain::new(Arc::clone(&inbox), Arc::clone(&spawn)));
        inbox
    }

    /// How many runtimes are known, and how many of their homes live.
    #[cfg(any(test, homing_loom))]
    pub(crate) fn known(&self) -> (usize, usize) {
        let runtimes = self.0.lock();
        let known = || runtimes.iter().flatten();
        (known().count(), known().filter(|(_, inbox)| inbox.strong_count() > 0).count())
    }
}

impl<I> Default for Registry<I> {
    fn default() -> Self {
        Registry(Mutex::new(None))
    }
}

#[cfg(homing_loom)]
pub(crate) use super::model::NoRuntime as Runtime;
#[cfg(not(homing_loom))]
pub(crate) use of_tokio::inbox_of;
#[cfg(all(test, not(homing_loom)))]
pub(crate) use of_tokio::known;
#[cfg(not(homing_loom))]
pub(crate) use tokio::runtime::Handle as Runtime;

#[cfg(not(homing_loom))]
mod of_tokio {
    use std::cell::RefCell;
    use std::sync::{Arc, Weak};

    use tokio::runtime::{Handle, Id};

    use super::{Identity, Inbox, Registry};
    use crate::by_process::ByProcess;

    static RUNTIMES: ByProcess<Registry<Id>> = ByProcess::new();

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
        let inbox = RUNTIMES.here().find_or_make(id, Identity::Runtime(id), crate::DEFAULT_CAPACITY, || {
            let runtime = runtime.clone();
            Arc::new(move |drain| drop(runtime.spawn(drain)))
        });
        let _ = LAST.try_with(|last| last.replace(Some((id, Arc::downgrade(&inbox)))));
        inbox
    }

    #[cfg(test)]
    pub(crate) fn known() -> (usize, usize) {
        RUNTIMES.here().known()
    }
}
