//! Where tasks wait that are sent for later: durable queues of a broker that has nothing but what RabbitMQ comes with.
//!
//! A message's time acts only at the head of a queue. So all that lies in one delay queue has to become due in the order in
//! which it came:
//!
//! - `homing-delay-MILLISECONDS-QUEUE` holds what waits equally long. The queue has that time (`x-message-ttl`).
//! - `homing-until-TIME-LIFE-QUEUE` holds what is due at one time, in milliseconds since 1970, and each message has what is left
//!   to it (`expiration`). LIFE is how long the queue lives without use; it stands in the name, since a queue cannot be declared
//!   with two of them.
//!
//! When its time is over, the broker puts the message into the task queue (`x-dead-letter-routing-key`). A delay queue goes by
//! itself some minutes after it was last declared and what lies in it has gone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::headers;
use super::names::Names;
use crate::broker::{Access, AutoDelete, Message, QueueSpec};
use crate::error::{Error, ErrorKind, Result};

const AFTER: &str = "homing-delay-";
const UNTIL: &str = "homing-until-";

/// RabbitMQ counts times of queues up to 49.7 days, of which the queue itself needs some.
pub(crate) const LONGEST: Duration = Duration::from_secs(45 * 24 * 60 * 60);

/// How long a queue lives beside what its messages need.
const SPARE: Duration = Duration::from_secs(300);

const LONGEST_LIFE: u64 = u32::MAX as u64;

/// When a task is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    After(Duration),
    At(SystemTime),
}

/// Where a task goes first, and when it is due if that stands in the message.
pub(crate) struct FirstTo {
    pub(crate) queue: Arc<str>,
    pub(crate) due: Option<u64>,
    /// How long it waits there.
    pub(crate) wait: Duration,
}

impl Delay {
    /// `None` for a task that is due.
    ///
    /// # Errors
    /// `InvalidArgument` for more than 45 days, and for a name that leaves no room.
    pub(crate) fn first_to(self, queue: &str, now: SystemTime) -> Result<Option<FirstTo>> {
        let wait = match self {
            Delay::After(time) => time,
            Delay::At(time) => time.duration_since(now).unwrap_or_default(),
        };
        if wait > LONGEST {
            let text =
                format!("a task cannot wait for {wait:?}: the longest that a queue can hold one back is 45 days");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        // Rounded up: no task comes too early.
        let millis = whole_millis(wait);
        if millis == 0 {
            return Ok(None);
        }
        let (name, due) = match self {
            Delay::After(_) => (format!("{AFTER}{millis}-{queue}"), None),
            Delay::At(time) => {
                let due = whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default());
                (format!("{UNTIL}{due}-{}-{queue}", life(millis)), Some(due))
            }
        };
        if name.len() > 255 {
            let text = format!("the name of the task queue {queue:?} is too long for tasks with a delay");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        Ok(Some(FirstTo { queue: name.into(), due, wait }))
    }
}

pub(super) fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// How long a queue lives whose messages wait for so many milliseconds. One of few lengths, so that those who send for one time
/// use few queues.
fn life(millis: u64) -> u64 {
    let spare = whole_millis(SPARE);
    // Guards: a number that is too large to be doubled, from a name that is not of our making.
    let least = millis.saturating_add(spare).min(LONGEST_LIFE);
    least.next_power_of_two().max(2 * spare).min(LONGEST_LIFE)
}

impl Names {
    /// What the delay queue of this name is, and the task queue that it is for. `None` for another queue.
    pub(crate) fn delay_queue(&self, name: &str) -> Option<(QueueSpec, Arc<str>)> {
        let (ttl, expires, queue) = if let Some(rest) = name.strip_prefix(AFTER) {
            let (millis, queue) = rest.split_once('-')?;
            let millis: u64 = millis.parse().ok()?;
            (Some(Duration::from_millis(millis)), life(millis.saturating_mul(2)), queue)
        } else {
            let (_, rest) = name.strip_prefix(UNTIL)?.split_once('-')?;
            let (life, queue) = rest.split_once('-')?;
            (None, life.parse().ok()?, queue)
        };
        let spec = QueueSpec {
            name: name.to_owned(),
            durability: self.lasting().0,
            access: Access::Shared,
            auto_delete: AutoDelete::No,
            message_ttl: ttl,
            expires: Some(Duration::from_millis(expires)),
            dead_letter_to: Some(queue.to_owned()),
            priorities: None,
            max_length: None,
        };
        Some((spec, queue.into()))
    }
}

/// A message with what is left of its time, if it is for a delay queue with one: it may have waited for a connection.
pub(crate) fn expiring(message: Rc<Message>) -> Rc<Message> {
    if !message.exchange.is_empty() || !message.routing_key.starts_with(UNTIL) {
        return message;
    }
    let Some(due) = message.properties.number(headers::DUE) else { return message };
    let now = crate::time::time_of_day().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = due.saturating_sub(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let mut message = Rc::unwrap_or_clone(message);
    message.properties.rest_mut().expiration = Some(left.to_string());
    Rc::new(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::default()
    }

    fn first(delay: Delay) -> FirstTo {
        delay.first_to("work-a", UNIX_EPOCH + Duration::from_secs(1_000)).expect("a delay").expect("not due")
    }

    #[test]
    fn those_that_wait_equally_long_share_a_queue_and_it_outlives_them() {
        let to = first(Delay::After(Duration::from_micros(1_500_100)));
        assert_eq!((&*to.queue, to.due), ("homing-delay-1501-work-a", None));
        let (spec, target) = names().delay_queue(&to.queue).expect("a delay queue");
        assert_eq!((&*target, spec.dead_letter_to.as_deref()), ("work-a", Some("work-a")));
        assert_eq!(spec.message_ttl, Some(Duration::from_millis(1501)));
        assert!(spec.expires.is_some_and(|life| life >= SPARE));
    }

    #[test]
    fn those_for_one_time_share_a_queue_and_have_what_is_left() {
        let at = UNIX_EPOCH + Duration::from_millis(1_090_000);
        let to = first(Delay::At(at));
        assert_eq!((&*to.queue, to.due), ("homing-until-1090000-600000-work-a", Some(1_090_000)));
        assert_eq!(first(Delay::At(at)).queue, to.queue);
        let (spec, target) = names().delay_queue(&to.queue).expect("a delay queue");
        assert_eq!((&*target, spec.message_ttl, spec.expires), ("work-a", None, Some(Duration::from_secs(600))));
    }

    #[test]
    fn a_queue_lives_longer_than_what_waits_in_it_for_every_wait() {
        for millis in [1, 999, 60_000, 3_600_000, 86_400_000, 30 * 86_400_000, whole_millis(LONGEST)] {
            for delay in [
                Delay::After(Duration::from_millis(millis)),
                Delay::At(UNIX_EPOCH + Duration::from_millis(1_000_000 + millis)),
            ] {
                let to = first(delay);
                let (spec, _) = names().delay_queue(&to.queue).expect("a delay queue");
                let life = spec.expires.expect("a life");
                assert!(life >= Duration::from_millis(millis) + SPARE, "{millis}: {life:?}");
                assert!(life.as_millis() <= u128::from(u32::MAX), "{millis}: {life:?}");
            }
        }
    }

    #[test]
    fn what_is_due_goes_straight_to_its_queue_and_what_is_too_far_away_is_refused() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        for due in [Delay::After(Duration::ZERO), Delay::At(now), Delay::At(UNIX_EPOCH)] {
            assert!(due.first_to("q", now).expect("it can be").is_none());
        }
        for far in [Delay::After(Duration::MAX), Delay::At(now + LONGEST + Duration::from_secs(1))] {
            let refused = far.first_to("q", now).map(drop).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        }
        let long = Delay::After(Duration::from_secs(1)).first_to(&"q".repeat(244), now).map(drop).unwrap_err();
        assert_eq!(long.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn other_queues_are_no_delay_queues() {
        // Of no length that could be asked for, and no trouble either.
        assert!(names().delay_queue("homing-delay-18446744073709551615-q").is_some());
        for name in ["work", "homing-delay-", "homing-delay-x-q", "homing-until-5-q", "homing-lease-1-2"] {
            assert!(names().delay_queue(name).is_none(), "{name}");
        }
    }
}
