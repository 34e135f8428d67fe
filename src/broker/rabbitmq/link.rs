//! One connection to RabbitMQ: made under a time limit, watched, and ended without leaving anything behind.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_rs::Runtime;
use async_rs::Tokio;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::conduit::{Conduit, Kit, Scissors, Told, Wire};
use super::errors;
use crate::broker::ConnectOptions;
use crate::broker::url::{AmqpUrl, Transport};
use crate::error::{Error, ErrorKind, Result};

pub(super) struct Link {
    /// `None` once it is being ended.
    connection: RefCell<Option<Rc<Connection>>>,
    scissors: Scissors,
    pub(super) told: Told,
}

impl Link {
    pub(super) async fn open(url: &AmqpUrl, options: &ConnectOptions, role: &str) -> Result<Self> {
        let limit = url.connect_timeout.unwrap_or(options.connect_timeout);
        let until = Instant::now() + limit;
        let (wire, scissors) = tcp(url, limit).await?;
        let stream = match timeout(left(until), tls(url, wire)).await {
            Ok(stream) => stream?,
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Connection,
                    format!("{}:{} did not answer the TLS handshake within {limit:?}", url.host, url.port),
                ));
            }
        };
        let told = Told::default();
        let conduit = Mutex::new(Some(Conduit::new(stream, told.clone())));
        let connect = async move |_uri: AMQPUri, _runtime: Runtime<Kit>| {
            let conduit = conduit.lock().take();
            conduit.map(AsyncTcpStream::Plain).ok_or_else(|| {
                lapin::Error::from(std::io::Error::other("a connection is made once; it is not repeated here"))
            })
        };
        let name = format!("{} ({role})", options.connection_name);
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "homing".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = Runtime::new(Kit(Tokio::current()));
        let connecting = Connection::connector(uri(url, options), runtime, connect, properties);
        match timeout(left(until), connecting).await {
            Ok(Ok(connection)) => Ok(Link { connection: RefCell::new(Some(Rc::new(connection))), scissors, told }),
            Ok(Err(error)) => {
                scissors.cut();
                Err(errors::handshake(url, &error))
            }
            Err(_) => {
                // lapin's thread reads on until it is told that there is nothing more to come.
                scissors.cut();
                Err(Error::new(
                    ErrorKind::Connection,
                    format!(
                        "{}:{} took the connection and did not answer the AMQP handshake within {limit:?}; is it RabbitMQ that \
                         listens there, and in TLS or plain?",
                        url.host, url.port
                    ),
                ))
            }
        }
    }

    /// A new channel; an error when the connection is being ended.
    pub(super) async fn channel(&self) -> lapin::Result<lapin::Channel> {
        // Not borrowed across the wait: the connection may be taken meanwhile.
        let connection = self.connection.borrow().clone();
        match connection {
            Some(connection) => connection.create_channel().await,
            None => Err(std::io::Error::new(std::io::ErrorKind::NotConnected, "the connection is being closed").into()),
        }
    }

    /// The events of the connection. To be taken once: lapin's do not fan out.
    pub(super) fn events(&self) -> Option<BoxStream<'static, lapin::Event>> {
        self.connection.borrow().as_ref().map(|connection| connection.events_listener().boxed())
    }

    /// Ends the connection within this time: in order where it can, else by cutting it. Its thread has ended then.
    pub(super) async fn close(&self, limit: Duration) -> Result<()> {
        let Some(connection) = self.connection.borrow_mut().take() else { return Ok(()) };
        let until = Instant::now() + limit;
        // A blocked connection writes nothing at all, not even a close: so only a part of the time.
        let closed = timeout(limit / 2, connection.close(200, "closing".into())).await;
        if !matches!(closed, Ok(Ok(()))) {
            self.scissors.cut();
        }
        // Whoever still opens a channel is done as soon as the connection has ended.
        let mut shared = connection;
        let connection = loop {
            match Rc::try_unwrap(shared) {
                Ok(connection) => break connection,
                Err(_) if left(until).is_zero() => return Err(stuck(limit)),
                Err(still) => shared = still,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        // lapin's thread needs this thread's reactor to end, so that it cannot be joined here directly.
        let join = tokio::task::spawn_blocking(move || connection.run());
        if timeout(left(until).max(limit / 4), join).await.is_err() {
            self.scissors.cut();
            return Err(stuck(limit));
        }
        Ok(())
    }

    /// Ends it without a word.
    pub(super) fn cut(&self) {
        self.scissors.cut();
    }
}

fn stuck(limit: Duration) -> Error {
    let text = format!("a connection to RabbitMQ did not end within {limit:?}; its thread was left behind");
    Error::new(ErrorKind::TimedOut, text)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

async fn tcp(url: &AmqpUrl, limit: Duration) -> Result<(Wire, Scissors)> {
    let (host, port) = (url.host.as_str(), url.port);
    let failed = |why: String| Error::new(ErrorKind::Connection, format!("no connection to {host}:{port}: {why}"));
    let stream = match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(failed("nothing listens there; is RabbitMQ running, and is the port right?".to_owned()));
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => {
            return Err(failed(format!("no answer within {limit:?}; is the address right, or a firewall in between?")));
        }
    };
    Wire::new(stream).map_err(|error| failed(error.to_string()))
}

async fn tls(url: &AmqpUrl, wire: Wire) -> Result<AsyncTcpStream<Wire>> {
    let plain = AsyncTcpStream::Plain(wire);
    if url.transport == Transport::Plain {
        return Ok(plain);
    }
    if !cfg!(feature = "tls") {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "amqps:// needs the feature `tls`, without which this program was built",
        ));
    }
    let read = |path: &String| {
        std::fs::read(path).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, format!("the file {path:?} cannot be read: {error}"))
        })
    };
    let cert_chain = match &url.ca_file {
        Some(path) => Some(String::from_utf8_lossy(&read(path)?).into_owned()),
        None => None,
    };
    let identity = match (&url.cert_file, &url.key_file) {
        (Some(pem), Some(key)) => Some(OwnedIdentity::PKCS8 { pem: read(pem)?, key: read(key)? }),
        (None, None) => None,
        _ => {
            return Err(Error::new(ErrorKind::InvalidArgument, "certfile and keyfile of the broker's URL go together"));
        }
    };
    let config = OwnedTLSConfig { identity, cert_chain };
    let name = url.server_name.as_deref().unwrap_or(&url.host);
    plain.into_tls(name, config.as_ref()).await.map_err(|error| {
        let text = format!(
            "no TLS connection to {}:{} as {name:?}: {error}. Give the CA by ?cacertfile=FILE where it is not the system's",
            url.host, url.port
        );
        Error::with_source(ErrorKind::Connection, text, error)
    })
}

fn uri(url: &AmqpUrl, options: &ConnectOptions) -> AMQPUri {
    let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: url.username.clone(), password: url.password.clone() },
            host: url.host.clone(),
            port: url.port,
        },
        vhost: url.vhost.clone(),
        query: AMQPQueryString {
            frame_max: url.frame_max,
            channel_max: url.channel_max,
            heartbeat: options.heartbeat.or(url.heartbeat).map(seconds),
            ..AMQPQueryString::default()
        },
    }
}
