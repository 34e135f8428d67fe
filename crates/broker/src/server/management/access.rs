//! Who asks: HTTP's basic authentication against the server's users, and what their tags let them see, as in RabbitMQ.

use crate::server::{accounts::Check, admin::Admin, aside::aside, connection::Origin};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::Arc;

/// Whoever has one of these sees all virtual hosts.
const SEES_ALL: [&str; 2] = ["administrator", "monitoring"];
/// Whoever has one of these may ask at all.
const MAY_ASK: [&str; 4] = ["administrator", "monitoring", "policymaker", "management"];
/// Whoever has this may change users and virtual hosts, and end others' connections.
const ADMINISTRATOR: &str = "administrator";

/// A user who has logged in.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: Arc<str>,
    pub(super) tags: Vec<String>,
    /// The virtual hosts that the user may enter.
    hosts: Vec<String>,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nobody, or a wrong name or password.
    LogIn,
    /// The user has no tag for this.
    NoTag,
    /// The server has stopped.
    Stopped,
}

impl Caller {
    pub(super) fn is_administrator(&self) -> bool {
        self.tags.iter().any(|tag| tag == ADMINISTRATOR)
    }

    /// Whether the user sees what others have, and the server as a whole.
    pub(super) fn sees_all(&self) -> bool {
        self.tags.iter().any(|tag| SEES_ALL.contains(&tag.as_str()))
    }

    pub(super) fn sees(&self, host: &str) -> bool {
        self.sees_all() || self.hosts.iter().any(|known| known == host)
    }
}

/// Name and password of a header `Authorization: Basic …`.
fn credentials(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|octet| *octet == b':')?;
    let name = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
    Some((name, decoded[colon + 1..].to_vec()))
}

/// Lets a user in. Passwords are hashed on another thread, a few at a time, as for clients of AMQP.
pub(super) async fn log_in(admin: &Admin, header: Option<&str>, origin: Origin) -> Result<Caller, Denied> {
    let (name, password) = header.and_then(credentials).ok_or(Denied::LogIn)?;
    let user = name.clone();
    let check =
        admin.with(move |server| (server.accounts.check(&user, &password, origin), server.accounts.hashing.clone()));
    let (check, hashing) = check.await.map_err(|_| Denied::Stopped)?;
    let is_in = match check {
        Check::Accepted => true,
        Check::Refused => false,
        Check::Takes(verification) => {
            let _turn = hashing.acquire_owned().await.map_err(|_| Denied::Stopped)?;
            let verified = aside(move || verification.run()).await.ok_or(Denied::Stopped)?;
            admin.with(move |server| server.accounts.accept(&verified)).await.map_err(|_| Denied::Stopped)?
        }
    };
    if !is_in {
        return Err(Denied::LogIn);
    }
    let accounts = admin.accounts().await.map_err(|_| Denied::Stopped)?;
    let user = accounts.users.into_iter().find(|user| user.name == name).ok_or(Denied::LogIn)?;
    if !user.tags.iter().any(|tag| MAY_ASK.contains(&tag.as_str())) {
        return Err(Denied::NoTag);
    }
    let own = accounts.permissions.into_iter().filter(|granted| granted.user == name);
    let hosts = own.map(|granted| granted.virtual_host).collect();
    Ok(Caller { name: name.into(), tags: user.tags, hosts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_let_in_from_this_machine_alone() {
        let server = crate::server::Server::builder().start().expect("it starts");
        let header = format!("Basic {}", BASE64_STANDARD.encode("guest:guest"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let from = |origin| runtime.block_on(log_in(&server.admin(), Some(&header), origin)).map(drop);
        assert_eq!((from(Origin::Local), from(Origin::Remote)), (Ok(()), Err(Denied::LogIn)));
    }

    #[test]
    fn a_password_may_have_colons() {
        let header = format!("Basic {}", BASE64_STANDARD.encode("ada:a:b"));
        assert_eq!(credentials(&header), Some(("ada".to_owned(), b"a:b".to_vec())));
        for wrong in ["", "Basic", "Basic !", "Bearer YTpi", "Basic YQ=="] {
            assert_eq!(credentials(wrong), None, "{wrong}");
        }
    }
}
