//! The reply codes of the specification, with the names that RabbitMQ puts in front of its texts.

/// Whether an error closes its channel or the whole connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The channel is closed; the connection goes on.
    Channel,
    /// The connection is closed.
    Connection,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $severity:ident;)*) => {
        /// A reply code of AMQP 0-9-1.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ReplyCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ReplyCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name that stands before the text, as in `NOT_FOUND - no queue 'q' in vhost '/'`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What an error with this code closes.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)*
                }
            }
        }
    };
}

codes! {
    /// The content is larger than the server takes.
    ContentTooLarge = 311, "CONTENT_TOO_LARGE", Channel;
    /// A mandatory message has no queue.
    NoRoute = 312, "NO_ROUTE", Channel;
    /// An immediate message has no consumer.
    NoConsumers = 313, "NO_CONSUMERS", Channel;
    /// An operator, or the end of the server, closed the connection.
    ConnectionForced = 320, "CONNECTION_FORCED", Connection;
    /// The virtual host does not exist or its name is malformed.
    InvalidPath = 402, "INVALID_PATH", Connection;
    /// The user may not do this.
    AccessRefused = 403, "ACCESS_REFUSED", Channel;
    /// What was named does not exist.
    NotFound = 404, "NOT_FOUND", Channel;
    /// Another connection owns it.
    ResourceLocked = 405, "RESOURCE_LOCKED", Channel;
    /// The state does not allow it.
    PreconditionFailed = 406, "PRECONDITION_FAILED", Channel;
    /// A malformed frame.
    FrameError = 501, "FRAME_ERROR", Connection;
    /// A field with a value that is not allowed.
    SyntaxError = 502, "SYNTAX_ERROR", Connection;
    /// A method at a time when it is not allowed.
    CommandInvalid = 503, "COMMAND_INVALID", Connection;
    /// A channel that is not open, or cannot be.
    ChannelError = 504, "CHANNEL_ERROR", Connection;
    /// A frame where another kind was due.
    UnexpectedFrame = 505, "UNEXPECTED_FRAME", Connection;
    /// The server ran out of something.
    ResourceError = 506, "RESOURCE_ERROR", Connection;
    /// What the peer asks is not allowed at all.
    NotAllowed = 530, "NOT_ALLOWED", Connection;
    /// The server does not have this.
    NotImplemented = 540, "NOT_IMPLEMENTED", Connection;
    /// A fault of the server.
    InternalError = 541, "INTERNAL_ERROR", Connection;
}

/// The code of an orderly close.
pub const REPLY_SUCCESS: u16 = 200;

impl ReplyCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }
}
