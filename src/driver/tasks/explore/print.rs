//! The fingerprint of a world. Two worlds that differ only in the numbers of their tasks, leases, deliveries and claims are
//! the same world: each number is replaced by its rank.

use super::world::{Ask, Copied, Place, World};
use crate::driver::tasks::in_hand::{State, Wish};
use crate::driver::tasks::timers::Due;
use crate::driver::tasks::{Attempt, Channel, DeliveryTag, Generation, LeaseId, Marks, TaskId};

/// Two hashes of 64 bits with different seeds.
struct Printer {
    one: u64,
    other: u64,
}

impl Printer {
    fn put(&mut self, number: u64) {
        self.one = (self.one.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.other = (self.other.rotate_left(7) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
}

struct Ranks {
    tasks: Vec<TaskId>,
    leases: Vec<LeaseId>,
    tags: Vec<DeliveryTag>,
    generation: u64,
    incarnations: [u32; 2],
}

fn rank<T: Ord>(all: &[T], one: &T) -> u64 {
    all.binary_search(one).map_or(u64::MAX, |at| at as u64)
}

fn sorted<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Ranks {
    fn of(world: &World) -> Self {
        let book = &world.book;
        let asks = || world.asked.iter().chain(world.done.iter().map(|(ask, _)| ask));
        let mut tasks: Vec<TaskId> = book.in_hand.keys().chain(book.making.values()).copied().collect();
        tasks.extend(world.hands.keys().map(|id| id.task));
        let mut leases: Vec<LeaseId> = book.making.keys().chain(book.orphans.keys()).copied().collect();
        let mut tags: Vec<DeliveryTag> = world.coming.iter().map(|coming| coming.tag).collect();
        for known in book.in_hand.values() {
            tags.extend(known.tickets.keys());
            leases.extend(known.leases.standing.iter().chain(&known.leases.doubtful).chain(&known.leases.lapsed));
            if let Some(making) = &known.leases.making {
                leases.push(making.lease);
                tags.extend(&making.covers);
            }
        }
        for copy in &world.copies {
            match copy.at {
                Place::Out(tag) => tags.push(tag),
                Place::Lease(lease) => leases.push(lease),
                Place::Queue | Place::Quarantine => {}
            }
        }
        for ask in asks() {
            match *ask {
                Ask::Ack(tag) | Ask::Requeue(tag) => tags.push(tag),
                Ask::MakeLease(lease, _) | Ask::DeleteLease(lease) => leases.push(lease),
                Ask::Move(task, _, _) => tasks.push(task),
            }
        }
        Ranks {
            tasks: sorted(tasks),
            leases: sorted(leases),
            tags: sorted(tags),
            generation: world.generation,
            incarnations: world.incarnations,
        }
    }

    fn task(&self, task: TaskId) -> u64 {
        rank(&self.tasks, &task)
    }

    fn lease(&self, lease: LeaseId) -> u64 {
        rank(&self.leases, &lease)
    }

    fn channel(&self, channel: Channel) -> u64 {
        if channel.generation != Generation(self.generation) {
            return 99;
        }
        let now = self.incarnations[channel.lane as usize];
        u64::from(channel.lane) << 8 | u64::from(now.saturating_sub(channel.incarnation))
    }

    fn tag(&self, tag: DeliveryTag) -> u64 {
        rank(&self.tags, &tag) << 16 | self.channel(tag.channel)
    }
}

fn marks(marks: Marks) -> u64 {
    u64::from(marks.resend) << 40 | u64::from(marks.lease) << 20 | u64::from(marks.attempt)
}

pub(super) fn print(world: &World) -> u128 {
    let ranks = Ranks::of(world);
    let mut printer = Printer { one: 0x1234_5678_9abc_def0, other: 0x0fed_cba9_8765_4321 };
    print_world(world, &ranks, &mut printer);
    print_book(world, &ranks, &mut printer);
    u128::from(printer.one) << 64 | u128::from(printer.other)
}

fn print_world(world: &World, ranks: &Ranks, to: &mut Printer) {
    for Copied { at, note, redelivered } in &world.copies {
        to.put(match *at {
            Place::Queue => 1,
            Place::Quarantine => 2,
            Place::Out(tag) => 3 | ranks.tag(tag) << 4,
            Place::Lease(lease) => 4 | u64::from(world.lapsed.contains(&lease)) << 3 | ranks.lease(lease) << 4,
        });
        to.put(u64::from(note.number) << 1 | u64::from(*redelivered));
        to.put(marks(note.marks));
    }
    to.put(u64::MAX);
    for coming in &world.coming {
        to.put(ranks.tag(coming.tag) << 1 | u64::from(coming.redelivered));
        to.put(marks(coming.note.marks) ^ u64::from(coming.note.number) << 60);
    }
    to.put(u64::MAX);
    let answers = world.done.iter().map(|(ask, known)| (ask, *known as u64 + 1));
    for (ask, known) in world.asked.iter().map(|ask| (ask, 0)).chain(answers) {
        let (what, note) = match *ask {
            Ask::Ack(tag) => (ranks.tag(tag) << 8, None),
            Ask::Requeue(tag) => (1 | ranks.tag(tag) << 8, None),
            Ask::MakeLease(lease, note) => (2 | ranks.lease(lease) << 8, Some(note)),
            Ask::DeleteLease(lease) => {
                (3 | u64::from(world.emptied.contains(&lease)) << 3 | ranks.lease(lease) << 8, None)
            }
            Ask::Move(task, note, to_quarantine) => {
                (4 | u64::from(to_quarantine) << 3 | ranks.task(task) << 8, Some(note))
            }
        };
        to.put(what | known << 4);
        if let Some(note) = note {
            to.put(marks(note.marks) ^ u64::from(note.number) << 60);
        }
    }
    to.put(u64::MAX);
    for (id, hand) in &world.hands {
        let is_current = world.book.in_hand.get(&id.task).is_some_and(|known| known.round == id.round);
        let claim = hand.claim.and_then(|claim| world.claims.states.get(&claim.0)).map_or(9, |state| *state as u64);
        to.put(ranks.task(id.task) << 8 | claim << 4 | u64::from(is_current) << 1 | u64::from(hand.is_marked));
        to.put(marks(hand.note.marks) ^ u64::from(hand.note.number) << 60);
    }
    let budget = world.budget;
    for one in [
        budget.losses,
        budget.lanes,
        budget.fails,
        budget.leases,
        budget.expiries,
        budget.tries,
        budget.panics,
        budget.backs,
        budget.rejects,
        budget.quarantines,
        budget.homes,
        budget.leaves,
        budget.pulls,
        budget.resends,
        budget.thefts,
        budget.drains,
        budget.closes,
    ] {
        to.put(one.into());
    }
    for at in 0..world.sent.len() {
        to.put(
            u64::from(world.finished[at].min(3)) << 32
                | u64::from(world.unmarked[at]) << 16
                | u64::from(world.at_once[at]) << 8
                | world.finished_here[at].len() as u64,
        );
        world.finished_here[at].iter().for_each(|ended| to.put(marks(*ended)));
    }
    to.put(world.subscribers.len() as u64);
    to.put(world.fitted as u64);
    to.put(
        u64::from(world.is_up)
            | u64::from(world.has_failed) << 1
            | u64::from(world.is_over) << 2
            | u64::from(world.was_sent_again) << 3
            | u64::from(world.has_overtaken) << 4,
    );
    to.put(world.unheard.map_or(0, |channel| ranks.channel(channel) + 1));
}

fn print_book(world: &World, ranks: &Ranks, to: &mut Printer) {
    let book = &world.book;
    to.put(book.mode as u64 | u64::from(book.connection.is_some()) << 4);
    for Channel { lane, incarnation, .. } in book.closed.latest() {
        to.put(u64::from(lane) << 8 | u64::from(world.incarnations[lane as usize].saturating_sub(incarnation)));
    }
    let before = |subscriber| world.subscribers.iter().filter(|known| **known <= subscriber).count() as u64;
    for (task, known) in &book.in_hand {
        to.put(ranks.task(*task));
        to.put(u64::from(known.message.number));
        to.put(known.asked.map_or(0, |asked| before(asked) + 1));
        to.put(match known.attempt {
            Attempt::Exactly(number) => u64::from(number) << 1,
            Attempt::AtLeast(number) => u64::from(number) << 1 | 1,
        });
        to.put(
            u64::from(known.redelivered)
                | u64::from(known.is_reported) << 2
                | u64::from(known.is_counted) << 3
                | u64::from(known.failures) << 8,
        );
        match &known.state {
            // Its claim is printed with the hand that has it.
            State::Offered { to: subscriber, .. } => {
                to.put(1 | u64::from(world.subscribers.contains(subscriber)) << 4 | before(*subscriber) << 8);
            }
            State::Held => to.put(2),
            State::Pausing { then } => to.put(3 | wish(then) << 4),
            State::Waiting { then } => to.put(4 | wish(then) << 4),
            State::Moving { then, marks: on_the_way } => {
                to.put(5 | wish(then) << 4);
                to.put(marks(*on_the_way));
            }
        }
        for (tag, (source, of)) in &known.tickets {
            to.put(ranks.tag(*tag) << 1 | *source as u64);
            to.put(marks(*of));
        }
        let mut lost = known.lost.clone();
        lost.sort_unstable();
        for (of, times) in lost {
            to.put(marks(of));
            to.put(times.into());
        }
        to.put(u64::MAX);
        known.seen.iter().for_each(|seen| to.put(marks(*seen)));
        to.put(u64::MAX);
        known.unsure.iter().for_each(|unsure| to.put(marks(*unsure)));
        to.put(known.leased.map_or(u64::MAX, marks));
        to.put(marks(known.marks));
        to.put(known.leases.standing.map_or(u64::MAX, |lease| ranks.lease(lease)));
        known.leases.doubtful.iter().for_each(|lease| to.put(ranks.lease(*lease)));
        to.put(u64::MAX);
        known.leases.lapsed.iter().for_each(|lease| to.put(ranks.lease(*lease)));
        to.put(u64::MAX);
        if let Some(making) = &known.leases.making {
            to.put(ranks.lease(making.lease));
            making.covers.iter().for_each(|tag| to.put(ranks.tag(*tag)));
        }
    }
    to.put(u64::MAX);
    for (lease, task) in &book.making {
        to.put(ranks.lease(*lease) << 16 | ranks.task(*task));
    }
    to.put(u64::MAX);
    for (lease, orphan) in &book.orphans {
        to.put(ranks.lease(*lease) << 16 | u64::from(orphan.is_asked) << 8 | u64::from(orphan.failures));
        // A task that has ended is not reported.
        let stood_for = orphan.stood_for.filter(|task| book.in_hand.contains_key(task));
        to.put(stood_for.map_or(u64::MAX, |task| ranks.task(task)));
        // They count for a task that is there alone.
        to.put(
            u64::from(stood_for.is_some() && orphan.is_doubtful) << 1
                | u64::from(stood_for.is_some() && orphan.is_over),
        );
    }
    to.put(u64::MAX);
    book.acknowledged.print(|number| to.put(number), |channel| ranks.channel(channel));
    for note in &world.sent {
        to.put(book.pauses.times(note.number.into()).min(1).into());
    }
    for due in book.timers.all() {
        to.put(match due {
            Due::Pause(task) => 1 | ranks.task(task) << 4,
            Due::Lease(task) => 2 | ranks.task(task) << 4,
            Due::LeaseOver(task) => 3 | ranks.task(task) << 4,
            Due::Delete(lease) => 4 | ranks.lease(lease) << 4,
            Due::FormerOver(lease) => 5 | ranks.lease(lease) << 4,
        });
    }
    to.put(book.queues.len() as u64);
}

fn wish(wish: &Wish<u8>) -> u64 {
    match wish {
        Wish::Back => 1,
        Wish::Retry { attempt } => 2 | u64::from(*attempt) << 4,
        Wish::Quarantine { .. } => 3,
    }
}
