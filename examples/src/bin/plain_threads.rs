//! Threads without an async runtime: each waits for what it needs, and a subscriber that waits in turn stops nobody.
//!
//! ```sh
//! cargo run -p homing-examples --bin plain_threads
//! ```

use std::thread;
use std::time::Duration;

use homing::blocking::Communicator;
use homing::home::Home;
use homing::{BroadcastFilter, BroadcastSubscriber, HandlerResult, RpcRequest, RpcSubscriber};

fn main() -> anyhow::Result<()> {
    let communicator = Communicator::connect(&homing_examples::broker())?;

    // These run on a thread of the communicator's own. The second calls the first from within its handler.
    let double = RpcSubscriber::closure(|request: RpcRequest| HandlerResult::Ok(request.decode::<i64>()? * 2));
    communicator.add_rpc_subscriber("double", double)?;
    let calls = communicator.clone();
    let quadruple = RpcSubscriber::blocking(move |request: RpcRequest| {
        let twice = calls.rpc_send("double", request.into_body()).timeout(Duration::from_secs(5)).wait()?;
        calls.rpc_send("double", twice).timeout(Duration::from_secs(5)).wait()
    });
    communicator.add_rpc_subscriber("quadruple", quadruple)?;

    // Four threads that call side by side.
    let callers: Vec<_> = (1..=4_i64)
        .map(|number| {
            let communicator = communicator.clone();
            thread::spawn(move || communicator.rpc_send("quadruple", number).wait())
        })
        .collect();
    for caller in callers {
        let answer = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        println!("quadruple: {answer}");
    }

    // A subscriber on this very thread, which serves until another one says that it is enough.
    let (stop, stopped) = Home::current().try_future::<()>()?;
    let here = communicator.bound_to(&Home::current());
    let this = thread::current().id();
    let stop = std::sync::Mutex::new(Some(stop));
    let news = BroadcastSubscriber::closure(move |news: homing::Broadcast| {
        println!("news: {}, on this thread: {}", news.body(), thread::current().id() == this);
        if let Some(stop) = stop.lock().ok().and_then(|mut stop| stop.take()) {
            stop.complete(()).ok();
        }
    });
    here.add_broadcast_subscriber(BroadcastFilter::new().subject("news")?, news)?;
    let sender = communicator.clone();
    let sending = thread::spawn(move || sender.broadcast_send("the end").subject("news").wait());
    here.serve_until(stopped)?.ok();
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;

    communicator.close()?;
    println!("closed");
    Ok(())
}
