//! A directory of the test's own on the machine's disk, and what a real file system has to do with the store.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::store::{ErrorKind, Log, Occasion, Opened, Options, Placement, RecoveredCopy, Restore, Result};

/// Removed when it is dropped.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("homing-store-{}-{count}", std::process::id())))
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Default)]
pub(crate) struct Copies(pub(crate) Vec<u64>);

impl Restore for Copies {
    fn definition(&mut self, _: &[u8], _: &[u8]) {}

    fn copy(&mut self, copy: RecoveredCopy<'_>) {
        self.0.push(copy.placement.copy);
    }
}

pub(crate) fn open(directory: &Path) -> Result<(Log, Opened)> {
    open_with(directory, 64 << 10)
}

pub(crate) fn open_with(directory: &Path, segment_bytes: u64) -> Result<(Log, Opened)> {
    Log::open(directory, Options::default().with_segment_bytes(segment_bytes), &mut Copies::default())
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let directory = Directory::new();
    let (log, _) = open(&directory.0).unwrap();
    let error = open(&directory.0).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let text = error.to_string();
    assert!(text.contains(&format!("process {} has it open", std::process::id())), "{text}");
    drop(log);
    open(&directory.0).unwrap();
}

#[test]
fn a_job_that_outlives_its_log_keeps_the_store_locked() {
    let directory = Directory::new();
    let (mut log, _) = open(&directory.0).unwrap();
    log.put(&[Placement { copy: 1, queue: 1 }], b"", b"body").unwrap();
    log.commit().unwrap();
    let job = log.next_job(Occasion::Idle).unwrap();
    log.close().unwrap();
    assert_eq!(open(&directory.0).map(drop).unwrap_err().kind(), ErrorKind::Locked);
    drop(job.run());
    assert_eq!(open(&directory.0).unwrap().0.live_copies(), 1);
}

#[test]
fn files_and_directory_are_the_owners_only() {
    let directory = Directory::new();
    let path = directory.0.join("a directory/made on the way");
    let (mut log, _) = open(&path).unwrap();
    log.put(&[Placement { copy: 1, queue: 1 }], b"", b"body").unwrap();
    for copy in 2..1000 {
        log.put(&[Placement { copy, queue: 1 }], b"", &[0; 200]).unwrap();
        log.define(&copy.to_le_bytes(), &[0; 100]).unwrap();
        log.commit().unwrap();
        log.forget(copy).unwrap();
    }
    log.upkeep(Occasion::Idle).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut kinds = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
        kinds += 1;
    }
    // Lock, checkpoint, definitions, log, and the segment with the first message.
    assert!(kinds >= 5, "{kinds}");
}

#[test]
fn paths_that_cannot_be_a_store_are_refused_with_what_to_do() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("file");
    std::fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("; "), "{error}");
    }
    // The superuser may write everywhere, but not here.
    let error = open(Path::new("/proc/homing-store")).map(drop).unwrap_err();
    assert!(error.to_string().contains("/proc/homing-store"), "{error}");
    let is_superuser = std::fs::read_dir("/proc/1/fd").is_ok();
    if !is_superuser {
        std::fs::set_permissions(&directory.0, PermissionsExt::from_mode(0o500)).unwrap();
        let error = open(&directory.0).map(drop).unwrap_err();
        std::fs::set_permissions(&directory.0, PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(error.kind(), ErrorKind::NoRights);
        assert!(error.to_string().contains("rights"), "{error}");
    }
}

/// Every tenth message stays, of many times what is live at the end.
#[test]
fn space_comes_back_also_when_every_tenth_message_stays() {
    const SEGMENT: u64 = 64 << 10;
    let directory = Directory::new();
    let (mut log, _) = open_with(&directory.0, SEGMENT).unwrap();
    let body = [7; 1000];
    let mut most: u64 = 0;
    let mut live: u64 = 0;
    for group in 0..200 {
        let first = group * 100 + 1;
        for copy in first..first + 100 {
            log.put(&[Placement { copy, queue: 1 }], b"header", &body).unwrap();
        }
        log.commit().unwrap();
        for copy in (first..first + 100).filter(|copy| copy % 10 != 0) {
            log.forget(copy).unwrap();
        }
        log.commit().unwrap();
        live += 10 * 1054;
        log.upkeep(Occasion::Busy).unwrap();
        let bytes = directory.bytes();
        // With what the indexes have, and a head that is as long as a segment and a batch.
        assert!(bytes <= live * 9 / 4 + 5 * SEGMENT + 110_000, "group {group}: {bytes} bytes for {live} live ones");
        most = most.max(bytes);
    }
    for copy in (10..=20_000).step_by(10) {
        assert_eq!(log.reader().read(copy).unwrap().body.len(), 1000, "{copy}");
    }
    // Packing costs less than writing did.
    for copy in (10..=20_000).step_by(10) {
        log.forget(copy).unwrap();
    }
    log.commit().unwrap();
    log.upkeep(Occasion::Idle).unwrap();
    assert!(directory.bytes() < 3 * SEGMENT, "{} bytes for nothing", directory.bytes());
    log.close().unwrap();
    let (log, opened) = open_with(&directory.0, SEGMENT).unwrap();
    assert_eq!((log.live_copies(), log.next_copy(), opened.damages.len()), (0, 20_001, 0));
    assert!(directory.bytes() < SEGMENT + 1000, "{} bytes for nothing, after a start", directory.bytes());
}

/// Definitions that change for ever do not fill the disk, and cost the same however many there are.
#[test]
fn definitions_that_change_for_ever_take_no_room() {
    let directory = Directory::new();
    let (mut log, _) = open(&directory.0).unwrap();
    for round in 0..200_u32 {
        for key in 0..200_u32 {
            log.define(&((round * 7 + key) % 300).to_le_bytes(), &[0; 200]).unwrap();
        }
        log.commit().unwrap();
        log.upkeep(Occasion::Busy).unwrap();
        assert!(directory.bytes() < 700_000, "{} bytes in round {round}", directory.bytes());
    }
}
