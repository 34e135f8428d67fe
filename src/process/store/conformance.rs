//! What a store has to do, as checks of the trait [`Persister`] by its behaviour. One set for each store there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::Value;
use crate::error::ErrorKind;
use crate::process::ProcessState;

/// Stores, and the time that they go by.
trait Ground {
    type Store: Persister;

    /// A store, and another handle that uses the same one.
    async fn open(clock: Clock) -> (Self::Store, Self::Store, Kept);
}

/// What has to live as long as a store.
type Kept = Box<dyn std::any::Any>;

struct Memory;

impl Ground for Memory {
    type Store = MemoryPersister;

    async fn open(clock: Clock) -> (MemoryPersister, MemoryPersister, Kept) {
        let store = MemoryPersister::new().with_clock(clock);
        (store.clone(), store, Box::new(()))
    }
}

/// One file, opened twice, as two worker processes do it.
#[cfg(feature = "sqlite")]
struct Sqlite;

#[cfg(feature = "sqlite")]
impl Ground for Sqlite {
    type Store = SqlitePersister;

    async fn open(clock: Clock) -> (SqlitePersister, SqlitePersister, Kept) {
        let directory = Directory::new();
        let open = || SqlitePersister::builder(directory.path().join("store")).clock(clock.clone()).open();
        (open().await.unwrap(), open().await.unwrap(), Box::new(directory))
    }
}

/// A directory for one test.
#[cfg(feature = "sqlite")]
pub(super) struct Directory(std::path::PathBuf);

#[cfg(feature = "sqlite")]
impl Directory {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("homing-store-{}", crate::ids::unique()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }
}

#[cfg(feature = "sqlite")]
impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A store in a test, the same through another handle, and the time.
struct Bench<S> {
    store: S,
    other: S,
    ahead: Arc<AtomicU64>,
    _kept: Kept,
}

impl<S: Persister> Bench<S> {
    async fn new<G: Ground<Store = S>>() -> Self {
        let ahead = Arc::new(AtomicU64::new(0));
        let (store, other, kept) = G::open(Clock::Ahead(Arc::clone(&ahead))).await;
        Bench { store, other, ahead, _kept: kept }
    }

    fn pass(&self, time: Duration) {
        self.ahead.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    async fn create(&self) -> Pid {
        self.store.create(NewProcess::new("relax", 5)).await.unwrap()
    }

    async fn claim(&self, pid: &Pid, owner: &Owner) -> (LeaseId, Checkpoint) {
        match self.store.claim(pid.clone(), owner.clone()).await.unwrap() {
            Claim::Granted { lease, checkpoint, .. } => (lease, checkpoint),
            other => panic!("{other:?}"),
        }
    }

    async fn record(&self, pid: &Pid) -> Record {
        self.store.record(pid.clone()).await.unwrap().expect("it is there")
    }
}

/// An owner of whom nobody can know whether it lives.
fn elsewhere() -> Owner {
    Owner::from_parts(crate::ids::unique(), "far".to_owned(), "another boot".to_owned(), 7, 7)
}

/// An owner whose process has ended.
fn dead() -> Owner {
    let this = Owner::this_process();
    Owner::from_parts(
        crate::ids::unique(),
        this.host().to_owned(),
        this.place().to_owned(),
        this.os_pid(),
        this.started() + 1,
    )
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn finished(outputs: impl Into<Value>) -> Outcome {
    Outcome::Finished { exit_status: 3, outputs: outputs.into() }
}

async fn what_is_saved_is_what_the_next_owner_gets<S: Persister>(bench: Bench<S>) {
    let pid = bench.create().await;
    let (lease, first) = bench.claim(&pid, &Owner::this_process()).await;
    assert_eq!(
        (first.class(), first.state(), first.step(), first.body()),
        ("relax", ProcessState::Created, 0, &Value::from(5))
    );
    let since = at(3);
    let full = first
        .with_state(ProcessState::Waiting, at(4) + Duration::from_nanos(1))
        .with_step(7)
        .with_body(Value::Tuple(vec![Value::Null]))
        .with_pause(Some(PauseNote::new(Some("why \u{0}\n".to_owned()), since).in_step()))
        .with_brought(Value::from_iter([("x", f64::INFINITY)]))
        .with_status_text(Some("at 50 %".to_owned()));
    for wait in [
        None,
        Some(Wait::ForResume(String::new())),
        Some(Wait::Until(at(9))),
        Some(Wait::Children(vec![Pid::from(4), Pid::new("4").unwrap(), Pid::from(crate::ids::unique())])),
    ] {
        let checkpoint = full.clone().with_wait(wait);
        assert_eq!(bench.store.save(lease.clone(), checkpoint.clone()).await.unwrap(), Saved::Stored);
        assert_eq!(bench.other.record(pid.clone()).await.unwrap().unwrap().checkpoint(), &checkpoint);
    }
    bench.store.release(lease).await.unwrap();
    let (_, again) = bench.claim(&pid, &Owner::this_process()).await;
    assert_eq!(again, full.with_wait(Some(again.wait().unwrap().clone())));
}

async fn every_outcome_is_kept_and_ends_the_lease<S: Persister>(bench: Bench<S>) {
    for outcome in [
        finished(Value::from_iter([("a", 1)])),
        Outcome::Excepted { type_name: "E".into(), message: "m".into(), chain: vec!["c".into(), String::new()] },
        Outcome::Excepted { type_name: String::new(), message: String::new(), chain: vec![] },
        Outcome::Killed { message: None },
        Outcome::Killed { message: Some(String::new()) },
    ] {
        let pid = bench.create().await;
        let owner = Owner::this_process();
        let (lease, checkpoint) = bench.claim(&pid, &owner).await;
        let end = checkpoint.with_outcome(outcome.clone(), at(5));
        assert_eq!(bench.store.save(lease.clone(), end.clone()).await.unwrap(), Saved::Stored);
        assert_eq!(bench.other.claim(pid.clone(), owner).await.unwrap(), Claim::Ended(outcome.clone()));
        let record = bench.record(&pid).await;
        assert_eq!((record.outcome(), record.lease()), (Some(&outcome), None));
        // Whoever does not know whether it was stored, saves again.
        assert_eq!(bench.store.save(lease.clone(), end.clone()).await.unwrap(), Saved::Stored);
        let other = end.with_outcome(Outcome::Killed { message: Some("other".into()) }, at(6));
        assert_eq!(bench.store.save(lease, other).await.unwrap(), Saved::LeaseLost);
        assert_eq!(bench.record(&pid).await.outcome(), Some(&outcome));
        assert!(bench.store.delete(pid).await.unwrap());
    }
}

async fn a_process_has_one_lease<S: Persister>(bench: Bench<S>) {
    let pid = bench.create().await;
    let (one, two) = (Owner::this_process(), elsewhere());
    let (lease, checkpoint) = bench.claim(&pid, &one).await;
    for owner in [&one, &two] {
        let Claim::Held { by, .. } = bench.other.claim(pid.clone(), owner.clone()).await.unwrap() else { panic!() };
        assert_eq!(by, one, "nobody else, and not twice by the same");
    }
    assert_eq!(bench.store.delete(pid.clone()).await.unwrap_err().kind(), ErrorKind::InvalidState);
    bench.other.release(lease.clone()).await.unwrap();
    assert_eq!(bench.store.save(lease.clone(), checkpoint.clone()).await.unwrap(), Saved::LeaseLost);
    let (later, _) = bench.claim(&pid, &two).await;
    assert!(later.number() > lease.number());
    assert_eq!(bench.store.save(lease.clone(), checkpoint.clone().with_step(9)).await.unwrap(), Saved::LeaseLost);
    let line = LogLine::new(LogSource::Process, "late", at(1));
    assert_eq!(bench.store.append_log(lease.clone(), vec![line]).await.unwrap(), Saved::LeaseLost);
    bench.store.release(lease).await.unwrap();
    assert_eq!(bench.store.save(later, checkpoint).await.unwrap(), Saved::Stored, "the old one takes nothing from it");
    assert_eq!(bench.record(&pid).await.log_lines(), 0);
    assert_eq!(bench.store.claim(Pid::from(99), one).await.unwrap(), Claim::Unknown);
}

async fn a_lease_ends_by_time_unless_it_is_renewed<S: Persister>(bench: Bench<S>) {
    let (pid, owner) = (bench.create().await, elsewhere());
    let (lease, checkpoint) = bench.claim(&pid, &owner).await;
    bench.pass(LEASE_TIME - Duration::from_secs(5));
    assert_eq!(bench.store.renew(owner.clone()).await.unwrap(), std::slice::from_ref(&lease));
    assert_eq!(bench.store.renew(elsewhere()).await.unwrap(), []);
    bench.pass(LEASE_TIME - Duration::from_secs(5));
    assert!(matches!(bench.other.claim(pid.clone(), elsewhere()).await.unwrap(), Claim::Held { .. }));
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.store.save(lease.clone(), checkpoint.clone()).await.unwrap(), Saved::Stored, "nobody else has it");
    let Claim::Granted { lease: next, lost, .. } = bench.store.claim(pid.clone(), elsewhere()).await.unwrap() else {
        panic!("the lease has run out")
    };
    assert_eq!((next.number(), lost.as_ref()), (lease.number() + 1, Some(&owner)));
    assert_eq!(bench.store.renew(owner).await.unwrap(), [], "it is told what it has lost");
    assert_eq!(bench.store.save(lease, checkpoint.clone()).await.unwrap(), Saved::LeaseLost);
    assert_eq!(bench.store.save(next, checkpoint).await.unwrap(), Saved::Stored);
}

/// All leases have run out at once, and their owners are well.
async fn a_clock_that_is_set_forward_takes_no_process_from_who_is_there<S: Persister>(bench: Bench<S>) {
    let (pid, owner) = (bench.create().await, Owner::this_process());
    let (lease, checkpoint) = bench.claim(&pid, &owner).await;
    for _ in 0..2 {
        bench.pass(100 * LEASE_TIME);
        for store in [&bench.other, &bench.store] {
            let claim = store.claim(pid.clone(), elsewhere()).await.unwrap();
            assert!(matches!(&claim, Claim::Held { by, .. } if *by == owner), "{claim:?}");
        }
        assert_eq!(bench.store.renew(owner.clone()).await.unwrap(), std::slice::from_ref(&lease));
    }
    assert_eq!(bench.store.save(lease, checkpoint).await.unwrap(), Saved::Stored);
}

async fn a_dead_owner_loses_its_leases_at_once<S: Persister>(bench: Bench<S>) {
    let pid = bench.create().await;
    let (lost, checkpoint) = bench.claim(&pid, &dead()).await;
    let kept = bench.record(&pid).await.lease().unwrap().clone();
    assert!(!kept.stands_at(bench.ahead_now()) && kept.number() == lost.number());
    let claim = bench.store.claim(pid.clone(), Owner::this_process()).await.unwrap();
    let Claim::Granted { lease, lost: Some(from), .. } = claim else { panic!("{claim:?}") };
    assert_eq!(&from, kept.owner());
    assert_eq!(bench.store.save(lost, checkpoint).await.unwrap(), Saved::LeaseLost);
    bench.store.release(lease).await.unwrap();
    let claim = bench.store.claim(pid.clone(), dead()).await.unwrap();
    assert!(matches!(claim, Claim::Granted { lost: None, .. }), "what was given back is not lost: {claim:?}");
    assert!(bench.store.delete(pid.clone()).await.unwrap());
    assert!(!bench.store.delete(pid.clone()).await.unwrap());
    assert_eq!(bench.store.record(pid).await.unwrap(), None);
}

impl<S> Bench<S> {
    fn ahead_now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }
}

async fn a_child_is_made_once<S: Persister>(bench: Bench<S>) {
    let parent = bench.create().await;
    let make = async |store: &S, step, index| {
        store.create(NewProcess::new("child", index).child_of(ChildKey::new(&parent, step, index))).await.unwrap()
    };
    let first = make(&bench.store, 0, 0).await;
    assert_eq!(make(&bench.other, 0, 0).await, first);
    let others = [make(&bench.store, 0, 1).await, make(&bench.store, 1, 0).await];
    assert!(!others.contains(&first) && others[0] != others[1]);
    assert_eq!(bench.record(&first).await.child(), Some(&ChildKey::new(&parent, 0, 0)));
    assert!(bench.store.delete(first.clone()).await.unwrap());
    assert_ne!(make(&bench.store, 0, 0).await, first);
}

async fn a_task_makes_one_process<S: Persister>(bench: Bench<S>) {
    let make =
        async |store: &S, task: &str| store.create(NewProcess::new("relax", 1).made_by_task(task)).await.unwrap();
    let first = make(&bench.store, "a").await;
    assert_eq!(make(&bench.other, "a").await, first);
    assert_ne!(make(&bench.store, "b").await, first);
    let other = bench.create().await;
    assert_ne!(other, first);
    let listed = bench.store.list(ListFilter::new()).await.unwrap().processes;
    let task_of = |pid: &Pid| listed.iter().find(|process| process.pid() == pid).and_then(|process| process.task());
    assert_eq!((task_of(&first), task_of(&other)), (Some("a"), None), "a list has it");
    // The same task, with the pid that it asks for.
    let new = || NewProcess::new("relax", 1).made_by_task("c").with_pid(7);
    assert_eq!(bench.store.create(new()).await.unwrap(), Pid::from(7));
    assert_eq!(bench.store.create(new()).await.unwrap(), Pid::from(7));
    assert!(bench.store.delete(first.clone()).await.unwrap());
    assert_ne!(make(&bench.store, "a").await, first);
}

async fn a_pid_of_the_caller_is_taken_once<S: Persister>(bench: Bench<S>) {
    for pid in [
        Pid::from(40),
        Pid::new("40").unwrap(),
        Pid::from(-3),
        Pid::from(0),
        Pid::from(i64::MAX),
        Pid::from(i64::MIN),
        Pid::from(crate::ids::unique()),
        Pid::new("p").unwrap(),
    ] {
        let new = NewProcess::new("relax", Value::Null).with_pid(&pid);
        assert_eq!(bench.store.create(new.clone()).await.unwrap(), pid);
        assert_eq!(bench.other.create(new).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(bench.record(&pid).await.pid(), &pid);
    }
    let mut drawn = std::collections::HashSet::new();
    for _ in 0..50 {
        assert!(drawn.insert(bench.create().await), "the store draws none that there is");
    }
}

async fn what_cannot_be_stored_is_refused<S: Persister>(bench: Bench<S>) {
    let deep = (0..201).fold(Value::Null, |value, _| Value::List(vec![value]));
    let odd = Value::Tagged(Box::new(crate::codec::Tagged { tag: "no tag".into(), value: Value::Null }));
    for value in [deep, odd, Value::Timestamp("2021-02-30".into())] {
        let error = bench.store.create(NewProcess::new("relax", value.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        let new = NewProcess::new("relax", 1).with_inputs(Inputs::new().arg(value.clone()));
        assert_eq!(bench.store.create(new).await.unwrap_err().kind(), ErrorKind::Encode);
        let pid = bench.create().await;
        let (lease, checkpoint) = bench.claim(&pid, &Owner::this_process()).await;
        let saved = bench.store.save(lease.clone(), checkpoint.clone().with_body(value.clone())).await;
        assert_eq!(saved.unwrap_err().kind(), ErrorKind::Encode);
        let saved = bench.store.save(lease.clone(), checkpoint.clone().with_brought(value.clone())).await;
        assert_eq!(saved.unwrap_err().kind(), ErrorKind::Encode);
        let saved = bench.store.save(lease, checkpoint.clone().with_outcome(finished(value), at(1))).await;
        assert_eq!(saved.unwrap_err().kind(), ErrorKind::Encode);
        assert_eq!(bench.record(&pid).await.checkpoint(), &checkpoint);
    }
    let pid = bench.create().await;
    let (lease, checkpoint) = bench.claim(&pid, &Owner::this_process()).await;
    let mut wrong = vec![checkpoint.clone().with_state(ProcessState::Finished, at(1))];
    wrong.push(checkpoint.clone().with_outcome(finished(1), at(1)).with_state(ProcessState::Running, at(1)));
    wrong.push(checkpoint.with_outcome(finished(1), at(1)).with_state(ProcessState::Killed, at(1)));
    for checkpoint in wrong {
        let error = bench.store.save(lease.clone(), checkpoint).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(bench.store.create(NewProcess::new("", 1)).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

async fn inputs_are_kept<S: Persister>(bench: Bench<S>) {
    let inputs = Inputs::new().arg(Value::Bytes(vec![0, 255])).arg(Value::Null).kwarg("n", f64::NAN).kwarg("$map", 1);
    let pid = bench.store.create(NewProcess::new("relax", 1).with_inputs(inputs.clone())).await.unwrap();
    assert_eq!(bench.record(&pid).await.inputs(), &inputs);
}

async fn each_transition_is_noted_and_the_first_ones_dropped<S: Persister>(bench: Bench<S>) {
    let pid = bench.create().await;
    let (lease, mut checkpoint) = bench.claim(&pid, &Owner::this_process()).await;
    let created = checkpoint.created();
    let steps = MOST_TRANSITIONS + 50;
    for step in 0..steps {
        checkpoint = checkpoint.with_state(ProcessState::Running, at(step)).with_step(step);
        assert_eq!(bench.store.save(lease.clone(), checkpoint.clone()).await.unwrap(), Saved::Stored);
        if step == 0 {
            // Another text is no transition.
            let other = checkpoint.clone().with_status_text(Some("x".into()));
            assert_eq!(bench.store.save(lease.clone(), other).await.unwrap(), Saved::Stored);
            let states: Vec<_> = bench.record(&pid).await.transitions().iter().map(|one| one.state).collect();
            assert_eq!(states, [ProcessState::Created, ProcessState::Running]);
        }
    }
    let pause = PauseNote::new(None, at(steps));
    let paused = checkpoint.with_state(ProcessState::Running, at(steps)).with_pause(Some(pause));
    assert_eq!(bench.store.save(lease, paused).await.unwrap(), Saved::Stored);
    let record = bench.record(&pid).await;
    let transitions = record.transitions();
    assert_eq!(transitions.len() as u64, MOST_TRANSITIONS);
    assert_eq!(record.transitions_dropped(), steps + 2 - MOST_TRANSITIONS);
    assert_eq!((transitions[0].state, transitions[0].at), (ProcessState::Created, created));
    assert_eq!(transitions[1].step, record.transitions_dropped());
    let last = transitions.last().unwrap();
    assert!(last.is_paused && last.at == at(steps) && last.step == steps - 1);
}

async fn a_list_has_what_its_filter_lets_through<S: Persister>(bench: Bench<S>) {
    let owner = Owner::this_process();
    let mut pids = Vec::new();
    for n in 0..6u64 {
        let pid = bench.store.create(NewProcess::new(if n % 2 == 0 { "even" } else { "odd" }, n)).await.unwrap();
        pids.push(pid.clone());
        bench.pass(Duration::from_secs(10));
        let (lease, checkpoint) = bench.claim(&pid, &owner).await;
        let checkpoint = match n {
            0 | 1 => checkpoint.with_outcome(finished(n), bench.ahead_now()),
            2 | 3 => checkpoint
                .with_state(ProcessState::Waiting, bench.ahead_now())
                .with_pause(Some(PauseNote::new(None, at(n)))),
            _ => checkpoint,
        };
        assert_eq!(bench.store.save(lease, checkpoint).await.unwrap(), Saved::Stored);
    }
    let found = async |filter: ListFilter| {
        let listing = bench.other.list(filter).await.unwrap();
        assert!(listing.unreadable.is_empty());
        listing.processes.iter().map(|one| pids.iter().position(|pid| pid == one.pid()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(found(ListFilter::new()).await, [5, 4, 3, 2, 1, 0]);
    assert_eq!(found(ListFilter::new().limit(2)).await, [5, 4]);
    assert_eq!(found(ListFilter::new().limit(0)).await, [0; 0]);
    assert_eq!(found(ListFilter::new().unfinished()).await, [5, 4, 3, 2]);
    assert_eq!(found(ListFilter::new().state(ProcessState::Finished).state(ProcessState::Waiting)).await, [3, 2, 1, 0]);
    assert_eq!(found(ListFilter::new().state(ProcessState::Killed)).await, [0; 0]);
    assert_eq!(found(ListFilter::new().class("odd").unfinished().limit(5)).await, [5, 3]);
    assert_eq!(found(ListFilter::new().class("od")).await, [0; 0]);
    let created = bench.record(&pids[3]).await.checkpoint().created();
    assert_eq!(found(ListFilter::new().created_since(created)).await, [5, 4, 3]);
    assert_eq!(found(ListFilter::new().changed_since(created + Duration::from_secs(5))).await, [5, 4, 3]);

    let all = bench.store.unfinished().await.unwrap().processes;
    assert!(all.iter().all(|one| one.lease().is_some_and(|lease| lease.owner() == &owner)));
    let two = &all[3];
    assert_eq!((two.class(), two.state(), two.step(), two.exit_status()), ("even", ProcessState::Waiting, 0, None));
    assert_eq!(two.pause().map(PauseNote::since), Some(at(2)));
    let ended = bench.store.list(ListFilter::new().state(ProcessState::Finished).limit(1)).await.unwrap().processes;
    assert_eq!((ended[0].exit_status(), ended[0].lease()), (Some(3), None));
}

async fn a_log_is_followed_and_bounded<S: Persister>(bench: Bench<S>) {
    let pid = bench.create().await;
    let (lease, checkpoint) = bench.claim(&pid, &Owner::this_process()).await;
    let line = |n: u64| LogLine::new(LogSource::ALL[usize::try_from(n % 3).unwrap()], format!("line {n}"), at(n));
    let add = async |lines: Vec<LogLine>| {
        assert_eq!(bench.store.append_log(lease.clone(), lines).await.unwrap(), Saved::Stored);
    };
    let read = async |from, limit| bench.other.log(pid.clone(), from, limit).await.unwrap();
    assert_eq!(read(0, 10).await, LogPage { is_at_end: true, ..LogPage::default() });
    add(vec![line(0), line(1)]).await;
    add(vec![]).await;
    add((2..5).map(line).collect()).await;
    let page = read(1, 2).await;
    assert_eq!((page.next, page.dropped, page.is_at_end), (3, 0, false));
    assert_eq!(page.lines.iter().map(LogLine::number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((page.lines[1].text(), page.lines[1].at(), page.lines[1].source()), ("line 2", at(2), LogSource::Error));
    let page = read(page.next, 10).await;
    assert_eq!((page.next, page.lines.len(), page.is_at_end), (5, 2, true));
    let page = read(page.next, 10).await;
    assert_eq!((page.next, page.lines.len(), page.is_at_end), (5, 0, true));
    assert_eq!(read(99, 10).await.next, 5, "nobody is ahead of the log");

    // By lines, in one call and over many.
    add((5..MOST_LINES + 100).map(line).collect()).await;
    let page = read(0, usize::MAX).await;
    assert_eq!((page.lines.len() as u64, page.dropped, page.lines[0].number()), (MOST_LINES, 100, 100));
    add((0..10).map(line).collect()).await;
    let page = read(105, 10).await;
    assert_eq!((page.dropped, page.lines[0].number(), page.next), (5, 110, 120));
    // By bytes.
    let long = "x".repeat(60_000);
    for _ in 0..8 {
        add((0..10).map(|n| LogLine::new(LogSource::Output, &*long, at(n))).collect()).await;
    }
    let page = read(0, usize::MAX).await;
    let bytes: usize = page.lines.iter().map(|line| line.text().len()).sum();
    assert_eq!(bytes, 69 * 60_000, "one more would be over the limit");
    assert_eq!(page.next, MOST_LINES + 190);
    assert_eq!(bench.record(&pid).await.log_lines(), page.next);
    // The last lines may come after the end, while nobody else has the process.
    let end = checkpoint.with_outcome(finished(1), at(1));
    assert_eq!(bench.store.save(lease.clone(), end).await.unwrap(), Saved::Stored);
    add(vec![line(1)]).await;
    assert!(bench.store.delete(pid.clone()).await.unwrap());
    assert_eq!(read(7, 10).await, LogPage { next: 7, is_at_end: true, ..LogPage::default() });
}

async fn one_of_many_claims_is_granted<S: Persister>(bench: Bench<S>) {
    for _ in 0..20 {
        let pid = bench.create().await;
        let claims = (0..16).map(|n| {
            let store = if n % 2 == 0 { &bench.store } else { &bench.other };
            store.claim(pid.clone(), elsewhere())
        });
        let claims = futures_util::future::join_all(claims).await;
        let granted = claims.iter().filter(|claim| matches!(claim, Ok(Claim::Granted { .. }))).count();
        let held = claims.iter().filter(|claim| matches!(claim, Ok(Claim::Held { .. }))).count();
        assert_eq!((granted, held), (1, 15));
    }
}

/// Dropped at any point, a claim leaves no lease with an owner who does not know of it.
async fn a_claim_that_is_dropped_leaves_no_lease<S: Persister>(bench: Bench<S>) {
    let owner = Owner::this_process();
    for polls in 0..50 {
        let pid = bench.create().await;
        let mut claim = bench.store.claim(pid.clone(), owner.clone());
        let mut is_done = false;
        for _ in 0..polls {
            is_done = futures_util::poll!(&mut claim).is_ready();
            if is_done {
                break;
            }
            tokio::time::sleep(Duration::from_micros(20)).await;
        }
        drop(claim);
        if is_done {
            continue;
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !matches!(bench.other.claim(pid.clone(), elsewhere()).await.unwrap(), Claim::Granted { .. }) {
            assert!(std::time::Instant::now() < deadline, "the lease is kept by nobody");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

macro_rules! conform {
    ($ground:ident: $module:ident) => {
        conform! { @ $ground $module
            what_is_saved_is_what_the_next_owner_gets
            every_outcome_is_kept_and_ends_the_lease
            a_process_has_one_lease
            a_lease_ends_by_time_unless_it_is_renewed
            a_clock_that_is_set_forward_takes_no_process_from_who_is_there
            a_dead_owner_loses_its_leases_at_once
            a_child_is_made_once
            a_task_makes_one_process
            a_pid_of_the_caller_is_taken_once
            what_cannot_be_stored_is_refused
            inputs_are_kept
            each_transition_is_noted_and_the_first_ones_dropped
            a_list_has_what_its_filter_lets_through
            a_log_is_followed_and_bounded
            one_of_many_claims_is_granted
            a_claim_that_is_dropped_leaves_no_lease
        }
    };
    (@ $ground:ident $module:ident $($check:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $check() {
                    super::$check(super::Bench::new::<super::$ground>().await).await;
                }
            )*
        }
    };
}

conform!(Memory: memory);
#[cfg(feature = "sqlite")]
conform!(Sqlite: sqlite);
