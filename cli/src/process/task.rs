//! `homing process launch` and `continue`.

use homing::process::{Pid, ProcessController};
use homing::{Communicator, Value};
use tokio::time::Instant;

use super::many::{self, Counts, Shared, line, object, outcome, pid_as_json};
use crate::args::{Format, Global, Process};
use crate::call::finish;
use crate::failure::Failure;
use crate::progress::{Progress, Stage, bounded};
use crate::send::connect_and_look;
use crate::stop::Stop;
use crate::values;

/// An argument of a constructor.
#[derive(Debug, PartialEq)]
enum Argument {
    Positional(Value),
    Keyword(String, Value),
}

pub(super) async fn launch(command: Process, global: &Global, stop: Stop) -> Result<(), Failure> {
    let Process::Launch { class, args, persist, nowait, timeout } = command else { return Ok(()) };
    let args = args.iter().map(|text| argument(text)).collect::<Result<Vec<_>, Failure>>()?;
    let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
    let progress = Progress::default();
    let work = async {
        progress.at(Stage::Connecting);
        let communicator = connect_and_look(global).await?;
        progress.at(Stage::Sending);
        let mut launch = ProcessController::new(&communicator).launch(class.as_str());
        for argument in args {
            launch = match argument {
                Argument::Positional(value) => launch.arg(value),
                Argument::Keyword(name, value) => launch.kwarg(name, value),
            };
        }
        if persist {
            launch = launch.persistent();
        }
        if nowait {
            let reply = launch.nowait().send().await?;
            progress.at(Stage::Sent);
            return Ok((communicator, Value::from(reply.await?), true));
        }
        let reply = launch.send().await?;
        progress.at(Stage::Sent);
        Ok((communicator, reply.await?, false))
    };
    let (communicator, outcome, is_pid): (Communicator, Value, bool) =
        bounded(timeout, stop.clone(), &progress, work).await.map_err(|failure| match failure {
            // It has begun, or nobody could begin it.
            Failure::TimedOut(_) if progress.is_sent() => {
                let advice = format!(
                    "unless a worker has it, it waits in the queue for one that knows the class {class:?}; a worker's log \
                     names a class that it does not know, and those that it knows"
                );
                Failure::Advised(Box::new(failure), advice)
            }
            failure => failure,
        })?;
    let shown = match (is_pid, global.output.format) {
        (true, _) => pid_as_json(&Pid::try_from(&outcome)?),
        (false, _) => outcome,
    };
    values::print(&shown, global.output.format)?;
    finish(&communicator, deadline, stop).await;
    Ok(())
}

/// `NAME=VALUE`, where NAME is one that Python allows, or a value.
fn argument(text: &str) -> Result<Argument, Failure> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) => {
            let value = values::parse(value.as_bytes(), &format!("the argument {name}"))?;
            Ok(Argument::Keyword(name.to_owned(), value))
        }
        _ => values::parse(text.as_bytes(), "an argument").map(Argument::Positional),
    }
}

pub(super) async fn continue_all(command: Process, global: &Global, stop: Stop) -> Result<(), Failure> {
    let Process::Continue { pids, nowait, tag, timeout } = command else { return Ok(()) };
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let progress = Progress::default();
    progress.at(Stage::Connecting);
    let communicator: Communicator =
        bounded(timeout, stop.clone(), &progress, async { connect_and_look(global).await }).await?;
    let controller = ProcessController::new(&communicator);
    let format = global.output.format;
    let counts = Counts::default();
    let shared = Shared { purpose: "to continue", format, deadline, counts: &counts, advice: None };
    let one = async |pid: Pid| -> Result<Option<Value>, Failure> {
        let mut request = controller.continue_process(&pid);
        if let Some(tag) = &tag {
            request = request.tag(tag);
        }
        if nowait {
            outcome(&shared, Some(&pid), request.nowait().send()).await?;
            return Ok(None);
        }
        outcome(&shared, Some(&pid), request.send()).await.map(Some)
    };
    let print = |pid: &Pid, outputs: Option<Value>| match (outputs, format) {
        (None, Format::Text) => line(pid, &["continued"]),
        (None, Format::Json) => object(pid, [("outcome", Value::from("continued"))]),
        (Some(outputs), Format::Text) => line(pid, &["ended", &outputs.to_json_text()]),
        (Some(outputs), Format::Json) => object(pid, [("outcome", Value::from("ended")), ("outputs", outputs)]),
    };
    let asked = many::all(&shared, pids, stop.clone(), one, print).await;
    many::finish(&communicator, &asked, deadline, stop).await;
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_with_a_name_is_a_keyword() {
        let inputs = Value::from_iter([("a", 5)]);
        for (text, expected) in [
            ("inputs={a: 5}", Argument::Keyword("inputs".to_owned(), inputs.clone())),
            ("pid=x=y", Argument::Keyword("pid".to_owned(), Value::from("x=y"))),
            ("_x=", Argument::Keyword("_x".to_owned(), Value::Null)),
            ("{a: 5}", Argument::Positional(inputs)),
            ("5", Argument::Positional(Value::from(5))),
            ("1=2", Argument::Positional(Value::from("1=2"))),
            ("\"a=b\"", Argument::Positional(Value::from("a=b"))),
        ] {
            assert_eq!(argument(text).ok(), Some(expected), "{text}");
        }
        assert!(argument("x={unclosed").is_err());
    }
}
