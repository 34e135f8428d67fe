//! Beginnings and ends: where the server listens, whom it lets in, heartbeats, and how it stops.

use crate::raw::{Got, Raw};
use crate::{server, start};
use homing_broker::protocol::{
    Properties, Table,
    methods::{basic, confirm, connection, queue},
};
use homing_broker::server::{Limits, Server};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

#[test]
fn what_the_server_tells_about_itself_is_what_clients_decide_by() {
    let (_server, address) = server();
    let mut raw = Raw::socket(address);
    raw.bytes(homing_broker::protocol::PROTOCOL_HEADER);
    let text = raw.expect("ConnectionStart(");
    for part in [
        "version_major: 0",
        "version_minor: 9",
        "\"product\": String",
        "\"version\": String",
        "\"capabilities\": Table",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    raw.log_in("guest", "guest");
    assert_eq!(
        raw.expect("ConnectionTune("),
        "ConnectionTune(Tune { channel_max: 2047, frame_max: 131072, heartbeat: 60 })"
    );
}

#[test]
fn only_loopback_is_listened_on_unless_told_otherwise() {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = Server::builder().listen(any).start().expect_err("others could connect");
    assert_eq!(error.to_string(), "listening on 0.0.0.0:0 was not allowed: other machines can reach this address");
    let server = Server::builder().listen(any).allow_other_machines().start().expect("it was allowed");
    let port = server.addresses()[0].port();
    Raw::open(SocketAddr::from(([127, 0, 0, 1], port)));
}

#[test]
fn guest_is_let_in_from_this_machine_only() {
    // A connection to another address of this machine comes from that address.
    let Some(outside) = outside_address() else { return };
    let server = Server::builder()
        .listen(SocketAddr::new(outside, 0))
        .allow_other_machines()
        .user("guest", "guest")
        .user("somebody", "secret")
        .start()
        .expect("the server starts");
    let address = server.addresses()[0];
    let mut raw = Raw::started(address);
    raw.log_in("guest", "guest");
    assert!(raw.closed().contains("reply_code: 403"));
    let mut raw = Raw::started(address);
    raw.log_in("somebody", "secret");
    raw.expect("ConnectionTune(");
}

/// An address of this machine that is not loopback, if it has one.
fn outside_address() -> Option<std::net::IpAddr> {
    // Nothing is sent: the system only chooses the address that it would send from.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn an_address_in_use_is_named() {
    let (_server, address) = server();
    let error = Server::builder().listen(address).start().expect_err("it is in use");
    assert!(error.to_string().starts_with(&format!("{address} cannot be listened on: ")), "{error}");
}

#[test]
fn a_unix_socket_is_its_owners_alone_and_goes_with_the_server() {
    let folder = std::env::temp_dir().join(format!("homing-broker-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("socket");
    // What a killed server left behind is replaced.
    drop(UnixListener::bind(&path));
    let server = Server::builder().listen_unix(&path).start().expect("the server starts");
    let metadata = std::fs::symlink_metadata(&path).expect("the socket is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(homing_broker::protocol::PROTOCOL_HEADER).expect("it reads");
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(answer[7..], [0, 10, 0, 10], "connection.start");
    // One that is in use is not taken away, and neither is another file.
    let error = Server::builder().listen_unix(&path).start().expect_err("it is in use");
    assert!(error.to_string().contains("another server listens there"), "{error}");
    let file = folder.join("file");
    std::fs::write(&file, "precious").expect("a file");
    let error = Server::builder().listen_unix(&file).start().expect_err("it is no socket");
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "precious");
    drop(stream);
    drop(server);
    assert!(!path.exists());
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

#[test]
fn a_silent_client_is_sent_heartbeats_and_then_closed() {
    let (_server, address) = server();
    let mut raw = Raw::open_with(address, 0, 0, 1);
    let start = Instant::now();
    let mut bytes = Vec::new();
    raw.stream.read_to_end(&mut bytes).expect("the end");
    let time = start.elapsed();
    // Two missed heartbeats of one second.
    assert!(time > Duration::from_millis(1_500), "it took {time:?}");
    assert!(bytes.starts_with(b"\x08\0\0\0\0\0\0\xce"), "heartbeats come: {bytes:?}");
    assert!(bytes.len() >= 16, "one each half second: {bytes:?}");
}

#[test]
fn a_client_that_sends_heartbeats_stays() {
    let (_server, address) = server();
    let mut raw = Raw::open_with(address, 0, 0, 1);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(500));
        raw.bytes(b"\x08\0\0\0\0\0\0\xce");
    }
    raw.send(0, connection::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 });
    raw.expect("ConnectionCloseOk");
}

#[test]
fn at_the_end_clients_are_told_and_confirms_are_written() {
    let (server, address) = server();
    let mut raw = Raw::channel(address);
    raw.send(1, confirm::Select { no_wait: false });
    raw.expect("ConfirmSelectOk");
    raw.publish(1, "", "nope", false, Properties::default(), b"x");
    raw.expect("BasicAck");
    let mut half = Raw::started(address);
    let stopping = std::thread::spawn(move || server.shutdown(Duration::from_secs(10)));
    let close = raw.closed();
    assert!(
        close.contains("reply_code: 320")
            && close.contains("CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"),
        "{close}"
    );
    raw.send(0, connection::CloseOk {});
    assert_eq!(raw.next(), Got::End);
    assert_eq!(half.next(), Got::End, "one that is not open yet is closed without a word");
    let stopped = stopping.join().expect("it stops");
    assert_eq!((stopped.abandoned, stopped.failure), (0, None));
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_client_that_does_not_agree_does_not_hold_up_the_end() {
    let (server, address) = server();
    let mut raw = Raw::open(address);
    let start = Instant::now();
    let stopped = server.shutdown(Duration::from_millis(300));
    assert!(start.elapsed() < Duration::from_secs(4), "it took {:?}", start.elapsed());
    assert_eq!(stopped.abandoned, 1);
    assert!(raw.closed().contains("reply_code: 320"));
    assert_eq!(raw.next(), Got::End);
}

#[test]
fn a_client_that_never_agrees_to_an_error_is_closed() {
    let mut limits = Limits::default();
    limits.close = Duration::from_millis(300);
    let (_server, address) = start(Server::builder().limits(limits));
    let mut raw = Raw::open(address);
    raw.frame(3, 0, b"x");
    assert!(raw.closed().contains("reply_code: 505"));
    assert_eq!(raw.next(), Got::End);
}

#[test]
fn what_a_client_had_in_hand_goes_back_when_it_goes() {
    let (_server, address) = server();
    let declare = queue::Declare {
        queue: "q",
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: Table::EMPTY,
    };
    let mut other = Raw::channel(address);
    other.send(1, declare);
    other.expect("QueueDeclareOk");
    other.publish(1, "", "q", true, Properties::default(), b"x");
    let mut raw = Raw::channel(address);
    raw.send(1, basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetOk");
    drop(raw);
    let start = Instant::now();
    loop {
        other.send(1, basic::Get { queue: "q", no_ack: false });
        match other.next() {
            Got::Method(_, text) if text.starts_with("BasicGetEmpty") => {
                assert!(start.elapsed() < Duration::from_secs(20), "it never comes back");
            }
            Got::Method(_, text) => {
                assert!(text.contains("redelivered: true"), "{text}");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}
