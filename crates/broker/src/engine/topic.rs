//! The patterns of a topic exchange (AMQP 0-9-1, section 3.1.3.3), as a tree of words: the cost of a routing key does not
//! grow with the number of patterns that it cannot match.

use std::collections::{BTreeSet, HashMap};

use super::exchange::Target;
use super::table::{Key, Table};

/// The patterns and what is bound by them. `*` stands for one word, `#` for any number of words.
pub(super) struct Patterns {
    nodes: Table<Node>,
    root: Key<Node>,
    /// Counts the words that were matched, so that a node knows whether it was reached by this one.
    step: u64,
    reached: Vec<Key<Node>>,
    next: Vec<Key<Node>>,
}

/// What is reached by the words of a pattern so far.
#[derive(Default)]
struct Node {
    words: HashMap<Box<str>, Key<Node>>,
    star: Option<Key<Node>>,
    hash: Option<Key<Node>>,
    is_hash: bool,
    targets: BTreeSet<Target>,
    seen: u64,
}

impl Node {
    fn child(&self, word: &str) -> Option<Key<Node>> {
        match word {
            "*" => self.star,
            "#" => self.hash,
            word => self.words.get(word).copied(),
        }
    }

    fn is_bare(&self) -> bool {
        self.words.is_empty() && self.star.is_none() && self.hash.is_none() && self.targets.is_empty()
    }
}

pub(super) fn is_pattern(key: &str) -> bool {
    key.split('.').any(|word| word == "*" || word == "#")
}

/// The words of a routing key or a pattern. An empty one has none.
fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').take(if key.is_empty() { 0 } else { usize::MAX })
}

impl Patterns {
    pub(super) fn new() -> Self {
        let mut nodes = Table::default();
        let root = nodes.insert(Node::default());
        Patterns { nodes, root, step: 0, reached: Vec::new(), next: Vec::new() }
    }

    pub(super) fn bind(&mut self, pattern: &str, target: Target) {
        let mut at = self.root;
        for word in words(pattern) {
            at = match self.nodes.get(at).and_then(|node| node.child(word)) {
                Some(child) => child,
                None => self.grow(at, word),
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.targets.insert(target);
        }
    }

    fn grow(&mut self, parent: Key<Node>, word: &str) -> Key<Node> {
        let child = self.nodes.insert(Node { is_hash: word == "#", ..Node::default() });
        if let Some(parent) = self.nodes.get_mut(parent) {
            match word {
                "*" => parent.star = Some(child),
                "#" => parent.hash = Some(child),
                word => drop(parent.words.insert(word.into(), child)),
            }
        }
        child
    }

    /// Nodes that lead nowhere any more go with the binding.
    pub(super) fn unbind(&mut self, pattern: &str, target: Target) {
        let mut path = vec![(self.root, "")];
        for word in words(pattern) {
            let last = path.last().map_or(self.root, |(node, _)| *node);
            match self.nodes.get(last).and_then(|node| node.child(word)) {
                Some(child) => path.push((child, word)),
                None => return,
            }
        }
        let last = path.last().map_or(self.root, |(node, _)| *node);
        if let Some(node) = self.nodes.get_mut(last) {
            node.targets.remove(&target);
        }
        while let Some((node, word)) = path.pop() {
            let Some((parent, _)) = path.last() else { break };
            if !self.nodes.get(node).is_some_and(Node::is_bare) {
                break;
            }
            self.nodes.remove(node);
            if let Some(parent) = self.nodes.get_mut(*parent) {
                match word {
                    "*" => parent.star = None,
                    "#" => parent.hash = None,
                    word => drop(parent.words.remove(word)),
                }
            }
        }
    }

    /// Adds where a message of this key goes; one may be added more than once.
    pub(super) fn route(&mut self, key: &str, targets: &mut Vec<Target>) {
        if self.nodes.get(self.root).is_some_and(Node::is_bare) {
            return;
        }
        let (mut reached, mut next) = (std::mem::take(&mut self.reached), std::mem::take(&mut self.next));
        reached.clear();
        self.step += 1;
        self.reach(Some(self.root), &mut reached);
        for word in words(key) {
            self.step += 1;
            next.clear();
            for at in &reached {
                let Some(node) = self.nodes.get(*at) else { continue };
                let (stays, named, star) = (node.is_hash.then_some(*at), node.words.get(word).copied(), node.star);
                for child in [stays, named, star] {
                    self.reach(child, &mut next);
                }
            }
            std::mem::swap(&mut reached, &mut next);
            if reached.is_empty() {
                break;
            }
        }
        for at in &reached {
            targets.extend(self.nodes.get(*at).into_iter().flat_map(|node| &node.targets));
        }
        (self.reached, self.next) = (reached, next);
    }

    /// A node is reached by the words so far, and with it the `#` under it, which may stand for no word. Once for each
    /// word, so that a key costs at most its words times the nodes, whatever the patterns.
    fn reach(&mut self, node: Option<Key<Node>>, reached: &mut Vec<Key<Node>>) {
        let mut at = node;
        while let Some(key) = at {
            let Some(node) = self.nodes.get_mut(key).filter(|node| node.seen != self.step) else { return };
            node.seen = self.step;
            reached.push(key);
            at = node.hash;
        }
    }

    #[cfg(test)]
    fn size(&self) -> usize {
        self.nodes.iter().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, key: &str) -> bool {
        let (mut patterns, mut targets) = (Patterns::new(), Vec::new());
        let target = Target::Queue(Table::default().insert(()));
        patterns.bind(pattern, target);
        patterns.route(key, &mut targets);
        patterns.unbind(pattern, target);
        assert_eq!(patterns.size(), 1, "the root alone is left");
        !targets.is_empty()
    }

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
            ("*", "", false),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b", false),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
            ("#.#", "a", true),
            ("#.b.#", "a.b.c", true),
            ("#.b.#.b", "a.b.c", false),
            ("*.", "a.", true),
            ("a*", "ab", false),
            ("[rpc].x.y", "[rpc].x.y", true),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} against {key}");
        }
    }

    #[test]
    fn patterns_that_match_in_very_many_ways_cost_words_times_nodes() {
        let key = vec!["a"; 100].join(".");
        assert!(matches(&vec!["#.a"; 50].join("."), &key));
        assert!(!matches(&format!("{}.b", vec!["#.a"; 50].join(".")), &key));
    }
}
