//! Bodies: a [`Value`] that keeps what PyYAML's values keep, and the [`Codec`]s that write and read it.

mod value;

pub use value::Value;
