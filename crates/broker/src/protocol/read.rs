//! A cursor over borrowed bytes that reads the elementary types of the specification.

use super::Violation;

/// Reads from the front of a payload.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet that holds the bits being read, and how many of them are used. Consecutive bits share an octet.
    bits: Option<(u8, u8)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, bits: None }
    }

    /// All that is left.
    #[cfg(feature = "server")]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Violation::Truncated)?;
        self.rest = rest;
        self.bits = None;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated)?;
        self.rest = rest;
        self.bits = None;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Violation> {
        self.array().map(u8::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Violation> {
        self.array().map(u64::from_be_bytes)
    }

    #[inline]
    pub(crate) fn bit(&mut self) -> Result<bool, Violation> {
        let (octet, used) = match self.bits {
            Some((octet, used)) if used < 8 => (octet, used),
            _ => (self.u8()?, 0),
        };
        self.bits = Some((octet, used + 1));
        Ok(octet >> used & 1 == 1)
    }

    /// A string of at most 255 bytes, whatever they are.
    #[inline]
    pub(crate) fn short_bytes(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u8()?;
        self.bytes(usize::from(length))
    }

    /// A string of at most 255 bytes of UTF-8.
    #[inline]
    pub(crate) fn short_string(&mut self) -> Result<&'a str, Violation> {
        std::str::from_utf8(self.short_bytes()?).map_err(|_| Violation::NotUtf8)
    }

    /// A string with a length of four octets.
    #[inline]
    pub(crate) fn long_bytes(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u32()?;
        // On a machine with 16-bit addresses nothing of that length could follow.
        self.bytes(usize::try_from(length).map_err(|_| Violation::Truncated)?)
    }
}
