//! One connection: what the server sends is read by a thread and passed on as what a client can observe of it.

use crate::raw::FRAME_MAX;
use homing_broker::protocol::{
    ContentHeader, Frame, FrameReader, Method, PROTOCOL_HEADER, Properties, Table, TableWriter, Value,
    methods::connection,
};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the handshake may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a broker is, and who asks.
#[derive(Clone, Debug)]
pub struct Address {
    pub socket: SocketAddr,
    pub user: String,
    pub password: String,
}

/// Something that came.
#[derive(Debug)]
pub struct Incoming {
    /// Which connection, and the how manieth of those that were opened as it.
    pub link: usize,
    pub generation: u32,
    pub channel: u16,
    pub what: What,
}

/// What came.
#[derive(Debug)]
pub enum What {
    /// An answer that is only compared.
    Reply(String),
    FlowOk,
    ChannelOpenOk,
    ChannelCloseOk,
    Declared {
        queue: String,
        messages: u32,
        consumers: u32,
    },
    ConsumeOk {
        tag: String,
    },
    /// The server ended a consumer.
    Cancelled {
        tag: String,
    },
    Delivered {
        consumer: String,
        tag: u64,
        text: String,
        body: String,
    },
    Got {
        tag: u64,
        text: String,
        body: String,
    },
    Returned {
        text: String,
    },
    Confirmed {
        tag: u64,
        multiple: bool,
        is_ack: bool,
    },
    ChannelClosed(String),
    ConnectionClosed(String),
    End,
}

/// A connection that is open.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    pub generation: u32,
    /// What the server says that it is.
    pub version: String,
}

impl Link {
    pub fn open(address: &Address, link: usize, generation: u32, to: Sender<Incoming>) -> Self {
        let mut stream = TcpStream::connect_timeout(&address.socket, PATIENCE).expect("the broker listens");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(PROTOCOL_HEADER).expect("written");
        let mut input = Vec::new();
        let mut version = String::new();
        expect(&mut stream, &mut input, |method| {
            let Method::ConnectionStart(start) = method else { return false };
            let fields = start.server_properties.iter().filter_map(Result::ok);
            version =
                fields.into_iter().find(|(name, _)| *name == b"version").map_or("".into(), |(_, value)| match value {
                    Value::String(version) => String::from_utf8_lossy(version).into_owned(),
                    _ => String::new(),
                });
            true
        });
        let mut opened = Self { stream, generation, version };
        let mut properties = Vec::new();
        TableWriter::new(&mut properties).table(b"capabilities", |table| {
            for name in ["authentication_failure_close", "consumer_cancel_notify", "basic.nack", "publisher_confirms"] {
                table.field(name.as_bytes(), &Value::Bool(true));
            }
        });
        let response = format!("\0{}\0{}", address.user, address.password);
        opened.send(
            0,
            connection::StartOk {
                client_properties: Table::unchecked(&properties),
                mechanism: "PLAIN",
                response: response.as_bytes(),
                locale: "en_US",
            },
        );
        expect(&mut opened.stream, &mut input, |method| matches!(method, Method::ConnectionTune(_)));
        opened.send(0, connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 });
        opened.send(0, connection::Open { virtual_host: "/" });
        expect(&mut opened.stream, &mut input, |method| matches!(method, Method::ConnectionOpenOk(_)));
        opened.stream.set_read_timeout(None).expect("no timeout");
        let stream = opened.stream.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            read_all(stream, input, |channel, what| to.send(Incoming { link, generation, channel, what }).is_ok());
        });
        opened
    }

    pub fn send<'a>(&mut self, channel: u16, method: impl Into<Method<'a>>) {
        let mut out = Vec::new();
        method.into().write(&mut out, channel);
        self.bytes(&out);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        // That the server has closed the socket is seen by the reader.
        _ = self.stream.write_all(bytes);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The reader ends with it.
        _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Reads methods until one is what is asked for.
fn expect(stream: &mut TcpStream, input: &mut Vec<u8>, mut is_it: impl FnMut(&Method<'_>) -> bool) {
    loop {
        if let Some((frame, taken)) = FrameReader::new(u32::MAX).read(input).expect("the server sends frames") {
            let Frame::Method { payload, .. } = frame else { panic!("a method was expected") };
            let method = Method::read(payload).expect("the server sends methods");
            let found = is_it(&method);
            assert!(!matches!(method, Method::ConnectionClose(_)), "the server refuses: {method:?}");
            input.drain(..taken);
            if found {
                return;
            }
            continue;
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).expect("the server answers");
        assert!(count > 0, "the server ended the connection in its handshake");
        input.extend_from_slice(&piece[..count]);
    }
}

/// A message that is on its way.
struct Content {
    method: Pending,
    size: u64,
    properties: String,
    body: Vec<u8>,
}

enum Pending {
    Deliver { consumer: String, tag: u64, text: String },
    Get { tag: u64, text: String },
    Return { text: String },
}

fn read_all(mut stream: TcpStream, mut input: Vec<u8>, to: impl Fn(u16, What) -> bool) {
    let mut contents: HashMap<u16, Content> = HashMap::new();
    loop {
        let mut start = 0;
        while let Some((frame, taken)) =
            FrameReader::new(u32::MAX).read(&input[start..]).expect("the server sends frames")
        {
            start += taken;
            let (channel, came) = match frame {
                Frame::Method { channel, payload } => {
                    let method = Method::read(payload).expect("the server sends methods");
                    (channel, take_method(&mut contents, channel, &method))
                }
                Frame::Header { channel, payload } => {
                    let header = ContentHeader::read(payload).expect("the server sends headers");
                    let content = contents.get_mut(&channel).expect("a method comes before its header");
                    content.size = header.body_size;
                    content.properties = properties_text(&header.properties);
                    (channel, (header.body_size == 0).then(|| finish(&mut contents, channel)))
                }
                Frame::Body { channel, payload } => {
                    let content = contents.get_mut(&channel).expect("a method comes before its body");
                    content.body.extend_from_slice(payload);
                    let is_whole = content.body.len() as u64 == content.size;
                    (channel, is_whole.then(|| finish(&mut contents, channel)))
                }
                Frame::Heartbeat => (0, None),
            };
            if came.is_some_and(|what| !to(channel, what)) {
                return;
            }
        }
        input.drain(..start);
        let mut piece = [0; 65_536];
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => input.extend_from_slice(&piece[..count]),
            _ => {
                to(0, What::End);
                return;
            }
        }
    }
}

fn take_method(contents: &mut HashMap<u16, Content>, channel: u16, method: &Method<'_>) -> Option<What> {
    let mut begin = |method| {
        contents.insert(channel, Content { method, size: 0, properties: String::new(), body: Vec::new() });
        None
    };
    Some(match method {
        Method::BasicDeliver(deliver) => {
            let text = format!(
                "deliver exchange={:?} key={:?} redelivered={}",
                deliver.exchange, deliver.routing_key, deliver.redelivered
            );
            return begin(Pending::Deliver {
                consumer: deliver.consumer_tag.to_owned(),
                tag: deliver.delivery_tag,
                text,
            });
        }
        Method::BasicGetOk(got) => {
            let text = format!(
                "got exchange={:?} key={:?} redelivered={} left={}",
                got.exchange, got.routing_key, got.redelivered, got.message_count
            );
            return begin(Pending::Get { tag: got.delivery_tag, text });
        }
        Method::BasicReturn(returned) => {
            let text = format!(
                "return {} {:?} exchange={:?} key={:?}",
                returned.reply_code, returned.reply_text, returned.exchange, returned.routing_key
            );
            return begin(Pending::Return { text });
        }
        Method::ChannelFlowOk(_) => What::FlowOk,
        Method::ChannelOpenOk(_) => What::ChannelOpenOk,
        Method::ChannelCloseOk(_) => What::ChannelCloseOk,
        Method::QueueDeclareOk(ok) => {
            What::Declared { queue: ok.queue.to_owned(), messages: ok.message_count, consumers: ok.consumer_count }
        }
        Method::BasicConsumeOk(ok) => What::ConsumeOk { tag: ok.consumer_tag.to_owned() },
        Method::BasicCancel(cancel) => What::Cancelled { tag: cancel.consumer_tag.to_owned() },
        Method::BasicAck(ack) => What::Confirmed { tag: ack.delivery_tag, multiple: ack.multiple, is_ack: true },
        Method::BasicNack(nack) => What::Confirmed { tag: nack.delivery_tag, multiple: nack.multiple, is_ack: false },
        Method::ChannelClose(close) => What::ChannelClosed(format!(
            "closed {} {:?} by {},{}",
            close.reply_code, close.reply_text, close.class_id, close.method_id
        )),
        Method::ConnectionClose(close) => What::ConnectionClosed(format!(
            "closed {} {:?} by {},{}",
            close.reply_code, close.reply_text, close.class_id, close.method_id
        )),
        Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_) => return None,
        other => What::Reply(format!("{other:?}")),
    })
}

fn finish(contents: &mut HashMap<u16, Content>, channel: u16) -> What {
    let Content { method, properties, body, .. } = contents.remove(&channel).expect("it is known");
    let body = String::from_utf8(body).expect("bodies are text here");
    match method {
        Pending::Deliver { consumer, tag, text } => {
            What::Delivered { consumer, tag, text: format!("{text} body={body:?} {properties}"), body }
        }
        Pending::Get { tag, text } => What::Got { tag, text: format!("{text} body={body:?} {properties}"), body },
        Pending::Return { text } => What::Returned { text: format!("{text} body={body:?} {properties}") },
    }
}

/// Properties as text. The order of fields in a table is no information.
fn properties_text(properties: &Properties<'_>) -> String {
    let mut parts = Vec::new();
    let mut text = |name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            parts.push(format!("{name}={:?}", String::from_utf8_lossy(value)));
        }
    };
    text("content-type", properties.content_type);
    text("content-encoding", properties.content_encoding);
    text("correlation-id", properties.correlation_id);
    text("reply-to", properties.reply_to);
    text("expiration", properties.expiration);
    text("message-id", properties.message_id);
    text("type", properties.kind);
    text("user-id", properties.user_id);
    text("app-id", properties.app_id);
    text("cluster-id", properties.cluster_id);
    parts.extend(properties.delivery_mode.map(|mode| format!("delivery-mode={mode}")));
    parts.extend(properties.priority.map(|priority| format!("priority={priority}")));
    parts.extend(properties.timestamp.map(|timestamp| format!("timestamp={timestamp}")));
    parts.extend(properties.headers.map(|headers| format!("headers={}", table_text(headers))));
    parts.join(" ")
}

fn table_text(table: Table<'_>) -> String {
    let mut fields: Vec<_> = table
        .iter()
        .map(|field| {
            let (name, value) = field.expect("a table that was checked");
            format!("{}: {}", String::from_utf8_lossy(name), value_text(&value))
        })
        .collect();
    fields.sort();
    format!("{{{}}}", fields.join(", "))
}

fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::String(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Value::Table(table) => table_text(*table),
        Value::Array(array) => {
            let values: Vec<_> =
                array.iter().map(|value| value_text(&value.expect("an array that was checked"))).collect();
            format!("[{}]", values.join(", "))
        }
        // The time of a death: what both brokers call now.
        Value::Timestamp(at) if is_about_now(*at) => "now".to_owned(),
        other => format!("{other:?}"),
    }
}

fn is_about_now(at: u64) -> bool {
    SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| now.as_secs().abs_diff(at) < 600)
}
