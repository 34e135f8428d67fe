//! Where the choices of a simulation come from. Each has a key: its *stream* (the place in the code and who asks) and its
//! number in that stream. The seed and the key alone decide it, so that leaving one out changes no other, and a failing
//! seed can be shrunk by leaving choices out. What is left out is 0, and 0 is always the harmless one.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::Location;

/// A choice: its stream and its number there.
pub(super) type Key = (u64, u32);

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A set of choices.
pub(super) type Keys = HashSet<Key, BuildHasherDefault<Plain>>;

/// The choices of one run.
pub(super) struct Choices {
    seed: u64,
    /// The choices that are made; any other is 0. `None` for all.
    kept: Option<Keys>,
    counts: HashMap<u64, u32, BuildHasherDefault<Plain>>,
    /// Those that were made and are not 0.
    made: Vec<Key>,
}

/// Mixes the bits of a number (SplitMix64's last step), so that each bit of the result depends on all of them.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number for a name, the same in every run.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Choices {
    pub(super) fn new(seed: u64, kept: Option<Keys>) -> Self {
        Choices { seed, kept, counts: HashMap::default(), made: Vec::new() }
    }

    /// A number below `n`.
    pub(super) fn choose(&mut self, n: u32, at: &Location<'_>, who: u64) -> u32 {
        if n < 2 {
            return 0;
        }
        let place = u64::from(at.line()) << 32 ^ u64::from(at.column()) << 16 ^ at.file().len() as u64;
        let stream = mix(place ^ mix(who));
        let count = self.counts.entry(stream).or_insert(0);
        let key = (stream, *count);
        *count += 1;
        if self.kept.as_ref().is_some_and(|kept| !kept.contains(&key)) {
            return 0;
        }
        let drawn = mix(self.seed ^ mix(stream ^ u64::from(key.1) << 40));
        let chosen = (((drawn >> 32) * u64::from(n)) >> 32) as u32;
        if chosen != 0 {
            self.made.push(key);
        }
        chosen
    }

    pub(super) fn made(&self) -> &[Key] {
        &self.made
    }
}
