//! Users and permissions where they are asked for: when somebody logs in, and before every method that needs a permission.

use super::change::{Change, ChangeError};
use super::password::{Credential, PasswordHash, is_same};
use super::pattern::Pattern;
use super::table::{Accounts, Entry, GUEST, Permissions, Table, TopicPermissions};
use crate::engine::Object;
use crate::protocol::ReplyCode;
use crate::server::connection::Origin;
use crate::server::exception::{Exception, Result};
use blake2::{Blake2s256, Digest};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A user with this tag may publish in others' names.
const IMPERSONATOR: &str = "impersonator";

/// What the default exchange is called in permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// Users and permissions of a server that runs.
pub(in crate::server) struct Live {
    table: RefCell<Table>,
    /// Those that connections have, by user and virtual host.
    permits: RefCell<HashMap<(String, String), Rc<Permit>>>,
    /// Of each user who was let in: by what the same password is known again, without the time that hashing takes.
    verified: RefCell<HashMap<String, Digest32>>,
    /// Makes these digests mean something in this process only.
    secret: [u8; 32],
    /// So many passwords are hashed at a time.
    pub(in crate::server) hashing: Arc<Semaphore>,
}

type Digest32 = [u8; 32];

/// Whether somebody is let in.
pub(in crate::server) enum Check {
    Accepted,
    Refused,
    /// That takes some time, and not on this thread.
    Takes(Verification),
}

/// A password that is to be hashed.
pub(in crate::server) struct Verification {
    user: String,
    hash: PasswordHash,
    password: Vec<u8>,
    digest: Digest32,
}

impl Verification {
    /// Whether it is the user's. Takes some 20 ms of processor time.
    pub(in crate::server) fn run(self) -> Verified {
        let is_right = self.hash.is_of(&self.password);
        Verified { user: self.user, hash: self.hash, digest: self.digest, is_right }
    }
}

/// What has come of it.
pub(in crate::server) struct Verified {
    user: String,
    hash: PasswordHash,
    digest: Digest32,
    is_right: bool,
}

impl Live {
    pub(in crate::server) fn new(table: Table, at_once: usize) -> Self {
        let mut secret = [0; 32];
        // As for names that cannot be guessed: without random bytes nothing is safe.
        getrandom::fill(&mut secret).expect("the system gives random bytes");
        Self {
            table: RefCell::new(table),
            permits: RefCell::default(),
            verified: RefCell::default(),
            secret,
            hashing: Arc::new(Semaphore::new(at_once.max(1))),
        }
    }

    /// Whether this user is let in by this password, from there.
    pub(in crate::server) fn check(&self, user: &str, password: &[u8], origin: Origin) -> Check {
        if user == GUEST && origin != Origin::Local {
            return Check::Refused;
        }
        let table = self.table.borrow();
        // One who is not there takes as long as one who is: what names there are is nobody's business.
        let hash = match table.users.get(user).map(|account| &account.credential) {
            Some(Credential::Known(known)) => {
                let is_right = !password.is_empty() && is_same(known.as_bytes(), password);
                return if is_right { Check::Accepted } else { Check::Refused };
            }
            Some(Credential::Hashed(hash)) => hash.clone(),
            Some(Credential::None) | None => PasswordHash::of_nobody(),
        };
        let digest = self.digest(user, password, &hash);
        if self.verified.borrow().get(user).is_some_and(|known| is_same(known, &digest)) {
            return Check::Accepted;
        }
        Check::Takes(Verification { user: user.to_owned(), hash, password: password.to_vec(), digest })
    }

    /// Whether a password that was hashed is right, and still the user's.
    pub(in crate::server) fn accept(&self, verified: &Verified) -> bool {
        let table = self.table.borrow();
        // Guards: the password was replaced, or the user removed, while the old one was hashed.
        let is_current = matches!(
            table.users.get(&verified.user).map(|account| &account.credential),
            Some(Credential::Hashed(hash)) if *hash == verified.hash
        );
        let is_right = verified.is_right && is_current;
        if is_right {
            self.verified.borrow_mut().insert(verified.user.clone(), verified.digest);
        }
        is_right
    }

    /// Different for every user, password and hash, and in every process.
    fn digest(&self, user: &str, password: &[u8], hash: &PasswordHash) -> Digest32 {
        let mut hasher = Blake2s256::new();
        hasher.update(self.secret);
        for part in [user.as_bytes(), hash.as_str().as_bytes(), password] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// What a user may do in a virtual host; `None` where the user may not enter it.
    pub(in crate::server) fn permit(&self, user: &str, virtual_host: &str) -> Option<Rc<Permit>> {
        let permissions = self.table.borrow().permissions(user, virtual_host)?;
        let mut permits = self.permits.borrow_mut();
        let permit = permits.entry((user.to_owned(), virtual_host.to_owned())).or_insert_with(|| {
            let permit = Permit {
                user: user.into(),
                patterns: RefCell::default(),
                topics: RefCell::default(),
                has_topics: Cell::new(false),
                is_impersonator: Cell::new(false),
            };
            permit.set(Some(&permissions));
            permit
                .set_topics(virtual_host, self.table.borrow().topics.get(&(user.to_owned(), virtual_host.to_owned())));
            permit.is_impersonator.set(self.is_impersonator(user));
            Rc::new(permit)
        });
        Some(permit.clone())
    }

    fn is_impersonator(&self, user: &str) -> bool {
        self.table.borrow().users.get(user).is_some_and(|account| account.tags.iter().any(|tag| tag == IMPERSONATOR))
    }

    pub(in crate::server) fn list(&self) -> Accounts {
        self.table.borrow().list()
    }

    /// The hashes of passwords by user, for a copy of all that is kept.
    #[cfg(feature = "management")]
    pub(in crate::server) fn hashes(&self) -> HashMap<String, String> {
        let table = self.table.borrow();
        let hash = |(name, account): (&String, &super::table::Account)| match &account.credential {
            Credential::Hashed(hash) => Some((name.clone(), hash.as_str().to_owned())),
            Credential::Known(_) | Credential::None => None,
        };
        table.users.iter().filter_map(hash).collect()
    }

    /// # Errors
    /// A change makes no sense as things are.
    pub(in crate::server) fn check_change(&self, change: &Change) -> Result<(), ChangeError> {
        self.table.borrow().clone().apply(change).map(|_| ())
    }

    /// Takes a table in which these entries are others. Connections that have a permit have what it allows now.
    pub(in crate::server) fn replace(&self, table: Table, entries: &[Entry]) {
        self.table.replace(table);
        for entry in entries {
            match entry {
                Entry::Permissions(user, host) => {
                    let permissions = self.table.borrow().permissions(user, host);
                    if let Some(permit) = self.permits.borrow().get(&(user.clone(), host.clone())) {
                        permit.set(permissions.as_ref());
                    }
                }
                Entry::User(name) => {
                    self.verified.borrow_mut().remove(name);
                    let is_there = self.table.borrow().users.contains_key(name);
                    let is_impersonator = self.is_impersonator(name);
                    self.permits.borrow_mut().retain(|(user, _), permit| {
                        if user == name {
                            permit.is_impersonator.set(is_impersonator);
                            if !is_there {
                                permit.set(None);
                            }
                        }
                        user != name || is_there
                    });
                }
                Entry::VirtualHost(name) => {
                    let is_there = self.table.borrow().virtual_hosts.contains_key(name);
                    self.permits.borrow_mut().retain(|(_, host), permit| {
                        let stays = host != name || is_there;
                        if !stays {
                            // Who is in it still is, until the connection has ended.
                            permit.set(None);
                        }
                        stays
                    });
                }
                Entry::Topics(user, host, _) => {
                    let place = (user.clone(), host.clone());
                    if let Some(permit) = self.permits.borrow().get(&place) {
                        permit.set_topics(host, self.table.borrow().topics.get(&place));
                    }
                }
                Entry::Removed(_) => {}
            }
        }
    }
}

/// What one user may do in one virtual host, as it is now.
pub(in crate::server) struct Permit {
    user: Rc<str>,
    patterns: RefCell<Patterns>,
    /// By exchange. The routing keys of others are not restricted.
    topics: RefCell<HashMap<String, TopicPatterns>>,
    /// Most users have none, and are not asked further.
    has_topics: Cell<bool>,
    is_impersonator: Cell<bool>,
}

/// By which routing keys a topic exchange may be used.
struct TopicPatterns {
    write: Pattern,
    read: Pattern,
}

struct Patterns {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { configure: Pattern::Nothing, write: Pattern::Nothing, read: Pattern::Nothing }
    }
}

/// What a permission is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Right {
    Configure,
    Write,
    Read,
}

/// What a permission on a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Topic {
    /// To publish.
    Write,
    /// To bind.
    Read,
}

impl Permit {
    fn set(&self, permissions: Option<&Permissions>) {
        // What is kept was checked when it was set. What cannot be read any more allows nothing.
        let pattern = |expression: &str| Pattern::new(expression).unwrap_or(Pattern::Nothing);
        self.patterns.replace(permissions.map_or_else(Patterns::default, |permissions| Patterns {
            configure: pattern(&permissions.configure),
            write: pattern(&permissions.write),
            read: pattern(&permissions.read),
        }));
    }

    fn set_topics(&self, host: &str, exchanges: Option<&BTreeMap<String, TopicPermissions>>) {
        let pattern = |expression: &str| Pattern::for_keys(expression, &self.user, host).unwrap_or(Pattern::Nothing);
        let of = |(exchange, permissions): (&String, &TopicPermissions)| {
            let patterns = TopicPatterns { write: pattern(&permissions.write), read: pattern(&permissions.read) };
            (exchange.clone(), patterns)
        };
        let topics: HashMap<_, _> = exchanges.into_iter().flatten().map(of).collect();
        self.has_topics.set(!topics.is_empty());
        self.topics.replace(topics);
    }

    /// Whether any of the user's routing keys are restricted in this virtual host.
    #[inline]
    pub(in crate::server) fn has_topics(&self) -> bool {
        self.has_topics.get()
    }

    /// # Errors
    /// The user may not use this routing key of a topic exchange: 403, in RabbitMQ's words.
    pub(in crate::server) fn check_topic(&self, right: Topic, exchange: &str, key: &str, host: &str) -> Result<()> {
        let topics = self.topics.borrow();
        let Some(patterns) = topics.get(exchange) else { return Ok(()) };
        let pattern = match right {
            Topic::Write => &patterns.write,
            Topic::Read => &patterns.read,
        };
        if pattern.matches(key) {
            return Ok(());
        }
        let text = format!(
            "access to topic '{key}' in exchange '{exchange}' in vhost '{host}' refused for user '{}'",
            self.user
        );
        Err(Exception::new(ReplyCode::AccessRefused, text))
    }

    /// Whether a message may name another user as the one who published it.
    pub(in crate::server) fn is_impersonator(&self) -> bool {
        self.is_impersonator.get()
    }

    /// # Errors
    /// The user may not: 403, in RabbitMQ's words.
    #[inline]
    pub(in crate::server) fn check(&self, right: Right, object: Object, name: &str, host: &str) -> Result<()> {
        let patterns = self.patterns.borrow();
        let pattern = match right {
            Right::Configure => &patterns.configure,
            Right::Write => &patterns.write,
            Right::Read => &patterns.read,
        };
        let name = if name.is_empty() && object == Object::Exchange { DEFAULT_EXCHANGE } else { name };
        if pattern.matches(name) { Ok(()) } else { Err(self.refusal(object, name, host)) }
    }

    #[cold]
    fn refusal(&self, object: Object, name: &str, host: &str) -> Exception {
        let text = format!("access to {} '{name}' in vhost '{host}' refused for user '{}'", object.as_str(), self.user);
        Exception::new(ReplyCode::AccessRefused, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::accounts::AccountStore;

    #[test]
    fn wrong_passwords_leave_nothing_behind() {
        let mut store = AccountStore::in_memory();
        let hash = PasswordHash::from_phc("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAA");
        let add = Change::AddUser { name: "ada".to_owned(), password: Some(hash.expect("a hash")), tags: vec![] };
        store.change(&add).expect("added");
        let live = Live::new(store.table().clone(), 1);
        for number in 0..1000 {
            let name = if number % 2 == 0 { "ada".to_owned() } else { format!("nobody {number}") };
            match live.check(&name, format!("wrong {number}").as_bytes(), Origin::Local) {
                Check::Takes(verification) if name == "ada" => assert!(!live.accept(&verification.run())),
                Check::Takes(_) => {}
                _ => panic!("it has to be hashed"),
            }
            assert!(live.permit(&name, "/").is_none());
        }
        assert!(live.verified.borrow().is_empty() && live.permits.borrow().is_empty());
    }

    #[test]
    fn what_is_removed_allows_nothing_and_leaves_nothing_behind() {
        let mut store = AccountStore::in_memory();
        let live = Live::new(store.table().clone(), 1);
        let mut change = |change: Change| {
            let entries = store.make(&change).expect("it makes sense");
            live.replace(store.table().clone(), &entries);
        };
        let (user, virtual_host) = (|| "ada".to_owned(), || "v".to_owned());
        let add = |change: &mut dyn FnMut(Change)| {
            let password = Some(PasswordHash::new("secret").expect("a hash"));
            change(Change::AddUser { name: user(), password, tags: vec![] });
            change(Change::AddVirtualHost { name: virtual_host() });
            let (user, virtual_host) = (user(), virtual_host());
            change(Change::SetPermissions { user, virtual_host, permissions: Permissions::all() });
        };
        let entered = || {
            match live.check("ada", b"secret", Origin::Local) {
                Check::Takes(verification) => assert!(live.accept(&verification.run())),
                Check::Accepted => {}
                Check::Refused => panic!("it is the password"),
            }
            live.permit("ada", "v").expect("permissions")
        };
        let allows = |permit: &Permit| permit.check(Right::Read, Object::Queue, "q", "v").is_ok();
        let kept = || (live.verified.borrow().len(), live.permits.borrow().len());
        add(&mut change);
        let permit = entered();
        assert!(allows(&permit) && kept() == (1, 1));
        change(Change::RemoveVirtualHost { name: virtual_host() });
        assert!(!allows(&permit) && live.permit("ada", "v").is_none() && kept() == (1, 0));
        change(Change::RemoveUser { name: user() });
        assert_eq!(kept(), (0, 0));
        // The user alone, whose virtual host stays.
        let mut store = AccountStore::in_memory();
        let mut change = |change: Change| {
            let entries = store.make(&change).expect("it makes sense");
            live.replace(store.table().clone(), &entries);
        };
        add(&mut change);
        let permit = entered();
        change(Change::RemoveUser { name: user() });
        assert!(!allows(&permit) && live.permit("ada", "v").is_none());
        assert_eq!(kept(), (0, 0));
    }

    #[test]
    fn guest_is_let_in_from_this_machine_alone() {
        let live = Live::new(AccountStore::in_memory().table().clone(), 1);
        assert!(matches!(live.check("guest", b"guest", Origin::Local), Check::Accepted));
        assert!(matches!(live.check("guest", b"guest", Origin::Remote), Check::Refused));
    }

    #[test]
    fn a_password_that_was_replaced_while_it_was_hashed_is_not_accepted() {
        let mut store = AccountStore::in_memory();
        let hash = || Some(PasswordHash::new("secret").expect("a hash"));
        let name = || "ada".to_owned();
        store.change(&Change::AddUser { name: name(), password: hash(), tags: vec![] }).expect("added");
        let live = Live::new(store.table().clone(), 1);
        let verified = || match live.check("ada", b"secret", Origin::Local) {
            Check::Takes(verification) => verification.run(),
            _ => panic!("it has to be hashed"),
        };
        let before = verified();
        let entries = store.make(&Change::SetPassword { name: name(), password: hash() }).expect("replaced");
        live.replace(store.table().clone(), &entries);
        assert!(!live.accept(&before));
        assert!(live.accept(&verified()));
        assert!(matches!(live.check("ada", b"secret", Origin::Local), Check::Accepted), "it is known now");
        let entries = store.make(&Change::RemoveUser { name: name() }).expect("removed");
        live.replace(store.table().clone(), &entries);
        assert!(!matches!(live.check("ada", b"secret", Origin::Local), Check::Accepted));
    }
}
