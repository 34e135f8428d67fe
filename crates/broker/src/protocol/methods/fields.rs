//! The types that fields of methods have, each read and written.

use super::MethodId;
use crate::protocol::{Table, Violation, read::Reader, write::Writer};

/// A method that can be written.
pub trait Encode {
    /// Class and number.
    const ID: MethodId;
    /// Appends the arguments.
    #[doc(hidden)]
    fn encode(&self, writer: &mut Writer<'_>);
}

/// One field of a method.
pub(super) trait Field<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation>;
    fn write(&self, writer: &mut Writer<'_>);
    /// What is written for a field of this type that the specification reserves.
    fn zero() -> Self;
    /// Any value, for tests.
    #[cfg(test)]
    fn sample(random: &mut fastrand::Rng) -> Self;
}

macro_rules! integer {
    ($($kind:ident)*) => {
        $(impl<'a> Field<'a> for $kind {
            #[inline]
            fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
                reader.$kind()
            }
            #[inline]
            fn write(&self, writer: &mut Writer<'_>) {
                writer.bytes(&self.to_be_bytes());
            }
            fn zero() -> Self {
                0
            }
            #[cfg(test)]
            fn sample(random: &mut fastrand::Rng) -> Self {
                random.$kind(..)
            }
        })*
    };
}

integer!(u8 u16 u32 u64);

impl<'a> Field<'a> for bool {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.bit()
    }
    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        writer.bit(*self);
    }
    fn zero() -> Self {
        false
    }
    #[cfg(test)]
    fn sample(random: &mut fastrand::Rng) -> Self {
        random.bool()
    }
}

/// A short string.
impl<'a> Field<'a> for &'a str {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.short_string()
    }
    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        writer.short_string(self);
    }
    fn zero() -> Self {
        ""
    }
    #[cfg(test)]
    fn sample(random: &mut fastrand::Rng) -> Self {
        crate::protocol::tests::samples::text(random)
    }
}

/// A long string.
impl<'a> Field<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.long_bytes()
    }
    fn write(&self, writer: &mut Writer<'_>) {
        writer.long_bytes(self);
    }
    fn zero() -> Self {
        &[]
    }
    #[cfg(test)]
    fn sample(random: &mut fastrand::Rng) -> Self {
        crate::protocol::tests::samples::bytes(random, 600)
    }
}

/// A table of a method is checked as a whole when it is read: such tables are small and seldom.
impl<'a> Field<'a> for Table<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        Table::checked(reader.long_bytes()?)
    }
    fn write(&self, writer: &mut Writer<'_>) {
        writer.long_bytes(self.as_bytes());
    }
    fn zero() -> Self {
        Table::EMPTY
    }
    #[cfg(test)]
    fn sample(random: &mut fastrand::Rng) -> Self {
        crate::protocol::tests::samples::table(random)
    }
}
