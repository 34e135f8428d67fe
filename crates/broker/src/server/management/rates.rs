//! How fast things grow: two looks at the server, some seconds apart.

use super::rows::{Hosts, QueueRow, queues, totals};
use crate::engine::Counts;
use crate::server::{admin::Admin, shared::Shared};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// As often as RabbitMQ looks.
const EVERY: Duration = Duration::from_secs(5);

/// For so many queues rates are known one by one: a look copies the names of all, and clients wait meanwhile.
const QUEUES: usize = 20_000;

/// So much a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) published: f64,
    pub(super) delivered: f64,
    pub(super) redelivered: f64,
    pub(super) acknowledged: f64,
    /// By how much what waits has grown.
    pub(super) waiting: f64,
    /// By how much what is out has grown.
    pub(super) out: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    counts: Counts,
    waiting: usize,
    out: usize,
}

impl State {
    #[expect(clippy::cast_precision_loss, reason = "a rate is not exact")]
    fn rates_since(&self, before: &State, time: Duration) -> Rates {
        let a_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / time.as_secs_f64();
        let growth = |now: usize, before: usize| (now as f64 - before as f64) / time.as_secs_f64();
        let (now, then) = (&self.counts, &before.counts);
        Rates {
            published: a_second(now.published, then.published),
            delivered: a_second(now.delivered, then.delivered),
            redelivered: a_second(now.redelivered, then.redelivered),
            acknowledged: a_second(now.acknowledged, then.acknowledged),
            waiting: growth(self.waiting, before.waiting),
            out: growth(self.out, before.out),
        }
    }
}

type Name = (Arc<str>, Arc<str>);

struct Look {
    at: Instant,
    all: State,
    queues: HashMap<Name, State>,
}

impl Look {
    fn at(server: &Shared) -> Self {
        let sums = totals(server, &Hosts::All);
        let all = State { counts: sums.counts, waiting: sums.waiting, out: sums.out };
        let rows = if sums.queues <= QUEUES { queues(server, &Hosts::All) } else { Vec::new() };
        let state = |row: QueueRow| {
            ((row.host, row.spec.name), State { counts: row.counts, waiting: row.waiting, out: row.out })
        };
        Self { at: Instant::now(), all, queues: rows.into_iter().map(state).collect() }
    }
}

/// The rates of the last seconds.
#[derive(Default)]
pub(super) struct Sampler {
    last: RefCell<Option<Look>>,
    all: RefCell<Rates>,
    queues: RefCell<HashMap<Name, Rates>>,
}

impl Sampler {
    /// Looks as long as there is a server.
    pub(super) async fn run(self: Rc<Self>, admin: Admin) {
        while let Ok(look) = admin.with(|server| Look::at(server)).await {
            self.take(look);
            sleep(EVERY).await;
        }
    }

    fn take(&self, look: Look) {
        if let Some(before) = self.last.borrow().as_ref() {
            let time = look.at.saturating_duration_since(before.at).max(Duration::from_millis(1));
            self.all.replace(look.all.rates_since(&before.all, time));
            let rates = look.queues.iter().filter_map(|(name, state)| {
                // One that is new has none yet.
                Some((name.clone(), state.rates_since(before.queues.get(name)?, time)))
            });
            self.queues.replace(rates.collect());
        }
        self.last.replace(Some(look));
    }

    pub(super) fn of_all(&self) -> Rates {
        *self.all.borrow()
    }

    pub(super) fn of_queue(&self, row: &QueueRow) -> Rates {
        let name = (row.host.clone(), row.spec.name.clone());
        self.queues.borrow().get(&name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let state = |published, waiting| State { counts: Counts { published, ..Counts::default() }, waiting, out: 0 };
        let look = |at, all: State| Look { at, all, queues: [(("/".into(), "q".into()), all)].into() };
        let sampler = Sampler::default();
        let begin = Instant::now();
        sampler.take(look(begin, state(10, 8)));
        assert_eq!(sampler.of_all(), Rates::default(), "one look is none");
        sampler.take(look(begin + Duration::from_secs(4), state(30, 6)));
        let rates = sampler.of_all();
        assert_eq!((rates.published, rates.waiting), (5.0, -0.5));
        assert_eq!(sampler.queues.borrow()[&("/".into(), "q".into())], rates);
    }
}
