//! Several processes side by side: a line for each as it comes, and the exit code of the worst.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use homing::codec::Map;
use homing::process::{ControlReply, ControlStage, Pid};
use homing::{Communicator, Value};
use tokio::time::Instant;

use crate::args::{BrokerOptions, Format, Global};
use crate::failure::Failure;
use crate::output::{quoted, without_controls};
use crate::stop::Stop;
use crate::{call, note, out, report, values, warning};

/// How many requests are under way at once; the others follow.
const AT_ONCE: usize = 1024;

/// After this time a note reports what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many requests are where.
#[derive(Debug, Default)]
pub(super) struct Counts {
    received: Cell<usize>,
    done: Cell<usize>,
}

/// What is the same for all of them.
pub(super) struct Shared<'a> {
    /// What stands between "the request" and "process 4".
    pub purpose: &'static str,
    pub format: Format,
    pub deadline: Option<Instant>,
    pub counts: &'a Counts,
    /// What to try about processes that cannot be reached.
    pub advice: Option<String>,
}

/// Each process once, in the order in which they were named.
pub(super) fn each_once(pids: Vec<Pid>) -> Vec<Pid> {
    let mut seen = HashSet::new();
    pids.into_iter().filter(|pid| seen.insert(pid.clone())).collect()
}

/// Does something with each of them, and prints what comes of it.
///
/// # Errors
/// The failure if there is one process; else that some failed, with the exit code of the worst.
pub(super) async fn all<T, W: Future<Output = Result<T, Failure>>>(
    shared: &Shared<'_>,
    pids: Vec<Pid>,
    mut stop: Stop,
    work: impl Fn(Pid) -> W,
    print: impl Fn(&Pid, T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let pids = each_once(pids);
    let many = pids.len();
    let working = stream::iter(pids).map(|pid| {
        let ended = work(pid.clone());
        async move { (pid, ended.await) }
    });
    let mut working = std::pin::pin!(working.buffer_unordered(AT_ONCE));
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    let mut is_patient = true;
    let (mut worst, mut failed) = (0, 0);
    let mut is_unreachable = false;
    // Guards: `kill 1 2 3 | head -1`. What cannot be printed is done all the same.
    let mut printed = Ok(());
    loop {
        tokio::select! {
            biased;
            next = working.next() => {
                let Some((pid, ended)) = next else { break };
                shared.counts.done.set(shared.counts.done.get() + 1);
                match ended {
                    Ok(outcome) if printed.is_ok() => printed = print(&pid, outcome),
                    Ok(_) => {}
                    Err(failure) => {
                        (worst, failed) = (worst.max(failure.code()), failed + 1);
                        // What is known of it is its advice.
                        is_unreachable |= failure.code() == 3 && !matches!(failure, Failure::Advised(..));
                        if shared.format == Format::Json && printed.is_ok() {
                            printed = print_failure(&pid, &failure);
                        }
                        if many == 1 {
                            return Err(advised(failure, is_unreachable, shared));
                        }
                        if shared.format == Format::Text {
                            warning!("{failure}");
                            report::print_advice(&failure);
                        }
                    }
                }
            }
            signal = stop.wait() => {
                let (done, received) = (shared.counts.done.get(), shared.counts.received.get());
                warning!("of {many} requests {done} were answered and {received} received; the others may have been sent");
                return Err(Failure::Interrupted(signal, None));
            }
            () = &mut patience, if is_patient => {
                is_patient = false;
                let open = many - shared.counts.done.get();
                let received = shared.counts.received.get();
                note!("waiting for {open} of {many}, of which {received} have received the request");
            }
        }
    }
    printed?;
    match failed {
        0 => Ok(()),
        _ => {
            let failure = Failure::Several(worst, format!("{failed} of {many} requests failed"));
            Err(advised(failure, is_unreachable, shared))
        }
    }
}

/// Closes the connection in order, unless the command has to end now.
pub(super) async fn finish(
    communicator: &Communicator,
    asked: &Result<(), Failure>,
    deadline: Option<Instant>,
    stop: Stop,
) {
    let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
    if !is_over && !matches!(asked, Err(Failure::Interrupted(..) | Failure::ReaderGone)) {
        call::finish(communicator, deadline.map(Instant::into_std), stop).await;
    }
}

/// The failure first, and then what to try about processes that cannot be reached, once.
fn advised(failure: Failure, is_unreachable: bool, shared: &Shared<'_>) -> Failure {
    match &shared.advice {
        Some(advice) if is_unreachable => Failure::Advised(Box::new(failure), advice.clone()),
        _ => failure,
    }
}

/// What to try about processes that no worker has, with the options that lead to the same ones.
pub(super) fn run_them(global: &Global, pids: &[Pid]) -> String {
    let BrokerOptions { profile, aiida, context, .. } = &global.broker;
    let (options, under) = match (profile, aiida, context) {
        (Some(profile), ..) => (format!(" --profile {}", quoted(profile)), ""),
        (None, true, _) => (" --aiida".to_owned(), ""),
        (None, false, Some(context)) => (format!(" --context {}", quoted(context)), " (and the same names)"),
        _ => (String::new(), " (with the same broker and names)"),
    };
    let one = match pids {
        [pid] => quoted(&typed(pid)),
        _ => "PID".to_owned(),
    };
    let workers = if profile.is_some() || *aiida { "; `verdi daemon status` shows AiiDA's workers" } else { "" };
    format!(
        "no worker has it: `homing{options} process continue {one} --nowait`{under} has a worker run a process that has not \
         ended{workers}"
    )
}

/// What to know about processes that were to be killed, and that no worker has.
pub(super) fn let_them_rest(global: &Global) -> String {
    let shows = if global.broker.profile.is_some() || global.broker.aiida {
        "; `verdi process list --all` shows which it is"
    } else {
        ""
    };
    format!(
        "no worker has it: either it has ended, or it stands still until a worker has it, and can be killed then{shows}"
    )
}

fn print_failure(pid: &Pid, failure: &Failure) -> Result<(), Failure> {
    let mut error = Map::new();
    error.insert("kind", failure.kind());
    error.insert("message", failure.to_string());
    if let Failure::Advised(_, advice) = failure {
        error.insert("hint", advice.as_str());
    }
    object(pid, [("error", Value::Map(error))])
}

/// A line for programs.
pub(super) fn object<const N: usize>(pid: &Pid, fields: [(&str, Value); N]) -> Result<(), Failure> {
    let mut map = Map::new();
    map.insert("pid", pid_as_json(pid));
    for (name, value) in fields {
        map.insert(name, value);
    }
    values::print(&Value::Map(map), Format::Json)
}

/// Numbers as numbers, and everything else as a string: that is how it is typed.
pub(crate) fn pid_as_json(pid: &Pid) -> Value {
    pid.as_i64().map_or_else(|| Value::from(typed(pid)), Value::from)
}

/// A pid as a person types it: a name that looks like a number or a UUID stands in double quotes.
pub(crate) fn typed(pid: &Pid) -> String {
    let text = pid.to_string();
    match text.parse::<Pid>() {
        Ok(read) if read == *pid => text,
        _ => format!("\"{text}\""),
    }
}

/// A line for a person.
pub(super) fn line(pid: &Pid, words: &[&str]) -> Result<(), Failure> {
    let words: Vec<String> = words.iter().filter(|word| !word.is_empty()).map(|word| without_controls(word)).collect();
    out!("{}  {}", without_controls(&typed(pid)), words.join("  "))
}

/// Waits for the outcome of a request, by the command's deadline.
///
/// # Errors
/// Of the request; [`Failure::TimedOut`], which reports how far it has come.
pub(super) async fn outcome<T>(
    shared: &Shared<'_>,
    pid: Option<&Pid>,
    sending: impl Future<Output = homing::Result<ControlReply<T>>>,
) -> Result<T, Failure> {
    let how_far = Cell::new("while it was sent; it is not known whether it arrived");
    let work = async {
        let mut reply = sending.await?;
        how_far.set("after it was sent; nobody has answered yet, and it may still be carried out");
        let mut is_received = false;
        loop {
            match reply.stage().await {
                Ok(ControlStage::Done(outcome)) => return Ok(outcome),
                Ok(_) => {
                    is_received = true;
                    how_far.set("after it was received; it may still be carried out");
                    shared.counts.received.set(shared.counts.received.get() + 1);
                }
                Err(error) => {
                    if is_received {
                        shared.counts.received.set(shared.counts.received.get().saturating_sub(1));
                    }
                    return Err(Failure::Homing(error));
                }
            }
        }
    };
    let Some(deadline) = shared.deadline else { return work.await };
    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| {
        let to = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
        Err(Failure::TimedOut(format!("the request {} {to} timed out {}", shared.purpose, how_far.get())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_shown_as_it_is_typed() {
        for text in ["7", "\"7\"", "-3", "p-1", "\"3e3e4e14-dff0-4235-aab6-ddbe88f8aa68\"", "007"] {
            let pid: Pid = text.parse().unwrap();
            assert_eq!(typed(&pid), text);
            assert_eq!(typed(&pid).parse::<Pid>().unwrap(), pid);
        }
        // Also where it begins and ends with quotes itself.
        let odd = Pid::new("\"7\"").unwrap();
        assert_eq!(typed(&odd).parse::<Pid>().unwrap(), odd);
        assert_ne!(pid_as_json(&Pid::from(7)), pid_as_json(&Pid::new("7").unwrap()));
    }
}
