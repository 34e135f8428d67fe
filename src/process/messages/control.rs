//! What is sent to a process, and to all of them.

use crate::codec::Map;
use crate::error::{Error, ErrorKind, Result};
use crate::{Broadcast, Value};

const INTENT: &str = "intent";
const MESSAGE: &str = "message";
const FORCE_KILL: &str = "force_kill";

const STATUS: &str = "status";
const PAUSE: &str = "pause";
const PLAY: &str = "play";
const KILL: &str = "kill";

/// Asks a process for its [`Status`](super::super::Status).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AskStatus;

/// Pauses a process, when the step that it is in has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pause {
    message: Option<String>,
}

/// Lets a process go on that was paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Play;

/// Kills a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kill {
    message: Option<String>,
    force: bool,
}

impl Pause {
    /// Without a message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Why it is paused: the status of the process while it is.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Why it is paused.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }
}

impl Kill {
    /// Without a message, and in order: the step that runs is interrupted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Why it is killed.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Kills it at once, whatever its step does: for a process whose orderly kill does not come to an end.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.force = true;
        self
    }

    /// Why it is killed.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Whether it is killed at once.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.force
    }
}

fn intent(name: &str, message: Option<String>) -> Map {
    let mut map = Map::new();
    map.insert(INTENT, name);
    map.insert(MESSAGE, message);
    map
}

impl From<AskStatus> for Value {
    fn from(_: AskStatus) -> Self {
        Value::Map(intent(STATUS, None))
    }
}

impl From<Pause> for Value {
    fn from(pause: Pause) -> Self {
        Value::Map(intent(PAUSE, pause.message))
    }
}

impl From<Play> for Value {
    fn from(_: Play) -> Self {
        Value::Map(intent(PLAY, None))
    }
}

impl From<Kill> for Value {
    fn from(kill: Kill) -> Self {
        let mut map = intent(KILL, kill.message);
        map.insert(FORCE_KILL, kill.force);
        Value::Map(map)
    }
}

/// What a process is sent under its pid.
///
/// ```
/// use homing::Value;
/// use homing::process::{ControlMessage, Kill};
///
/// let kill = ControlMessage::Kill(Kill::new().with_message("enough"));
/// let body = Value::from(kill.clone());
/// assert_eq!(body.get("intent").and_then(Value::as_str), Some("kill"));
/// assert_eq!(ControlMessage::try_from(&body)?, kill);
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlMessage {
    /// Wants its status.
    Status(AskStatus),
    /// Pauses it.
    Pause(Pause),
    /// Lets it go on.
    Play(Play),
    /// Kills it.
    Kill(Kill),
}

impl From<ControlMessage> for Value {
    fn from(message: ControlMessage) -> Self {
        match message {
            ControlMessage::Status(status) => status.into(),
            ControlMessage::Pause(pause) => pause.into(),
            ControlMessage::Play(play) => play.into(),
            ControlMessage::Kill(kill) => kill.into(),
        }
    }
}

/// `Decode` for a message without an intent, or with one that is not known.
impl TryFrom<&Value> for ControlMessage {
    type Error = Error;

    fn try_from(body: &Value) -> Result<Self> {
        let missing = || Error::new(ErrorKind::Decode, "the message to a process is no mapping that has an intent");
        match body.get(INTENT).ok_or_else(missing)?.as_str() {
            Some(STATUS) => Ok(ControlMessage::Status(AskStatus)),
            Some(PAUSE) => Ok(ControlMessage::Pause(Pause { message: message(body) })),
            Some(PLAY) => Ok(ControlMessage::Play(Play)),
            Some(KILL) => Ok(ControlMessage::Kill(Kill { message: message(body), force: is_forced(body) })),
            other => {
                let shown: String = other.unwrap_or("(no string)").chars().take(40).collect();
                let text = format!("Unknown intent {shown:?}; known are status, pause, play and kill");
                Err(Error::new(ErrorKind::Decode, text))
            }
        }
    }
}

fn message(body: &Value) -> Option<String> {
    match body.get(MESSAGE)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        // plumpy does not check its type.
        other => Some(other.to_json_text()),
    }
}

fn is_forced(body: &Value) -> bool {
    body.get(FORCE_KILL).is_some_and(Value::is_truthy)
}

/// What all processes are sent at once: a broadcast with the intent as its subject, and no sender.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlBroadcast {
    /// Pauses all.
    Pause(Pause),
    /// Lets all go on.
    Play(Play),
    /// Kills all. plumpy's processes kill themselves in order, whether it is forced or not.
    Kill(Kill),
}

impl ControlBroadcast {
    /// The subject of the broadcast.
    #[must_use]
    pub fn subject(&self) -> &'static str {
        match self {
            ControlBroadcast::Pause(_) => PAUSE,
            ControlBroadcast::Play(_) => PLAY,
            ControlBroadcast::Kill(_) => KILL,
        }
    }

    /// The body of the broadcast.
    #[must_use]
    pub fn into_body(self) -> Value {
        match self {
            ControlBroadcast::Pause(pause) => pause.into(),
            ControlBroadcast::Play(_) => Value::Null,
            ControlBroadcast::Kill(kill) => kill.into(),
        }
    }

    /// Reads a broadcast; `None` for one that is about something else.
    #[must_use]
    pub fn from_broadcast(broadcast: &Broadcast) -> Option<Self> {
        Self::read(broadcast.subject()?, broadcast.body())
    }

    pub(super) fn read(subject: &str, body: &Value) -> Option<Self> {
        match subject {
            PAUSE => Some(ControlBroadcast::Pause(Pause { message: message(body) })),
            PLAY => Some(ControlBroadcast::Play(Play)),
            KILL => Some(ControlBroadcast::Kill(Kill { message: message(body), force: is_forced(body) })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_read_as_it_is_written() {
        for sent in [
            ControlMessage::Status(AskStatus),
            ControlMessage::Pause(Pause::new()),
            ControlMessage::Pause(Pause::new().with_message("why")),
            ControlMessage::Play(Play),
            ControlMessage::Kill(Kill::new()),
            ControlMessage::Kill(Kill::new().with_message("").forced()),
        ] {
            assert_eq!(ControlMessage::try_from(&Value::from(sent.clone())).unwrap(), sent);
        }
    }

    #[test]
    fn what_plumpy_takes_is_taken_and_the_rest_refused() {
        let read = |yaml: &str| ControlMessage::try_from(&crate::codec::parse_text(yaml.as_bytes()).unwrap());
        assert_eq!(read("{intent: kill}").unwrap(), ControlMessage::Kill(Kill::new()));
        assert_eq!(read("{intent: kill, force_kill: 1}").unwrap(), ControlMessage::Kill(Kill::new().forced()));
        assert_eq!(read("{intent: pause, message: 5}").unwrap(), ControlMessage::Pause(Pause::new().with_message("5")));
        for wrong in ["null", "pause", "{foo: dance}", "{intent: dance}", "{intent: null}", "{intent: [pause]}"] {
            assert_eq!(read(wrong).unwrap_err().kind(), ErrorKind::Decode, "{wrong}");
        }
    }
}
