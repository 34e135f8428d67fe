//! The file: who may read it, what it may be, and its versions.

use super::*;

/// The bytes of a file and of its log.
fn bytes(path: &Path) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    (fs::read(path).unwrap(), fs::read(log).ok())
}

async fn refused(path: &Path, kind: ErrorKind, part: &str) {
    for builder in [SqlitePersister::builder(path), SqlitePersister::builder(path).read_only()] {
        let error = builder.open().await.expect_err("it is refused");
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(part) && text.contains(&path.display().to_string()), "{text}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    store.create(NewProcess::new("relax", 1)).await.unwrap();
    let mut names = Vec::new();
    for file in fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        names.push(file.file_name());
    }
    assert_eq!(names.len(), 3, "the file, its log and its index: {names:?}");
}

#[tokio::test]
async fn what_is_dropped_last_leaves_the_file_alone_behind() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let names = || fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
    for round in 0..20 {
        let stores = [SqlitePersister::open(&path).await.unwrap(), SqlitePersister::open(&path).await.unwrap()];
        let reader = SqlitePersister::builder(&path).read_only().open().await.unwrap();
        let [first, second] = stores;
        first.create(NewProcess::new("relax", 1)).await.unwrap();
        // One that nobody waits for is done all the same.
        drop(first.clone().claim(Pid::from(round + 1), Owner::this_process()));
        drop((first, reader));
        assert_eq!(names().len(), 3, "another has it open: {:?}", names());
        drop(second);
        // At once, for the program may end now.
        assert_eq!(names(), ["store"], "in round {round}");
    }
    // One that only reads, too.
    let reader = SqlitePersister::builder(&path).read_only().open().await.unwrap();
    assert_eq!(reader.list(ListFilter::new()).await.unwrap().processes.len(), 20);
    drop(reader);
    assert_eq!(names(), ["store"]);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_made_by_a_worker_only() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    for builder in [SqlitePersister::builder(&path).existing(), SqlitePersister::builder(&path).read_only()] {
        assert_eq!(builder.open().await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(!path.exists());
    let nowhere = directory.path().join("no").join("store");
    let error = SqlitePersister::open(&nowhere).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("directory"), "{error}");
    assert_eq!(SqlitePersister::open(directory.path()).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    // A reader of what has no tables yet.
    fs::write(&path, "").unwrap();
    let error = SqlitePersister::builder(&path).read_only().open().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("empty"), "{error}");
    SqlitePersister::builder(&path).existing().open().await.unwrap();
}

#[tokio::test]
async fn what_is_read_alone_is_read_while_a_worker_writes() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    let reader = SqlitePersister::builder(&path).read_only().open().await.unwrap();
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    assert_eq!(record(&reader, &pid).await, record(&store, &pid).await);
    let error = reader.create(NewProcess::new("relax", 1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidState && error.to_string().contains("reading alone"), "{error}");
    assert_eq!(reader.delete(pid).await.unwrap_err().kind(), ErrorKind::InvalidState);
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_stays_as_it_is() {
    let directory = Directory::new();
    let path = directory.path().join("text");
    fs::write(&path, "this is a letter to somebody, and long enough to be taken for a header of a file ".repeat(100))
        .unwrap();
    let before = bytes(&path);
    refused(&path, ErrorKind::Storage, "no SQLite database").await;
    assert_eq!(bytes(&path), before);

    let path = directory.path().join("other");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE songs (name TEXT); PRAGMA user_version = 1").unwrap();
    let before = bytes(&path);
    refused(&path, ErrorKind::Storage, "another program").await;
    assert_eq!(bytes(&path), before);
}

#[tokio::test]
async fn a_newer_store_is_refused_and_stays_as_it_is() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    store.create(NewProcess::new("relax", 1)).await.unwrap();
    // With a log that has not been moved into the file: another program has the store open.
    let newer = raw(&path);
    newer.pragma_update(None, "user_version", 2).unwrap();
    let before = bytes(&path);
    assert!(before.1.is_some());
    refused(&path, ErrorKind::Storage, "newer homing").await;
    assert_eq!(bytes(&path), before);
    // And as the last one that has it open.
    drop((store, newer));
    assert!(bytes(&path).1.is_none(), "the last connection moves the log into the file");
    let before = bytes(&path).0;
    refused(&path, ErrorKind::Storage, "newer homing").await;
    assert_eq!(bytes(&path).0, before);
}

/// A second version, for as long as there is none.
const NEXT: &[&str] = &[schema::STEPS[0], "ALTER TABLE processes ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'"];

#[tokio::test]
async fn an_older_store_is_brought_up_to_date_by_one_of_many() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    let before = record(&store, &pid).await;
    drop(store);
    let next = || SqliteBuilder { steps: NEXT, ..SqlitePersister::builder(&path) };
    let error = next().read_only().open().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("older"), "{error}");
    let stores = futures_util::future::join_all((0..8).map(|_| next().open())).await;
    for store in stores {
        assert_eq!(record(&store.unwrap(), &pid).await, before);
    }
    let version: i64 = raw(&path).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
    refused(&path, ErrorKind::Storage, "newer homing").await;
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    const BROKEN: &[&str] = &[schema::STEPS[0], NEXT[1], "INSERT INTO processes (id) VALUES (1)"];
    let directory = Directory::new();
    let path = directory.path().join("store");
    let pid = SqlitePersister::open(&path).await.unwrap().create(NewProcess::new("relax", 1)).await.unwrap();
    assert!(SqliteBuilder { steps: BROKEN, ..SqlitePersister::builder(&path) }.open().await.is_err());
    let store = SqlitePersister::open(&path).await.unwrap();
    assert_eq!(record(&store, &pid).await.checkpoint().class(), "relax");
    let colours = raw(&path).prepare("SELECT colour FROM processes").map(drop);
    assert!(colours.is_err(), "the step before the broken one is undone");
}

#[tokio::test]
async fn many_open_a_new_file_at_once() {
    for _ in 0..10 {
        let directory = Directory::new();
        let path = directory.path().join("store");
        let stores = futures_util::future::join_all((0..8).map(|_| SqlitePersister::open(&path))).await;
        let mut pids = std::collections::HashSet::new();
        for store in stores {
            assert!(pids.insert(store.unwrap().create(NewProcess::new("relax", 1)).await.unwrap()));
        }
    }
}

/// Not as root, whom no right keeps out.
#[cfg(unix)]
#[tokio::test]
async fn what_may_not_be_written_is_an_error_and_read_all_the_same() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    if let Some(path) = std::env::var_os("HOMING_STORE_READ_ONLY") {
        return cannot_write(Path::new(&path)).await;
    }
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = SqlitePersister::open(&path).await.unwrap();
    store.create(NewProcess::new("relax", 1)).await.unwrap();
    for file in fs::read_dir(directory.path()).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = child(
        "files::what_may_not_be_written_is_an_error_and_read_all_the_same",
        "HOMING_STORE_READ_ONLY",
        path.as_ref(),
    );
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata(directory.path()).unwrap()) == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(unix)]
async fn cannot_write(path: &Path) {
    let error = SqlitePersister::open(path).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("read-only"), "{error}");
    let error = SqlitePersister::open(path.with_file_name("new")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("created"), "{error}");
    let reader = SqlitePersister::builder(path).read_only().open().await.unwrap();
    assert_eq!(reader.list(ListFilter::new()).await.unwrap().processes.len(), 1);
}
