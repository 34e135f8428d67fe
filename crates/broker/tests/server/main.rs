//! The server as clients see it: raw frames, lapin, pika; those that mean well and those that do not.

mod accounts;
mod certificates;
mod clients;
mod definitions;
mod differential;
mod durable;
mod hostile;
mod journal;
mod management;
mod methods;
mod orderly;
mod permissions;
mod raw;
mod rights;
mod slow;
mod texts;
mod tls;
mod topics;
mod unasked;

use homing_broker::server::{Server, ServerBuilder};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A hash of "secret" that takes no time.
pub const QUICK: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$fIbdC2xakJ6cNlONBQKde0ZQtJof49m9l+7mj3O30mA";

/// A directory of a test's own. It goes with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    /// One that nobody has; it is not created.
    pub fn new(name: &str) -> Self {
        /// Tests of one name are in several files.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("homing-server-{}-{number}-{name}", std::process::id()));
        _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server of a test's own on a port that the system chose.
pub fn server() -> (Server, SocketAddr) {
    start(Server::builder())
}

/// The same with limits of the test's own.
pub fn start(builder: ServerBuilder) -> (Server, SocketAddr) {
    let server = builder.listen(SocketAddr::from(([127, 0, 0, 1], 0))).start().expect("the server starts");
    let address = server.addresses()[0];
    (server, address)
}
