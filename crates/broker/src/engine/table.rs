//! A table of things with stable keys: constant time, and the same keys for the same operations.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// Names an entry of a [`Table`]. A key outlives its entry, and then names nothing: a place that is used again has
/// another generation. `T` is what the entry is, or stands for it where that has parameters.
pub(super) struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    fn parts(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl<T> Eq for Key<T> {}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

pub(super) struct Table<T, K = T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    len: usize,
    of: PhantomData<fn() -> K>,
}

impl<T, K> Default for Table<T, K> {
    fn default() -> Self {
        Table { entries: Vec::new(), free: Vec::new(), len: 0, of: PhantomData }
    }
}

impl<T, K> Table<T, K> {
    pub(super) fn insert(&mut self, value: T) -> Key<K> {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 entries fit into memory");
            self.entries.push(Entry { generation: 0, value: None });
            index
        });
        let entry = &mut self.entries[index as usize];
        entry.value = Some(value);
        self.len += 1;
        Key { index, generation: entry.generation, of: PhantomData }
    }

    pub(super) fn get(&self, key: Key<K>) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        entry.value.as_ref().filter(|_| entry.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: Key<K>) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        entry.value.as_mut().filter(|_| entry.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key<K>) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        self.len -= 1;
        // A place whose generations are used up stays empty: no key may come to name another entry.
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            self.free.push(key.index);
        }
        Some(value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in the order of their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key<K>, &T)> {
        self.entries.iter().zip(0..).filter_map(|(entry, index)| {
            let key = Key { index, generation: entry.generation, of: PhantomData };
            entry.value.as_ref().map(|value| (key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_key_names_nothing_once_its_entry_is_gone() {
        let mut table = Table::<&str>::default();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        assert_eq!(table.remove(first), None);
        let second = table.insert("second");
        assert_ne!(first, second);
        assert_eq!((table.get(first), table.get(second)), (None, Some(&"second")));
        assert!(!table.is_empty());
        assert_eq!(table.remove(second), Some("second"));
        assert!(table.is_empty());
    }
}
