//! Where a RabbitMQ broker is and who we are to it. Its `Debug` hides the password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::broker::url::BrokerUrl;
pub(crate) use crate::broker::url::Transport;
use crate::error::{Error, ErrorKind, Result};

/// A URL's contents, in the form in which the connector needs them.
#[derive(Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "some of it is for TLS only"))]
pub(crate) struct Endpoint {
    pub transport: Transport,
    /// In place of host and port: the socket of a broker on this machine.
    pub socket: Option<PathBuf>,
    pub host: String,
    pub port: u16,
    pub username: String,
    pub password: String,
    pub vhost: String,
    /// How long connecting may take, if the URL limits it.
    pub connect_timeout: Option<Duration>,
    /// The name that the server's certificate has to have, where it is not the host.
    pub server_name: Option<String>,
    /// `None` leaves it to the server.
    pub heartbeat: Option<Duration>,
    pub channel_max: Option<u16>,
    pub frame_max: Option<u32>,
    /// Shown in the server's list of connections in place of the program's own.
    pub connection_name: Option<String>,
    /// Certificates (PEM) to trust beside the system's roots.
    pub trusted_certificates: Option<String>,
    /// Our own certificate and key (PEM), where the server asks for them.
    pub identity: Option<Identity>,
}

/// A client certificate and its key, both PEM.
#[derive(Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "some of it is for TLS only"))]
pub(crate) struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Endpoint {
    /// The only place where a URL becomes an endpoint.
    pub(crate) fn from_url(url: &BrokerUrl) -> Result<Self> {
        let BrokerUrl::Amqp(url) = url else {
            return Err(Error::new(ErrorKind::InvalidArgument, "this URL is not one of RabbitMQ"));
        };
        let read = |path: &String| {
            std::fs::read(path).map_err(|error| {
                let text = format!("the file {path:?}, which the broker's URL names, cannot be read: {error}");
                Error::with_source(ErrorKind::InvalidArgument, text, error)
            })
        };
        let trusted_certificates = match &url.ca_file {
            Some(path) => Some(String::from_utf8_lossy(&read(path)?).into_owned()),
            None => None,
        };
        let identity = match (&url.cert_file, &url.key_file) {
            (Some(certificate), Some(key)) => Some(Identity { certificate: read(certificate)?, key: read(key)? }),
            (None, None) => None,
            _ => {
                let text = "certfile and keyfile of the broker's URL go together: give both or neither";
                return Err(Error::new(ErrorKind::InvalidArgument, text));
            }
        };
        Ok(Endpoint {
            transport: url.transport,
            socket: None,
            host: url.host.clone(),
            port: url.port,
            username: url.username.clone(),
            password: url.password.clone(),
            vhost: url.vhost.clone(),
            connect_timeout: url.connect_timeout,
            server_name: url.server_name.clone(),
            heartbeat: url.heartbeat,
            channel_max: url.channel_max,
            frame_max: url.frame_max,
            connection_name: url.connection_name.clone(),
            trusted_certificates,
            identity,
        })
    }

    /// The broker of our own at this socket. Its file system decides who may connect.
    #[cfg(all(unix, feature = "local"))]
    pub(crate) fn at_socket(socket: PathBuf) -> Self {
        Endpoint {
            transport: Transport::Plain,
            socket: Some(socket),
            host: String::new(),
            port: 0,
            username: "guest".to_owned(),
            password: "guest".to_owned(),
            vhost: "/".to_owned(),
            connect_timeout: None,
            server_name: None,
            heartbeat: None,
            channel_max: None,
            frame_max: None,
            connection_name: None,
            trusted_certificates: None,
            identity: None,
        }
    }

    /// `host:port`, with an IPv6 address in brackets; or the name of the socket.
    pub(crate) fn address(&self) -> String {
        if let Some(path) = &self.socket {
            path.display().to_string()
        } else if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("transport", &self.transport)
            .field("address", &self.address())
            .field("username", &self.username)
            .field("vhost", &self.vhost)
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}
