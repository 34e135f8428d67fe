//! Programs that are killed while they store: what was confirmed is there, whole, and their leases are free at once.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};

use tokio::sync::oneshot;

use super::*;

const VARIABLE: &str = "HOMING_STORE_CRASH";
const NAME: &str = "crash::what_was_confirmed_survives_a_kill";

/// Steps of each process until it ends.
const STEPS: u64 = 4;

/// Creates processes and takes them through their steps until it is killed. What is confirmed goes to standard output.
async fn work(path: &Path) {
    let store = SqlitePersister::open(path).await.unwrap();
    let owner = Owner::this_process();
    futures_util::future::join_all((0..6).map(|_| one_after_the_other(&store, &owner))).await;
}

async fn one_after_the_other(store: &SqlitePersister, owner: &Owner) {
    loop {
        let pid = store.create(NewProcess::new("relax", body(0))).await.unwrap();
        println!("@ {pid} created 0");
        let Claim::Granted { lease, checkpoint, .. } = store.claim(pid.clone(), owner.clone()).await.unwrap() else {
            panic!("nobody else has it")
        };
        for step in 1..=STEPS {
            let mut next = checkpoint.clone().with_state(ProcessState::Running, SystemTime::now());
            next = next.with_step(step).with_body(body(step)).with_status_text(Some(step.to_string()));
            if step == STEPS {
                let outcome = Outcome::Finished { exit_status: 0, outputs: body(step) };
                next = next.with_outcome(outcome, SystemTime::now());
            }
            let lines = (0..3).map(|_| LogLine::new(LogSource::Process, step.to_string(), SystemTime::now()));
            assert_eq!(store.append_log(lease.clone(), lines.collect()).await.unwrap(), Saved::Stored);
            println!("@ {pid} logged {}", 3 * step);
            assert_eq!(store.save(lease.clone(), next).await.unwrap(), Saved::Stored);
            println!("@ {pid} saved {step}");
        }
    }
}

/// The step in many places, over several pages, so that a half of it would be seen.
fn body(step: u64) -> Value {
    Value::List(vec![Value::from(step); 2000])
}

/// What a child has confirmed: the last step and the lines of each of its processes.
type Confirmed = HashMap<Pid, (u64, u64)>;

/// Reads what is confirmed; `begun` is gone when the first of this kind is, or nothing comes any more.
fn confirmed(output: ChildStdout, first: &str, begun: oneshot::Sender<()>) -> Confirmed {
    let mut known = Confirmed::new();
    let mut begun = Some(begun);
    for line in BufReader::new(output).lines() {
        let line = line.unwrap();
        // The first one follows what the test harness writes.
        let Some((_, line)) = line.split_once("@ ") else { continue };
        let words: Vec<_> = line.split(' ').collect();
        // The last line may have been cut by the kill: its number may be a smaller one, never a larger one.
        let [pid, what, number] = words[..] else { continue };
        let (Ok(pid), Ok(number)) = (pid.parse(), number.parse()) else { continue };
        let (step, lines) = known.entry(pid).or_insert((0, 0));
        if what == first {
            begun = None;
        }
        match what {
            "saved" => *step = number,
            "logged" => *lines = number,
            _ => {}
        }
    }
    drop(begun);
    known
}

async fn check(store: &SqlitePersister, pid: &Pid, (step, lines): (u64, u64)) {
    let stored = record(store, pid).await;
    let checkpoint = stored.checkpoint();
    let reached = checkpoint.step();
    assert!(reached >= step && reached <= step + 1, "{pid}: step {step} was confirmed, and {reached} is stored");
    assert_eq!(checkpoint.body(), &body(reached), "{pid}: of one transition");
    assert_eq!(checkpoint.status_text().map(str::to_owned), (reached > 0).then(|| reached.to_string()));
    assert_eq!(stored.outcome().is_some(), reached == STEPS);
    assert!(stored.lease().is_none() || reached < STEPS, "{pid}: the lease ends with it");
    let last = stored.transitions().last().unwrap();
    assert_eq!((last.step, last.state, last.at), (reached, checkpoint.state(), checkpoint.changed()));
    assert_eq!(stored.transitions().len() as u64, reached + 1, "{pid}: each transition is noted");
    let page = store.log(pid.clone(), 0, usize::MAX).await.unwrap();
    let kept = page.lines.len() as u64;
    assert!(
        kept >= lines && kept <= lines + 3 && kept.is_multiple_of(3),
        "{pid}: {lines} lines were confirmed, and {kept} are there"
    );
    assert!(page.lines.iter().map(LogLine::number).eq(0..kept));
}

#[tokio::test]
async fn what_was_confirmed_survives_a_kill() {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return work(Path::new(&path)).await;
    }
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    let rounds = std::env::var("HOMING_STORE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let (mut killed, mut saves, mut free) = (0, 0, 0);
    for round in 0..rounds {
        let mut children = [0; 2].map(|_| {
            let mut child = child(NAME, VARIABLE, path.as_ref());
            let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let output = child.stdout.take().unwrap();
            let (begun, begins) = oneshot::channel();
            let first = if round % 2 == 0 { "created" } else { "saved" };
            (child, begins, std::thread::spawn(move || confirmed(output, first, begun)))
        });
        // Guards: a machine so busy that none of them has begun by then.
        for (_, begins, _) in &mut children {
            let _ = tokio::time::timeout(Duration::from_secs(60), begins).await;
        }
        for (child, ..) in &mut children {
            // The first one is killed while the other goes on.
            tokio::time::sleep(Duration::from_micros(round * 7919 % 150_000)).await;
            child.kill().unwrap();
        }
        let mut known = Confirmed::new();
        for (mut child, _, output) in children {
            known.extend(output.join().unwrap());
            child.wait().unwrap();
            killed += 1;
        }
        for (pid, confirmed) in known {
            saves += confirmed.0;
            check(&store, &pid, confirmed).await;
        }
        // Both are dead: nothing is held, and nothing waits for a time to pass.
        for one in store.unfinished().await.unwrap().processes {
            let claim = store.claim(one.pid().clone(), Owner::this_process()).await.unwrap();
            let Claim::Granted { lease, checkpoint, lost } = claim else { panic!("{claim:?}") };
            assert_eq!(lost.as_ref(), one.lease().map(Lease::owner));
            let outcome = Outcome::Killed { message: None };
            let end = checkpoint.with_outcome(outcome, SystemTime::now());
            assert_eq!(store.save(lease, end).await.unwrap(), Saved::Stored);
            free += 1;
        }
    }
    let check: String = raw(&path).pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    assert!(saves > 0 && free > 0, "{killed} killed, {saves} saves confirmed, {free} leases free at once");
    println!("{killed} killed, {saves} saves confirmed, {free} processes free at once");
}
