//! Cancelling is a use; nothing can be done with it afterwards, not even asking.

fn main() {
    let (completer, _future) = homing_home::thread_future::<u32>().unwrap();
    completer.cancel();
    let _unwanted = completer.is_unwanted();
}
