//! Figures of the broker's store on this machine. Run with `--release`; `store-figures DIRECTORY` measures that disk.
//!
//! A queue's life: each group commit has N inserts of 1 kB and N deletes of the oldest, with a backlog between them. CPU is of
//! the whole process; amplification is bytes written by the process to bytes of messages, as the kernel counts both.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use homing_broker::store::{Event, Log, Occasion, Opened, Options, Placement, RecoveredCopy, Restore, Result, Writer};

const BODY: usize = 1000;
const HEADER: usize = 100;

#[derive(Default)]
struct Count(u64);

impl Restore for Count {
    fn definition(&mut self, _: &[u8], _: &[u8]) {}
    fn copy(&mut self, _: RecoveredCopy<'_>) {
        self.0 += 1;
    }
}

fn open(directory: &Path) -> Result<(Log, Opened)> {
    Log::open(directory, Options::default(), &mut Count::default())
}

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    // The kernel's unit for this file is 10 ms wherever Linux runs.
    Duration::from_millis(ticks * 10)
}

fn number(file: &str, name: &str) -> u64 {
    let content = std::fs::read_to_string(file).unwrap_or_default();
    let line = content.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn written() -> u64 {
    number("/proc/self/io", "write_bytes:")
}

fn put(log: &mut Log, copy: u64, header: &[u8], body: &[u8]) -> Result<()> {
    log.put(&[Placement { copy, queue: 1 }], header, body).map(drop)
}

/// One line of the table: groups of this size for some seconds.
fn life(directory: &Path, group: u64, time: Duration) -> Result<()> {
    let (mut log, _) = open(directory)?;
    let (header, body) = (vec![1; HEADER], vec![2; BODY]);
    let (start, cpu_start, written_start) = (Instant::now(), cpu(), written());
    let (mut next, mut oldest, mut slowest) = (log.next_copy(), log.next_copy(), Duration::ZERO);
    let first = next;
    while start.elapsed() < time {
        for _ in 0..group {
            put(&mut log, next, &header, &body)?;
            next += 1;
            if next - oldest > 4 * group {
                log.forget(oldest)?;
                oldest += 1;
            }
        }
        let commit = Instant::now();
        log.commit()?;
        slowest = slowest.max(commit.elapsed());
        log.upkeep(Occasion::Busy)?;
    }
    let (count, elapsed) = ((next - first) as f64, start.elapsed().as_secs_f64());
    println!(
        "N={group:<5} {:>8.0} inserts and deletes a second; {:>6.2} us CPU each; amplification {:.2}; slowest commit {:.1} ms",
        count / elapsed,
        (cpu() - cpu_start).as_secs_f64() * 1e6 / count,
        (written() - written_start) as f64 / (count * (BODY + HEADER) as f64),
        slowest.as_secs_f64() * 1e3,
    );
    log.close()
}

/// What the disk and the kernel take alone: the same bytes written and synced, in files of a segment's length.
fn bare(directory: &Path, group: u64, time: Duration) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    std::fs::create_dir_all(directory)?;
    let path = directory.join("bare");
    let bytes = vec![1; group as usize * (BODY + HEADER + 48)];
    let (start, cpu_start, mut count, mut slowest) = (Instant::now(), cpu(), 0, Duration::ZERO);
    let mut file = std::fs::File::create(&path)?;
    let mut offset = 0;
    while start.elapsed() < time {
        if offset > 32 << 20 {
            std::fs::remove_file(&path)?;
            (file, offset) = (std::fs::File::create(&path)?, 0);
        }
        let commit = Instant::now();
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
        slowest = slowest.max(commit.elapsed());
        offset += bytes.len() as u64;
        count += group;
    }
    println!(
        "N={group:<5} {:>8.0} a second; {:>6.2} us CPU each; slowest sync {:.1} ms (writing and syncing the same bytes, no more)",
        count as f64 / start.elapsed().as_secs_f64(),
        (cpu() - cpu_start).as_secs_f64() * 1e6 / count as f64,
        slowest.as_secs_f64() * 1e3,
    );
    std::fs::remove_file(&path)
}

/// The same through the writer's thread, with up to `window` inserts that are not durable.
fn through_the_writer(directory: &Path, window: u64, time: Duration) -> Result<()> {
    let (log, _) = open(directory)?;
    let (mut next, (events, received)) = (log.next_copy(), std::sync::mpsc::channel());
    let first = next;
    let io = |error| std::panic::panic_any(format!("cannot start a thread: {error}"));
    let mut writer = Writer::start(log, move |event| drop(events.send(event))).unwrap_or_else(io);
    let (header, body) = (Bytes::from(vec![1; HEADER]), Bytes::from(vec![2; BODY]));
    let (start, cpu_start) = (Instant::now(), cpu());
    let mut waiting: VecDeque<(u64, Instant, u64)> = VecDeque::new();
    let (mut slowest, mut total, mut rounds) = (Duration::ZERO, Duration::ZERO, 0_u32);
    let mut under_way = 0;
    while start.elapsed() < time {
        let count = window - under_way;
        let mut last = None;
        for _ in 0..count {
            writer.put(&[Placement { copy: next, queue: 1 }], header.clone(), body.clone());
            last = (next > first + 4 * window).then(|| writer.forget(next - 4 * window)).or(last);
            next += 1;
        }
        let sequence = last.unwrap_or_else(|| writer.forget(0));
        writer.flush();
        waiting.push_back((sequence.0, Instant::now(), count));
        under_way += count;
        while under_way > window / 2 {
            match received.recv() {
                Ok(Event::Durable(sequence)) => {
                    while waiting.front().is_some_and(|(number, ..)| *number <= sequence.0) {
                        let Some((_, since, count)) = waiting.pop_front() else { break };
                        (slowest, total, rounds) = (slowest.max(since.elapsed()), total + since.elapsed(), rounds + 1);
                        under_way -= count;
                    }
                }
                other => println!("{other:?}"),
            }
        }
    }
    let (count, elapsed) = ((next - first) as f64, start.elapsed().as_secs_f64());
    println!(
        "writer, {window:>5} under way: {:>8.0} inserts and deletes a second; {:>6.2} us CPU each; until durable {:.2} ms, at most {:.1} ms",
        count / elapsed,
        (cpu() - cpu_start).as_secs_f64() * 1e6 / count,
        total.as_secs_f64() * 1e3 / f64::from(rounds.max(1)),
        slowest.as_secs_f64() * 1e3,
    );
    writer.close()
}

fn million(directory: &Path) -> Result<()> {
    const COUNT: u64 = 1_000_000;
    let (mut log, _) = open(directory)?;
    let (header, body) = (vec![1; HEADER], vec![2; BODY]);
    let start = Instant::now();
    for copy in 1..=COUNT {
        put(&mut log, copy, &header, &body)?;
        if copy % 4096 == 0 {
            log.commit()?;
            log.upkeep(Occasion::Busy)?;
        }
    }
    log.commit()?;
    println!("10^6 messages of 1 kB: {:.0} a second", COUNT as f64 / start.elapsed().as_secs_f64());
    log.close()?;
    for what in ["after a close", "after a crash"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap_or_default())
            .arg("--open")
            .arg(directory)
            .output();
        let output = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        println!("start {what}: {output}");
        let (mut log, _) = open(directory)?;
        let next = log.next_copy();
        for copy in next..next + 20_000 {
            put(&mut log, copy, &header, &body)?;
        }
        log.commit()?;
    }
    let (mut log, _) = open(directory)?;
    let mut random = 1_u64;
    let mut ids: Vec<u64> = (1..=COUNT).collect();
    for at in (1..ids.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ids.swap(at, (random >> 33) as usize % (at + 1));
    }
    let (start, cpu_start, written_start) = (Instant::now(), cpu(), written());
    for ids in ids.chunks(256) {
        for copy in ids {
            log.forget(*copy)?;
        }
        log.commit()?;
        log.upkeep(Occasion::Busy)?;
    }
    println!(
        "random deletes: {:.0} a second in groups of 256, {:.2} us CPU each, {} MB written",
        COUNT as f64 / start.elapsed().as_secs_f64(),
        (cpu() - cpu_start).as_secs_f64() * 1e6 / COUNT as f64,
        (written() - written_start) >> 20,
    );
    log.upkeep(Occasion::Idle)?;
    let bytes: u64 = std::fs::read_dir(directory)
        .map(|entries| entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum())
        .unwrap_or(0);
    println!("space after all of those are deleted: {} MB with {} live messages", bytes >> 20, log.live_copies());
    log.close()
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let argument = arguments.next();
    if argument.as_deref() == Some("--open") {
        let start = Instant::now();
        let (_log, opened) = open(&arguments.next().map(PathBuf::from).unwrap_or_default())?;
        let memory = number("/proc/self/status", "VmHWM:") / 1024;
        let (time, cpu) = (start.elapsed().as_secs_f64(), cpu().as_secs_f64());
        println!("{time:.3} s ({cpu:.2} s CPU), at most {memory} MB, {} messages", opened.copies);
        return Ok(());
    }
    let base = argument.map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = base.join(format!("store-figures-{}", std::process::id()));
    println!("load of the machine: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    let time = Duration::from_secs(4);
    for group in [1, 16, 256, 4096] {
        if let Err(error) = bare(&directory, group, time / 2) {
            println!("cannot measure the bare disk: {error}");
        }
        life(&directory, group, time)?;
        let _ = std::fs::remove_dir_all(&directory);
    }
    for window in [1, 16, 256, 4096] {
        through_the_writer(&directory, window, time)?;
        let _ = std::fs::remove_dir_all(&directory);
    }
    let result = million(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    println!("load of the machine: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    result
}
