//! A foreign loop is a home on the thread that made it.

fn main() {
    let home = homing_home::ForeignLoop::new(|| ());
    std::thread::spawn(move || home.run_pending(1));
}
