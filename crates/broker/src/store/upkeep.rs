//! Checkpoints, index files, and removal of what is not needed: jobs that run beside the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{self, Checkpoint, SegmentEntry};
use super::damage::Damage;
use super::definitions::{self, Changes};
use super::disk::Disk;
use super::error::{Error, Result};
use super::format::SegmentKind;
use super::index_file::IndexEntries;
use super::log::Log;
use super::pack::{PackJob, Packed};
use super::reader::Shared;
use super::segment::{Segment, index_name};

/// A head of which this much is dead is completed when the broker is idle, so that its space comes back.
const DEAD_HEAD: u64 = 1 << 20;

/// A file without meaning: room for a checkpoint when the disk is full. It is as long as a segment, but no longer than this, and
/// there only in a store of which a segment has been full.
pub(crate) const RESERVE: &str = "reserve";
const LONGEST_RESERVE: u64 = 1 << 20;

/// When a [`Job`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occasion {
    /// While messages come and go: only what is due.
    Busy,
    /// When nothing has happened for some time: also what is worth doing then.
    Idle,
}

/// Work on files that are complete. It can run on another thread while the [`Log`] appends and commits.
#[derive(Debug)]
pub struct Job(Work);

#[derive(Debug)]
enum Work {
    Checkpoint(Box<CheckpointJob>),
    Pack(PackJob),
}

/// A [`Job`] that was run, to be given to [`Log::finish_job`].
#[derive(Debug)]
pub struct FinishedJob(Finished);

#[derive(Debug)]
enum Finished {
    Checkpoint(Box<CheckpointJob>, Result<()>),
    Pack(PackJob, Result<Packed>),
}

impl Job {
    /// Runs the job. It may take as long as reading and writing some segments does.
    #[must_use]
    pub fn run(self) -> FinishedJob {
        FinishedJob(match self.0 {
            Work::Checkpoint(mut job) => {
                let result = job.run();
                Finished::Checkpoint(job, result)
            }
            Work::Pack(job) => {
                let result = job.run();
                Finished::Pack(job, result)
            }
        })
    }
}

/// An index file that is to be written.
#[derive(Debug)]
struct Index {
    number: u64,
    salt: u64,
    segment_length: u64,
    entries: IndexEntries,
}

#[derive(Debug)]
struct Snapshot {
    number: u64,
    old: Option<u64>,
    changes: Changes,
    length: u64,
}

struct CheckpointJob {
    shared: Arc<Shared>,
    /// Guards: a job that is run after its log is gone, when another process has opened the store, would put an old checkpoint
    /// in the place of a newer one. So a job holds the lock too.
    _lock: Arc<dyn Send + Sync>,
    indexes: Vec<Index>,
    snapshot: Option<Snapshot>,
    checkpoint: Checkpoint,
    garbage: Vec<String>,
    /// Bytes of the reserve that is to be made, if any.
    reserve: u64,
}

impl std::fmt::Debug for CheckpointJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointJob").field("replay_from", &self.checkpoint.replay_from).finish_non_exhaustive()
    }
}

impl CheckpointJob {
    fn run(&mut self) -> Result<()> {
        let disk = &*self.shared.disk;
        let directory = &self.shared.directory;
        for index in &self.indexes {
            let path = directory.join(index_name(index.number));
            let header = index.entries.file_header(index.number, index.salt, index.segment_length);
            write_new(disk, &path, &[&header, index.entries.bytes()])
                .map_err(|error| Error::io("write the index of a segment", &path, error))?;
        }
        if let Some(snapshot) = &mut self.snapshot {
            let path = directory.join(definitions::snapshot_name(snapshot.number));
            let old = read_snapshot(disk, directory, snapshot.old)?;
            let file = definitions::merged_file(&old, &snapshot.changes)
                .map_err(|_| Error::damaged("read the definitions", &path))?;
            snapshot.length = file.len() as u64;
            write_new(disk, &path, &[&file]).map_err(|error| Error::io("write the definitions", &path, error))?;
        }
        write_checkpoint(disk, directory, &self.checkpoint)?;
        self.garbage.retain(|name| {
            // What cannot be removed now may be removed with the next checkpoint.
            let removed = disk.remove(&directory.join(name));
            if let Some(number) = number_of(name) {
                // Guards: after the removal, so that no reader opens the file again. An open file would keep its space.
                self.shared.close_file(number);
            }
            removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        });
        if self.reserve > 0 {
            let path = directory.join(RESERVE);
            // Not synced: it is for the running program, and a disk that is full already has no room for it.
            let make = || disk.create(&path)?.write_all_at(&vec![0; self.reserve as usize], 0);
            if make().is_err() {
                let _ = disk.remove(&path);
                self.reserve = 0;
            }
        }
        Ok(())
    }
}

/// The number with which the name of a file begins.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    name.split_once('.')?.0.parse().ok()
}

/// Reads the file of a snapshot; nothing if there is none.
pub(crate) fn read_snapshot(disk: &dyn Disk, directory: &Path, number: Option<u64>) -> Result<Vec<u8>> {
    let Some(number) = number else { return Ok(Vec::new()) };
    let path = directory.join(definitions::snapshot_name(number));
    read_file(disk, &path).map_err(|error| Error::io("read the definitions", &path, error))
}

pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(usize::MAX)];
    let read = file.read_up_to_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a file, durably but for its name. What an earlier attempt left is removed: no file is synced again after a failure.
pub(crate) fn write_new(disk: &dyn Disk, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(path)?;
    let mut offset = 0;
    for part in parts {
        file.write_all_at(part, offset)?;
        offset += part.len() as u64;
    }
    file.sync()
}

/// Puts a checkpoint in the place of the old one, durably, after the names of all files that it refers to are durable.
pub(crate) fn write_checkpoint(disk: &dyn Disk, directory: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let path = directory.join(checkpoint::FILE_NAME);
    let new = directory.join(format!("{}.new", checkpoint::FILE_NAME));
    let write = || {
        disk.sync_directory(directory)?;
        write_new(disk, &new, &[&checkpoint.encode()])?;
        disk.rename(&new, &path)?;
        disk.sync_directory(directory)
    };
    write().map_err(|error| Error::io("write the checkpoint", &path, error))
}

impl Log {
    /// Work that is due, if there is any and none is under way. It must be run and given to
    /// [`finish_job`](Self::finish_job).
    pub fn next_job(&mut self, occasion: Occasion) -> Option<Job> {
        if self.job_is_running || self.stopped.is_some() {
            return None;
        }
        if occasion == Occasion::Idle {
            self.complete_dead_head();
        }
        let is_due = self.checkpoint_wanted || self.dead_since_checkpoint >= self.options.segment_bytes * 2;
        let work = if is_due || occasion == Occasion::Idle && self.changed_since_checkpoint {
            Work::Checkpoint(Box::new(self.checkpoint_job()))
        } else {
            Work::Pack(self.pack_job(occasion)?)
        };
        self.job_is_running = true;
        Some(Job(work))
    }

    /// Takes what a job has done. Returns damage that it met.
    ///
    /// # Errors
    /// Why the job failed. Nothing is lost by that: the files of before still count. A job for the same work is returned by
    /// [`next_job`](Self::next_job) again.
    pub fn finish_job(&mut self, job: FinishedJob) -> Result<Vec<Damage>> {
        self.job_is_running = false;
        match job.0 {
            Finished::Checkpoint(job, result) => self.finish_checkpoint(*job, result).map(|()| Vec::new()),
            Finished::Pack(job, result) => self.finish_pack(&job, result),
        }
    }

    /// Does all work that is due, on this thread.
    ///
    /// # Errors
    /// As [`finish_job`](Self::finish_job), of the first that fails.
    pub fn upkeep(&mut self, occasion: Occasion) -> Result<Vec<Damage>> {
        let mut damages = Vec::new();
        while let Some(job) = self.next_job(occasion) {
            damages.extend(self.finish_job(job.run())?);
        }
        Ok(damages)
    }

    /// Commits what is pending, and writes a checkpoint, so that the next start has nothing to replay. A job that is under way
    /// should be finished before: there is no checkpoint otherwise.
    ///
    /// # Errors
    /// As [`commit`](Self::commit) and [`finish_job`](Self::finish_job). What was durable is so in any case.
    pub fn close(mut self) -> Result<()> {
        self.commit()?;
        self.complete_head();
        // A job that is under way would put its older checkpoint in the place of this one.
        let is_due = self.checkpoint_wanted || self.changed_since_checkpoint;
        if is_due && !self.job_is_running {
            let job = Job(Work::Checkpoint(Box::new(self.checkpoint_job())));
            self.finish_job(job.run())?;
        }
        Ok(())
    }

    /// Removes what is dead by as small a checkpoint as there can be: one that needs no new index files. Returns whether
    /// anything was removed. For a disk that is full of what was forgotten.
    pub(crate) fn give_back_garbage(&mut self) -> bool {
        if self.job_is_running || self.garbage.is_empty() {
            return false;
        }
        // A start reads a segment without an index from its own bytes. The next checkpoint that has room makes the index.
        let unindexed = std::mem::take(&mut self.unindexed);
        let mut job = self.checkpoint_job();
        self.unindexed = unindexed;
        self.checkpoint_wanted = true;
        job.reserve = 0;
        if self.has_reserve {
            self.has_reserve = self.shared.disk.remove(&self.shared.directory.join(RESERVE)).is_err();
        }
        let before = job.garbage.len();
        let result = job.run();
        let is_something_removed = result.is_ok() && job.garbage.len() < before;
        self.finish_checkpoint(job, result).is_ok() && is_something_removed
    }

    fn complete_dead_head(&mut self) {
        let is_dead = self
            .shared
            .catalog()
            .head
            .as_ref()
            .is_some_and(|head| head.length - head.live_bytes.min(head.length) > DEAD_HEAD.max(head.live_bytes));
        // What is pending would otherwise begin a new head at once.
        if is_dead && self.batch.is_empty() {
            self.complete_head();
        }
    }

    fn checkpoint_job(&mut self) -> CheckpointJob {
        let snapshot = self.definitions.wants_snapshot().then(|| {
            let number = self.next_number;
            self.next_number += 1;
            Snapshot { number, old: self.definitions.snapshot, changes: self.definitions.settle(), length: 0 }
        });
        let catalog = self.shared.catalog();
        let find = |number: u64| catalog.complete.iter().find(|segment| segment.number == number);
        let indexes = std::mem::take(&mut self.unindexed)
            .into_iter()
            .filter_map(|(number, entries)| {
                let Segment { salt, length, .. } = find(number)?;
                Some(Index { number, salt: *salt, segment_length: *length, entries })
            })
            .collect();
        let entry = |segment: &Segment| SegmentEntry {
            number: segment.number,
            kind: segment.kind,
            salt: segment.salt,
            length: segment.length,
            live: segment.live.clone(),
        };
        let checkpoint = Checkpoint {
            replay_from: catalog.head.as_ref().map_or(self.next_number, |head| head.number),
            next_number: self.next_number,
            next_copy: self.next_copy,
            snapshot: snapshot.as_ref().map(|snapshot| snapshot.number).or(self.definitions.snapshot),
            changes: self.definitions.changes.clone().into_iter().collect(),
            segments: catalog.complete.iter().map(entry).collect(),
        };
        let reserve =
            if self.is_large && !self.has_reserve { self.options.segment_bytes.min(LONGEST_RESERVE) } else { 0 };
        drop(catalog);
        if let (Some(_), Some(old)) = (&snapshot, self.definitions.snapshot) {
            self.garbage.push(definitions::snapshot_name(old));
        }
        self.checkpoint_wanted = false;
        self.changed_since_checkpoint = false;
        self.dead_since_checkpoint = 0;
        let garbage = std::mem::take(&mut self.garbage);
        let (shared, lock) = (Arc::clone(&self.shared), Arc::clone(&self.lock));
        CheckpointJob { shared, _lock: lock, indexes, snapshot, checkpoint, garbage, reserve }
    }

    fn finish_checkpoint(&mut self, job: CheckpointJob, result: Result<()>) -> Result<()> {
        self.garbage.extend(job.garbage);
        if result.is_ok() {
            self.has_reserve |= job.reserve > 0;
            if let Some(snapshot) = job.snapshot {
                self.definitions.settled(snapshot.number, snapshot.length);
            }
            return Ok(());
        }
        // Guards: the checkpoint may have been renamed before the directory could not be synced. So everything that
        // either of the two names stays until a later one is durable.
        if let Some(snapshot) = job.snapshot {
            self.garbage.retain(|name| snapshot.old.is_none_or(|old| *name != definitions::snapshot_name(old)));
            self.garbage.push(definitions::snapshot_name(snapshot.number));
            self.definitions.unsettle();
        }
        self.unindexed.extend(job.indexes.into_iter().map(|index| (index.number, index.entries)));
        self.checkpoint_wanted = true;
        result
    }

    fn pack_job(&mut self, occasion: Occasion) -> Option<PackJob> {
        let catalog = self.shared.catalog();
        let segment = self.options.segment_bytes;
        // What is mostly dead while messages come and go is often about to be dead altogether: then its copy is for nothing.
        let slack = if occasion == Occasion::Idle { segment / 8 } else { segment * 2 };
        let run = catalog.choose_pack(segment, slack)?;
        let number = self.next_number;
        self.next_number += 1;
        Some(PackJob::new(&self.shared, &self.lock, number, &catalog.complete[run]))
    }

    fn finish_pack(&mut self, job: &PackJob, result: Result<Packed>) -> Result<Vec<Damage>> {
        let own_files = [SegmentKind::Pack.file_name(job.number), index_name(job.number)];
        let mut packed = match result {
            Ok(packed) => packed,
            Err(error) => {
                self.garbage.extend(own_files);
                return Err(error);
            }
        };
        let mut catalog = self.shared.catalog();
        let victims = job.victims();
        let pack = packed.segment(job, |copy| catalog.is_live(copy));
        if pack.live_copies == 0 {
            self.garbage.extend(own_files);
        }
        for gone in catalog.replace(&victims, pack) {
            self.garbage.extend([gone.file_name(), gone.index_name()]);
        }
        self.checkpoint_wanted = true;
        Ok(packed.damages)
    }
}

/// Where bytes that were cut from a file are kept.
pub(crate) fn cut_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".cut");
    name.into()
}
