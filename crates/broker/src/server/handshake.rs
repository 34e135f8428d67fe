//! From the protocol header to the open connection.

use super::{
    accounts::{Check, Verified},
    arguments,
    connection::{Connection, Phase},
    exception::{Exception, Result},
    properties::{LOCALES, MECHANISMS, server_properties},
};
use crate::protocol::{FrameReader, MethodId, ReplyCode, Table, Value, frame::MINIMUM_FRAME_SIZE, methods::connection};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a client that cannot log in waits, if it cannot be told why.
const REFUSED: Duration = Duration::from_secs(1);

/// What a client understands beyond the specification.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    /// `connection.close` instead of a closed socket when it cannot log in.
    pub(super) login_failure: bool,
    /// `basic.cancel` from the server.
    pub(super) cancel: bool,
    /// `connection.blocked`.
    pub(super) blocked: bool,
}

impl Capabilities {
    fn read(properties: Table<'_>) -> Self {
        let table = properties.get("capabilities").and_then(|value| value.as_table()).unwrap_or_default();
        let has = |name| table.get(name).and_then(|value| value.as_bool()).unwrap_or(false);
        Self {
            login_failure: has("authentication_failure_close"),
            cancel: has("consumer_cancel_notify"),
            blocked: has("connection.blocked"),
        }
    }
}

impl Connection {
    /// The protocol header has come.
    pub(super) fn start(&mut self) {
        let properties = server_properties();
        self.peer.send(
            0,
            &connection::Start {
                version_major: 0,
                version_minor: 9,
                server_properties: Table::unchecked(&properties),
                mechanisms: MECHANISMS.as_bytes(),
                locales: LOCALES.as_bytes(),
            },
        );
        self.phase = Phase::Start;
    }

    pub(super) fn log_in(&mut self, start: &connection::StartOk<'_>, now: Instant) -> Result<()> {
        self.capabilities = Capabilities::read(start.client_properties);
        self.peer.knows_cancel.set(self.capabilities.cancel);
        self.mechanism = Mechanism::from_name(start.mechanism).ok_or_else(|| {
            let text = format!("unknown authentication mechanism '{}'", start.mechanism);
            Exception::new(ReplyCode::CommandInvalid, text)
        })?;
        let Some((user, password)) = self.mechanism.credentials(start.response)? else {
            self.refuse(now);
            return Ok(());
        };
        self.user = Rc::from(user);
        self.peer.note(|facts| {
            facts.properties = arguments::arguments(start.client_properties);
            facts.mechanism = self.mechanism.name();
        });
        match self.server.accounts.check(user, password, self.origin) {
            Check::Accepted => self.let_in(),
            Check::Refused => self.refuse(now),
            Check::Takes(verification) => {
                self.verification = Some(verification);
                self.phase = Phase::Checking;
            }
        }
        Ok(())
    }

    /// Its password was checked; `None` if that could not be done.
    pub(super) fn verified(&mut self, verified: Option<&Verified>, now: Instant) {
        if self.phase != Phase::Checking {
            return;
        }
        if verified.is_some_and(|verified| self.server.accounts.accept(verified)) {
            self.let_in();
        } else {
            self.refuse(now);
        }
    }

    fn let_in(&mut self) {
        self.peer.set_user(&self.user);
        let limits = &self.server.limits;
        let heartbeat = u16::try_from(limits.heartbeat.as_secs()).unwrap_or(u16::MAX);
        let tune = connection::Tune { channel_max: limits.channels, frame_max: limits.frame_size, heartbeat };
        self.peer.send(0, &tune);
        self.phase = Phase::Tune;
    }

    fn refuse(&mut self, now: Instant) {
        tracing::warn!(connection = self.peer.id, "login refused");
        if self.capabilities.login_failure {
            let text = format!(
                "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                self.mechanism.name()
            );
            self.close(&Exception::new(ReplyCode::AccessRefused, text), MethodId::default(), now);
        } else {
            self.phase = Phase::Refused;
            self.phase_ends = Some(now + REFUSED);
        }
    }

    pub(super) fn tune(&mut self, tune: &connection::TuneOk) -> Result<()> {
        let limits = &self.server.limits;
        let lower = |name: &str, chosen: u32, allowed: u32| {
            let text = format!("negotiated {name} = {chosen} is lower than the minimum allowed value ({allowed})");
            Err(Exception::new(ReplyCode::NotAllowed, text))
        };
        let higher = |name: &str, chosen: u32, allowed: u32| {
            let text = format!("negotiated {name} = {chosen} is higher than the maximum allowed value ({allowed})");
            Err(Exception::new(ReplyCode::NotAllowed, text))
        };
        // Zero is no limit of the client's own: the server's stands.
        let frame_max = match tune.frame_max {
            0 => limits.frame_size,
            chosen if chosen < MINIMUM_FRAME_SIZE => return lower("frame_max", chosen, MINIMUM_FRAME_SIZE),
            chosen if chosen > limits.frame_size => return higher("frame_max", chosen, limits.frame_size),
            chosen => chosen,
        };
        self.channel_max = match tune.channel_max {
            0 => limits.channels,
            chosen if chosen > limits.channels => return higher("channel_max", chosen.into(), limits.channels.into()),
            chosen => chosen,
        };
        self.peer.note(|facts| facts.channel_max = self.channel_max);
        self.reader = FrameReader::new(frame_max);
        self.peer.frame_max.set(frame_max);
        if tune.heartbeat > 0 {
            let heartbeat = Duration::from_secs(tune.heartbeat.into());
            self.peer.heartbeat.set(Some(heartbeat));
            // The specification asks for two missed heartbeats.
            self.silence = Some(heartbeat * 2);
        }
        self.phase = Phase::Open;
        Ok(())
    }

    pub(super) fn open(&mut self, open: &connection::Open<'_>, now: Instant) -> Result<()> {
        let name = open.virtual_host;
        let Some(host) = self.server.host(name) else {
            return Err(Exception::new(ReplyCode::NotAllowed, format!("vhost {name} not found")));
        };
        let Some(permit) = self.server.accounts.permit(&self.user, name) else {
            let text = format!("access to vhost '{name}' refused for user '{}'", self.user);
            return Err(Exception::new(ReplyCode::NotAllowed, text));
        };
        self.linked(host, permit, now);
        self.peer.send(0, &connection::OpenOk {});
        self.phase = Phase::Running;
        self.phase_ends = None;
        tracing::debug!(connection = self.peer.id, user = &*self.user, vhost = name, "connection open");
        Ok(())
    }
}

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// `authorization NUL user NUL password`.
    Plain,
    /// A table with `LOGIN` and `PASSWORD`, without its length.
    AmqPlain,
}

impl Mechanism {
    fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::AmqPlain].into_iter().find(|mechanism| mechanism.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
        }
    }

    /// User and password, if the response has them.
    fn credentials(self, response: &[u8]) -> Result<Option<(&str, &[u8])>> {
        match self {
            Self::Plain => Ok(plain(response)),
            Self::AmqPlain => {
                let table = Table::checked(response)?;
                let field = |name| match table.get(name) {
                    Some(Value::String(bytes)) => Ok(bytes),
                    _ => Err(Exception::new(
                        ReplyCode::SyntaxError,
                        "AMQPLAIN auth info is missing LOGIN or PASSWORD field",
                    )),
                };
                let (user, password) = (field("LOGIN")?, field("PASSWORD")?);
                Ok(std::str::from_utf8(user).ok().map(|user| (user, password)))
            }
        }
    }
}

fn plain(response: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = response.splitn(3, |octet| *octet == 0);
    let (_authorization, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some((std::str::from_utf8(user).ok()?, password))
}
