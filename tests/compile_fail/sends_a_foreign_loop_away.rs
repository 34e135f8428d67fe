//! A foreign loop is a home on the thread that made it.

fn main() {
    let home = homing::home::ForeignLoop::new(|| ());
    std::thread::spawn(move || home.run_pending(1));
}
