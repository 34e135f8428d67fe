//! A command or an option that is mistyped: which one was meant.
//!
//! clap compares words by the letters that they share, and finds nothing for short ones: of `rcp` and `rpc` it is the first letter. Of
//! options it takes `--quiet` to be closer to `--queue` than `--task-queue` is.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// So many letters of a word may be wrong, missing, too many or swapped with their neighbour: one of every three.
fn allowed(word: &str) -> usize {
    word.chars().count().div_ceil(3)
}

/// The error, with what may have been meant.
pub(crate) fn explained(mut error: Error, command: &Command, typed: impl Iterator<Item = OsString>) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand if error.get(ContextKind::SuggestedSubcommand).is_none() => {
            let Some(wrong) = text(ContextKind::InvalidSubcommand) else { return error };
            let meant = meant(&wrong, parent(&wrong, command, typed));
            if !meant.is_empty() {
                error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(meant));
            }
        }
        ErrorKind::UnknownArgument => {
            let Some(wrong) = text(ContextKind::InvalidArg) else { return error };
            if let Some(meant) = longer(&wrong, command, parent(&wrong, command, typed)) {
                error.insert(ContextKind::SuggestedArg, ContextValue::String(meant));
            }
        }
        _ => {}
    }
    error
}

/// The option whose last words these are.
fn longer(wrong: &str, command: &Command, parent: &Command) -> Option<String> {
    let words = wrong.strip_prefix("--")?.split('=').next().filter(|words| !words.is_empty())?;
    let own = parent.get_arguments().chain(command.get_arguments().filter(|argument| argument.is_global_set()));
    let mut ending = own.filter_map(|argument| argument.get_long()).filter(|long| long.ends_with(&format!("-{words}")));
    ending.next().map(|long| format!("--{long}"))
}

/// The command whose subcommand the wrong word was to be.
fn parent<'a>(wrong: &str, command: &'a Command, typed: impl Iterator<Item = OsString>) -> &'a Command {
    let mut parent = command;
    for word in typed.take_while(|word| *word != *wrong) {
        // Between them are options and their values, which are no commands.
        parent = word.to_str().and_then(|word| parent.find_subcommand(word)).unwrap_or(parent);
    }
    parent
}

/// The subcommands that are closest to a word, and close enough.
fn meant(wrong: &str, parent: &Command) -> Vec<String> {
    let names = parent.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name);
    let mut close: Vec<(usize, &str)> = names
        .map(|name| (strsim::osa_distance(wrong, name), name))
        .filter(|(distance, name)| *distance <= allowed(name))
        .collect();
    close.sort_unstable();
    let least = close.first().map_or(0, |(distance, _)| *distance);
    close.into_iter().take_while(|(distance, _)| *distance == least).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(typed: &[&str]) -> String {
        let command = crate::args::command();
        let words = typed.iter().map(OsString::from);
        let error = command.clone().try_get_matches_from(["homing".into()].into_iter().chain(words.clone()));
        let error = explained(error.expect_err("it is wrong"), &command, words);
        let text = error.render().to_string();
        text.lines().find_map(|line| line.trim().strip_prefix("tip: ").map(str::to_owned)).unwrap_or_default()
    }

    #[test]
    fn the_command_that_was_meant_is_named() {
        for (typed, meant) in [
            (&["rcp"][..], "'rpc'"),
            (&["rpc", "cal"], "'call'"),
            (&["tsak"], "'task'"),
            (&["tsk"], "'task'"),
            (&["taks", "send"], "'task'"),
            (&["--quiet", "--broker", "local:", "rcp", "call"], "'rpc'"),
            (&["task", "sned"], "'send'"),
            (&["task", "puger", "--all"], "'purge'"),
            (&["rpc", "srve"], "'serve'"),
            (&["broker", "satrt"], "'start'"),
            (&["broker", "user", "ad"], "'add'"),
            (&["dotcor"], "'doctor'"),
            (&["process", "paly"], "'play'"),
        ] {
            assert!(tip(typed).contains(meant), "{typed:?}: {}", tip(typed));
        }
        assert!(tip(&["task", "send", "--queue", "q", "x"]).contains("'--task-queue'"));
        assert!(tip(&["task", "send", "--queue=q"]).contains("'--task-queue'"));
        assert!(tip(&["--fromat", "json", "demo"]).contains("'--format'"));
        for typed in [&["xyz"][..], &["frobnicate"], &["task", "zzzz"]] {
            assert_eq!(tip(typed), "", "{typed:?}");
        }
    }
}
