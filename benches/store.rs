//! How fast the store of processes is: transitions saved each second by one, a hundred and a thousand processes at once, what
//! a checkpoint takes, and what a list takes. `cargo bench --features sqlite --bench store -- [DIRECTORY]`.
//!
//! The directory decides: each transaction waits for its disk. Without one it is the system's for temporary files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use homing::Value;
use homing::process::ProcessState;
use homing::process::store::{
    Checkpoint, Claim, LeaseId, ListFilter, LogLine, LogSource, NewProcess, Owner, Persister, Saved, SqlitePersister,
};

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(3);

/// How many processes are listed.
const LISTED: usize = 10_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo test --benches only looks whether it runs.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let given = arguments.iter().find(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let directory = given.unwrap_or_else(std::env::temp_dir).join(format!("homing-bench-store-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let measured = runtime.block_on(measure(&directory.join("store")));
    drop(runtime);
    std::fs::remove_dir_all(&directory).expect("it is ours");
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What a class keeps of itself in many programs: about 200 bytes.
fn body() -> Value {
    Value::from_iter([
        ("command", Value::from(vec!["sh", "-c", "sleep 1; echo done"])),
        ("directory", "relax-1234".into()),
        ("environment", Value::from_iter([("OMP_NUM_THREADS", "1"), ("LANG", "C.UTF-8")])),
        ("started", 1_800_000_000.25.into()),
    ])
}

async fn granted(store: &SqlitePersister, owner: &Owner) -> homing::Result<(LeaseId, Checkpoint)> {
    let pid = store.create(NewProcess::new("shell", body())).await?;
    match store.claim(pid, owner.clone()).await? {
        Claim::Granted { lease, checkpoint, .. } => Ok((lease, checkpoint)),
        other => panic!("nobody else is there: {other:?}"),
    }
}

async fn measure(path: &std::path::Path) -> homing::Result<()> {
    let store = SqlitePersister::open(path).await?;
    let owner = Owner::this_process();
    for processes in [1, 10, 100, 1000] {
        let granted = join_all((0..processes).map(|_| granted(&store, &owner))).await;
        let start = Instant::now();
        let saves = join_all(granted.into_iter().map(|granted| save_on(&store, granted, start))).await;
        let saves: u64 = saves.into_iter().sum::<homing::Result<_>>()?;
        let each = saves as f64 / start.elapsed().as_secs_f64();
        println!("{processes:5} processes at once: {each:8.0} saves/s");
    }
    let start = Instant::now();
    let created = join_all((0..LISTED).map(|_| granted(&store, &owner))).await;
    created.into_iter().collect::<homing::Result<Vec<_>>>()?;
    println!("created and claimed: {:8.0} a second", LISTED as f64 / start.elapsed().as_secs_f64());

    for (what, filter) in [
        ("the newest 10,000", ListFilter::new().limit(LISTED)),
        ("the newest 50", ListFilter::new().limit(50)),
        ("10,000 unfinished", ListFilter::new().unfinished().limit(LISTED)),
        ("the finished, none of all", ListFilter::new().state(ProcessState::Finished)),
    ] {
        let start = Instant::now();
        let listed = store.list(filter).await?.processes.len();
        println!("list {what}: {:.1} ms for {listed}", start.elapsed().as_secs_f64() * 1e3);
    }
    let start = Instant::now();
    let leases = store.renew(owner.clone()).await?.len();
    println!("renew {leases} leases: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);

    let (lease, _) = granted(&store, &owner).await?;
    let line = LogLine::new(LogSource::Output, "step 17: energy -1234.5678 eV, force 0.0123 eV/A", SystemTime::now());
    let (start, mut lines) = (Instant::now(), 0_u64);
    while start.elapsed() < TIME {
        let _ = store.append_log(lease.clone(), vec![line.clone(); 100]).await?;
        lines += 100;
    }
    println!("log, 100 lines at a time: {:.0} lines/s", lines as f64 / start.elapsed().as_secs_f64());
    println!("the body of a checkpoint: {} bytes", body().to_json_text().len());
    Ok(())
}

async fn save_on(
    store: &SqlitePersister,
    granted: homing::Result<(LeaseId, Checkpoint)>,
    start: Instant,
) -> homing::Result<u64> {
    let (lease, mut checkpoint) = granted?;
    let mut saves = 0;
    while start.elapsed() < TIME {
        saves += 1;
        checkpoint = checkpoint.with_state(ProcessState::Running, SystemTime::now()).with_step(saves);
        let saved = store.save(lease.clone(), checkpoint.clone()).await?;
        assert_eq!(saved, Saved::Stored);
    }
    Ok(saves)
}
