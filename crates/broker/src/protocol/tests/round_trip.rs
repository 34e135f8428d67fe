//! What is written is read back.

use super::samples;
use crate::protocol::{
    ContentHeader, Frame, FrameReader, Method, ReplyCode, Table, TableWriter, Value,
    code::Severity,
    frame,
    methods::{basic, connection, queue},
};
use fastrand::Rng;

const LIMIT: u32 = 131_072;

#[test]
fn every_method_is_read_as_it_was_written() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let mut bytes = Vec::new();
        let methods = Method::samples(&mut random);
        for (channel, method) in (7..).zip(&methods) {
            method.write(&mut bytes, channel);
        }
        let mut rest = &bytes[..];
        for (number, method) in (7..).zip(&methods) {
            let Ok(Some((Frame::Method { channel, payload }, taken))) = FrameReader::new(LIMIT).read(rest) else {
                panic!("seed {seed}: no frame of a method");
            };
            assert_eq!(channel, number, "seed {seed}");
            let read = Method::read(payload);
            // Floats are compared as they are printed: NaN is not equal to itself.
            assert_eq!(format!("{read:?}"), format!("{:?}", Ok::<_, ()>(method)), "seed {seed}");
            rest = &rest[taken..];
        }
        assert!(rest.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_content_header_is_read_as_it_was_written() {
    for seed in 0..2000 {
        let mut random = Rng::with_seed(seed);
        let header = ContentHeader { body_size: random.u64(..), properties: samples::properties(&mut random) };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        let read = ContentHeader::read(&bytes);
        assert_eq!(format!("{read:?}"), format!("{:?}", Ok::<_, ()>(header)), "seed {seed}");
        let mut again = Vec::new();
        read.expect("it was compared").write(&mut again);
        assert_eq!(again, bytes, "seed {seed}");
    }
}

#[test]
fn every_type_of_a_table_has_the_bytes_that_rabbitmq_writes() {
    let mut bytes = Vec::new();
    let mut table = TableWriter::new(&mut bytes);
    table.field(b"t", &Value::Bool(true));
    table.field(b"s", &Value::I16(-2));
    table.field(b"l", &Value::I64(-1));
    table.field(b"S", &Value::String(b"xy"));
    table.field(b"x", &Value::Bytes(b"z"));
    table.table(b"F", |inner| inner.field(b"V", &Value::Void));
    table.array(b"A", |inner| inner.value(&Value::U8(9)));
    let expected = b"\x01tt\x01\x01ss\xff\xfe\x01ll\xff\xff\xff\xff\xff\xff\xff\xff\x01SS\0\0\0\x02xy\x01xx\0\0\0\x01z\
        \x01FF\0\0\0\x03\x01VV\x01AA\0\0\0\x02B\x09";
    assert_eq!(bytes, expected);
    let table = Table::checked(&bytes).expect("well formed");
    assert_eq!(table.get("s").and_then(|value| value.as_i64()), Some(-2));
    assert_eq!(table.get("F").and_then(|value| value.as_table()).and_then(|inner| inner.get("V")), Some(Value::Void));
    assert_eq!(table.get("missing"), None);
}

#[test]
fn methods_have_the_bytes_of_the_specification() {
    let mut bytes = Vec::new();
    // Five bits share an octet; the reserved ticket is zero.
    let declare = queue::Declare {
        queue: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: true,
        no_wait: false,
        arguments: Table::EMPTY,
    };
    frame::write_method(&mut bytes, 1, &declare);
    assert_eq!(bytes, b"\x01\0\x01\0\0\0\x0d\0\x32\0\x0a\0\0\x01q\x0a\0\0\0\0\xce");
    bytes.clear();
    frame::write_method(&mut bytes, 0, &connection::CloseOk {});
    assert_eq!(bytes, b"\x01\0\0\0\0\0\x04\0\x0a\0\x33\xce");
    bytes.clear();
    frame::write_heartbeat(&mut bytes);
    assert_eq!(bytes, b"\x08\0\0\0\0\0\0\xce");
}

#[test]
fn a_body_is_cut_into_frames_of_the_negotiated_size() {
    for size in [0usize, 1, 4087, 4088, 4089, 8176, 10_000] {
        let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let mut bytes = Vec::new();
        frame::write_content(&mut bytes, 3, b"header", &body, 4096);
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((frame, taken)) = FrameReader::new(4096).read(rest).expect("well formed") {
            frames.push(frame);
            rest = &rest[taken..];
        }
        assert_eq!(frames[0], Frame::Header { channel: 3, payload: b"header" });
        let pieces: Vec<u8> = frames[1..]
            .iter()
            .flat_map(|frame| match frame {
                Frame::Body { channel: 3, payload } => payload.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pieces, body);
        assert_eq!(frames.len() - 1, size.div_ceil(4088), "no empty frame, and none more than needed");
    }
}

#[test]
fn a_text_that_is_too_long_is_cut_between_characters() {
    let mut bytes = Vec::new();
    let text = "é".repeat(200);
    frame::write_method(&mut bytes, 0, &connection::Blocked { reason: &text });
    let Ok(Some((Frame::Method { payload, .. }, _))) = FrameReader::new(LIMIT).read(&bytes) else { panic!() };
    let Ok(Method::ConnectionBlocked(blocked)) = Method::read(payload) else { panic!() };
    assert_eq!(blocked.reason, "é".repeat(127));
}

#[test]
fn codes_have_the_severity_of_the_specification() {
    for code in ReplyCode::ALL {
        let connection = matches!(code.number(), 320 | 402 | 501..=530 | 540 | 541);
        assert_eq!(code.severity() == Severity::Connection, connection, "{code:?}");
    }
}

#[test]
fn an_ack_takes_no_more_than_it_must() {
    let mut bytes = Vec::new();
    frame::write_method(&mut bytes, 1, &basic::Ack { delivery_tag: 1, multiple: true });
    assert_eq!(bytes.len(), 8 + 4 + 8 + 1);
}
