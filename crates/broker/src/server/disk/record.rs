//! A message as the store keeps it: what belongs to it besides its content header and its body.

use crate::protocol::read::Reader;
use crate::protocol::write::Writer;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The only form that there is so far.
const VERSION: u8 = 1;
/// Its time is never over.
const NEVER: u64 = u64::MAX;

/// What is kept with a message.
#[derive(Debug, PartialEq)]
pub(in crate::server) struct Record<'a> {
    /// When its time in the queue is over, in milliseconds since 1970.
    expires: u64,
    pub(in crate::server) exchange: &'a str,
    pub(in crate::server) key: &'a str,
    pub(in crate::server) bcc: Vec<&'a str>,
    /// The payload of its content header.
    pub(in crate::server) header: &'a [u8],
}

impl<'a> Record<'a> {
    pub(in crate::server) fn new(exchange: &'a str, key: &'a str, bcc: &'a [Arc<str>], header: &'a [u8]) -> Self {
        Self { expires: NEVER, exchange, key, bcc: bcc.iter().map(|key| &**key).collect(), header }
    }

    pub(super) fn expiring(mut self, at: Option<Instant>, clock: &Clock) -> Self {
        self.expires = at.map_or(NEVER, |at| clock.wall(at));
        self
    }

    /// When its time is over, by this process's clock.
    pub(super) fn expires(&self, clock: &Clock) -> Option<Instant> {
        (self.expires != NEVER).then(|| clock.instant(self.expires))
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + self.exchange.len() + self.key.len() + self.header.len());
        let mut writer = Writer::new(&mut bytes);
        writer.bytes(&[VERSION]);
        writer.bytes(&self.expires.to_be_bytes());
        writer.short_string(self.exchange);
        writer.short_string(self.key);
        // They came in one header frame, so that there are not more than it has bytes.
        writer.bytes(&u32::try_from(self.bcc.len()).unwrap_or(u32::MAX).to_be_bytes());
        for key in &self.bcc {
            writer.long_bytes(key.as_bytes());
        }
        writer.bytes(self.header);
        bytes
    }

    /// `None` for what was written by a later version, or by somebody else.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u8().ok()? != VERSION {
            return None;
        }
        let expires = reader.u64().ok()?;
        let (exchange, key) = (reader.short_string().ok()?, reader.short_string().ok()?);
        let mut bcc = Vec::new();
        for _ in 0..reader.u32().ok()? {
            bcc.push(std::str::from_utf8(reader.long_bytes().ok()?).ok()?);
        }
        Some(Self { expires, exchange, key, bcc, header: reader.rest() })
    }
}

/// The two clocks of a process, read at one moment: times in the store have to mean something after a restart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    instant: Instant,
    since_1970: Duration,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self { instant: now, since_1970: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    fn wall(&self, at: Instant) -> u64 {
        let later = self.since_1970.saturating_add(at.saturating_duration_since(self.instant));
        let earlier = self.instant.saturating_duration_since(at);
        u64::try_from(later.saturating_sub(earlier).as_millis()).map_or(NEVER - 1, |time| time.min(NEVER - 1))
    }

    fn instant(&self, wall: u64) -> Instant {
        let left = Duration::from_millis(wall).saturating_sub(self.since_1970);
        // What is over is over now; what is further away than this clock goes is not over for as long as it goes.
        self.instant.checked_add(left).unwrap_or_else(|| self.instant + Duration::from_secs(1 << 31))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_came() {
        let clock = Clock::new(Instant::now());
        let bcc = [Arc::from("one"), Arc::from("")];
        let at = Instant::now() + Duration::from_millis(90_000);
        for (bcc, expires) in [(&bcc[..], Some(at)), (&[], None)] {
            let record = Record::new("exchange", "key", bcc, b"header").expiring(expires, &clock);
            let bytes = record.write();
            let read = Record::read(&bytes).expect("it can be read");
            assert_eq!(read, record);
            let difference = read.expires(&clock).map(|read| read.duration_since(at).max(at.duration_since(read)));
            assert_eq!(difference.is_some(), expires.is_some());
            assert!(difference.is_none_or(|difference| difference <= Duration::from_millis(1)));
            for end in 0..bytes.len() - b"header".len() {
                assert_eq!(Record::read(&bytes[..end]), None, "{end}");
            }
        }
        assert_eq!(Record::read(&[VERSION + 1; 30]), None);
    }

    #[test]
    fn a_time_that_has_passed_while_the_broker_was_down_is_over_at_once() {
        let clock = Clock::new(Instant::now());
        assert_eq!(clock.instant(0), clock.instant);
        assert!(clock.instant(NEVER - 1) > clock.instant + Duration::from_secs(1 << 30));
    }
}
