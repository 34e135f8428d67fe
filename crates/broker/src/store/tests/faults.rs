//! Every operation on the disk fails once, in every way: what was confirmed is there.

use std::io;

use super::model::{Content, Opening, Operation, append, open, random_operation};
use super::simulated_disk::{Crash, Fault, SimulatedDisk};
use crate::store::{ErrorKind, Log, Lost, Occasion, Placement};

/// How many operations on the disk the work below takes, if nothing fails.
fn operations() -> u64 {
    let disk = SimulatedDisk::default();
    work(&disk, &mut fastrand::Rng::with_seed(9), None);
    disk.operations()
}

/// Opens a store, works on it, goes on after errors, and checks after a crash, or after the end, that all is there.
fn work(disk: &SimulatedDisk, random: &mut fastrand::Rng, crash: Option<Crash>) {
    let mut opening = open(disk);
    if opening.is_err() {
        disk.heal();
        opening = open(disk);
    }
    let Opening { mut log, mut content, .. } = opening.unwrap();
    let mut operations = fastrand::Rng::with_seed(4);
    for step in 0..40 {
        let mut pending = Vec::new();
        for _ in 0..operations.usize(1..6) {
            let operation = random_operation(&mut operations, &content.after(&pending), log.next_copy());
            append(&mut log, &operation);
            pending.push(operation);
        }
        if let Err(error) = log.commit() {
            assert!(matches!(error.kind(), ErrorKind::NoRoom | ErrorKind::Io), "{error}");
            assert_eq!(log.commit().unwrap_err().kind(), ErrorKind::Stopped);
            assert_eq!(log.forget(1).unwrap_err().kind(), ErrorKind::Stopped);
            if let Some(crash) = crash {
                return check(&disk.after(crash, random), &[&content, &content.after(&pending)]);
            }
            let mut attempts = 0;
            while log.resume().is_err() {
                attempts += 1;
                assert!(log.stopped().is_some());
                if attempts > 3 {
                    disk.heal();
                }
            }
            assert!(log.stopped().is_none());
        }
        content = content.after(&pending);
        if step % 7 == 3 && log.upkeep(Occasion::Idle).is_err() {
            check(&disk.after(Crash::Power, random), &[&content]);
            disk.heal();
            log.upkeep(Occasion::Idle).unwrap();
        }
    }
    match crash {
        Some(crash) => check(&disk.after(crash, random), &[&content]),
        None if log.close().is_err() => {
            disk.heal();
            check(&disk.after(Crash::Power, random), &[&content]);
        }
        None => check(disk, &[&content]),
    }
    assert!(!disk.synced_after_failure(), "a file was synced after a sync of it had failed: {:?}", disk.trace());
}

fn commit(log: &mut Log, content: &mut Content, operations: &[Operation]) {
    operations.iter().for_each(|operation| append(log, operation));
    log.commit().unwrap();
    *content = content.after(operations);
}

fn check(disk: &SimulatedDisk, allowed: &[&Content]) {
    let opening = open(disk).unwrap();
    let is_torn = opening.damages.iter().any(|damage| damage.to_string().contains("damaged"));
    assert!(
        allowed.len() > 1 || opening.damages.iter().all(|damage| damage.lost == Lost::Nothing),
        "{:?}",
        opening.damages
    );
    let is_allowed = allowed.iter().any(|content| content.plain() == opening.content.plain());
    assert!(is_allowed || is_torn && allowed.len() > 1, "{:?}", opening.damages);
}

fn fail_each(every: usize) {
    let count = operations();
    assert!(count > 150, "{count}");
    for at in (1..=count).step_by(every) {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            for fault in [Fault::Fail(kind), Fault::FailOn(kind), Fault::Short] {
                for crash in [None, Some(Crash::Kill), Some(Crash::Power)] {
                    let disk = SimulatedDisk::default();
                    disk.fail_at(at, fault);
                    let run = || work(&disk, &mut fastrand::Rng::with_seed(at), crash);
                    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                        eprintln!("operation {at} ({:?}), {fault:?}, {crash:?}", disk.trace().get(at as usize - 1));
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_confirmed_is_lost_when_an_operation_fails() {
    fail_each(11);
}

#[test]
#[ignore = "a minute"]
fn nothing_confirmed_is_lost_whichever_operation_fails_in_full() {
    fail_each(1);
}

/// Packs, index files, a snapshot of definitions and checkpoints, with loss of power at each operation of their making.
#[test]
fn upkeep_that_is_cut_anywhere_loses_nothing() {
    let mut at = 1;
    loop {
        let disk = SimulatedDisk::default();
        let Opening { mut log, mut content, .. } = open(&disk).unwrap();
        for first in (1..200).step_by(10) {
            let put = |copy| Operation::Put(vec![Placement { copy, queue: 1 }], vec![], vec![copy as u8; 120]);
            commit(&mut log, &mut content, &(first..first + 10).map(put).collect::<Vec<_>>());
        }
        // One snapshot of definitions before, and another that is due.
        let define = |key: u32, length| Operation::Define(key.to_le_bytes().to_vec(), vec![key as u8; length]);
        commit(&mut log, &mut content, &(0..17).map(|key| define(key, 4000)).collect::<Vec<_>>());
        log.upkeep(Occasion::Busy).unwrap();
        commit(
            &mut log,
            &mut content,
            &(1..200).filter(|copy| copy % 9 != 0).map(Operation::Forget).collect::<Vec<_>>(),
        );
        commit(&mut log, &mut content, &(10..60).map(|key| define(key, 4000)).collect::<Vec<_>>());
        disk.fail_in(at, Fault::FailOn(io::ErrorKind::Other));
        let is_cut = log.upkeep(Occasion::Idle).is_err();
        for seed in 0..6 {
            check(&disk.after(Crash::Power, &mut fastrand::Rng::with_seed(seed)), &[&content]);
        }
        if !is_cut {
            break;
        }
        disk.heal();
        // Again, in the same process, and the new snapshot is not due any more; and then the power goes.
        commit(&mut log, &mut content, &(10..59).map(|key| define(key, 1)).collect::<Vec<_>>());
        log.upkeep(Occasion::Idle).unwrap();
        check(&disk.after(Crash::Power, &mut fastrand::Rng::with_seed(at)), &[&content]);
        // A start removes what no checkpoint names: there is nothing.
        let copy = disk.copy();
        drop(open(&copy).unwrap());
        assert_eq!(copy.files(), disk.files());
        at += 1;
    }
    assert!(at > 20, "{at} operations");
}

#[test]
fn a_head_whose_sync_failed_while_going_on_is_not_used_either() {
    let disk = SimulatedDisk::default();
    let Opening { mut log, mut content, .. } = open(&disk).unwrap();
    let put = |copy| Operation::Put(vec![Placement { copy, queue: 1 }], vec![], vec![1; 500]);
    // A segment that is dead, and could be given back.
    commit(&mut log, &mut content, &(1..20).map(put).collect::<Vec<_>>());
    commit(&mut log, &mut content, &[put(20)]);
    commit(&mut log, &mut content, &(1..20).map(Operation::Forget).collect::<Vec<_>>());
    append(&mut log, &put(21));
    disk.fail_in(2, Fault::Fail(io::ErrorKind::StorageFull));
    assert_eq!(log.commit().unwrap_err().kind(), ErrorKind::NoRoom);
    // Each operation of going on, among them the sync of the first batch in the segment that takes its place.
    let before = disk.trace().len();
    for at in 1..12 {
        disk.fail_in(at, Fault::Fail(io::ErrorKind::StorageFull));
        let _ = log.resume();
        if log.stopped().is_none() {
            let next = put(log.next_copy());
            append(&mut log, &next);
            disk.fail_in(2, Fault::Fail(io::ErrorKind::StorageFull));
            assert!(log.commit().is_err());
        }
    }
    disk.heal();
    log.resume().unwrap();
    assert!(!disk.synced_after_failure(), "{:?}", &disk.trace()[before..]);
    let last = log.next_copy();
    content = content.after(&(21..last).map(put).collect::<Vec<_>>());
    check(&disk.after(Crash::Power, &mut fastrand::Rng::with_seed(1)), &[&content]);
}

/// A segment is removed between the look into the catalog and the opening of its file: its pack has the message.
#[test]
fn a_reader_looks_again_when_a_file_is_gone() {
    let disk = SimulatedDisk::default();
    let Opening { mut log, mut content, .. } = open(&disk).unwrap();
    let put = Operation::Put(vec![Placement { copy: 1, queue: 1 }], vec![], b"body".to_vec());
    commit(&mut log, &mut content, &[put]);
    disk.hide_once("00000001.log");
    assert_eq!(log.reader().read(1).unwrap().body, "body");
}

/// Nothing but what was forgotten fills the disk, and no checkpoint was due or could be written.
#[test]
fn a_disk_that_is_full_of_what_was_forgotten_is_emptied_by_going_on() {
    let disk = SimulatedDisk::default();
    let Opening { mut log, mut content, .. } = open(&disk).unwrap();
    disk.set_capacity(100_000);
    let mut times = 0;
    for copy in 1..3000 {
        let mut operations =
            vec![Operation::Put(vec![Placement { copy, queue: 1 }], b"header".to_vec(), vec![copy as u8; 200])];
        // Two of three hundred stay.
        if copy > 10 && copy % 150 != 0 {
            operations.push(Operation::Forget(copy - 10));
        }
        operations.iter().for_each(|operation| append(&mut log, operation));
        if log.commit().is_err() {
            times += 1;
            log.resume().unwrap();
        }
        content = content.after(&operations);
        if copy % 300 == 60 {
            log.upkeep(Occasion::Busy).unwrap();
        }
        if copy % 500 == 0 {
            check(&disk.after(Crash::Power, &mut fastrand::Rng::with_seed(copy)), &[&content]);
        }
    }
    assert!(times >= 3, "the disk was full {times} times");
    check(&disk, &[&content]);
}

#[test]
fn a_full_disk_stops_the_store_and_it_goes_on_when_there_is_room() {
    let disk = SimulatedDisk::default();
    let Opening { mut log, .. } = open(&disk).unwrap();
    let copy = |copy| [Placement { copy, queue: 1 }];
    log.put(&copy(1), b"", b"confirmed").unwrap();
    log.commit().unwrap();
    disk.fail_in(1, Fault::FailOn(io::ErrorKind::StorageFull));
    log.put(&copy(2), b"", b"waits").unwrap();
    let error = log.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRoom);
    assert!(error.to_string().contains("make room"), "{error}");
    let error = log.put(&copy(3), b"", b"refused").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped);
    assert!(error.to_string().contains("no storage space"), "{error}");
    for _ in 0..3 {
        assert_eq!(log.resume().unwrap_err().kind(), ErrorKind::NoRoom);
    }
    assert_eq!(log.reader().read(1).unwrap().body, "confirmed");
    disk.heal();
    log.resume().unwrap();
    log.put(&copy(3), b"", b"later").unwrap();
    log.commit().unwrap();
    drop(log);
    let found = open(&disk).unwrap();
    assert_eq!(found.content.copies.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(found.damages, []);
}
