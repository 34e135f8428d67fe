//! Users, virtual hosts and permissions as one value.

use super::change::{Change, ChangeError};
use super::password::Credential;
use super::pattern::Pattern;
use std::collections::{BTreeMap, BTreeSet};

/// The user that RabbitMQ makes: it has a password that everybody knows, so it is for loopback only.
pub(in crate::server) const GUEST: &str = "guest";
/// The virtual host that there is if nobody asks for others.
pub(in crate::server) const DEFAULT_VIRTUAL_HOST: &str = "/";
/// A user who may do everything, for what reads tags.
const ADMINISTRATOR: &str = "administrator";

/// The longest name, in bytes: that of a virtual host is a short string of the protocol.
const LONGEST: usize = 255;
/// The most tags of a user.
const TAGS: usize = 32;

/// What a user may do in a virtual host: three regular expressions that the names of exchanges and queues are compared with. A
/// match anywhere in a name counts, and an empty expression matches nothing, as RabbitMQ has it. The default exchange is named
/// `amq.default` here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Declaring and deleting.
    pub configure: String,
    /// Publishing to an exchange, and binding something to it or a queue to something.
    pub write: String,
    /// Consuming, getting and purging, and binding to an exchange.
    pub read: String,
}

impl Permissions {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        let all = || ".*".to_owned();
        Self { configure: all(), write: all(), read: all() }
    }
}

/// By which routing keys a user may use a topic exchange: two regular expressions that the keys are compared with. A match anywhere
/// in a key counts, and an empty expression matches the empty key alone. `{username}` and `{vhost}` stand for those names. A user
/// for whom there are none in a virtual host may use every key, as far as the [`Permissions`] go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPermissions {
    /// Publishing, the keys in `CC` and `BCC` too.
    pub write: String,
    /// Binding to the exchange.
    pub read: String,
}

/// Where a user or a virtual host is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Source {
    /// It is kept.
    Kept,
    /// The program that runs the server gives it at each start.
    Program,
}

#[derive(Clone)]
pub(in crate::server) struct Account {
    pub(in crate::server) credential: Credential,
    pub(in crate::server) tags: Vec<String>,
    pub(in crate::server) source: Source,
}

/// All of it.
#[derive(Clone, Default)]
pub(in crate::server) struct Table {
    pub(in crate::server) users: BTreeMap<String, Account>,
    pub(in crate::server) virtual_hosts: BTreeMap<String, Source>,
    /// By user and virtual host.
    pub(in crate::server) permissions: BTreeMap<(String, String), Permissions>,
    /// By user and virtual host, and then by exchange.
    pub(in crate::server) topics: BTreeMap<(String, String), BTreeMap<String, TopicPermissions>>,
    /// Virtual hosts that are removed, and whose messages may still be on the disk.
    pub(in crate::server) removed: BTreeSet<String>,
}

/// What of it has changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::server) enum Entry {
    User(String),
    VirtualHost(String),
    Permissions(String, String),
    /// User, virtual host and exchange.
    Topics(String, String, String),
    Removed(String),
}

/// What there is, for an operator. Everything is sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accounts {
    /// The users.
    pub users: Vec<User>,
    /// Names of the virtual hosts.
    pub virtual_hosts: Vec<String>,
    /// Who may do what.
    pub permissions: Vec<Granted>,
    /// Whose routing keys are restricted.
    pub topics: Vec<GrantedTopics>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// The name.
    pub name: String,
    /// The tags.
    pub tags: Vec<String>,
    /// Whether one can log in as this user.
    pub has_password: bool,
}

/// What a user may do in a virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Granted {
    /// The user.
    pub user: String,
    /// The virtual host.
    pub virtual_host: String,
    /// What is allowed.
    pub permissions: Permissions,
}

/// By which routing keys a user may use a topic exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantedTopics {
    /// The user.
    pub user: String,
    /// The virtual host.
    pub virtual_host: String,
    /// The exchange.
    pub exchange: String,
    /// What is allowed.
    pub permissions: TopicPermissions,
}

impl Table {
    /// What there is before anything is changed: `guest`, who may do everything in `/`.
    pub(super) fn initial() -> Self {
        let mut table = Self::default();
        table.virtual_hosts.insert(DEFAULT_VIRTUAL_HOST.to_owned(), Source::Kept);
        let guest = Account {
            credential: Credential::Known(GUEST.to_owned()),
            tags: vec![ADMINISTRATOR.to_owned()],
            source: Source::Kept,
        };
        table.users.insert(GUEST.to_owned(), guest);
        table.permissions.insert((GUEST.to_owned(), DEFAULT_VIRTUAL_HOST.to_owned()), Permissions::all());
        table
    }

    /// What a user may do in a virtual host; `None` where the user may not even enter it.
    pub(in crate::server) fn permissions(&self, user: &str, virtual_host: &str) -> Option<Permissions> {
        match self.users.get(user)?.source {
            Source::Program => Some(Permissions::all()),
            Source::Kept => self.permissions.get(&(user.to_owned(), virtual_host.to_owned())).cloned(),
        }
    }

    pub(super) fn list(&self) -> Accounts {
        let user = |(name, account): (&String, &Account)| User {
            name: name.clone(),
            tags: account.tags.clone(),
            has_password: account.credential != Credential::None,
        };
        let granted = |((user, virtual_host), permissions): (&(String, String), &Permissions)| Granted {
            user: user.clone(),
            virtual_host: virtual_host.clone(),
            permissions: permissions.clone(),
        };
        let topics = self.topics.iter().flat_map(|((user, virtual_host), exchanges)| {
            exchanges.iter().map(|(exchange, permissions)| GrantedTopics {
                user: user.clone(),
                virtual_host: virtual_host.clone(),
                exchange: exchange.clone(),
                permissions: permissions.clone(),
            })
        });
        Accounts {
            topics: topics.collect(),
            users: self.users.iter().map(user).collect(),
            virtual_hosts: self.virtual_hosts.keys().cloned().collect(),
            permissions: self.permissions.iter().map(granted).collect(),
        }
    }

    /// Everything that is kept.
    pub(super) fn entries(&self) -> BTreeSet<Entry> {
        let users = self.users.iter().filter(|(_, account)| account.source == Source::Kept);
        let hosts = self.virtual_hosts.iter().filter(|(_, source)| **source == Source::Kept);
        users
            .map(|(name, _)| Entry::User(name.clone()))
            .chain(hosts.map(|(name, _)| Entry::VirtualHost(name.clone())))
            .chain(self.permissions.keys().map(|(user, host)| Entry::Permissions(user.clone(), host.clone())))
            .chain(self.topics.iter().flat_map(|((user, host), exchanges)| {
                exchanges.keys().map(|exchange| Entry::Topics(user.clone(), host.clone(), exchange.clone()))
            }))
            .chain(self.removed.iter().map(|name| Entry::Removed(name.clone())))
            .collect()
    }

    /// Makes a change. What of the table is another afterwards.
    ///
    /// # Errors
    /// It makes no sense as things are. Nothing has changed then.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Vec<Entry>, ChangeError> {
        match change {
            Change::AddUser { name, password, tags } => {
                check_name("user", name)?;
                check_tags(tags)?;
                if self.users.contains_key(name) {
                    return refused(format!("there is a user '{name}' already"));
                }
                let credential = password.clone().map_or(Credential::None, Credential::Hashed);
                let account = Account { credential, tags: tags.clone(), source: Source::Kept };
                self.users.insert(name.clone(), account);
                Ok(vec![Entry::User(name.clone())])
            }
            Change::RemoveUser { name } => {
                self.kept_user(name)?;
                self.users.remove(name);
                let mut entries = vec![Entry::User(name.clone())];
                entries.extend(self.revoke(|user, _| user == name));
                Ok(entries)
            }
            Change::SetPassword { name, password } => {
                self.kept_user(name)?.credential = password.clone().map_or(Credential::None, Credential::Hashed);
                Ok(vec![Entry::User(name.clone())])
            }
            Change::SetTags { name, tags } => {
                check_tags(tags)?;
                self.kept_user(name)?.tags.clone_from(tags);
                Ok(vec![Entry::User(name.clone())])
            }
            Change::AddVirtualHost { name } => {
                check_name("virtual host", name)?;
                if self.virtual_hosts.contains_key(name) {
                    return refused(format!("there is a virtual host '{name}' already"));
                }
                if self.removed.contains(name) {
                    return refused(format!(
                        "what there was in a virtual host '{name}' before could not be removed yet; restart the broker"
                    ));
                }
                self.virtual_hosts.insert(name.clone(), Source::Kept);
                Ok(vec![Entry::VirtualHost(name.clone())])
            }
            Change::RemoveVirtualHost { name } => {
                self.known_host(name)?;
                if self.virtual_hosts.get(name) == Some(&Source::Program) {
                    return refused(format!("the virtual host '{name}' is given by the program that runs the broker"));
                }
                self.virtual_hosts.remove(name);
                self.removed.insert(name.clone());
                let mut entries = vec![Entry::VirtualHost(name.clone()), Entry::Removed(name.clone())];
                entries.extend(self.revoke(|_, host| host == name));
                Ok(entries)
            }
            Change::SetPermissions { user, virtual_host, permissions } => {
                self.kept_user(user)?;
                self.known_host(virtual_host)?;
                let Permissions { configure, write, read } = permissions;
                for (right, expression) in [("configure", configure), ("write", write), ("read", read)] {
                    check_expression(right, expression, Pattern::new(expression))?;
                }
                self.permissions.insert((user.clone(), virtual_host.clone()), permissions.clone());
                Ok(vec![Entry::Permissions(user.clone(), virtual_host.clone())])
            }
            Change::ClearPermissions { user, virtual_host } => {
                self.kept_user(user)?;
                self.known_host(virtual_host)?;
                if self.permissions.remove(&(user.clone(), virtual_host.clone())).is_none() {
                    return refused(format!(
                        "the user '{user}' has no permissions in the virtual host '{virtual_host}'"
                    ));
                }
                Ok(vec![Entry::Permissions(user.clone(), virtual_host.clone())])
            }
            Change::SetTopicPermissions { user, virtual_host, exchange, permissions } => {
                self.kept_user(user)?;
                self.known_host(virtual_host)?;
                if exchange.len() > LONGEST {
                    return refused(format!("the name of an exchange has at most {LONGEST} bytes"));
                }
                let TopicPermissions { write, read } = permissions;
                for (right, expression) in [("write", write), ("read", read)] {
                    check_expression(right, expression, Pattern::for_keys(expression, user, virtual_host))?;
                }
                let exchanges = self.topics.entry((user.clone(), virtual_host.clone())).or_default();
                exchanges.insert(exchange.clone(), permissions.clone());
                Ok(vec![Entry::Topics(user.clone(), virtual_host.clone(), exchange.clone())])
            }
            Change::ClearTopicPermissions { user, virtual_host, exchange } => {
                self.kept_user(user)?;
                self.known_host(virtual_host)?;
                let is_meant = |at: &str| exchange.as_ref().is_none_or(|exchange| exchange == at);
                let entries = self.free(|of, host, at| of == user && host == virtual_host && is_meant(at));
                if entries.is_empty() {
                    let at = exchange.as_ref().map(|exchange| format!(" at '{exchange}'")).unwrap_or_default();
                    return refused(format!(
                        "the user '{user}' has no topic permissions{at} in the virtual host '{virtual_host}'"
                    ));
                }
                Ok(entries)
            }
        }
    }

    fn kept_user(&mut self, name: &str) -> Result<&mut Account, ChangeError> {
        match self.users.get_mut(name) {
            None => Err(ChangeError::Refused(format!("there is no user '{name}'"))),
            Some(account) if account.source == Source::Program => Err(ChangeError::Refused(format!(
                "the user '{name}' is given by the program that runs the broker, and may do everything"
            ))),
            Some(account) => Ok(account),
        }
    }

    fn known_host(&self, name: &str) -> Result<(), ChangeError> {
        if self.virtual_hosts.contains_key(name) {
            Ok(())
        } else {
            refused(format!("there is no virtual host '{name}'"))
        }
    }

    /// Takes permissions back, those on topics too.
    fn revoke(&mut self, is_meant: impl Fn(&str, &str) -> bool) -> Vec<Entry> {
        let mut entries = self.free(|user, host, _| is_meant(user, host));
        self.permissions.retain(|(user, host), _| {
            let is_meant = is_meant(user, host);
            if is_meant {
                entries.push(Entry::Permissions(user.clone(), host.clone()));
            }
            !is_meant
        });
        entries
    }

    /// Takes permissions on topics back: every routing key may be used again.
    fn free(&mut self, is_meant: impl Fn(&str, &str, &str) -> bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.topics.retain(|(user, host), exchanges| {
            exchanges.retain(|exchange, _| {
                let is_meant = is_meant(user, host, exchange);
                if is_meant {
                    entries.push(Entry::Topics(user.clone(), host.clone(), exchange.clone()));
                }
                !is_meant
            });
            !exchanges.is_empty()
        });
        entries
    }
}

fn check_expression(right: &str, expression: &str, pattern: Result<Pattern, String>) -> Result<(), ChangeError> {
    pattern.map(drop).or_else(|reason| {
        let shown: String = expression.chars().take(60).collect();
        refused(format!("the expression '{shown}' for {right} cannot be used: {reason}"))
    })
}

fn refused<T>(reason: String) -> Result<T, ChangeError> {
    Err(ChangeError::Refused(reason))
}

fn check_name(what: &str, name: &str) -> Result<(), ChangeError> {
    if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        return refused(format!("the name of a {what} has 1 to {LONGEST} bytes and no control characters"));
    }
    Ok(())
}

fn check_tags(tags: &[String]) -> Result<(), ChangeError> {
    let is_tag = |tag: &String| {
        !tag.is_empty()
            && tag.len() <= LONGEST
            && !tag.chars().any(|letter| letter.is_control() || letter.is_whitespace() || letter == ',')
    };
    if tags.len() > TAGS || !tags.iter().all(is_tag) {
        return refused(format!("a user has at most {TAGS} tags, without spaces and commas"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_user(name: &str) -> Change {
        Change::AddUser { name: name.to_owned(), password: None, tags: Vec::new() }
    }

    fn set(user: &str, host: &str, permissions: Permissions) -> Change {
        Change::SetPermissions { user: user.to_owned(), virtual_host: host.to_owned(), permissions }
    }

    fn set_topics(user: &str, host: &str, exchange: &str, write: &str) -> Change {
        Change::SetTopicPermissions {
            user: user.to_owned(),
            virtual_host: host.to_owned(),
            exchange: exchange.to_owned(),
            permissions: TopicPermissions { write: write.to_owned(), read: ".*".to_owned() },
        }
    }

    fn clear_topics(user: &str, host: &str, exchange: Option<&str>) -> Change {
        let exchange = exchange.map(str::to_owned);
        Change::ClearTopicPermissions { user: user.to_owned(), virtual_host: host.to_owned(), exchange }
    }

    fn applied(table: &mut Table, changes: &[Change]) {
        for change in changes {
            table.apply(change).unwrap_or_else(|error| panic!("{change:?}: {error}"));
        }
    }

    #[test]
    fn what_goes_takes_its_permissions_with_it() {
        let mut table = Table::initial();
        let host = |name: &str| Change::AddVirtualHost { name: name.to_owned() };
        applied(&mut table, &[add_user("a"), add_user("b"), host("x"), host("y")]);
        for (user, host) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "/")] {
            applied(&mut table, &[set(user, host, Permissions::all())]);
        }
        let entries = table.apply(&Change::RemoveUser { name: "a".to_owned() }).expect("it is there");
        assert_eq!(entries.len(), 3, "{entries:?}");
        assert!(table.permissions("a", "x").is_none());
        let entries = table.apply(&Change::RemoveVirtualHost { name: "x".to_owned() }).expect("it is there");
        assert_eq!(entries.len(), 3, "{entries:?}");
        assert!(table.permissions("b", "x").is_none() && table.permissions("b", "/").is_some());
        // A namesake begins with nothing.
        applied(&mut table, &[add_user("a")]);
        assert!(table.permissions("a", "y").is_none());
    }

    #[test]
    fn topics_go_with_their_user_their_virtual_host_and_when_they_are_cleared() {
        let host = |name: &str| Change::AddVirtualHost { name: name.to_owned() };
        let mut table = Table::initial();
        applied(&mut table, &[add_user("a"), add_user("b"), host("x")]);
        for (user, host) in [("a", "x"), ("a", "/"), ("b", "x"), ("b", "/")] {
            applied(&mut table, &[set_topics(user, host, "one", "^a"), set_topics(user, host, "two", "^b")]);
        }
        assert_eq!(table.list().topics.len(), 8);
        assert_eq!(table.entries().iter().filter(|entry| matches!(entry, Entry::Topics(..))).count(), 8);
        let left = |table: &Table| {
            let all = table.list().topics;
            all.into_iter().map(|one| [one.user, one.virtual_host, one.exchange].join(" ")).collect::<Vec<_>>()
        };
        let cleared = table.apply(&clear_topics("b", "/", Some("one"))).expect("there is one");
        assert_eq!(cleared, [Entry::Topics("b".to_owned(), "/".to_owned(), "one".to_owned())]);
        assert_eq!(table.apply(&Change::RemoveUser { name: "a".to_owned() }).expect("it is there").len(), 5);
        assert_eq!(left(&table), ["b / two", "b x one", "b x two"]);
        assert_eq!(table.apply(&Change::RemoveVirtualHost { name: "x".to_owned() }).expect("it is there").len(), 4);
        assert_eq!(left(&table), ["b / two"]);
        // Replaced, and not added to.
        applied(&mut table, &[set_topics("b", "/", "two", "^c")]);
        assert_eq!(table.list().topics[0].permissions.write, "^c");
        assert_eq!(table.apply(&clear_topics("b", "/", None)).expect("there is one").len(), 1);
        assert!(left(&table).is_empty() && table.topics.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let mut table = Table::initial();
        applied(&mut table, &[add_user("a")]);
        let owned = str::to_owned;
        let tags =
            |tags: &[&str]| Change::SetTags { name: owned("a"), tags: tags.iter().map(|tag| owned(tag)).collect() };
        let before = table.list();
        let long = "x".repeat(256);
        for (change, part) in [
            (add_user("a"), "already"),
            (add_user(""), "1 to 255"),
            (add_user("a\nb"), "control"),
            (add_user(&long), "1 to 255"),
            (Change::AddVirtualHost { name: owned("/") }, "already"),
            (Change::AddVirtualHost { name: long.clone() }, "1 to 255"),
            (Change::RemoveUser { name: owned("b") }, "no user 'b'"),
            (Change::SetPassword { name: owned("b"), password: None }, "no user 'b'"),
            (Change::RemoveVirtualHost { name: owned("x") }, "no virtual host 'x'"),
            (set("b", "/", Permissions::all()), "no user 'b'"),
            (set("a", "x", Permissions::all()), "no virtual host 'x'"),
            (set("a", "/", Permissions { write: owned("("), ..Permissions::all() }), "'(' for write"),
            (Change::ClearPermissions { user: owned("a"), virtual_host: owned("/") }, "no permissions"),
            (set_topics("b", "/", "e", ".*"), "no user 'b'"),
            (set_topics("a", "x", "e", ".*"), "no virtual host 'x'"),
            (set_topics("a", "/", "e", "("), "'(' for write"),
            (set_topics("a", "/", "e", "{user}"), "'{user}' for write"),
            (set_topics("a", "/", &long, ".*"), "at most 255"),
            (clear_topics("b", "/", None), "no user 'b'"),
            (clear_topics("a", "x", None), "no virtual host 'x'"),
            (clear_topics("a", "/", None), "no topic permissions in"),
            (clear_topics("a", "/", Some("e")), "no topic permissions at 'e' in"),
            (tags(&["a b"]), "tags"),
            (tags(&["a,b"]), "tags"),
            (tags(&[""]), "tags"),
            (tags(&["x"; 33]), "tags"),
        ] {
            let error = table.apply(&change).expect_err(part).to_string();
            assert!(error.contains(part), "{change:?}: {error}");
            assert_eq!(table.list(), before, "{change:?}");
        }
    }
}
