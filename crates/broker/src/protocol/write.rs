//! Appends the elementary types of the specification to a buffer.

/// The longest short string, in bytes.
pub(crate) const SHORT_STRING: usize = 255;

/// Appends to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// How many bits of the last octet are used. Consecutive bits share an octet.
    bits: u8,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, bits: 0 }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bits = 0;
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    pub(crate) fn bit(&mut self, bit: bool) {
        if self.bits == 0 || self.bits == 8 {
            self.bytes(&[0]);
        }
        if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(bit) << self.bits;
        }
        self.bits += 1;
    }

    /// What does not fit into a short string is cut. Names that came from a peer always fit; texts of our own may not.
    #[inline]
    pub(crate) fn short_string(&mut self, text: &str) {
        let mut end = text.len().min(SHORT_STRING);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.short_bytes(&text.as_bytes()[..end]);
    }

    /// What does not fit into a short string is cut.
    #[inline]
    pub(crate) fn short_bytes(&mut self, bytes: &[u8]) {
        let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        self.bytes(&[length]);
        self.bytes(&bytes[..usize::from(length)]);
    }

    /// What does not fit into a long string is cut.
    #[inline]
    pub(crate) fn long_bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.bytes(&length.to_be_bytes());
        self.bytes(bytes.get(..length as usize).unwrap_or(bytes));
    }
}
