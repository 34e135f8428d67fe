//! Inspects a broker and changes nothing: the part behind `homing doctor` and `homing task list`.
//!
//! Each question has a channel of its own, since the server answers a refused one by closing the channel. What exists is
//! asked for passively; only an object that was there a moment ago is then declared with our arguments, which changes
//! nothing if they are equal and is refused, with the name of the argument, if they are not.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicNackOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::endpoint::Endpoint;
use super::message::properties;
use super::topology::{settle, short};
use super::wire::Socket;
use super::{RabbitMq, connector, errors};
use crate::broker::{Broker, ExchangeSpec, Properties, QueueSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::names::QUARANTINE;

/// How long the server may take to answer one question.
const QUESTION: Duration = Duration::from_secs(10);

/// How much longer for each message that is got.
const MESSAGE: Duration = Duration::from_millis(20);

/// The addresses of the host, each once.
pub(crate) async fn look_up(endpoint: &Endpoint, limit: Duration) -> Result<Vec<IpAddr>> {
    let found = timeout(limit, connector::look_up(endpoint)).await.map_err(|_| {
        let text = format!("the host name {} could not be looked up within {limit:?}", endpoint.host);
        Error::new(ErrorKind::Connection, text)
    })?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(addresses)
}

/// A TCP connection, and nothing on it.
pub(crate) async fn tcp(endpoint: &Endpoint, limit: Duration) -> Result<(TcpStream, SocketAddr)> {
    let connected = timeout(limit, connector::tcp(endpoint, crate::time::from_now(limit))).await;
    let stream = connected
        .map_err(|_| errors::connect_timed_out(endpoint, limit, "did not accept a TCP connection"))
        .and_then(|connected| connected)?;
    let peer = stream.peer_addr().map_err(|error| errors::tcp(&endpoint.address(), &error))?;
    Ok((stream, peer))
}

/// The TLS handshake on a TCP connection; what was agreed on, where it is known.
pub(crate) async fn tls(endpoint: &Endpoint, stream: TcpStream, limit: Duration) -> Result<Option<String>> {
    let secured = timeout(limit, connector::secure(endpoint, Socket::Tcp(stream))).await.map_err(|_| {
        errors::connect_timed_out(endpoint, limit, "accepted the TCP connection but did not answer the TLS handshake")
    })??;
    Ok(match secured {
        #[cfg(feature = "tls")]
        lapin::AsyncTcpStream::Rustls(stream) => {
            stream.get_ref().1.protocol_version().map(|version| format!("{version:?}"))
        }
        _ => None,
    })
}

/// What the handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// Zero for none.
    pub heartbeat: Duration,
    pub channel_max: u16,
    pub frame_max: u32,
}

/// What the broker reports of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    pub ready: u32,
    pub consumers: u32,
}

/// An exchange or a queue, compared with what this program would declare.
#[derive(Debug)]
pub(crate) enum Object<T> {
    Absent,
    Same(T),
    /// It exists with other arguments; the error names them.
    Differs(T, Error),
    /// The server did not report it.
    Unknown(Error),
}

/// A message that was looked at, and is in its queue still.
#[derive(Debug)]
pub(crate) struct Seen {
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub redelivered: bool,
    /// Seconds since 1970, where the sender has set it.
    pub timestamp: Option<u64>,
    /// Those that are no text as people read them.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What was looked at, and why it ended before the limit.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub seen: Vec<Seen>,
    /// More bytes than were allowed had come.
    pub too_many_bytes: bool,
}

impl RabbitMq {
    pub(crate) fn negotiated(&self) -> Option<Negotiated> {
        self.shared.consuming.configuration().map(|agreed| Negotiated {
            heartbeat: Duration::from_secs(agreed.heartbeat().into()),
            channel_max: agreed.channel_max(),
            frame_max: agreed.frame_max(),
        })
    }

    /// How long the server takes to answer a question that it can answer at once; the median of several.
    pub(crate) async fn round_trip(&self) -> Result<Duration> {
        const TIMES: usize = 5;
        self.question("ask for the exchange \"amq.topic\"", async |channel| {
            let mut times = Vec::with_capacity(TIMES);
            for _ in 0..TIMES {
                let since = Instant::now();
                // Every virtual host has it.
                let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let name = "amq.topic".into();
                channel.exchange_declare(name, ExchangeKind::Topic, passive, FieldTable::default()).await?;
                times.push(since.elapsed());
            }
            times.sort_unstable();
            Ok(times[TIMES / 2])
        })
        .await
    }

    pub(crate) async fn compare_exchange(&self, spec: &ExchangeSpec) -> Object<()> {
        compare(self.find_exchange(&spec.name).await, self.declare_exchange(spec)).await
    }

    pub(crate) async fn compare_queue(&self, spec: &QueueSpec) -> Object<Depth> {
        compare(self.depth(&spec.name).await, self.declare_queue(spec)).await
    }

    async fn find_exchange(&self, name: &str) -> Result<()> {
        let exchange = short("exchange name", name)?;
        self.question(&format!("look at the exchange {name:?}"), async |channel| {
            let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(exchange, ExchangeKind::Topic, passive, FieldTable::default()).await
        })
        .await
    }

    /// How many messages and consumers a queue has.
    pub(crate) async fn depth(&self, name: &str) -> Result<Depth> {
        let queue = short("queue name", name)?;
        self.question(&format!("look at the queue {name:?}"), async |channel| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(queue, passive, FieldTable::default()).await?;
            Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
        })
        .await
        .map_err(|error| no_such_queue(name, error))
    }

    /// Gets messages and gives them back, all at once, so that they keep their order. They are marked as redelivered from
    /// then on. When the connection ends in between, the server gives them back itself.
    pub(crate) async fn peek(&self, name: &str, most: usize, most_bytes: usize) -> Result<Looked> {
        let queue = short("queue name", name)?;
        let limit = QUESTION + MESSAGE * u32::try_from(most).unwrap_or(u32::MAX);
        self.question_within(limit, &format!("look into the queue {name:?}"), async |channel| {
            let mut looked = Looked::default();
            let (mut last, mut bytes) = (None, 0);
            while looked.seen.len() < most {
                let got = channel.basic_get(queue.clone(), BasicGetOptions { no_ack: false }).await?;
                let Some(got) = got else { break };
                let delivery = got.delivery;
                last = Some(delivery.delivery_tag);
                bytes += delivery.data.len();
                if bytes > most_bytes && !looked.seen.is_empty() {
                    looked.too_many_bytes = true;
                    break;
                }
                let diverted = self.shared.consuming.diverted.take(channel.id(), delivery.delivery_tag);
                looked.seen.push(seen(delivery, diverted));
            }
            if let Some(last) = last {
                channel.basic_nack(last, BasicNackOptions { multiple: true, requeue: true }).await?;
            }
            Ok(looked)
        })
        .await
        .map_err(|error| no_such_queue(name, error))
    }

    async fn question<T>(&self, what: &str, ask: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> Result<T> {
        self.question_within(QUESTION, what, ask).await
    }

    /// Asks on a channel that is closed, and so answered to the last frame, before the answer is given.
    async fn question_within<T>(
        &self,
        limit: Duration,
        what: &str,
        ask: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T> {
        let shared = &self.shared;
        let answer = async {
            let asked = async {
                let channel = shared.consuming.open_channel().await?;
                let answer = ask(&channel).await?;
                channel.close(200, "asked".into()).await?;
                Ok(answer)
            };
            match asked.await {
                Ok(answer) => Ok(answer),
                Err(error) => Err(settle(&shared.life, what, &error).await),
            }
        };
        match timeout(limit, shared.life.until_end(pin!(answer))).await {
            Ok(answer) => answer,
            Err(_) => Err(errors::timed_out(what, &shared.address, limit)),
        }
    }
}

/// A queue that is asked for and is not there, with what to do about it.
fn no_such_queue(name: &str, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let what_makes_it = if name.ends_with(QUARANTINE) {
        "it is made when a task is put into quarantine, which none was"
    } else {
        "check the name, or send a task or start a worker, which makes the queue"
    };
    let text = format!("there is no queue {name:?} in this virtual host; {what_makes_it}");
    Error::with_source(ErrorKind::NotFound, text, error)
}

/// What is not there is not declared: this must not create anything.
async fn compare<T>(found: Result<T>, declare: impl Future<Output = Result<()>>) -> Object<T> {
    let found = match found {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Object::Absent,
        Err(error) => return Object::Unknown(error),
    };
    match declare.await {
        Ok(()) => Object::Same(found),
        Err(error) if error.kind() == ErrorKind::PreconditionFailed => Object::Differs(found, error),
        Err(error) => Object::Unknown(error),
    }
}

fn seen(delivery: lapin::message::Delivery, diverted: Option<Properties>) -> Seen {
    let properties = diverted.unwrap_or_else(|| properties(&delivery.properties));
    let timestamp = properties.rest().and_then(|rest| rest.timestamp);
    Seen {
        redelivered: delivery.redelivered,
        timestamp,
        headers: properties.headers().iter().map(|(name, value)| (name.clone(), value.shown())).collect(),
        message_id: properties.message_id.map(|id| id.to_string()),
        correlation_id: properties.correlation_id.map(|id| id.to_string()),
        body: delivery.data,
    }
}
