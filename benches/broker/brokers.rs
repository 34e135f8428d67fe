//! One bare lapin program on two brokers, in turns: what homing's own broker makes of it beside RabbitMQ.

use std::path::Path;

use serde_json::Value as Json;

use crate::node::{Kind, Node, median};
use crate::{MAIN, Work, run};

/// Of one piece of work on one broker.
#[derive(Clone, Copy)]
struct Round {
    rate: f64,
    /// Microseconds of the broker's CPU for each message.
    cpu: f64,
}

impl Work {
    /// What is to be reached: the rate as a multiple of RabbitMQ's, and how much less CPU the broker takes for each.
    fn goals_of_the_broker(self) -> (f64, Option<f64>) {
        match self {
            Work::RpcOne => (1.7, Some(5.0)),
            Work::Rpc100 => (1.9, Some(5.0)),
            Work::Rpc1000 => (1.8, Some(5.0)),
            Work::TaskPublish => (10.0, Some(20.0)),
            Work::TaskRoundTrip => (2.0, Some(4.0)),
            _ => (1.0, None),
        }
    }
}

pub(crate) fn compare(root: &Path, rounds: usize, seconds: &str, work: &str) {
    let kinds = [Kind::RabbitMq, Kind::Own];
    let nodes = kinds.map(|kind| Node::start(root, kind));
    println!("{:<26} {:>34} {:>34} {:>24} {:>24}", "", "RabbitMQ", "homing", "rate (goal)", "CPU of the broker (goal)");
    for work in MAIN.into_iter().filter(|one| one.name().contains(work)) {
        let mut all: Vec<[Round; 2]> = Vec::new();
        for _ in 0..rounds {
            all.push([&nodes[0], &nodes[1]].map(|node| measure(root, node, seconds, work)));
        }
        let of = |at: usize, what: fn(&Round) -> f64| median(all.iter().map(|round| what(&round[at])));
        let rate = median(all.iter().map(|[there, here]| here.rate / there.rate));
        let cpu = median(all.iter().map(|[there, here]| there.cpu / here.cpu));
        let (rate_goal, cpu_goal) = work.goals_of_the_broker();
        let verdict = |is: f64, goal: f64| if is >= goal { "holds" } else { "misses" };
        let side = |at| format!("{:.0} a second, {:.1} us", of(at, |round| round.rate), of(at, |round| round.cpu));
        let fast = format!("{rate:.2} ({rate_goal}: {})", verdict(rate, rate_goal));
        let cheap = match cpu_goal {
            Some(goal) => format!("1/{cpu:.1} (1/{goal}: {})", verdict(cpu, goal)),
            None => format!("1/{cpu:.1}"),
        };
        println!("{:<26} {:>34} {:>34} {fast:>24} {cheap:>24}", work.name(), side(0), side(1));
    }
}

fn measure(root: &Path, node: &Node, seconds: &str, work: Work) -> Round {
    let before = node.cpu();
    let lines = run(root, Path::new("python"), node.url(), "bare lapin", seconds, work);
    let taken = node.cpu() - before;
    let rate = lines.iter().find_map(|line| line["rate"].as_f64()).unwrap_or(f64::NAN);
    let count = lines.iter().find_map(|line: &Json| line["count"].as_f64()).unwrap_or(f64::NAN);
    Round { rate, cpu: taken.as_secs_f64() * 1e6 / count }
}
