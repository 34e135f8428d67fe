//! Homes of a simulation: many homes on one thread, whose tasks run on an executor that the simulation brings.
//!
//! For the simulation of the library that stands on this one; of no use to anybody else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::Home;
use super::current::{self, Entered};
use super::drain::Drain;
use super::identity::Identity;
use super::inbox::{Bell, Inbox};
use super::local::LocalHome;

/// Runs a task on the home of this number.
pub type Spawn = fn(u64, Pin<Box<dyn Future<Output = ()>>>);

thread_local! {
    static HERE: Cell<Option<u64>> = const { Cell::new(None) };
    static HOMES: RefCell<BTreeMap<u64, Home>> = const { RefCell::new(BTreeMap::new()) };
    static SPAWN: Cell<Option<Spawn>> = const { Cell::new(None) };
}

/// How tasks of this thread's simulated homes are run.
pub fn set_spawn(spawn: Option<Spawn>) {
    SPAWN.set(spawn);
}

/// Makes a home of this number, with this capacity. Like a tokio runtime it runs its tasks in any order.
pub fn start(number: u64, capacity: usize) -> Home {
    let inbox = Inbox::new(Identity::Simulated(number), Bell::Task, capacity);
    spawn(number, Drain::new(Arc::clone(&inbox), Arc::new(move |drain| spawn(number, drain))));
    let home = Home::simulated(number, inbox);
    HOMES.with_borrow_mut(|homes| homes.insert(number, home.clone()));
    home
}

/// Forgets a home whose tasks have been dropped.
pub fn forget(number: u64) {
    let home = HOMES.with_borrow_mut(|homes| homes.remove(&number));
    drop(home);
}

/// The calling code is at this home from here on; returns where it was.
pub fn enter(number: Option<u64>) -> Option<u64> {
    HERE.replace(number)
}

/// While it lives, the calling code is at a home that turns on this thread.
pub struct Within(Entered);

/// Enters a home that turns on this thread.
pub fn enter_local(home: &LocalHome) -> Within {
    Within(current::enter(home))
}

pub(super) fn is_here(number: u64) -> bool {
    HERE.get() == Some(number)
}

pub(super) fn home_here() -> Option<Home> {
    let number = HERE.try_with(Cell::get).ok().flatten()?;
    HOMES.with_borrow(|homes| homes.get(&number).cloned())
}

pub(super) fn spawn(number: u64, task: impl Future<Output = ()> + 'static) {
    // After the simulation's end a task is dropped at once, as on a runtime that has shut down.
    if let Some(spawn) = SPAWN.get() {
        spawn(number, Box::pin(task));
    }
}
