//! Subscribers that are `tower` services.

use std::future::poll_fn;

use crate::home::lock::Mutex;
use tower_service::Service;

use super::answer::{IntoResponse, Subscriber, answered};
use super::failure::HandlerError;

impl<M: Send + 'static> Subscriber<M> {
    /// A `tower` service, with whatever layers are around it: a timeout, a limit on concurrency or rate, retries, load shedding.
    ///
    /// Each message gets a clone of the service, which is polled until it is ready and then called, as `tower` asks for. What
    /// layers share (the limit on concurrency, for example) is shared by the clones. An error is the handler's: a
    /// [`Failure`](crate::Failure) within it keeps its meaning, anything else is an exception. A task that a layer refuses (load
    /// shedding, for example) is not tried again by that alone: map the layer's error to
    /// [`Failure::TryAgain`](crate::Failure::TryAgain) where it is to be.
    ///
    /// Many layers want an error that is one for the standard library: [`Error`](crate::Error), [`Failure`](crate::Failure) or
    /// `tower::BoxError`.
    ///
    /// With the feature `tower`.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> homing::Result<()> {
    /// use std::time::Duration;
    /// use homing::{Communicator, RpcRequest, RpcSubscriber};
    /// use tower::{ServiceBuilder, service_fn};
    ///
    /// let service = ServiceBuilder::new()
    ///     .concurrency_limit(8)
    ///     .timeout(Duration::from_secs(5))
    ///     .service(service_fn(|request: RpcRequest| async move {
    ///         let number: i64 = request.decode()?;
    ///         Ok::<_, homing::Error>(number * 2)
    ///     }));
    /// # let communicator = Communicator::connect("memory:").await?;
    /// communicator.add_rpc_subscriber("double", RpcSubscriber::service(service)).await?;
    /// assert_eq!(communicator.rpc_send("double", 21).await?.as_i64(), Some(42));
    /// # communicator.close().await.map(drop) }
    /// ```
    pub fn service<S>(service: S) -> Self
    where
        S: Service<M> + Clone + Send + 'static,
        S::Response: IntoResponse + 'static,
        S::Error: Into<HandlerError>,
        S::Future: Send + 'static,
    {
        // A service need not be `Sync`; it is cloned, and no more, under the lock.
        let service = Mutex::new(service);
        Self::future(move |message: M| {
            let service = service.lock().clone();
            async move {
                // In the future, as all that is the program's own.
                let mut service = service;
                poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
                answered(service.call(message).await.map_err(Into::into)?)
            }
        })
    }
}
