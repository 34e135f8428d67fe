//! Messages a second from a publisher through the broker to a consumer, with raw frames: no client library is the limit.
//!
//! `cargo bench -p homing-broker --bench pump [-- ADDRESS]...` measures the server of this crate, in a process of its own, and
//! whatever else listens on the addresses, in turns. Ratios of one run are what counts.

#[path = "../tests/server/raw.rs"]
#[allow(dead_code)]
mod raw;

use homing_broker::protocol::{
    Frame, FrameReader, Properties, Table,
    methods::{basic, queue},
};
use homing_broker::server::Server;
use raw::{FRAME_MAX, Raw, message_of};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BODY: usize = 400;
const TIME: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return serve();
    }
    let mut server = Command::new(std::env::current_exe().expect("this program"))
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut address = String::new();
    let output = server.stdout.as_mut().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut address).expect("its address");
    let mut addresses = vec![("homing".to_owned(), address.trim().parse().expect("an address"))];
    for argument in arguments {
        let address = argument.parse().expect("an address, as in 127.0.0.1:5672");
        addresses.push((argument, address));
    }
    for round in 1..=ROUNDS {
        for (name, address) in &addresses {
            println!("round {round}, {name}: {:.0} messages of {BODY} bytes a second", pump(*address));
        }
    }
    drop(server.stdin.take());
    _ = server.wait();
}

fn serve() {
    let server = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).start().expect("the server starts");
    println!("{}", server.addresses()[0]);
    _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Publishes as fast as the broker reads, and counts what arrives until all of it has.
fn pump(address: SocketAddr) -> f64 {
    let mut consumer = Raw::channel(address);
    let declare = queue::Declare {
        queue: "pump",
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: true,
        no_wait: false,
        arguments: Table::EMPTY,
    };
    consumer.send(1, declare);
    consumer.expect("QueueDeclareOk");
    let consume = basic::Consume {
        queue: "pump",
        consumer_tag: "pump",
        no_local: false,
        no_ack: true,
        exclusive: false,
        no_wait: false,
        arguments: Table::EMPTY,
    };
    consumer.send(1, consume);
    consumer.expect("BasicConsumeOk");
    let mut publisher = Raw::channel(address);
    let message = message_of(1, "", "pump", false, Properties::default(), &[b'x'; BODY]);
    let batch = message.repeat(100);
    let start = Instant::now();
    let publishing = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while start.elapsed() < TIME {
            publisher.stream.write_all(&batch).expect("the broker reads");
            sent += 100;
        }
        (sent, publisher)
    });
    let reader = FrameReader::new(FRAME_MAX);
    let (mut buffer, mut filled, mut received) = (vec![0; 1 << 20], 0, 0_u64);
    let mut publishing = Some(publishing);
    let mut sent = None;
    let mut open = None;
    while sent != Some(received) {
        if publishing.as_ref().is_some_and(std::thread::JoinHandle::is_finished)
            && let Some(Ok((count, publisher))) = publishing.take().map(std::thread::JoinHandle::join)
        {
            (sent, open) = (Some(count), Some(publisher));
            continue;
        }
        let read = consumer.stream.read(&mut buffer[filled..]).expect("more comes");
        assert_ne!(read, 0, "the broker closed the connection");
        filled += read;
        let mut at = 0;
        while let Some((frame, taken)) = reader.read(&buffer[at..filled]).expect("frames") {
            received += u64::from(matches!(frame, Frame::Body { .. }));
            at += taken;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
    let time = start.elapsed();
    drop(open);
    received as f64 / time.as_secs_f64()
}
