//! Reads the server's properties out of `connection.start`, the first frame of a connection (AMQP 0-9-1, 4.2.3 and 4.2.5.5).
//!
//! The bytes are a stranger's: everything is looked at before it is taken, and anything odd ends the reading.

/// No server's first frame is larger.
const MOST: usize = 64 * 1024;
/// Type, channel and size.
const FRAME_HEADER: usize = 7;
/// Class 10, method 10, versions 0 and 9.
const START: [u8; 6] = [0, 10, 0, 10, 0, 9];

/// How far one comes with the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The frame is not complete.
    More,
    /// What the server said of itself, its texts only.
    Properties(Vec<(String, String)>),
    /// It is no such frame.
    None,
}

pub(super) fn server_properties(seen: &[u8]) -> Read {
    let Some(header) = seen.get(..FRAME_HEADER) else { return Read::More };
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    let Ok(size) = usize::try_from(size) else { return Read::None };
    if header[0] != 1 || size > MOST {
        return Read::None;
    }
    let Some(mut payload) = seen.get(FRAME_HEADER..FRAME_HEADER + size) else { return Read::More };
    if take(&mut payload, START.len()) != Some(&START) {
        return Read::None;
    }
    match table(&mut payload) {
        Some(properties) => Read::Properties(properties),
        None => Read::None,
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn long(bytes: &mut &[u8]) -> Option<usize> {
    let size = take(bytes, 4)?;
    usize::try_from(u32::from_be_bytes([size[0], size[1], size[2], size[3]])).ok()
}

/// The texts and truth values of a table. Nested tables (the capabilities) are passed over.
fn table(bytes: &mut &[u8]) -> Option<Vec<(String, String)>> {
    let size = long(bytes)?;
    let mut rest = take(bytes, size)?;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let size = usize::from(take(&mut rest, 1)?[0]);
        let name = String::from_utf8_lossy(take(&mut rest, size)?).into_owned();
        match take(&mut rest, 1)?[0] {
            b'S' | b'x' => {
                let size = long(&mut rest)?;
                pairs.push((name, String::from_utf8_lossy(take(&mut rest, size)?).into_owned()));
            }
            b't' => pairs.push((name, (take(&mut rest, 1)?[0] != 0).to_string())),
            b'F' | b'A' => {
                let size = long(&mut rest)?;
                take(&mut rest, size)?;
            }
            b'b' | b'B' => drop(take(&mut rest, 1)?),
            b's' | b'u' => drop(take(&mut rest, 2)?),
            b'I' | b'i' | b'f' => drop(take(&mut rest, 4)?),
            b'l' | b'd' | b'T' => drop(take(&mut rest, 8)?),
            b'D' => drop(take(&mut rest, 5)?),
            b'V' => {}
            _ => return None,
        }
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let mut table = Vec::new();
        for (name, text) in [("product", "RabbitMQ"), ("version", "3.10.8")] {
            table.push(u8::try_from(name.len()).unwrap());
            table.extend(name.bytes());
            table.push(b'S');
            table.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            table.extend(text.bytes());
        }
        table.extend([1, b'c', b'F', 0, 0, 0, 4, 1, b'x', b't', 1]);
        let mut payload = START.to_vec();
        payload.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
        payload.extend(table);
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn texts_are_read_when_the_frame_is_complete() {
        let frame = frame();
        for end in 0..frame.len() {
            assert_eq!(server_properties(&frame[..end]), Read::More, "{end}");
        }
        let texts =
            [("product", "RabbitMQ"), ("version", "3.10.8")].map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(server_properties(&frame), Read::Properties(texts.to_vec()));
    }

    #[test]
    fn other_bytes_are_none_and_never_a_panic() {
        assert_eq!(server_properties(b"HTTP/1.1 400 Bad Request"), Read::None);
        let frame = frame();
        for at in 0..frame.len() {
            for byte in [0, 1, 127, 255] {
                let mut broken = frame.clone();
                broken[at] = byte;
                let _ = server_properties(&broken);
            }
        }
    }
}
