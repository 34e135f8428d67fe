//! Many futures as one, or one after the other as they end, whatever their homes are.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;

use super::super::{End, Home, HomeFuture, Outcome, ReserveError};

/// Waits for all of them, on the current home; their homes may be others. The values come in the order of the futures. The
/// first that ends without a value ends the whole, as kiwipy's does, and the others are given up.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_home::{EventLoop, Home};
///
/// let event_loop = EventLoop::start("loop")?;
/// let (one, first) = event_loop.handle().home().try_future()?;
/// let (two, second) = Home::current().try_future()?;
/// std::thread::spawn(move || (two.complete("two"), one.complete("one")));
/// assert_eq!(homing_home::futures::gather([first, second]).await?, ["one", "two"]);
/// # Ok(()) }
/// ```
///
/// # Errors
/// The [`End`] of the first that ended without a value; [`End::Full`] when the current home has no place for one more, and
/// [`End::HomeEnded`] when it has ended.
///
/// # Cancel safety
/// Dropped, it gives all of them up.
pub async fn gather<T: Send + 'static>(futures: impl IntoIterator<Item = HomeFuture<T>>) -> Outcome<Vec<T>> {
    let here = brought_here(futures).map_err(|error| match error {
        ReserveError::Full => End::Full,
        _ => End::HomeEnded,
    })?;
    try_join_all(here).await
}

/// The outcomes one after the other, as they come. To be made and asked on one home; those of the futures may be others.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_home::Home;
///
/// let (one, first) = Home::current().try_future()?;
/// let (two, second) = Home::current().try_future()?;
/// let mut done = homing_home::futures::as_completed([first, second])?;
/// two.complete("two")?;
/// assert_eq!(done.next().await, Some((1, Ok("two"))));
/// drop(one);
/// assert!(matches!(done.next().await, Some((0, Err(_)))));
/// assert_eq!(done.next().await, None);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`ReserveError`] when the current home has no place for one more, or has ended.
pub fn as_completed<T: Send + 'static>(
    futures: impl IntoIterator<Item = HomeFuture<T>>,
) -> Result<AsCompleted<T>, ReserveError> {
    let numbered = brought_here(futures)?.into_iter().enumerate().map(|(index, future)| {
        let numbered: Numbered<T> = Box::pin(async move { (index, future.await) });
        numbered
    });
    Ok(AsCompleted(numbered.collect()))
}

type Numbered<T> = Pin<Box<dyn Future<Output = (usize, Outcome<T>)> + Send>>;

/// The outcomes of several futures, as they come; a [`Stream`]. Made by [`as_completed`].
///
/// # Cancel safety
/// A wait for the next outcome may be dropped and made again. Dropped itself, it gives up the futures that have not ended.
#[must_use = "dropped, it gives the futures up"]
pub struct AsCompleted<T: Send + 'static>(FuturesUnordered<Numbered<T>>);

impl<T: Send + 'static> AsCompleted<T> {
    /// The next outcome, with the number of its future among those given; `None` after the last.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<(usize, Outcome<T>)> {
        self.0.next().await
    }

    /// How many have not ended, or not been asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when all were given out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Send + 'static> Stream for AsCompleted<T> {
    type Item = (usize, Outcome<T>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<T: Send + 'static> fmt::Debug for AsCompleted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.len()).finish()
    }
}

fn brought_here<T: Send + 'static>(
    futures: impl IntoIterator<Item = HomeFuture<T>>,
) -> Result<Vec<HomeFuture<T>>, ReserveError> {
    let here = Home::current();
    futures.into_iter().map(|future| if future.is_here() { Ok(future) } else { future.bring_to(&here) }).collect()
}
