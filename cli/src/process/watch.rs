//! `homing process watch`.

use homing::Value;
use homing::codec::Map;
use homing::process::{Pid, ProcessController, ProcessEvents, ProcessState, StateChange};
use homing::{Communicator, ConnectionEvent};

use super::many::{each_once, pid_as_json, typed};
use crate::args::{Format, Global};
use crate::connection::{News, Watched, begin_to_stay, close, options};
use crate::failure::Failure;
use crate::output::without_controls;
use crate::stop::Stop;
use crate::{not_given, note, out, output, values, warning};

pub(super) async fn run(pids: Vec<Pid>, count: Option<u64>, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let begin = async |communicator: &Communicator| {
        let watched = Watched::new(communicator);
        let events = ProcessController::new(communicator).events(each_once(pids.clone())).await?;
        Ok((watched, events))
    };
    let options = options(global)?;
    let mut reader_gone = std::pin::pin!(output::reader_gone());
    let (communicator, (mut watched, mut events)): (Communicator, (Watched, ProcessEvents)) = tokio::select! {
        started = begin_to_stay(global, options, begin) => started?,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
        () = &mut reader_gone => return Ok(()),
    };
    not_given::note(&global.broker);
    note!("watching changes of state until Ctrl-C");
    let mut left = count;
    while left != Some(0) {
        tokio::select! {
            signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
            () = &mut reader_gone => return Err(Failure::ReaderGone),
            (event, news) = watched.next() => match (event, news) {
                (_, News::Ended(failure)) => return Err(failure),
                (Some(ConnectionEvent::Gap { away, .. }), _) => warning!(
                    "changes of {:.1} s are missing, for there was no connection, and the broker keeps none",
                    away.as_secs_f64()
                ),
                _ => {}
            },
            change = events.next() => match change {
                Some(Ok(change)) => {
                    print(&change, global.output.format)?;
                    left = left.map(|left| left - 1);
                }
                Some(Err(lagged)) => {
                    warning!("{} changes are missing: they came faster than they could be printed", lagged.missed);
                }
                // It is the connection's end, which is reported beside.
                None => return Err(watched.lost().await),
            },
        }
    }
    close(&communicator).await
}

fn print(change: &StateChange, format: Format) -> Result<(), Failure> {
    let time = output::now();
    match format {
        Format::Json => {
            let mut map = Map::new();
            map.insert("time", time);
            map.insert("pid", pid_as_json(change.pid()));
            map.insert("from", change.from().map(ProcessState::as_str));
            map.insert("to", change.to().as_str());
            values::print(&Value::Map(map), format)
        }
        Format::Text => {
            let from = change.from().map_or(String::new(), |from| format!("  from {from}"));
            // The time first, as in a log.
            out!("{time}  {}  {:<8}{from}", without_controls(&typed(change.pid())), change.to())
        }
    }
}
