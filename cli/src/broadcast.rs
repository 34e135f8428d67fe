//! `homing broadcast send` and `homing broadcast watch`.

use homing::{Broadcast as Heard, BroadcastFilter, BroadcastSubscriber, Value};
use tokio::sync::mpsc;

use crate::args::{Broadcast, Format, Global};
use crate::failure::Failure;
use crate::stop::{Stop, or_interrupted};
use crate::{close, connect, connect_to_stay, values};

pub(crate) async fn run(command: Broadcast, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Broadcast::Send { body, subject, sender, correlation_id } => {
            let body = values::read_body(&body)?;
            let sender = sender.map(|sender| values::parse(sender.as_bytes(), "the sender")).transpose()?;
            let communicator = connect(global).await?;
            let mut broadcast = communicator.broadcast_send(body);
            if let Some(subject) = subject {
                broadcast = broadcast.subject(subject);
            }
            if let Some(sender) = sender {
                broadcast = broadcast.sender(sender);
            }
            if let Some(correlation_id) = correlation_id {
                broadcast = broadcast.correlation_id(correlation_id);
            }
            let sent = or_interrupted(stop, async { Ok(broadcast.await?) }).await;
            let closed = close(&communicator).await;
            sent.and(closed)
        }
        Broadcast::Watch { subject, sender, count } => watch(global, stop, subject, sender, count.map(u64::from)).await,
    }
}

async fn watch(
    global: &Global,
    mut stop: Stop,
    subject: Option<String>,
    sender: Option<String>,
    count: Option<u64>,
) -> Result<(), Failure> {
    let mut filter = BroadcastFilter::new();
    if let Some(subject) = subject {
        filter = filter.subject(&subject)?;
    }
    if let Some(sender) = sender {
        // A process id is a number on the wire, and a text on a command line.
        if let Ok(Value::Int(id)) = values::parse(sender.as_bytes(), "the sender") {
            filter = filter.sender_is(id);
        }
        filter = filter.sender(&sender)?;
    }
    let communicator = connect_to_stay(global).await?;
    let mut events = communicator.events();
    // Bounded by the library's own backlog behind it: the handler waits here, and that one drops the oldest and says so.
    let (tell, mut heard) = mpsc::channel::<Heard>(16);
    let subscriber = BroadcastSubscriber::future(move |broadcast: Heard| {
        let tell = tell.clone();
        async move {
            // Nobody reads any more when the command ends.
            let _ = tell.send(broadcast).await;
        }
    });
    communicator.add_broadcast_subscriber(filter, subscriber).await?;
    eprintln!("homing: hearing broadcasts until Ctrl-C");
    let mut left = count;
    let ended = loop {
        if left == Some(0) {
            break Ok(());
        }
        tokio::select! {
            () = stop.wait() => break Ok(()),
            failure = crate::task::lost(&mut events) => break Err(failure),
            Some(broadcast) = heard.recv() => {
                if let Err(failure) = print(&broadcast, global.format) {
                    break Err(failure);
                }
                left = left.map(|left| left - 1);
            }
        }
    };
    let closed = close(&communicator).await;
    ended.and(closed)
}

fn print(broadcast: &Heard, format: Format) -> Result<(), Failure> {
    let mut map = homing::codec::Map::new();
    map.insert("subject", broadcast.subject_value().clone());
    map.insert("sender", broadcast.sender().clone());
    map.insert("correlation_id", broadcast.correlation_id().clone());
    map.insert("body", broadcast.body().clone());
    values::print(&Value::Map(map), format)
}
