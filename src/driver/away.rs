//! Why there is no connection, for the errors of what was not done meanwhile.

use std::fmt;

use crate::error::Error;

/// Why there is no connection, as the end of a sentence that says so. Empty where there is one, or was none yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Away(Option<Error>);

impl Away {
    pub(super) fn because(error: Error) -> Self {
        Away(Some(error))
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => write!(f, " ({error})"),
            None => Ok(()),
        }
    }
}
