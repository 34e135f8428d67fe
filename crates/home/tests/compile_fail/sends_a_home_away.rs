//! A home's own side, which turns it and waits on it, stays on its thread.

fn main() {
    let home = homing_home::LocalHome::of_this_thread();
    std::thread::spawn(move || home.turn(1));
}
