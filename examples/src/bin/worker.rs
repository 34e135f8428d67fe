//! A worker for tasks with types of its own: it tries again what failed for a while, takes the urgent first, stops what takes too
//! long, and drains before it ends.
//!
//! ```sh
//! cargo run -p homing-examples --bin worker                       # all in one process
//! cargo run -p homing-examples --bin worker amqp://127.0.0.1/     # tasks that outlive it
//! ```

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use homing::{Body, Communicator, Failure, HandlerError, HandlerResult, TaskRequest, TaskSubscriber};

/// A task.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Resize {
    picture: String,
    width: u32,
}

/// Its outcome.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Resized {
    picture: String,
    attempt: u32,
}

async fn resize(task: TaskRequest) -> HandlerResult {
    let attempt = match task.attempt() {
        homing::Attempt::Exactly(attempt) | homing::Attempt::AtLeast(attempt) => attempt,
    };
    let Resize { picture, width } = task.decode()?;
    match picture.as_str() {
        // The disk is not there yet: another attempt, after a pause that grows.
        "slow-disk.png" if attempt == 1 => Err(Failure::TryAgain("the disk is not mounted".into()).into()),
        // The sender gets the text, a type to tell errors apart by, and data.
        "broken.png" => Err(HandlerError::exception("it is no picture").with_type("BadPicture").with_data(width)),
        "endless.png" => std::future::pending().await,
        _ => homing::Answer::of(&Resized { picture: format!("{width}px-{picture}"), attempt }),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let communicator = Communicator::builder(&homing_examples::broker())
        .task_queue("homing-examples.pictures")
        .task_priorities(NonZeroU8::MIN.saturating_add(2))
        .task_attempts(NonZeroU32::MIN.saturating_add(2), Duration::from_millis(50))
        .connect()
        .await?;

    // Sent before there is a worker: they wait in their queue.
    let task = |picture: &str| Body::of(&Resize { picture: picture.to_owned(), width: 64 });
    let ordinary = communicator.task_send(task("slow-disk.png")).send().await?;
    let urgent = communicator.task_send(task("urgent.png")).priority(3).send().await?;
    let broken = communicator.task_send(task("broken.png")).send().await?;
    let endless = communicator.task_send(task("endless.png")).send().await?;
    let later = communicator.task_send(task("later.png")).delay(Duration::from_millis(300)).send().await?;

    let worker = TaskSubscriber::future(resize).with_time_limit(Duration::from_millis(500));
    communicator.add_task_subscriber(worker).await?;

    for (name, reply) in [("ordinary", ordinary), ("urgent", urgent), ("later", later)] {
        let Resized { picture, attempt } = reply.await?.deserialize()?;
        println!("{name}: {picture}, attempt {attempt}");
    }
    for (name, reply) in [("broken", broken), ("endless", endless)] {
        if let Err(error) = reply.await {
            let kind = error.remote_details().and_then(|details| details.type_name()).unwrap_or("unknown");
            println!("{name}: {} ({kind})", error.remote_text().unwrap_or_default());
        }
    }

    // A service would wait for a signal here: tokio::signal::ctrl_c().
    let report = communicator.drain(Duration::from_secs(10)).await?;
    println!("drained: {} tasks went back", report.tasks_returned);
    Ok(())
}
