//! A store that is locked, full or damaged: a clear error, nothing lost, and it goes on when it can.

use super::*;

async fn open(directory: &Directory) -> SqlitePersister {
    SqlitePersister::open(directory.path().join("store")).await.unwrap()
}

#[tokio::test]
async fn a_store_that_is_locked_is_waited_for_and_then_an_error() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::builder(&path).busy_timeout(Duration::from_millis(300)).open().await.unwrap();
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    let (lease, checkpoint) = granted(&store, &pid).await;
    let other = raw(&path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let saves = (1..=20).map(|step| store.save(lease.clone(), checkpoint.clone().with_step(step)));
    for saved in futures_util::future::join_all(saves).await {
        let error = saved.unwrap_err();
        assert!(error.kind() == ErrorKind::TimedOut && error.to_string().contains("locked it"), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "all have waited together");
    assert_eq!(store.check(Owner::this_process()).await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(record(&store, &pid).await.checkpoint(), &checkpoint, "what is locked is read");
    let save = store.save(lease, checkpoint.clone().with_step(9));
    let unlock = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.execute_batch("COMMIT").unwrap();
    };
    let (saved, ()) = futures_util::future::join(save, unlock).await;
    assert_eq!(saved.unwrap(), Saved::Stored);
    assert_eq!(record(&store, &pid).await.checkpoint().step(), 9);
    // Nor can one be opened that is locked as a whole.
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM log; COMMIT").unwrap_err();
}

/// Guards: a panic of the store's thread, since SQLite counts the milliseconds in 31 bits.
#[tokio::test]
async fn a_store_waits_for_as_long_as_a_duration_can_say() {
    let directory = Directory::new();
    let longest = SqlitePersister::builder(directory.path().join("store")).busy_timeout(Duration::MAX);
    let store = longest.lease_time(Duration::MAX).open().await.unwrap();
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    granted(&store, &pid).await;
    assert!(matches!(store.claim(pid, Owner::this_process()).await.unwrap(), Claim::Held { .. }), "its lease stands");
}

/// A program that has locked the file for longer than a lease lasts.
#[tokio::test]
async fn leases_stand_as_long_as_nobody_can_write() {
    let (directory, ahead) = (Directory::new(), Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let path = directory.path().join("store");
    let open = || {
        let builder = SqlitePersister::builder(&path).busy_timeout(Duration::from_millis(100));
        builder.clock(Clock::Ahead(Arc::clone(&ahead))).open()
    };
    let (store, other) = (open().await.unwrap(), open().await.unwrap());
    let owner = Owner::this_process();
    let elsewhere = Owner::from_parts(crate::ids::unique(), "far".to_owned(), "another boot".to_owned(), 7, 7);
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    let claim = store.claim(pid.clone(), owner.clone()).await.unwrap();
    let Claim::Granted { lease, checkpoint, .. } = claim else { panic!("{claim:?}") };
    let lock = raw(&path);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        ahead.fetch_add(40_000, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(store.renew(owner.clone()).await.unwrap(), std::slice::from_ref(&lease));
        let error = other.claim(pid.clone(), elsewhere.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    lock.execute_batch("COMMIT").unwrap();
    // Whoever comes first does not get it, though it has run out.
    let claim = other.claim(pid.clone(), elsewhere.clone()).await.unwrap();
    assert!(matches!(claim, Claim::Held { .. }), "{claim:?}");
    assert_eq!(store.renew(owner.clone()).await.unwrap(), std::slice::from_ref(&lease));
    assert_eq!(store.save(lease.clone(), checkpoint.clone()).await.unwrap(), Saved::Stored);
    // What another has taken is not among them.
    store.release(lease.clone()).await.unwrap();
    assert!(matches!(other.claim(pid.clone(), elsewhere).await.unwrap(), Claim::Granted { .. }));
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.renew(owner).await.unwrap(), []);
    assert_eq!(store.save(lease, checkpoint).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn what_would_be_stored_in_a_file_that_is_gone_is_an_error() {
    let directory = Directory::new();
    let (path, aside) = (directory.path().join("store"), directory.path().join("aside"));
    let store = open(&directory).await;
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    let (lease, checkpoint) = granted(&store, &pid).await;
    let owner = record(&store, &pid).await.lease().unwrap().owner().clone();
    let reads = SqlitePersister::builder(&path).read_only().open().await.unwrap();
    let refused = async || {
        let error = store.save(lease.clone(), checkpoint.clone().with_step(1)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("put it back"), "{error}");
        assert!(store.create(NewProcess::new("relax", 2)).await.is_err());
        assert!(store.check(owner.clone()).await.is_err());
        assert_eq!(store.renew(owner.clone()).await.unwrap(), std::slice::from_ref(&lease), "nobody has taken it");
        assert!(reads.record(pid.clone()).await.is_err(), "whoever looks on would wait for ever");
    };
    std::fs::rename(&path, &aside).unwrap();
    refused().await;
    // Another one in its place.
    std::fs::write(&path, "").unwrap();
    refused().await;
    std::fs::rename(&aside, &path).unwrap();
    store.check(owner.clone()).await.unwrap();
    assert_eq!(store.save(lease.clone(), checkpoint.with_step(1)).await.unwrap(), Saved::Stored);
    assert_eq!(record(&reads, &pid).await.checkpoint().step(), 1);
    assert!(reads.check(owner).await.is_err(), "it can only be read");
}

/// The check writes what lies elsewhere in the file, and would find nothing.
#[tokio::test]
async fn a_file_that_is_damaged_in_one_place_is_of_no_use_as_a_whole() {
    let directory = Directory::new();
    let store = open(&directory).await;
    let owner = Owner::this_process();
    let pids = futures_util::future::join_all((0..50).map(|n| store.create(NewProcess::new("x".repeat(900), n)))).await;
    store.check(owner.clone()).await.unwrap();
    let path = store.path().to_owned();
    raw(&path).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(store);
    let connection = raw(&path);
    let sql = "SELECT pageno FROM dbstat WHERE name = 'processes' AND pagetype = 'leaf' ORDER BY pageno";
    let page = connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    drop(connection);
    let store = open(&directory).await;
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Seek::seek(&mut file, io::SeekFrom::Start((page.cast_unsigned() - 1) * 4096)).unwrap();
    std::io::Write::write_all(&mut file, &[0xa5; 2000]).unwrap();
    let mut failed = 0;
    for pid in pids {
        let claimed = store.claim(pid.unwrap(), owner.clone()).await;
        failed += usize::from(claimed.is_err_and(|error| error.to_string().contains("damaged")));
    }
    assert!(failed > 0 && failed < 50, "{failed}");
    let error = store.check(owner).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("damaged"), "{error}");
}

/// Bounds the file, as a full disk does.
async fn bound(store: &SqlitePersister, pages: i64) {
    let bound = move |transaction: &rusqlite::Transaction<'_>| {
        transaction.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        Ok(transaction.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))?)
    };
    store.writer().unwrap().call(bound).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_an_error_for_what_does_not_fit_and_nothing_is_lost() {
    let directory = Directory::new();
    let store = open(&directory).await;
    let mut leases = Vec::new();
    for n in 0..20 {
        let pid = store.create(NewProcess::new("relax", n)).await.unwrap();
        leases.push((granted(&store, &pid).await, pid));
    }
    // Smaller than the file is not possible; SQLite takes what it has.
    bound(&store, 1).await;
    let large = || Value::from("x".repeat(1 << 20));
    let saves = leases.iter().enumerate().map(|(n, ((lease, checkpoint), _))| {
        let checkpoint = checkpoint.clone().with_step(1);
        store.save(lease.clone(), if n == 7 { checkpoint.with_body(large()) } else { checkpoint })
    });
    // In one transaction, which fails, and then each for itself.
    let saved = futures_util::future::join_all(saves).await;
    let error = saved[7].as_ref().unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("no more room"), "{error}");
    for (n, ((lease, checkpoint), pid)) in leases.iter().enumerate() {
        let stored = record(&store, pid).await;
        if n == 7 {
            assert_eq!(stored.checkpoint(), checkpoint, "it stays as it was");
            assert_eq!(stored.transitions().len(), 1);
        } else {
            assert_eq!(saved[n].as_ref().unwrap(), &Saved::Stored);
            assert_eq!(stored.checkpoint().step(), 1);
        }
        assert_eq!(stored.lease().unwrap().number(), lease.number());
    }
    let error = store.create(NewProcess::new("relax", large())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    bound(&store, 1 << 20).await;
    let (lease, checkpoint) = leases[7].0.clone();
    assert_eq!(store.save(lease, checkpoint.with_body(large())).await.unwrap(), Saved::Stored);
    assert_eq!(record(&store, &leases[7].1).await.checkpoint().body(), &large());
}

/// Guards: a claim that is done again with another transaction, and given back for the first one, which has failed.
#[tokio::test]
async fn a_lease_stands_that_was_granted_in_the_second_try() {
    let directory = Directory::new();
    let store = open(&directory).await;
    let (full, pid) =
        (store.create(NewProcess::new("relax", 1)).await, store.create(NewProcess::new("relax", 2)).await.unwrap());
    let (lease, checkpoint) = granted(&store, &full.unwrap()).await;
    bound(&store, 1).await;
    // While the thread does this, the two others come, and are one transaction.
    let is_busy = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let kept = Arc::clone(&is_busy);
    let busy = store.writer().unwrap().call(move |_| {
        kept.store(true, std::sync::atomic::Ordering::Release);
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    });
    let others = async {
        while !is_busy.load(std::sync::atomic::Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let save = store.save(lease, checkpoint.with_body("x".repeat(1 << 16)));
        futures_util::future::join(granted(&store, &pid), save).await
    };
    let (_, ((lease, checkpoint), saved)) = futures_util::future::join(busy, others).await;
    assert_eq!(saved.unwrap_err().kind(), ErrorKind::Storage);
    // Whatever was left to be done in between is done before this.
    store.renew(Owner::this_process()).await.unwrap();
    assert_eq!(store.save(lease, checkpoint.with_step(1)).await.unwrap(), Saved::Stored);
}

/// What is done to a row, and a part of the error.
const DAMAGES: [(&str, &str); 12] = [
    ("body = substr(body, 1, 3)", "checksum"),
    ("body = replace(body, 'k', 'j')", "checksum"),
    ("body = '{', checksum = NULL", "body"),
    ("brought = '[', checksum = NULL", "brought"),
    ("pause = '{}', checksum = NULL", "pause"),
    ("wait = '{\"other\": 1}', checksum = NULL", "wait"),
    ("outcome = '{\"killed\": null}', checksum = NULL", "state"),
    ("state = 'finished', checksum = NULL", "state"),
    ("state = 'dancing', checksum = NULL", "state"),
    ("class = CAST(x'ff' AS TEXT), checksum = NULL", "class"),
    ("format = 2", "newer homing"),
    ("format = 0", "no homing writes"),
];

#[tokio::test]
async fn a_damaged_process_is_an_error_for_itself_and_stays_where_it_is() {
    let directory = Directory::new();
    let store = open(&directory).await;
    let sound = store.create(NewProcess::new("relax", "kkk")).await.unwrap();
    for (damage, part) in DAMAGES {
        let pid = store.create(NewProcess::new("relax", "kkk")).await.unwrap();
        let id = pid.as_i64().unwrap();
        let row = || {
            let other = raw(store.path());
            let mut statement = other.prepare("SELECT * FROM processes WHERE id = ?").unwrap();
            let count = statement.column_count();
            let values = |row: &rusqlite::Row<'_>| {
                (0..count).map(|at| row.get_ref(at).map(|value| format!("{value:?}"))).collect::<Result<Vec<_>, _>>()
            };
            statement.query_row([id], values).unwrap()
        };
        raw(store.path()).execute(&format!("UPDATE processes SET {damage} WHERE id = ?"), [id]).unwrap();
        let before = row();
        let claimed = store.claim(pid.clone(), Owner::this_process()).await.map(drop);
        let read = store.record(pid.clone()).await.map(drop);
        for error in [claimed.unwrap_err(), read.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Decode, "{damage}: {error}");
            let text = error.to_string();
            assert!(text.contains(part) && text.contains(&format!("process {pid} ")), "{damage}: {text}");
            assert!(!text.contains("kkk"), "what is stored is not repeated: {text}");
        }
        assert_eq!(row(), before, "{damage}");
        let listing = store.list(ListFilter::new()).await.unwrap();
        assert!(listing.processes.iter().any(|one| one.pid() == &sound), "{damage}");
        let is_listed = listing.processes.iter().any(|one| one.pid() == &pid);
        let is_named = listing.unreadable.iter().any(|one| one.pid.as_ref() == Some(&pid));
        assert!(is_listed != is_named, "{damage}: it is in the list, one way or the other");
        let (lease, _) = granted(&store, &sound).await;
        store.release(lease).await.unwrap();
        assert!(store.delete(pid).await.unwrap(), "{damage}: it can be removed");
    }
}

/// A file with bytes of something else in it. Whatever is asked ends with an answer or an error; nothing panics.
#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    let mut pids = Vec::new();
    for n in 0..200 {
        pids.push(store.create(NewProcess::new("relax", format!("{n}").repeat(200))).await.unwrap());
    }
    raw(&path).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let whole = fs::read(&path).unwrap();
    drop(store);
    let mut errors = 0;
    for (n, seed) in (0_usize..40).zip(1_u64..) {
        let damaged = directory.path().join(format!("damaged-{n}"));
        let mut bytes = whole.clone();
        match n % 4 {
            0 => bytes.truncate(whole.len() / 40 * (n + 1) / 4096 * 4096),
            1 => bytes[n * 4096 / 2..][..4096].fill(0xA5),
            2 => bytes[100 + n..][..60].fill(0),
            _ => (0..200).for_each(|at| {
                let place = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(at * 7919)) as usize % whole.len();
                bytes[place] ^= 0x55;
            }),
        }
        fs::write(&damaged, bytes).unwrap();
        let store = match SqlitePersister::open(&damaged).await {
            Ok(store) => store,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Storage | ErrorKind::Decode), "{error:?}");
                errors += 1;
                continue;
            }
        };
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                assert!(
                    matches!(error.kind(), ErrorKind::Storage | ErrorKind::Decode | ErrorKind::Internal),
                    "{error:?}"
                );
                assert_ne!(error.to_string(), "the thread of the store has ended; open the store again");
                errors += 1;
            }
        };
        note(store.list(ListFilter::new()).await.map(drop));
        for pid in &pids {
            note(store.record(pid.clone()).await.map(drop));
            note(store.claim(pid.clone(), Owner::this_process()).await.map(drop));
        }
        note(store.create(NewProcess::new("relax", 1)).await.map(drop));
    }
    assert!(errors > 40, "{errors} errors: the damage is found");
}
