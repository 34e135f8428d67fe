//! The log as one value: appending, committing, and going on after an error of the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::Batch;
use super::definitions::Definitions;
use super::disk::DiskFile;
use super::error::{Error, ErrorKind, Result};
use super::format::{COPY_BYTES, RECORD_HEADER, SEGMENT_START, SegmentHeader, SegmentKind, random_salt};
use super::index_file::IndexEntries;
use super::reader::{Reader, Shared};
use super::segment::Segment;
use super::{Placement, damage::Damage};

/// The largest message: header, body and copies together.
const LARGEST_RECORD: usize = 1 << 30;
/// The most that one batch can hold. Offsets in a segment have 32 bits.
const LARGEST_BATCH: usize = (2 << 30) - (1 << 20);

/// The number of an append. What has a number up to that which [`Log::commit`] returned is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20 }
    }
}

impl Options {
    /// Sets the bytes after which a segment is complete and the next is begun. 32 MiB by default; at least 4 KiB and at most
    /// 1 GiB: what is out of these bounds is brought to the nearest. Smaller segments give space back in smaller pieces, and
    /// cost more checkpoints.
    #[must_use]
    pub fn with_segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.clamp(4 << 10, 1 << 30);
        self
    }
}

/// The head: the segment that is appended to.
pub(crate) struct Head {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) seed: u32,
    pub(crate) entries: IndexEntries,
}

/// A store of definitions and messages in one directory. See the [module](super) for what it promises.
///
/// Everything here runs on the caller's thread. Nothing is durable before [`commit`](Self::commit) returned.
///
/// Dropping a log without [`close`](Self::close) is like a crash: what was committed is there at the next start, which takes longer.
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: Options,
    pub(crate) head: Option<Head>,
    /// The newest log segment but the head, and up to where it is valid.
    pub(crate) last_log: Option<(u64, u64)>,
    pub(crate) next_number: u64,
    pub(crate) next_copy: u64,
    pub(crate) batch: Batch,
    pub(crate) batch_number: u64,
    pub(crate) appended: u64,
    pub(crate) durable: u64,
    pub(crate) definitions: Definitions,
    pub(crate) has_reserve: bool,
    /// A segment became full: this store is not one of those with a few messages, which need no reserve.
    pub(crate) is_large: bool,
    /// Complete segments without an index file, by number.
    pub(crate) unindexed: Vec<(u64, IndexEntries)>,
    /// Files that the next checkpoint does not name.
    pub(crate) garbage: Vec<String>,
    pub(crate) dead_since_checkpoint: u64,
    pub(crate) changed_since_checkpoint: bool,
    pub(crate) checkpoint_wanted: bool,
    pub(crate) job_is_running: bool,
    pub(crate) damages: Vec<Damage>,
    pub(crate) stopped: Option<Error>,
    /// The directory is locked until this log and every job of it are gone.
    pub(crate) lock: Arc<dyn Send + Sync>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

impl Log {
    /// The first id that no copy has had.
    #[must_use]
    pub fn next_copy(&self) -> u64 {
        self.next_copy
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// A handle that reads messages from every thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.shared))
    }

    /// How many copies are committed and not forgotten.
    #[must_use]
    pub fn live_copies(&self) -> usize {
        self.shared.catalog().live_copies()
    }

    /// Bytes that this user can still write to the file system.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn room(&self) -> Result<u64> {
        self.shared
            .disk
            .room(self.directory())
            .map_err(|error| Error::io("find out how much room there is", self.directory(), error))
    }

    /// Bytes that wait for [`commit`](Self::commit), about.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.batch.length()
    }

    /// The error that stopped the store, if it is stopped.
    #[must_use]
    pub fn stopped(&self) -> Option<&Error> {
        self.stopped.as_ref()
    }

    /// Appends a message with its copies. Its body is stored once.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is no copy, an id is not greater than all before it, or the message is larger
    /// than 1 GiB, or the batch would be larger than 2 GiB; [`ErrorKind::Stopped`]. Nothing is appended then.
    pub fn put(&mut self, copies: &[Placement], header: &[u8], body: &[u8]) -> Result<Sequence> {
        self.check_running("append a message")?;
        let mut next = self.next_copy;
        for placement in copies {
            if placement.copy < next || placement.copy == u64::MAX {
                return Err(self.invalid(format!("append copy {}: ids must ascend", placement.copy)));
            }
            next = placement.copy + 1;
        }
        if copies.is_empty() {
            return Err(self.invalid("append a message without a copy".into()));
        }
        self.check_size(copies.len().saturating_mul(COPY_BYTES).saturating_add(header.len()), body.len())?;
        self.batch.put(copies, header, body);
        self.next_copy = next;
        Ok(self.count())
    }

    /// Appends that a copy is not needed any more. An id that is not there, or not any more, is ignored.
    ///
    /// # Errors
    /// [`ErrorKind::Stopped`]; [`ErrorKind::Invalid`] if the batch would be too large.
    pub fn forget(&mut self, copy: u64) -> Result<Sequence> {
        self.check_running("append that a message is forgotten")?;
        self.check_size(COPY_BYTES, 0)?;
        self.batch.forget(copy);
        Ok(self.count())
    }

    /// Appends a definition, which replaces one with the same key.
    ///
    /// # Errors
    /// [`ErrorKind::Stopped`]; [`ErrorKind::Invalid`] if it is larger than 1 GiB.
    pub fn define(&mut self, key: &[u8], value: &[u8]) -> Result<Sequence> {
        self.check_running("append a definition")?;
        self.check_size(key.len(), value.len())?;
        self.batch.define(key, value);
        Ok(self.count())
    }

    /// Appends that there is no definition with this key any more.
    ///
    /// # Errors
    /// As [`define`](Self::define).
    pub fn undefine(&mut self, key: &[u8]) -> Result<Sequence> {
        self.check_running("append that a definition is removed")?;
        self.check_size(key.len(), 0)?;
        self.batch.undefine(key);
        Ok(self.count())
    }

    /// Makes everything that was appended durable, with one write and one sync, as a whole or not at all. Returns the
    /// last durable number.
    ///
    /// # Errors
    /// What the operating system reports. The store is stopped then: nothing that was durable is lost, what was
    /// appended since stays in memory, and [`resume`](Self::resume) tries again. [`ErrorKind::Stopped`] if it was stopped before.
    pub fn commit(&mut self) -> Result<Sequence> {
        self.check_running("commit")?;
        if self.batch.is_empty() {
            return Ok(Sequence(self.durable));
        }
        if let Err(error) = self.write_batch() {
            self.abandon_head();
            self.stopped = Some(error.clone());
            return Err(error);
        }
        self.enter_batch();
        self.durable = self.appended;
        Ok(Sequence(self.durable))
    }

    /// Goes on after an error of the disk: begins a fresh segment, which records up to where the old one is valid, and
    /// commits what is pending. The file on which a sync failed is never written or synced again.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); the store stays stopped then.
    pub fn resume(&mut self) -> Result<Sequence> {
        self.stopped = None;
        match self.commit() {
            Err(error) if error.kind() == ErrorKind::NoRoom && self.give_back_garbage() => {
                self.stopped = None;
                self.commit()
            }
            result => result,
        }
    }

    /// Drops what was appended and is not committed, as if it had not been. After an error of [`commit`](Self::commit) it is not
    /// known whether the disk has it, until something else is committed.
    pub fn discard(&mut self) {
        self.batch.clear();
        self.appended = self.durable;
    }

    /// Ends a head on which a write or sync failed.
    ///
    /// Guards: a sync that is tried again on the same file, and succeeds without what the kernel has dropped. At once, so that
    /// nothing that comes later can use the file.
    fn abandon_head(&mut self) {
        if let (Some(head), Some(segment)) = (&self.head, &self.shared.catalog().head) {
            // Gives back the room of a batch that was written in part. That this is not synced does not matter: the next
            // segment's header counts.
            let _ = head.file.set_length(segment.length);
        }
        self.complete_head();
    }

    fn count(&mut self) -> Sequence {
        self.appended += 1;
        Sequence(self.appended)
    }

    fn invalid(&self, tried: String) -> Error {
        Error::new(ErrorKind::Invalid, tried, self.directory(), "this is an error of the program that uses the store")
    }

    pub(crate) fn check_running(&self, tried: &str) -> Result<()> {
        let Some(cause) = &self.stopped else { return Ok(()) };
        let tried = format!("{tried}: the store is stopped, since it could not write ({cause})");
        Err(Error::new(ErrorKind::Stopped, tried, self.directory(), "it goes on when writing works again"))
    }

    fn check_size(&self, meta: usize, body: usize) -> Result<()> {
        let record = meta.saturating_add(body).saturating_add(RECORD_HEADER + 4);
        if record > LARGEST_RECORD || record + self.batch.length() > LARGEST_BATCH {
            return Err(self.invalid(format!("append {record} bytes: a message may have 1 GiB, a batch 2 GiB")));
        }
        Ok(())
    }

    fn write_batch(&mut self) -> Result<()> {
        // The index of the head is in memory: with many small messages it must not become as large as the segment.
        let index = self.head.as_ref().map_or(0, |head| head.entries.bytes().len() as u64);
        let is_full = index >= self.options.segment_bytes / 4
            || self.shared.catalog().head.as_ref().is_some_and(|head| {
                head.length >= self.options.segment_bytes
                    || head.length + self.batch.length() as u64 > u64::from(u32::MAX) - (1 << 20)
            });
        if is_full {
            self.is_large = true;
            self.complete_head();
        }
        if self.head.is_none() {
            self.begin_head()?;
        }
        let Some(head) = &self.head else { return Ok(()) };
        let (offset, slot) =
            self.shared.catalog().head.as_ref().map_or((0, 0), |segment| (segment.length, segment.table.len()));
        self.batch_number += 1;
        // A segment of less than 4 GiB has fewer copies than that.
        let bytes = self.batch.bytes_for(head.seed, offset, slot as u32, self.batch_number);
        head.file
            .write_all_at(bytes, offset)
            .map_err(|error| Error::io(format!("write {} bytes to the log", bytes.len()), &head.path, error))?;
        head.file.sync().map_err(|error| Error::io("sync the log", &head.path, error))
    }

    /// Creates a head, durably.
    fn begin_head(&mut self) -> Result<()> {
        let number = self.next_number;
        // Whatever comes of it, this number is used.
        self.next_number += 1;
        let header = SegmentHeader { kind: SegmentKind::Log, number, salt: random_salt(), before: self.last_log };
        let name = header.kind.file_name(number);
        let path = self.directory().join(&name);
        let create = || {
            let file = self.shared.disk.create(&path)?;
            file.write_all_at(&header.encode(), 0)?;
            file.sync()?;
            self.shared.disk.sync_directory(self.directory())?;
            Ok(file)
        };
        match create() {
            Ok(file) => {
                let segment = Segment::new(number, header.kind, header.salt, SEGMENT_START);
                self.shared.catalog().head = Some(segment);
                self.head = Some(Head { file, path, seed: header.seed(), entries: IndexEntries::default() });
                Ok(())
            }
            Err(error) => {
                // Removed at once, since the disk may be full, and with the next checkpoint in any case. An empty segment does no harm.
                let _ = self.shared.disk.remove(&path);
                self.garbage.push(name);
                Err(Error::io("begin a segment of the log", &path, error))
            }
        }
    }

    /// Ends the head. The next commit begins another one.
    pub(crate) fn complete_head(&mut self) {
        let Some(head) = self.head.take() else { return };
        let mut catalog = self.shared.catalog();
        let Some(mut segment) = catalog.head.take() else { return };
        self.last_log = Some((segment.number, segment.length));
        segment.shrink();
        self.checkpoint_wanted = true;
        if segment.live_copies == 0 {
            // Its forgets and definitions count until a checkpoint holds them.
            self.garbage.push(segment.file_name());
        } else {
            self.unindexed.push((segment.number, head.entries));
            catalog.complete.push(segment);
        }
    }

    /// Enters a batch that is durable into the tables.
    fn enter_batch(&mut self) {
        let mut catalog = self.shared.catalog();
        if let (Some(segment), Some(head)) = (&mut catalog.head, &mut self.head) {
            let offset = segment.length;
            for put in self.batch.puts(offset) {
                segment.push(put.extent, put.meta.copies().map(|placement| placement.copy));
                head.entries.push(put.extent, put.slot, put.body_length, put.meta.copies(), put.meta.header);
            }
            segment.length += self.batch.written_length();
        }
        for copy in self.batch.forgets() {
            let (dead, emptied) = catalog.forget(*copy);
            self.dead_since_checkpoint += dead;
            if let Some(segment) = emptied {
                self.garbage.push(segment.file_name());
                match self.unindexed.iter().position(|(number, _)| *number == segment.number) {
                    Some(at) => drop(self.unindexed.remove(at)),
                    None => self.garbage.push(segment.index_name()),
                }
            }
        }
        drop(catalog);
        self.definitions.apply(self.batch.take_changes());
        self.changed_since_checkpoint = true;
        self.batch.clear();
    }
}
