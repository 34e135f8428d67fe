//! Opening a store: what the checkpoint names, what the log holds since, and what of it can no longer be read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Placement;
use super::batch::Batch;
use super::bits::Bits;
use super::catalog::Catalog;
use super::checkpoint::{self, Checkpoint, SegmentEntry};
use super::damage::{Damage, Lost};
use super::definitions::{self, Changes, Definitions};
use super::disk::{Disk, RealDisk};
use super::error::{Error, ErrorKind, Result};
use super::format::{BadHeader, SEGMENT_START, SegmentHeader, SegmentKind};
use super::index_file::IndexEntries;
use super::log::{Log, Options};
use super::reader::Shared;
use super::scan::{Scanned, Synced, scan};
use super::segment::{Segment, Table, index_name};
use super::upkeep::{Occasion, RESERVE, cut_path, number_of, read_file, read_snapshot, write_checkpoint, write_new};
use super::window::Window;

pub(crate) const LOCK: &str = "store.lock";

/// Receives what a store holds, while it is opened: first every definition, sorted by key, then every copy, in the order
/// of the ids.
pub trait Restore {
    /// A definition that is set.
    fn definition(&mut self, key: &[u8], value: &[u8]);
    /// A copy that was committed and not forgotten.
    fn copy(&mut self, copy: RecoveredCopy<'_>);
}

/// A copy, as it is found when a store is opened. [`Reader::read`](super::Reader::read) has its body.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RecoveredCopy<'a> {
    /// The copy's id and queue.
    pub placement: Placement,
    /// The same for all copies of one message, and for no other: they share their body.
    pub message: (u64, u32),
    /// The message's header, as it was given to [`put`](Log::put).
    pub header: &'a [u8],
    /// Bytes of the body.
    pub body_length: u32,
}

/// What opening a store found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Opened {
    /// How many copies were restored.
    pub copies: u64,
    /// What is damaged, and lost by that. An operator should see each of them.
    pub damages: Vec<Damage>,
}

impl Log {
    /// Opens the store in a directory, which is created if it does not exist, and gives what it holds to `restore`.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] if another process, or another log of this one, has it open; [`ErrorKind::Newer`] if a newer version
    /// wrote it; [`ErrorKind::NoRights`]; [`ErrorKind::Damaged`] if the checkpoint or the definitions cannot be read at all; else
    /// what the operating system reports. Damage of single records is no error: it is in [`Opened::damages`].
    pub fn open(directory: &Path, options: Options, restore: &mut impl Restore) -> Result<(Log, Opened)> {
        Self::open_on(&(Arc::new(RealDisk) as Arc<dyn Disk>), directory, options, restore)
    }

    pub(crate) fn open_on(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        options: Options,
        restore: &mut impl Restore,
    ) -> Result<(Log, Opened)> {
        let create = |error| Error::io("create the directory of the store", directory, error);
        disk.create_directory(directory).map_err(create)?;
        let lock = lock(&**disk, directory)?;
        let mut recovery = Recovery::begin(&**disk, directory)?;
        recovery.replay()?;
        recovery.restore_definitions(restore)?;
        let copies = recovery.restore_copies(restore)?;
        let mut log = recovery.into_log(Arc::clone(disk), options, lock);
        if !log.damages.is_empty() {
            // Guards: what was doubtful in the last batch was decided now. The next start must not decide otherwise when it
            // sees that something was written behind it.
            log.upkeep(Occasion::Idle)?;
        }
        let damages = std::mem::take(&mut log.damages);
        Ok((log, Opened { copies, damages }))
    }
}

fn lock(disk: &dyn Disk, directory: &Path) -> Result<Arc<dyn Send + Sync>> {
    let path = directory.join(LOCK);
    disk.lock(&path).map_err(|error| {
        if error.kind() != std::io::ErrorKind::WouldBlock {
            return Error::io("lock the store", &path, error);
        }
        let holder = read_file(disk, &path).unwrap_or_default();
        let holder = String::from_utf8_lossy(&holder).lines().next().unwrap_or_default().to_owned();
        let tried = format!("open the store: process {holder} has it open");
        Error::new(ErrorKind::Locked, tried, &path, "end that process, or give this one a directory of its own")
    })
}

/// A log segment that no checkpoint covers.
struct Uncovered {
    segment: Segment,
    entries: IndexEntries,
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    checkpoint: Checkpoint,
    /// Numbers of log segments from `replay_from` on.
    logs: BTreeSet<u64>,
    uncovered: Vec<Uncovered>,
    complete: Vec<Segment>,
    /// Segments of the checkpoint whose index has to be written again.
    unindexed: Vec<(u64, IndexEntries)>,
    last_log: Option<(u64, u64)>,
    /// Sorted, and without overlaps, after the replay.
    forgets: Vec<(u64, u64)>,
    changes: Changes,
    garbage: Vec<String>,
    damages: Vec<Damage>,
    snapshot_bytes: u64,
    has_reserve: bool,
}

impl<'a> Recovery<'a> {
    fn begin(disk: &'a dyn Disk, directory: &'a Path) -> Result<Self> {
        let names = disk.list(directory).map_err(|error| Error::io("list the files of the store", directory, error))?;
        let mut recovery = Self {
            disk,
            directory,
            checkpoint: Checkpoint::default(),
            logs: BTreeSet::new(),
            uncovered: Vec::new(),
            complete: Vec::new(),
            unindexed: Vec::new(),
            last_log: None,
            forgets: Vec::new(),
            changes: Changes::new(),
            garbage: Vec::new(),
            damages: Vec::new(),
            snapshot_bytes: 0,
            has_reserve: names.iter().any(|name| name == RESERVE),
        };
        recovery.read_checkpoint(&names)?;
        recovery.sort_files(names);
        Ok(recovery)
    }

    fn read_checkpoint(&mut self, names: &[String]) -> Result<()> {
        let path = self.directory.join(checkpoint::FILE_NAME);
        if !names.iter().any(|name| name == checkpoint::FILE_NAME) {
            if let Some(name) = names.iter().find(|name| number_of(name).is_some() && kind_of(name).is_some()) {
                let tried = format!("open the store: it has no checkpoint, but has {name}");
                return Err(Error::damaged(tried, &path));
            }
            // The checkpoint comes first: without one, files of a store are what somebody took the checkpoint away from.
            self.checkpoint = Checkpoint { replay_from: 1, next_number: 1, next_copy: 1, ..Checkpoint::default() };
            return write_checkpoint(self.disk, self.directory, &self.checkpoint);
        }
        let file = read_file(self.disk, &path).map_err(|error| Error::io("read the checkpoint", &path, error))?;
        self.checkpoint = Checkpoint::decode(&file).map_err(|bad| bad_header(bad, "read the checkpoint", &path))?;
        self.changes = self.checkpoint.changes.drain(..).collect();
        Ok(())
    }

    /// Finds the logs that are to be replayed, and removes what the checkpoint does not name.
    fn sort_files(&mut self, names: Vec<String>) {
        let named: BTreeSet<String> = self
            .checkpoint
            .segments
            .iter()
            .flat_map(|segment| [segment.kind.file_name(segment.number), index_name(segment.number)])
            .chain(self.checkpoint.snapshot.map(definitions::snapshot_name))
            .collect();
        for name in names {
            let Some(kind) = kind_of(&name) else { continue };
            let number = number_of(&name).unwrap_or(0);
            self.checkpoint.next_number = self.checkpoint.next_number.max(number.saturating_add(1));
            if kind == FileKind::Log && number >= self.checkpoint.replay_from {
                self.logs.insert(number);
            } else if !named.contains(&name) && self.disk.remove(&self.directory.join(&name)).is_err() {
                self.garbage.push(name);
            }
        }
    }

    /// Reads the log from where the checkpoint leaves off.
    fn replay(&mut self) -> Result<()> {
        let mut headers = BTreeMap::new();
        for number in self.logs.clone() {
            if let Some(header) = self.read_log_header(number)? {
                headers.insert(number, header);
            }
        }
        let ends: BTreeMap<u64, u64> = headers.values().filter_map(|header| header.before).collect();
        for missing in
            ends.keys().filter(|number| **number >= self.checkpoint.replay_from && !headers.contains_key(number))
        {
            let file = self.directory.join(SegmentKind::Log.file_name(*missing));
            let is_named = self.damages.iter().any(|damage| damage.file == file);
            if !is_named {
                self.damages.push(Damage {
                    file,
                    offset: 0,
                    bytes: ends[missing],
                    lost: Lost::Segment { copies: None },
                });
            }
        }
        let mut forgets = Vec::new();
        for (number, header) in &headers {
            let scanned = self.scan_log(*number, header, ends.get(number).copied())?;
            let mut segment = Segment::new(*number, SegmentKind::Log, header.salt, scanned.end);
            let mut has_gaps = false;
            let mut table = Table::default();
            for entry in scanned.entries.iter() {
                has_gaps |= entry.slot as usize != table.len();
                table.push(entry.extent, entry.copies().map(|placement| placement.copy));
            }
            segment.has_gaps = has_gaps;
            let live = Bits::all_set(table.len());
            self.uncovered.push(Uncovered { segment: segment.with_table(table, live), entries: scanned.entries });
            self.last_log = Some((*number, scanned.end));
            forgets
                .extend(scanned.forgets.iter().map(|(first, count)| (*first, first.saturating_add(u64::from(*count)))));
            self.changes.extend(scanned.changes);
        }
        forgets.sort_unstable();
        for (first, end) in forgets {
            match self.forgets.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => self.forgets.push((first, end)),
            }
        }
        Ok(())
    }

    /// The header of a log segment; `None` if the segment holds nothing.
    fn read_log_header(&mut self, number: u64) -> Result<Option<SegmentHeader>> {
        let name = SegmentKind::Log.file_name(number);
        let path = self.directory.join(&name);
        let failed = |error| Error::io("read a segment", &path, error);
        let file = self.disk.open(&path).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        let mut bytes = vec![0; SEGMENT_START as usize];
        let read = file.read_up_to_at(&mut bytes, 0).map_err(failed)?;
        match SegmentHeader::decode(&bytes[..read]) {
            Ok(header) if header.number == number && header.kind == SegmentKind::Log => Ok(Some(header)),
            Err(bad @ BadHeader::Newer(_)) => Err(bad_header(bad, "read a segment", &path)),
            _ if length <= SEGMENT_START => {
                // It was being created.
                self.garbage.push(name);
                Ok(None)
            }
            _ => {
                let kept = self.directory.join(format!("{name}.damaged"));
                self.disk
                    .rename(&path, &kept)
                    .map_err(|error| Error::io("put aside a damaged segment", &path, error))?;
                self.damages.push(Damage {
                    file: path,
                    offset: 0,
                    bytes: length,
                    lost: Lost::Segment { copies: None },
                });
                Ok(None)
            }
        }
    }

    /// `end`: up to where the next segment says that this one is valid.
    fn scan_log(&mut self, number: u64, header: &SegmentHeader, end: Option<u64>) -> Result<Scanned> {
        let path = self.directory.join(SegmentKind::Log.file_name(number));
        let failed = |error| Error::io("read a segment", &path, error);
        let file = self.disk.open(&path).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        let (valid, synced) = end.map_or((length, Synced::PerhapsNotTheLast), |end| (end.min(length), Synced::All));
        let window = Window::new(Arc::clone(&file), valid);
        let mut scanned = scan(&path, window, header.seed(), synced).map_err(failed)?;
        if let Some(end) = end.filter(|end| *end > length) {
            let lost = Lost::Unknown { after: None, before: None };
            scanned.damages.push(Damage { file: path.clone(), offset: length, bytes: end - length, lost });
        }
        for damage in &mut scanned.damages {
            if let Lost::Unfinished { kept } = &mut damage.lost {
                *kept = self.cut(&path, damage.offset, damage.bytes);
            }
        }
        self.damages.extend(scanned.damages.iter().cloned());
        Ok(scanned)
    }

    /// Cuts bytes off the end of a segment, and keeps them beside. If that cannot be done (the disk may be full) they stay
    /// where they are, which does no harm: the next segment says up to where this one is valid.
    fn cut(&self, path: &Path, offset: u64, bytes: u64) -> Option<PathBuf> {
        let kept = cut_path(path);
        let mut content = vec![0; usize::try_from(bytes).ok()?];
        let cut = || {
            let file = self.disk.open(path)?;
            let read = file.read_up_to_at(&mut content, offset)?;
            write_new(self.disk, &kept, &[&content[..read]])?;
            self.disk.sync_directory(self.directory)?;
            file.set_length(offset)?;
            file.sync()
        };
        let mut cut = cut;
        cut().ok().map(|()| kept.clone())
    }

    fn restore_definitions(&mut self, restore: &mut impl Restore) -> Result<()> {
        let snapshot = read_snapshot(self.disk, self.directory, self.checkpoint.snapshot)?;
        self.snapshot_bytes = snapshot.len() as u64;
        definitions::merge(&snapshot, &self.changes, |key, value| restore.definition(key, value)).map_err(|bad| {
            let name = self.checkpoint.snapshot.map(definitions::snapshot_name).unwrap_or_default();
            bad_header(bad, "read the definitions", &self.directory.join(name))
        })
    }

    fn restore_copies(&mut self, restore: &mut impl Restore) -> Result<u64> {
        let mut count = 0;
        let mut forgets = Forgets { ranges: std::mem::take(&mut self.forgets), at: 0 };
        for covered in std::mem::take(&mut self.checkpoint.segments) {
            let Some((mut segment, entries)) = self.load(covered)? else { continue };
            count += give(&mut segment, &entries, &mut forgets, restore);
            self.keep(segment);
        }
        for uncovered in std::mem::take(&mut self.uncovered) {
            let Uncovered { mut segment, entries } = uncovered;
            count += give(&mut segment, &entries, &mut forgets, restore);
            if segment.live_copies > 0 {
                self.unindexed.push((segment.number, entries));
            }
            self.keep(segment);
        }
        Ok(count)
    }

    fn keep(&mut self, segment: Segment) {
        if let Some(last) = segment.table.copies.last() {
            self.checkpoint.next_copy = self.checkpoint.next_copy.max(last.saturating_add(1));
        }
        if segment.live_copies == 0 {
            self.garbage.extend([segment.file_name(), segment.index_name()]);
        } else {
            self.complete.push(segment);
        }
    }

    /// A segment that the checkpoint names, and its index; `None` if it is lost.
    fn load(&mut self, covered: SegmentEntry) -> Result<Option<(Segment, IndexEntries)>> {
        let SegmentEntry { number, kind, salt, length, live } = covered;
        let path = self.directory.join(kind.file_name(number));
        let segment = Segment::new(number, kind, salt, length);
        let index_path = self.directory.join(index_name(number));
        let index_file = read_file(self.disk, &index_path);
        // A full disk may have had no room for it.
        let is_missing = index_file.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let index = index_file
            .ok()
            .and_then(|file| IndexEntries::from_file(file, number, salt, length))
            .filter(|entries| entries.iter().map(|entry| entry.copies().len()).sum::<usize>() == live.len());
        let file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let copies = live.words().iter().map(|word| u64::from(word.count_ones())).sum();
                self.damages.push(Damage {
                    file: path,
                    offset: 0,
                    bytes: length,
                    lost: Lost::Segment { copies: Some(copies) },
                });
                return Ok(None);
            }
            Err(error) => return Err(Error::io("open a segment", &path, error)),
        };
        if let Some(entries) = index {
            let mut table = Table::with_capacity(live.len());
            for entry in entries.iter() {
                table.push(entry.extent, entry.copies().map(|placement| placement.copy));
            }
            return Ok(Some((segment.with_table(table, live), entries)));
        }
        if !is_missing {
            self.damages.push(Damage { file: index_path, offset: 0, bytes: 0, lost: Lost::Nothing });
        }
        let failed = |error| Error::io("read a segment", &path, error);
        let valid = length.min(file.length().map_err(failed)?);
        let scanned = scan(&path, Window::new(file, valid), segment.seed(), Synced::All).map_err(failed)?;
        // What was forgotten or defined in it is in the checkpoint.
        self.damages.extend(
            scanned
                .damages
                .into_iter()
                .filter(|damage| matches!(damage.lost, Lost::Message { .. } | Lost::Unknown { .. })),
        );
        let mut table = Table::default();
        let mut still = Bits::default();
        let mut has_gaps = false;
        for entry in scanned.entries.iter() {
            has_gaps |= entry.slot as usize != table.len();
            for at in 0..entry.copies().len() {
                still.push_set();
                if !live.get(entry.slot as usize + at) {
                    still.clear(still.len() - 1);
                }
            }
            table.push(entry.extent, entry.copies().map(|placement| placement.copy));
        }
        let mut segment = segment.with_table(table, still);
        segment.has_gaps = has_gaps;
        self.unindexed.push((number, scanned.entries.clone()));
        Ok(Some((segment, scanned.entries)))
    }

    fn into_log(self, disk: Arc<dyn Disk>, options: Options, lock: Arc<dyn Send + Sync>) -> Log {
        let catalog = Catalog { complete: self.complete, head: None };
        let has_replayed = self.last_log.is_some() || !self.garbage.is_empty() || !self.unindexed.is_empty();
        Log {
            shared: Arc::new(Shared::new(disk, self.directory.into(), catalog)),
            options,
            head: None,
            last_log: self.last_log,
            next_number: self.checkpoint.next_number,
            next_copy: self.checkpoint.next_copy,
            batch: Batch::new(),
            batch_number: 0,
            appended: 0,
            durable: 0,
            definitions: Definitions::new(self.checkpoint.snapshot, self.snapshot_bytes, self.changes),
            has_reserve: self.has_reserve,
            is_large: false,
            unindexed: self.unindexed,
            garbage: self.garbage,
            dead_since_checkpoint: 0,
            changed_since_checkpoint: has_replayed,
            checkpoint_wanted: has_replayed,
            job_is_running: false,
            damages: self.damages,
            stopped: None,
            lock,
        }
    }
}

/// Forgets what is forgotten since the checkpoint, and gives the rest to `restore`. Returns how many copies that was.
fn give(segment: &mut Segment, entries: &IndexEntries, forgets: &mut Forgets, restore: &mut impl Restore) -> u64 {
    let mut count = 0;
    let number = segment.number;
    let mut slot = 0;
    for entry in entries.iter() {
        for placement in entry.copies() {
            let is_live = segment.live.get(slot);
            slot += 1;
            if !is_live {
                continue;
            }
            if forgets.contains(placement.copy) {
                segment.forget(placement.copy);
                continue;
            }
            count += 1;
            restore.copy(RecoveredCopy {
                placement,
                message: (number, entry.extent.offset),
                header: entry.header,
                body_length: entry.body_length,
            });
        }
    }
    count
}

/// Sorted ranges, asked for ascending ids.
struct Forgets {
    ranges: Vec<(u64, u64)>,
    at: usize,
}

impl Forgets {
    fn contains(&mut self, copy: u64) -> bool {
        while self.ranges.get(self.at).is_some_and(|(_, end)| *end <= copy) {
            self.at += 1;
        }
        self.ranges.get(self.at).is_some_and(|(first, _)| *first <= copy)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Log,
    Other,
}

/// Whether a name is that of a file of a store, but the lock, the checkpoint, and what is kept for a person.
fn kind_of(name: &str) -> Option<FileKind> {
    if name == format!("{}.new", checkpoint::FILE_NAME) {
        return Some(FileKind::Other);
    }
    let (number, extension) = name.split_once('.')?;
    if number.len() < 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match extension {
        "log" => Some(FileKind::Log),
        "pack" | "index" | "definitions" => Some(FileKind::Other),
        _ => None,
    }
}

fn bad_header(bad: BadHeader, tried: &str, path: &Path) -> Error {
    match bad {
        BadHeader::Newer(version) => {
            let tried = format!("{tried}: it has version {version} of the format, which is newer than this program's");
            Error::new(ErrorKind::Newer, tried, path, "use a newer version of the program; nothing was changed")
        }
        BadHeader::Damaged => Error::damaged(format!("{tried}: it is damaged"), path),
    }
}
