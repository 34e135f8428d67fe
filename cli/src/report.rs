//! What the command prints when it fails.

use std::sync::{Mutex, PoisonError};

use crate::args::Format;
use crate::failure::Failure;
use crate::{note, output};

/// Writes a failure to standard error.
pub(crate) fn print(failure: &Failure, format: Format) {
    if matches!(failure, Failure::ReaderGone | Failure::Job(_)) {
        return;
    }
    match format {
        Format::Text => {
            // What the other end has written may be part of it.
            output::write_err(format!("homing: {}\n", output::lines_without_controls(&failure.to_string())).as_bytes());
            print_advice(failure);
        }
        Format::Json => print_object(&failure.kind(), &failure.to_string(), failure.hint().as_deref()),
    }
}

/// Whether what the command ends with is written.
static IS_SAID: Mutex<bool> = Mutex::new(false);

/// Writes what the command ends with. Of several, that of the first.
///
/// Guards: a command that a signal ends before it has reported that itself, on a busy machine, which would end in silence.
pub(crate) fn print_last(failure: &Failure, format: Format) {
    let mut is_said = IS_SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut *is_said, true) {
        print(failure, format);
    }
}

/// All that was added, from the inside out.
pub(crate) fn print_advice(failure: &Failure) {
    if let Failure::Advised(failure, advice) = failure {
        print_advice(failure);
        note!("{advice}");
    }
}

/// Writes an error for programs: one object, one line, with what a line of the log has.
pub(crate) fn print_object(kind: &str, message: &str, hint: Option<&str>) {
    let object = serde_json::json!({
        "timestamp": output::now(), "level": "ERROR", "kind": kind, "message": message, "hint": hint
    });
    output::write_err(format!("{object}\n").as_bytes());
}
