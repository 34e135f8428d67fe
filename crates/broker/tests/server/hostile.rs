//! Clients that do not keep to the protocol, or to anything. Each test ends with an ordinary client that is served.

use crate::raw::{FRAME_MAX, Got, Raw, declare, frame_of};
use crate::{server, start};
use homing_broker::protocol::{
    Method, Properties, Table,
    methods::{basic, channel, connection, queue},
};
use homing_broker::server::{Limits, Server};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

fn limits(set: impl FnOnce(&mut Limits)) -> (Server, SocketAddr) {
    let mut limits = Limits::default();
    set(&mut limits);
    start(Server::builder().limits(limits))
}

/// An ordinary client is served.
fn is_well(address: SocketAddr) {
    let mut raw = Raw::channel(address);
    raw.send(
        1,
        queue::Declare {
            queue: "well",
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: false,
            no_wait: false,
            arguments: Table::EMPTY,
        },
    );
    raw.expect("QueueDeclareOk");
    raw.publish(1, "", "well", true, Properties::default(), b"hello");
    raw.send(1, basic::Get { queue: "well", no_ack: true });
    raw.expect("BasicGetOk");
    assert_eq!(raw.next(), Got::Header(1, 5, format!("{:?}", Properties::default())));
    assert_eq!(raw.next(), Got::Body(1, b"hello".to_vec()));
    raw.send(0, connection::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 });
    raw.expect("ConnectionCloseOk");
    assert_eq!(raw.next(), Got::End);
}

#[test]
fn another_protocol_is_answered_with_the_header_and_the_end() {
    let (_server, address) = server();
    for other in
        [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"AMQP\x00\x01\x00\x00", b"AMQP\x01\x01\x08\x00", b"\x16\x03\x01", b"X"]
    {
        let mut raw = Raw::socket(address);
        raw.bytes(other);
        assert_eq!(raw.next(), Got::ProtocolHeader, "{other:?}");
        assert_eq!(raw.next(), Got::End, "{other:?}");
    }
    is_well(address);
}

#[test]
fn the_reason_of_the_end_arrives_however_much_was_sent() {
    let (_server, address) = server();
    for _ in 0..20 {
        let mut raw = Raw::socket(address);
        let request = [b"GET / HTTP/1.1\r\n".as_slice(), &[b'x'; 300_000]].concat();
        raw.bytes(&request);
        assert_eq!(raw.next(), Got::ProtocolHeader);
        assert_eq!(raw.next(), Got::End);
        // A reset after the end would make some systems drop what has not been read.
        std::thread::sleep(Duration::from_millis(20));
        assert!(raw.stream.take_error().expect("the socket is open").is_none());
    }
    is_well(address);
}

#[test]
fn input_that_comes_octet_by_octet_is_read() {
    let (_server, address) = server();
    let mut raw = Raw::socket(address);
    for octet in homing_broker::protocol::PROTOCOL_HEADER {
        raw.bytes(&[*octet]);
    }
    raw.expect("ConnectionStart(");
    raw.log_in("guest", "guest");
    raw.expect("ConnectionTune(");
    let mut rest = Vec::new();
    Method::from(connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 }).write(&mut rest, 0);
    Method::from(connection::Open { virtual_host: "/" }).write(&mut rest, 0);
    for octet in rest {
        raw.bytes(&[octet]);
    }
    raw.expect("ConnectionOpenOk");
}

#[test]
fn a_handshake_that_does_not_go_on_ends_in_time() {
    let (_server, address) = limits(|limits| limits.handshake = Duration::from_millis(300));
    let start = Instant::now();
    let mut silent = Raw::socket(address);
    let mut half = Raw::socket(address);
    half.bytes(b"AMQP");
    let mut started = Raw::started(address);
    let mut tuned = Raw::started(address);
    tuned.log_in("guest", "guest");
    tuned.expect("ConnectionTune(");
    for raw in [&mut silent, &mut half, &mut started, &mut tuned] {
        assert_eq!(raw.next(), Got::End);
    }
    assert!(start.elapsed() >= Duration::from_millis(250), "it took {:?}", start.elapsed());
    // One that is open may be silent.
    let mut open = Raw::open(address);
    assert!(open.is_silent(Duration::from_millis(600)));
    is_well(address);
}

#[test]
fn a_handshake_in_the_wrong_order_is_refused() {
    let (_server, address) = server();
    type Send = fn(&mut Raw);
    let cases: [(&str, Send); 4] = [
        ("open first", |raw| raw.send(0, connection::Open { virtual_host: "/" })),
        ("tune first", |raw| raw.send(0, connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 })),
        ("channel first", |raw| raw.send(1, channel::Open {})),
        ("content first", |raw| raw.frame(3, 1, b"abc")),
    ];
    for (name, send) in cases {
        let mut raw = Raw::started(address);
        send(&mut raw);
        let close = raw.closed();
        assert!(close.contains("reply_code: 504") && close.contains("connection state starting"), "{name}: {close}");
    }
    is_well(address);
}

#[test]
fn a_login_that_is_wrong_is_refused() {
    let (_server, address) = server();
    for (user, password) in [("guest", "wrong"), ("guest", ""), ("nobody", "guest"), ("", ""), ("guest", "guest2")] {
        let mut raw = Raw::started(address);
        raw.log_in(user, password);
        let close = raw.closed();
        assert!(
            close.contains("reply_code: 403")
                && close.contains("Login was refused using authentication mechanism PLAIN"),
            "{user}: {close}"
        );
    }
    // Without the capability the socket is closed after a while, and nothing is sent.
    let mut raw = Raw::started(address);
    let response = b"\0guest\0wrong";
    raw.send(0, connection::StartOk { client_properties: Table::EMPTY, mechanism: "PLAIN", response, locale: "" });
    let start = Instant::now();
    assert_eq!(raw.next(), Got::End);
    assert!(start.elapsed() > Duration::from_millis(500), "passwords cannot be tried fast");
    // A response that is none, and other mechanisms.
    let mut raw = Raw::started(address);
    raw.send(
        0,
        connection::StartOk { client_properties: Table::EMPTY, mechanism: "PLAIN", response: b"guest", locale: "" },
    );
    assert_eq!(raw.next(), Got::End);
    for mechanism in ["CRAM-MD5", "EXTERNAL", "plain", ""] {
        let mut raw = Raw::started(address);
        raw.send(0, connection::StartOk { client_properties: Table::EMPTY, mechanism, response: b"", locale: "" });
        let close = raw.closed();
        let text = format!("COMMAND_INVALID - unknown authentication mechanism '{mechanism}'");
        assert!(close.contains("reply_code: 503") && close.contains(&text), "{close}");
    }
    is_well(address);
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let (_server, address) = server();
    for (channel_max, frame_max, text) in [
        (2048, 0, "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)"),
        (0, 131_073, "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)"),
        (0, 4095, "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"),
    ] {
        let mut raw = Raw::started(address);
        raw.log_in("guest", "guest");
        raw.expect("ConnectionTune(");
        raw.send(0, connection::TuneOk { channel_max, frame_max, heartbeat: 0 });
        let close = raw.closed();
        assert!(close.contains("reply_code: 530") && close.contains(text), "{close}");
    }
    let mut raw = Raw::started(address);
    raw.log_in("guest", "guest");
    raw.expect("ConnectionTune(");
    raw.send(0, connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 });
    raw.send(0, connection::Open { virtual_host: "nope" });
    let close = raw.closed();
    assert!(close.contains("reply_code: 530") && close.contains("NOT_ALLOWED - vhost nope not found"), "{close}");
    is_well(address);
}

#[test]
fn frames_above_the_limit_are_refused_before_they_have_come() {
    let (_server, address) = server();
    // Nobody has negotiated anything yet, so a small limit holds.
    let mut raw = Raw::started(address);
    raw.bytes(b"\x01\0\0\xff\xff\xff\xff");
    assert!(raw.closed().contains("reply_code: 501"));
    let mut raw = Raw::open_with(address, 0, 4096, 0);
    raw.bytes(b"\x01\0\0\0\0\x0f\xf9");
    assert!(raw.closed().contains("4089 bytes, negotiated are at most 4088"));
    // What comes after that is not read as frames.
    raw.bytes(&[0xFF; 100_000]);
    is_well(address);
}

#[test]
fn bodies_come_in_frames_of_the_negotiated_size() {
    let (_server, address) = server();
    let mut raw = Raw::open_with(address, 0, 4096, 0);
    raw.send(1, channel::Open {});
    raw.expect("ChannelOpenOk");
    let body: Vec<u8> = (0..9000_u32).map(|at| at as u8).collect();
    // Its own frames are above the limit: they are what the raw client writes for a larger one.
    let mut bytes = Vec::new();
    Method::from(basic::Publish { exchange: "", routing_key: "nope", mandatory: true, immediate: false })
        .write(&mut bytes, 1);
    bytes.extend(frame_of(2, 1, &[&[0, 60, 0, 0][..], &9000_u64.to_be_bytes(), &[0, 0]].concat()));
    for piece in body.chunks(1000) {
        bytes.extend(frame_of(3, 1, piece));
    }
    raw.bytes(&bytes);
    raw.expect("BasicReturn(");
    assert!(matches!(raw.next(), Got::Header(1, 9000, _)));
    let mut back = Vec::new();
    while back.len() < body.len() {
        match raw.next() {
            Got::Body(1, piece) => {
                assert!(piece.len() <= 4088);
                back.extend(piece);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(back, body);
}

#[test]
fn a_message_above_the_limit_closes_its_channel() {
    let (_server, address) = limits(|limits| limits.message_size = 1000);
    let mut raw = Raw::channel(address);
    raw.publish(1, "", "nope", true, Properties::default(), &[b'x'; 1000]);
    raw.expect("BasicReturn(");
    while !matches!(raw.next(), Got::Body(..)) {}
    raw.publish(1, "", "nope", true, Properties::default(), &[b'x'; 1001]);
    let close = raw.closed();
    assert!(
        close.contains("PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000"),
        "{close}"
    );
    raw.send(1, channel::CloseOk {});
    is_well(address);
}

#[test]
fn unfinished_messages_cost_a_connection_no_more_than_the_limit() {
    let (_server, address) = limits(|limits| limits.unfinished = 1 << 20);
    let mut raw = Raw::open(address);
    for number in 1..=32 {
        raw.send(number, channel::Open {});
        raw.expect("ChannelOpenOk");
    }
    // Each body is announced as 100 MB, and 64 kB of it come.
    for number in 1..=32 {
        raw.send(number, basic::Publish { exchange: "", routing_key: "q", mandatory: false, immediate: false });
        raw.frame(2, number, &[&[0, 60, 0, 0][..], &100_000_000_u64.to_be_bytes(), &[0, 0]].concat());
        raw.frame(3, number, &[0; 65_000]);
    }
    let close = raw.closed();
    assert!(close.contains("reply_code: 506") && close.contains("more than 1048576 bytes"), "{close}");
    is_well(address);
}

#[test]
fn publishers_are_stopped_while_messages_take_too_much_memory() {
    let (_server, address) = limits(|limits| limits.memory = 1 << 20);
    let (mut publisher, mut consumer) = (Raw::channel(address), Raw::channel(address));
    for name in ["q", "other"] {
        publisher.send(1, declare(name));
        publisher.expect("QueueDeclareOk");
    }
    let body = [0; 100_000];
    for number in 0..16 {
        publisher.publish(1, "", ["q", "other"][number % 2], false, Properties::default(), &body);
    }
    assert_eq!(publisher.expect("ConnectionBlocked"), "ConnectionBlocked(Blocked { reason: \"low on memory\" })");
    // The rest is on its way, and is not read. Others receive all the same.
    let waiting = |consumer: &mut Raw| {
        ["q", "other"].map(|name| {
            consumer.send(1, queue::Declare { passive: true, ..declare(name) });
            consumer.expect("QueueDeclareOk")
        })
    };
    let held = waiting(&mut consumer);
    assert!(publisher.is_silent(Duration::from_millis(300)));
    assert_eq!(waiting(&mut consumer), held, "nothing more comes in");
    consumer.send(1, queue::Purge { queue: "q", no_wait: false });
    consumer.expect("QueuePurgeOk");
    publisher.expect("ConnectionUnblocked");
    // What it had sent comes in; then it is stopped again, or not.
    consumer.send(1, queue::Delete { queue: "other", if_unused: false, if_empty: false, no_wait: false });
    consumer.expect("QueueDeleteOk");
    is_well(address);
}

#[test]
fn a_transaction_costs_no_more_than_the_limit() {
    let (_server, address) = limits(|limits| limits.unfinished = 1 << 20);
    let mut raw = Raw::channel(address);
    raw.send(1, homing_broker::protocol::methods::tx::Select {});
    raw.expect("TxSelectOk");
    for _ in 0..32 {
        raw.publish(1, "", "q", false, Properties::default(), &[0; 65_000]);
    }
    assert!(raw.closed().contains("reply_code: 506"));
    is_well(address);
}

#[test]
fn channels_are_limited() {
    let (_server, address) = server();
    let mut raw = Raw::open_with(address, 3, FRAME_MAX, 0);
    for number in [7, 1, 65_535] {
        raw.send(number, channel::Open {});
        raw.expect("ChannelOpenOk");
    }
    raw.send(2, channel::Open {});
    let close = raw.closed();
    assert!(
        close.contains("reply_code: 530")
            && close.contains("number of channels opened (3) has reached the negotiated channel_max (3)"),
        "{close}"
    );
    is_well(address);
}

#[test]
fn connections_are_limited() {
    let (_server, address) = limits(|limits| limits.connections = 3);
    let mut open: Vec<Raw> = (0..3).map(|_| Raw::open(address)).collect();
    assert_eq!(Raw::socket(address).next(), Got::End);
    drop(open.pop());
    let start = Instant::now();
    // The server finds out when it reads the end.
    loop {
        let mut raw = Raw::socket(address);
        raw.bytes(homing_broker::protocol::PROTOCOL_HEADER);
        if raw.next() != Got::End {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_thousand_connections_that_do_nothing_cost_nobody_else() {
    let (_server, address) = limits(|limits| limits.handshake = Duration::from_secs(60));
    let silent: Vec<Raw> = (0..300).map(|_| Raw::socket(address)).collect();
    let open: Vec<Raw> = (0..700).map(|_| Raw::open(address)).collect();
    is_well(address);
    drop((silent, open));
    is_well(address);
}

#[test]
fn clients_that_vanish_at_any_moment_leave_nothing_behind() {
    let (_server, address) = server();
    let mut watcher = Raw::channel(address);
    let mut session = Vec::new();
    session.extend_from_slice(homing_broker::protocol::PROTOCOL_HEADER);
    Method::from(connection::StartOk {
        client_properties: Table::EMPTY,
        mechanism: "PLAIN",
        response: b"\0guest\0guest",
        locale: "",
    })
    .write(&mut session, 0);
    Method::from(connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 }).write(&mut session, 0);
    Method::from(connection::Open { virtual_host: "/" }).write(&mut session, 0);
    Method::from(channel::Open {}).write(&mut session, 1);
    let declare = queue::Declare {
        queue: "own",
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: false,
        arguments: Table::EMPTY,
    };
    Method::from(declare).write(&mut session, 1);
    let consume = basic::Consume {
        queue: "own",
        consumer_tag: "t",
        no_local: false,
        no_ack: false,
        exclusive: false,
        no_wait: false,
        arguments: Table::EMPTY,
    };
    Method::from(consume).write(&mut session, 1);
    session.extend(crate::raw::message_of(1, "", "own", true, Properties::default(), b"hello"));
    for end in (0..session.len()).step_by(3).chain([session.len()]) {
        let mut raw = Raw::socket(address);
        raw.bytes(&session[..end]);
        _ = raw.stream.flush();
        _ = raw.stream.shutdown(Shutdown::Write);
        while raw.next() != Got::End {}
    }
    // The queue is nobody's any more.
    watcher.send(1, queue::Declare { passive: true, ..declare });
    let close = watcher.closed();
    assert!(close.contains("no queue 'own'"), "{close}");
    is_well(address);
}

#[test]
fn noise_after_the_handshake_harms_nobody() {
    let (_server, address) = server();
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut raw = Raw::channel(address);
        // Frames that begin well more often than not.
        for _ in 0..random.usize(1..20) {
            let payload: Vec<u8> = match random.u8(..3) {
                0 => (0..random.usize(..60)).map(|_| random.u8(..)).collect(),
                1 => [0, random.u8(10..100), 0, random.u8(..60)]
                    .into_iter()
                    .chain((0..random.usize(..40)).map(|_| random.u8(..3)))
                    .collect(),
                _ => vec![0, [10, 20, 40, 50, 60, 85, 90][random.usize(..7)], 0, random.u8(..12) * 10],
            };
            raw.frame(random.u8(1..4), random.u16(..3), &payload);
        }
        _ = raw.stream.shutdown(Shutdown::Write);
        while raw.next() != Got::End {}
    }
    is_well(address);
}
