//! What an event loop lends to a call cannot be kept elsewhere.

fn main() {
    let event_loop = homing_home::EventLoop::start("loop").unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    event_loop.run(move |home| tell.send(home.clone()).unwrap()).unwrap();
    drop(told);
}
