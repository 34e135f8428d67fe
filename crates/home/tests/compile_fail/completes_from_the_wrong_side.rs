//! Only a completer completes: the future's own side has no way to.

fn main() {
    let (_completer, future) = homing_home::thread_future::<u32>().unwrap();
    future.complete(1);
}
