//! The wire of mending: messages taken, copied and acknowledged as they are, whatever is in them.
//!
//! The library's tasks are decoded, and answered to their senders, which is not wanted here. So this one file speaks AMQP by
//! lapin, as the library does.

use homing::{Error, ErrorKind};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties};
use url::Url;

use crate::doctor::unescape;
use crate::failure::Failure;

pub(super) struct Wire {
    connection: Connection,
    channel: Channel,
}

/// A message that was got, and is not acknowledged yet.
pub(super) struct Got(Delivery);

impl Got {
    pub(super) fn message_id(&self) -> Option<&str> {
        self.0.properties.message_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// A header that is a string.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        match self.0.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }
}

impl Wire {
    /// # Errors
    /// As every connection.
    pub(super) async fn connect(url: &str) -> Result<Self, Failure> {
        let (uri, tls) = read(url)?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("homing {}", std::process::id()).as_str().into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| Failure::Other(error.to_string()))?;
        let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime).await.map_err(failed)?;
        let channel = connection.create_channel().await.map_err(failed)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        Ok(Wire { connection, channel })
    }

    /// How many messages wait.
    pub(super) async fn depth(&self, queue: &str) -> Result<u32, Failure> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        let declared = declared.map_err(|error| match failed(error) {
            Failure::Homing(error) if error.kind() == ErrorKind::NotFound => {
                Failure::Homing(Error::with_source(ErrorKind::NotFound, format!("there is no queue {queue:?}"), error))
            }
            failure => failure,
        })?;
        Ok(declared.message_count())
    }

    pub(super) async fn get(&self, queue: &str) -> Result<Option<Got>, Failure> {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await.map_err(failed)?;
        Ok(got.map(|got| Got(got.delivery)))
    }

    /// Puts a copy into a queue, without some of its headers; returns when the broker has it.
    pub(super) async fn copy(&self, got: &Got, to: &str, without: &[&str]) -> Result<(), Failure> {
        let Delivery { properties, data, .. } = &got.0;
        let mut properties = properties.clone();
        if let Some(headers) = properties.headers().clone() {
            let kept: std::collections::BTreeMap<_, _> = headers
                .inner()
                .iter()
                .filter(|(name, _)| !without.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            properties = properties.with_headers(kept.into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        // The default exchange routes by the queue's name.
        let published = self.channel.basic_publish("".into(), to.into(), options, data, properties).await;
        match published.map_err(failed)?.await.map_err(failed)? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                Err(Failure::Other(format!("there is no queue {to:?}; the task stays where it was")))
            }
            _ => {
                Err(Failure::Other(format!("the broker did not take the task over into {to:?}; it stays where it was")))
            }
        }
    }

    pub(super) async fn acknowledge(&self, got: &Got) -> Result<(), Failure> {
        self.channel.basic_ack(got.0.delivery_tag, BasicAckOptions::default()).await.map_err(failed)
    }

    /// Everything that was got and not acknowledged goes back, in its order.
    pub(super) async fn close(&self) -> Result<(), Failure> {
        self.connection.close(200, "done".into()).await.map_err(failed)
    }
}

fn failed(error: lapin::Error) -> Failure {
    let kind = match error.kind() {
        lapin::ErrorKind::ProtocolError(said) => match said.get_id() {
            403 | 530 => homing::ErrorKind::AccessRefused,
            404 => homing::ErrorKind::NotFound,
            406 => homing::ErrorKind::PreconditionFailed,
            _ => homing::ErrorKind::ConnectionLost,
        },
        lapin::ErrorKind::IOError(_) => homing::ErrorKind::Connection,
        _ => homing::ErrorKind::ConnectionLost,
    };
    let text = error.to_string();
    Failure::Homing(homing::Error::with_source(kind, text, error))
}

/// A broker's URL as the library reads it: no path means the virtual host `/`.
fn read(url: &str) -> Result<(AMQPUri, OwnedTLSConfig), Failure> {
    // No part of it is repeated, for it may hold a password.
    let bad = || {
        Failure::Usage("the broker's URL cannot be read; it looks like amqp://user:password@host:5672/vhost".to_owned())
    };
    let text = |part: &str| unescape(part).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad);
    // Several brokers are tried in turn by the library; here the first is meant.
    let first = url.split(",amqp").next().unwrap_or(url);
    let url = Url::parse(first).map_err(|_| bad())?;
    let scheme = match url.scheme() {
        "amqp" => AMQPScheme::AMQP,
        "amqps" => AMQPScheme::AMQPS,
        _ => return Err(bad()),
    };
    let userinfo = match (url.username(), url.password()) {
        ("", None) => AMQPUserInfo { username: "guest".to_owned(), password: "guest".to_owned() },
        (user, password) => AMQPUserInfo { username: text(user)?, password: text(password.unwrap_or(""))? },
    };
    let host = url.host_str().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
    let port = url.port().unwrap_or(if url.scheme() == "amqps" { 5671 } else { 5672 });
    let vhost = match url.path().trim_start_matches('/') {
        "" => "/".to_owned(),
        path => text(path)?,
    };
    let mut tls = OwnedTLSConfig::default();
    let (mut certificate, mut key) = (None, None);
    for (name, file) in url.query_pairs() {
        let read = || {
            std::fs::read(&*file).map_err(|error| {
                Failure::Usage(format!("the file {file:?} of the broker's URL cannot be read: {error}"))
            })
        };
        match &*name {
            "cacertfile" => tls.cert_chain = Some(String::from_utf8_lossy(&read()?).into_owned()),
            "certfile" => certificate = Some(read()?),
            "keyfile" => key = Some(read()?),
            _ => {}
        }
    }
    if let (Some(pem), Some(key)) = (certificate, key) {
        tls.identity = Some(OwnedIdentity::PKCS8 { pem, key });
    }
    let authority = AMQPAuthority { userinfo, host, port };
    Ok((AMQPUri { scheme, authority, vhost, query: AMQPQueryString::default() }, tls))
}
