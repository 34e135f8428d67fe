//! What reading and writing a message costs: `cargo bench -p homing-broker --bench protocol`.
//!
//! A message is what a publisher sends (method, content header with seven properties, body of 400 bytes) and what a
//! consumer gets of it. Figures of one run on a shared machine are to be compared with each other, not with other runs.

use homing_broker::protocol::{
    ContentHeader, Frame, FrameReader, Method, Properties, TableWriter, Value, frame, methods::basic,
};
use std::{hint::black_box, time::Instant};

const FRAME_MAX: u32 = 131_072;
const COUNT: u32 = 2_000_000;

fn main() {
    let mut headers = Vec::new();
    let mut table = TableWriter::new(&mut headers);
    table.field(b"sender", &Value::String(b"controller"));
    table.field(b"attempt", &Value::I32(1));
    let headers = homing_broker::protocol::Table::unchecked(&headers);
    let mut properties = Properties::default();
    properties.content_type = Some(b"text/yaml");
    properties.content_encoding = Some(b"utf-8");
    properties.headers = Some(headers);
    properties.delivery_mode = Some(2);
    properties.correlation_id = Some(b"3f0f6b3e-7f0e-4f0e-9a51-3f0f6b3e7f0e");
    properties.reply_to = Some(b"amq.gen-JzTY20BRgKO-HjmUJj0wLg");
    properties.message_id = Some(b"3f0f6b3e-7f0e-4f0e-9a51-3f0f6b3e7f0f");
    let body = [b'x'; 400];
    let mut header = Vec::new();
    ContentHeader { body_size: 400, properties }.write(&mut header);

    let mut published = Vec::new();
    let publish = basic::Publish { exchange: "messages", routing_key: "rpc.home", mandatory: true, immediate: false };
    frame::write_method(&mut published, 1, &publish);
    frame::write_content(&mut published, 1, &header, &body, FRAME_MAX);

    let reader = FrameReader::new(FRAME_MAX);
    time("read a published message, all of its header", || {
        let mut rest = black_box(&published[..]);
        while let Ok(Some((frame, taken))) = reader.read(rest) {
            match frame {
                Frame::Method { payload, .. } => _ = black_box(Method::read(payload)),
                Frame::Header { payload, .. } => _ = black_box(ContentHeader::read(payload)),
                other => _ = black_box(other),
            }
            rest = &rest[taken..];
        }
    });
    let mut out = Vec::with_capacity(1 << 20);
    time("write a delivery", || {
        if out.len() > 1 << 19 {
            out.clear();
        }
        let deliver = basic::Deliver {
            consumer_tag: black_box("ctag1.3f0f6b3e7f0e4f0e"),
            delivery_tag: 7,
            redelivered: false,
            exchange: "messages",
            routing_key: "rpc.home",
        };
        frame::write_method(&mut out, 1, &deliver);
        frame::write_content(&mut out, 1, black_box(&header), black_box(&body), FRAME_MAX);
    });
    let mut ack = Vec::new();
    frame::write_method(&mut ack, 1, &basic::Ack { delivery_tag: 7, multiple: false });
    time("read an acknowledgement", || {
        if let Ok(Some((Frame::Method { payload, .. }, _))) = reader.read(black_box(&ack)) {
            _ = black_box(Method::read(payload));
        }
    });
}

/// The best of five runs, to be least in the way of what else the machine does.
fn time(what: &str, mut work: impl FnMut()) {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..COUNT).for_each(|_| work());
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    println!("{what}: {:.1} ns", best.as_secs_f64() * 1e9 / f64::from(COUNT));
}
