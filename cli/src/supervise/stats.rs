//! What processes use: memory, and processor time.

use std::collections::HashMap;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::protocol::Usage;
use super::worker::Moment;

/// Over less time than this, processor time counts for nothing.
const SHORTEST: Duration = Duration::from_secs(1);

/// The processor time of a process at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Moment,
    used: Duration,
}

/// Looks at processes, and remembers what they had used before.
pub(super) struct Stats {
    system: System,
    /// The last sample of each process, and the one before.
    samples: HashMap<u32, [Sample; 2]>,
}

impl Stats {
    pub(super) fn new() -> Self {
        Stats { system: System::new(), samples: HashMap::new() }
    }

    /// Samples these processes, and forgets all others. Each is given with the time of its start.
    pub(super) fn sample(&mut self, processes: &[(u32, Moment)], now: Moment) {
        let pids: Vec<Pid> = processes.iter().map(|(pid, _)| Pid::from_u32(*pid)).collect();
        let kind = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, kind);
        let mut samples = HashMap::new();
        for (pid, started) in processes {
            let Some(process) = self.system.process(Pid::from_u32(*pid)) else { continue };
            let sample = Sample { at: now, used: Duration::from_millis(process.accumulated_cpu_time()) };
            let known = self.samples.get(pid).filter(|[_, last]| last.at >= *started);
            let pair = match known {
                None => [Sample { at: *started, used: Duration::ZERO }, sample],
                Some([before, last]) if now.saturating_sub(last.at) < SHORTEST => [*before, sample],
                Some([_, last]) => [*last, sample],
            };
            samples.insert(*pid, pair);
        }
        self.samples = samples;
    }

    /// What a process used at the last sample.
    pub(super) fn usage(&self, pid: u32) -> Usage {
        let (Some(process), Some([before, last])) = (self.system.process(Pid::from_u32(pid)), self.samples.get(&pid))
        else {
            return Usage::default();
        };
        let time = last.at.saturating_sub(before.at);
        let used = last.used.saturating_sub(before.used);
        let percent = (!time.is_zero()).then(|| rounded(100.0 * used.as_secs_f64() / time.as_secs_f64()));
        Usage { memory_bytes: Some(process.memory()), cpu_percent: percent, cpu_seconds: Some(last.used.as_secs_f64()) }
    }
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_counted_and_forgotten_with_it() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut stats = Stats::new();
        let pid = child.id();
        let start = std::time::Instant::now();
        let mut samples = 0;
        // A core that is shared gives it what it can.
        while stats.usage(pid).cpu_seconds.is_none_or(|seconds| seconds < 0.2) {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(50));
            stats.sample(&[(pid, Duration::ZERO), (std::process::id(), Duration::ZERO)], start.elapsed());
            samples += 1;
        }
        assert!(samples > 1);
        let usage = stats.usage(pid);
        assert!(usage.cpu_percent.is_some_and(|percent| percent > 0.0 && percent <= 200.0), "{usage:?}");
        assert!(usage.memory_bytes.is_some_and(|bytes| bytes > 10_000), "{usage:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        stats.sample(&[(pid, Duration::ZERO)], start.elapsed());
        assert_eq!(stats.usage(pid), Usage::default());
    }
}
