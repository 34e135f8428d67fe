//! Small files that are written twice into themselves, so that one damaged place does not lose them.

use super::format::{self, BadHeader, Bytes};

/// magic, version, unused, length of the payload, its CRC, CRC of this header.
const HEADER: usize = 8 + 4 + 4 + 8 + 4 + 4;

/// The bytes of a file that holds `payload`.
pub(crate) fn encode(magic: [u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity((HEADER + payload.len()) * 2);
    file.extend_from_slice(&magic);
    file.extend_from_slice(&format::VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
    file.extend_from_slice(payload);
    file.extend_from_within(..);
    file
}

/// The payload of a file, from whichever half of it is intact.
pub(crate) fn decode(magic: [u8; 8], file: &[u8]) -> Result<&[u8], BadHeader> {
    let (first, second) = file.split_at(file.len() / 2);
    match (decode_half(magic, first), decode_half(magic, second)) {
        (Ok(payload), _) | (Err(_), Ok(payload)) => Ok(payload),
        (Err(newer @ BadHeader::Newer(_)), _) | (_, Err(newer @ BadHeader::Newer(_))) => Err(newer),
        _ => Err(BadHeader::Damaged),
    }
}

fn decode_half(magic: [u8; 8], half: &[u8]) -> Result<&[u8], BadHeader> {
    let header = half.get(..HEADER).ok_or(BadHeader::Damaged)?;
    let mut bytes = Bytes(header);
    if bytes.take(8) != Some(&magic[..]) || crc32fast::hash(&header[..HEADER - 4]).to_le_bytes() != header[HEADER - 4..]
    {
        return Err(BadHeader::Damaged);
    }
    let version = bytes.u32().ok_or(BadHeader::Damaged)?;
    if version > format::VERSION {
        return Err(BadHeader::Newer(version));
    }
    bytes.take(4);
    let length = bytes.u64();
    let crc = bytes.u32();
    let payload = &half[HEADER..];
    if length != Some(payload.len() as u64) || crc != Some(crc32fast::hash(payload)) {
        return Err(BadHeader::Damaged);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_one_damaged_byte_is_survived() {
        let magic = *b"HOMINGxx";
        for payload in [&b""[..], b"x", b"something longer"] {
            let file = encode(magic, payload);
            for at in 0..file.len() {
                let mut damaged = file.clone();
                damaged[at] ^= 2;
                assert_eq!(decode(magic, &damaged), Ok(payload));
                assert!(decode(magic, &file[..at]).is_err());
            }
            assert_eq!(decode(*b"HOMINGyy", &file), Err(BadHeader::Damaged));
        }
    }
}
