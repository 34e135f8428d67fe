//! The books of the stress program, kept apart from the library: what was made, how each of it ended, and where each
//! value was dropped.
//!
//! Every future (and every call) has an [`Entry`]. Its waiter holds a [`Watch`], its producer a share, its value is a
//! [`Token`]. When the last of them is gone, the entry is settled: one outcome seen, or none since the program gave the
//! future up or ended its home. Anything else is counted as what it is: lost, doubled, misplaced, wrong.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};

use homing::home::{End, Home, Outcome};
use parking_lot::Mutex;

use super::decision::{Deed, FutureKind, HomeKind, Route};

/// What was seen of a future, as the report counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Value,
    Cancelled,
    Abandoned,
    TimedOut,
    HomeEnded,
    WrongHome,
    Exception,
    Unroutable,
    Closed,
}

impl Seen {
    pub(crate) const ALL: [(Seen, &'static str); 9] = [
        (Seen::Value, "value"),
        (Seen::Cancelled, "cancelled"),
        (Seen::Abandoned, "abandoned"),
        (Seen::TimedOut, "timed out"),
        (Seen::HomeEnded, "home ended"),
        (Seen::WrongHome, "wrong home"),
        (Seen::Exception, "exception"),
        (Seen::Unroutable, "unroutable"),
        (Seen::Closed, "closed"),
    ];
}

/// The totals. All counts are of this run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub made: AtomicU64,
    pub settled: AtomicU64,
    /// By what was seen.
    pub ended: [AtomicU64; Seen::ALL.len()],
    /// Dropped unfinished, by a decision of the program.
    pub given_up: AtomicU64,
    /// Unfinished when the program ended their home.
    pub home_ended: AtomicU64,
    pub made_by_kind: [AtomicU64; FutureKind::ALL.len()],
    pub made_by_home: [AtomicU64; HomeKind::ALL.len()],
    pub homes: [AtomicU64; HomeKind::ALL.len()],
    pub communicators: AtomicU64,
    /// Places for messages under way that were tried when no call was, and those of them that were not free.
    pub permits_probed: AtomicU64,
    pub permits_held: AtomicU64,
    /// Identifiers that were called after the home of their subscriber had ended, and those where nobody answered and nobody
    /// was reported to be missing.
    pub subscribers_asked: AtomicU64,
    pub unserved: AtomicU64,
    pub closes: AtomicU64,
    pub late_closes: AtomicU64,
    pub values: AtomicU64,
    pub dropped_at_home: AtomicU64,
    pub dropped_by_sender: AtomicU64,
    pub dropped_after_home: AtomicU64,
    pub lost: AtomicU64,
    pub doubled: AtomicU64,
    pub misplaced: AtomicU64,
    pub wrong: AtomicU64,
    /// What was wrong, in words, the first few.
    pub remarks: Mutex<Vec<String>>,
}

fn add(counter: &AtomicU64) {
    // Ordering: Relaxed, for the totals are read when all threads are joined or settled.
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Ledger {
    /// Counts something that may not be.
    pub(crate) fn is_wrong(&self, text: impl FnOnce() -> String) {
        add(&self.wrong);
        self.remark(text);
    }

    fn remark(&self, text: impl FnOnce() -> String) {
        let mut remarks = self.remarks.lock();
        if remarks.len() < 20 {
            remarks.push(text());
        }
    }
}

/// Where a home is, found out without the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Thread(ThreadId),
    Runtime(tokio::runtime::Id),
}

impl At {
    pub(crate) fn this_thread() -> Self {
        At::Thread(thread::current().id())
    }

    fn is_here(self) -> bool {
        match self {
            At::Thread(id) => thread::current().id() == id,
            At::Runtime(id) => tokio::runtime::Handle::try_current().is_ok_and(|runtime| runtime.id() == id),
        }
    }
}

/// What the books know of one home.
#[derive(Debug)]
pub(crate) struct HomeRecord {
    pub kind: HomeKind,
    /// Its place among the homes of its kind, and how many stood there before.
    pub slot: usize,
    pub generation: u64,
    place: OnceLock<(At, Home)>,
    /// Set by the program before it ends the home.
    ending: AtomicBool,
    /// Whether it waits for what is open before it ends.
    drains: AtomicBool,
    open: AtomicUsize,
    open_by_kind: [AtomicUsize; FutureKind::ALL.len()],
    /// The one that its thread waits for now, by its place in `FutureKind::ALL`; behind the last for none.
    waits_for: AtomicU8,
    /// How many blocking waits stand within each other.
    pub depth: AtomicUsize,
    pub steps: AtomicU64,
    room: Mutex<Option<(usize, Waker)>>,
}

impl HomeRecord {
    pub(crate) fn new(ledger: &Ledger, kind: HomeKind, slot: usize, generation: u64) -> Arc<Self> {
        add(&ledger.homes[kind as usize]);
        Arc::new(HomeRecord {
            kind,
            slot,
            generation,
            place: OnceLock::new(),
            ending: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            open_by_kind: Default::default(),
            waits_for: AtomicU8::new(u8::MAX),
            depth: AtomicUsize::new(0),
            steps: AtomicU64::new(0),
            room: Mutex::new(None),
        })
    }

    /// Says where the home is. Once, before anything is made there.
    pub(crate) fn stands(&self, at: At, home: Home) {
        let _ = self.place.set((at, home));
    }

    pub(crate) fn home(&self) -> Option<&Home> {
        self.place.get().map(|(_, home)| home)
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {} (the {}. to stand there)", self.kind.name(), self.slot, self.generation + 1)
    }

    pub(crate) fn will_drain(&self, drains: bool) {
        self.drains.store(drains, Ordering::SeqCst);
    }

    pub(crate) fn drains(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    pub(crate) fn will_end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    pub(crate) fn is_here(&self) -> bool {
        self.place.get().is_some_and(|(at, _)| at.is_here())
    }

    /// As the library says; that it may drop values elsewhere from then on is its own rule.
    pub(crate) fn has_ended(&self) -> bool {
        self.home().is_none_or(Home::has_ended)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// What is open, in words, for the watchdog.
    pub(crate) fn open_in_words(&self) -> String {
        let mut words: Vec<String> = FutureKind::ALL
            .iter()
            .filter_map(|kind| match self.open_by_kind[*kind as usize].load(Ordering::SeqCst) {
                0 => None,
                n => Some(format!("{n} of the kind `{}`", kind.name())),
            })
            .collect();
        let waits = FutureKind::ALL.get(usize::from(self.waits_for.load(Ordering::SeqCst)));
        if let Some(kind) = waits {
            words.push(format!("its thread waits in `{}`", kind.name()));
        }
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }

    /// While it lives, the home's thread waits for a future of this kind.
    pub(crate) fn waits(self: &Arc<Self>, kind: FutureKind) -> Waits {
        self.depth.fetch_add(1, Ordering::SeqCst);
        Waits(Arc::clone(self), self.waits_for.swap(kind as u8, Ordering::SeqCst))
    }

    /// Resolves when fewer than this many futures are open.
    pub(crate) async fn until_open_below(&self, limit: usize) {
        std::future::poll_fn(|context| {
            if self.open() < limit {
                return Poll::Ready(());
            }
            let old = self.room.lock().replace((limit, context.waker().clone()));
            drop(old);
            if self.open() < limit { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn opens(&self, kind: FutureKind) {
        self.open_by_kind[kind as usize].fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    fn closes(&self, kind: FutureKind) {
        self.open_by_kind[kind as usize].fetch_sub(1, Ordering::SeqCst);
        let left = self.open.fetch_sub(1, Ordering::SeqCst) - 1;
        let waker = {
            let mut room = self.room.lock();
            if room.as_ref().is_some_and(|(limit, _)| left < *limit) { room.take() } else { None }
        };
        if let Some((_, waker)) = waker {
            waker.wake();
        }
    }
}

pub(crate) struct Waits(Arc<HomeRecord>, u8);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waits_for.store(self.1, Ordering::SeqCst);
        self.0.depth.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One future, or one call.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    pub home: Arc<HomeRecord>,
    kind: FutureKind,
    deed: Deed,
    route: Route,
    outcomes: AtomicU8,
    doubled: AtomicBool,
    seen: AtomicU8,
    given_up: AtomicBool,
    went_with_home: AtomicBool,
}

impl Entry {
    /// Notes that a future is made.
    pub(crate) fn new(
        ledger: &Arc<Ledger>,
        home: &Arc<HomeRecord>,
        kind: FutureKind,
        deed: Deed,
        route: Route,
    ) -> Arc<Self> {
        add(&ledger.made);
        add(&ledger.made_by_kind[kind as usize]);
        add(&ledger.made_by_home[home.kind as usize]);
        Arc::new(Entry {
            ledger: Arc::clone(ledger),
            home: Arc::clone(home),
            kind,
            deed,
            route,
            outcomes: AtomicU8::new(0),
            doubled: AtomicBool::new(false),
            seen: AtomicU8::new(0),
            given_up: AtomicBool::new(false),
            went_with_home: AtomicBool::new(false),
        })
    }

    /// The waiter's side, one an entry.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        self.home.opens(self.kind);
        Watch { entry: Arc::clone(self) }
    }

    fn in_words(&self) -> String {
        format!("`{}` on {}, {:?} by {:?}", self.kind.name(), self.home.name(), self.deed, self.route)
    }

    pub(crate) fn kind(&self) -> FutureKind {
        self.kind
    }

    pub(crate) fn route(&self) -> Route {
        self.route
    }

    /// From here on its outcome is noted twice: a seeded fault.
    pub(crate) fn will_be_doubled(&self) {
        self.doubled.store(true, Ordering::SeqCst);
    }

    fn wrong(&self, what: &str) {
        self.ledger.is_wrong(|| format!("wrong: {what}: {}", self.in_words()));
    }

    /// True when this end may be seen.
    fn may_end(&self, end: End) -> bool {
        match end {
            End::Cancelled => self.deed == Deed::Cancel,
            // A deed that another home was to do is not done when that home has ended before.
            End::Abandoned => matches!(self.deed, Deed::Drop | Deed::Panic) || self.route == Route::Home,
            End::TimedOut => self.kind.has_deadline(),
            End::WrongHome => self.kind == FutureKind::PolledAway,
            End::HomeEnded => self.home.is_ending(),
            _ => false,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let ledger = &self.ledger;
        match *self.outcomes.get_mut() {
            0 if *self.given_up.get_mut() => add(&ledger.given_up),
            0 if *self.went_with_home.get_mut() => add(&ledger.home_ended),
            0 => {
                add(&ledger.lost);
                ledger.remark(|| format!("lost: its waiter saw no outcome: {}", self.in_words()));
            }
            1 => add(&ledger.ended[usize::from(*self.seen.get_mut())]),
            _ => {
                add(&ledger.doubled);
                ledger.remark(|| format!("doubled: more than one outcome was seen: {}", self.in_words()));
            }
        }
        add(&ledger.settled);
    }
}

/// The waiter's side of an entry. To be used up by what it saw or by giving up; dropped otherwise, its home must be ending.
#[derive(Debug)]
pub(crate) struct Watch {
    entry: Arc<Entry>,
}

impl Watch {
    pub(crate) fn home(&self) -> &Arc<HomeRecord> {
        &self.entry.home
    }

    /// Notes the outcome of a future, checks that it may be, and drops its value here.
    pub(crate) fn saw(&self, outcome: Outcome<Token>) {
        super::race::touch();
        match outcome {
            Ok(token) => {
                self.note(Seen::Value);
                if !Arc::ptr_eq(&token.entry, &self.entry) {
                    add(&self.entry.ledger.misplaced);
                    self.entry.ledger.remark(|| format!("misplaced: the value of another: {}", self.entry.in_words()));
                }
                if !self.entry.deed.brings_a_value() {
                    self.entry.wrong("a value, and nobody sent one");
                }
            }
            Err(end) => {
                self.note(match end {
                    End::Cancelled => Seen::Cancelled,
                    End::Abandoned => Seen::Abandoned,
                    End::TimedOut => Seen::TimedOut,
                    End::WrongHome => Seen::WrongHome,
                    _ => Seen::HomeEnded,
                });
                if !self.entry.may_end(end) {
                    self.entry.wrong(&format!("ended as {end:?}"));
                }
            }
        }
    }

    /// Notes an outcome.
    pub(crate) fn note(&self, seen: Seen) {
        let times = if self.entry.doubled.load(Ordering::SeqCst) { 2 } else { 1 };
        self.entry.outcomes.fetch_add(times, Ordering::SeqCst);
        self.entry.seen.store(seen as u8, Ordering::SeqCst);
    }

    pub(crate) fn wrong(&self, what: &str) {
        self.entry.wrong(what);
    }

    /// Notes that the program drops the future unfinished.
    pub(crate) fn gives_up(&self) {
        self.entry.given_up.store(true, Ordering::SeqCst);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let entry = &self.entry;
        if entry.outcomes.load(Ordering::SeqCst) == 0 && entry.home.is_ending() {
            entry.went_with_home.store(true, Ordering::SeqCst);
        }
        entry.home.closes(entry.kind);
    }
}

/// The value of a future. It notes where it is dropped.
#[derive(Debug)]
pub(crate) struct Token {
    entry: Arc<Entry>,
    handed_back: bool,
}

impl Token {
    pub(crate) fn new(entry: &Arc<Entry>) -> Self {
        add(&entry.ledger.values);
        Token { entry: Arc::clone(entry), handed_back: false }
    }

    /// The library gave it back to its sender, which it may do only when the home has ended.
    pub(crate) fn is_handed_back(&mut self) {
        self.handed_back = true;
        if !self.entry.home.has_ended() {
            self.entry.wrong("a value was handed back while its home lived");
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let (home, ledger) = (&self.entry.home, &self.entry.ledger);
        if self.handed_back {
            add(&ledger.dropped_by_sender);
        } else if home.is_here() {
            add(&ledger.dropped_at_home);
        } else if home.has_ended() {
            add(&ledger.dropped_after_home);
        } else {
            add(&ledger.misplaced);
            ledger.remark(|| format!("misplaced: a value was dropped off its home: {}", self.entry.in_words()));
        }
    }
}
