//! How checkpoints and their parts stand in rows, as columns and as texts.

use std::time::{Duration, SystemTime};

use rusqlite::Row;
use rusqlite::types::{FromSql, ToSql, ToSqlOutput, Value as Sql, ValueRef};
use uuid::Uuid;

use super::super::super::{Pid, ProcessState};
use super::super::text::encode;
use super::super::{
    Checkpoint, ChildKey, Inputs, Lease, LogLine, LogSource, Outcome, Owner, PauseNote, Summary, Transition, Wait,
};
use super::schema::FORMAT;
use crate::Value;
use crate::error::{Error, ErrorKind, Result};

/// Nanoseconds since 1970; times before 1677 or after 2262 are the first or the last that can be stored.
pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |time| -time),
    }
}

pub(super) fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// SQLite's integers are signed. No count gets there.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A pid in a column: an integer for a number, and otherwise the text that a person would type for it.
pub(super) struct PidColumn<'a>(pub(super) &'a Pid);

impl ToSql for PidColumn<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let pid = self.0;
        let column = match pid.as_i64() {
            Some(number) => Sql::Integer(number),
            None => {
                let text = pid.to_string();
                // A string that looks like something else stands in quotes.
                let is_plain = text.parse::<Pid>().is_ok_and(|read| read == *pid);
                Sql::Text(if is_plain { text } else { format!("\"{text}\"") })
            }
        };
        Ok(ToSqlOutput::Owned(column))
    }
}

pub(super) fn pid(column: ValueRef<'_>) -> Result<Pid> {
    match column {
        ValueRef::Integer(number) => Ok(Pid::from(number)),
        ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| damaged("its pid is no text"))?.parse(),
        _ => Err(damaged("its pid is neither an integer nor a text")),
    }
}

/// What is wrong with what is stored.
fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::Decode, why.to_owned())
}

/// The same with the process named. The row stays as it is.
pub(super) fn of_process(pid: &Pid, error: &Error) -> Error {
    let text = format!("what is stored of the process {pid} cannot be read, and stays as it is: {error}");
    Error::new(ErrorKind::Decode, text)
}

/// A column.
pub(super) fn get<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T> {
    row.get(column).map_err(|error| damaged(&format!("its {column} is damaged: {error}")))
}

/// A text that stands for a value.
fn value(what: &str, text: &str) -> Result<Value> {
    Value::from_json_text(text).map_err(|error| damaged(&format!("its {what} is damaged: {error}")))
}

/// The columns of a checkpoint, as they are stored.
pub(super) struct Columns {
    pub(super) class: String,
    pub(super) state: String,
    pub(super) step: i64,
    pub(super) created: i64,
    pub(super) changed: i64,
    exit_status: Option<i64>,
    pub(super) pause: Option<String>,
    status_text: Option<String>,
    wait: Option<String>,
    pub(super) outcome: Option<String>,
    brought: String,
    body: String,
    outputs: Option<String>,
}

/// What is selected for a checkpoint, of the table `processes` as `p`.
pub(super) const CHECKPOINT: &str = "p.format, p.checksum, p.class, p.state, p.step, p.created, p.changed, p.exit_status, \
     p.pause, p.status_text, p.wait, p.outcome, p.brought, p.body, p.outputs";

/// What is selected for a lease, of the tables `processes` and `owners` as `p` and `o`.
pub(super) const LEASE: &str = "p.lease_number, p.lease_owner, o.worker, o.host, o.place, o.os_pid, o.started, o.until";

/// What is selected for a summary.
pub(super) const SUMMARY: &str = "p.id, p.pid, p.format, p.class, p.state, p.step, p.created, p.changed, p.exit_status, \
     p.task, p.pause, p.status_text";

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::from_iter(pairs)
}

fn texts<'a>(texts: impl Iterator<Item = &'a String>) -> Value {
    Value::List(texts.map(|text| Value::from(text.as_str())).collect())
}

impl Columns {
    /// # Errors
    /// `Encode` for values that would not be read back.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let pause = checkpoint.pause.as_ref().map(|pause| {
            map([
                ("message", pause.message().into()),
                ("since", nanoseconds(pause.since()).into()),
                ("in_step", pause.is_in_step().into()),
            ])
        });
        let wait = checkpoint.wait.as_ref().map(|wait| match wait {
            Wait::ForResume(text) => map([("for_resume", text.as_str().into())]),
            Wait::Until(time) => map([("until", nanoseconds(*time).into())]),
            Wait::Children(pids) => map([("children", Value::List(pids.iter().map(Value::from).collect()))]),
        });
        let outcome = checkpoint.outcome.as_ref().map(|outcome| match outcome {
            Outcome::Finished { exit_status, .. } => map([("finished", (*exit_status).into())]),
            Outcome::Excepted { type_name, message, chain } => map([(
                "excepted",
                map([
                    ("type", type_name.as_str().into()),
                    ("message", message.as_str().into()),
                    ("chain", texts(chain.iter())),
                ]),
            )]),
            Outcome::Killed { message } => map([("killed", message.as_deref().into())]),
        });
        let (exit_status, outputs) = match &checkpoint.outcome {
            Some(Outcome::Finished { exit_status, outputs }) => {
                (Some(*exit_status), Some(encode("what a process has put out", outputs)?))
            }
            _ => (None, None),
        };
        let text = |value: Option<Value>| value.map(|value| value.to_json_text());
        Ok(Columns {
            class: checkpoint.class.clone(),
            state: checkpoint.state.as_str().to_owned(),
            step: signed(checkpoint.step),
            created: nanoseconds(checkpoint.created),
            changed: nanoseconds(checkpoint.changed),
            exit_status,
            pause: text(pause),
            status_text: checkpoint.status_text.clone(),
            wait: text(wait),
            outcome: text(outcome),
            brought: encode("what a wait has brought", &checkpoint.brought)?,
            body: encode("the body of a checkpoint", &checkpoint.body)?,
            outputs,
        })
    }

    /// What a row has of [`CHECKPOINT`].
    ///
    /// # Errors
    /// `Decode` for one that is damaged, or of a newer format.
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
        check_format(row)?;
        let columns = Columns {
            class: get(row, "class")?,
            state: get(row, "state")?,
            step: get(row, "step")?,
            created: get(row, "created")?,
            changed: get(row, "changed")?,
            exit_status: get(row, "exit_status")?,
            pause: get(row, "pause")?,
            status_text: get(row, "status_text")?,
            wait: get(row, "wait")?,
            outcome: get(row, "outcome")?,
            brought: get(row, "brought")?,
            body: get(row, "body")?,
            outputs: get(row, "outputs")?,
        };
        match get::<Option<i64>>(row, "checksum")? {
            Some(checksum) if checksum != columns.checksum() => Err(damaged("its checksum is wrong")),
            _ => Ok(columns),
        }
    }

    /// The checkpoint that they stand for.
    pub(super) fn into_checkpoint(self) -> Result<Checkpoint> {
        let outcome = self.outcome.as_deref().map(|text| outcome(text, self.outputs.as_deref())).transpose()?;
        let state = state(&self.state)?;
        if outcome.as_ref().map_or(state.is_terminal(), |outcome| outcome.state() != state) {
            return Err(damaged(&format!("its outcome does not go with its state, which is {state}")));
        }
        Ok(Checkpoint {
            class: self.class,
            state,
            step: unsigned(self.step),
            pause: self.pause.as_deref().map(pause).transpose()?,
            body: value("body", &self.body)?,
            wait: self.wait.as_deref().map(wait).transpose()?,
            brought: value("value that a wait has brought", &self.brought)?,
            status_text: self.status_text,
            created: time(self.created),
            changed: time(self.changed),
            outcome,
        })
    }

    /// True when they stand for the same checkpoint.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.numbers() == other.numbers() && self.texts() == other.texts()
    }

    fn numbers(&self) -> [i64; 4] {
        [self.step, self.created, self.changed, self.exit_status.unwrap_or(-1)]
    }

    fn texts(&self) -> [Option<&str>; 9] {
        [
            Some(&self.class),
            Some(&self.state),
            self.pause.as_deref(),
            self.status_text.as_deref(),
            self.wait.as_deref(),
            self.outcome.as_deref(),
            Some(&self.brought),
            Some(&self.body),
            self.outputs.as_deref(),
        ]
    }

    /// By this it is found out that a disk has changed a byte: FNV-1a over all of them and their lengths.
    pub(super) fn checksum(&self) -> i64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for number in self.numbers() {
            add(&number.to_le_bytes());
        }
        for text in self.texts() {
            add(&text.map_or(-1, |text| i64::try_from(text.len()).unwrap_or(i64::MAX)).to_le_bytes());
            add(text.unwrap_or_default().as_bytes());
        }
        hash.cast_signed()
    }

    pub(super) fn parameters(&self) -> [(&'static str, &dyn ToSql); 13] {
        [
            (":class", &self.class),
            (":state", &self.state),
            (":step", &self.step),
            (":created", &self.created),
            (":changed", &self.changed),
            (":exit_status", &self.exit_status),
            (":pause", &self.pause),
            (":status_text", &self.status_text),
            (":wait", &self.wait),
            (":outcome", &self.outcome),
            (":brought", &self.brought),
            (":body", &self.body),
            (":outputs", &self.outputs),
        ]
    }
}

fn check_format(row: &Row<'_>) -> Result<()> {
    match get::<i64>(row, "format")? {
        FORMAT => Ok(()),
        newer if newer > FORMAT => Err(damaged(&format!(
            "it has format {newer}, and this homing knows formats up to {FORMAT}; use the newer homing that wrote it"
        ))),
        other => Err(damaged(&format!("it has format {other}, which no homing writes"))),
    }
}

fn state(text: &str) -> Result<ProcessState> {
    ProcessState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| damaged("its state is none that a process can be in"))
}

fn string(value: Option<&Value>) -> Option<Option<String>> {
    match value? {
        Value::Null => Some(None),
        value => value.as_str().map(|text| Some(text.to_owned())),
    }
}

fn pause(text: &str) -> Result<PauseNote> {
    let note = value("pause", text)?;
    let read = || {
        let since = time(note.get("since")?.as_i64()?);
        let pause = PauseNote::new(string(note.get("message"))?, since);
        Some(if note.get("in_step")?.as_bool()? { pause.in_step() } else { pause })
    };
    read().ok_or_else(|| damaged("its pause is damaged"))
}

fn wait(text: &str) -> Result<Wait> {
    let wait = value("wait", text)?;
    let read = || {
        if let Some(text) = wait.get("for_resume") {
            return Some(Wait::ForResume(text.as_str()?.to_owned()));
        }
        if let Some(until) = wait.get("until") {
            return Some(Wait::Until(time(until.as_i64()?)));
        }
        let pids = wait.get("children")?.as_slice()?.iter().map(Pid::try_from);
        pids.collect::<Result<_>>().ok().map(Wait::Children)
    };
    read().ok_or_else(|| damaged("its wait is damaged"))
}

fn outcome(text: &str, outputs: Option<&str>) -> Result<Outcome> {
    let whole = value("outcome", text)?;
    let outputs = outputs.map(|outputs| value("outputs", outputs)).transpose()?;
    let read = || {
        if let Some(exit_status) = whole.get("finished") {
            return Some(Outcome::Finished { exit_status: exit_status.as_i64()?, outputs: outputs? });
        }
        if let Some(message) = whole.get("killed") {
            return Some(Outcome::Killed { message: string(Some(message))? });
        }
        let excepted = whole.get("excepted")?;
        let chain = excepted.get("chain")?.as_slice()?.iter();
        Some(Outcome::Excepted {
            type_name: excepted.get("type")?.as_str()?.to_owned(),
            message: excepted.get("message")?.as_str()?.to_owned(),
            chain: chain.map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        })
    };
    read().ok_or_else(|| damaged("its outcome is damaged"))
}

/// What a row has of [`LEASE`].
pub(super) fn lease(row: &Row<'_>) -> Result<Option<Lease>> {
    let Some(worker) = get::<Option<String>>(row, "worker")? else { return Ok(None) };
    let worker = Uuid::try_parse(&worker).map_err(|_| damaged("the owner of its lease has no UUID"))?;
    let os_pid = u32::try_from(get::<i64>(row, "os_pid")?).unwrap_or(0);
    let started = get::<i64>(row, "started")?.cast_unsigned();
    let owner = Owner::from_parts(worker, get(row, "host")?, get(row, "place")?, os_pid, started);
    Ok(Some(Lease::new(owner, unsigned(get(row, "lease_number")?), time(get(row, "until")?))))
}

/// The pid in a row.
pub(super) fn read_pid(row: &Row<'_>, column: &str) -> Result<Pid> {
    pid(row.get_ref(column).map_err(|error| damaged(&error.to_string()))?)
}

/// What a row has of [`SUMMARY`] and [`LEASE`].
pub(super) fn summary(row: &Row<'_>) -> Result<Summary> {
    check_format(row)?;
    Ok(Summary {
        pid: read_pid(row, "pid")?,
        class: get(row, "class")?,
        state: state(&get::<String>(row, "state")?)?,
        step: unsigned(get(row, "step")?),
        pause: get::<Option<String>>(row, "pause")?.as_deref().map(pause).transpose()?,
        status_text: get(row, "status_text")?,
        created: time(get(row, "created")?),
        changed: time(get(row, "changed")?),
        exit_status: get(row, "exit_status")?,
        task: get(row, "task")?,
        lease: lease(row)?,
    })
}

/// Whose child a row is.
pub(super) fn child(row: &Row<'_>) -> Result<Option<ChildKey>> {
    let Some(step) = get::<Option<i64>>(row, "child_step")? else { return Ok(None) };
    let index = u32::try_from(get::<i64>(row, "child_index")?).map_err(|_| damaged("its index as a child is none"))?;
    Ok(Some(ChildKey::new(read_pid(row, "child_parent")?, unsigned(step), index)))
}

/// What a row of `inputs` has.
pub(super) fn inputs(row: &Row<'_>) -> Result<Inputs> {
    let args = value("arguments", &get::<String>(row, "args")?)?;
    let kwargs = value("keyword arguments", &get::<String>(row, "kwargs")?)?;
    match (args, kwargs) {
        (Value::List(args), Value::Map(kwargs)) => Ok(Inputs::from_parts(args, kwargs)),
        _ => Err(damaged("its arguments are damaged")),
    }
}

/// What a row of `transitions` has.
pub(super) fn transition(row: &Row<'_>) -> Result<Transition> {
    Ok(Transition {
        state: state(&get::<String>(row, "state")?)?,
        step: unsigned(get(row, "step")?),
        is_paused: get(row, "is_paused")?,
        at: time(get(row, "at")?),
    })
}

/// What a row of `log` has.
pub(super) fn log_line(row: &Row<'_>) -> Result<LogLine> {
    let source = get::<String>(row, "source")?;
    Ok(LogLine {
        number: unsigned(get(row, "number")?),
        at: time(get(row, "at")?),
        source: LogSource::ALL
            .into_iter()
            .find(|known| known.as_str() == source)
            .ok_or_else(|| damaged("a line of its log comes from nowhere that is known"))?,
        text: get(row, "line")?,
    })
}
