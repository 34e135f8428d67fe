//! A future has one outcome, which is taken once.

fn main() {
    let (_completer, future) = homing_home::thread_future::<u32>().unwrap();
    let _first = future.wait();
    let _second = future.wait();
}
