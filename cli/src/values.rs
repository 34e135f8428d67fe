//! Bodies in, results out.

use std::io::{self, Read, Write};

use homing::Value;
use homing::codec::parse_text;

use crate::args::Format;
use crate::failure::Failure;

/// A body as it was typed, or standard input for `-`.
pub(crate) fn read_body(text: &str) -> Result<Value, Failure> {
    if text != "-" {
        return parse(text.as_bytes(), "the body");
    }
    let mut body = Vec::new();
    io::stdin().lock().read_to_end(&mut body)?;
    parse(&body, "the body on standard input")
}

/// JSON if the whole text is JSON, YAML otherwise.
pub(crate) fn parse(text: &[u8], what: &str) -> Result<Value, Failure> {
    parse_text(text).map_err(|error| Failure::Usage(format!("{what} is neither YAML nor JSON: {error}")))
}

/// Prints a result. A reader that is gone (`homing … | head -1`) is not a failure.
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
    let mut out = io::stdout().lock();
    match out.write_all(&line).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
