//! Maps of numbers that the server gives, or of which there are few: a hash that resists attacks would cost more than all
//! else that is done with a frame.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by session or by channel.
pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Spreads a number over the bits of a hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|octet| self.write_u64((*octet).into()));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio: what differs in the low bits differs in the high ones, which the map uses first.
        let product = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::NumberMap;

    #[test]
    fn all_channels_have_their_place() {
        let map: NumberMap<u16, u16> = (0..=u16::MAX).map(|number| (number, number)).collect();
        assert_eq!(map.len(), 65_536);
        assert!(map.iter().all(|(key, value)| key == value));
    }
}
