//! The bytes of AMQP 0-9-1's frames, read without trusting them (sections 4.2.3 to 4.2.6 of its specification).
//!
//! lapin ends the whole connection over one string that is not UTF-8, and its parser calls itself for each table inside a
//! table. RabbitMQ hands on any bytes and any depth. So every string and every table is walked here before lapin sees it:
//! [`is_plain`] checks whether lapin will read a content header, [`read_properties`] reads those that it will not,
//! [`mend_method`] makes the strings of a method readable.

use crate::broker::{HeaderValue, OddPart, Oddity, Properties};

/// Type, channel, size.
pub(crate) const PREFIX: usize = 7;
/// What a frame has beside its payload: the prefix and the end octet.
pub(crate) const AROUND: usize = PREFIX + 1;
pub(crate) const END: u8 = 0xCE;
pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;

/// Tables inside tables to this depth are read; what lies deeper is kept as bytes.
const DEEPEST: usize = 32;

/// A header that cannot be read at all is kept as bytes up to this length.
const KEPT_RAW: usize = 65_536;

/// Class, weight and body size, which come before the properties.
const BEFORE_PROPERTIES: usize = 12;

/// Reads from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    pub(crate) fn long(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }
}

/// The properties in the order of their flags, from the highest bit down.
const STRINGS_BEFORE: [(u16, OddPart); 2] = [(1 << 15, OddPart::ContentType), (1 << 14, OddPart::ContentEncoding)];
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const STRINGS_BETWEEN: [(u16, OddPart); 4] = [
    (1 << 10, OddPart::CorrelationId),
    (1 << 9, OddPart::ReplyTo),
    (1 << 8, OddPart::Expiration),
    (1 << 7, OddPart::MessageId),
];
const TIMESTAMP: u16 = 1 << 6;
const STRINGS_AFTER: [(u16, OddPart); 4] =
    [(1 << 5, OddPart::Type), (1 << 4, OddPart::UserId), (1 << 3, OddPart::AppId), (1 << 2, OddPart::ClusterId)];
/// The lowest bit means that more flags follow; the next has no meaning.
const UNKNOWN_FLAGS: u16 = 0b11;

/// True for the payload of a content header that lapin reads.
pub(crate) fn is_plain(payload: &[u8]) -> bool {
    plain_header(payload) == Some(true)
}

fn plain_header(payload: &[u8]) -> Option<bool> {
    let mut reader = Reader(payload.get(BEFORE_PROPERTIES..)?);
    let flags = reader.u16()?;
    if flags & UNKNOWN_FLAGS != 0 {
        return Some(false);
    }
    let mut plain = true;
    let strings = |reader: &mut Reader<'_>, which: &[(u16, OddPart)]| {
        let mut plain = true;
        for (flag, _) in which {
            if flags & flag != 0 {
                plain &= std::str::from_utf8(reader.short()?).is_ok();
            }
        }
        Some(plain)
    };
    plain &= strings(&mut reader, &STRINGS_BEFORE)?;
    if flags & HEADERS != 0 {
        plain &= plain_table(reader.long()?, 0)?;
    }
    for flag in [DELIVERY_MODE, PRIORITY] {
        if flags & flag != 0 {
            reader.u8()?;
        }
    }
    plain &= strings(&mut reader, &STRINGS_BETWEEN)?;
    if flags & TIMESTAMP != 0 {
        reader.u64()?;
    }
    plain &= strings(&mut reader, &STRINGS_AFTER)?;
    Some(plain && reader.0.is_empty())
}

fn plain_table(table: &[u8], depth: usize) -> Option<bool> {
    let mut reader = Reader(table);
    while !reader.0.is_empty() {
        if std::str::from_utf8(reader.short()?).is_err() || !plain_value(&mut reader, depth)? {
            return Some(false);
        }
    }
    Some(true)
}

fn plain_value(reader: &mut Reader<'_>, depth: usize) -> Option<bool> {
    let size = match reader.u8()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'S' | b'x' => {
            reader.long()?;
            return Some(true);
        }
        b'A' if depth < DEEPEST => {
            let mut values = Reader(reader.long()?);
            while !values.0.is_empty() {
                if !plain_value(&mut values, depth + 1)? {
                    return Some(false);
                }
            }
            return Some(true);
        }
        b'F' if depth < DEEPEST => return plain_table(reader.long()?, depth + 1),
        _ => return Some(false),
    };
    reader.take(size).map(|_| true)
}

/// Reads the properties in a content header that lapin does not read.
///
/// A string that is not UTF-8 is left out, and its bytes stand in a header of ours, `homing-odd-NAME`. A header whose name is
/// not UTF-8 stands as a table of its name and its value under `homing-odd-NUMBER`. What cannot be read at all is kept as
/// bytes. Each of these is named in [`Properties::oddities`].
pub(crate) fn read_properties(payload: &[u8]) -> Properties {
    let mut properties = Properties { priority: None, ..Properties::default() };
    let mut odd = Odd::default();
    let raw = payload.get(BEFORE_PROPERTIES..).unwrap_or_default();
    if read(&mut properties, raw, &mut odd).is_none() {
        odd.note(OddPart::Unreadable, "its header does not follow AMQP".to_owned());
        odd.kept
            .push(("homing-odd-header".to_owned(), HeaderValue::ByteArray(raw[..raw.len().min(KEPT_RAW)].to_vec())));
    }
    if !odd.noted.is_empty() {
        let rest = properties.rest_mut();
        rest.headers.extend(odd.kept);
        rest.oddities = odd.noted;
    }
    properties
}

#[derive(Default)]
struct Odd {
    noted: Vec<Oddity>,
    kept: Vec<(String, HeaderValue)>,
    names: usize,
}

impl Odd {
    fn note(&mut self, part: OddPart, reason: String) {
        // One of a kind is enough to know.
        if self.noted.iter().all(|known| known.part != part) {
            self.noted.push(Oddity { part, reason });
        }
    }

    /// A string, if it is one.
    fn string(&mut self, part: OddPart, bytes: &[u8]) -> Option<String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Some(text.to_owned()),
            Err(_) => {
                self.note(part, format!("its {} is not UTF-8: \"{}\"", part.name(), bytes.escape_ascii()));
                let header = format!("homing-odd-{}", part.name().replace(' ', "-"));
                self.kept.push((header, HeaderValue::ByteArray(bytes.to_vec())));
                None
            }
        }
    }
}

fn read(properties: &mut Properties, raw: &[u8], odd: &mut Odd) -> Option<()> {
    let mut reader = Reader(raw);
    let flags = reader.u16()?;
    if flags & UNKNOWN_FLAGS != 0 {
        return None;
    }
    for (flag, part) in STRINGS_BEFORE {
        if flags & flag != 0 {
            set(properties, part, odd.string(part, reader.short()?));
        }
    }
    if flags & HEADERS != 0 {
        let headers = read_table(reader.long()?, 0, odd);
        if !headers.is_empty() {
            properties.rest_mut().headers = headers;
        }
    }
    if flags & DELIVERY_MODE != 0 {
        reader.u8()?;
    }
    if flags & PRIORITY != 0 {
        properties.priority = Some(reader.u8()?);
    }
    for (flag, part) in STRINGS_BETWEEN {
        if flags & flag != 0 {
            set(properties, part, odd.string(part, reader.short()?));
        }
    }
    if flags & TIMESTAMP != 0 {
        properties.rest_mut().timestamp = Some(reader.u64()?);
    }
    for (flag, part) in STRINGS_AFTER {
        if flags & flag != 0 {
            set(properties, part, odd.string(part, reader.short()?));
        }
    }
    reader.0.is_empty().then_some(())
}

fn set(properties: &mut Properties, part: OddPart, text: Option<String>) {
    let Some(text) = text else { return };
    let field = match part {
        OddPart::MessageId => return properties.message_id = Some(text.into()),
        OddPart::CorrelationId => return properties.correlation_id = Some(text.into()),
        OddPart::ReplyTo => return properties.reply_to = Some(text.into()),
        OddPart::ContentType => &mut properties.rest_mut().content_type,
        OddPart::ContentEncoding => &mut properties.rest_mut().content_encoding,
        OddPart::Type => &mut properties.rest_mut().kind,
        OddPart::AppId => &mut properties.rest_mut().app_id,
        OddPart::UserId => &mut properties.rest_mut().user_id,
        OddPart::ClusterId => &mut properties.rest_mut().cluster_id,
        OddPart::Expiration => &mut properties.rest_mut().expiration,
        OddPart::Header | OddPart::Unreadable | OddPart::TooLarge => return,
    };
    *field = Some(text);
}

fn read_table(table: &[u8], depth: usize, odd: &mut Odd) -> Vec<(String, HeaderValue)> {
    let mut headers = Vec::new();
    let mut reader = Reader(table);
    while !reader.0.is_empty() {
        let left = reader.0;
        let entry = reader.short().and_then(|name| Some((name, read_value(&mut reader, depth, odd)?)));
        let Some((name, value)) = entry else {
            odd.names += 1;
            odd.note(OddPart::Header, "a part of its headers does not follow AMQP".to_owned());
            headers.push((format!("homing-odd-{}", odd.names), HeaderValue::ByteArray(left.to_vec())));
            break;
        };
        headers.push(match std::str::from_utf8(name) {
            Ok(name) => (name.to_owned(), value),
            Err(_) => {
                odd.names += 1;
                odd.note(OddPart::Header, format!("the name of a header is not UTF-8: \"{}\"", name.escape_ascii()));
                let name = ("name".to_owned(), HeaderValue::ByteArray(name.to_vec()));
                let entry = HeaderValue::Table(vec![name, ("value".to_owned(), value)]);
                (format!("homing-odd-{}", odd.names), entry)
            }
        });
    }
    headers
}

fn read_value(reader: &mut Reader<'_>, depth: usize, odd: &mut Odd) -> Option<HeaderValue> {
    let kind = reader.u8()?;
    Some(match kind {
        b't' => HeaderValue::Bool(reader.u8()? != 0),
        b'b' => HeaderValue::I8(i8::from_be_bytes(reader.array()?)),
        b'B' => HeaderValue::U8(reader.u8()?),
        b's' | b'U' => HeaderValue::I16(i16::from_be_bytes(reader.array()?)),
        b'u' => HeaderValue::U16(reader.u16()?),
        b'I' => HeaderValue::I32(i32::from_be_bytes(reader.array()?)),
        b'i' => HeaderValue::U32(reader.u32()?),
        b'L' | b'l' => HeaderValue::I64(i64::from_be_bytes(reader.array()?)),
        b'f' => HeaderValue::F32(f32::from_be_bytes(reader.array()?)),
        b'd' => HeaderValue::F64(f64::from_be_bytes(reader.array()?)),
        b'D' => HeaderValue::Decimal { scale: reader.u8()?, value: reader.u32()? },
        b'T' => HeaderValue::Timestamp(reader.u64()?),
        b'V' => HeaderValue::Void,
        b'x' => HeaderValue::ByteArray(reader.long()?.to_vec()),
        b'S' => {
            let bytes = reader.long()?;
            match std::str::from_utf8(bytes) {
                Ok(text) => HeaderValue::Text(text.to_owned()),
                Err(_) => HeaderValue::Bytes(bytes.to_vec()),
            }
        }
        b'A' | b'F' if depth >= DEEPEST => {
            odd.note(OddPart::Header, format!("its headers are tables inside tables, more than {DEEPEST} deep"));
            HeaderValue::ByteArray(reader.long()?.to_vec())
        }
        b'A' => {
            let mut values = Vec::new();
            let mut inner = Reader(reader.long()?);
            while !inner.0.is_empty() {
                values.push(read_value(&mut inner, depth + 1, odd)?);
            }
            HeaderValue::Array(values)
        }
        b'F' => HeaderValue::Table(read_table(reader.long()?, depth + 1, odd)),
        _ => return None,
    })
}

/// The strings of a method that the server sends: what comes before each of them, in bytes.
fn strings_of(class: u16, method: u16) -> &'static [usize] {
    match (class, method) {
        // connection.open-ok and blocked; queue.declare-ok; basic.consume-ok, cancel, cancel-ok and get-empty.
        (10, 41 | 60) | (50, 11) | (60, 21 | 30 | 31 | 72) => &[0],
        // connection.close and channel.close: after the code.
        (10, 50) | (20, 40) => &[2],
        // basic.return: the code, the text, the exchange, the key.
        (60, 50) => &[2, 0, 0],
        // basic.deliver: the consumer, then delivery tag and flag, then exchange and key.
        (60, 60) => &[0, 9, 0],
        // basic.get-ok.
        (60, 71) => &[9, 0],
        _ => &[],
    }
}

/// Makes every string of a method UTF-8, in place, by question marks. (A name that RabbitMQ quotes and cuts may end within a
/// character, and the routing key of a delivery is whatever its sender wrote.)
pub(crate) fn mend_method(payload: &mut [u8]) {
    let Some((class, method)) = method_of(payload) else { return };
    let mut at = 4;
    for before in strings_of(class, method) {
        at += before;
        let Some(length) = payload.get(at).copied() else { return };
        let Some(string) = payload.get_mut(at + 1..at + 1 + usize::from(length)) else { return };
        mend(string);
        at += 1 + usize::from(length);
    }
}

/// Class and method.
pub(crate) fn method_of(payload: &[u8]) -> Option<(u16, u16)> {
    let mut reader = Reader(payload);
    Some((reader.u16()?, reader.u16()?))
}

fn mend(string: &mut [u8]) {
    let mut from = 0;
    while let Err(error) = std::str::from_utf8(&string[from..]) {
        let bad = from + error.valid_up_to();
        let end = error.error_len().map_or(string.len(), |length| bad + length);
        string[bad..end].fill(b'?');
        from = end;
    }
}

/// Whether lapin can read the table that a server greets with, whose names it takes for strings.
pub(crate) fn is_plain_table(table: &[u8]) -> bool {
    plain_table(table, 0) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A content header with these flags and properties.
    fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0][..], &0u64.to_be_bytes(), &flags.to_be_bytes(), properties].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).expect("small").to_be_bytes()[..], bytes].concat()
    }

    fn lapin_reads(payload: &[u8]) -> bool {
        lapin::protocol::basic::parse_properties(&payload[BEFORE_PROPERTIES..]).is_ok_and(|(rest, _)| rest.is_empty())
    }

    #[test]
    fn a_string_that_is_not_utf_8_is_left_out_and_its_bytes_are_kept() {
        let all = [STRINGS_BEFORE.as_slice(), &STRINGS_BETWEEN, &STRINGS_AFTER].concat();
        for (flag, part) in all {
            let good = header(flag, b"\x03abc");
            assert!(is_plain(&good) && lapin_reads(&good), "{part:?}");
            let odd = header(flag, b"\x03\xff\xfe\x80");
            assert!(!is_plain(&odd) && !lapin_reads(&odd), "{part:?}");
            let properties = read_properties(&odd);
            let [oddity] = properties.oddities() else { panic!("{properties:?}") };
            assert_eq!(oddity.part, part);
            let [(name, value)] = properties.headers() else { panic!("{properties:?}") };
            assert_eq!(*name, format!("homing-odd-{}", part.name().replace(' ', "-")));
            assert_eq!(*value, HeaderValue::ByteArray(vec![0xff, 0xfe, 0x80]));
        }
    }

    #[test]
    fn a_header_whose_name_is_odd_keeps_name_and_value_also_inside_of_tables() {
        let inner = [&b"\x02\x80\x81"[..], b"B\x07"].concat();
        let table = [&b"\x01a"[..], b"F", &long(&inner), b"\x01\xffS", &long(b"v"), b"\x01zV"].concat();
        let payload = header(HEADERS, &long(&table));
        assert!(!is_plain(&payload) && !lapin_reads(&payload));
        let properties = read_properties(&payload);
        let kept = |name: &[u8], value| {
            let name = ("name".to_owned(), HeaderValue::ByteArray(name.to_vec()));
            HeaderValue::Table(vec![name, ("value".to_owned(), value)])
        };
        let inner = HeaderValue::Table(vec![("homing-odd-1".to_owned(), kept(&[0x80, 0x81], HeaderValue::U8(7)))]);
        assert_eq!(
            properties.headers(),
            [
                ("a".to_owned(), inner),
                ("homing-odd-2".to_owned(), kept(&[0xff], HeaderValue::Text("v".into()))),
                ("z".to_owned(), HeaderValue::Void),
            ]
        );
        assert_eq!(properties.oddities().len(), 1);
        assert_eq!(properties.oddities()[0].part, OddPart::Header);
    }

    #[test]
    fn tables_inside_tables_are_read_to_a_depth_and_kept_as_bytes_below() {
        let mut value = b"V".to_vec();
        for _ in 0..20_000 {
            value = [&b"A"[..], &long(&value)].concat();
        }
        let payload = header(HEADERS, &long(&[b"\x04deep", &value[..]].concat()));
        assert!(!is_plain(&payload));
        let properties = read_properties(&payload);
        assert_eq!(properties.oddities()[0].part, OddPart::Header);
        let mut value = properties.header("deep").expect("the header");
        let mut depth = 0;
        while let HeaderValue::Array(values) = value {
            (value, depth) = (&values[0], depth + 1);
        }
        assert_eq!(depth, DEEPEST);
        assert!(matches!(value, HeaderValue::ByteArray(bytes) if bytes.len() > 90_000));
    }

    #[test]
    fn what_does_not_follow_amqp_is_kept_as_bytes() {
        for payload in [
            header(1, b""),
            header(2, b""),
            header(1 << 10, b"\x05abc"),
            header(1 << 10, b"\x03abc!"),
            header(TIMESTAMP, b"1234"),
            header(HEADERS, b"\0\0\0\x09"),
            b"\0\x3c".to_vec(),
        ] {
            assert!(!is_plain(&payload));
            let properties = read_properties(&payload);
            assert_eq!(properties.oddities()[0].part, OddPart::Unreadable, "{payload:?}");
            let raw = payload.get(BEFORE_PROPERTIES..).unwrap_or_default();
            assert_eq!(properties.header("homing-odd-header"), Some(&HeaderValue::ByteArray(raw.to_vec())));
        }
        let unknown_type = header(HEADERS | PRIORITY, &[&long(b"\x01a!rest")[..], b"\x07"].concat());
        assert!(!is_plain(&unknown_type));
        let properties = read_properties(&unknown_type);
        assert_eq!((properties.priority, properties.oddities()[0].part), (Some(7), OddPart::Header));
    }

    /// Whatever comes is either plain for lapin too, or is read here, and nothing panics.
    #[test]
    fn nothing_passes_as_plain_that_lapin_does_not_read() {
        let table =
            [&b"\x01a"[..], b"F", &long(b"\x01bA\0\0\0\x02B\x01"), b"\x01cS", &long(b"v"), b"\x01zD\x01\0\0\0\x05"]
                .concat();
        let all =
            [&b"\x01a\x01b"[..], &long(&table), b"\x02\x03\x01c\x01d\x01e\x01f\0\0\0\0\0\0\0\x01\x01g\x01h\x01i\x01j"]
                .concat();
        let good = header(0xfffc, &all);
        assert!(is_plain(&good) && lapin_reads(&good));
        let mut plain = 0;
        for at in BEFORE_PROPERTIES..good.len() {
            for byte in 0..=255 {
                let mut changed = good.clone();
                changed[at] = byte;
                if is_plain(&changed) {
                    plain += 1;
                    assert!(lapin_reads(&changed), "byte {byte} at {at}");
                } else {
                    assert!(!read_properties(&changed).oddities().is_empty(), "byte {byte} at {at}");
                }
            }
            assert!(!is_plain(&good[..at]));
            read_properties(&good[..at]);
        }
        assert!(plain > 1000, "{plain}");
    }

    #[test]
    fn the_strings_of_a_method_are_made_readable_in_place() {
        let mut deliver =
            [&[0, 60, 0, 60][..], b"\x01c", &7u64.to_be_bytes(), &[0], b"\x01\xff", b"\x04k\xc3\xa9\xe2"].concat();
        mend_method(&mut deliver);
        let end = [&[0][..], b"\x01?", b"\x04k\xc3\xa9?"].concat();
        assert!(deliver.ends_with(&end), "{deliver:?}");
        let mut close = [&[0, 20, 0, 40][..], &404u16.to_be_bytes(), b"\x05ab\xe2\x82z", &[0; 4]].concat();
        mend_method(&mut close);
        assert_eq!(&close[6..12], b"\x05ab??z");
        // Lengths that lead out of the frame are lapin's to refuse.
        for cut in 0..close.len() {
            mend_method(&mut close[..cut].to_vec());
        }
    }
}
