//! The keys of tasks that are to be sent once within a time: small queues of a broker that has nothing but what RabbitMQ comes with.
//!
//! Each key has a queue of its own, `homing-unique-MILLISECONDS-HASH-QUEUE`, which takes one message (`x-max-length`) and refuses
//! the next (`x-overflow`), until the time of the first is over (`x-message-ttl`). That message is the marker: whoever has it
//! confirmed has the key, and sends the task. HASH is of the key, which may have any length; QUEUE is the task queue.
//!
//! All that is declared stands in the name. So senders that give a key different times have different queues, and do not see each
//! other. The queue goes by itself soon after the time, when nobody has declared it meanwhile.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::delay::{LONGEST, whole_millis};
use super::names::Names;
use crate::broker::{Access, AutoDelete, QueueSpec};
use crate::error::{Error, ErrorKind, Result};

const MARKERS: &str = "homing-unique-";

/// How long a queue lives beside its marker's time: longer than from its declaration to the arrival of the marker.
const SPARE: Duration = Duration::from_secs(60);

/// How many bytes of the hash go into the name: 128 bits.
const HASH_BYTES: usize = 16;

/// A key that only one task may have within a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UniqueKey {
    pub(crate) key: Arc<str>,
    /// In whole milliseconds.
    pub(crate) time: Duration,
    /// The queue of its marker.
    pub(crate) marker: Arc<str>,
}

impl UniqueKey {
    /// # Errors
    /// `InvalidArgument` for no time, for more than 45 days, and for a task queue whose name leaves no room.
    pub(crate) fn new(key: Arc<str>, time: Duration, queue: &str) -> Result<Self> {
        let refused = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, why));
        if time.is_zero() {
            return refused("a key of a task has to be unique for some time, and 0 was given");
        }
        if time > LONGEST {
            return refused(&format!("a key of a task cannot be kept for {time:?}: the longest is 45 days"));
        }
        // Rounded up: no key is free too early.
        let millis = whole_millis(time);
        let mut marker = format!("{MARKERS}{millis}-");
        for byte in sha1_smol::Sha1::from(key.as_bytes()).digest().bytes().iter().take(HASH_BYTES) {
            let _ = write!(marker, "{byte:02x}");
        }
        marker.push('-');
        marker.push_str(queue);
        if marker.len() > 255 {
            return refused(&format!("the name of the task queue {queue:?} is too long for tasks with a unique key"));
        }
        Ok(UniqueKey { key, time: Duration::from_millis(millis), marker: marker.into() })
    }

    /// A task with this key was sent before.
    pub(crate) fn is_taken(&self, queue: &str) -> Error {
        let UniqueKey { key, time, .. } = self;
        let text = format!(
            "the task on {queue:?} was not sent: one with the key {key:?} was, less than {time:?} ago; another one is taken when \
             that time is over"
        );
        Error::new(ErrorKind::DuplicateTask, text)
    }

    /// It is not known whether the broker has the marker.
    pub(crate) fn may_be_taken(&self, queue: &str, error: Error) -> Error {
        let UniqueKey { key, time, .. } = self;
        let text = format!(
            "the task on {queue:?} was not sent, and its key {key:?} may count as used for {time:?} all the same: {error}"
        );
        Error::with_source(error.kind(), text, error)
    }
}

impl Names {
    /// What the queue of this name is, if it is one of a marker.
    pub(crate) fn marker_queue(&self, name: &str) -> Option<QueueSpec> {
        let (millis, _) = name.strip_prefix(MARKERS)?.split_once('-')?;
        let time = Duration::from_millis(millis.parse().ok()?);
        Some(QueueSpec {
            name: name.to_owned(),
            durability: self.lasting().0,
            access: Access::Shared,
            auto_delete: AutoDelete::No,
            message_ttl: Some(time),
            expires: Some(time.saturating_add(SPARE)),
            dead_letter_to: None,
            priorities: None,
            max_length: Some(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str, time: Duration, queue: &str) -> UniqueKey {
        UniqueKey::new(key.into(), time, queue).expect("a key")
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn one_key_has_one_queue_and_others_have_others() {
        let one = key("invoice 17", MINUTE, "work");
        // printf %s 'invoice 17' | sha1sum
        assert_eq!(&*one.marker, "homing-unique-60000-edd4ae54c32a7f28e016ea268f3faa13-work");
        assert_eq!(one, key("invoice 17", MINUTE, "work"));
        let others = [key("invoice 18", MINUTE, "work"), key("", MINUTE, "work"), key("invoice 17", MINUTE, "other")];
        for other in &others {
            assert_ne!(other.marker, one.marker);
        }
        assert!(key(&"k".repeat(100_000), MINUTE, "work").marker.len() < 255);
    }

    #[test]
    fn a_marker_queue_takes_one_message_and_outlives_it() {
        for time in [Duration::from_micros(1), MINUTE, LONGEST] {
            let taken = key("k", time, "a-b-c");
            let spec = Names::default().marker_queue(&taken.marker).expect("a marker queue");
            assert_eq!((spec.max_length, spec.message_ttl, spec.dead_letter_to), (Some(1), Some(taken.time), None));
            assert!(taken.time >= time);
            let life = spec.expires.expect("a life");
            assert!(life >= time + SPARE && life.as_millis() <= u128::from(u32::MAX), "{life:?}");
        }
    }

    #[test]
    fn a_time_that_no_queue_can_keep_is_refused() {
        let refused = |time, queue: &str| UniqueKey::new("k".into(), time, queue).map(drop).unwrap_err().kind();
        assert_eq!(refused(Duration::ZERO, "q"), ErrorKind::InvalidArgument);
        assert_eq!(refused(LONGEST + Duration::from_secs(1), "q"), ErrorKind::InvalidArgument);
        assert_eq!(refused(Duration::MAX, "q"), ErrorKind::InvalidArgument);
        assert_eq!(refused(MINUTE, &"q".repeat(240)), ErrorKind::InvalidArgument);
    }

    #[test]
    fn other_queues_are_no_marker_queues() {
        for name in ["work", "homing-unique-", "homing-unique-x-y-q", "homing-delay-5-q", "homing-lease-1-2"] {
            assert!(Names::default().marker_queue(name).is_none(), "{name}");
        }
        // Of no time that could be asked for, and no trouble either.
        assert!(Names::default().marker_queue("homing-unique-18446744073709551615-x-q").is_some());
    }
}
