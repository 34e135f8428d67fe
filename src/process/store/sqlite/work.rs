//! What is done in the tables. Each piece of work refuses what it refuses before it writes.

use std::time::{Duration, SystemTime};

use crate::home::lock::Mutex;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, ToSql, params};

use super::super::super::Pid;
use super::super::lease::Overdue;
use super::super::text::{leased, taken};
use super::super::{
    ChildKey, Claim, Lease, LeaseId, ListFilter, Listing, LogLine, LogPage, MOST_LINES, MOST_LOG_BYTES,
    MOST_TRANSITIONS, NewProcess, Owner, Record, Saved, Unreadable, later,
};
use super::errors::Fault;
use super::rows::{self, CHECKPOINT, Columns, LEASE, PidColumn, SUMMARY, nanoseconds, signed, unsigned};
use super::schema::FORMAT;
use crate::error::{Error, ErrorKind};

type Done<T> = Result<T, Fault>;

/// An owner who has no lease any more is forgotten when its last one has been over for this long.
const OWNER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The texts of a new process.
pub(super) struct NewTexts {
    pub(super) new: NewProcess,
    pub(super) columns: Columns,
    pub(super) args: String,
    pub(super) kwargs: String,
}

pub(super) fn create(connection: &Connection, texts: &mut NewTexts, now: SystemTime) -> Done<Pid> {
    let new = &texts.new;
    if let Some(key) = &new.child {
        let sql = "SELECT pid FROM processes WHERE child_parent = ? AND child_step = ? AND child_index = ?";
        let parent = PidColumn(key.parent());
        if let Some(pid) = find_pid(connection, sql, params![parent, signed(key.step()), key.index()])? {
            return Ok(pid);
        }
    }
    if let Some(task) = &new.task
        && let Some(pid) = find_pid(connection, "SELECT pid FROM processes WHERE task = ?", [task])?
    {
        return Ok(pid);
    }
    let is_taken = |pid: &Pid| -> rusqlite::Result<bool> {
        connection.prepare_cached("SELECT 1 FROM processes WHERE pid = ?")?.exists([PidColumn(pid)])
    };
    let (id, pid) = match &new.pid {
        Some(pid) if is_taken(pid)? => return Err(taken(pid).into()),
        Some(pid) => (None, pid.clone()),
        None => {
            let mut last = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'processes'")?;
            let mut id = last.query_row([], |row| row.get(0)).optional()?.unwrap_or(0_i64) + 1;
            while is_taken(&Pid::from(id))? {
                id += 1;
            }
            (Some(id), Pid::from(id))
        }
    };
    texts.columns.created = nanoseconds(now);
    texts.columns.changed = texts.columns.created;
    let checksum = texts.columns.checksum();
    let (pid_column, parent) = (PidColumn(&pid), new.child.as_ref().map(|key| PidColumn(key.parent())));
    let step = new.child.as_ref().map(|key| signed(key.step()));
    let index = new.child.as_ref().map(ChildKey::index);
    let mut parameters: Vec<(&str, &dyn ToSql)> = texts.columns.parameters().into();
    parameters.extend([
        (":id", &id as &dyn ToSql),
        (":pid", &pid_column),
        (":child_parent", &parent),
        (":child_step", &step),
        (":child_index", &index),
        (":task", &new.task),
        (":format", &FORMAT),
        (":checksum", &checksum),
    ]);
    connection
        .prepare_cached(
            "INSERT INTO processes (id, pid, class, state, step, created, changed, exit_status, child_parent, \
             child_step, child_index, task, format, checksum, pause, status_text, wait, outcome, brought, body, outputs, \
             transitions) VALUES (:id, :pid, :class, :state, :step, :created, :changed, :exit_status, :child_parent, \
             :child_step, :child_index, :task, :format, :checksum, :pause, :status_text, :wait, :outcome, :brought, \
             :body, :outputs, 1)",
        )?
        .execute(&*parameters)?;
    let id = connection.last_insert_rowid();
    connection.prepare_cached("INSERT INTO inputs (process, args, kwargs) VALUES (?, ?, ?)")?.execute(params![
        id,
        texts.args,
        texts.kwargs
    ])?;
    add_transition(connection, id, 0, &texts.columns)?;
    Ok(pid)
}

fn find_pid(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Done<Option<Pid>> {
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(parameters, |row| Ok(rows::read_pid(row, "pid"))).optional()?;
    Ok(found.transpose()?)
}

fn add_transition(connection: &Connection, id: i64, number: i64, columns: &Columns) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO transitions (process, number, state, step, is_paused, at) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![id, number, columns.state, columns.step, columns.pause.is_some(), columns.changed])?;
    // The first one stays: it has the time of the creation.
    let dropped = number - signed(MOST_TRANSITIONS) + 1;
    if dropped > 0 {
        connection
            .prepare_cached("DELETE FROM transitions WHERE process = ? AND number = ?")?
            .execute([id, dropped])?;
    }
    Ok(())
}

/// Reads a part of a row. What is damaged is refused with the pid, and no failure of SQLite.
fn read<T>(
    mut statement: CachedStatement<'_>,
    pid: &Pid,
    parameters: impl rusqlite::Params,
    part: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Done<Option<T>> {
    let found = statement.query_row(parameters, |row| Ok(part(row))).optional()?;
    Ok(found.transpose().map_err(|error| rows::of_process(pid, &error))?)
}

pub(super) fn claim(
    connection: &Connection,
    pid: &Pid,
    owner: &Owner,
    overdue: &Mutex<Overdue>,
    now: SystemTime,
    time: Duration,
) -> Done<Claim> {
    let sql = format!(
        "SELECT p.id, {CHECKPOINT}, {LEASE} FROM processes p LEFT JOIN owners o ON o.id = p.lease_owner WHERE p.pid = ?"
    );
    let part = |row: &Row<'_>| {
        let checkpoint = Columns::read(row)?.into_checkpoint()?;
        Ok((rows::get::<i64>(row, "id")?, checkpoint, rows::lease(row)?, rows::get::<i64>(row, "lease_number")?))
    };
    let found = read(connection.prepare_cached(&sql)?, pid, [PidColumn(pid)], part)?;
    let Some((id, checkpoint, lease, number)) = found else { return Ok(Claim::Unknown) };
    if let Some(outcome) = checkpoint.outcome {
        return Ok(Claim::Ended(outcome));
    }
    if let Some(lease) = &lease
        && lease.stands_at(now)
    {
        return Ok(Claim::Held { by: lease.owner().clone(), until: lease.until() });
    }
    if let Some(lease) = &lease
        && !overdue.lock().can_go(pid, lease, time)
    {
        return Ok(Claim::Held { by: lease.owner().clone(), until: later(now, time / 2) });
    }
    let owner = owner_row(connection, owner, now, time)?;
    let number = number + 1;
    connection
        .prepare_cached("UPDATE processes SET lease_number = ?, lease_owner = ? WHERE id = ?")?
        .execute([number, owner, id])?;
    let lost = lease.map(|lease| lease.owner().clone());
    Ok(Claim::Granted { lease: LeaseId::new(pid, unsigned(number)), checkpoint, lost })
}

/// The row of an owner, with its leases good for another while.
fn owner_row(connection: &Connection, owner: &Owner, now: SystemTime, time: Duration) -> Done<i64> {
    let worker = owner.worker().to_string();
    let until = nanoseconds(later(now, time));
    let known = connection
        .prepare_cached("UPDATE owners SET until = ? WHERE worker = ? RETURNING id")?
        .query_row(params![until, worker], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let over = now.checked_sub(OWNER_KEPT).map_or(i64::MIN, nanoseconds);
    connection
        .prepare_cached(
            "DELETE FROM owners WHERE until < ? AND NOT EXISTS (SELECT 1 FROM processes WHERE lease_owner = owners.id)",
        )?
        .execute([over])?;
    connection
        .prepare_cached(
            "INSERT INTO owners (worker, host, place, os_pid, started, until) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        )?
        .query_row(
            params![worker, owner.host(), owner.place(), owner.os_pid(), owner.started().cast_signed(), until],
            |row| row.get(0),
        )
        .map_err(Fault::from)
}

/// Reads the whole file.
///
/// # Errors
/// When a part of it is damaged.
pub(super) fn check_soundness(connection: &Connection) -> Done<()> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(found)).into())
}

/// Writes what belongs to no process.
pub(super) fn check(connection: &Connection, owner: &Owner, now: SystemTime, time: Duration) -> Done<()> {
    owner_row(connection, owner, now, time).map(drop)
}

/// What is known of a process whose lease has this number, if it is there and no other lease has followed.
struct Leased {
    id: i64,
    has_owner: bool,
    has_ended: bool,
    state: String,
    step: i64,
    is_paused: bool,
    transitions: i64,
}

fn find_leased(connection: &Connection, lease: &LeaseId) -> rusqlite::Result<Option<Leased>> {
    connection
        .prepare_cached(
            "SELECT id, lease_owner IS NOT NULL, outcome IS NOT NULL, state, step, pause IS NOT NULL, transitions \
             FROM processes WHERE pid = ? AND lease_number = ?",
        )?
        .query_row(params![PidColumn(lease.pid()), signed(lease.number())], |row| {
            Ok(Leased {
                id: row.get(0)?,
                has_owner: row.get(1)?,
                has_ended: row.get(2)?,
                state: row.get(3)?,
                step: row.get(4)?,
                is_paused: row.get(5)?,
                transitions: row.get(6)?,
            })
        })
        .optional()
}

pub(super) fn save(connection: &Connection, lease: &LeaseId, columns: &Columns) -> Done<Saved> {
    let Some(found) = find_leased(connection, lease)? else { return Ok(Saved::LeaseLost) };
    if !found.has_owner {
        // The lease has ended with the process, by this very checkpoint.
        let is_stored = columns.outcome.is_some() && found.has_ended && is_stored(connection, lease.pid(), columns)?;
        return Ok(if is_stored { Saved::Stored } else { Saved::LeaseLost });
    }
    let is_transition =
        (&found.state, found.step, found.is_paused) != (&columns.state, columns.step, columns.pause.is_some());
    let transitions = found.transitions + i64::from(is_transition);
    let checksum = columns.checksum();
    let has_ended = columns.outcome.is_some();
    let mut parameters: Vec<(&str, &dyn ToSql)> = columns.parameters().into();
    parameters.extend([
        (":id", &found.id as &dyn ToSql),
        (":transitions", &transitions),
        (":format", &FORMAT),
        (":checksum", &checksum),
        (":has_ended", &has_ended),
    ]);
    connection
        .prepare_cached(
            "UPDATE processes SET class = :class, state = :state, step = :step, created = :created, \
             changed = :changed, exit_status = :exit_status, pause = :pause, status_text = :status_text, wait = :wait, \
             outcome = :outcome, brought = :brought, body = :body, outputs = :outputs, format = :format, \
             checksum = :checksum, transitions = :transitions, \
             lease_owner = CASE WHEN :has_ended THEN NULL ELSE lease_owner END WHERE id = :id",
        )?
        .execute(&*parameters)?;
    if is_transition {
        add_transition(connection, found.id, found.transitions, columns)?;
    }
    Ok(Saved::Stored)
}

fn is_stored(connection: &Connection, pid: &Pid, columns: &Columns) -> Done<bool> {
    let sql = format!("SELECT {CHECKPOINT} FROM processes p WHERE p.pid = ?");
    let stored = read(connection.prepare_cached(&sql)?, pid, [PidColumn(pid)], Columns::read)?;
    Ok(stored.is_some_and(|stored| stored.is_same(columns)))
}

pub(super) fn renew(connection: &Connection, owner: &Owner, now: SystemTime, time: Duration) -> Done<Vec<LeaseId>> {
    let until = nanoseconds(later(now, time));
    let known: Option<i64> = connection
        .prepare_cached("UPDATE owners SET until = ? WHERE worker = ? RETURNING id")?
        .query_row(params![until, owner.worker().to_string()], |row| row.get(0))
        .optional()?;
    match known {
        Some(owner) => leases_of(connection, owner),
        None => Ok(Vec::new()),
    }
}

/// The leases of an owner that nobody else has taken, whether they have run out or not.
pub(super) fn standing(connection: &Connection, owner: &Owner) -> Done<Vec<LeaseId>> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT id FROM owners WHERE worker = ?")?
        .query_row([owner.worker().to_string()], |row| row.get(0))
        .optional()?;
    match known {
        Some(owner) => leases_of(connection, owner),
        None => Ok(Vec::new()),
    }
}

fn leases_of(connection: &Connection, owner: i64) -> Done<Vec<LeaseId>> {
    let mut statement =
        connection.prepare_cached("SELECT pid, lease_number FROM processes WHERE lease_owner = ? ORDER BY id")?;
    let mut found = statement.query([owner])?;
    let mut leases = Vec::new();
    while let Some(row) = found.next()? {
        // A row that is damaged has no lease that could be used.
        if let Ok(pid) = rows::read_pid(row, "pid") {
            leases.push(LeaseId::new(pid, unsigned(row.get("lease_number")?)));
        }
    }
    Ok(leases)
}

pub(super) fn release(connection: &Connection, lease: &LeaseId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE processes SET lease_owner = NULL WHERE pid = ? AND lease_number = ?")?
        .execute(params![PidColumn(lease.pid()), signed(lease.number())])?;
    Ok(())
}

pub(super) fn record(connection: &Connection, pid: &Pid) -> Done<Option<Record>> {
    let sql = format!(
        "SELECT p.id, p.pid, p.transitions, p.log_next, p.child_parent, p.child_step, p.child_index, {CHECKPOINT}, {LEASE}, \
         i.args, i.kwargs FROM processes p LEFT JOIN owners o ON o.id = p.lease_owner \
         LEFT JOIN inputs i ON i.process = p.id WHERE p.pid = ?"
    );
    let part = |row: &Row<'_>| {
        let record = Record {
            pid: rows::read_pid(row, "pid")?,
            checkpoint: Columns::read(row)?.into_checkpoint()?,
            inputs: rows::inputs(row)?,
            child: rows::child(row)?,
            lease: rows::lease(row)?,
            transitions: Vec::new(),
            transitions_dropped: 0,
            log_lines: unsigned(rows::get(row, "log_next")?),
        };
        Ok((rows::get::<i64>(row, "id")?, unsigned(rows::get(row, "transitions")?), record))
    };
    let found = read(connection.prepare_cached(&sql)?, pid, [PidColumn(pid)], part)?;
    let Some((id, transitions, mut record)) = found else { return Ok(None) };
    let mut statement = connection
        .prepare_cached("SELECT state, step, is_paused, at FROM transitions WHERE process = ? ORDER BY number")?;
    let mut found = statement.query([id])?;
    while let Some(row) = found.next()? {
        record.transitions.push(rows::transition(row).map_err(|error| rows::of_process(pid, &error))?);
    }
    record.transitions_dropped = transitions.saturating_sub(record.transitions.len() as u64);
    Ok(Some(record))
}

pub(super) fn list(connection: &Connection, filter: &ListFilter) -> Done<Listing> {
    let mut sql =
        format!("SELECT {SUMMARY}, {LEASE} FROM processes p LEFT JOIN owners o ON o.id = p.lease_owner WHERE 1");
    let mut parameters: Vec<Box<dyn ToSql>> = Vec::new();
    let mut add = |condition: &str, values: Vec<Box<dyn ToSql>>| {
        sql += " AND ";
        sql += condition;
        parameters.extend(values);
    };
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(", ");
        let states = filter.states.iter().map(|state| Box::new(state.as_str()) as Box<dyn ToSql>);
        add(&format!("p.state IN ({marks})"), states.collect());
        if !filter.states.iter().any(|state| state.is_terminal()) {
            // By this SQLite sees that the index `unfinished` will do.
            add("p.outcome IS NULL", Vec::new());
        }
    }
    if let Some(class) = &filter.class {
        add("p.class = ?", vec![Box::new(class.clone())]);
    }
    if let Some(since) = filter.created_since {
        add("p.created >= ?", vec![Box::new(nanoseconds(since))]);
    }
    if let Some(since) = filter.changed_since {
        add("p.changed >= ?", vec![Box::new(nanoseconds(since))]);
    }
    let limit = filter.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    parameters.push(Box::new(limit));
    sql += " ORDER BY p.id DESC LIMIT ?";
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(rusqlite::params_from_iter(parameters))?;
    let mut listing = Listing::default();
    while let Some(row) = found.next()? {
        match rows::summary(row) {
            Ok(summary) => listing.processes.push(summary),
            Err(error) => {
                let pid = rows::read_pid(row, "pid").ok();
                let error = match &pid {
                    Some(pid) => rows::of_process(pid, &error),
                    None => Error::new(
                        ErrorKind::Decode,
                        format!(
                            "row {} of the store cannot be read, and stays as it is: {error}",
                            row.get::<_, i64>("id")?
                        ),
                    ),
                };
                listing.unreadable.push(Unreadable { pid, error });
            }
        }
    }
    Ok(listing)
}

pub(super) fn append_log(connection: &Connection, lease: &LeaseId, lines: &[LogLine]) -> Done<Saved> {
    let found = connection
        .prepare_cached("SELECT id, log_first, log_next, log_bytes FROM processes WHERE pid = ? AND lease_number = ?")?
        .query_row(params![PidColumn(lease.pid()), signed(lease.number())], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((id, mut first, mut next, mut bytes)): Option<(i64, i64, i64, i64)> = found else {
        return Ok(Saved::LeaseLost);
    };
    let mut insert = connection
        .prepare_cached("INSERT OR REPLACE INTO log (process, number, at, source, line) VALUES (?, ?, ?, ?, ?)")?;
    for line in lines {
        insert.execute(params![id, next, nanoseconds(line.at), line.source.as_str(), line.text])?;
        next += 1;
        bytes += signed(line.text.len() as u64);
    }
    let (most_lines, most_bytes) = (signed(MOST_LINES), signed(MOST_LOG_BYTES));
    if next - first > most_lines || bytes > most_bytes {
        let mut oldest = connection
            .prepare_cached("SELECT number, octet_length(line) FROM log WHERE process = ? ORDER BY number")?;
        let mut found = oldest.query([id])?;
        while next - first > most_lines || bytes > most_bytes {
            let Some(row) = found.next()? else {
                (first, bytes) = (next, 0);
                break;
            };
            first = row.get::<_, i64>(0)? + 1;
            bytes -= row.get::<_, i64>(1)?;
        }
        connection.prepare_cached("DELETE FROM log WHERE process = ? AND number < ?")?.execute([id, first])?;
    }
    connection
        .prepare_cached("UPDATE processes SET log_first = ?, log_next = ?, log_bytes = ? WHERE id = ?")?
        .execute([first, next, bytes, id])?;
    Ok(Saved::Stored)
}

pub(super) fn log(connection: &Connection, pid: &Pid, from: u64, limit: usize) -> Done<LogPage> {
    let found = connection
        .prepare_cached("SELECT id, log_first, log_next FROM processes WHERE pid = ?")?
        .query_row([PidColumn(pid)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((id, first, end)): Option<(i64, i64, i64)> = found else {
        return Ok(LogPage { next: from, is_at_end: true, ..LogPage::default() });
    };
    let start = signed(from).max(first).min(end);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT number, at, source, line FROM log WHERE process = ? AND number >= ? ORDER BY number LIMIT ?",
    )?;
    let mut found = statement.query([id, start, limit])?;
    let mut lines = Vec::new();
    while let Some(row) = found.next()? {
        lines.push(rows::log_line(row).map_err(|error| rows::of_process(pid, &error))?);
    }
    let next = lines.last().map_or(unsigned(start), |line| line.number + 1);
    Ok(LogPage { lines, next, dropped: unsigned(first).saturating_sub(from), is_at_end: next == unsigned(end) })
}

pub(super) fn delete(connection: &Connection, pid: &Pid, now: SystemTime) -> Done<bool> {
    let sql =
        format!("SELECT p.id, {LEASE} FROM processes p LEFT JOIN owners o ON o.id = p.lease_owner WHERE p.pid = ?");
    let part = |row: &Row<'_>| -> Result<(i64, Option<Lease>), Error> {
        // A lease that cannot be read keeps nobody from the process either.
        Ok((rows::get(row, "id")?, rows::lease(row).ok().flatten()))
    };
    let Some((id, lease)) = read(connection.prepare_cached(&sql)?, pid, [PidColumn(pid)], part)? else {
        return Ok(false);
    };
    if let Some(lease) = lease
        && lease.stands_at(now)
    {
        return Err(leased(pid, lease.owner()).into());
    }
    for sql in [
        "DELETE FROM log WHERE process = ?",
        "DELETE FROM transitions WHERE process = ?",
        "DELETE FROM inputs WHERE process = ?",
        "DELETE FROM processes WHERE id = ?",
    ] {
        connection.prepare_cached(sql)?.execute([id])?;
    }
    Ok(true)
}
