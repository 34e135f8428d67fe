//! YAML 1.1 as PyYAML writes and reads it, kiwipy's default codec.

mod pretty;
mod read;
mod resolve;
mod write;

use super::{Codec, Limits, Value, check_limits, check_size};
use crate::error::Result;

pub(super) use pretty::pretty;

/// kiwipy's own codec: what it writes PyYAML's `FullLoader` reads as the equal value, and the other way round. Tags that
/// are not known are carried; nothing is constructed from them.
///
/// One thing that PyYAML writes is not read: an alias as a key (`*id001:`), for one and the same tuple object that is a key
/// twice. It is a decode error.
///
/// ```
/// use homing::codec::{Codec, Yaml};
///
/// let yaml = Yaml::default();
/// let value = yaml.decode(b"!!python/tuple\n- {task: continue, args: {pid: 4}}\n- false\n")?;
/// assert_eq!(yaml.encode(&value)?, br#"!!python/tuple [{"task": "continue", "args": {"pid": 4}}, false]"#);
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Yaml {
    limits: Limits,
}

impl Yaml {
    /// With other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Yaml { limits }
    }
}

impl Codec for Yaml {
    fn name(&self) -> &'static str {
        "yaml"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>> {
        self.check(value)?;
        let mut out = String::with_capacity(128);
        write::write(&mut out, value);
        check_size(out.len(), &self.limits, crate::ErrorKind::Encode)?;
        Ok(out.into_bytes())
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        read::read(super::text(body, &self.limits)?, &self.limits)
    }

    fn check(&self, value: &Value) -> Result<()> {
        check_limits(value, &self.limits)
    }
}
