//! Cut and damaged files: nothing is lost but what is named.

use std::collections::BTreeSet;
use std::io;

use super::model::{Content, Opening, Operation, append, names, open, open_with, random_operation};
use super::simulated_disk::{Fault, SECTOR, SimulatedDisk};
use crate::store::{ErrorKind, Log, Lost, Occasion, Placement};

const LARGE: u64 = 1 << 20;

fn put(copy: u64, body: &[u8]) -> Operation {
    Operation::Put(vec![Placement { copy, queue: 1 }], b"header".to_vec(), body.to_vec())
}

fn commit(log: &mut Log, content: &mut Content, operations: &[Operation]) {
    operations.iter().for_each(|operation| append(log, operation));
    log.commit().unwrap();
    *content = content.after(operations);
}

/// A message moves from one queue to another in a batch of which only some sectors reach the disk.
#[test]
fn a_message_that_moves_is_never_in_no_queue_whichever_sectors_are_written() {
    let disk = SimulatedDisk::default();
    let mut log = open(&disk).unwrap().log;
    let mut before = Content::default();
    commit(&mut log, &mut before, &[put(1, b"moves"), put(2, b"stays")]);
    for operation in [Operation::Forget(1), put(3, &[7; 200]), Operation::Define(b"k".to_vec(), vec![8; 150])] {
        append(&mut log, &operation);
    }
    disk.fail_in(2, Fault::FailOn(io::ErrorKind::Other));
    assert!(log.commit().is_err());
    let sectors = (44 + 254 + 179 + 40_usize).div_ceil(SECTOR);
    let mut seen = BTreeSet::new();
    for subset in 0..1_u32 << sectors {
        let torn = disk.with_sectors("00000001.log", |sector| subset >> sector & 1 == 1);
        let mut found = Opening { log: open(&SimulatedDisk::default()).unwrap().log, ..open(&torn).unwrap() }.content;
        let (old, new) = (found.copies.contains_key(&1), found.copies.contains_key(&3));
        assert!(old || new, "sectors {subset:b}: the message is gone");
        assert!(found.copies.contains_key(&2));
        seen.insert((old, new));
        // What was decided once is decided the same way again, also when something was written behind it.
        let mut again = open(&torn).unwrap();
        assert_eq!(again.content, found, "sectors {subset:b}");
        assert_eq!(again.damages, [], "sectors {subset:b}");
        let next = put(again.log.next_copy(), b"later");
        commit(&mut again.log, &mut found, &[next]);
        drop(again);
        assert_eq!(open(&torn).unwrap().content, found, "sectors {subset:b}");
    }
    assert_eq!(seen, BTreeSet::from([(true, false), (true, true), (false, true)]));
}

#[test]
fn a_log_that_is_cut_anywhere_holds_every_batch_that_is_whole() {
    let mut random = fastrand::Rng::with_seed(1);
    let disk = SimulatedDisk::default();
    let mut log = open_with(&disk, LARGE).unwrap().log;
    let mut content = Content::default();
    let length = |disk: &SimulatedDisk| disk.files().iter().find(|(name, _)| name == "00000001.log").unwrap().1;
    let mut states = vec![(0, content.clone())];
    for _ in 0..12 {
        let mut pending = Vec::new();
        for _ in 0..random.usize(1..5) {
            let operation = random_operation(&mut random, &content.after(&pending), log.next_copy());
            append(&mut log, &operation);
            pending.push(operation);
        }
        log.commit().unwrap();
        content = content.after(&pending);
        states.push((length(&disk), content.clone()));
    }
    for cut in 0..=length(&disk) {
        let disk = disk.copy();
        let mut tail = Vec::new();
        disk.edit("00000001.log", |bytes| tail = bytes.split_off(cut));
        let expected = &states.iter().rfind(|(length, _)| *length <= cut).unwrap().1;
        let opening = open_with(&disk, LARGE).unwrap();
        assert_eq!(opening.content.plain(), expected.plain(), "cut at {cut}");
        let is_between = cut > 128 && !states.iter().any(|(length, _)| *length == cut);
        assert_eq!(opening.damages.len(), usize::from(is_between), "cut at {cut}: {:?}", opening.damages);
        if is_between {
            assert!(
                matches!(&opening.damages[0].lost, Lost::Unfinished { kept: Some(path) } if path.ends_with("00000001.log.cut"))
            );
            assert!(
                disk.files()
                    .iter()
                    .any(|(name, length)| name == "00000001.log.cut" && *length as u64 == opening.damages[0].bytes)
            );
        }
    }
}

/// A store with segments, packs, definitions and a log since the checkpoint.
fn rich_store(seed: u64, is_closed: bool) -> (SimulatedDisk, Content) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = SimulatedDisk::default();
    let Opening { mut log, mut content, .. } = open(&disk).unwrap();
    for step in 0..60 {
        let mut pending = Vec::new();
        for _ in 0..random.usize(1..8) {
            let operation = random_operation(&mut random, &content.after(&pending), log.next_copy());
            append(&mut log, &operation);
            pending.push(operation);
        }
        log.commit().unwrap();
        content = content.after(&pending);
        if step == 20 {
            // Mostly dead segments, which are packed.
            let first = log.next_copy();
            let puts: Vec<_> = (first..first + 300).map(|copy| put(copy, &[copy as u8; 120])).collect();
            for puts in puts.chunks(10) {
                commit(&mut log, &mut content, puts);
            }
            let forgets: Vec<_> = (first..first + 300).filter(|copy| copy % 8 != 0).map(Operation::Forget).collect();
            commit(&mut log, &mut content, &forgets);
            log.upkeep(Occasion::Idle).unwrap();
        }
        if step % 10 == 5 && step < 50 {
            log.upkeep(Occasion::Idle).unwrap();
        }
    }
    if is_closed {
        log.close().unwrap();
    }
    (disk.copy(), content)
}

/// Damages one byte, and compares what is found with what was stored.
fn check_damaged(disk: &SimulatedDisk, content: &Content, name: &str, at: usize, flip: u8) -> Option<()> {
    let disk = disk.copy();
    disk.edit(name, |bytes| bytes[at] ^= flip);
    let context = format!("byte {at} of {name}");
    let opening = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let found = &opening.content;
    let is_any = |test: fn(&Lost) -> bool| opening.damages.iter().any(|damage| test(&damage.lost));
    let is_unknown = is_any(|lost| matches!(lost, Lost::Unknown { .. }));
    let mut messages = BTreeSet::new();
    for (copy, stored) in &content.copies {
        match found.copies.get(copy) {
            Some(read) => assert_eq!((&read.header, &read.body), (&stored.header, &stored.body), "{context}"),
            None => {
                let is_named =
                    opening.unreadable.contains(copy) || opening.damages.iter().any(|damage| names(damage, *copy));
                assert!(is_named, "{context}: copy {copy} is gone, and only {:?} is named", opening.damages);
                messages.insert(stored.message);
            }
        }
    }
    assert!(messages.len() <= 1, "{context}: more than one message is lost: {messages:?}");
    for copy in found.copies.keys().filter(|copy| !content.copies.contains_key(copy)) {
        assert!(
            is_unknown || is_any(|lost| *lost == Lost::Forgets),
            "{context}: copy {copy} came back: {:?}",
            opening.damages
        );
    }
    if found.definitions != content.definitions {
        let is_named = is_any(|lost| matches!(lost, Lost::Definition { .. } | Lost::Undefine | Lost::Unknown { .. }));
        assert!(is_named, "{context}: definitions differ: {:?}", opening.damages);
    }
    (!opening.damages.is_empty()).then_some(())
}

fn check_all_bytes(seeds: std::ops::Range<u64>, every: usize) {
    let (mut checked, mut named) = (0, 0);
    let mut kinds = BTreeSet::new();
    for seed in seeds {
        let (disk, content) = rich_store(seed, seed % 2 == 0);
        let mut random = fastrand::Rng::with_seed(seed);
        for (name, length) in disk.files() {
            kinds.insert(name.rsplit('.').next().unwrap().to_owned());
            for at in 0..length {
                if random.usize(0..every) == 0 {
                    named += check_damaged(&disk, &content, &name, at, 1 << random.u8(0..8)).map_or(0, |()| 1);
                    checked += 1;
                }
            }
        }
    }
    assert!(["log", "pack", "index", "checkpoint"].iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
    println!("{checked} bytes, {named} named at the start");
    assert!(named > 0 && named < checked);
}

#[test]
fn a_damaged_byte_loses_its_record_only() {
    check_all_bytes(0..2, 90);
}

#[test]
#[ignore = "minutes"]
fn a_damaged_byte_loses_its_record_only_in_full() {
    check_all_bytes(100..140, 3);
}

#[test]
fn a_body_that_looks_like_records_is_never_taken_for_one() {
    let disk = SimulatedDisk::default();
    let mut log = open_with(&disk, LARGE).unwrap().log;
    let mut content = Content::default();
    commit(&mut log, &mut content, &[put(1, b"first"), put(2, b"second"), Operation::Forget(1)]);
    let mut bait = Vec::new();
    disk.copy().edit("00000001.log", |bytes| bait.clone_from(bytes));
    // A message whose body is this very log: a forget of 1 and, worse, what looks like the message 2.
    commit(&mut log, &mut content, &[put(3, &bait)]);
    commit(&mut log, &mut content, &[put(4, b"fourth")]);
    let start = bait.len() + 44;
    for at in start..start + 28 {
        check_damaged(&disk, &content, "00000001.log", at, 0x10);
    }
}

#[test]
fn a_damaged_message_survives_packing_as_damaged_and_its_neighbours_as_they_are() {
    let disk = SimulatedDisk::default();
    let mut log = open(&disk).unwrap().log;
    let mut content = Content::default();
    let last = 400;
    for copy in 1..=last {
        commit(&mut log, &mut content, &[put(copy, &[copy as u8; 100])]);
    }
    log.upkeep(Occasion::Idle).unwrap();
    // Body of copy 5, and meta of copy 6.
    let length = 44 + 28 + 4 + 16 + 6 + 100;
    disk.edit("00000001.log", |bytes| {
        bytes[128 + 5 * length - 50] ^= 1;
        bytes[128 + 5 * length + 44 + 30] ^= 1;
    });
    for copy in (20..=last).filter(|copy| copy % 5 != 0) {
        commit(&mut log, &mut content, &[Operation::Forget(copy)]);
    }
    for copy in [1, 2, 3, 4, 7, 8].into_iter().chain(10..20) {
        commit(&mut log, &mut content, &[Operation::Forget(copy)]);
    }
    let damages = log.upkeep(Occasion::Idle).unwrap();
    assert_eq!(
        damages.iter().map(|damage| damage.lost.clone()).collect::<Vec<_>>(),
        [Lost::Message { copies: vec![6] }]
    );
    assert_eq!(log.reader().read(5).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(log.reader().read(6).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.reader().read(9).unwrap().body[..], [9; 100]);
    assert!(!disk.files().iter().any(|(name, _)| name == "00000001.log"), "it was packed");
}

#[test]
fn a_store_without_its_checkpoint_is_refused_and_not_emptied() {
    let (disk, _) = rich_store(3, true);
    let before = disk.files();
    for edit in [|bytes: &mut Vec<u8>| bytes.clear(), |bytes: &mut Vec<u8>| bytes.fill(1)] {
        let damaged = disk.copy();
        damaged.edit("checkpoint", edit);
        let error = open(&damaged).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("/store/checkpoint"), "{error}");
        assert_eq!(damaged.files().len(), before.len());
    }
    use crate::store::disk::Disk;
    disk.remove("/store/checkpoint".as_ref()).unwrap();
    assert_eq!(open(&disk).map(drop).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(disk.files().len(), before.len() - 1);
}

#[test]
fn a_missing_segment_is_named_with_the_number_of_its_copies() {
    use crate::store::disk::Disk;
    let disk = SimulatedDisk::default();
    let mut log = open(&disk).unwrap().log;
    let mut content = Content::default();
    for copy in 1..=100 {
        commit(&mut log, &mut content, &[put(copy, &[1; 100])]);
    }
    log.close().unwrap();
    disk.remove("/store/00000002.log".as_ref()).unwrap();
    let opening = open(&disk).unwrap();
    let Lost::Segment { copies: Some(copies) } = opening.damages[0].lost else { panic!("{:?}", opening.damages) };
    assert_eq!(opening.content.copies.len() as u64 + copies, 100);
    assert!(copies > 0 && opening.damages[0].to_string().contains("00000002.log"));
}

#[test]
fn every_file_of_a_newer_version_is_refused_and_nothing_is_changed() {
    for name in ["checkpoint", "00000001.log"] {
        let disk = SimulatedDisk::default();
        let mut log = open(&disk).unwrap().log;
        commit(&mut log, &mut Content::default(), &[put(1, b"one")]);
        drop(log);
        disk.edit(name, |bytes| {
            let (part, header) = if name == "checkpoint" { (bytes.len() / 2, 32) } else { (64, 64) };
            for start in [0, part] {
                bytes[start + 8] = 2;
                let crc = crc32fast::hash(&bytes[start..start + header - 4]);
                bytes[start + header - 4..start + header].copy_from_slice(&crc.to_le_bytes());
            }
        });
        let before = disk.operations();
        let error = open(&disk).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Newer, "{name}: {error}");
        assert!(error.to_string().contains("version 2"), "{error}");
        assert_eq!(disk.operations(), before, "{:?}", disk.trace());
    }
}

/// Any files at all: an error or a store, never a panic, and never bytes that nobody stored.
#[test]
fn files_that_are_damaged_anyhow_give_an_error_or_true_messages() {
    use crate::store::disk::Disk;
    let (mut opened, mut refused) = (0, 0);
    let stores = [rich_store(0, true), rich_store(1, false), rich_store(2, false)];
    for seed in 0..200 {
        let (disk, content) = &stores[seed as usize % stores.len()];
        let disk = disk.copy();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..random.usize(1..12) {
            let files = disk.files();
            let (name, length) = random.choice(&files).unwrap();
            if *length == 0 {
                continue;
            }
            let (at, other) = (random.usize(0..*length), random.usize(0..*length));
            let (from, to) = (at.min(other), at.max(other));
            match random.u8(0..20) {
                0 => disk.remove(std::path::Path::new("/store").join(name).as_ref()).unwrap(),
                1 => disk.edit(name, |bytes| bytes.truncate(at)),
                2 => disk.edit(name, |bytes| bytes[from..to].fill(0)),
                3 => disk.edit(name, |bytes| bytes.extend_from_within(from..to)),
                4 => disk.edit(name, |bytes| drop(bytes.drain(from..to))),
                5 => {
                    let mut taken = Vec::new();
                    let (source, _) = random.choice(&files).unwrap();
                    if disk.files().iter().any(|(there, _)| there == source) {
                        disk.edit(source, |bytes| taken.clone_from(bytes));
                        disk.edit(name, |bytes| *bytes = taken);
                    }
                }
                _ => disk.edit(name, |bytes| bytes[at] ^= random.u8(1..)),
            }
        }
        let result = std::panic::catch_unwind(|| open(&disk)).unwrap_or_else(|panic| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        match result {
            Ok(opening) => {
                opened += 1;
                for (copy, stored) in &opening.content.copies {
                    if let Some(expected) = content.copies.get(copy) {
                        assert_eq!(
                            (&stored.body, stored.queue),
                            (&expected.body, expected.queue),
                            "seed {seed}, copy {copy}"
                        );
                    }
                }
                // It can be gone on with.
                drop(opening.log.close());
                assert!(open(&disk).is_ok(), "seed {seed}: it opened once");
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io), "seed {seed}: {error}");
                refused += 1;
            }
        }
    }
    assert!(opened > 20 && refused > 5, "{opened} opened, {refused} refused");
}

/// First a record of the log is damaged; later the index of its segment, too.
#[test]
fn a_damaged_index_after_a_damaged_record_does_not_shift_what_is_live() {
    use crate::store::disk::Disk;
    let disk = SimulatedDisk::default();
    let mut log = open_with(&disk, LARGE).unwrap().log;
    let mut content = Content::default();
    for copy in 1..=8 {
        commit(&mut log, &mut content, &[put(copy, b"body")]);
    }
    drop(log);
    // The meta of the second message.
    disk.edit("00000001.log", |bytes| bytes[128 + 102 + 44 + 30] ^= 1);
    let mut opening = open_with(&disk, LARGE).unwrap();
    assert_eq!(opening.damages.len(), 1, "{:?}", opening.damages);
    assert!(names(&opening.damages[0], 2) && !names(&opening.damages[0], 1) && !names(&opening.damages[0], 3));
    commit(&mut opening.log, &mut content, &[Operation::Forget(2), Operation::Forget(5)]);
    opening.log.close().unwrap();
    for (name, _) in disk.files() {
        if name.ends_with(".index") {
            disk.remove(std::path::Path::new("/store").join(name).as_ref()).unwrap();
        }
    }
    assert_eq!(open_with(&disk, LARGE).unwrap().content, content);
}
