//! What is sent: a value, or a value of any type that serde can write.

use serde::Serialize;

use crate::codec::Value;
use crate::error::Result;

/// The body of a message that is to be sent. Everything that converts to a [`Value`] converts to a body; a type of your own
/// does by [`Body::of`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Body, Communicator};
///
/// #[derive(serde::Serialize)]
/// struct Job { path: String, retries: u8 }
///
/// let communicator = Communicator::connect("memory:").await?;
/// let job = Job { path: "in.csv".to_owned(), retries: 3 };
/// communicator.task_send(Body::of(&job)).no_reply().await?;
///
/// let task = communicator.default_task_queue()?.try_next().await?;
/// assert_eq!(task.body().get("retries").and_then(homing::Value::as_i64), Some(3));
/// # task.finish(());
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone, Debug)]
pub struct Body(Result<Value>);

impl Body {
    /// A body of any type that serde can write. If it cannot be written, sending it fails with `Encode`.
    #[must_use]
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Body(Value::from_serialize(value))
    }

    /// The value.
    ///
    /// # Errors
    /// `Encode` when it cannot be written.
    pub(super) fn into_value(self) -> Result<Value> {
        self.0
    }
}

impl<T: Into<Value>> From<T> for Body {
    fn from(value: T) -> Self {
        Body(Ok(value.into()))
    }
}
