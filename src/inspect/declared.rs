//! What a communicator declares under its names, for who compares it with what a broker has.

use crate::CommunicatorBuilder;
use crate::broker::rabbitmq::endpoint::Endpoint;
use crate::broker::url::BrokerUrl;
use crate::broker::{Access, AutoDelete, Durability, ExchangeSpec, QueueSpec, queue_milliseconds};
use crate::codec::Map;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::names::Exchange;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An exchange of type topic.
    Exchange,
    /// A classic queue.
    Queue,
}

/// An exchange or a queue as a communicator of these options declares it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Declared {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// `durable`, `auto_delete`, for a queue `exclusive`, and for an exchange `type`.
    pub properties: Map,
    /// `x-message-ttl` and the like.
    pub arguments: Map,
    /// The exchange to which it is bound by its own name, if it is.
    pub bound_to: Option<String>,
}

/// The lasting objects that a communicator of these options declares: its exchanges, its task queue and the quarantine queue. (The
/// queues of calls, broadcasts and replies go with their connection.)
///
/// # Errors
/// `InvalidArgument` for a name that cannot be used.
pub fn declared(options: &CommunicatorBuilder) -> Result<Vec<Declared>> {
    options.names.check()?;
    let (exchanges, queues) = specs(options);
    let task_exchange = options.names.task_exchange.to_string();
    let task_queue = options.names.task_queue.to_string();
    let queues = queues.into_iter().map(|spec| {
        let bound_to = (spec.name == task_queue).then(|| task_exchange.clone());
        queue(spec, bound_to)
    });
    Ok(exchanges.iter().map(exchange).chain(queues).collect())
}

/// Where options lead: what an operator has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The virtual host on the broker.
    pub virtual_host: String,
    /// The task queue.
    pub task_queue: String,
    /// Who logs in.
    pub user: String,
}

/// Reads the URL (the first of several) and the names of these options.
///
/// # Errors
/// `InvalidArgument` for a URL or a name that cannot be used, or for `memory:`.
pub fn target(options: &CommunicatorBuilder) -> Result<Target> {
    options.names.check()?;
    let task_queue = options.names.task_queue.to_string();
    match super::brokers(options)?.into_iter().next() {
        None => Err(Error::new(ErrorKind::InvalidArgument, "there is no broker in these options")),
        // Everybody who may open its socket is the same there.
        Some(BrokerUrl::Local(_)) => Ok(Target { virtual_host: "/".to_owned(), task_queue, user: "guest".to_owned() }),
        Some(broker) => {
            let endpoint = Endpoint::from_url(&broker)?;
            Ok(Target { virtual_host: endpoint.vhost, task_queue, user: endpoint.username })
        }
    }
}

/// What [`declared`] returns, in the types of the broker floor; the quarantine queue is the last.
pub(super) fn specs(options: &CommunicatorBuilder) -> (Vec<ExchangeSpec>, Vec<QueueSpec>) {
    let names = &options.names;
    let mut exchanges = vec![names.exchange(Exchange::Message)];
    if names.task_exchange != names.message_exchange {
        exchanges.push(names.exchange(Exchange::Task));
    }
    (exchanges, vec![names.task_queue(&names.task_queue), names.quarantine_queue(&names.task_queue)])
}

fn exchange(spec: &ExchangeSpec) -> Declared {
    let mut properties = Map::new();
    properties.insert("type", "topic");
    properties.insert("durable", spec.durability == Durability::Durable);
    properties.insert("auto_delete", spec.auto_delete == AutoDelete::Yes);
    Declared { kind: Kind::Exchange, name: spec.name.to_string(), properties, arguments: Map::new(), bound_to: None }
}

fn queue(spec: QueueSpec, bound_to: Option<String>) -> Declared {
    let mut properties = Map::new();
    properties.insert("durable", spec.durability == Durability::Durable);
    properties.insert("auto_delete", spec.auto_delete == AutoDelete::Yes);
    properties.insert("exclusive", spec.access == Access::Exclusive);
    let mut arguments = Map::new();
    for (name, time) in [("x-message-ttl", spec.message_ttl), ("x-expires", spec.expires)] {
        if let Some(time) = time {
            arguments.insert(name, i64::from(queue_milliseconds(time)));
        }
    }
    if let Some(priorities) = spec.priorities {
        arguments.insert("x-max-priority", i64::from(priorities));
    }
    Declared { kind: Kind::Queue, name: spec.name, properties, arguments, bound_to }
}
