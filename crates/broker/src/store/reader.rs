//! Reads messages back, from any thread, while the log is written.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::catalog::{Catalog, Place};
use super::disk::{Disk, DiskFile};
use super::error::{Error, ErrorKind, Result};
use super::format::{PutMeta, RECORD_HEADER, RecordHeader, RecordKind};

/// How many files are kept open for reading. Connections need descriptors too.
const OPEN_FILES: usize = 32;

/// A message as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredMessage {
    /// The header, as it was given to [`put`](super::Log::put).
    pub header: Bytes,
    /// The body.
    pub body: Bytes,
}

/// What the log and its readers share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    catalog: Mutex<Catalog>,
    /// The most recently used is the last.
    open: Mutex<Vec<(u64, Arc<dyn DiskFile>)>>,
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, directory: PathBuf, catalog: Catalog) -> Self {
        Self { disk, directory, catalog: Mutex::new(catalog), open: Mutex::default() }
    }

    /// Held for as long as a batch takes to be entered into the tables, never during I/O.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, place: &Place) -> std::io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match open.iter().position(|(number, _)| *number == place.number) {
            Some(at) => open.remove(at).1,
            None => self.disk.open(&self.directory.join(&place.file_name))?,
        };
        open.push((place.number, Arc::clone(&file)));
        if open.len() > OPEN_FILES {
            open.remove(0);
        }
        Ok(file)
    }

    /// Closes files that were removed: an open file keeps its space.
    pub(crate) fn close_file(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != number);
    }
}

/// Reads messages of a store by the id of any of their copies. Cheap to clone; usable from every thread.
///
/// A reader keeps the store's tables in memory, but not the store open: after the [`Log`](super::Log) was closed, files
/// may be gone.
#[derive(Clone)]
pub struct Reader(pub(crate) Arc<Shared>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads the message that has this copy. It must have been committed and not be forgotten.
    ///
    /// This reads from the disk, or from the system's cache of it, and may block for as long as that takes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such copy; [`ErrorKind::Damaged`] if the bytes on the disk are not those
    /// that were written (the error names copy, file and offset); else what the operating system reports.
    pub fn read(&self, copy: u64) -> Result<StoredMessage> {
        let mut tried = None;
        loop {
            let place = self.0.catalog().locate(copy);
            let Some(place) = place else {
                let cure = "it was forgotten, or is not committed yet";
                return Err(Error::new(ErrorKind::NotFound, format!("find copy {copy}"), &self.0.directory, cure));
            };
            match self.read_at(copy, &place) {
                Ok(message) => return Ok(message),
                // Guards: the segment was replaced by a pack between the look into the catalog and the opening of the file.
                Err(_) if tried.as_ref() != Some(&place) => tried = Some(place),
                Err(error) => return Err(error),
            }
        }
    }

    fn read_at(&self, copy: u64, place: &Place) -> Result<StoredMessage> {
        let path = self.0.directory.join(&place.file_name);
        let error = |error| Error::io(format!("read copy {copy}"), &path, error);
        let file = self.0.open(place).map_err(error)?;
        let mut record = vec![0; place.extent.length as usize];
        let read = file.read_up_to_at(&mut record, u64::from(place.extent.offset)).map_err(error)?;
        record.truncate(read);
        parse(&record.into(), copy, place).ok_or_else(|| {
            Error::damaged(format!("read copy {copy}: offset {} is damaged", place.extent.offset), &path)
        })
    }
}

/// The message of a record, if it is intact and has this copy.
fn parse(record: &Bytes, copy: u64, place: &Place) -> Option<StoredMessage> {
    let header = RecordHeader::read(record, place.seed, u64::from(place.extent.offset))?;
    if header.kind != RecordKind::Put || header.record_length() != record.len() as u64 {
        return None;
    }
    let body_at = RECORD_HEADER + header.meta_length as usize;
    let meta = &record[RECORD_HEADER..body_at];
    let put = PutMeta::read(meta)?;
    let is_intact = crc32fast::hash(meta) == header.meta_crc && crc32fast::hash(&record[body_at..]) == header.body_crc;
    if !is_intact || !put.copies().any(|placement| placement.copy == copy) {
        return None;
    }
    Some(StoredMessage { header: record.slice(body_at - put.header.len()..body_at), body: record.slice(body_at..) })
}
