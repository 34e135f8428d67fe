//! A publisher that writes frames by hand, for messages that no client library would send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Endpoint;

pub(super) struct Raw {
    stream: TcpStream,
}

pub(super) fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("short")], bytes].concat()
}

pub(super) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("small").to_be_bytes()[..], bytes].concat()
}

impl Raw {
    /// Connects and opens channel 1.
    pub(super) fn connect(endpoint: &Endpoint) -> Self {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        let mut raw = Raw { stream };
        raw.stream.write_all(b"AMQP\0\0\x09\x01").expect("the greeting");
        raw.expect(10, 10);
        let login = format!("\0{}\0{}", endpoint.username, endpoint.password);
        raw.method(0, 10, 11, &[long(b""), short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat());
        raw.expect(10, 30);
        raw.method(0, 10, 31, &[&2047u16.to_be_bytes()[..], &131_072u32.to_be_bytes(), &[0, 0]].concat());
        raw.method(0, 10, 40, &[&short(endpoint.vhost.as_bytes())[..], &[0, 0]].concat());
        raw.expect(10, 41);
        raw.method(1, 20, 10, &[0]);
        raw.expect(20, 11);
        raw
    }

    /// Publishes a message whose properties are these bytes, flags first.
    pub(super) fn publish(&mut self, exchange: &str, routing_key: &[u8], properties: &[u8], body: &str) {
        let to = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        self.method(1, 60, 40, &to);
        let size = u64::try_from(body.len()).expect("small");
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size.to_be_bytes(), properties].concat());
        self.frame(3, 1, body.as_bytes());
    }

    /// Waits until the broker has taken everything.
    pub(super) fn close(mut self) {
        self.method(1, 20, 40, &[&200u16.to_be_bytes()[..], &short(b""), &[0; 4]].concat());
        self.expect(20, 41);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        self.frame(1, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat());
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xCE]].concat();
        self.stream.write_all(&frame).expect("it is written");
    }

    fn expect(&mut self, class: u16, method: u16) {
        let mut prefix = [0; 7];
        self.stream.read_exact(&mut prefix).expect("an answer");
        let size = u32::from_be_bytes([prefix[3], prefix[4], prefix[5], prefix[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).expect("the rest");
        let shown = payload.escape_ascii();
        assert!(payload.starts_with(&[class.to_be_bytes(), method.to_be_bytes()].concat()), "{shown}");
    }
}
