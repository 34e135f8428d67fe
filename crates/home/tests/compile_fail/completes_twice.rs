//! A completer is used up by its use.

fn main() {
    let (completer, _future) = homing_home::thread_future::<u32>().unwrap();
    completer.complete(1).ok();
    completer.complete(2).ok();
}
