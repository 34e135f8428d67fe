//! How long a handler may take. Its time ends by the communicator's clock: its home may have none.

use std::future::Future;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::answer::Settled;
use super::context::Context;
use super::failure::HandlerError;
use crate::error::ErrorKind;
use crate::panics::drop_guarded;

/// What a handler answers within its time; a failure when the time is over, whatever it does then. A future is dropped.
pub(super) async fn within(
    context: &Context,
    limit: Option<Duration>,
    handled: impl Future<Output = Settled>,
) -> Settled {
    let Some(limit) = limit else { return handled.await };
    let at = crate::time::from_now(limit);
    // Guards: a home that is full. The handler runs all the same, and the wait for a place ends with its time.
    let over = async {
        match context.port.future(&"the time limit of a handler", Some(at)).await {
            Ok((completer, over)) => {
                let _timer = context.port.handler_timer(at, completer);
                over.await.is_ok()
            }
            Err(error) => error.kind() == ErrorKind::TimedOut,
        }
    };
    // The handler first: an answer that is there counts.
    match select(Box::pin(handled), Box::pin(over)).await {
        Either::Left((answered, _)) => answered,
        Either::Right((true, handled)) => {
            // Guards: a handler's future that panics as it is dropped, which would take the outcome along, and have a task
            // handed out again, and again.
            drop_guarded(handled, "a handler that was over its time limit");
            let text = format!("the handler took longer than its time limit of {limit:?}");
            Err(HandlerError::exception(text).with_type("homing::TimeLimit"))
        }
        // The communicator has ended, and its clock with it.
        Either::Right((false, handled)) => handled.await,
    }
}
