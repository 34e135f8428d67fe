//! Names and numbers of kiwipy's topology (kiwipy 0.9.0, `rmq/defaults.py`), and what may be an identifier.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Access, AutoDelete, Durability, ExchangeSpec, QueueSpec};
use crate::error::{Error, ErrorKind, Result};

pub(crate) const RPC_TOPIC: &str = "[rpc].";
/// homing's own: the notice that a caller is gone, for the same name.
const GONE_TOPIC: &str = "[gone].";
/// What the name of a quarantine queue ends with, behind that of its task queue.
pub(crate) const QUARANTINE: &str = ".quarantine";
/// homing's own: where callers ask for answers that they have lost.
pub(crate) const ANSWERS_KEY: &str = "[homing].answers";
pub(crate) const BROADCAST_TOPIC: &str = "[broadcast]";
/// A routing key has a length of one byte (AMQP 0-9-1, *shortstr*).
const ROUTING_KEY_MAX: usize = 255;
/// How long a queue of testing mode lives unused.
const TESTING_EXPIRES: Duration = Duration::from_secs(10);

/// Who answers an RPC: the identifier under which a subscriber was added.
///
/// At most 249 bytes (the routing key `[rpc].<identifier>` has room for 255), and no word of it, between dots, may be `*`
/// or `#`: a subscriber of such a name would receive the calls of others.
///
/// # Examples
///
/// ```
/// use homing::Identifier;
/// assert!(Identifier::new("process-4").is_ok());
/// assert!(Identifier::new("jobs.*").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier {
    /// With the name behind it: what every call of it is sent by.
    routing_key: Arc<str>,
}

impl Identifier {
    /// An identifier of this name.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is too long, or has a wildcard word or a control character.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        // As names mostly are. Every call that is sent by its recipient's name makes one.
        let is_plain = |byte: &u8| byte.is_ascii() && !byte.is_ascii_control() && !matches!(byte, b'*' | b'#');
        if name.as_bytes().iter().all(is_plain)
            && let Some(routing_key) = joined(RPC_TOPIC, name)
        {
            return Ok(Identifier { routing_key });
        }
        if has_wildcard_word(name) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the identifier {:?} cannot be used: as a routing key its word `*` or `#` stands for any word, \
                     and the subscriber would receive the calls of others; choose a name without it",
                    shown(name)
                ),
            ));
        }
        if name.chars().any(char::is_control) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the identifier {:?} cannot be used: it has a control character", shown(name)),
            ));
        }
        let routing_key = [RPC_TOPIC, name].concat();
        check_routing_key(&routing_key, "identifier", name)?;
        Ok(Identifier { routing_key: routing_key.into() })
    }

    /// A new one that nobody else has.
    #[must_use]
    pub fn unique() -> Self {
        Identifier { routing_key: [RPC_TOPIC, &crate::ids::digits(crate::ids::unique())].concat().into() }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.routing_key.get(RPC_TOPIC.len()..).unwrap_or_default()
    }

    pub(crate) fn routing_key_str(&self) -> &str {
        &self.routing_key
    }

    pub(crate) fn routing_key(&self) -> Arc<str> {
        Arc::clone(&self.routing_key)
    }

    /// Where the notice goes that a caller is gone; `None` for a name that leaves no room for it.
    pub(crate) fn gone_key(&self) -> Option<String> {
        let key = format!("{GONE_TOPIC}{}", self.as_str());
        (key.len() <= ROUTING_KEY_MAX).then_some(key)
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identifier").field(&self.as_str()).finish()
    }
}

/// What converts to an [`Identifier`]: a string, an integer (a process id, as plumpy's `str(pid)`), a UUID, or an identifier.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an identifier",
    note = "an identifier is a string, an integer, a UUID, a `Pid` or an `Identifier`"
)]
pub trait IntoIdentifier {
    /// The identifier.
    ///
    /// # Errors
    /// `InvalidArgument`, see [`Identifier::new`].
    fn into_identifier(self) -> Result<Identifier>;
}

impl IntoIdentifier for Identifier {
    fn into_identifier(self) -> Result<Identifier> {
        Ok(self)
    }
}

impl IntoIdentifier for &Identifier {
    fn into_identifier(self) -> Result<Identifier> {
        Ok(self.clone())
    }
}

macro_rules! identifiers {
    ($($from:ty),*) => {$(
        impl IntoIdentifier for $from {
            fn into_identifier(self) -> Result<Identifier> {
                Identifier::new(self.to_string())
            }
        }
    )*};
}

impl IntoIdentifier for &str {
    fn into_identifier(self) -> Result<Identifier> {
        Identifier::new(self)
    }
}

identifiers!(String, &String, i32, i64, u32, u64, usize, uuid::Uuid);

/// How the queues begin that homing declares beside kiwipy's.
const OWN_QUEUES: [&str; 5] = ["homing-delay-", "homing-until-", "homing-unique-", "homing-lease-", "homing-control-"];

fn check_routing_key(key: &str, what: &str, name: &str) -> Result<()> {
    if key.len() <= ROUTING_KEY_MAX {
        return Ok(());
    }
    let shown = shown(name);
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "the {what} {shown:?}… has {} bytes; AMQP allows {ROUTING_KEY_MAX} bytes for a name or a routing key, which leaves {} for it \
             in those that are made from it",
            name.len(),
            ROUTING_KEY_MAX - (key.len() - name.len()),
        ),
    ))
}

/// Whether queues and exchanges are for tests: they vanish when nobody uses them (kiwipy's `testing_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TestingMode {
    /// They are meant to last.
    #[default]
    No,
    /// Exchanges go with their last queue, queues after 10 seconds without a user.
    Yes,
}

/// The two exchanges. Calls, broadcasts and the replies to calls go through one, tasks and their replies through the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Exchange {
    Message,
    Task,
}

/// What a communicator declares, by name.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub message_exchange: Arc<str>,
    pub task_exchange: Arc<str>,
    pub task_queue: Arc<str>,
    pub queue_expires: Duration,
    pub message_ttl: Duration,
    pub task_ttl: Duration,
    pub task_priorities: Option<u8>,
    pub testing: TestingMode,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            message_exchange: "kiwipy.messages".into(),
            task_exchange: "kiwipy.tasks".into(),
            task_queue: "kiwipy.tasks".into(),
            queue_expires: Duration::from_secs(60),
            message_ttl: Duration::from_secs(66),
            task_ttl: Duration::from_secs(7 * 24 * 60 * 60),
            task_priorities: None,
            testing: TestingMode::No,
        }
    }
}

impl Names {
    /// That every name fits where it goes.
    pub(crate) fn check(&self) -> Result<()> {
        for exchange in [&self.message_exchange, &self.task_exchange] {
            check_name("exchange", exchange)?;
            check_routing_key(&reply_queue_name(exchange, &uuid::Uuid::nil()), "exchange name", exchange)?;
        }
        check_task_queue(&self.task_queue)
    }

    pub(crate) fn exchange_name(&self, exchange: Exchange) -> &Arc<str> {
        match exchange {
            Exchange::Message => &self.message_exchange,
            Exchange::Task => &self.task_exchange,
        }
    }

    pub(crate) fn exchange(&self, exchange: Exchange) -> ExchangeSpec {
        ExchangeSpec {
            name: self.exchange_name(exchange).clone(),
            durability: Durability::Transient,
            auto_delete: self.auto_delete(),
        }
    }

    fn auto_delete(&self) -> AutoDelete {
        match self.testing {
            TestingMode::No => AutoDelete::No,
            TestingMode::Yes => AutoDelete::Yes,
        }
    }

    pub(crate) fn rpc_queue(&self) -> QueueSpec {
        QueueSpec {
            name: format!("rpc-{}", crate::ids::unique()),
            durability: Durability::Transient,
            access: Access::Exclusive,
            auto_delete: AutoDelete::No,
            message_ttl: Some(self.message_ttl),
            expires: Some(self.queue_expires),
            dead_letter_to: None,
            priorities: None,
            max_length: None,
        }
    }

    pub(crate) fn broadcast_queue(&self) -> QueueSpec {
        QueueSpec {
            name: format!("broadcast-{}", crate::ids::unique().simple()),
            durability: Durability::Transient,
            access: Access::Exclusive,
            auto_delete: AutoDelete::No,
            message_ttl: Some(self.message_ttl),
            expires: None,
            dead_letter_to: None,
            priorities: None,
            max_length: None,
        }
    }

    /// Where a task lies on lease, and the queue that it goes back to when its worker does not renew the lease.
    pub(crate) fn lease_queue(&self, name: String, queue: &str, lease: Duration) -> QueueSpec {
        let (durability, _) = self.lasting();
        QueueSpec {
            name,
            durability,
            access: Access::Shared,
            auto_delete: AutoDelete::No,
            message_ttl: Some(lease),
            // Long after the message has gone: a queue that expires takes with it what is in it.
            expires: Some(lease.saturating_mul(2).saturating_add(Duration::from_secs(300))),
            dead_letter_to: Some(queue.to_owned()),
            priorities: None,
            max_length: None,
        }
    }

    /// Where callers of homing ask for answers that they have lost.
    pub(crate) fn control_queue(&self) -> QueueSpec {
        QueueSpec {
            name: format!("homing-control-{}", crate::ids::unique().simple()),
            durability: Durability::Transient,
            access: Access::Exclusive,
            auto_delete: AutoDelete::No,
            message_ttl: Some(self.message_ttl),
            expires: None,
            dead_letter_to: None,
            priorities: None,
            max_length: None,
        }
    }

    /// The name of a new reply queue.
    pub(crate) fn new_reply_queue(&self, exchange: Exchange) -> String {
        reply_queue_name(self.exchange_name(exchange), &crate::ids::unique())
    }

    pub(crate) fn reply_queue(&self, name: &str) -> QueueSpec {
        QueueSpec {
            name: name.to_owned(),
            durability: Durability::Transient,
            access: Access::Exclusive,
            auto_delete: self.auto_delete(),
            message_ttl: None,
            expires: Some(self.queue_expires),
            dead_letter_to: None,
            priorities: None,
            max_length: None,
        }
    }

    pub(crate) fn task_queue(&self, name: &str) -> QueueSpec {
        let (durability, expires) = self.lasting();
        QueueSpec {
            name: name.to_owned(),
            durability,
            access: Access::Shared,
            auto_delete: AutoDelete::No,
            message_ttl: Some(self.task_ttl),
            expires,
            dead_letter_to: None,
            priorities: self.task_priorities,
            max_length: None,
        }
    }

    /// What a queue is that is to outlive its users, outside of testing mode.
    pub(super) fn lasting(&self) -> (Durability, Option<Duration>) {
        match self.testing {
            TestingMode::No => (Durability::Durable, None),
            TestingMode::Yes => (Durability::Transient, Some(TESTING_EXPIRES)),
        }
    }

    /// Where tasks go that cannot be read. Durable, for people to inspect.
    pub(crate) fn quarantine_queue(&self, queue: &str) -> QueueSpec {
        let (durability, expires) = self.lasting();
        QueueSpec {
            name: format!("{queue}{QUARANTINE}"),
            durability,
            access: Access::Shared,
            auto_delete: AutoDelete::No,
            message_ttl: None,
            expires,
            dead_letter_to: None,
            priorities: None,
            max_length: None,
        }
    }
}

fn reply_queue_name(exchange: &str, id: &uuid::Uuid) -> String {
    format!("{exchange}-reply-{id}")
}

/// That a name is none that means something of its own to a broker.
fn check_name(what: &str, name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "a broker would choose one by itself"
    } else if name.starts_with("amq.") {
        "names that begin with `amq.` belong to the broker"
    } else if name.chars().any(char::is_control) {
        "it has a control character"
    } else {
        return Ok(());
    };
    let name = shown(name);
    Err(Error::new(ErrorKind::InvalidArgument, format!("no {what} can be named {name:?}: {why}")))
}

/// As much of a name as goes into an error.
fn shown(name: &str) -> &str {
    name.char_indices().nth(40).map_or(name, |(end, _)| &name[..end])
}

/// That a queue can be a program's task queue.
///
/// # Errors
/// `InvalidArgument` for a name that no queue can have, that has a wildcard word, or that begins as homing's own queues do.
pub(crate) fn check_task_queue(name: &str) -> Result<()> {
    check_queue(name)?;
    let refused = |why: &str| {
        let name = shown(name);
        Err(Error::new(ErrorKind::InvalidArgument, format!("no task queue can be named {name:?}: {why}")))
    };
    if has_wildcard_word(name) {
        return refused(
            "as a routing key its word `*` or `#` stands for any word, and the queue would receive the tasks of others; \
             choose a name without it",
        );
    }
    // Guards: a task queue that is taken for a delay queue, and declared with times of its own.
    if OWN_QUEUES.iter().any(|own| name.starts_with(own)) {
        return refused("homing's own queues begin so; choose a name with another beginning");
    }
    Ok(())
}

/// That a queue of this name can be looked at as a task queue, whosesoever it is.
///
/// # Errors
/// `InvalidArgument` for a name that is empty or too long.
pub(crate) fn check_queue(name: &str) -> Result<()> {
    check_name("task queue", name)?;
    // Its quarantine queue has the longer name.
    check_routing_key(&format!("{name}{QUARANTINE}"), "task queue name", name)
}

/// A routing key made of two parts, in memory of its own alone; `None` where it is too long for one.
fn joined(first: &str, second: &str) -> Option<Arc<str>> {
    let mut key = [0; ROUTING_KEY_MAX];
    let key = key.get_mut(..first.len() + second.len())?;
    let (begin, end) = key.split_at_mut(first.len());
    begin.copy_from_slice(first.as_bytes());
    end.copy_from_slice(second.as_bytes());
    std::str::from_utf8(key).ok().map(Arc::from)
}

/// True for what, bound as a routing key, would receive messages with other keys too.
fn has_wildcard_word(key: &str) -> bool {
    key.split('.').any(|word| word == "*" || word == "#")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_may_have_249_bytes_and_no_more() {
        assert!(Identifier::new("x".repeat(249)).is_ok());
        let error = Identifier::new("x".repeat(250)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("249"), "{error}");
    }

    #[test]
    fn a_lease_queue_outlives_its_message_and_does_not_stay_for_ever() {
        for lease in [Duration::from_secs(1), Duration::from_secs(3600), Duration::MAX] {
            let spec = Names::default().lease_queue("lease".into(), "queue", lease);
            let time = |wish: Option<Duration>| crate::broker::queue_milliseconds(wish.expect("it has a time"));
            let (message, queue) = (time(spec.message_ttl), time(spec.expires));
            assert!(message < queue || message == u32::MAX, "{lease:?}: the queue would take its message along");
            assert_eq!(spec.dead_letter_to.as_deref(), Some("queue"));
        }
    }

    #[test]
    fn a_wildcard_word_is_refused_and_a_star_within_a_word_is_not() {
        for bad in ["*", "#", "a.*", "#.b", "a.#.b"] {
            assert!(Identifier::new(bad).is_err(), "{bad}");
        }
        for good in ["a.b*c#d é", "**", "a", ""] {
            assert!(Identifier::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_task_queue_that_would_receive_the_tasks_of_others_is_refused() {
        for bad in ["*", "#", "a.*", "#.b", "a.#.b"] {
            let refused = check_task_queue(bad).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{bad}");
            assert!(Names { task_queue: bad.into(), ..Names::default() }.check().is_err(), "{bad}");
            assert!(check_queue(bad).is_ok(), "{bad}");
        }
        for good in ["a.b*c#d é", "**", "a", "a homing-delay-5-b"] {
            assert!(check_task_queue(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_task_queue_with_a_name_of_our_own_queues_is_refused_and_can_be_looked_at() {
        for bad in [
            "homing-delay-5-q",
            "homing-until-5-600000-q",
            "homing-unique-5-x-q",
            "homing-lease-1-2",
            "homing-control-x",
        ] {
            let refused = check_task_queue(bad).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{bad}");
            assert!(check_queue(bad).is_ok(), "{bad}");
        }
    }

    #[test]
    fn an_exchange_whose_reply_queue_would_not_fit_is_refused() {
        let names = Names { message_exchange: "e".repeat(213).into(), ..Names::default() };
        assert!(names.check().is_err());
        let names = Names { message_exchange: "e".repeat(212).into(), ..Names::default() };
        assert!(names.check().is_ok());
    }
}
