//! `homing rpc list`: who answers calls, where that can be known.

use std::collections::BTreeMap;
use std::time::Duration;

use homing::codec::Map;
use homing::inspect::{self, Kind};
use homing::{CommunicatorBuilder, Value};

use crate::args::{Format, Global};
use crate::connection::{close, connect, options};
use crate::doctor::{Management, in_background, segment};
use crate::failure::Failure;
use crate::in_hand::{Consumer, bindings, consumers};
use crate::output::without_controls;
use crate::stop::{Stop, or_interrupted};
use crate::{not_given, note, out, presence, values};

/// What the routing key of a call begins with.
const TOPIC: &str = "[rpc].";

/// One name that is answered under.
#[derive(Default)]
struct Server {
    /// What servers of homing answered.
    homing: Vec<Map>,
    /// What the management API knows, where it was asked.
    subscribers: Vec<Option<Consumer>>,
}

pub(crate) async fn run(wait: Duration, management: Option<&str>, global: &Global, stop: Stop) -> Result<(), Failure> {
    or_interrupted(stop, async {
        let mut servers: BTreeMap<String, Server> = BTreeMap::new();
        if let Some(management) = management {
            for (identifier, consumer) in subscribers(&options(global)?, management).await? {
                servers.entry(identifier).or_default().subscribers.push(consumer);
            }
        }
        let communicator = connect(global).await?;
        for answer in presence::ask(&communicator, None, wait).await? {
            let Value::Map(mut map) = answer else { continue };
            if map.get("kind").and_then(Value::as_str) != Some("rpc") {
                continue;
            }
            let Some(Value::String(name)) = map.remove("name") else { continue };
            map.remove("kind");
            servers.entry(name.to_string()).or_default().homing.push(map);
        }
        close(&communicator).await?;
        if servers.is_empty() {
            note!("nobody is known to answer calls here");
            not_given::note(&global.broker);
        }
        if not_given::is_local(&global.broker) {
            note!("only servers of homing's command are seen");
        } else if management.is_none() {
            note!("only servers of homing's command are seen; with --management URL every subscriber is");
        }
        for (identifier, server) in &servers {
            print(identifier, server, management.is_some(), global.output.format)?;
        }
        Ok(())
    })
    .await
}

/// Every subscriber to calls that the broker knows, by name, and who it is.
async fn subscribers(
    options: &CommunicatorBuilder,
    management: &str,
) -> Result<Vec<(String, Option<Consumer>)>, Failure> {
    let management = Management::at(management)?;
    let exchange = inspect::declared(options)?.into_iter().find(|declared| declared.kind == Kind::Exchange);
    let Some(exchange) = exchange else { return Ok(Vec::new()) };
    let vhost = segment(&inspect::target(options)?.virtual_host);
    in_background(move || {
        let consumers = consumers(&management, &vhost)?;
        let of = |queue: &str| consumers.iter().find(|consumer| consumer.queue == queue).cloned();
        let bindings = bindings(&management, &vhost, &exchange.name)?;
        let named = |(key, queue): (String, String)| Some((key.strip_prefix(TOPIC)?.to_owned(), of(&queue)));
        Ok(bindings.into_iter().filter_map(named).collect())
    })
    .await?
}

fn print(identifier: &str, server: &Server, asked: bool, format: Format) -> Result<(), Failure> {
    let Server { homing, subscribers } = server;
    if format == Format::Json {
        let mut map = Map::new();
        map.insert("identifier", identifier);
        map.insert("homing", homing.iter().cloned().map(Value::Map).collect::<Vec<_>>());
        let known = |one: &Option<Consumer>| one.as_ref().map_or(Value::Null, |one| Value::Map(one.to_map()));
        let subscribers = asked.then(|| subscribers.iter().map(known).collect::<Vec<_>>());
        map.insert("subscribers", subscribers.map_or(Value::Null, Value::from));
        return values::print(&Value::Map(map), format);
    }
    let mut line = without_controls(identifier);
    for consumer in subscribers {
        match consumer {
            Some(Consumer { user, peer, .. }) => line.push_str(&format!("  subscriber {user} at {peer}")),
            None => line.push_str("  subscriber that takes nothing just now"),
        }
    }
    for server in homing {
        line.push_str(&format!("  {}", presence::shown(server)));
    }
    out!("{line}")?;
    Ok(())
}
