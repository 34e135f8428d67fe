//! What is particular to the store in a file: the file itself, what is wrong with it, and several programs that use it.

mod crash;
mod faults;
mod files;
mod values;

use super::super::conformance::Directory;
use super::super::*;
use super::*;
use crate::Value;
use crate::process::ProcessState;

/// A connection beside those of a store.
fn raw(path: &Path) -> Connection {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

async fn granted(store: &SqlitePersister, pid: &Pid) -> (LeaseId, Checkpoint) {
    match store.claim(pid.clone(), Owner::this_process()).await.unwrap() {
        Claim::Granted { lease, checkpoint, .. } => (lease, checkpoint),
        other => panic!("{other:?}"),
    }
}

async fn record(store: &SqlitePersister, pid: &Pid) -> Record {
    store.record(pid.clone()).await.unwrap().expect("it is there")
}

/// This test program once more, for one of its tests, with this variable set.
fn child(test: &str, variable: &str, value: &std::ffi::OsStr) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    command.args([&name, "--exact", "--nocapture", "--test-threads=1"]).env(variable, value);
    command.stdin(std::process::Stdio::null());
    command
}
