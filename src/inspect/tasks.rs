//! What waits in a task queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::with_broker;
use crate::CommunicatorBuilder;
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::rabbitmq::inspect::Seen;
use crate::codec::Value;
use crate::error::Result;
use crate::wire::names::check_queue;
use crate::wire::task::{self, NoReply};

/// A look takes no more than this into memory at once, whatever its limit.
const MOST_BYTES: usize = 64 << 20;

/// How long a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// Messages that wait. Those that workers hold are not counted: AMQP does not report them.
    pub ready: u32,
    /// Who takes messages from it as they come.
    pub consumers: u32,
}

/// What [`peek`] saw.
#[derive(Debug)]
#[non_exhaustive]
pub struct Peek {
    /// In the order of the queue.
    pub tasks: Vec<PeekedTask>,
    /// True when it ended before its limit since the bodies had passed 64 MiB.
    pub too_many_bytes: bool,
}

/// A message that waits in a queue.
#[derive(Debug)]
#[non_exhaustive]
pub struct PeekedTask {
    /// The message's own id.
    pub message_id: Option<String>,
    /// The sender's mark.
    pub correlation_id: Option<String>,
    /// True when it was delivered before, to a worker or to an earlier `peek`.
    pub redelivered: bool,
    /// How long ago its sender made it, where it carries a timestamp (kiwipy's do not).
    pub age: Option<Duration>,
    /// Its headers, for people to read; those of a quarantine queue have the reason why a task is there.
    pub headers: Vec<(String, String)>,
    /// How long its body is.
    pub bytes: usize,
    /// The task, and whether its sender wants no reply; or why it cannot be read.
    pub task: Result<(Value, bool)>,
}

/// Counts what waits in a queue, and changes nothing there.
///
/// # Errors
/// `NotFound` when there is no such queue; otherwise as [`CommunicatorBuilder::connect`].
///
/// # Cancel safety
/// Dropping it leaves the question to end by itself, in bounded time.
pub async fn depth(options: &CommunicatorBuilder, queue: &str) -> Result<Depth> {
    check_queue(queue)?;
    let queue = queue.to_owned();
    with_broker(options, async move |broker: &RabbitMq| {
        let depth = broker.depth(&queue).await?;
        Ok(Depth { ready: depth.ready, consumers: depth.consumers })
    })
    .await
}

/// Shows the first `most` messages of a queue.
///
/// # Behavior
/// AMQP cannot show messages: they are fetched and given back at once, in their order, and **the broker marks them as redelivered**
/// from then on, although nobody has run them. Meanwhile (for milliseconds) workers do not get them. Nothing is lost when this
/// program dies in between: the broker takes back what was not acknowledged. (kiwipy's queues are classic; a quorum queue counts this towards its delivery limit.)
///
/// # Errors
/// `NotFound` when there is no such queue; otherwise as [`CommunicatorBuilder::connect`].
///
/// # Cancel safety
/// Dropping it leaves the question to end by itself, in bounded time; the messages are given back.
pub async fn peek(options: &CommunicatorBuilder, queue: &str, most: usize) -> Result<Peek> {
    check_queue(queue)?;
    let queue = queue.to_owned();
    let look = async move |broker: &RabbitMq| broker.peek(&queue, most, MOST_BYTES).await;
    let looked = with_broker(options, look).await?;
    let tasks = looked.seen.into_iter().map(|seen| read(options, seen)).collect();
    Ok(Peek { tasks, too_many_bytes: looked.too_many_bytes })
}

fn read(options: &CommunicatorBuilder, seen: Seen) -> PeekedTask {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PeekedTask {
        message_id: seen.message_id,
        correlation_id: seen.correlation_id,
        redelivered: seen.redelivered,
        age: seen.timestamp.map(|made| now.saturating_sub(Duration::from_secs(made))),
        headers: seen.headers,
        bytes: seen.body.len(),
        task: options
            .codec
            .decode(&seen.body)
            .and_then(task::decode)
            .map(|(body, no_reply)| (body, no_reply == NoReply::Yes)),
    }
}
