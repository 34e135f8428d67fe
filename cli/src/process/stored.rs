//! `homing process list`, `show` and `report`: what the store has of processes. None of them needs a broker.

use std::path::Path;
use std::time::{Duration, SystemTime};

use homing::Value;
use homing::codec::Map;
use homing::process::store::{
    Lease, ListFilter, Outcome, PauseNote, Persister, Record, SqlitePersister, Summary, Wait,
};
use homing::process::{Pid, ProcessState};

use super::follow::{Follow, Place};
use super::many::{pid_as_json, typed};
use crate::args::{Format, Global, Process, Report, States};
use crate::failure::Failure;
use crate::output::{quoted, without_controls};
use crate::stop::Stop;
use crate::{note, out, output, store, values, warning};

/// A time for people and programs: RFC 3339 in UTC.
pub(crate) fn shown_time(time: SystemTime) -> String {
    // What is stored may lie beyond what can be written as a date.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, latest)).to_string()
}

/// How a process has ended; reads after "process 4".
pub(crate) fn in_words(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Finished { exit_status, .. } => format!("has finished with exit status {exit_status}"),
        Outcome::Excepted { type_name, message, .. } => format!("has failed: {type_name}: {message}"),
        Outcome::Killed { message: Some(message) } => format!("was killed: {message}"),
        Outcome::Killed { message: None } => "was killed".to_owned(),
        _ => "has ended".to_owned(),
    };
    without_controls(&text)
}

/// The store of a command that reads one.
pub(super) async fn open(file: Option<&Path>) -> Result<SqlitePersister, Failure> {
    Ok(store::open_to_read(&store::path(file)?).await?)
}

pub(super) async fn list(command: Process, global: &Global) -> Result<(), Failure> {
    let Process::List { state, class, limit, store } = command else { return Ok(()) };
    let store = open(store.file.as_deref()).await?;
    let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
    // One more, so that it is known whether there are more.
    let mut filter = ListFilter::new().limit(limit.saturating_add(1));
    for state in state {
        filter = match state {
            States::One(state) => filter.state(state),
            States::Unfinished => filter.unfinished(),
        };
    }
    if let Some(class) = class {
        filter = filter.class(class);
    }
    let listing = store.list(filter).await?;
    let shown = &listing.processes[..listing.processes.len().min(limit)];
    match global.output.format {
        Format::Json => {
            for process in shown {
                values::print(&Value::Map(summary_object(process)), Format::Json)?;
            }
        }
        Format::Text if shown.is_empty() => note!("the store has no such processes"),
        Format::Text => table(shown)?,
    }
    if listing.processes.len() > limit {
        note!("there are more; --limit shows them");
    }
    unreadable(listing.unreadable.iter().map(|one| (one.pid.as_ref(), &one.error)))
}

/// What cannot be read is named, and fails the command.
pub(super) fn unreadable<'a>(all: impl Iterator<Item = (Option<&'a Pid>, &'a homing::Error)>) -> Result<(), Failure> {
    let mut many = 0;
    for (pid, error) in all {
        let pid = pid.map_or_else(|| "of an unknown pid".to_owned(), ToString::to_string);
        warning!("process {} cannot be read: {error}", without_controls(&pid));
        many += 1;
    }
    match many {
        0 => Ok(()),
        many => Err(Failure::Other(format!("{many} processes of the store cannot be read; they stay where they are"))),
    }
}

/// Who runs a process at this time.
pub(crate) fn holder(lease: Option<&Lease>, now: SystemTime) -> Option<&Lease> {
    lease.filter(|lease| lease.stands_at(now))
}

fn table(processes: &[Summary]) -> Result<(), Failure> {
    let now = SystemTime::now();
    let heads = ["PID", "CLASS", "STATE", "EXIT", "CREATED", "CHANGED", "WORKER", "STATUS"];
    let mut rows = vec![heads.map(str::to_owned)];
    for process in processes {
        let state = match process.pause() {
            Some(_) if !process.state().is_terminal() => format!("{}, paused", process.state()),
            _ => process.state().to_string(),
        };
        let status = process.pause().and_then(PauseNote::message).or(process.status_text()).unwrap_or_default();
        let row = [
            typed(process.pid()),
            process.class().to_owned(),
            state,
            process.exit_status().map_or_else(String::new, |status| status.to_string()),
            shown_time(process.created()),
            shown_time(process.changed()),
            holder(process.lease(), now).map_or_else(String::new, |lease| lease.owner().os_pid().to_string()),
            status.to_owned(),
        ];
        rows.push(row);
    }
    output::table(rows)
}

fn optional<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn pause_object(pause: Option<&PauseNote>) -> Value {
    let Some(pause) = pause else { return Value::Null };
    let mut map = Map::new();
    map.insert("message", optional(pause.message()));
    map.insert("since", shown_time(pause.since()));
    Value::Map(map)
}

fn lease_object(lease: Option<&Lease>, now: SystemTime) -> Value {
    let Some(lease) = lease else { return Value::Null };
    let mut map = Map::new();
    map.insert("worker", lease.owner().worker().to_string());
    map.insert("host", lease.owner().host());
    map.insert("process_id", i64::from(lease.owner().os_pid()));
    map.insert("number", lease.number());
    map.insert("until", shown_time(lease.until()));
    map.insert("stands", lease.stands_at(now));
    Value::Map(map)
}

fn summary_object(process: &Summary) -> Map {
    let mut map = Map::new();
    map.insert("pid", pid_as_json(process.pid()));
    map.insert("class", process.class());
    map.insert("state", process.state().as_str());
    map.insert("step", process.step());
    map.insert("paused", pause_object(process.pause()));
    map.insert("status", optional(process.status_text()));
    map.insert("created", shown_time(process.created()));
    map.insert("changed", shown_time(process.changed()));
    map.insert("exit_status", optional(process.exit_status()));
    map.insert("lease", lease_object(process.lease(), SystemTime::now()));
    map
}

/// The record of a process.
///
/// # Errors
/// When there is none.
async fn record(store: &SqlitePersister, pid: &Pid) -> Result<Record, Failure> {
    store.record(pid.clone()).await?.ok_or_else(|| {
        Failure::Other(format!(
            "there is no process {pid} in the store {}; `homing process list`, with the same store, shows those that there are",
            store.path().display()
        ))
    })
}

pub(super) async fn show(pid: &Pid, file: Option<&Path>, global: &Global) -> Result<(), Failure> {
    let store = open(file).await?;
    let record = record(&store, pid).await?;
    match global.output.format {
        Format::Json => values::print(&Value::Map(record_object(&record)), Format::Json),
        Format::Text => print_record(&record),
    }
}

fn outcome_object(outcome: Option<&Outcome>) -> Value {
    let mut map = Map::new();
    match outcome {
        Some(Outcome::Finished { exit_status, outputs }) => {
            map.insert("exit_status", *exit_status);
            map.insert("outputs", outputs.clone());
        }
        Some(Outcome::Excepted { type_name, message, chain }) => {
            map.insert("type", type_name.as_str());
            map.insert("message", message.as_str());
            map.insert("chain", chain.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>());
        }
        Some(Outcome::Killed { message }) => map.insert("message", optional(message.as_deref())).map_or((), drop),
        _ => return Value::Null,
    }
    Value::Map(map)
}

fn inputs_value(record: &Record) -> Value {
    let mut map = record.inputs().kwargs().clone();
    if !record.inputs().args().is_empty() {
        map.insert("args", record.inputs().args().to_vec());
    }
    Value::Map(map)
}

fn wait_in_words(wait: &Wait) -> String {
    match wait {
        Wait::ForResume(why) if why.is_empty() => "that somebody resumes it".to_owned(),
        Wait::ForResume(why) => format!("that somebody resumes it: {why}"),
        Wait::Until(time) => shown_time(*time),
        Wait::Children(pids) => {
            format!("the ends of {}", pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        _ => "something".to_owned(),
    }
}

fn record_object(record: &Record) -> Map {
    let checkpoint = record.checkpoint();
    let mut map = Map::new();
    map.insert("pid", pid_as_json(record.pid()));
    map.insert("class", checkpoint.class());
    map.insert("state", checkpoint.state().as_str());
    map.insert("step", checkpoint.step());
    map.insert("paused", pause_object(checkpoint.pause()));
    map.insert("waits_for", optional(checkpoint.wait().map(wait_in_words)));
    map.insert("status", optional(checkpoint.status_text()));
    map.insert("created", shown_time(checkpoint.created()));
    map.insert("changed", shown_time(checkpoint.changed()));
    map.insert("inputs", inputs_value(record));
    map.insert("parent", record.child().map_or(Value::Null, |child| pid_as_json(child.parent())));
    map.insert("lease", lease_object(record.lease(), SystemTime::now()));
    map.insert("outcome", outcome_object(record.outcome()));
    let transition = |transition: &homing::process::store::Transition| {
        let mut map = Map::new();
        map.insert("at", shown_time(transition.at));
        map.insert("state", transition.state.as_str());
        map.insert("step", transition.step);
        map.insert("paused", transition.is_paused);
        Value::Map(map)
    };
    map.insert("transitions", record.transitions().iter().map(transition).collect::<Vec<_>>());
    map.insert("log_lines", record.log_lines());
    map
}

/// What there is to know of a record, for a person: names and texts.
pub(crate) fn record_facts(record: &Record) -> Vec<(&'static str, String)> {
    let checkpoint = record.checkpoint();
    let mut facts = vec![
        ("process", typed(record.pid())),
        ("class", checkpoint.class().to_owned()),
        ("state", format!("{} since {}", checkpoint.state(), shown_time(checkpoint.changed()))),
    ];
    if let Some(pause) = checkpoint.pause().filter(|_| !checkpoint.state().is_terminal()) {
        let why = pause.message().map_or(String::new(), |message| format!(": {message}"));
        facts.push(("paused", format!("since {}{why}", shown_time(pause.since()))));
    }
    if let Some(outcome) = record.outcome() {
        facts.push(("outcome", in_words(outcome)));
        if let Outcome::Excepted { chain, .. } = outcome {
            facts.extend(chain.iter().map(|cause| ("  caused by", cause.clone())));
        }
        if let Outcome::Finished { outputs, .. } = outcome {
            facts.push(("outputs", outputs.to_json_text()));
        }
    }
    if let Some(wait) = checkpoint.wait() {
        facts.push(("waits for", wait_in_words(wait)));
    }
    if let Some(text) = checkpoint.status_text() {
        facts.push(("status", text.to_owned()));
    }
    facts.push(("created", shown_time(checkpoint.created())));
    facts.push(("step", checkpoint.step().to_string()));
    facts.push(("inputs", inputs_value(record).to_json_text()));
    if let Some(child) = record.child() {
        facts.push(("parent", child.parent().to_string()));
    }
    if let Some(lease) = record.lease() {
        let until = shown_time(lease.until());
        let stands = if lease.stands_at(SystemTime::now()) { "until" } else { "which has run out, until" };
        facts.push(("lease", format!("of {}, {stands} {until}", lease.owner())));
    }
    facts
}

fn print_record(record: &Record) -> Result<(), Failure> {
    let row = |name: &str, text: &str| -> Result<(), Failure> { out!("{name:<10} {}", without_controls(text)) };
    for (name, text) in record_facts(record) {
        row(name, &text)?;
    }
    row("log", &format!("{} lines: homing process report {}", record.log_lines(), quoted(&typed(record.pid()))))?;
    for transition in record.transitions() {
        let paused = if transition.is_paused { ", paused" } else { "" };
        let text = format!("{}  {}{paused}, step {}", shown_time(transition.at), transition.state, transition.step);
        row("", &text)?;
    }
    Ok(())
}

pub(super) async fn report(command: Report, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let Report { pid, follow, last, store } = command;
    let store = open(store.file.as_deref()).await?;
    let record = record(&store, &pid).await?;
    let first = last.map_or(0, |last| record.log_lines().saturating_sub(last.get()));
    let mut log = Follow::new(store, pid.clone(), global.output.format, Place::Report).from(first);
    let mut reader_gone = std::pin::pin!(output::reader_gone());
    let mut outcome = log.step().await?;
    while follow && outcome.is_none() {
        outcome = tokio::select! {
            outcome = log.next() => outcome?,
            signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
            () = &mut reader_gone => return Err(Failure::ReaderGone),
        };
    }
    match outcome {
        Some(outcome) => note!("process {pid} {}", in_words(&outcome)),
        None if record.checkpoint().state() == ProcessState::Created => note!("process {pid} has not begun"),
        None => note!("process {pid} has not ended; --follow waits for more"),
    }
    Ok(())
}
