//! One subscriber's registration, from the moment it is asked for: whatever ends first, the communicator learns of it.

use std::sync::Arc;

use crate::driver::command::{Command, ServedBy, Subscription};
use crate::driver::port::{Port, home_ended};
use crate::driver::tasks::SubscriberId;
use crate::error::Result;
use crate::home::Home;

/// The guard of a subscriber. It is where the subscriber's messages are taken in: in the code that adds it at first, then in the
/// task that serves it. Dropped, it takes the subscriber out: when adding is given up, when the home ends before it has
/// polled that task for the first time, or when the task ends.
pub(crate) struct Registration {
    port: Arc<Port>,
    id: SubscriberId,
    served_by: ServedBy,
}

impl Registration {
    pub(crate) fn new(port: &Arc<Port>, served_by: ServedBy) -> Self {
        Registration { port: Arc::clone(port), id: SubscriberId(port.next_id()), served_by }
    }

    /// Adds the subscriber that is to be served at this home, and waits until its consumer stands.
    ///
    /// # Errors
    /// Why it cannot be added.
    pub(crate) async fn add(&self, home: &Home, what: &str, subscription: Subscription) -> Result<()> {
        let id = self.id;
        self.port.ask(what, None, |done| Command::Subscribe { id, subscription, done }).await?;
        self.port.runs_at(home);
        // Nothing would serve it there. This guard takes it out again.
        if home.has_ended() { Err(home_ended(what)) } else { Ok(()) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // No news to a driver that took this subscriber out itself.
        self.port.notify(Command::SubscriberEnded { id: self.id, served_by: self.served_by });
    }
}
