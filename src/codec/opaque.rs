//! An object of the program's own within a value.

use std::any::{Any, type_name};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::panics::caught;

/// An object of the program's own within a [`Value`](super::Value): a codec of the program's own writes it, and has read it. It
/// goes from a caller to that codec and from the codec to a handler or a caller, all at one home; the built-in codecs refuse it.
///
/// A copy is the same object, and only that one is equal to it. Where the drop of the object panics, that is logged, and goes no
/// further.
///
/// ```
/// use homing::Value;
/// use homing::codec::{Codec, Opaque, Yaml};
///
/// struct Matrix([[f64; 2]; 2]);
///
/// let value = Value::from(Opaque::new(Matrix([[1.0, 0.0], [0.0, 1.0]])));
/// let matrix = value.as_opaque().and_then(Opaque::downcast_ref::<Matrix>);
/// assert_eq!(matrix.map(|matrix| matrix.0[1][1]), Some(1.0));
/// assert!(Yaml::default().encode(&value).is_err());
/// ```
#[derive(Clone)]
pub struct Opaque {
    /// Taken by the drop alone.
    object: Option<Arc<dyn Any + Send + Sync>>,
    type_name: &'static str,
}

impl Opaque {
    /// An object within a value.
    pub fn new<T: Any + Send + Sync>(object: T) -> Self {
        Opaque { object: Some(Arc::new(object)), type_name: type_name::<T>() }
    }

    /// The object, if it is of this type.
    #[must_use]
    pub fn downcast_ref<T: Any>(&self) -> Option<&T> {
        self.object.as_deref()?.downcast_ref()
    }

    /// The name of its type, for people; it may change with the compiler.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn address(&self) -> Option<*const ()> {
        self.object.as_ref().map(|object| Arc::as_ptr(object).cast())
    }
}

/// Guards: whoever drops a value with an object in it. The panic of the object's drop would cost a call its answer and have a task run
/// again, and a second one in the same value would end the process.
impl Drop for Opaque {
    fn drop(&mut self) {
        let object = self.object.take();
        if let Err(panic) = caught(|| drop(object)) {
            crate::log::error!(
                panic,
                object = self.type_name,
                "an object of the program's own panicked as it was dropped"
            );
        }
    }
}

impl PartialEq for Opaque {
    fn eq(&self, other: &Self) -> bool {
        // Objects without a size may share an address, and are then not told apart within one type.
        self.address() == other.address() && self.type_name == other.type_name
    }
}

impl Eq for Opaque {}

impl Hash for Opaque {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

/// Without the object.
impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opaque").field("type", &self.type_name).finish_non_exhaustive()
    }
}
