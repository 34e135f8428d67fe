//! Bodies in, results out.

use std::io::{self, Read, Write};

use homing::Value;
use homing::codec::{Codec, Yaml};

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

/// YAML or JSON. JSON first: what is JSON reads the same as YAML, but for escapes that YAML does not know.
pub(crate) fn parse(text: &[u8], what: &str) -> Result<Value, Failure> {
    let json =
        serde_json::from_slice::<serde_json::Value>(text).ok().filter(|json| json.is_object() || json.is_array());
    let read = match json {
        Some(json) => Value::from_json(&json),
        None => Yaml::default().decode(text),
    };
    read.map_err(|error| Failure::Usage(format!("{what} is neither YAML nor JSON: {error}")))
}

/// Prints a result. A reader that is gone (`homing … | head -1`) is no failure.
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
