//! What a service takes at the broker: its queue, its consumer, its bindings; and how its consumer is known again.

use super::super::command::{PullId, QueueName};
use super::super::connection::{Binding, ConsumerPlan, Drain, EndPlan, Need, PlannedQueue, Sureness};
use super::Key;
use super::wanted::Wanted;
use crate::broker::{Acknowledge, ConsumeSpec, Lane, QueueSpec};
use crate::wire::names::{ANSWERS_KEY, BROADCAST_TOPIC, Exchange, Identifier, Names};

/// How many calls wait at one subscriber's home before the broker keeps the rest. kiwipy sets no limit.
const RPC_PREFETCH: u16 = 1000;
/// The same for broadcasts on their way through the codec thread.
const BROADCAST_PREFETCH: u16 = 1000;

/// Where a delivery goes.
#[derive(Clone, Debug)]
pub(in crate::driver) enum Route {
    Replies,
    Control,
    Broadcasts,
    Rpc(Identifier),
    Tasks(QueueName),
    Pull(PullId),
}

/// The queue that a service has for itself; under the name that it had before, where it had one.
pub(super) fn own_queue(key: &Key, names: &Names, before: Option<String>) -> Option<QueueSpec> {
    let spec = match key {
        Key::Replies(name) => names.reply_queue(name),
        Key::Rpc(_) => names.rpc_queue(),
        Key::Broadcasts => names.broadcast_queue(),
        Key::Control => names.control_queue(),
        Key::Tasks(_) | Key::Pull(_) => return None,
    };
    Some(match before {
        Some(name) => QueueSpec { name, ..spec },
        None => spec,
    })
}

/// The consumer of a service, and how many messages it may have out: 0 for no limit.
pub(super) fn consumer<D>(
    key: &Key,
    wanted: &Wanted<D>,
    own: Option<QueueSpec>,
    lane: Lane,
    sureness: Sureness,
) -> Option<(ConsumerPlan, u16)> {
    let queue = match (own, wanted, key) {
        (Some(spec), ..) => PlannedQueue::Own(spec),
        (None, Wanted::Pull(pull), _) => PlannedQueue::Tasks(pull.queue.clone(), sureness),
        (None, _, Key::Tasks(queue)) => PlannedQueue::Tasks(queue.clone(), sureness),
        _ => return None,
    };
    let name = match &queue {
        PlannedQueue::Own(spec) => spec.name.clone(),
        PlannedQueue::Tasks(queue, _) => queue.to_string(),
    };
    let (tag, places) = match wanted {
        Wanted::Rpc(_) => (rpc_tag(key), RPC_PREFETCH),
        Wanted::Broadcasts(_) => (name.clone(), BROADCAST_PREFETCH),
        Wanted::Tasks(tasks) => (crate::ids::unique().to_string(), tasks.places().unwrap_or(1)),
        Wanted::Pull(_) => (crate::ids::unique().to_string(), 1),
        Wanted::Replies(_) | Wanted::Control => (name.clone(), 0),
    };
    let acknowledge = match wanted {
        Wanted::Replies(_) | Wanted::Control => Acknowledge::None,
        _ => Acknowledge::Manual { prefetch: places },
    };
    let bindings = bindings(key, wanted, &name);
    Some((ConsumerPlan { queue, consume: ConsumeSpec { queue: name, tag, lane, acknowledge }, bindings }, places))
}

/// The tag under which a service consumes its own queue.
pub(super) fn own_tag(key: &Key, queue: &str) -> String {
    if let Key::Rpc(_) = key { rpc_tag(key) } else { queue.to_owned() }
}

/// How the consumer of this tag is ended, and the queue with it that is its service's own.
pub(super) fn end<D>(key: &Key, wanted: &Wanted<D>, tag: String, own_queue: Option<String>) -> EndPlan {
    match (own_queue, key) {
        // What is there by then finds no subscriber and is refused by name: what was delivered, and then what still lies in
        // the queue.
        (Some(queue), Key::Rpc(_)) => {
            EndPlan { tag, bindings: bindings(key, wanted, &queue), own_queue: Some(queue), drain: Drain::Yes }
        }
        (own_queue, _) => EndPlan { tag, own_queue, bindings: Vec::new(), drain: Drain::No },
    }
}

/// The end of a consumer whose queue stays.
pub(super) fn end_of_consumer(tag: String) -> EndPlan {
    EndPlan { tag, own_queue: None, bindings: Vec::new(), drain: Drain::No }
}

/// As kiwipy: consumed under the identifier's name. An empty tag would have the broker choose one.
fn rpc_tag(key: &Key) -> String {
    match key {
        Key::Rpc(identifier) if identifier.as_str().is_empty() => "homing-rpc-without-a-name".to_owned(),
        Key::Rpc(identifier) => identifier.as_str().to_owned(),
        _ => String::new(),
    }
}

fn bindings<D>(key: &Key, wanted: &Wanted<D>, queue: &str) -> Vec<Binding> {
    let message = |key: String, need| Binding { exchange: Exchange::Message, key, need };
    match (key, wanted) {
        (Key::Rpc(identifier), _) => [
            Some(message(identifier.routing_key().to_string(), Need::Required)),
            identifier.gone_key().map(|key| message(key, Need::Extension)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        (Key::Broadcasts, _) => vec![message(BROADCAST_TOPIC.to_owned(), Need::Required)],
        // Under its own name too, so that a probe finds it.
        (Key::Control, _) => {
            vec![message(ANSWERS_KEY.to_owned(), Need::Required), message(queue.to_owned(), Need::Required)]
        }
        (_, Wanted::Replies(replies)) => {
            vec![Binding { exchange: replies.exchange, key: queue.to_owned(), need: Need::Required }]
        }
        _ => Vec::new(),
    }
}

pub(super) fn route_of(key: &Key) -> Route {
    match key {
        Key::Replies(_) => Route::Replies,
        Key::Control => Route::Control,
        Key::Broadcasts => Route::Broadcasts,
        Key::Rpc(identifier) => Route::Rpc(identifier.clone()),
        Key::Tasks(queue) => Route::Tasks(queue.clone()),
        Key::Pull(pull) => Route::Pull(*pull),
    }
}

pub(super) fn key_of(route: &Route, tag: &str) -> Key {
    match route {
        Route::Replies => Key::Replies(tag.into()),
        Route::Control => Key::Control,
        Route::Broadcasts => Key::Broadcasts,
        Route::Rpc(identifier) => Key::Rpc(identifier.clone()),
        Route::Tasks(queue) => Key::Tasks(queue.clone()),
        Route::Pull(pull) => Key::Pull(*pull),
    }
}

/// For events and errors.
pub(super) fn name_of(key: &Key) -> String {
    match key {
        Key::Replies(_) => "replies".to_owned(),
        Key::Control => "control".to_owned(),
        Key::Broadcasts => "broadcasts".to_owned(),
        Key::Rpc(identifier) => identifier.as_str().to_owned(),
        Key::Tasks(queue) => queue.to_string(),
        Key::Pull(_) => "a pulled task".to_owned(),
    }
}
