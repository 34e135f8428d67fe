//! Connecting, and nothing else: name look-up, TCP, TLS and the AMQP handshake, under one deadline.
//!
//! Sockets and TLS are made here, on the communicator thread, where a deadline can drop them. Only then does lapin start
//! its I/O thread, on a finished stream; a duplicate of the socket stays here, and shutting it down ends that thread
//! whatever it is waiting for. So a peer that accepts and stays silent leaves nothing behind.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::thread;
use std::time::Duration;

use crate::home::lock::Mutex;
use crate::log::debug;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, Transport};
use super::errors;
use super::link::{Link, Role, thread_gone};
use super::tap::{Diverted, Greeting, Returns, Tap, Wishes};
use super::wire::{Socket, Wire, kit};
use crate::error::{Error, ErrorKind, Result};

/// How long the I/O thread may take to notice that its socket was shut down; it needs microseconds.
const THREAD_END: Duration = Duration::from_secs(2);

/// How long the outcome of a handshake may take to be seen after the I/O thread has ended.
const LAST_OUTCOME: Duration = Duration::from_millis(100);

/// The pause before a socket is tried again at which too many wait to be let in.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What one connection is to be.
pub(crate) struct Plan<'a> {
    pub endpoint: &'a Endpoint,
    pub role: Role,
    /// Shown in the server's list of connections.
    pub name: String,
    pub heartbeat: Option<Duration>,
    /// Where returned messages are to be noted.
    pub returns: Option<Returns>,
    /// The deadline, and the time to it from the start, for the error.
    pub deadline: Instant,
    pub limit: Duration,
}

/// Makes one connection.
pub(crate) async fn connect(plan: Plan<'_>) -> Result<Link> {
    let wishes = Wishes { heartbeat: heartbeat(&plan), frame_max: plan.endpoint.frame_max };
    let greeting = Greeting::default();
    let refused = match attempt(&plan, wishes, greeting.clone()).await {
        Ok(link) => return Ok(link),
        Err(refused) => refused,
    };
    let Some(most) = greeting.smaller_frames() else { return Err(refused) };
    debug!(role = %plan.role, frame_max = most, "the server allows small frames only: connecting again for these");
    attempt(&plan, Wishes { frame_max: Some(most), ..wishes }, Greeting::default()).await
}

/// Connects once, with these wishes. What the server sends of itself is noted in the greeting.
async fn attempt(plan: &Plan<'_>, wishes: Wishes, greeting: Greeting) -> Result<Link> {
    let address = plan.endpoint.address();
    debug!(role = %plan.role, %address, vhost = %plan.endpoint.vhost, "connecting");
    let silent = |stage: &str| errors::connect_timed_out(plan.endpoint, plan.limit, stage);

    let socket = timeout_at(plan.deadline, socket(plan.endpoint, plan.deadline))
        .await
        .map_err(|_| silent("did not accept a connection"))??;
    let (socket, spare) = socket.with_spare().map_err(|error| errors::tcp(&address, &error))?;

    let stream = timeout_at(plan.deadline, secure(plan.endpoint, socket))
        .await
        .map_err(|_| silent("accepted the connection but did not answer the TLS handshake"))??;

    let diverted = Diverted::default();
    let tap = Tap::new(greeting.clone(), diverted.clone(), plan.returns.clone(), wishes);
    let stream = Wire::new(stream, tap);
    let (thread, thread_ended) = watch::channel(());
    let handed_over = Mutex::new(Some(stream));
    // lapin drops this closure at the end of its I/O thread, and with it the watch: that is how the end is known.
    let hand_over = async move |_: AMQPUri, _| {
        let _until_thread_ends = &thread;
        let stream = handed_over.lock().take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        // TLS, if there is any, is inside.
        Ok(AsyncTcpStream::Plain(stream))
    };
    let handshake = Connection::connector(uri(plan, wishes), kit(), hand_over, properties(&plan.name));
    let refused = match timeout_at(plan.deadline, until_thread_ends(handshake, thread_ended.clone())).await {
        Ok(Ok(connection)) => {
            debug!(role = %plan.role, %address, "connected");
            return Ok(Link::new(plan.role, connection, spare, greeting, diverted, thread_ended));
        }
        Ok(Err(error)) => errors::handshake(plan.endpoint, &error, &greeting),
        Err(_) => match greeting.not_amqp() {
            Some(said) => errors::not_amqp(plan.endpoint, &said),
            None => silent("accepted the connection but did not answer the AMQP handshake"),
        },
    };
    spare.cut();
    if tokio::time::timeout(THREAD_END, thread_gone(thread_ended)).await.is_err() {
        debug!(role = %plan.role, %address, "the I/O thread of a refused connection is still ending");
    }
    Err(refused)
}

/// The outcome of the handshake. Where the peer goes away in the middle of it, lapin's thread can end and leave the handshake
/// as it was, for ever.
async fn until_thread_ends<T>(
    handshake: impl Future<Output = lapin::Result<T>>,
    thread_ended: watch::Receiver<()>,
) -> lapin::Result<T> {
    let mut handshake = pin!(handshake);
    tokio::select! {
        biased;
        outcome = &mut handshake => return outcome,
        () = thread_gone(thread_ended) => {}
    }
    // The last that the thread did may have been to end it.
    tokio::select! {
        biased;
        outcome = &mut handshake => outcome,
        () = tokio::time::sleep(LAST_OUTCOME) => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
    }
}

/// The connection itself, with nothing on it yet.
async fn socket(endpoint: &Endpoint, deadline: Instant) -> Result<Socket> {
    match &endpoint.socket {
        None => tcp(endpoint, deadline).await.map(Socket::Tcp),
        #[cfg(unix)]
        Some(path) => loop {
            match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => return Ok(Socket::Unix(stream)),
                // Guards: a server that is slow to let them in. The system refuses more of them than it lets wait, where TCP
                // would try again by itself.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(errors::tcp(&endpoint.address(), &error)),
            }
        },
        #[cfg(not(unix))]
        Some(_) => {
            Err(Error::new(ErrorKind::InvalidArgument, "this system has no sockets with names in its file system"))
        }
    }
}

/// The host without its zone (RFC 6874), where the address has none: systems look up `fe80::1%lo`, and not `::1%lo`.
fn without_needless_zone(host: &str) -> &str {
    match host.split_once('%') {
        Some((address, _)) if address.parse::<Ipv6Addr>().is_ok_and(|ip| !ip.is_unicast_link_local()) => address,
        _ => host,
    }
}

/// The first address that accepts. Each has its share of what is left, so that one that swallows packets (an IPv6 route
/// that leads nowhere) does not use up the time of the others.
pub(super) async fn tcp(endpoint: &Endpoint, deadline: Instant) -> Result<TcpStream> {
    let address = endpoint.address();
    let candidates = look_up(endpoint).await?;
    let mut failure = None;
    for (tried, candidate) in candidates.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(candidates.len() - tried).unwrap_or(1);
        match tokio::time::timeout(share, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => {
                // Small messages must not wait for each other's acknowledgements.
                stream.set_nodelay(true).map_err(|error| errors::tcp(&address, &error))?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = failure.or_else(|| Some(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }
    Err(match failure {
        Some(error) => errors::tcp(&address, &error),
        None => Error::new(ErrorKind::Connection, format!("the name {} has no address", endpoint.host)),
    })
}

/// The addresses of the host. The system's look-up of a name blocks, so it has a thread of its own, which is not waited for where
/// a deadline passes.
// Guards: a system that gives no thread. tokio's look-up panics there, which ends the communicator thread.
pub(super) async fn look_up(endpoint: &Endpoint) -> Result<Vec<SocketAddr>> {
    let host = without_needless_zone(&endpoint.host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, endpoint.port)]);
    }
    let (found, finding) = oneshot::channel();
    let name = (host.to_owned(), endpoint.port);
    let thread = thread::Builder::new().name("homing-look-up".to_owned());
    let started = crate::home::fork::spawn(thread, move || {
        // Whoever asked may be gone.
        drop(found.send(name.to_socket_addrs().map(Vec::from_iter)));
    });
    let addresses = match started {
        Ok(_) => finding.await.unwrap_or_else(|_| Err(io::Error::other("it ended without an answer"))),
        Err(error) => Err(io::Error::new(error.kind(), format!("the system gave no thread for it: {error}"))),
    };
    addresses.map_err(|error| errors::name_lookup(&endpoint.host, &error))
}

/// TLS around the socket, where the URL asks for it.
pub(super) async fn secure(endpoint: &Endpoint, socket: Socket) -> Result<AsyncTcpStream<Socket>> {
    let stream = AsyncTcpStream::Plain(socket);
    match endpoint.transport {
        Transport::Plain => Ok(stream),
        #[cfg(feature = "tls")]
        Transport::Tls => {
            use lapin::tcp::{Identity, TLSConfig};
            let identity = endpoint.identity.as_ref();
            let config = TLSConfig {
                identity: identity.map(|own| Identity::PKCS8 { pem: &own.certificate, key: &own.key }),
                cert_chain: endpoint.trusted_certificates.as_deref(),
            };
            stream
                .into_tls(endpoint.server_name.as_ref().unwrap_or(&endpoint.host), config)
                .await
                .map_err(|error| errors::tls(endpoint, &error))
        }
        // Without a TLS library lapin would go on in the clear.
        #[cfg(not(feature = "tls"))]
        Transport::Tls => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{} is to be reached by TLS (amqps), but homing was built without it; build with the feature `tls`",
                endpoint.address()
            ),
        )),
    }
}

/// The heartbeat to agree on, in seconds: the program's, else the URL's.
fn heartbeat(plan: &Plan<'_>) -> Option<u16> {
    let wish = plan.heartbeat.or(plan.endpoint.heartbeat)?;
    // AMQP counts 65,535 whole seconds, and 0 means none: a wish of less than one is rounded up to it, and a longer one is the longest.
    let seconds = u16::try_from(wish.as_secs()).unwrap_or(u16::MAX);
    Some(seconds.max(u16::from(!wish.is_zero())))
}

fn uri(plan: &Plan<'_>, wishes: Wishes) -> AMQPUri {
    let endpoint = plan.endpoint;
    AMQPUri {
        scheme: match endpoint.transport {
            Transport::Plain => AMQPScheme::AMQP,
            Transport::Tls => AMQPScheme::AMQPS,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: endpoint.username.clone(), password: endpoint.password.clone() },
            host: endpoint.host.clone(),
            port: endpoint.port,
        },
        vhost: endpoint.vhost.clone(),
        query: AMQPQueryString {
            // Guards: 8 MiB for each connection, written with zeros one by one. lapin makes its buffers when it begins, of memory that
            // takes no room before it is used, and enlarges them where the server allows more than was asked for.
            frame_max: Some(wishes.largest_frame()),
            channel_max: endpoint.channel_max,
            heartbeat: wishes.heartbeat,
            ..AMQPQueryString::default()
        },
    }
}

fn properties(name: &str) -> ConnectionProperties {
    // lapin's recovery stays off, which is its default.
    ConnectionProperties::default()
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
        .with_connection_name(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::rabbitmq::tap::USUAL_FRAME;
    use crate::broker::url::{BrokerUrl, LARGEST_FRAME};

    #[test]
    fn an_address_outside_of_a_link_is_looked_up_without_a_zone() {
        for (host, looked_up) in [
            ("::1%lo", "::1"),
            ("2001:db8::1%eth0", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("::1", "::1"),
            ("host", "host"),
        ] {
            assert_eq!(without_needless_zone(host), looked_up);
        }
    }

    #[test]
    fn buffers_are_made_for_the_largest_frame_that_can_be_agreed_on_and_never_enlarged() {
        for (url, most) in [
            ("amqp://h", USUAL_FRAME),
            ("amqp://h?frame_max=5000", 5000),
            ("amqp://h?frame_max=500000", 500_000),
            ("amqp://h?frame_max=1048576", LARGEST_FRAME),
            ("amqp://h?frame_max=0", USUAL_FRAME),
        ] {
            let url = BrokerUrl::parse(url).expect("a URL");
            let endpoint = Endpoint::from_url(&url).expect("an endpoint");
            let wishes = Wishes { heartbeat: None, frame_max: endpoint.frame_max };
            let limit = Duration::from_secs(1);
            let deadline = crate::time::from_now(limit);
            let name = String::new();
            let plan = Plan {
                endpoint: &endpoint,
                role: Role::Consuming,
                name,
                heartbeat: None,
                returns: None,
                deadline,
                limit,
            };
            assert_eq!(uri(&plan, wishes).query.frame_max, Some(most), "{url}");
        }
    }
}
