//! What a client can send to the broker: frames, methods, content headers, tables. What is read is printed, which walks it,
//! and what is a method is written and read again.
#![no_main]

use homing_broker::protocol::{ContentHeader, Frame, FrameReader, Method};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let reader = FrameReader::new(131_072);
    let mut rest = data;
    while let Ok(Some((frame, taken))) = reader.read(rest) {
        match frame {
            Frame::Method { payload, .. } => {
                if let Ok(method) = Method::read(payload) {
                    let mut again = Vec::new();
                    method.write(&mut again, 1);
                    let read = match reader.read(&again) {
                        Ok(Some((Frame::Method { payload, .. }, _))) => Method::read(payload),
                        other => panic!("not a method: {other:?}"),
                    };
                    assert_eq!(format!("{read:?}"), format!("{:?}", Ok::<_, ()>(method)));
                }
            }
            Frame::Header { payload, .. } => {
                if let Ok(header) = ContentHeader::read(payload) {
                    let mut again = Vec::new();
                    header.write(&mut again);
                    assert_eq!(format!("{:?}", ContentHeader::read(&again)), format!("{:?}", Ok::<_, ()>(header)));
                }
            }
            _ => {}
        }
        rest = &rest[taken..];
    }
});
