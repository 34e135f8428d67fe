//! A million messages: how long a start takes, and how much memory.

use std::io::Read;
use std::time::Instant;

use super::directory::{Directory, open_with};
use super::kill::{child, directory_of_child};
use crate::store::{Options, Placement};

const COUNT: u64 = 1_000_000;

fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// The child: opens the store, and prints what that took.
#[test]
fn open_and_measure() {
    let Some(directory) = directory_of_child() else { return };
    struct Count(u64, u64);
    impl crate::store::Restore for Count {
        fn definition(&mut self, _: &[u8], _: &[u8]) {}
        fn copy(&mut self, copy: crate::store::RecoveredCopy<'_>) {
            self.0 += 1;
            self.1 += copy.header.len() as u64 + u64::from(copy.body_length);
        }
    }
    let mut count = Count(0, 0);
    let start = Instant::now();
    let (log, opened) = crate::store::Log::open(&directory, Options::default(), &mut count).unwrap();
    let time = start.elapsed();
    assert_eq!((opened.copies, count.0, opened.damages.len()), (COUNT, COUNT, 0));
    assert_eq!(log.reader().read(COUNT / 2).unwrap().body.len(), 1000);
    println!("\nresult {} {}", time.as_millis(), most_memory());
}

#[test]
#[ignore = "a gigabyte of disk"]
fn a_million_messages_start_in_a_third_of_a_second_and_100_megabytes_in_full() {
    for is_closed in [true, false] {
        let directory = Directory::new();
        let (mut log, _) = open_with(&directory.0, Options::default().segment_bytes).unwrap();
        let (header, body) = ([1; 120], [2; 1000]);
        for copy in 1..=COUNT {
            log.put(&[Placement { copy, queue: 1 }], &header, &body).unwrap();
            if copy % 4096 == 0 {
                log.commit().unwrap();
                log.upkeep(crate::store::Occasion::Busy).unwrap();
            }
        }
        log.commit().unwrap();
        if is_closed {
            log.close().unwrap();
        } else {
            drop(log);
        }
        let mut output = String::new();
        let mut child = child("store::tests::million::open_and_measure", &directory.0);
        child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert!(child.wait().unwrap().success());
        let result = output.lines().find_map(|line| line.split_once("result ")).unwrap_or_else(|| panic!("{output}")).1;
        let (time, memory) = result.split_once(' ').unwrap();
        println!("closed: {is_closed}; start {time} ms, at most {memory} MB");
        assert!(memory.parse::<u64>().unwrap() < 100, "{memory} MB");
        // The goal is 300 ms for a release build on a quiet machine.
        let most = if cfg!(debug_assertions) { 5000 } else { 1000 };
        assert!(time.parse::<u64>().unwrap() < most, "{time} ms");
        assert!(open_with(&directory.0, 1 << 20).is_ok());
    }
}
