//! An answer that waits for the disk. An acknowledgement has no answer of its own in AMQP; the ends of its channel and of its
//! connection have, and they promise that it counts.

use super::{host::Host, journal::Mark};
use std::rc::Rc;

/// An answer that is sent when what its connection did before is on the disk. Nothing is read from the client meanwhile.
pub(super) struct Held {
    pub(super) host: Rc<Host>,
    /// What has to be on the disk.
    pub(super) mark: Mark,
    pub(super) answer: Answer,
}

/// What is answered.
pub(super) enum Answer {
    /// These frames are sent.
    Frames(Vec<u8>),
    /// The channel ends.
    ChannelClosed(u16),
    /// The connection has left its virtual host, and ends.
    ConnectionClosed,
}

/// Why something is not answered. Clients of homing's know these words.
pub(super) fn not_safe(reason: &str) -> String {
    format!("what was done last is not on the disk, and undone if the broker ends now: {reason}")
}
