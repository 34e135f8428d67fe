//! What an operator changes.

use super::password::PasswordHash;
use super::table::{Permissions, TopicPermissions};
use crate::store;
use std::fmt;

/// One change of users, virtual hosts or permissions. It is done as a whole or not at all, and on the disk when it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A user who may log in, and has no permission yet.
    AddUser {
        /// The name.
        name: String,
        /// Without one nobody logs in as this user.
        password: Option<PasswordHash>,
        /// As [`SetTags`](Self::SetTags).
        tags: Vec<String>,
    },
    /// Removes a user with all permissions, and ends its connections.
    RemoveUser {
        /// The name.
        name: String,
    },
    /// Replaces a password. Connections that are open stay.
    SetPassword {
        /// The user.
        name: String,
        /// Without one nobody logs in as this user any more.
        password: Option<PasswordHash>,
    },
    /// Replaces all tags. `impersonator` lets a user publish in others' names; others are kept for what reads them.
    SetTags {
        /// The user.
        name: String,
        /// The tags.
        tags: Vec<String>,
    },
    /// A virtual host, with RabbitMQ's exchanges in it.
    AddVirtualHost {
        /// The name.
        name: String,
    },
    /// Removes a virtual host with everything in it, its messages too, and ends the connections to it.
    RemoveVirtualHost {
        /// The name.
        name: String,
    },
    /// Sets what a user may do in a virtual host. It counts from the next request on, on open connections too.
    SetPermissions {
        /// The user.
        user: String,
        /// The virtual host.
        virtual_host: String,
        /// What is allowed.
        permissions: Permissions,
    },
    /// Takes a user's permissions in a virtual host back: the user cannot enter it any more, and may do nothing where it is in.
    ClearPermissions {
        /// The user.
        user: String,
        /// The virtual host.
        virtual_host: String,
    },
    /// Sets by which routing keys a user may publish to a topic exchange, and bind something to it. It counts from the next
    /// request on, on open connections too. The exchange need not be there yet.
    SetTopicPermissions {
        /// The user.
        user: String,
        /// The virtual host.
        virtual_host: String,
        /// The exchange.
        exchange: String,
        /// What is allowed.
        permissions: TopicPermissions,
    },
    /// Lets a user use every routing key again, of one exchange or of all.
    ClearTopicPermissions {
        /// The user.
        user: String,
        /// The virtual host.
        virtual_host: String,
        /// The exchange; without one, all of the virtual host.
        exchange: Option<String>,
    },
}

/// A change that was not made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChangeError {
    /// It makes no sense as things are; the text has the reason.
    Refused(String),
    /// It could not be kept.
    Store(store::Error),
    /// The server has stopped, or stopped meanwhile.
    Stopped,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => f.write_str(reason),
            Self::Store(error) => error.fmt(f),
            Self::Stopped => f.write_str("the server has stopped"),
        }
    }
}

impl std::error::Error for ChangeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}
