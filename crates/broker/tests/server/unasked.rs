//! What happens without a request: when time passes, when a client has read, and when one leaves.

use crate::raw::{Got, Raw, consume, declare, message_of};
use crate::start;
use homing_broker::protocol::{
    Method, Properties, Table, TableWriter, Value,
    methods::{channel, confirm, connection, queue},
};
use homing_broker::server::{Limits, Server};
use std::io::Write;

#[test]
fn what_is_over_sooner_does_not_wait_for_what_is_over_later() {
    let (_server, address) = start(Server::builder());
    let mut raw = Raw::channel(address);
    let mut arguments = Vec::new();
    let mut table = TableWriter::new(&mut arguments);
    table.field(b"x-dead-letter-exchange", &Value::String(b""));
    table.field(b"x-dead-letter-routing-key", &Value::String(b"dead"));
    for name in ["late", "soon"] {
        raw.send(1, queue::Declare { arguments: Table::unchecked(&arguments), ..declare(name) });
        raw.expect("QueueDeclareOk");
    }
    raw.send(1, declare("dead"));
    raw.expect("QueueDeclareOk");
    raw.send(1, consume("dead"));
    raw.expect("BasicConsumeOk");
    for (key, expiration) in [("late", b"3600000".as_slice()), ("soon", b"50")] {
        let mut properties = Properties::default();
        properties.expiration = Some(expiration);
        raw.publish(1, "", key, false, properties, key.as_bytes());
        // The one before has been planned for when this is answered; the last one has nothing behind it.
        if key == "late" {
            raw.send(1, declare("dead"));
            raw.expect("QueueDeclareOk");
        }
    }
    assert!(raw.expect("BasicDeliver").contains("routing_key: \"dead\""));
    assert!(matches!(raw.next(), Got::Header(..)));
    assert_eq!(raw.next(), Got::Body(1, b"soon".to_vec()));
}

#[test]
fn publishers_go_on_when_a_slow_consumer_has_read_what_took_the_memory() {
    let mut limits = Limits::default();
    limits.memory = 1 << 20;
    let (_server, address) = start(Server::builder().limits(limits));
    let mut slow = Raw::channel(address);
    slow.send(1, declare("q"));
    slow.expect("QueueDeclareOk");
    slow.send(1, consume("q"));
    slow.expect("BasicConsumeOk");
    let mut publisher = Raw::channel(address);
    // The sockets take some megabytes, and the server as much as it may.
    let mut published = 0;
    loop {
        publisher.publish(1, "", "q", false, Properties::default(), &[0; 100_000]);
        published += 1;
        publisher.send(1, declare("other"));
        match publisher.method().1 {
            text if text.starts_with("QueueDeclareOk") => assert!(published < 10_000, "it takes all of it"),
            text => {
                assert!(text.starts_with("ConnectionBlocked"), "{text}");
                break;
            }
        }
    }
    // The last one may not have been read. Nobody asks for anything meanwhile.
    let mut bytes = 0;
    while bytes < (published - 1) * 100_000 {
        if let Got::Body(_, piece) = slow.next() {
            bytes += piece.len();
        }
    }
    publisher.expect("ConnectionUnblocked");
}

#[test]
fn what_was_published_before_a_client_leaves_is_confirmed_before_it_has_left() {
    let (_server, address) = start(Server::builder());
    let mut raw = Raw::channel(address);
    raw.send(1, confirm::Select { no_wait: false });
    raw.expect("ConfirmSelectOk");
    // All of it comes at once.
    let mut all = message_of(1, "", "nowhere", false, Properties::default(), b"x");
    let close = connection::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
    Method::from(close).write(&mut all, 0);
    raw.stream.write_all(&all).expect("it is taken");
    raw.expect("BasicAck");
    raw.expect("ConnectionCloseOk");
}

#[test]
fn a_client_that_does_not_know_of_cancelled_consumers_is_not_told() {
    let (_server, address) = start(Server::builder());
    let mut raw = Raw::started(address);
    let (mechanism, response, locale) = ("PLAIN", b"\0guest\0guest".as_slice(), "en_US");
    raw.send(0, connection::StartOk { client_properties: Table::EMPTY, mechanism, response, locale });
    raw.expect("ConnectionTune(");
    raw.send(0, connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 });
    raw.send(0, connection::Open { virtual_host: "/" });
    raw.expect("ConnectionOpenOk");
    raw.send(1, channel::Open {});
    raw.expect("ChannelOpenOk");
    let mut knows = Raw::channel(address);
    for client in [&mut raw, &mut knows] {
        client.send(1, declare("q"));
        client.expect("QueueDeclareOk");
        client.send(1, consume("q"));
        client.expect("BasicConsumeOk");
    }
    let mut other = Raw::channel(address);
    other.send(1, queue::Delete { queue: "q", if_unused: false, if_empty: false, no_wait: false });
    other.expect("QueueDeleteOk");
    knows.expect("BasicCancel(");
    // Nothing comes before this.
    raw.send(1, declare("q"));
    raw.expect("QueueDeclareOk");
}
