//! Tests of the whole floor: what is written is read back, and no input does harm.

mod malformed;
mod round_trip;
pub(crate) mod samples;
