//! A client that sends what it is told to, byte for byte, and shows what comes back.

use homing_broker::protocol::{
    ContentHeader, Frame, FrameReader, Method, Properties, Table, TableWriter, Value, frame, methods,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const FRAME_MAX: u32 = 131_072;

/// A connection of raw frames, over TLS if the stream is.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    input: Vec<u8>,
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    /// A method, as it is printed.
    Method(u16, String),
    /// A content header's body size, and its properties as they are printed.
    Header(u16, u64, String),
    /// A piece of a body.
    Body(u16, Vec<u8>),
    /// A protocol header instead of a frame.
    ProtocolHeader,
    /// The end.
    End,
}

impl Got {
    /// The text and the code of a close, and which method it blames.
    pub fn close(&self) -> Option<&str> {
        match self {
            Self::Method(_, text) if text.starts_with("ConnectionClose(") || text.starts_with("ChannelClose(") => {
                Some(text)
            }
            _ => None,
        }
    }
}

impl Raw {
    /// Only the socket.
    pub fn socket(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self::on(stream, &[])
    }

    /// As far as `connection.start`.
    pub fn started(address: SocketAddr) -> Self {
        let mut raw = Self::socket(address);
        raw.bytes(frame::PROTOCOL_HEADER);
        raw.expect("ConnectionStart(");
        raw
    }

    /// An open connection, with limits that every server takes.
    pub fn open(address: SocketAddr) -> Self {
        Self::open_with(address, 2047, FRAME_MAX, 0)
    }

    /// An open connection with these limits.
    pub fn open_with(address: SocketAddr, channel_max: u16, frame_max: u32, heartbeat: u16) -> Self {
        let mut raw = Self::started(address);
        raw.enter(channel_max, frame_max, heartbeat);
        raw
    }

    /// An open connection with channel 1.
    pub fn channel(address: SocketAddr) -> Self {
        let mut raw = Self::open(address);
        raw.send(1, methods::channel::Open {});
        raw.expect("ChannelOpenOk");
        raw
    }

    /// Whether nothing comes within this time.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a timeout");
        let start = Instant::now();
        let mut piece = [0; 1];
        let silent = matches!(self.stream.peek(&mut piece), Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silent && self.input.is_empty() && start.elapsed() >= time / 2
    }
}

impl<S: Read + Write> Raw<S> {
    /// On a stream from which this was read before.
    pub fn on(stream: S, read: &[u8]) -> Self {
        Self { stream, input: read.to_vec() }
    }

    /// From `connection.start` to the open connection, as `guest`.
    pub fn enter(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) {
        self.log_in("guest", "guest");
        self.expect("ConnectionTune(");
        self.send(0, methods::connection::TuneOk { channel_max, frame_max, heartbeat });
        self.send(0, methods::connection::Open { virtual_host: "/" });
        self.expect("ConnectionOpenOk");
    }

    pub fn log_in(&mut self, user: &str, password: &str) {
        let mut properties = Vec::new();
        TableWriter::new(&mut properties).table(b"capabilities", |table| {
            for name in ["authentication_failure_close", "consumer_cancel_notify", "connection.blocked"] {
                table.field(name.as_bytes(), &Value::Bool(true));
            }
        });
        let response = format!("\0{user}\0{password}");
        self.send(
            0,
            methods::connection::StartOk {
                client_properties: Table::unchecked(&properties),
                mechanism: "PLAIN",
                response: response.as_bytes(),
                locale: "en_US",
            },
        );
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        // A server that has closed the socket is seen when it is read from.
        _ = self.stream.write_all(bytes);
    }

    pub fn send<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        let mut out = Vec::new();
        method.into().write(&mut out, channel);
        self.bytes(&out);
    }

    pub fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.bytes(&frame_of(kind, channel, payload));
    }

    /// A whole message.
    pub fn publish(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        mandatory: bool,
        properties: Properties<'_>,
        body: &[u8],
    ) {
        let out = message_of(channel, exchange, key, mandatory, properties, body);
        self.bytes(&out);
    }

    /// The next thing that comes, heartbeats apart.
    pub fn next(&mut self) -> Got {
        loop {
            if self.input.starts_with(b"AMQP") && self.input.len() >= 8 {
                self.input.drain(..8);
                return Got::ProtocolHeader;
            }
            if !self.input.starts_with(b"A") {
                let read = FrameReader::new(u32::MAX).read(&self.input).expect("the server sends frames");
                if let Some((frame, taken)) = read {
                    let got = show(frame);
                    self.input.drain(..taken);
                    match got {
                        Some(got) => return got,
                        None => continue,
                    }
                }
            }
            let mut piece = [0; 65_536];
            match self.stream.read(&mut piece) {
                Ok(0) => return Got::End,
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the server sends nothing")
                }
                Err(_) => return Got::End,
            }
        }
    }

    /// The next thing that comes, which is a method that is printed so.
    pub fn expect(&mut self, start: &str) -> String {
        match self.next() {
            Got::Method(_, text) if text.starts_with(start) => text,
            other => panic!("{start} was expected, and not {other:?}"),
        }
    }

    /// The next thing that comes, which is a method.
    pub fn method(&mut self) -> (u16, String) {
        match self.next() {
            Got::Method(channel, text) => (channel, text),
            other => panic!("a method was expected, and not {other:?}"),
        }
    }

    /// What closes the connection or the channel, which has to come before anything else but methods that answer.
    pub fn closed(&mut self) -> String {
        loop {
            let got = self.next();
            if let Some(close) = got.close() {
                return close.to_owned();
            }
            assert_ne!(got, Got::End, "closed without a word");
        }
    }
}

pub fn frame_of(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).expect("a small frame").to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
    out
}

pub fn message_of(
    channel: u16,
    exchange: &str,
    key: &str,
    mandatory: bool,
    properties: Properties<'_>,
    body: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let publish = methods::basic::Publish { exchange, routing_key: key, mandatory, immediate: false };
    Method::from(publish).write(&mut out, channel);
    let mut header = Vec::new();
    ContentHeader { body_size: body.len() as u64, properties }.write(&mut header);
    frame::write_content(&mut out, channel, &header, body, FRAME_MAX);
    out
}

fn show(frame: Frame<'_>) -> Option<Got> {
    Some(match frame {
        Frame::Method { channel, payload } => {
            Got::Method(channel, format!("{:?}", Method::read(payload).expect("the server sends methods")))
        }
        Frame::Header { channel, payload } => {
            let header = ContentHeader::read(payload).expect("the server sends headers");
            Got::Header(channel, header.body_size, format!("{:?}", header.properties))
        }
        Frame::Body { channel, payload } => Got::Body(channel, payload.to_vec()),
        Frame::Heartbeat => return None,
    })
}

/// A declaration of a queue with nothing set.
pub fn declare(name: &str) -> methods::queue::Declare<'_> {
    methods::queue::Declare {
        queue: name,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: Table::EMPTY,
    }
}

/// A consumer that acknowledges nothing.
pub fn consume(name: &str) -> methods::basic::Consume<'_> {
    methods::basic::Consume {
        queue: name,
        consumer_tag: "t",
        no_local: false,
        no_ack: true,
        exclusive: false,
        no_wait: false,
        arguments: Table::EMPTY,
    }
}
