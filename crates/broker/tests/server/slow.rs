//! Clients that do not read. They cost a stated amount of memory, and nobody waits for them.

use crate::raw::{Got, Raw, consume, declare, message_of};
use crate::start;
use homing_broker::protocol::{
    Method, Properties,
    methods::{basic, confirm, queue},
};
use homing_broker::server::{Limits, Server};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const BODY: [u8; 10_000] = [b'x'; 10_000];

fn count(raw: &mut Raw, name: &str) -> u32 {
    raw.send(1, queue::Declare { passive: true, ..declare(name) });
    let text = raw.expect("QueueDeclareOk");
    let (_, rest) = text.split_once("message_count: ").expect("a count");
    rest.split(',').next().expect("a number").parse().expect("a number")
}

#[test]
fn a_consumer_that_does_not_read_is_given_no_more() {
    let (_server, address) = start(Server::builder());
    let mut slow = Raw::channel(address);
    slow.send(1, declare("q"));
    slow.expect("QueueDeclareOk");
    slow.send(1, consume("q"));
    slow.expect("BasicConsumeOk");
    let mut other = Raw::channel(address);
    other.send(1, confirm::Select { no_wait: false });
    other.expect("ConfirmSelectOk");
    // 100 MB for somebody who does not read, and one message for a queue of the publisher's own between them.
    other.send(1, declare("own"));
    other.expect("QueueDeclareOk");
    let mut confirmed = 0;
    for batch in 1..=100_u64 {
        for _ in 0..100 {
            other.publish(1, "", "q", false, Properties::default(), &BODY);
        }
        while confirmed < batch * 100 {
            let text = other.expect("BasicAck");
            let (_, rest) = text.split_once("delivery_tag: ").expect("a tag");
            confirmed = rest.split(',').next().expect("a number").parse().expect("a number");
        }
    }
    let left = count(&mut other, "q");
    // The sockets hold a few megabytes, the server one or two.
    assert!(left > 7_000, "{left} of 10000 are left in the queue");
    // All of it is there once the client reads.
    let mut bodies = 0;
    while bodies < 10_000 {
        if let Got::Body(..) = slow.next() {
            bodies += 1;
        }
    }
    assert_eq!(count(&mut other, "q"), 0);
}

#[test]
fn a_consumer_of_a_long_queue_is_given_what_it_reads() {
    let (_server, address) = start(Server::builder());
    let mut other = Raw::channel(address);
    other.send(1, declare("long"));
    other.expect("QueueDeclareOk");
    for _ in 0..5_000 {
        other.publish(1, "", "long", false, Properties::default(), &BODY);
    }
    assert_eq!(count(&mut other, "long"), 5_000);
    let mut slow = Raw::channel(address);
    slow.send(1, consume("long"));
    slow.expect("BasicConsumeOk");
    // A round trip of another client later it has got what fits, and no more.
    std::thread::sleep(Duration::from_millis(200));
    let left = count(&mut other, "long");
    assert!(left > 3_000, "{left} of 5000 are left in the queue");
    let mut bodies = 0;
    while bodies < 5_000 {
        if let Got::Body(..) = slow.next() {
            bodies += 1;
        }
    }
}

#[test]
fn one_that_asks_and_does_not_read_is_not_read_from_and_ends() {
    let mut limits = Limits::default();
    limits.stall = Duration::from_millis(500);
    limits.unsent_at_most = 1 << 20;
    let (_server, address) = start(Server::builder().limits(limits));
    let mut raw = Raw::channel(address);
    // Every one of them comes back.
    let message = message_of(1, "", "nope", true, Properties::default(), &BODY);
    raw.stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let start = Instant::now();
    let mut sent = 0_usize;
    while raw.stream.write_all(&message).is_ok() {
        sent += message.len();
        assert!(sent < 1 << 30, "the server takes all of it");
        assert!(start.elapsed() < Duration::from_secs(60), "it is never closed");
    }
    let mut well = Raw::channel(address);
    well.send(1, declare("q"));
    well.expect("QueueDeclareOk");
}

#[test]
fn one_that_publishes_without_reading_is_not_stuck() {
    let (_server, address) = start(Server::builder());
    let mut raw = Raw::channel(address);
    raw.send(1, confirm::Select { no_wait: false });
    raw.send(1, declare("q"));
    // 50 MB and 5000 confirms, and nothing is read before the end.
    let message = message_of(1, "", "q", false, Properties::default(), &BODY);
    for _ in 0..5_000 {
        raw.stream.write_all(&message).expect("the server reads");
    }
    raw.expect("ConfirmSelectOk");
    raw.expect("QueueDeclareOk");
    loop {
        let text = raw.expect("BasicAck");
        if text.contains("delivery_tag: 5000,") {
            break;
        }
    }
}

#[test]
fn a_client_that_reads_byte_by_byte_gets_everything_in_order() {
    let (_server, address) = start(Server::builder());
    let mut raw = Raw::channel(address);
    let mut expected = Vec::new();
    for number in 0..50_u32 {
        let body = number.to_be_bytes();
        raw.publish(1, "", "nope", true, Properties::default(), &body);
        Method::from(basic::Return { reply_code: 312, reply_text: "NO_ROUTE", exchange: "", routing_key: "nope" })
            .write(&mut expected, 1);
        let content = message_of(1, "", "", false, Properties::default(), &body);
        // Without the method that comes before a content of a client.
        expected.extend_from_slice(&content[7 + 4 + 2 + 1 + 1 + 1 + 1..]);
    }
    let mut got = vec![0; expected.len()];
    for at in 0..got.len() {
        raw.stream.read_exact(&mut got[at..=at]).expect("more comes");
    }
    assert_eq!(got, expected);
}
