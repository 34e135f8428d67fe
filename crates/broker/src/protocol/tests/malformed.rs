//! Bytes that no peer should send: no panic, a stated code, and nothing read that is not there.

use super::samples;
use crate::protocol::{
    ContentHeader, Frame, FrameReader, Method, MethodId, ReplyCode, Table, TableWriter, Violation, frame,
    table::MAXIMUM_DEPTH,
};
use fastrand::Rng;

const LIMIT: u32 = 131_072;

/// Reads all that can be read, as a server would.
fn read_all(mut input: &[u8]) -> Result<usize, Violation> {
    let mut count = 0;
    while let Some((frame, taken)) = FrameReader::new(LIMIT).read(input)? {
        assert!(taken <= input.len());
        match frame {
            Frame::Method { payload, .. } => {
                let method = Method::read(payload)?;
                // Printing walks what was read.
                assert!(!format!("{method:?}").is_empty());
            }
            Frame::Header { payload, .. } => {
                let header = ContentHeader::read(payload)?;
                assert!(!format!("{header:?}").is_empty());
            }
            Frame::Body { .. } | Frame::Heartbeat => {}
        }
        count += 1;
        input = &input[taken..];
    }
    Ok(count)
}

/// One frame each: all methods, and a content.
fn sample_frames(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Rng::with_seed(seed);
    let mut frames: Vec<Vec<u8>> = Method::samples(&mut random)
        .iter()
        .map(|method| {
            let mut bytes = Vec::new();
            method.write(&mut bytes, 1);
            bytes
        })
        .collect();
    let mut header = Vec::new();
    ContentHeader { body_size: 5, properties: samples::properties(&mut random) }.write(&mut header);
    let mut content = Vec::new();
    frame::write_content(&mut content, 1, &header, b"hello", LIMIT);
    frames.push(content);
    frames
}

#[test]
fn a_truncated_input_waits_for_more_and_a_truncated_payload_is_a_violation() {
    for frame in sample_frames(1) {
        let whole = read_all(&frame).expect("well formed");
        for end in 0..frame.len() {
            let read = read_all(&frame[..end]).expect("the start of a frame is no violation");
            assert!(read < whole);
        }
        let size = frame.len() - 8;
        if whole > 1 || size < 5 {
            continue; // Not one frame, or no arguments that could be cut.
        }
        for cut in 0..size {
            let mut short = frame[..7 + cut].to_vec();
            short[3..7].copy_from_slice(&(cut as u32).to_be_bytes());
            short.push(0xCE);
            let error = read_all(&short).expect_err("the arguments are cut");
            assert!(matches!(error.code(), ReplyCode::FrameError | ReplyCode::SyntaxError), "{error:?}");
        }
    }
}

#[test]
fn a_payload_that_is_too_long_is_a_violation() {
    for frame in sample_frames(2) {
        if read_all(&frame) != Ok(1) {
            continue;
        }
        let size = u32::try_from(frame.len() - 8).expect("small");
        let mut long = frame[..frame.len() - 1].to_vec();
        long[3..7].copy_from_slice(&(size + 1).to_be_bytes());
        long.extend_from_slice(&[0, 0xCE]);
        assert_eq!(read_all(&long), Err(Violation::Excess));
    }
}

#[test]
fn no_flipped_byte_makes_a_reader_panic() {
    for frame in sample_frames(3) {
        for at in 0..frame.len() {
            for flip in [0x01, 0xFF] {
                let mut bad = frame.clone();
                bad[at] ^= flip;
                if let Err(violation) = read_all(&bad) {
                    assert_ne!(violation.code().number(), 0);
                    assert!(!violation.to_string().is_empty());
                }
            }
        }
    }
}

#[test]
fn noise_is_read_without_harm() {
    for seed in 0..20_000 {
        let mut random = Rng::with_seed(seed);
        let noise = samples::bytes(&mut random, 200);
        let _ = read_all(noise);
        let _ = Method::read(noise);
        let _ = ContentHeader::read(noise);
        let _ = Table::checked(noise);
        assert!(Table::unchecked(noise).iter().count() <= noise.len());
    }
}

#[test]
fn each_violation_has_its_code() {
    let reader = FrameReader::new(4096);
    // Found at the earliest octet: nothing more needs to come.
    assert_eq!(reader.read(b"G"), Err(Violation::FrameKind(b'G')));
    assert_eq!(reader.read(b"\x01\0\x01\0\0\x0f\xf9"), Err(Violation::FrameTooLarge { size: 4089, limit: 4088 }));
    assert_eq!(
        reader.read(b"\x01\0\x01\xff\xff\xff\xff"),
        Err(Violation::FrameTooLarge { size: u32::MAX, limit: 4088 })
    );
    assert_eq!(reader.read(b"\x08\0\0\0\0\0\0\xcd"), Err(Violation::FrameEnd(0xCD)));
    assert_eq!(reader.read(b"\x08\0\x01\0\0\0\0\xce"), Err(Violation::Heartbeat));
    assert_eq!(reader.read(b"\x08\0\0\0\0\0\x01a\xce"), Err(Violation::Heartbeat));
    assert_eq!(reader.read(b"\x08\0\0\0\0\0\0\xce"), Ok(Some((Frame::Heartbeat, 8))));
    for violation in [Violation::FrameKind(9), Violation::FrameEnd(0), Violation::Truncated, Violation::Excess] {
        assert_eq!(violation.code(), ReplyCode::FrameError);
    }
    for violation in [Violation::NotUtf8, Violation::ValueType(b'?'), Violation::TooDeep, Violation::ContentHeader] {
        assert_eq!(violation.code(), ReplyCode::SyntaxError);
    }
    let unknown = Method::read(b"\0\x0a\0\x63");
    assert_eq!(unknown, Err(Violation::UnknownMethod(MethodId { class: 10, method: 99 })));
    assert_eq!(unknown.map_err(Violation::code), Err(ReplyCode::NotImplemented));
    assert_eq!(Method::read(b"\0\x3c\0\x1e\x01\xff\0"), Err(Violation::NotUtf8), "a consumer tag");
    assert_eq!(Table::checked(b"\x01a?"), Err(Violation::ValueType(b'?')));
    assert_eq!(Table::checked(b"\x01aS\xff\xff\xff\xff"), Err(Violation::Truncated));
}

#[test]
fn tables_nest_as_deep_as_is_allowed_and_no_deeper() {
    fn nest(depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..depth {
            let mut outer = Vec::new();
            let inner = Table::unchecked(&bytes);
            TableWriter::new(&mut outer).field(b"", &crate::protocol::Value::Table(inner));
            bytes = outer;
        }
        bytes
    }
    assert!(Table::checked(&nest(MAXIMUM_DEPTH)).is_ok());
    assert_eq!(Table::checked(&nest(MAXIMUM_DEPTH + 1)), Err(Violation::TooDeep));
    // A frame full of tables within each other: the stack must not grow with it.
    let deep = nest(20_000);
    assert_eq!(Table::checked(&deep), Err(Violation::TooDeep));
    assert!(!format!("{:?}", Table::unchecked(&deep)).is_empty());
}

#[test]
fn a_table_that_breaks_off_ends() {
    let mut fields = Table::unchecked(b"\x01at\x01\x01b?").iter();
    assert!(matches!(fields.next(), Some(Ok((b"a", _)))));
    assert_eq!(fields.next(), Some(Err(Violation::ValueType(b'?'))));
    assert_eq!(fields.next(), None);
}
