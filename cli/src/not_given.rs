//! No broker was given: what was looked at instead, and how another one is reached.
//!
//! The broker is then `local:`. Whoever has a RabbitMQ and expects it to be found would otherwise wait at another broker, and
//! not know: so each command that does not find there what was asked for reports where it has looked.

use std::sync::atomic::{AtomicBool, Ordering};

use homing::ErrorKind;

use crate::args::{BrokerOptions, Command};
use crate::failure::Failure;
use crate::{DEFAULT_BROKER, note};

/// How a RabbitMQ is reached.
const OTHERS: &str = "a RabbitMQ is reached by --broker amqp://localhost, HOMING_BROKER or a context (`homing context`), AiiDA's by \
                      --aiida";

/// Whether this run has reported it.
static NOTED: AtomicBool = AtomicBool::new(false);

/// What is used, if no broker was given.
pub(crate) fn instead(options: &BrokerOptions) -> Option<String> {
    let is_given = options.broker.is_some();
    (!is_given).then(|| {
        format!("no broker was given: this is local:, which this user's programs on this machine share; {OTHERS}")
    })
}

/// Reports it, once a run.
pub(crate) fn note(options: &BrokerOptions) {
    // Ordering: Relaxed, for it orders nothing.
    if let Some(text) = instead(options)
        && !NOTED.swap(true, Ordering::Relaxed)
    {
        note!("{text}");
    }
}

/// With where this command has looked, if it has failed to find what was asked for.
pub(crate) fn explained(options: &BrokerOptions, failure: Failure) -> Failure {
    match instead(options) {
        Some(text) if is_about_what_is_there(&failure) && !NOTED.load(Ordering::Relaxed) => {
            Failure::Advised(Box::new(failure), text)
        }
        _ => failure,
    }
}

fn is_about_what_is_there(failure: &Failure) -> bool {
    let by_code = matches!(failure.code(), 3 | 4 | 6);
    match failure {
        // Found, and checked.
        Failure::Checked(_) => false,
        Failure::Homing(error) => by_code || error.kind() == ErrorKind::NotFound,
        Failure::Advised(failure, _) => is_about_what_is_there(failure),
        _ => by_code,
    }
}

/// Refuses what only a RabbitMQ has.
///
/// # Errors
/// `Usage` for a management API beside `local:`.
pub(crate) fn check(command: &Command, options: &BrokerOptions) -> Result<(), Failure> {
    if command.management().is_none() {
        return Ok(());
    }
    let what = match options.broker {
        None => "no broker was given, which means local:",
        Some(_) if is_local(options) => "the broker is local:",
        Some(_) => return Ok(()),
    };
    Err(Failure::Usage(format!("--management (HOMING_MANAGEMENT) is the API of a RabbitMQ, and {what}; {OTHERS}")))
}

/// Whether the broker is a local one, which has no management API.
pub(crate) fn is_local(options: &BrokerOptions) -> bool {
    options.broker.as_deref().unwrap_or(DEFAULT_BROKER).starts_with("local:")
}
