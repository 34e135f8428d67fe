//! Where the broker and the names come from: the command line, else a context, else the environment, else the context in use.

use std::env;
use std::time::Instant;

use crate::aiida;
use crate::args::{BrokerOptions, Global, Names};
use crate::contexts::{self, Saved};
use crate::failure::Failure;
use crate::output::quoted;
use crate::stop::Stop;

/// Whether the broker was asked for on this command line, or stands in the surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Explicitly,
    BySurroundings,
}

/// Whether the command line asks for a broker.
pub(crate) fn asked(options: &BrokerOptions) -> Asked {
    let explicit = options.broker.is_some() || options.context.is_some() || options.profile.is_some() || options.aiida;
    if explicit { Asked::Explicitly } else { Asked::BySurroundings }
}

/// Fills in what the command line leaves open. The broker stays open where it is given nowhere, see [`not_given`](crate::not_given).
///
/// # Errors
/// `Usage` for an empty option, and for a context or a profile of AiiDA that is not there; `TimedOut` when the password command of
/// a context does not end by the deadline, `Interrupted` when a signal comes before it has ended.
pub(crate) fn resolve(global: &Global, deadline: Option<Instant>, stop: &Stop) -> Result<Global, Failure> {
    let mut global = global.clone();
    global.broker.typed.clone_from(&global.broker.broker);
    if global.broker.profile.is_some() || global.broker.aiida {
        let found = aiida::profile(global.broker.profile.as_deref())?;
        global.broker.broker = Some(found.url);
        global.names = Names { prefix: Some(found.prefix), testing: found.testing, ..Names::default() };
        return Ok(global);
    }
    if global.broker.broker.as_deref() == Some("") {
        return Err(Failure::Usage("--broker is empty; give the URL of a broker, or leave it out".to_owned()));
    }
    if let Some(prefix) = &global.names.prefix
        && prefix.is_empty()
    {
        return Err(Failure::Usage("--prefix is empty; give a prefix, or leave it out".to_owned()));
    }
    let given_names = global.names.any();
    if global.broker.broker.is_none() {
        let name = global.broker.context.clone();
        let (named, from_environment) = match name {
            Some(name) => (Some(name), None),
            None => match variable("HOMING_BROKER")? {
                Some(url) => (None, Some(url)),
                None => (variable("HOMING_CONTEXT")?, None),
            },
        };
        if from_environment.is_some() {
            global.broker.broker = from_environment;
        } else {
            let saved = match named {
                Some(name) => Some(contexts::named(&global.broker, &name)?),
                None => contexts::in_use(&global.broker)?,
            };
            if let Some(saved) = saved {
                apply(&mut global, saved, deadline, stop)?;
            }
        }
    }
    if !given_names && !global.names.any() {
        global.names.prefix = variable("HOMING_PREFIX")?;
    }
    Ok(global)
}

fn apply(global: &mut Global, saved: Saved, deadline: Option<Instant>, stop: &Stop) -> Result<(), Failure> {
    global.broker.broker = Some(saved.url(deadline, stop)?);
    if !global.names.any() {
        let Saved { prefix, message_exchange, task_exchange, task_queue, .. } = saved;
        global.names = Names { prefix, message_exchange, task_exchange, task_queue, testing: false };
    }
    Ok(())
}

/// How `homing` is typed so that a command has the names on the broker that this one has: `homing --prefix jobs`.
pub(crate) fn with_names(global: &Global) -> String {
    let Global { broker, names, .. } = global;
    if let Some(profile) = &broker.profile {
        return format!("homing --profile {}", quoted(profile));
    }
    if broker.aiida {
        return "homing --aiida".to_owned();
    }
    let names = [
        ("--prefix", &names.prefix),
        ("--message-exchange", &names.message_exchange),
        ("--task-exchange", &names.task_exchange),
        ("--task-queue", &names.task_queue),
    ];
    names.into_iter().fold("homing".to_owned(), |typed, (option, value)| match value {
        Some(value) => format!("{typed} {option} {}", quoted(value)),
        None => typed,
    })
}

/// How `homing` is typed so that a command has the broker, too, that this one has. A broker that is in the environment, or in the
/// context in use, is found by every command. A URL with a password is not repeated.
pub(crate) fn with_broker(global: &Global) -> String {
    let typed = with_names(global);
    let BrokerOptions { context, typed: broker, .. } = &global.broker;
    let behind = typed.strip_prefix("homing").unwrap_or("");
    match (context, broker) {
        (Some(context), _) => format!("homing --context {}{behind}", quoted(context)),
        (None, Some(broker)) if contexts::shown_urls(broker) != *broker => format!("homing --broker URL{behind}"),
        (None, Some(broker)) => format!("homing --broker {}{behind}", quoted(broker)),
        (None, None) => typed,
    }
}

/// A variable of the environment. One that is empty counts as one that is not set.
///
/// # Errors
/// `Usage` when it is no UTF-8.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::Usage(format!("{name} is no UTF-8"))),
    }
}
