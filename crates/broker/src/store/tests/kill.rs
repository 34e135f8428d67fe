//! Processes that are killed under load, with a ledger outside of them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;

use super::directory::{Copies, Directory};
use crate::store::{Event, Log, Options, Placement, Writer};

const CHILD: &str = "HOMING_STORE_TEST_DIRECTORY";
const SEGMENT: u64 = 64 << 10;

fn body(copy: u64) -> Bytes {
    let length = (copy * 2_654_435_761 % 900) as usize;
    copy.to_le_bytes().repeat(length / 8 + 1).into()
}

/// This test's process again, which runs `test` only, on a directory.
pub(crate) fn child(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1", "--include-ignored"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn directory_of_child() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

/// The child: puts and forgets without end. It prints `put N` when a copy is durable, `forget N` before it is forgotten, and
/// `forgotten N` when that is durable. Does nothing when it is run as a test.
#[test]
fn load_until_killed() {
    let Some(directory) = directory_of_child() else { return };
    // The harness has begun a line.
    println!();
    let mut copies = Copies::default();
    let (log, opened) = Log::open(&directory, Options::default().with_segment_bytes(SEGMENT), &mut copies).unwrap();
    for damage in opened.damages {
        println!("damage {damage}");
    }
    let mut random = fastrand::Rng::new();
    let mut next = log.next_copy();
    let (events, durable) = channel();
    let mut writer = Writer::start(log, move |event| events.send(event).unwrap()).unwrap();
    let mut live = copies.0;
    let mut waiting: Vec<(u64, String)> = Vec::new();
    let mut put: Vec<u64> = Vec::new();
    loop {
        let mut lines = String::new();
        let mut forgets = Vec::new();
        for _ in 0..random.usize(0..30) {
            if live.is_empty() {
                break;
            }
            // Most of the oldest, as a queue does; some stay.
            let at = if random.u8(0..4) == 0 { random.usize(0..live.len()) } else { 0 };
            forgets.push(live.swap_remove(at));
            lines += &format!("forget {}\n", forgets[forgets.len() - 1]);
        }
        std::io::stdout().lock().write_all(lines.as_bytes()).unwrap();
        for _ in 0..random.usize(1..30) {
            let count = random.u64(1..4);
            let copies: Vec<_> = (next..next + count).map(|copy| Placement { copy, queue: copy % 3 }).collect();
            next += count;
            let sequence = writer.put(&copies, Bytes::from_static(b"header"), body(copies[0].copy));
            for placement in copies {
                waiting.push((sequence.0, format!("put {} {}\n", placement.copy, next - count)));
                put.push(placement.copy);
            }
        }
        for copy in forgets {
            waiting.push((writer.forget(copy).0, format!("forgotten {copy}\n")));
        }
        writer.flush();
        // Sometimes several batches are under way.
        while waiting.len() > 200 {
            match durable.recv().unwrap() {
                Event::Durable(sequence) => {
                    let ready = waiting.partition_point(|(number, _)| *number <= sequence.0);
                    let lines: String = waiting.drain(..ready).map(|(_, line)| line).collect();
                    std::io::stdout().lock().write_all(lines.as_bytes()).unwrap();
                    live.append(&mut put);
                }
                event => println!("event {event:?}"),
            }
        }
    }
}

fn rounds(count: usize) {
    let directory = Directory::new();
    let mut random = fastrand::Rng::new();
    let mut must_be_there: BTreeSet<u64> = BTreeSet::new();
    let mut may_be_there: BTreeSet<u64> = BTreeSet::new();
    let mut must_be_gone: BTreeSet<u64> = BTreeSet::new();
    let mut bodies = std::collections::BTreeMap::new();
    let mut confirmed = 0;
    for round in 0..count {
        let mut child = child("store::tests::kill::load_until_killed", &directory.0);
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(random.u64(20..600)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            let copy = words.next().and_then(|word| word.parse::<u64>().ok());
            match (kind, copy) {
                ("put", Some(copy)) => {
                    if !may_be_there.contains(&copy) {
                        must_be_there.insert(copy);
                    }
                    bodies.insert(copy, words.next().and_then(|first| first.parse::<u64>().ok()).unwrap());
                    confirmed += 1;
                }
                ("forget", Some(copy)) => {
                    must_be_there.remove(&copy);
                    may_be_there.insert(copy);
                }
                ("forgotten", Some(copy)) => {
                    must_be_gone.insert(copy);
                }
                ("damage" | "event", _) => assert!(line.contains("never confirmed"), "round {round}: {line}"),
                // What the test harness prints.
                _ => {}
            }
        }
        let mut found = Copies::default();
        let (log, opened) =
            Log::open(&directory.0, Options::default().with_segment_bytes(SEGMENT), &mut found).unwrap();
        let damages: Vec<_> = opened.damages.iter().map(ToString::to_string).collect();
        assert!(damages.iter().all(|damage| damage.contains("never confirmed")), "round {round}: {damages:?}");
        let found: BTreeSet<u64> = found.0.into_iter().collect();
        let lost: Vec<_> = must_be_there.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: confirmed and lost: {lost:?}");
        let back: Vec<_> = must_be_gone.intersection(&found).collect();
        assert!(back.is_empty(), "round {round}: forgotten and back: {back:?}");
        for copy in &found {
            let read = log.reader().read(*copy).unwrap();
            if let Some(first) = bodies.get(copy) {
                assert_eq!(read.body, body(*first), "round {round}: copy {copy}");
            }
        }
        drop(log);
        // What is there now, confirmed or not, is durable.
        may_be_there.retain(|copy| found.contains(copy));
        must_be_there = found;
        may_be_there.clear();
    }
    println!("{confirmed} confirmed in {count} rounds, none lost; {} forgotten, none back", must_be_gone.len());
    assert!(confirmed > 1000 && must_be_gone.len() > 500, "{confirmed} confirmed, {} forgotten", must_be_gone.len());
}

#[test]
fn a_killed_process_loses_nothing_that_was_confirmed() {
    rounds(8);
}

#[test]
#[ignore = "minutes"]
fn a_killed_process_loses_nothing_that_was_confirmed_in_full() {
    rounds(300);
}
