//! Plays every sequence of steps through a part, to a stated depth, each to its end.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;

/// A part with the world around it. What is wrong panics.
pub(super) trait World {
    type Move: Copy + Debug;

    fn new(now: Instant) -> Self;

    /// What can happen next.
    fn moves(&self) -> Vec<Self::Move>;

    fn step(&mut self, next: Self::Move);

    /// Brings it to a calm end, and looks at what is left.
    fn end(self);
}

/// Returns how many sequences there were.
pub(super) fn explore<W: World>(depth: usize) -> usize {
    let now = Instant::now();
    let mut sequences = 0;
    let mut open: Vec<Vec<W::Move>> = vec![Vec::new()];
    while let Some(sequence) = open.pop() {
        sequences += 1;
        let checked = catch_unwind(AssertUnwindSafe(|| {
            let mut world = W::new(now);
            sequence.iter().for_each(|next| world.step(*next));
            let moves = world.moves();
            world.end();
            moves
        }));
        let moves = checked.unwrap_or_else(|_| panic!("after {sequence:?}"));
        if sequence.len() < depth {
            open.extend(moves.into_iter().map(|next| [sequence.as_slice(), &[next]].concat()));
        }
    }
    sequences
}
