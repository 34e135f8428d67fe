//! A communicator bound to a home.

use super::Communicator;
use crate::error::Result;
use crate::home::Home;
use crate::serve::{BroadcastFilter, BroadcastSubscriber, RpcSubscriber, TaskSubscriber};
use crate::wire::names::{Identifier, IntoIdentifier};

/// A handle whose subscribers run on one home, whatever home it is used at. See [`Communicator::bound_to`].
///
/// What it sends, it sends as the [`communicator`](BoundCommunicator::communicator) does: each future lives where it is made.
///
/// ```
/// use homing::blocking;
/// use homing::home::EventLoop;
/// use homing::{Communicator, RpcRequest, RpcSubscriber};
///
/// let event_loop = EventLoop::start("the-loop").expect("a thread");
/// let communicator = blocking::Communicator::connect("memory:")?;
/// let bound = communicator.to_async().bound_to(&event_loop.handle().home());
/// let who = RpcSubscriber::closure(|_: RpcRequest| std::thread::current().name().unwrap_or("").to_owned());
/// blocking::wait(bound.add_rpc_subscriber("who", who))?;
/// assert_eq!(communicator.rpc_send("who", 0).wait()?.as_str(), Some("the-loop"));
/// communicator.close()?;
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BoundCommunicator {
    pub(super) communicator: Communicator,
    pub(super) home: Home,
}

impl BoundCommunicator {
    /// The home that subscribers run on.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The communicator, to send by and to close.
    #[must_use]
    pub fn communicator(&self) -> &Communicator {
        &self.communicator
    }

    /// Adds a subscriber to calls under a name.
    ///
    /// # Errors
    /// As [`Communicator::add_rpc_subscriber`].
    pub async fn add_rpc_subscriber(
        &self,
        identifier: impl IntoIdentifier,
        subscriber: RpcSubscriber,
    ) -> Result<Identifier> {
        let identifier = identifier.into_identifier();
        self.communicator.add_rpc_subscriber_on(&self.home, identifier?, subscriber).await
    }

    /// Adds a subscriber to tasks of the default queue.
    ///
    /// # Errors
    /// As [`Communicator::add_task_subscriber`].
    pub async fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        let queue = self.communicator.default_task_queue()?;
        queue.add_task_subscriber_on(&self.home, Identifier::unique(), subscriber).await
    }

    /// Adds a subscriber to the broadcasts that pass a filter. One that does not pass never reaches the home.
    ///
    /// # Errors
    /// As [`Communicator::add_broadcast_subscriber`].
    pub async fn add_broadcast_subscriber(
        &self,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        let identifier = Identifier::unique();
        self.communicator.add_broadcast_subscriber_on(&self.home, identifier, filter, subscriber).await
    }
}
