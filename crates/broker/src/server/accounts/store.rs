//! Users, virtual hosts and permissions on the disk: a [store](crate::store) of their own, which has definitions and no messages.

use super::change::{Change, ChangeError};
use super::password::{Credential, PasswordHash};
use super::table::{Account, Accounts, Entry, Permissions, Source, Table, TopicPermissions};
use crate::protocol::table::ArrayWriter;
use crate::protocol::{Table as Fields, TableWriter, Value};
use crate::store::{self, Log, Occasion, Options, RecoveredCopy, Restore};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// The directory in that of the broker.
pub(in crate::server) const DIRECTORY: &str = "accounts";

/// What was changed at least once. Until then there is what a new broker has.
const CHANGED: &[u8] = b"i";
const USER: u8 = b'u';
const VIRTUAL_HOST: u8 = b'v';
const PERMISSIONS: u8 = b'p';
const TOPICS: u8 = b't';
const REMOVED: u8 = b'd';

/// Users, virtual hosts and permissions of a broker that does not run. While this is open, the broker cannot be started.
///
/// ```
/// use homing_broker::server::{AccountStore, Change, PasswordHash, Permissions};
///
/// # let directory = std::env::temp_dir().join(format!("homing-accounts-doc-{}", std::process::id()));
/// let mut accounts = AccountStore::open(&directory)?;
/// let password = PasswordHash::new("not to be guessed")?;
/// accounts.change(&Change::AddUser { name: "ada".into(), password: Some(password), tags: vec![] })?;
/// let (user, virtual_host) = ("ada".into(), "/".into());
/// accounts.change(&Change::SetPermissions { user, virtual_host, permissions: Permissions::all() })?;
/// accounts.close()?;
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AccountStore {
    /// `None` where nothing is kept.
    log: Option<Log>,
    pub(super) table: Table,
    /// Nothing was ever changed.
    is_initial: bool,
}

impl AccountStore {
    /// Opens what is kept in the directory of a broker, which is created if it is missing.
    ///
    /// # Errors
    /// As [`Log::open`]. [`Locked`](store::ErrorKind::Locked) if the broker runs: [`Admin`](crate::server::Admin) makes changes then.
    pub fn open(directory: &Path) -> store::Result<Self> {
        let mut found = Found::default();
        let options = Options::default().with_segment_bytes(1 << 20);
        let (log, opened) = Log::open(&directory.join(DIRECTORY), options, &mut found)?;
        for damage in &opened.damages {
            tracing::error!(%damage, "the broker's store of users and permissions is damaged");
        }
        if found.unreadable > 0 {
            tracing::error!(
                unreadable = found.unreadable,
                "users or permissions cannot be read; they are as if they were not"
            );
        }
        // Guards: a user that everybody knows comes back, because the record by which it had gone is damaged.
        let is_initial = !found.is_changed && found.unreadable == 0 && opened.damages.is_empty();
        let table = if is_initial { Table::initial() } else { found.table };
        Ok(Self { log: Some(log), table, is_initial })
    }

    /// The same for a broker that keeps nothing.
    pub(in crate::server) fn in_memory() -> Self {
        Self { log: None, table: Table::initial(), is_initial: true }
    }

    /// Adds what the program that runs the server gives. Where it gives users, there is no `guest` of ours, and where it gives
    /// virtual hosts no `/`; unless an operator has made a change since.
    pub(in crate::server) fn with_program(mut self, users: Vec<(String, String)>, virtual_hosts: Vec<String>) -> Self {
        if self.is_initial && !users.is_empty() {
            self.table.users.clear();
            self.table.permissions.clear();
        }
        if self.is_initial && !virtual_hosts.is_empty() {
            self.table.virtual_hosts.clear();
            self.table.permissions.clear();
            for name in self.table.users.keys() {
                for host in &virtual_hosts {
                    self.table.permissions.insert((name.clone(), host.clone()), Permissions::all());
                }
            }
        }
        for (name, password) in users {
            let credential = Credential::Known(password);
            self.table.users.insert(name, Account { credential, tags: Vec::new(), source: Source::Program });
        }
        for name in virtual_hosts {
            self.table.virtual_hosts.insert(name, Source::Program);
        }
        self
    }

    /// What there is.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        self.table.list()
    }

    pub(in crate::server) fn table(&self) -> &Table {
        &self.table
    }

    /// Makes a change, and returns when it is on the disk. Blocks until then. Of a virtual host that is removed the messages go
    /// when the broker is started.
    ///
    /// # Errors
    /// It makes no sense as things are, or it could not be written. It is as if it had not been asked for then.
    pub fn change(&mut self, change: &Change) -> Result<(), ChangeError> {
        self.make(change).map(|_| ())
    }

    /// The same. What of the table is another afterwards.
    pub(in crate::server) fn make(&mut self, change: &Change) -> Result<Vec<Entry>, ChangeError> {
        let mut table = self.table.clone();
        let entries = table.apply(change)?;
        self.commit(table, entries.iter().cloned().collect()).map_err(ChangeError::Store)?;
        Ok(entries)
    }

    /// What there was in a virtual host is gone from the disk.
    pub(in crate::server) fn forget_removed(&mut self, name: &str) -> store::Result<()> {
        let mut table = self.table.clone();
        if !table.removed.remove(name) {
            return Ok(());
        }
        self.commit(table, BTreeSet::from([Entry::Removed(name.to_owned())]))
    }

    fn commit(&mut self, table: Table, mut entries: BTreeSet<Entry>) -> store::Result<()> {
        if let Some(log) = &mut self.log {
            if self.is_initial {
                entries.extend(table.entries());
            }
            let written = write(log, &table, &entries, self.is_initial);
            if written.is_err() {
                // It must not be done later, when nobody expects it.
                log.discard();
            }
            written?;
            if let Err(error) = log.upkeep(Occasion::Busy) {
                tracing::warn!(%error, "the broker's store of users could not be tidied; it is tried again");
            }
        }
        self.table = table;
        self.is_initial = false;
        Ok(())
    }

    /// Closes it in order, so that the next start is a quick one. Dropping it loses nothing either.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub fn close(self) -> store::Result<()> {
        self.log.map_or(Ok(()), Log::close)
    }
}

impl fmt::Debug for AccountStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountStore").field("log", &self.log).finish_non_exhaustive()
    }
}

fn write(log: &mut Log, table: &Table, entries: &BTreeSet<Entry>, is_first: bool) -> store::Result<()> {
    if log.stopped().is_some() {
        log.resume()?;
    }
    if is_first {
        log.define(CHANGED, &[])?;
    }
    for entry in entries {
        let key = key(entry);
        match value(table, entry) {
            Some(value) => log.define(&key, &value)?,
            None => log.undefine(&key)?,
        };
    }
    log.commit().map(|_| ())
}

fn key(entry: &Entry) -> Vec<u8> {
    let named = |kind: u8, name: &str| [&[kind], name.as_bytes()].concat();
    match entry {
        Entry::User(name) => named(USER, name),
        Entry::VirtualHost(name) => named(VIRTUAL_HOST, name),
        Entry::Removed(name) => named(REMOVED, name),
        Entry::Permissions(user, host) => {
            let mut key = vec![PERMISSIONS];
            let mut fields = TableWriter::new(&mut key);
            fields.field(b"user", &Value::String(user.as_bytes()));
            fields.field(b"vhost", &Value::String(host.as_bytes()));
            key
        }
        Entry::Topics(user, host, exchange) => {
            let mut key = vec![TOPICS];
            let mut fields = TableWriter::new(&mut key);
            fields.field(b"user", &Value::String(user.as_bytes()));
            fields.field(b"vhost", &Value::String(host.as_bytes()));
            fields.field(b"exchange", &Value::String(exchange.as_bytes()));
            key
        }
    }
}

/// What is kept under the key; `None` for what is not there any more.
fn value(table: &Table, entry: &Entry) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    let mut fields = TableWriter::new(&mut value);
    match entry {
        Entry::User(name) => {
            let account = table.users.get(name)?;
            match &account.credential {
                Credential::None => {}
                Credential::Known(password) => fields.field(b"known-password", &Value::String(password.as_bytes())),
                Credential::Hashed(hash) => fields.field(b"password", &Value::String(hash.as_str().as_bytes())),
            }
            fields.array(b"tags", |tags: &mut ArrayWriter<'_>| {
                account.tags.iter().for_each(|tag| tags.value(&Value::String(tag.as_bytes())));
            });
        }
        Entry::VirtualHost(name) => _ = table.virtual_hosts.get(name)?,
        Entry::Removed(name) => _ = table.removed.get(name)?,
        Entry::Permissions(user, host) => {
            let Permissions { configure, write, read } = table.permissions.get(&(user.clone(), host.clone()))?;
            for (name, expression) in [("configure", configure), ("write", write), ("read", read)] {
                fields.field(name.as_bytes(), &Value::String(expression.as_bytes()));
            }
        }
        Entry::Topics(user, host, exchange) => {
            let TopicPermissions { write, read } = table.topics.get(&(user.clone(), host.clone()))?.get(exchange)?;
            for (name, expression) in [("write", write), ("read", read)] {
                fields.field(name.as_bytes(), &Value::String(expression.as_bytes()));
            }
        }
    }
    Some(value)
}

/// What a store holds.
#[derive(Default)]
struct Found {
    table: Table,
    is_changed: bool,
    unreadable: usize,
}

impl Restore for Found {
    fn definition(&mut self, key: &[u8], value: &[u8]) {
        if key == CHANGED {
            self.is_changed = true;
        } else if self.read(key, value).is_none() {
            self.unreadable += 1;
        }
    }

    fn copy(&mut self, _: RecoveredCopy<'_>) {
        self.unreadable += 1;
    }
}

impl Found {
    fn read(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, name) = key.split_first()?;
        let text = |fields: Fields<'_>, name| fields.get(name).and_then(|value| value.as_str().map(str::to_owned));
        if *kind == TOPICS {
            let names = Fields::checked(name).ok()?;
            let place = (text(names, "user")?, text(names, "vhost")?);
            let read = Fields::checked(value).ok().and_then(|fields| {
                Some(TopicPermissions { write: text(fields, "write")?, read: text(fields, "read")? })
            });
            let is_readable = read.is_some();
            // Guards: what restricts a user and cannot be read. Without it every key would be allowed; an empty expression
            // allows next to nothing.
            self.table.topics.entry(place).or_default().insert(text(names, "exchange")?, read.unwrap_or_default());
            return is_readable.then_some(());
        }
        let fields = Fields::checked(value).ok()?;
        if *kind == PERMISSIONS {
            let names = Fields::checked(name).ok()?;
            let permissions = Permissions {
                configure: text(fields, "configure")?,
                write: text(fields, "write")?,
                read: text(fields, "read")?,
            };
            self.table.permissions.insert((text(names, "user")?, text(names, "vhost")?), permissions);
            return Some(());
        }
        let name = std::str::from_utf8(name).ok()?.to_owned();
        match *kind {
            USER => {
                let credential = match (text(fields, "password"), text(fields, "known-password")) {
                    (Some(hash), _) => Credential::Hashed(PasswordHash::from_phc(&hash).ok()?),
                    (None, Some(known)) => Credential::Known(known),
                    (None, None) => Credential::None,
                };
                let tags = match fields.get("tags")? {
                    Value::Array(tags) => tags.iter().map(|tag| Some(tag.ok()?.as_str()?.to_owned())).collect(),
                    _ => None,
                };
                self.table.users.insert(name, Account { credential, tags: tags?, source: Source::Kept });
            }
            VIRTUAL_HOST => _ = self.table.virtual_hosts.insert(name, Source::Kept),
            REMOVED => _ = self.table.removed.insert(name),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restriction_that_cannot_be_read_allows_next_to_nothing() {
        let key = key(&Entry::Topics("ada".to_owned(), "/".to_owned(), "e".to_owned()));
        let mut no_read = Vec::new();
        TableWriter::new(&mut no_read).field(b"write", &Value::String(b".*"));
        for value in [&no_read[..], b"", b"no table"] {
            let mut found = Found::default();
            found.definition(&key, value);
            assert_eq!(found.unreadable, 1, "it is reported");
            let topics = found.table.topics.get(&("ada".to_owned(), "/".to_owned())).expect("it restricts");
            assert_eq!(topics.get("e"), Some(&TopicPermissions::default()));
        }
    }
}
