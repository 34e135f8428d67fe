//! The macro by which methods are written down as the specification lists them.

/// Defines the methods of one class: structs that read and write their fields in order.
macro_rules! class {
    ($class:literal = $class_id:literal {
        $($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? ($method:literal, $method_id:literal)
            $(skip $before:ty)? { $($field:ident: $kind:ty),* $(,)? } $(skip_after $($after:ty),+)?;)*
    }) => {
        #[allow(unused_imports)]
        use $crate::protocol::{Table, methods::fields::Field};
        use $crate::protocol::{Violation, methods::{Decode, Encode, MethodId}, read::Reader, write::Writer};

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq)]
            pub struct $name $(<$life>)? {
                $(
                    #[doc = concat!("The field `", stringify!($field), "` of the specification.")]
                    pub $field: $kind,
                )*
            }

            impl $(<$life>)? $name $(<$life>)? {
                /// Class and number.
                pub const ID: MethodId = MethodId { class: $class_id, method: $method_id };
                /// The name in the specification.
                pub const NAME: &'static str = concat!($class, ".", $method);

                /// Any value, for tests.
                #[cfg(test)]
                pub(crate) fn sample(_random: &mut fastrand::Rng) -> Self {
                    Self { $($field: Field::sample(_random)),* }
                }
            }

            class!(@decode [$($life)?] $name { $($before)? } { $($field: $kind),* } { $($($after),+)? });
        )*
    };
    (@decode [] $name:ident { $($before:ty)? } { $($field:ident: $kind:ty),* } { $($after:ty),* }) => {
        impl<'a> Decode<'a> for $name {
            class!(@read { $($before)? } { $($field: $kind),* } { $($after),* });
        }
        impl Encode for $name {
            class!(@write $name { $($before)? } { $($field: $kind),* } { $($after),* });
        }
    };
    (@decode [$life:lifetime] $name:ident { $($before:ty)? } { $($field:ident: $kind:ty),* } { $($after:ty),* }) => {
        impl<'a> Decode<'a> for $name<'a> {
            class!(@read { $($before)? } { $($field: $kind),* } { $($after),* });
        }
        impl Encode for $name<'_> {
            class!(@write $name { $($before)? } { $($field: $kind),* } { $($after),* });
        }
    };
    (@read { $($before:ty)? } { $($field:ident: $kind:ty),* } { $($after:ty),* }) => {
        #[inline]
        fn decode(_reader: &mut Reader<'a>) -> Result<Self, Violation> {
            $(<$before as Field>::read(_reader)?;)?
            $(let $field = Field::read(_reader)?;)*
            $(<$after as Field>::read(_reader)?;)*
            Ok(Self { $($field),* })
        }
    };
    (@write $name:ident { $($before:ty)? } { $($field:ident: $kind:ty),* } { $($after:ty),* }) => {
        const ID: MethodId = $name::ID;
        #[inline]
        fn encode(&self, _writer: &mut Writer<'_>) {
            $(<$before as Field>::zero().write(_writer);)?
            $(Field::write(&self.$field, _writer);)*
            $(<$after as Field>::zero().write(_writer);)*
        }
    };
}
