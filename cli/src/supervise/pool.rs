//! All workers of a supervisor: how many there are, a restart one by one, and when the supervisor has come to its end. Pure, as
//! [`worker`](super::worker) is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::worker::{Action, End, Event, How, Incarnation, Moment, Number, State, Worker};
use crate::args::MOST_WORKERS as MOST;

/// As long as no worker has ever come up: how often each may die by a signal before the supervisor gives up.
const HOPELESS: u32 = 3;

/// What is to be done about one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub worker: Number,
    pub action: Action,
}

/// Why something that was asked for is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub String);

/// A restart of all workers, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rolling {
    /// Which restart it is, counted from 1.
    pub id: u64,
    waiting: VecDeque<(Number, Incarnation)>,
    /// The worker whose turn it is, and the process that it had.
    current: Option<(Number, Incarnation)>,
    /// Workers whose new process is up.
    pub restarted: Vec<Number>,
    /// Why it was given up.
    pub given_up: Option<String>,
}

impl Rolling {
    pub(super) fn is_under_way(&self) -> bool {
        self.given_up.is_none() && (self.current.is_some() || !self.waiting.is_empty())
    }
}

/// Whether the supervisor goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoesOn,
    /// It was to end, and no worker is left.
    Over,
    /// It has ended since no worker ever came up; how one of them ended.
    NoneCameUp(Number, End),
}

#[derive(Debug)]
pub(super) struct Pool {
    workers: BTreeMap<Number, Worker>,
    grace: Duration,
    rolling: Option<Rolling>,
    stopping: bool,
    /// A worker has come up at some time.
    ever_up: bool,
    hopeless: Option<(Number, End)>,
}

impl Pool {
    /// So many workers, and the starts of their processes. A process may take `grace` to end.
    pub(super) fn new(count: u16, grace: Duration, now: Moment) -> (Self, Vec<Order>) {
        let mut pool =
            Pool { workers: BTreeMap::new(), grace, rolling: None, stopping: false, ever_up: false, hopeless: None };
        let orders = pool.grow(count, now).1;
        (pool, orders)
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = (Number, &Worker)> {
        self.workers.iter().map(|(number, worker)| (*number, worker))
    }

    pub(super) fn worker(&self, number: Number) -> Option<&Worker> {
        self.workers.get(&number)
    }

    /// The last restart of all workers.
    pub(super) fn rolling(&self) -> Option<&Rolling> {
        self.rolling.as_ref()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(super) fn ever_up(&self) -> bool {
        self.ever_up
    }

    /// When the passing of time changes something.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.workers.values().filter_map(Worker::deadline).min()
    }

    pub(super) fn verdict(&self) -> Verdict {
        match &self.hopeless {
            _ if !self.stopping || !self.workers.is_empty() => Verdict::GoesOn,
            Some((number, end)) => Verdict::NoneCameUp(*number, end.clone()),
            None => Verdict::Over,
        }
    }

    /// A process takes work.
    pub(super) fn up(&mut self, number: Number, incarnation: Incarnation, now: Moment) -> Vec<Order> {
        let mut orders = self.deliver(number, Event::Up(incarnation), now);
        self.ever_up |= self.worker(number).is_some_and(|worker| worker.state() == State::Running);
        orders.extend(self.roll(now));
        orders
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, number: Number, incarnation: Incarnation, end: End, now: Moment) -> Vec<Order> {
        let mut orders = self.deliver(number, Event::Ended(incarnation, end), now);
        if !self.ever_up
            && !self.stopping
            && !self.workers.is_empty()
            && self.workers.values().all(failed_to_start)
            && let Some((number, worker)) = self.workers.iter().next()
            && let Some(end) = worker.last_end()
        {
            self.hopeless = Some((*number, end.clone()));
            orders.extend(self.stop(now));
        }
        orders.extend(self.roll(now));
        orders
    }

    pub(super) fn time_passed(&mut self, now: Moment) -> Vec<Order> {
        self.deliver_to_all(&Event::TimePassed, now)
    }

    /// More workers: their numbers.
    pub(super) fn add(&mut self, count: u16, now: Moment) -> Result<(Vec<Number>, Vec<Order>), Refused> {
        self.not_stopping()?;
        let are = self.workers.len();
        if are + usize::from(count) > usize::from(MOST) {
            return Err(Refused(format!("there are {are} workers, and {MOST} are the most that a supervisor keeps")));
        }
        Ok(self.grow(count, now))
    }

    /// Fewer workers: the numbers of those that end. First those that do not take work, then those of the highest numbers.
    pub(super) fn remove(&mut self, count: u16, now: Moment) -> Result<(Vec<Number>, Vec<Order>), Refused> {
        self.not_stopping()?;
        let mut staying: Vec<(bool, std::cmp::Reverse<Number>)> = self
            .workers
            .iter()
            .filter(|(_, worker)| !is_leaving(worker))
            .map(|(number, worker)| (worker.state() == State::Running, std::cmp::Reverse(*number)))
            .collect();
        let are = staying.len();
        if usize::from(count) > are {
            return Err(Refused(format!("there are {are} workers to remove, and not {count}")));
        }
        staying.sort_unstable();
        let leaving: Vec<Number> = staying[..usize::from(count)].iter().map(|(_, number)| number.0).collect();
        let mut orders = Vec::new();
        for number in &leaving {
            orders.extend(self.deliver(*number, Event::Remove, now));
        }
        orders.extend(self.roll(now));
        Ok((leaving, orders))
    }

    /// A new process for each worker, one after the other: the next only when the one before takes work again. The number of
    /// the restart.
    pub(super) fn restart(&mut self, now: Moment) -> Result<(u64, Vec<Order>), Refused> {
        self.not_stopping()?;
        if self.rolling.as_ref().is_some_and(Rolling::is_under_way) {
            return Err(Refused(
                "a restart is under way; `homing workers status`, with the same options, shows how far it is"
                    .to_owned(),
            ));
        }
        let id = self.rolling.as_ref().map_or(0, |rolling| rolling.id) + 1;
        let waiting = self.workers.iter().filter(|(_, worker)| !is_leaving(worker));
        let waiting = waiting.map(|(number, worker)| (*number, worker.incarnation())).collect();
        self.rolling = Some(Rolling { id, waiting, current: None, restarted: Vec::new(), given_up: None });
        Ok((id, self.roll(now)))
    }

    /// All workers end, and the supervisor with the last of them.
    pub(super) fn stop(&mut self, now: Moment) -> Vec<Order> {
        self.stopping = true;
        if let Some(rolling) = self.rolling.as_mut().filter(|rolling| rolling.is_under_way()) {
            rolling.given_up = Some("the supervisor ends".to_owned());
        }
        self.deliver_to_all(&Event::Remove, now)
    }

    fn not_stopping(&self) -> Result<(), Refused> {
        if self.stopping { Err(Refused("the supervisor ends".to_owned())) } else { Ok(()) }
    }

    fn grow(&mut self, count: u16, now: Moment) -> (Vec<Number>, Vec<Order>) {
        let free = (1..=u16::MAX).map(Number).filter(|number| !self.workers.contains_key(number));
        let numbers: Vec<Number> = free.take(usize::from(count)).collect();
        let mut orders = Vec::new();
        for number in &numbers {
            let (worker, action) = Worker::new(self.grace, now);
            self.workers.insert(*number, worker);
            orders.push(Order { worker: *number, action });
        }
        (numbers, orders)
    }

    fn deliver(&mut self, number: Number, event: Event, now: Moment) -> Vec<Order> {
        let Some(worker) = self.workers.get_mut(&number) else { return Vec::new() };
        let action = worker.handle(event, now);
        if worker.state() == State::Removed {
            self.workers.remove(&number);
        }
        action.into_iter().map(|action| Order { worker: number, action }).collect()
    }

    fn deliver_to_all(&mut self, event: &Event, now: Moment) -> Vec<Order> {
        let numbers: Vec<Number> = self.workers.keys().copied().collect();
        numbers.into_iter().flat_map(|number| self.deliver(number, event.clone(), now)).collect()
    }

    /// Takes the restart of all workers as far as it can go now.
    fn roll(&mut self, now: Moment) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some(rolling) = self.rolling.as_mut().filter(|rolling| rolling.is_under_way()) {
            if let Some((number, before)) = rolling.current {
                match self.workers.get(&number) {
                    // One that was removed meanwhile is not waited for.
                    None => {}
                    Some(worker) if is_leaving(worker) => {}
                    // Its process still ends.
                    Some(worker) if worker.incarnation() == before => break,
                    Some(worker) => match worker.state() {
                        State::Running => rolling.restarted.push(number),
                        State::Starting => break,
                        _ => {
                            let why = worker.last_end().map_or_else(String::new, |end| format!(" ({end})"));
                            rolling.given_up = Some(format!(
                                "the new process of worker {number} did not come up{why}; the others go on"
                            ));
                            break;
                        }
                    },
                }
                rolling.current = None;
            }
            let Some((number, before)) = rolling.waiting.pop_front() else { break };
            let Some(worker) = self.workers.get(&number).filter(|worker| !is_leaving(worker)) else { continue };
            let has_new_process = worker.incarnation() != before;
            if has_new_process && worker.has_process() {
                // It died meanwhile. Its new process is waited for as if it had been started now.
                rolling.current = Some((number, before));
            } else {
                rolling.current = Some((number, worker.incarnation()));
                orders.extend(self.deliver(number, Event::Restart, now));
            }
        }
        orders
    }
}

/// Whether a worker ends for good.
fn is_leaving(worker: &Worker) -> bool {
    matches!(worker.state(), State::Removed | State::Stopping { next: super::worker::Next::Nothing, .. })
}

/// Whether a worker that never came up will most likely not come up either the next time. An exit code is its own verdict; a
/// signal may come from anywhere.
fn failed_to_start(worker: &Worker) -> bool {
    match worker.last_end().map(|end| &end.how) {
        Some(How::Code(0)) | None => worker.deaths() >= HOPELESS,
        Some(How::Code(_) | How::NotStarted(_)) => true,
        Some(How::Signal(_)) => worker.deaths() >= HOPELESS,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn end(how: How) -> End {
        End { how, last_line: None }
    }

    /// A pool with the processes that its orders make.
    struct World {
        pool: Pool,
        now: Moment,
        alive: BTreeMap<Number, Incarnation>,
        asked: BTreeSet<Number>,
    }

    impl World {
        fn new(count: u16) -> Self {
            let (pool, orders) = Pool::new(count, GRACE, at(0));
            let mut world = World { pool, now: at(0), alive: BTreeMap::new(), asked: BTreeSet::new() };
            world.obey(orders);
            world
        }

        fn obey(&mut self, orders: Vec<Order>) {
            for Order { worker, action } in orders {
                match action {
                    Action::Start(incarnation) => {
                        assert!(self.alive.insert(worker, incarnation).is_none(), "two processes of worker {worker}");
                        self.asked.remove(&worker);
                    }
                    Action::Terminate(of) | Action::Kill(of) => {
                        assert_eq!(self.alive.get(&worker), Some(&of));
                        self.asked.insert(worker);
                    }
                }
            }
        }

        fn up(&mut self, number: u16) {
            let incarnation = self.alive[&Number(number)];
            let orders = self.pool.up(Number(number), incarnation, self.now);
            self.obey(orders);
        }

        fn all_up(&mut self) {
            let alive: Vec<u16> = self.alive.keys().map(|number| number.0).collect();
            alive.into_iter().for_each(|number| self.up(number));
        }

        fn ends(&mut self, number: u16, how: How) {
            let incarnation = self.alive.remove(&Number(number)).unwrap();
            self.asked.remove(&Number(number));
            let orders = self.pool.ended(Number(number), incarnation, end(how), self.now);
            self.obey(orders);
        }

        fn asked(&self) -> Vec<u16> {
            self.asked.iter().map(|number| number.0).collect()
        }

        fn numbers(&self) -> Vec<u16> {
            self.pool.workers().map(|(number, _)| number.0).collect()
        }

        fn passes(&mut self, seconds: u64) {
            self.now += at(seconds);
            let orders = self.pool.time_passed(self.now);
            self.obey(orders);
        }
    }

    #[test]
    fn a_restart_has_one_worker_at_a_time_without_a_process() {
        let mut world = World::new(3);
        world.all_up();
        let (id, orders) = world.pool.restart(world.now).unwrap();
        world.obey(orders);
        assert!(world.pool.restart(world.now).is_err(), "one at a time");
        for number in 1..=3 {
            assert_eq!(world.asked(), [number], "only this one was asked to end");
            world.ends(number, How::Code(0));
            assert!(world.asked().is_empty(), "the next one waits until it takes work");
            world.up(number);
        }
        let rolling = world.pool.rolling().unwrap();
        assert_eq!((rolling.id, rolling.is_under_way(), rolling.restarted.len()), (id, false, 3));
        assert!(world.alive.values().all(|incarnation| incarnation.0 == 2));
        assert!(world.pool.restart(world.now).is_ok());
    }

    #[test]
    fn a_restart_whose_new_process_fails_leaves_the_others_alone() {
        let mut world = World::new(3);
        world.all_up();
        let (_, orders) = world.pool.restart(world.now).unwrap();
        world.obey(orders);
        world.ends(1, How::Code(0));
        world.ends(1, How::Code(2));
        let rolling = world.pool.rolling().unwrap();
        assert!(rolling.given_up.as_ref().unwrap().contains("exit code 2"), "{rolling:?}");
        assert!(world.asked().is_empty() && world.alive.len() == 2);
        world.passes(60);
        world.up(1);
        assert!(world.asked().is_empty(), "it is not taken up again");
    }

    #[test]
    fn a_restart_passes_over_workers_that_left_or_died_meanwhile() {
        let mut world = World::new(4);
        world.all_up();
        let (_, orders) = world.pool.restart(world.now).unwrap();
        world.obey(orders);
        // 3 dies by itself and has a new process; 4 is removed; so is 1, whose turn it is.
        world.ends(3, How::Signal(9));
        world.up(3);
        let (removed, orders) = world.pool.remove(1, world.now).unwrap();
        world.obey(orders);
        // 1 does not take work: it goes first.
        assert_eq!(removed, [Number(1)]);
        world.ends(1, How::Code(0));
        let (removed, orders) = world.pool.remove(1, world.now).unwrap();
        world.obey(orders);
        assert_eq!(removed, [Number(2)], "it ends, for its restart");
        assert_eq!(world.asked(), [2, 4]);
        world.ends(2, How::Code(0));
        world.ends(4, How::Code(0));
        world.up(4);
        let rolling = world.pool.rolling().unwrap();
        assert!(!rolling.is_under_way() && rolling.given_up.is_none(), "{rolling:?}");
        assert_eq!(rolling.restarted, [Number(3), Number(4)]);
        assert_eq!(world.numbers(), [3, 4]);
    }

    #[test]
    fn a_restart_waits_for_a_worker_that_died_meanwhile() {
        let mut world = World::new(4);
        world.all_up();
        let (_, orders) = world.pool.restart(world.now).unwrap();
        world.obey(orders);
        // 2 has a new process that is not up, when its turn comes; 3 backs off.
        world.ends(2, How::Signal(9));
        world.ends(3, How::Signal(9));
        world.ends(3, How::Signal(9));
        world.ends(1, How::Code(0));
        world.up(1);
        assert!(world.asked().is_empty() && !world.alive.contains_key(&Number(3)), "2 does not take work yet");
        world.up(2);
        assert!(
            world.asked().is_empty() && world.alive.contains_key(&Number(3)),
            "3 is started, before its pause is over"
        );
        world.up(3);
        assert_eq!(world.asked(), [4]);
        world.ends(4, How::Code(0));
        world.up(4);
        assert_eq!(world.pool.rolling().unwrap().restarted.len(), 4);
    }

    #[test]
    fn a_restart_of_a_worker_that_backs_off_starts_it_at_once() {
        let mut world = World::new(1);
        world.all_up();
        world.ends(1, How::Signal(9));
        world.ends(1, How::Signal(9));
        assert!(world.alive.is_empty());
        let (_, orders) = world.pool.restart(world.now).unwrap();
        world.obey(orders);
        assert_eq!(world.alive.len(), 1);
        world.up(1);
        assert_eq!(world.pool.rolling().unwrap().restarted, [Number(1)]);
    }

    #[test]
    fn numbers_are_given_again_and_bounded() {
        let mut world = World::new(3);
        world.all_up();
        let (removed, orders) = world.pool.remove(2, world.now).unwrap();
        world.obey(orders);
        assert_eq!(removed, [Number(3), Number(2)], "the highest first");
        assert!(world.pool.remove(2, world.now).is_err(), "one is left to remove");
        // They still drain.
        let (added, orders) = world.pool.add(1, world.now).unwrap();
        world.obey(orders);
        assert_eq!(added, [Number(4)]);
        world.ends(2, How::Code(0));
        let (added, orders) = world.pool.add(1, world.now).unwrap();
        world.obey(orders);
        assert_eq!((added, world.numbers()), (vec![Number(2)], vec![1, 2, 3, 4]));
        assert!(world.pool.add(MOST - 3, world.now).is_err());
        assert!(world.pool.add(MOST - 4, world.now).is_ok());
        // None at all is a number, too.
        let mut world = World::new(1);
        world.all_up();
        let (_, orders) = world.pool.remove(1, world.now).unwrap();
        world.obey(orders);
        world.ends(1, How::Code(0));
        assert_eq!((world.numbers().len(), world.pool.verdict()), (0, Verdict::GoesOn));
    }

    #[test]
    fn one_that_fails_leaves_first() {
        let mut world = World::new(3);
        world.all_up();
        world.ends(1, How::Signal(9));
        world.ends(1, How::Signal(9));
        assert_eq!(world.pool.remove(1, world.now).unwrap().0, [Number(1)]);
        assert_eq!(world.numbers(), [2, 3]);
    }

    #[test]
    fn a_supervisor_none_of_whose_workers_comes_up_ends_with_their_error() {
        let mut world = World::new(2);
        world.ends(1, How::Code(2));
        assert_eq!(world.pool.verdict(), Verdict::GoesOn, "the other may come up");
        world.ends(2, How::Code(2));
        assert_eq!(world.pool.verdict(), Verdict::NoneCameUp(Number(1), end(How::Code(2))));
        assert!(world.alive.is_empty());
        // One that is on its second attempt is asked to end.
        let mut world = World::new(2);
        world.ends(1, How::Code(2));
        world.passes(5);
        assert_eq!(world.alive.len(), 2);
        world.ends(2, How::NotStarted("no memory".into()));
        assert_eq!((world.asked(), world.pool.verdict()), (vec![1], Verdict::GoesOn));
        world.ends(1, How::Code(0));
        assert_eq!(world.pool.verdict(), Verdict::NoneCameUp(Number(1), end(How::Code(2))));
    }

    #[test]
    fn a_signal_is_no_verdict_before_the_third() {
        let mut world = World::new(1);
        for _ in 0..2 {
            world.ends(1, How::Signal(9));
            assert_eq!(world.pool.verdict(), Verdict::GoesOn);
            world.passes(60);
        }
        world.ends(1, How::Signal(9));
        assert_eq!(world.pool.verdict(), Verdict::NoneCameUp(Number(1), end(How::Signal(9))));
    }

    #[test]
    fn once_a_worker_was_up_the_supervisor_goes_on() {
        let mut world = World::new(2);
        world.up(1);
        world.ends(2, How::Code(2));
        world.ends(1, How::Code(2));
        for _ in 0..10 {
            world.passes(60);
            for number in [1, 2] {
                world.ends(number, How::Code(2));
            }
        }
        assert_eq!(world.pool.verdict(), Verdict::GoesOn);
        assert!(world.pool.workers().all(|(_, worker)| matches!(worker.state(), State::BackingOff { .. })));
        let orders = world.pool.stop(world.now);
        world.obey(orders);
        assert_eq!(world.pool.verdict(), Verdict::Over);
    }

    #[test]
    fn a_stop_asks_all_at_once_and_refuses_the_rest() {
        let mut world = World::new(3);
        world.all_up();
        let (_, orders) = world.pool.restart(world.now).unwrap();
        world.obey(orders);
        let orders = world.pool.stop(world.now);
        world.obey(orders);
        assert_eq!(world.asked(), [1, 2, 3]);
        assert!(world.pool.add(1, world.now).is_err() && world.pool.remove(1, world.now).is_err());
        assert!(world.pool.restart(world.now).is_err());
        assert!(world.pool.rolling().unwrap().given_up.is_some());
        for number in 1..=3 {
            assert_eq!(world.pool.verdict(), Verdict::GoesOn);
            world.ends(number, How::Code(0));
        }
        assert_eq!(world.pool.verdict(), Verdict::Over);
    }

    #[test]
    fn random_runs_never_restart_two_at_once_and_always_stop() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut world = World::new(random.u16(1..5));
            let mut wanted = world.numbers().len();
            for _ in 0..150 {
                world.passes(random.u64(0..20));
                let alive: Vec<u16> = world.alive.keys().map(|number| number.0).collect();
                let any = (!alive.is_empty()).then(|| alive[random.usize(0..alive.len())]);
                match (random.u8(0..10), any) {
                    (0..=2, Some(number)) => world.up(number),
                    (3..=4, Some(number)) => world.ends(number, How::Signal(9)),
                    (5, Some(number)) => world.ends(number, How::Code(random.i32(0..3))),
                    (6, _) => {
                        let count = random.u16(1..3);
                        if let Ok((added, orders)) = world.pool.add(count, world.now) {
                            world.obey(orders);
                            wanted += added.len();
                        }
                    }
                    (7, _) => {
                        if let Ok((removed, orders)) = world.pool.remove(1, world.now) {
                            world.obey(orders);
                            wanted -= removed.len();
                        }
                    }
                    (8, _) => {
                        if let Ok((_, orders)) = world.pool.restart(world.now) {
                            world.obey(orders);
                        }
                    }
                    _ => {}
                }
                if world.pool.is_stopping() {
                    assert!(!world.pool.ever_up(), "seed {seed}: nobody asked for it");
                    break;
                }
                let (staying, leaving): (Vec<_>, Vec<_>) =
                    world.pool.workers().partition(|(_, worker)| !is_leaving(worker));
                assert_eq!(staying.len(), wanted, "seed {seed}");
                let restarting =
                    staying.iter().filter(|(_, worker)| matches!(worker.state(), State::Stopping { .. })).count();
                assert!(restarting <= 1, "seed {seed}: {restarting} are restarted at once");
                assert!(leaving.iter().all(|(number, _)| world.asked.contains(number)), "seed {seed}");
                let under_way = world.pool.rolling().filter(|rolling| rolling.is_under_way());
                if let Some((number, _)) = under_way.and_then(|rolling| rolling.current) {
                    let worker =
                        world.pool.worker(number).unwrap_or_else(|| panic!("seed {seed}: it waits for nobody"));
                    assert!(
                        matches!(worker.state(), State::Stopping { .. } | State::Starting),
                        "seed {seed}: it waits for one that is {:?}",
                        worker.state()
                    );
                }
            }
            let orders = world.pool.stop(world.now);
            world.obey(orders);
            world.passes(GRACE.as_secs());
            for number in world.alive.keys().map(|number| number.0).collect::<Vec<_>>() {
                assert!(world.asked.contains(&Number(number)), "seed {seed}");
                world.ends(number, How::Signal(9));
            }
            assert_ne!(world.pool.verdict(), Verdict::GoesOn, "seed {seed}");
        }
    }
}
