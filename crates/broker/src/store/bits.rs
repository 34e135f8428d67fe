//! A set of small numbers, one bit each.

/// Bits that are all set at first. Bits past the length are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    length: usize,
}

impl Bits {
    pub(crate) fn all_set(length: usize) -> Self {
        let mut bits = Self { words: vec![u64::MAX; length.div_ceil(64)], length };
        bits.clear_rest();
        bits
    }

    /// From words as [`words`](Self::words) returns them; `None` if there are not exactly as many as `length` needs.
    pub(crate) fn from_words(words: Vec<u64>, length: usize) -> Option<Self> {
        if words.len() != length.div_ceil(64) {
            return None;
        }
        let mut bits = Self { words, length };
        bits.clear_rest();
        Some(bits)
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn push_set(&mut self) {
        if self.length.is_multiple_of(64) {
            self.words.push(0);
        }
        self.words[self.length / 64] |= 1 << (self.length % 64);
        self.length += 1;
    }

    pub(crate) fn get(&self, at: usize) -> bool {
        at < self.length && self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// Returns whether the bit was set.
    pub(crate) fn clear(&mut self, at: usize) -> bool {
        let was = self.get(at);
        if was {
            self.words[at / 64] &= !(1 << (at % 64));
        }
        was
    }

    fn clear_rest(&mut self) {
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), self.length % 64) {
            *last &= (1 << rest) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_at_the_borders_of_words() {
        for length in [0, 1, 63, 64, 65, 128, 129] {
            let mut pushed = Bits::default();
            (0..length).for_each(|_| pushed.push_set());
            let mut bits = Bits::all_set(length);
            assert_eq!(bits, pushed);
            assert!(!bits.get(length));
            assert!(!bits.clear(length));
            for at in 0..length {
                assert!(bits.clear(at));
                assert!(!bits.clear(at) && !bits.get(at));
            }
            assert!(bits.words().iter().all(|word| *word == 0));
        }
    }

    #[test]
    fn words_of_another_length_are_refused() {
        assert_eq!(Bits::from_words(vec![0; 2], 64), None);
        assert_eq!(Bits::from_words(vec![u64::MAX], 3).unwrap().words(), [7]);
    }
}
