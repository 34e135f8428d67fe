//! Longer passages of the help.
//!
//! A paragraph is one line here, for clap wraps it to the width of the terminal. What is a table has lines that fit into 80
//! columns.

use clap::{Arg, Command};

/// Behind `homing --help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
    0  done; also when the reader of standard output has gone (homing ... | head -1),
       and when one signal has ended a worker in order: what it ran had ended, or was
       stopped after --drain (a task goes back to its queue, a call is cancelled)
    1  failed; or what is named is not there: a queue, a task, a process
    2  wrong usage
    3  unroutable: no subscriber has this identifier; nobody runs processes
    4  timed out; the error reports whether the message was sent
    5  remote exception: the other end failed
    6  no connection
    7  access refused: the credentials, the virtual host, or a permission
    8  a task with this --unique key was sent before, and this one was not
  130  interrupted (Ctrl-C); 143 by SIGTERM
A command about several processes ends with the highest of their codes; `homing run` with its program's.";

/// Behind the help of the commands about processes.
pub(super) const PIDS: &str = "\
Processes:
  A PID is a number (AiiDA's pk), a UUID (plumpy's default) or a name. Put a name that looks like a number or a UUID into \
  double quotes: '\"1234\"'. Several are asked at the same time, and each has a line in the output.
  AiiDA's processes are reached with --aiida (its default profile) or --profile NAME.";

/// Behind the help of `process launch`.
pub(super) const CONSTRUCTORS: &str = "\
Arguments:
  homing process launch jobs:Relax inputs='{structure: Si, steps: 20}' pid=4711
  makes jobs.Relax(inputs={'structure': 'Si', 'steps': 20}, pid=4711). Put a positional argument that contains a = or \
  begins with a dash into double quotes: '\"a=b\"'.";

/// Behind the help of every command that sends a body.
pub(super) const BODIES: &str = "\
Bodies:
  A body is YAML 1.1 or JSON, as kiwipy's Python peers read it. Text that is JSON is read as JSON. Without a body, null is \
  sent; `-` reads it from standard input. Put `--` before a body that begins with a dash: homing task send -- '- a list'.
  YAML 1.1 has surprises: 12:30 is the number 750 (base 60), 010 is 8 (octal), 1_000 is 1000, and yes, no, on and off are \
  booleans. Write '\"12:30\"' (quotes within quotes) for the string.";

/// What `--exec` runs, for calls and tasks.
macro_rules! exec {
    ($exit_codes:literal) => {
        concat!(
            "\
The command of --exec:
  Its standard input is the body as JSON, one line. Its standard output, read as YAML, is the answer; empty is null. What it \
  writes to standard error is passed on as it is when it has done its work, also among lines of JSON. Its environment has \
  HOMING_KIND (task or call), HOMING_MESSAGE_ID, HOMING_CORRELATION_ID, HOMING_QUEUE, HOMING_IDENTIFIER, HOMING_ATTEMPT, and \
  HOMING_REDELIVERED and HOMING_NO_REPLY (true or false), each where it is known and has no zero byte. It has ended when its own \
  process has; processes that it left in the background do not delay the answer.
Its exit code:
",
            $exit_codes
        )
    };
}

/// Behind the help of `rpc serve`.
pub(super) const EXEC_CALLS: &str = exec!(
    "    0  done
  126  not runnable, and 127 not found: the server stops with exit code 1,
       and the caller gets an exception
  Any other has failed: the caller gets an exception with the command's standard error."
);

/// Behind the help of `task work`.
pub(super) const EXEC_TASKS: &str = exec!(
    "    0  done
   75  not now (EX_TEMPFAIL): the task is tried again, without a limit
  126  not runnable, and 127 not found: the worker stops with exit code 1,
       and the task is back in its queue
  Any other has failed: see --retries and --on-failure."
);

/// Behind the help of every command with an option that takes a TIME.
pub(super) const TIMES: &str = "\
Times:
  A TIME is a number of seconds (30), or has units: 500ms, 30s, 5m, 1h30m, 7d.";

/// Behind the help of `run`.
pub(super) const RUN: &str = "\
Its exit code:
  The program's; 128 plus the number of the signal that has ended it; 143 when the process was killed. Ctrl-C \
  at a terminal asks whether to kill it or to leave it running; without a terminal it goes on.
The program:
  Its standard input is empty. Its environment is the worker's with HOMING_PROCESS (the pid) and HOMING_ATTEMPT, and what --env \
  sets. It runs in a process group of its own. What is left in that group when it ends is killed.";

/// Behind the help of `top`.
pub(super) const TOP: &str = "\
Keys:
  up, down, j, k, PageUp, PageDown, Home, End   move
  Enter      looks into a process: its states with times, its log, what it answers; Esc goes back
  /          shows only processes that contain these words: pid, state, class, worker, message
  p          pauses the process
  l, space   plays it
  K          kills it, after a question: y kills, f kills by force, every other key does not
  ?          shows the keys
  q, Ctrl-C  ends
Limits:
  At most 2,000 processes and the last 500 events are kept; processes that have ended are dropped first. The screen is drawn \
  at most ten times a second.";

/// With the passage on times where an option of the command takes one.
pub(super) fn with_times(command: Command) -> Command {
    let takes_time = |argument: &Arg| {
        argument.get_value_names().is_some_and(|names| names.iter().any(|name| *name == "TIME"))
            && !argument.is_hide_set()
            && !argument.is_global_set()
    };
    let command = if command.get_arguments().any(takes_time) {
        let tail = command.get_after_help().map_or_else(String::new, |text| format!("{text}\n"));
        command.after_help(tail + TIMES)
    } else {
        command
    };
    command.mut_subcommands(with_times)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command, and its name in full.
    fn all(command: &Command, above: &str, found: &mut Vec<(String, Command)>) {
        let name = format!("{above}{}", command.get_name());
        for below in command.get_subcommands() {
            all(below, &format!("{name} "), found);
        }
        found.push((name, command.clone()));
    }

    fn commands() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        all(&super::super::command(), "", &mut found);
        assert!(found.len() > 60, "{}", found.len());
        found
    }

    #[test]
    fn a_line_of_a_passage_is_a_whole_paragraph_or_fits_into_80_columns() {
        for (name, command) in commands() {
            let passages = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in passages.lines() {
                // Guards: a paragraph of two lines, each of which clap wraps.
                let whole = line.ends_with(['.', ':', ')', '\'']);
                assert!(whole || line.chars().count() <= 100, "homing {name}: {line}");
                assert!(!line.contains("  homing") || line.chars().count() <= 100, "homing {name}: {line}");
            }
        }
    }

    #[test]
    fn a_wrong_number_or_address_is_refused_with_what_is_wanted() {
        let mut refused = 0;
        for (name, command) in commands() {
            let plain = ["N", "ADDRESS"];
            let takes = |argument: &&Arg| {
                let names = argument.get_value_names().unwrap_or_default();
                argument.get_long().is_some() && names.iter().any(|name| plain.contains(&name.as_str()))
            };
            for argument in command.get_arguments().filter(takes) {
                let option = format!("--{}", argument.get_long().unwrap_or_default());
                for wrong in ["0", "x", "", "99999999999999999999"] {
                    let line = name.split(' ').chain([option.as_str(), wrong]);
                    let Err(error) = super::super::command().try_get_matches_from(line) else { continue };
                    if error.kind() != clap::error::ErrorKind::ValueValidation {
                        continue;
                    }
                    let error = error.to_string();
                    // Guards: the words of a number's type in Rust.
                    assert!(error.contains(" wanted") || error.contains("there are 1 to"), "homing {name}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 40, "{refused}");
    }

    #[test]
    fn a_time_has_its_unit_wherever_it_is_shown() {
        for (name, command) in commands() {
            let own =
                || command.get_arguments().filter(|argument| !argument.is_hide_set() && !argument.is_global_set());
            let named = |argument: &Arg, name: &str| {
                argument.get_value_names().is_some_and(|names| names.iter().any(|other| *other == name))
            };
            let explained = command.get_after_help().is_some_and(|text| text.to_string().contains("A TIME is"));
            assert_eq!(explained, own().any(|argument| named(argument, "TIME")), "homing {name}");
            for argument in own() {
                // Guards: a time of some unit, named otherwise than all others.
                let words = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let long = words.starts_with("How long") || words.contains("time limit");
                assert!(!long || named(argument, "TIME"), "homing {name}: {}: {words}", argument.get_id());
                for default in argument.get_default_values() {
                    let unit = default.to_string_lossy().ends_with(char::is_alphabetic);
                    assert!(!named(argument, "TIME") || unit, "homing {name}: {}: {default:?}", argument.get_id());
                }
            }
        }
    }
}
