//! Tests of the store as a whole.

mod crashes;
mod damage;
mod directory;
mod faults;
mod kill;
mod million;
mod model;
mod simulated_disk;
mod threads;
