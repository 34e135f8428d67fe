//! Bodies in, results out.

use std::io::{self, Read};

use homing::Value;
use homing::codec::parse_text;

use crate::args::Format;
use crate::failure::Failure;
use crate::output::write_out;

/// A body as it was typed, standard input for `-`, or null.
pub(crate) async fn read_body(text: Option<&str>) -> Result<Value, Failure> {
    match text {
        None => Ok(Value::Null),
        Some("-") => {
            // A read of standard input cannot be ended, and must not hold the command up.
            let read = tokio::task::spawn_blocking(|| {
                let mut body = Vec::new();
                io::stdin().lock().read_to_end(&mut body).map(|_| body)
            });
            let body = read.await.map_err(io::Error::other)?;
            let body = body.map_err(|error| Failure::Other(format!("standard input cannot be read: {error}")))?;
            parse(&body, "the body on standard input")
        }
        Some(text) => parse(text.as_bytes(), "the body"),
    }
}

/// JSON if the whole text is JSON, YAML otherwise.
pub(crate) fn parse(text: &[u8], what: &str) -> Result<Value, Failure> {
    parse_text(text).map_err(|error| Failure::Usage(format!("{what} is neither YAML nor JSON: {error}")))
}

/// Prints a result.
///
/// # Errors
/// As [`write_out`].
pub(crate) fn print(value: &Value, format: Format) -> Result<(), Failure> {
    let mut line = match format {
        Format::Json => value.to_json_text().into_bytes(),
        Format::Text => match value {
            Value::String(text) => text.as_bytes().to_vec(),
            value => value.to_yaml_text().into_bytes(),
        },
    };
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    write_out(&line)
}
