//! What is in the hands of whom: what AMQP does not tell, and RabbitMQ's management API does, some seconds late.

use homing::CommunicatorBuilder;
use homing::codec::Map;
use homing::inspect;
use serde_json::Value as Json;

use crate::doctor::{Answer, Management, in_background, segment};
use crate::failure::Failure;

/// A consumer, as the API shows it.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub queue: String,
    pub user: String,
    /// Its end of the connection.
    pub peer: String,
    /// The channel, by the API's name.
    channel: String,
}

impl Consumer {
    pub(crate) fn to_map(&self) -> Map {
        let mut map = Map::new();
        map.insert("user", self.user.as_str());
        map.insert("peer", self.peer.as_str());
        map
    }
}

/// A question to the API about this virtual host.
fn ask(management: &Management, path: &str) -> Result<Option<Json>, Failure> {
    match management.get(path) {
        Ok(Answer { status: 200, body }) => Ok(Some(body)),
        Ok(Answer { status: 404, .. }) => Ok(None),
        Ok(Answer { status: 401, .. }) => Err(Failure::Other(
            "the management API refuses this user: wrong name or password, or it lacks the tag `monitoring`".to_owned(),
        )),
        Ok(Answer { status, .. }) => Err(Failure::Other(format!("the management API answers with status {status}"))),
        Err(why) => Err(Failure::Other(why)),
    }
}

/// Every consumer of the virtual host.
pub(crate) fn consumers(management: &Management, vhost: &str) -> Result<Vec<Consumer>, Failure> {
    let found = ask(management, &format!("/api/consumers/{vhost}"))?.unwrap_or(Json::Null);
    let consumer = |one: &Json| {
        let of = |value: &Json| value.as_str().unwrap_or("?").to_owned();
        let channel = &one["channel_details"];
        Consumer {
            queue: of(&one["queue"]["name"]),
            user: of(&channel["user"]),
            peer: format!("{}:{}", of(&channel["peer_host"]), channel["peer_port"].as_u64().unwrap_or(0)),
            channel: of(&channel["name"]),
        }
    };
    Ok(found.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(consumer).collect())
}

/// The bindings of an exchange: routing key and queue.
pub(crate) fn bindings(management: &Management, vhost: &str, exchange: &str) -> Result<Vec<(String, String)>, Failure> {
    let path = format!("/api/exchanges/{vhost}/{}/bindings/source", segment(exchange));
    let found = ask(management, &path)?.unwrap_or(Json::Null);
    let all = found.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |one: &Json, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|one| (text(one, "routing_key"), text(one, "destination"))).collect())
}

/// The tasks of a queue that are not acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand {
    pub unacknowledged: u64,
    /// Of each worker, how many; as far as the API knows it.
    pub workers: Vec<(Consumer, u64)>,
}

/// # Errors
/// `Other` when the API does not answer.
pub(crate) async fn of_queue(
    options: &CommunicatorBuilder,
    management: Management,
    queue: &str,
) -> Result<InHand, Failure> {
    let vhost = segment(&inspect::target(options)?.virtual_host);
    let queue = queue.to_owned();
    in_background(move || {
        let path = format!("/api/queues/{vhost}/{}", segment(&queue));
        let Some(found) = ask(&management, &path)? else { return Ok(InHand::default()) };
        let number = |value: &Json| value["messages_unacknowledged"].as_u64().unwrap_or(0);
        let unacknowledged = number(&found);
        let mut workers = Vec::new();
        for consumer in consumers(&management, &vhost)?.into_iter().filter(|consumer| consumer.queue == queue) {
            let channel = ask(&management, &format!("/api/channels/{}", segment(&consumer.channel)))?;
            workers.push((consumer, channel.as_ref().map_or(0, number)));
        }
        Ok(InHand { unacknowledged, workers })
    })
    .await?
}
