//! Who may do what: users, virtual hosts, and permissions.
//!
//! [`table`] is all of it as one value; [`store`] keeps it on the disk; [`password`] and [`pattern`] are its parts. [`live`] is
//! what a server that runs has of it, where logging in and every method ask.

mod change;
mod live;
mod password;
mod pattern;
mod store;
mod table;

pub use change::{Change, ChangeError};
pub use password::{PasswordError, PasswordHash};
pub use store::AccountStore;
pub use table::{Accounts, Granted, GrantedTopics, Permissions, TopicPermissions, User};

pub(super) use live::{Check, Live, Permit, Right, Topic, Verification, Verified};
pub(super) use table::{Entry, Table};
