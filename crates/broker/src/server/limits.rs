//! What one client may cost, and how long it may take.

use std::time::Duration;

/// Thirty years, which every clock can add. What is longer is taken for that.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The limits of a server. Those that are negotiated are what is proposed. Times of more than 30 years count as 30 years.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time. 65,536.
    pub connections: usize,
    /// Channels of a connection. 2047.
    pub channels: u16,
    /// The largest frame, in bytes. 131,072.
    pub frame_size: u32,
    /// The largest body, in bytes. 128 MiB, as RabbitMQ has it.
    pub message_size: u64,
    /// What of bodies that have begun and of transactions that are not committed a connection may have in memory, in bytes.
    /// 256 MiB.
    pub unfinished: usize,
    /// Above so many bytes of messages in memory, in all virtual hosts together, publishers are stopped until a tenth of it is free;
    /// those who only receive and acknowledge go on. Messages that are put away on the disk do not count. 1 GiB.
    pub memory: usize,
    /// Above so many bytes that a client does not read, its consumers are given nothing more. 1 MiB.
    pub unsent: usize,
    /// Above so many bytes that a client does not read, nothing more is read from it. A message may exceed this by its own
    /// size. 16 MiB.
    pub unsent_at_most: usize,
    /// The interval of heartbeats that is proposed; zero for none. 60 s.
    pub heartbeat: Duration,
    /// Passwords that are hashed at a time, each on a thread of its own with 19 MiB of memory. Others wait. 2.
    pub password_checks: usize,
    /// From the first byte to the open connection. 10 s.
    pub handshake: Duration,
    /// How long a client has to agree to the end of its connection. 5 s.
    pub close: Duration,
    /// How long a client that is [not read from](Self::unsent_at_most) may take to read anything. 60 s.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            channels: 2047,
            frame_size: 131_072,
            message_size: 128 << 20,
            unfinished: 256 << 20,
            memory: 1 << 30,
            unsent: 1 << 20,
            unsent_at_most: 16 << 20,
            heartbeat: Duration::from_secs(60),
            password_checks: 2,
            handshake: Duration::from_secs(10),
            close: Duration::from_secs(5),
            stall: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// With times that can be added to every point in time.
    // Guards: an addition that panics, for each client that comes.
    pub(super) fn with_times_that_pass(mut self) -> Self {
        for time in [&mut self.heartbeat, &mut self.handshake, &mut self.close, &mut self.stall] {
            *time = (*time).min(LONGEST);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_longest_times_can_be_added_to_every_point_in_time() {
        let longest = Limits {
            heartbeat: Duration::MAX,
            handshake: Duration::MAX,
            close: Duration::MAX,
            stall: Duration::MAX,
            ..Limits::default()
        };
        let limits = longest.with_times_that_pass();
        for time in [limits.heartbeat, limits.handshake, limits.close, limits.stall] {
            assert!(Instant::now().checked_add(time).is_some(), "{time:?}");
        }
        let usual = Limits::default();
        assert_eq!(usual.clone().with_times_that_pass().stall, usual.stall);
    }
}
