//! What the simulation needs of the communicator beyond its public interface, in one place.

use crate::Communicator;

/// What a communicator still has, by name: requests, permits in use, timers, consumers and so on. At rest, with no
/// subscriber and nothing under way, every count is 0.
pub(super) fn leftovers(communicator: &Communicator) -> Vec<(&'static str, usize)> {
    communicator.leftovers()
}
