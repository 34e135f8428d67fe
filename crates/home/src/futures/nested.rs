//! Futures whose outcome is a future, to any depth.

use super::super::{Completer, Home, HomeFuture, ReserveError};

/// A value, or a future that brings it, or one that brings a future, and so on.
#[derive(Debug)]
pub enum Nested<T: Send + 'static> {
    /// The value.
    Value(T),
    /// It will come.
    Future(HomeFuture<Nested<T>>),
}

/// A future of the current home that ends with the last concrete outcome: of the future, or of the future that it brings,
/// or of what that one brings. Each may have another home.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_home::futures::{Nested, flatten};
/// use homing_home::{EventLoop, Home};
///
/// let event_loop = EventLoop::start("loop")?;
/// let (outer, first) = Home::current().try_future()?;
/// let (inner, second) = event_loop.handle().home().try_future()?;
/// outer.complete(Nested::Future(second))?;
/// inner.complete(Nested::Value(42))?;
/// assert_eq!(flatten(first)?.await, Ok(42));
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`ReserveError`] when the current home has as many futures open as it may have.
pub fn flatten<T: Send + 'static>(source: HomeFuture<Nested<T>>) -> Result<HomeFuture<T>, ReserveError> {
    let (target, future) = Home::current().try_future()?;
    follow(source, target);
    Ok(future)
}

/// Each step is taken at the home of the future that has ended: no stack grows with the depth, and no home waits.
fn follow<T: Send + 'static>(source: HomeFuture<Nested<T>>, target: Completer<T>) {
    source.on_done(|outcome| match outcome {
        Ok(Nested::Future(next)) => follow(next, target),
        // What comes back from a target whose home has ended is dropped at the source's home.
        Ok(Nested::Value(value)) => drop(target.finish(Ok(value))),
        Err(end) => drop(target.finish(Err(end))),
    });
}
