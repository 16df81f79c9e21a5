//! A persistent string map: an edit copies one of 256 shards and shares the rest.

use std::fmt::Display;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::HashTable;

const SHARDS: usize = 256;

type Shard<V> = HashTable<(Arc<str>, V)>;

/// A map from text to `V` (something that is cheap to clone, an `Arc`). Cloning costs 256 reference counts; [`put`] copies
/// one shard. The hash is seeded per process; keys come from objects, requests only look them up.
///
/// [`put`]: ShardMap::put
#[derive(Debug)]
pub struct ShardMap<V> {
    shards: Box<[Arc<Shard<V>>]>,
    hasher: foldhash::fast::RandomState,
    len: usize,
}

impl<V> Default for ShardMap<V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::new());
        ShardMap { shards: vec![empty; SHARDS].into(), hasher: foldhash::fast::RandomState::default(), len: 0 }
    }
}

impl<V> Clone for ShardMap<V> {
    fn clone(&self) -> Self {
        ShardMap { shards: self.shards.clone(), hasher: self.hasher.clone(), len: self.len }
    }
}

impl<V> ShardMap<V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn hash(&self, key: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key.as_bytes());
        hasher.finish()
    }

    /// Bits from the middle choose the shard: the table inside uses the lowest for the place and the highest as a tag.
    fn shard_of(hash: u64) -> usize {
        (hash >> 48) as usize % SHARDS
    }

    /// The value of a key. Allocates nothing.
    pub fn get(&self, key: &str) -> Option<&V> {
        let hash = self.hash(key);
        self.shards[Self::shard_of(hash)].find(hash, |entry| *entry.0 == *key).map(|entry| &entry.1)
    }

    /// The value of a key that is written by its `Display`, without building that text on the heap.
    pub fn get_display(&self, key: &impl Display) -> Option<&V> {
        use std::fmt::Write as _;
        let mut text = StackText { buffer: [0; StackText::CAPACITY], length: 0 };
        match write!(text, "{key}") {
            Ok(()) => self.get(text.as_str()),
            // Longer than any valid namespace, name and port together.
            Err(std::fmt::Error) => self.get(&key.to_string()),
        }
    }

    /// Entries in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }
}

impl<V: Clone> ShardMap<V> {
    /// Sets or removes a key.
    pub fn put(&mut self, key: &Arc<str>, value: Option<V>) {
        let hash = self.hash(key);
        let hasher = self.hasher.clone();
        let rehash = |entry: &(Arc<str>, V)| {
            let mut state = hasher.build_hasher();
            state.write(entry.0.as_bytes());
            state.finish()
        };
        let shard = Arc::make_mut(&mut self.shards[Self::shard_of(hash)]);
        let found = shard.find_entry(hash, |entry| entry.0 == *key);
        match (found, value) {
            (Ok(mut entry), Some(value)) => entry.get_mut().1 = value,
            (Ok(entry), None) => {
                entry.remove();
                self.len -= 1;
            }
            (Err(_), None) => {}
            (Err(_), Some(value)) => {
                shard.insert_unique(hash, (key.clone(), value), rehash);
                self.len += 1;
            }
        }
    }
}

/// Text of bounded length on the stack: namespace (63), name (253), port (15 or 63) and separators fit.
struct StackText {
    buffer: [u8; StackText::CAPACITY],
    length: usize,
}

impl StackText {
    const CAPACITY: usize = 400;

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.buffer[..self.length]).unwrap_or_default()
    }
}

impl std::fmt::Write for StackText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let Some(place) = self.buffer.get_mut(self.length..end) else { return Err(std::fmt::Error) };
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_does_not_show_in_the_map_it_was_cloned_from() {
        let mut one = ShardMap::default();
        one.put(&"a".into(), Some(1));
        let mut two = one.clone();
        two.put(&"a".into(), Some(2));
        two.put(&"b".into(), Some(3));
        assert_eq!((one.get("a"), one.get("b"), one.len()), (Some(&1), None, 1));
        assert_eq!((two.get("a"), two.get("b"), two.len()), (Some(&2), Some(&3), 2));
        two.put(&"a".into(), None);
        two.put(&"a".into(), None);
        assert_eq!((two.get("a"), two.len()), (None, 1));
    }

    #[test]
    fn many_keys_are_found_again() {
        let mut map = ShardMap::default();
        for number in 0..5_000 {
            map.put(&Arc::from(format!("host-{number}.test")), Some(number));
        }
        assert!((0..5_000).all(|number| map.get(&format!("host-{number}.test")) == Some(&number)));
        assert!(map.shards.iter().all(|shard| !shard.is_empty()), "every shard has a share");
        assert_eq!(map.get_display(&"host-7.test"), Some(&7));
        assert_eq!(map.get_display(&"x".repeat(500)), None);
    }
}
