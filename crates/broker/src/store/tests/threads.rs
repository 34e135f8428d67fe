//! The writer: what it reports, and that it goes on after errors of the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::directory::{Copies, Directory, open};
use super::model;
use super::simulated_disk::{Fault, SimulatedDisk};
use crate::store::{ErrorKind, Event, Log, Occasion, Options, Placement, Sequence, Writer};

const LONG: Duration = Duration::from_secs(30);

fn start(disk: &SimulatedDisk) -> (Writer, Receiver<Event>) {
    let (events, received) = channel();
    let log = model::open(disk).unwrap().log;
    (Writer::start(log, move |event| drop(events.send(event))).unwrap(), received)
}

fn put(writer: &mut Writer, copy: u64) -> Sequence {
    writer.put(&[Placement { copy, queue: 1 }], Bytes::new(), Bytes::from_static(b"body"))
}

fn wait_for(events: &Receiver<Event>, sequence: Sequence) {
    loop {
        match events.recv_timeout(LONG).unwrap() {
            Event::Durable(durable) if durable >= sequence => return,
            Event::Durable(_) | Event::UpkeepFailed(_) => {}
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn everything_is_reported_durable_once_and_in_order() {
    let directory = Directory::new();
    let (log, _) = open(&directory.0).unwrap();
    let (events, received) = channel();
    let mut writer = Writer::start(log, move |event| drop(events.send(event))).unwrap();
    let mut last = Sequence(0);
    for copy in 1..=5000 {
        last = put(&mut writer, copy);
        if copy % 10 == 0 {
            writer.define(Bytes::from(copy.to_string()), Bytes::from_static(b"value"));
            last = writer.forget(copy - 5);
            writer.flush();
        }
    }
    let mut durable = Sequence(0);
    while durable < last {
        match received.recv_timeout(LONG).unwrap() {
            Event::Durable(sequence) => {
                assert!(sequence > durable);
                durable = sequence;
            }
            event => panic!("{event:?}"),
        }
    }
    assert_eq!((durable, writer.backlog()), (last, 0));
    assert_eq!(writer.reader().read(1).unwrap().body, "body");
    assert_eq!(writer.reader().read(5).unwrap_err().kind(), ErrorKind::NotFound);
    writer.close().unwrap();
    let mut found = Copies::default();
    let (log, _) = Log::open(&directory.0, Options::default(), &mut found).unwrap();
    assert_eq!(found.0, (1..=5000).filter(|copy| copy % 10 != 5).collect::<Vec<_>>());
    assert_eq!(log.next_copy(), 5001);
}

#[test]
fn what_comes_while_the_disk_is_full_becomes_durable_when_there_is_room() {
    let disk = SimulatedDisk::default();
    let (mut writer, events) = start(&disk);
    let first = put(&mut writer, 1);
    writer.flush();
    wait_for(&events, first);
    disk.fail_in(1, Fault::FailOn(io::ErrorKind::StorageFull));
    put(&mut writer, 2);
    writer.flush();
    let Event::Stopped(error) = events.recv_timeout(LONG).unwrap() else { panic!("not stopped") };
    assert_eq!(error.kind(), ErrorKind::NoRoom);
    let mut last = first;
    for copy in 3..100 {
        last = put(&mut writer, copy);
        writer.flush();
    }
    assert!(writer.backlog() > 97 * 4);
    // Attempts in vain, and no storm of them.
    let (before, start) = (disk.operations(), Instant::now());
    while disk.operations() - before < 3 {
        assert!(start.elapsed() < LONG, "{:?}", disk.trace());
        std::thread::sleep(Duration::from_millis(20));
    }
    let attempts = (disk.operations() - before) as f64;
    assert!(attempts <= 4.0 * (start.elapsed().as_secs_f64() + 2.0), "{attempts} in {:?}", start.elapsed());
    assert!(matches!(events.try_recv(), Err(TryRecvError::Empty)));
    disk.heal();
    assert!(matches!(events.recv_timeout(LONG).unwrap(), Event::Resumed));
    wait_for(&events, last);
    assert_eq!(writer.backlog(), 0);
    writer.close().unwrap();
    assert_eq!(model::open(&disk).unwrap().content.copies.len(), 99);
}

#[test]
fn a_writer_that_cannot_write_ends_with_the_error() {
    let disk = SimulatedDisk::default();
    let (mut writer, events) = start(&disk);
    disk.fail_in(1, Fault::FailOn(io::ErrorKind::Other));
    put(&mut writer, 1);
    writer.flush();
    assert!(matches!(events.recv_timeout(LONG).unwrap(), Event::Stopped(_)));
    assert_eq!(writer.close().unwrap_err().kind(), ErrorKind::Stopped);
    disk.heal();
    assert_eq!(model::open(&disk).unwrap().content.copies.len(), 0);
}

#[test]
fn what_is_not_valid_is_refused_alone() {
    let disk = SimulatedDisk::default();
    let (mut writer, events) = start(&disk);
    put(&mut writer, 5);
    let wrong = put(&mut writer, 5);
    let none = writer.put(&[], Bytes::new(), Bytes::new());
    let last = put(&mut writer, 6);
    writer.flush();
    for expected in [wrong, none] {
        let Event::Refused(sequence, error) = events.recv_timeout(LONG).unwrap() else { panic!("not refused") };
        assert_eq!((sequence, error.kind()), (expected, ErrorKind::Invalid));
    }
    wait_for(&events, last);
    writer.close().unwrap();
    assert_eq!(model::open(&disk).unwrap().content.copies.into_keys().collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn a_dropped_writer_releases_the_store_and_its_threads() {
    let directory = Directory::new();
    let (log, _) = open(&directory.0).unwrap();
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let mut writer = Writer::start(log, move |_| drop(Arc::clone(&held))).unwrap();
    put(&mut writer, 1);
    drop(writer);
    let end = Instant::now() + LONG;
    while Arc::strong_count(&alive) > 1 || open(&directory.0).is_err() {
        assert!(Instant::now() < end, "the threads are there still");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_idle_store_writes_a_checkpoint_and_gives_space_back() {
    let directory = Directory::new();
    let (log, _) = super::directory::open_with(&directory.0, 32 << 20).unwrap();
    let (events, received) = channel();
    let mut writer = Writer::start(log, move |event| drop(events.send(event))).unwrap();
    let body = Bytes::from(vec![1; 1 << 20]);
    for copy in 1..=3 {
        writer.put(&[Placement { copy, queue: 1 }], Bytes::new(), body.clone());
    }
    writer.flush();
    let mut last = Sequence(0);
    for copy in 1..=3 {
        last = writer.forget(copy);
    }
    writer.flush();
    wait_for(&received, last);
    assert!(directory.bytes() > 3 << 20);
    let end = Instant::now() + LONG;
    while directory.bytes() > 1000 {
        assert!(Instant::now() < end, "{} bytes", directory.bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    writer.close().unwrap();
}

/// Readers run while segments are packed and removed under them.
#[test]
fn readers_find_every_live_copy_while_files_are_replaced() {
    let directory = Directory::new();
    let (mut log, _) = open(&directory.0).unwrap();
    let body = [3; 500];
    let stay = |copy: u64| copy.is_multiple_of(10);
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = Vec::new();
    for seed in 0..2 {
        let (reader, stop, count) = (log.reader(), Arc::clone(&stop), Arc::clone(&count));
        readers.push(std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut reads = 0;
            while !stop.load(Ordering::Acquire) {
                let committed = count.load(Ordering::Acquire);
                if committed > 0 {
                    let copy = random.u64(1..=committed / 10) * 10;
                    assert_eq!(reader.read(copy).unwrap().body.len(), 500, "copy {copy}");
                    reads += 1;
                }
            }
            reads
        }));
    }
    let mut packs = 0;
    for first in (1..6_000).step_by(100) {
        for copy in first..first + 100 {
            log.put(&[Placement { copy, queue: 1 }], b"", &body).unwrap();
        }
        log.commit().unwrap();
        count.store(first + 99, Ordering::Release);
        for copy in (first..first + 100).filter(|copy| !stay(*copy)) {
            log.forget(copy).unwrap();
        }
        log.commit().unwrap();
        log.upkeep(Occasion::Busy).unwrap();
        packs += std::fs::read_dir(&directory.0)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "pack"))
            .count();
    }
    stop.store(true, Ordering::Release);
    let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert!(reads > 100 && packs > 0, "{reads} reads, {packs} packs");
}
