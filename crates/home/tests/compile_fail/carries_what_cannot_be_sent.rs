//! A value that travels between threads must be able to.

fn main() {
    let _pair = homing_home::thread_future::<std::rc::Rc<u32>>();
}
