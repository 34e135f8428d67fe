//! A loop that lives on messages, as those of GUI toolkits do. Its thread is a home: answers arrive, and subscribers run, on that
//! thread and nowhere else, so that they may touch what is on the screen.
//!
//! ```sh
//! cargo run -p homing-examples --bin gui_loop
//! ```

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use homing::home::ForeignLoop;
use homing::{Communicator, RpcRequest, RpcSubscriber};

/// What the loop lives on. A toolkit has its own, and a way to post one from any thread.
#[derive(Clone)]
enum Message {
    /// Something has arrived for the home.
    Wake,
    Connected(Communicator),
    Clicked(i64),
    Quit,
}

/// What is on the screen: it is not `Send`, and never leaves the loop's thread.
#[derive(Default)]
struct Screen {
    label: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (post, messages) = channel();
    let home = ForeignLoop::sending(post.clone(), Message::Wake);
    let screen = Rc::new(RefCell::new(Screen::default()));

    // Connecting is a task of the loop like others, and so is adding a subscriber, which runs on the loop.
    let (broker, here, connected) = (homing_examples::broker(), home.home(), post.clone());
    home.local().spawn(async move {
        let connecting = async {
            let communicator = Communicator::connect(&broker).await?;
            let ten_times = RpcSubscriber::closure(|request: RpcRequest| request.body().as_i64().unwrap_or(0) * 10);
            communicator.bound_to(&here).add_rpc_subscriber("ten-times", ten_times).await?;
            Ok::<_, homing::Error>(communicator)
        };
        let message = connecting.await.map_or_else(
            |error| {
                eprintln!("{error}");
                Message::Quit
            },
            Message::Connected,
        );
        let _ = connected.send(message);
    })?;

    let mut communicator = None;
    for message in &messages {
        match message {
            // In small portions: what is left rings again, and the loop's other messages have their turn.
            Message::Wake => drop(home.run_pending(16)),
            Message::Connected(connected) => {
                communicator = Some(connected);
                clicks(post.clone());
            }
            Message::Clicked(number) => {
                let Some(communicator) = &communicator else { continue };
                let call = communicator.rpc_send("ten-times", number).timeout(Duration::from_secs(5));
                let (screen, post) = (Rc::clone(&screen), post.clone());
                home.local().spawn(async move {
                    // On the loop's thread again.
                    screen.borrow_mut().label = match call.await {
                        Ok(answer) => answer.to_string(),
                        Err(error) => error.to_string(),
                    };
                    println!("on the screen: {}", screen.borrow().label);
                    if number == 3 {
                        let _ = post.send(Message::Quit);
                    }
                })?;
            }
            Message::Quit => break,
        }
    }
    println!("at last: {}", screen.borrow().label);
    // The loop turns no more: from here on the home waits as a thread does.
    if let Some(communicator) = communicator {
        homing::blocking::Communicator::from(communicator).close()?;
    }
    Ok(())
}

/// Somebody clicks, and goes on clicking while the loop waits for answers.
fn clicks(post: Sender<Message>) {
    thread::spawn(move || {
        for number in 1..=3 {
            thread::sleep(Duration::from_millis(20));
            if post.send(Message::Clicked(number)).is_err() {
                return;
            }
        }
    });
}
