//! The future of a thread stays on it.

fn main() {
    let (_completer, future) = homing_home::thread_future::<u32>().unwrap();
    std::thread::spawn(move || future.wait());
}
