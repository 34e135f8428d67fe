//! A disk in memory that knows what was synced, fails on demand, and loses what may be lost when the power goes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::disk::{Disk, DiskFile};

/// Smaller than a disk's, so that small tests have many.
pub(crate) const SECTOR: usize = 64;

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails; a write or sync may have had an effect nevertheless.
    Fail(io::ErrorKind),
    /// A write writes a part and succeeds; anything else is not affected.
    Short,
    /// It and everything after it fails, until [`SimulatedDisk::heal`].
    FailOn(io::ErrorKind),
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed: the system still has everything that was written.
    Kill,
    /// The power is lost: of what was not synced any part may be there.
    Power,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    sync_failed: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    is_failing: Option<io::ErrorKind>,
    trace: Vec<String>,
    capacity: Option<usize>,
    hidden: Option<String>,
    synced_after_failure: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

impl Inode {
    fn apply(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(at, bytes) => {
                if content.len() < at + bytes.len() {
                    content.resize(at + bytes.len(), 0);
                }
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length(length) => content.resize(*length, 0),
        }
    }

    fn change(&mut self, change: Change) {
        Self::apply(&mut self.current, &change);
        self.pending.push(change);
    }

    fn after_power_loss(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.durable.clone();
        // Everything, nothing, or each sector for itself.
        let mood = random.u8(0..4);
        let chance = *random.choice(&[1, 5, 9]).unwrap_or(&5);
        for change in &self.pending {
            match (mood, change) {
                (0, _) => Self::apply(&mut content, change),
                (1, _) => {}
                (_, Change::Write(at, bytes)) => {
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.u8(0..10) < chance {
                            Self::apply(&mut content, &Change::Write(at + index * SECTOR, sector.to_vec()));
                        }
                    }
                }
                (_, Change::Length(_)) if random.bool() => Self::apply(&mut content, change),
                _ => {}
            }
        }
        content
    }
}

impl State {
    /// Counts an operation, and fails it if it is its turn.
    fn operation(&mut self, what: &str) -> io::Result<Option<Fault>> {
        self.operations += 1;
        self.trace.push(what.into());
        if let Some(kind) = self.is_failing {
            return Err(kind.into());
        }
        match self.fault {
            Some((at, fault)) if at == self.operations => {
                self.fault = None;
                if let Fault::FailOn(kind) = fault {
                    self.is_failing = Some(kind);
                }
                Ok(Some(fault))
            }
            _ => Ok(None),
        }
    }

    /// An operation that has no effect when it fails.
    fn plain(&mut self, what: &str) -> io::Result<()> {
        match self.operation(what)? {
            Some(Fault::Fail(kind) | Fault::FailOn(kind)) => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn rename_durably(names: &mut BTreeMap<String, usize>, change: &NameChange) {
        match change {
            NameChange::Set(name, inode) => drop(names.insert(name.clone(), *inode)),
            NameChange::Remove(name) => drop(names.remove(name)),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        Self::rename_durably(&mut self.names, &change);
        self.pending_names.push(change);
    }
}

impl SimulatedDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn fail_at(&self, operation: u64, fault: Fault) {
        self.state().fault = Some((operation, fault));
    }

    /// The `count`th operation from now fails.
    pub(crate) fn fail_in(&self, count: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.operations + count, fault));
    }

    /// All files together can have so many bytes.
    pub(crate) fn set_capacity(&self, bytes: usize) {
        self.state().capacity = Some(bytes);
    }

    /// The next attempt to open a file of this name finds none.
    pub(crate) fn hide_once(&self, name: &str) {
        self.state().hidden = Some(name.into());
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.fault = None;
        state.is_failing = None;
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Whether a file was synced after a sync of it had failed.
    pub(crate) fn synced_after_failure(&self) -> bool {
        self.state().synced_after_failure
    }

    /// The disk as it is found after a crash. This one is not changed.
    pub(crate) fn after(&self, crash: Crash, random: &mut fastrand::Rng) -> Self {
        let state = self.state();
        let mut names = state.durable_names.clone();
        let mood = random.u8(0..3);
        for change in &state.pending_names {
            let happened = mood == 0 || mood == 2 && random.bool();
            if crash == Crash::Kill || happened {
                State::rename_durably(&mut names, change);
            }
        }
        let inodes = state.inodes.iter().map(|inode| {
            let content = match crash {
                Crash::Kill => inode.current.clone(),
                Crash::Power => inode.after_power_loss(random),
            };
            Inode { current: content.clone(), durable: content, ..Inode::default() }
        });
        let inodes = inodes.collect();
        Self(Arc::new(Mutex::new(State { inodes, durable_names: names.clone(), names, ..State::default() })))
    }

    /// The disk after loss of power, of which every sector that was written to `name` and not synced is there if `is_there`
    /// of its number, counted from 0.
    pub(crate) fn with_sectors(&self, name: &str, is_there: impl Fn(usize) -> bool) -> Self {
        let disk = self.after(Crash::Kill, &mut fastrand::Rng::new());
        let state = self.state();
        let inode = &state.inodes[state.names[name]];
        let mut content = inode.durable.clone();
        let mut number = 0;
        for change in &inode.pending {
            let Change::Write(at, bytes) = change else { continue };
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if is_there(number) {
                    Inode::apply(&mut content, &Change::Write(at + index * SECTOR, sector.to_vec()));
                }
                number += 1;
            }
        }
        disk.edit(name, |bytes| *bytes = content);
        disk
    }

    pub(crate) fn copy(&self) -> Self {
        self.after(Crash::Kill, &mut fastrand::Rng::with_seed(0))
    }

    pub(crate) fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].current.len())).collect()
    }

    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        edit(&mut inode.current);
        inode.durable.clone_from(&inode.current);
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().into()
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let name = name(path);
        let mut state = self.state();
        state.plain(&format!("create {name}"))?;
        if state.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change_name(NameChange::Set(name.clone(), inode));
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, name }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let name = name(path);
        let mut state = self.state();
        if state.hidden.take_if(|hidden| *hidden == name).is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = *state.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, name }))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (name(from), name(to));
        let mut state = self.state();
        state.plain(&format!("rename {from}"))?;
        let inode = *state.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
        // Both or none of the two, but for the order: the old name may be there still.
        state.change_name(NameChange::Set(to, inode));
        state.change_name(NameChange::Remove(from));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = name(path);
        let mut state = self.state();
        if !state.names.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.plain(&format!("remove {name}"))?;
        state.change_name(NameChange::Remove(name));
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.plain("sync directory")?;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Arc<dyn Send + Sync>> {
        Ok(Arc::new(()))
    }

    fn room(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
    name: String,
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let fault = state.operation(&format!("write {}", self.name))?;
        if let Some(capacity) = state.capacity {
            let used: usize = state.names.values().map(|inode| state.inodes[*inode].current.len()).sum();
            let growth = (offset as usize + bytes.len()).saturating_sub(state.inodes[self.inode].current.len());
            let missing = (used + growth).saturating_sub(capacity);
            if missing >= bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if missing > 0 {
                let written = bytes.len() - missing;
                state.inodes[self.inode].change(Change::Write(offset as usize, bytes[..written].to_vec()));
                return Ok(written);
            }
        }
        let inode = &mut state.inodes[self.inode];
        let written = if fault.is_some() { bytes.len() / 2 } else { bytes.len() };
        inode.change(Change::Write(offset as usize, bytes[..written].to_vec()));
        match fault {
            Some(Fault::Fail(kind) | Fault::FailOn(kind)) => Err(kind.into()),
            Some(Fault::Short) if written == 0 && !bytes.is_empty() => {
                inode.change(Change::Write(offset as usize, bytes.to_vec()));
                Ok(bytes.len())
            }
            _ => Ok(written),
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = &state.inodes[self.inode].current;
        let content = content.get(offset as usize..).unwrap_or_default();
        let length = content.len().min(bytes.len());
        bytes[..length].copy_from_slice(&content[..length]);
        Ok(length)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let fault = state.operation(&format!("sync {}", self.name));
        let inode = &mut state.inodes[self.inode];
        match fault {
            Ok(Some(Fault::Fail(kind) | Fault::FailOn(kind))) => {
                inode.sync_failed = true;
                Err(kind.into())
            }
            Ok(_) => {
                // As Linux does: what could not be written is forgotten, and the next sync succeeds without it.
                if !inode.sync_failed {
                    inode.durable.clone_from(&inode.current);
                    inode.pending.clear();
                }
                let again = inode.sync_failed;
                state.synced_after_failure |= again;
                Ok(())
            }
            Err(error) => {
                inode.sync_failed = true;
                Err(error)
            }
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.plain(&format!("set the length of {}", self.name))?;
        state.inodes[self.inode].change(Change::Length(length as usize));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].current.len() as u64)
    }
}
