//! One subscriber's registration, from the moment it is asked for: whatever ends first, the communicator learns of it. And how
//! a user takes a subscriber out again.

use std::sync::Arc;

use crate::driver::command::{Command, ServedBy, SubscriberName, Subscription};
use crate::driver::port::{Port, Serves, home_ended};
use crate::driver::tasks::SubscriberId;
use crate::error::Result;
use crate::home::{Completer, Home};

/// The guard of a subscriber. It is where the subscriber's messages are taken in: in the code that adds it at first, then in the
/// task that serves it. Dropped, it takes the subscriber out: when adding is given up, when the home ends before it has
/// polled that task for the first time, or when the task ends.
pub(crate) struct Registration {
    port: Arc<Port>,
    id: SubscriberId,
    served_by: ServedBy,
    /// Where it is served.
    serves: Option<Arc<Serves>>,
}

impl Registration {
    pub(crate) fn new(port: &Arc<Port>) -> Self {
        Registration {
            port: Arc::clone(port),
            id: SubscriberId(port.next_id()),
            served_by: ServedBy::Nobody,
            serves: None,
        }
    }

    /// Adds the subscriber that is to be served at this home, and waits until its consumer stands. From then on the caller has it
    /// served.
    ///
    /// # Errors
    /// Why it cannot be added.
    pub(crate) async fn add(
        &mut self,
        home: &Home,
        what: &str,
        subscription: Subscription,
        served_by: ServedBy,
    ) -> Result<()> {
        let id = self.id;
        self.port.ask(what, None, |done| Command::Subscribe { id, subscription, done }).await?;
        self.serves = Some(self.port.runs_at(home));
        if home.has_ended() {
            // Nothing would serve it there. This guard takes it out again.
            return Err(home_ended(what));
        }
        self.served_by = served_by;
        Ok(())
    }
}

/// Takes a subscriber out, and waits until its consumer is gone.
///
/// # Errors
/// `InvalidArgument` when there is none of that name; `TimedOut`, after which it is removed all the same.
///
/// # Cancel safety
/// Dropped, the subscriber is removed all the same.
pub(crate) async fn remove(port: &Port, what: &str, name: SubscriberName) -> Result<()> {
    let removal = Removal { port, name, is_asked_for: false };
    port.ask(what, None, move |done| removal.asked_by(done)).await
}

/// A removal that the communicator has not been asked for yet.
///
/// Guards: a wait for a place at a full home, which is given up or takes too long. The subscriber goes with it, without an answer.
struct Removal<'a> {
    port: &'a Port,
    name: SubscriberName,
    is_asked_for: bool,
}

impl Removal<'_> {
    /// Asks for it; the answer goes here.
    fn asked_by(mut self, done: Completer<Result<()>>) -> Command {
        self.is_asked_for = true;
        Command::Unsubscribe { name: self.name.clone(), done: Some(done) }
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        if !self.is_asked_for {
            self.port.notify(Command::Unsubscribe { name: self.name.clone(), done: None });
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // No news to a driver that took this subscriber out itself.
        self.port.notify(Command::SubscriberEnded { id: self.id, served_by: self.served_by });
    }
}
