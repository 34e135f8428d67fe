//! A topic exchange: which queues a routing key reaches (AMQP 0-9-1, section 3.1.3.3).

use std::collections::{BTreeSet, HashMap};

use crate::broker::ExchangeSpec;

/// A topic exchange and its bindings. Most keys have no wildcard and are found by their text.
pub(super) struct Exchange {
    pub(super) spec: ExchangeSpec,
    exact: HashMap<String, BTreeSet<String>>,
    patterns: BTreeSet<(String, String)>,
}

impl Exchange {
    pub(super) fn new(spec: ExchangeSpec) -> Self {
        Exchange { spec, exact: HashMap::new(), patterns: BTreeSet::new() }
    }

    pub(super) fn bind(&mut self, key: &str, queue: &str) {
        if is_pattern(key) {
            self.patterns.insert((key.to_owned(), queue.to_owned()));
        } else {
            self.exact.entry(key.to_owned()).or_default().insert(queue.to_owned());
        }
    }

    pub(super) fn unbind(&mut self, key: &str, queue: &str) {
        self.patterns.remove(&(key.to_owned(), queue.to_owned()));
        if let Some(queues) = self.exact.get_mut(key) {
            queues.remove(queue);
            if queues.is_empty() {
                self.exact.remove(key);
            }
        }
    }

    /// Takes every binding of a queue away; true when there was one.
    pub(super) fn forget(&mut self, queue: &str) -> bool {
        let before = self.bindings();
        self.patterns.retain(|(_, bound)| bound != queue);
        self.exact.retain(|_, queues| {
            queues.remove(queue);
            !queues.is_empty()
        });
        self.bindings() < before
    }

    pub(super) fn bindings(&self) -> usize {
        self.patterns.len() + self.exact.values().map(BTreeSet::len).sum::<usize>()
    }

    /// The queues that a message of this key goes to, each once.
    pub(super) fn route(&self, key: &str) -> Vec<String> {
        let mut queues: Vec<String> =
            self.exact.get(key).map(|queues| queues.iter().cloned().collect()).unwrap_or_default();
        for (pattern, queue) in &self.patterns {
            if !queues.contains(queue) && matches(pattern, key) {
                queues.push(queue.clone());
            }
        }
        queues
    }
}

fn is_pattern(key: &str) -> bool {
    key.split('.').any(|word| word == "*" || word == "#")
}

/// `*` stands for one word, `#` for any number of words. Linear in the product of the lengths, whatever the pattern.
fn matches(pattern: &str, key: &str) -> bool {
    let words: Vec<&str> = key.split('.').collect();
    // reached[i]: the pattern so far matches the first i words.
    let mut reached = vec![false; words.len() + 1];
    reached[0] = true;
    for part in pattern.split('.') {
        let mut next = vec![false; words.len() + 1];
        for i in 0..=words.len() {
            next[i] = if part == "#" {
                reached[i] || (i > 0 && next[i - 1])
            } else {
                i > 0 && reached[i - 1] && (part == "*" || part == words[i - 1])
            };
        }
        reached = next;
    }
    reached[words.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_one_word_and_a_hash_any_number() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b", false),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
            ("a*", "ab", false),
            ("[rpc].x.y", "[rpc].x.y", true),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} against {key}");
        }
    }
}
