//! RabbitMQ, by lapin as a thin wire.
//!
//! Two connections: one publishes and does nothing else, one declares, consumes and acknowledges, for a broker in alarm
//! stops reading from publishers, and acknowledgements must not be stuck behind that. When either is lost, both go,
//! and the broker is finished.
//!
//! lapin runs an I/O thread for each connection; everything else happens on the communicator thread, in its `LocalSet`.
//! lapin's recovery is off: what to do about a lost connection is the supervisor's to decide.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use crate::log::{debug, info};
use futures_util::{FutureExt, StreamExt};
use lapin::Event;
use tokio::task::spawn_local;

use self::beside::Beside;
use self::connector::Plan;
use self::endpoint::Endpoint;
use self::lanes::Lanes;
use self::life::{Life, panicked};
use self::link::{Link, Role};
use self::publisher::Publisher;
use self::tap::{Farewell, Returns};
use self::topology::Topology;
#[cfg(all(unix, feature = "local"))]
use super::Kept;
use super::url::{BrokerUrl, LocalPlace};
use super::{
    Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, EventSender, ExchangeSpec, Lane, Message, Nack,
    PublishId, QueueSpec, Receipt,
};
use crate::error::{Error, ErrorKind, Result};
use crate::panics;

mod beside;
mod connector;
pub(crate) mod endpoint;
pub(crate) mod errors;
mod frames;
pub(crate) mod inspect;
mod lanes;
mod life;
mod link;
#[cfg(all(unix, feature = "local"))]
pub(crate) mod local;
mod message;
mod publisher;
mod tap;
#[cfg(test)]
mod tests;
mod topology;
pub(crate) mod transfer;
mod turn;
mod wire;

/// Channels that consumers leave free: that of topology, that of questions beside it, that of lane 0, and one for a channel that is
/// opened while an old one closes.
const OTHER_CHANNELS: u16 = 4;

/// After the loss of one connection, how long the other may take to close in order.
const FAREWELL: Duration = Duration::from_secs(1);

/// A broker that is connected, or was.
pub(crate) struct RabbitMq {
    shared: Rc<Shared>,
    /// What keeps the broker alive, where this process hosts it.
    #[cfg(all(unix, feature = "local"))]
    kept: Option<Kept>,
}

struct Shared {
    address: Rc<str>,
    life: Rc<Life>,
    consuming: Rc<Link>,
    publishing: Rc<Link>,
    topology: Topology,
    beside: Beside,
    lanes: Rc<Lanes>,
    publisher: Rc<Publisher>,
}

impl RabbitMq {
    /// Connects to the endpoint; [`Broker::connect`] with the URL read.
    pub(crate) async fn connect_to(endpoint: &Endpoint, options: &ConnectOptions, events: EventSender) -> Result<Self> {
        let limit = endpoint.connect_timeout.unwrap_or(options.connect_timeout);
        let deadline = crate::time::from_now(limit);
        let name = endpoint.connection_name.as_deref().unwrap_or(&options.connection_name);
        let plan = |role: Role, returns: Option<Returns>| Plan {
            endpoint,
            role,
            name: match role {
                Role::Consuming => name.to_owned(),
                Role::Publishing => format!("{name} (publishing)"),
            },
            heartbeat: options.heartbeat,
            returns,
            deadline,
            limit,
        };
        let returns = Returns::default();
        let consuming = Rc::new(connector::connect(plan(Role::Consuming, None)).await?);
        let publishing = match connector::connect(plan(Role::Publishing, Some(returns.clone()))).await {
            Ok(link) => Rc::new(link),
            Err(error) => {
                let _ = consuming.close(crate::time::from_now(FAREWELL)).await;
                return Err(error);
            }
        };

        let address: Rc<str> = endpoint.address().into();
        let life = Rc::new(Life::new(events));
        let limit = options.operation_timeout;
        let of = |link: &Rc<Link>| (Rc::clone(link), Rc::clone(&life), Rc::clone(&address));
        let (link, its_life, its_address) = of(&publishing);
        let publisher = Rc::new(Publisher::new(link, its_life, its_address, limit, returns));
        let (link, its_life, its_address) = of(&consuming);
        let lanes = Rc::new(Lanes::new(link, its_life, its_address, limit));
        let (link, its_life, its_address) = of(&consuming);
        let topology = Topology::new(link, its_life, its_address, limit);
        let (link, its_life, its_address) = of(&consuming);
        let beside = Beside::new(link, its_life, its_address, limit);

        let shared = Rc::new(Shared { address, life, consuming, publishing, topology, beside, lanes, publisher });
        for link in [&shared.consuming, &shared.publishing] {
            spawn_local(Rc::clone(&shared).watch(Rc::clone(link)));
        }
        shared.life.spawn(Rc::clone(&shared.publisher).run());
        let broker = RabbitMq {
            shared,
            #[cfg(all(unix, feature = "local"))]
            kept: None,
        };
        let shared = &broker.shared;
        if let Err(error) = shared.life.guarded(shared.publisher.open()).await {
            let _ = broker.close(FAREWELL).await;
            return Err(error);
        }
        info!(address = %shared.address, vhost = %endpoint.vhost, "connected to the broker");
        Ok(broker)
    }
}

impl RabbitMq {
    /// Ends a lane: everything that was acknowledged by it counts when this returns.
    ///
    /// # Errors
    /// What was acknowledged may come back: `Storage` where a broker of our own cannot write it.
    pub(crate) async fn end_lane(&self, lane: Lane) -> Result<()> {
        self.shared.lanes.end(lane).await
    }

    /// Waits until everything that was done in this virtual host, by whomever, is on the disk of a broker of our own. Another broker is
    /// not asked.
    ///
    /// # Errors
    /// `Storage` where it cannot be written.
    pub(crate) async fn until_kept(&self) -> Result<()> {
        let is_own = |(name, value): &(String, String)| name == "cluster_name" && value == "homing";
        if self.server_properties().iter().any(is_own) { self.shared.topology.until_kept().await } else { Ok(()) }
    }

    /// Connects to the broker of our own, which this process hosts if nobody else does.
    #[cfg(all(unix, feature = "local"))]
    async fn connect_locally(place: &LocalPlace, options: &ConnectOptions, events: EventSender) -> Result<Self> {
        let deadline = crate::time::from_now(options.connect_timeout);
        loop {
            let (endpoint, hosted) = local::find(place, deadline).await?;
            let is_here = hosted.is_some();
            // The broker runs for as long as some communicator of this process is there that uses it.
            // Guards: a connection of our own that is lost. The broker would end with it, and everybody else's connections.
            options.kept.replace(hosted.map(|hosted| Box::new(hosted) as _));
            match Self::connect_to(&endpoint, options, events.clone()).await {
                Ok(mut broker) => {
                    broker.kept = Some(options.kept.clone());
                    return Ok(broker);
                }
                // Guards: a host that ends while we connect. Another one is found, or we are it.
                Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(local::LOOK_AGAIN).await,
                Err(error) => {
                    return Err(match local::silent_host(place).await.filter(|_| !is_here) {
                        Some(host) => Error::with_source(error.kind(), format!("{error} ({host})"), error),
                        None => error,
                    });
                }
            }
        }
    }

    #[cfg(not(all(unix, feature = "local")))]
    #[expect(clippy::unused_async, reason = "as the other one")]
    async fn connect_locally(_: &LocalPlace, _: &ConnectOptions, _: EventSender) -> Result<Self> {
        let text = "this program was built without the feature `local`, or for a system that has no sockets with names";
        Err(Error::new(ErrorKind::InvalidArgument, text))
    }
}

impl Shared {
    /// Listens to one connection until it ends, and then ends everything.
    async fn watch(self: Rc<Self>, link: Rc<Link>) {
        let cause = self.life.guarded(async { Ok(self.listen(&link).await) }).await.unwrap_or_default();
        // The thread may still wait for something; it has nothing more to give.
        link.abort();
        let error =
            self.life.broken().unwrap_or_else(|| errors::lost(&self.address, cause.as_ref(), link.farewell().as_ref()));
        if !self.life.end(error.clone()) {
            return;
        }
        // The communicator warns, once for both connections.
        debug!(role = %link.role, %error, "connection lost");
        self.publisher.give_up(&error);
        let other = match link.role {
            Role::Consuming => &self.publishing,
            Role::Publishing => &self.consuming,
        };
        // In order, so that acknowledgements which were written go out.
        if let Err(error) = self.life.guarded(other.close(crate::time::from_now(FAREWELL))).await {
            debug!(%error, "while closing the other connection");
        }
        // What had arrived before is still passed on.
        if tokio::time::timeout(FAREWELL, self.lanes.drained()).await.is_err() {
            debug!("some consumers of a lost connection have not ended");
        }
        self.life.last_word(BrokerEvent::Lost { error });
    }

    /// The same until it ends: why, where lapin says so.
    async fn listen(&self, link: &Link) -> Option<lapin::Error> {
        let mut events = link.events()?;
        loop {
            let event = tokio::select! {
                // What lapin reported before its thread ended comes first.
                biased;
                event = events.next() => event,
                () = link.ended() => None,
                () = self.life.until_broken() => None,
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    debug!(role = %link.role, %reason, "the broker blocks publishing");
                    link.blocked.set(true);
                    self.life.say(BrokerEvent::Blocked { reason });
                }
                Some(Event::ConnectionUnblocked) => {
                    info!(role = %link.role, "the broker takes publishes again");
                    link.blocked.set(false);
                    self.life.say(BrokerEvent::Unblocked);
                }
                Some(Event::Error(error)) if errors::ends_a_channel(&error) && link.connected() => {
                    if link.role == Role::Consuming {
                        self.lanes.channel_closed(&error);
                    }
                }
                Some(Event::Error(error)) => return Some(error),
                Some(_) => {}
                None => return None,
            }
        }
    }
}

/// The one door to lapin: what panics behind it costs the connection.
impl Broker for RabbitMq {
    async fn connect(url: &BrokerUrl, options: &ConnectOptions, events: EventSender) -> Result<Self> {
        let connects = async {
            if let BrokerUrl::Local(place) = url {
                return Self::connect_locally(place, options, events).await;
            }
            let broker = Self::connect_to(&Endpoint::from_url(url)?, options, events).await?;
            // Of a broker of another kind that the same list names.
            options.kept.replace(None);
            Ok(broker)
        };
        AssertUnwindSafe(connects).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(&panics::text(panic))))
    }

    fn server_properties(&self) -> Vec<(String, String)> {
        self.shared.consuming.server_properties()
    }

    fn publish(&self, id: PublishId, message: Rc<Message>) -> Option<Result<()>> {
        // Whether it went out is not known; the end of the connection follows.
        self.shared.life.guard(|| self.shared.publisher.publish(id, message)).flatten()
    }

    fn properties_limit(&self) -> usize {
        self.shared.publisher.properties_limit()
    }

    fn lanes_limit(&self) -> u32 {
        let agreed = self.shared.consuming.configuration().map_or(0, |configuration| configuration.channel_max());
        // Zero is no limit.
        if agreed == 0 { u32::MAX } else { u32::from(agreed.saturating_sub(OTHER_CHANNELS)) }
    }

    async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        self.shared.life.guarded(self.shared.topology.declare_exchange(spec)).await
    }

    async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        self.shared.life.guarded(self.shared.topology.declare_queue(spec)).await
    }

    async fn declare_queue_beside(&self, spec: &QueueSpec) -> Result<()> {
        self.shared.life.guarded(self.shared.beside.declare_queue(spec)).await
    }

    async fn delete_queue_beside(&self, queue: &str) -> Result<Option<u32>> {
        self.shared.life.guarded(self.shared.beside.delete_queue(queue)).await.map(Some)
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.shared.life.guarded(self.shared.topology.bind(queue, exchange, routing_key)).await
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.shared.life.guarded(self.shared.topology.unbind(queue, exchange, routing_key)).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.shared.life.guarded(self.shared.topology.delete_queue(queue)).await
    }

    async fn consume(&self, spec: &ConsumeSpec) -> Result<()> {
        self.shared.life.guarded(self.shared.lanes.consume(spec.clone())).await
    }

    async fn cancel(&self, consumer: &str) -> Result<()> {
        self.shared.life.guarded(self.shared.lanes.cancel(consumer)).await
    }

    async fn get(&self, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        self.shared.life.guarded(self.shared.lanes.get(queue.to_owned(), lane)).await
    }

    fn ack(&self, receipt: Receipt) {
        self.shared.life.guard(|| self.shared.lanes.ack(receipt));
    }

    fn nack(&self, receipt: Receipt, then: Nack) {
        self.shared.life.guard(|| self.shared.lanes.nack(receipt, then));
    }

    async fn close(&self, limit: Duration) -> Result<()> {
        self.shared.life.guarded(self.close_in_order(limit)).await
    }
}

impl RabbitMq {
    async fn close_in_order(&self, limit: Duration) -> Result<()> {
        let Shared { life, publisher, consuming, publishing, lanes, address, .. } = &*self.shared;
        // A part is kept for cutting a connection that does not close in order.
        let orderly = limit - (limit / 4).min(Duration::from_millis(300));
        let deadline = crate::time::from_now(orderly);
        debug!(%address, "closing");
        life.fall_silent();
        publisher.flush(crate::time::from_now(orderly / 2)).await;
        // Publishes that the broker has not confirmed by now are left open: it may still have taken them.
        let was_alive = life.end(Error::new(
            ErrorKind::CommunicatorClosed,
            format!("the connection to the broker at {address} was closed before the broker had answered"),
        ));
        let (consumed, published) = tokio::join!(consuming.close(deadline), publishing.close(deadline));
        // Guards: an acknowledgement, which has no answer of its own. The end of its connection has one.
        let settled = match &consumed {
            Ok(farewell) if *farewell != Some(Farewell::Agreed) && lanes.has_settled() => {
                Err(errors::not_settled(address, farewell.as_ref()))
            }
            _ => Ok(()),
        };
        // A connection that was lost is followed by another one, which needs the broker that is hosted here.
        #[cfg(all(unix, feature = "local"))]
        let settled = settled.and(if was_alive { self.kept.as_ref().map_or(Ok(()), local::release) } else { Ok(()) });
        #[cfg(not(all(unix, feature = "local")))]
        let _ = was_alive;
        consumed.map(drop).and(published.map(drop)).and(settled)
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        // For a broker that was not closed; after a close nothing is left to cut.
        self.shared.life.fall_silent();
        self.shared.consuming.abort();
        self.shared.publishing.abort();
    }
}
