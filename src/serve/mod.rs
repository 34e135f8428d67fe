//! The side of subscribers: what a subscriber is and answers, and how calls, tasks and broadcasts are served at its home.
//!
//! A delivery comes from the [driver](crate::driver) to the subscriber's task at its home ([`rpc`], [`task`], [`broadcast`]),
//! which runs the handler and sends its [answer] back as a command. Broadcasts pass the [codec thread](codec_loop) first.

mod answer;
mod broadcast;
mod codec_loop;
mod context;
mod failure;
mod filter;
mod registration;
mod rpc;
mod task;
mod time_limit;
#[cfg(feature = "tower")]
mod tower;

pub use crate::wire::response::ErrorDetails;
pub use answer::{Answer, IntoResponse, Later, Promise, Subscriber};
pub(crate) use broadcast::stream as broadcast_stream;
pub use broadcast::{Broadcast, BroadcastSubscriber, Broadcasts, Lagged};
pub(crate) use codec_loop::start as start_codec_loop;
pub(crate) use codec_loop::{CodecInput, Handing};
pub(crate) use context::{Context, Defaults};
pub use failure::{Failure, HandlerError, HandlerResult};
pub use filter::BroadcastFilter;
pub(crate) use registration::remove as remove_subscriber;
pub(crate) use rpc::with_refusal;
pub use rpc::{CallerGone, RpcRequest, RpcSubscriber};
pub(crate) use task::add as add_task_subscriber;
pub use task::{IncomingTask, OwnershipLost, TaskRequest, TaskSubscriber};
pub(crate) use {broadcast::add as add_broadcast_subscriber, rpc::add as add_rpc_subscriber};
