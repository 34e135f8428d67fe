//! A broker that survives its end: the [store](crate::store) behind the engine.
//!
//! What the engine reports as an effect goes to the journal, which hands it to the store's thread; a publish is confirmed when
//! its last copy is on the disk. At a start the engine is built again from definitions and from what waits; bodies stay on the
//! disk until they are wanted.

mod definition;
mod journal;
mod record;
mod shelf;

use super::accounts::AccountStore;
use super::builder::{Opened, Removal, Storage};
use super::content::Content;
use crate::engine::{CopyId, Definition, Engine};
use crate::store::disk::{Disk, RealDisk};
use crate::store::{self, Log, Options, RecoveredCopy, Restore, Writer};
use blake2::{Blake2s256, Digest};
use journal::DiskJournal;
use record::{Clock, Record};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use record::Record as StoredRecord;
pub(super) use shelf::Shelf;

/// Keeps what has to survive in a directory, with a store for each virtual host. Only one server at a time has it.
#[derive(Clone, Debug)]
pub struct DiskStorage {
    directory: PathBuf,
}

impl DiskStorage {
    /// Keeps everything below this directory, which is created, for its owner only, where it is missing.
    pub fn new(directory: impl AsRef<Path>) -> Self {
        Self { directory: directory.as_ref().to_owned() }
    }
}

/// How long the threads of a virtual host that was removed may take to end.
const ENDING: Duration = Duration::from_secs(30);

/// The longest name of a directory, in bytes, that file systems take.
const LONGEST: usize = 255;

/// The directory of a virtual host: its name, with what a file system could take for something else as `%` and two digits.
/// Where that is longer than a file system takes, its beginning and a hash of the whole, behind a sign that is in no other.
fn folder(virtual_host: &str) -> String {
    let mut name = String::from("vhost-");
    for byte in virtual_host.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.len() > LONGEST {
        let hash = Blake2s256::digest(virtual_host);
        let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        name.truncate(LONGEST - 1 - hash.len());
        name = format!("{name}~{hash}");
    }
    name
}

impl Storage for DiskStorage {
    fn open(&mut self, virtual_host: &str, now: Instant) -> io::Result<Opened> {
        let shelf = Rc::new(Shelf::default());
        let mut restored = Restored {
            engine: Engine::new(now),
            shelf: shelf.clone(),
            clock: Clock::new(now),
            queues: HashMap::new(),
            next_number: 1,
            unknown: Vec::new(),
            unreadable: 0,
        };
        let (log, opened) = Log::open(&self.directory.join(folder(virtual_host)), Options::default(), &mut restored)
            .map_err(io::Error::other)?;
        for damage in &opened.damages {
            tracing::error!(%damage, "the broker's store is damaged");
        }
        let Restored { mut engine, queues, next_number, unknown, unreadable, .. } = restored;
        engine.number_copies_from(CopyId(log.next_copy()));
        shelf.set_reader(log.reader());
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let writer = Writer::start(log, move |event| {
            // The server has ended where nobody takes it.
            _ = sender.send(event);
        })?;
        let numbers = queues.into_iter().map(|(number, name)| (name, number)).collect();
        let mut journal = DiskJournal::new(writer, events, shelf.clone(), numbers, next_number);
        if unreadable > 0 {
            tracing::error!(
                unreadable,
                messages = unknown.len(),
                "definitions or messages in the broker's store cannot be read; they are left where they are"
            );
        } else {
            // Their queue was deleted while they were out.
            journal.forget(&unknown);
        }
        Ok(Opened::new(engine, journal).with_shelf(shelf))
    }

    fn accounts(&mut self) -> io::Result<AccountStore> {
        AccountStore::open(&self.directory).map_err(io::Error::other)
    }

    fn remove(&mut self, virtual_host: &str) -> Removal {
        let directory = self.directory.join(folder(virtual_host));
        Box::new(move || remove(&directory))
    }
}

/// Removes the store of a virtual host, as soon as its threads have ended.
fn remove(directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let begun = Instant::now();
    let lock = loop {
        match RealDisk.lock(&directory.join(store::LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < ENDING => {
                std::thread::sleep(Duration::from_millis(5));
            }
            locked => break locked?,
        }
    };
    std::fs::remove_dir_all(directory)?;
    drop(lock);
    directory.parent().map_or(Ok(()), |parent| RealDisk.sync_directory(parent))
}

/// An engine that is being built again.
struct Restored {
    engine: Engine<Content>,
    shelf: Rc<Shelf>,
    clock: Clock,
    queues: HashMap<u64, Arc<str>>,
    next_number: u64,
    /// Copies of queues that there are not.
    unknown: Vec<u64>,
    unreadable: usize,
}

impl Restore for Restored {
    fn definition(&mut self, key: &[u8], value: &[u8]) {
        let Some((definition, number)) = definition::read(key, value) else {
            self.unreadable += 1;
            return;
        };
        if let Err(refusal) = self.engine.restore(&definition) {
            tracing::error!(?definition, ?refusal, "a definition of the broker's store is of no use");
            self.unreadable += 1;
            return;
        }
        if let Definition::Queue(spec) = definition {
            self.next_number = self.next_number.max(number.saturating_add(1));
            self.queues.insert(number, spec.name);
        }
    }

    fn copy(&mut self, copy: RecoveredCopy<'_>) {
        let id = copy.placement.copy;
        self.next_number = self.next_number.max(copy.placement.queue.saturating_add(1));
        let Some(queue) = self.queues.get(&copy.placement.queue) else {
            self.unknown.push(id);
            return;
        };
        let content = Record::read(copy.header).and_then(|record| {
            let content = Content::away(self.shelf.clone(), CopyId(id), &record, copy.body_length)?;
            Some((content, record.expires(&self.clock)))
        });
        let Some((content, expires)) = content else {
            self.unreadable += 1;
            return;
        };
        if let Err(refusal) = self.engine.restore_message(CopyId(id), queue, expires, content) {
            tracing::error!(copy = id, ?refusal, "a message of the broker's store has no queue");
        }
    }
}

#[cfg(test)]
mod tests;
