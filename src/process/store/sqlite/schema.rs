//! The tables, and how a file comes to have them.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::errors::Fault;
use crate::error::{Error, ErrorKind};

/// "homi", by which a store is told from other databases (`PRAGMA application_id`).
pub(super) const APPLICATION: i32 = 0x686F_6D69;

/// What each version adds to the one before. A file has the number of those it has had (`PRAGMA user_version`). A step that has
/// been released is never changed.
pub(super) const STEPS: &[&str] = &[include_str!("schema_1.sql")];

/// The version of the checkpoints in a row, apart from that of the tables.
pub(super) const FORMAT: i64 = 1;

/// What a file has before anything is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A store that has had so many of the steps.
    Store(usize),
}

/// Finds out what there is, without a change.
///
/// # Errors
/// `Storage` for a database of another program, and for a store of a newer homing.
pub(super) fn inspect(path: &Path, connection: &Connection, steps: &[&str]) -> Result<Found, Fault> {
    // Guards: another program that makes the tables between two of these questions.
    let _moment = if connection.is_autocommit() { Some(connection.unchecked_transaction()?) } else { None };
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let shown = path.display();
    if application == 0 && version == 0 && tables == 0 {
        return Ok(Found::Nothing);
    }
    if application != i64::from(APPLICATION) {
        let text = format!("{shown} is a database of another program, and no store of processes; give another file");
        return Err(Error::new(ErrorKind::Storage, text).into());
    }
    match usize::try_from(version) {
        Ok(version) if version <= steps.len() => Ok(Found::Store(version)),
        _ => {
            let known = steps.len();
            let text = format!(
                "the store {shown} has version {version}, and this homing knows versions up to {known}; it is left as it is; use the newer homing that wrote it"
            );
            Err(Error::new(ErrorKind::Storage, text).into())
        }
    }
}

/// Brings a file to the newest version, all or nothing. Others may try the same at the same time.
pub(super) fn migrate(path: &Path, connection: &mut Connection, steps: &[&str]) -> Result<(), Fault> {
    if inspect(path, connection, steps)? == Found::Store(steps.len()) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Guards: another program that has migrated it in between.
    let done = match inspect(path, &transaction, steps)? {
        Found::Nothing => 0,
        Found::Store(version) => version,
    };
    for step in &steps[done..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", i64::try_from(steps.len()).unwrap_or(i64::MAX))?;
    transaction.commit()?;
    Ok(())
}
