//! The objects of a feed, with the `resourceVersion` that each was seen with.
//!
//! A watch says everything once and in order, or so it should: what a cache or proxy between says twice, or late, must not take
//! an object back to what it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sluicegate_snapshot::ObjectKey;

/// Deleted objects that are remembered, so that a late event does not bring one back.
const MAX_GONE: usize = 1024;

/// What was passed on.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Those that are there.
    there: BTreeMap<ObjectKey, u64>,
    /// Those that were deleted last, with the versions of their deletions.
    gone: BTreeMap<ObjectKey, u64>,
    gone_in_order: VecDeque<ObjectKey>,
}

impl Known {
    /// An event says that an object is there in this version. False: a later one was seen.
    pub(super) fn put(&mut self, key: &ObjectKey, version: u64) -> bool {
        let newest = self.there.get(key).or_else(|| self.gone.get(key));
        if newest.is_some_and(|newest| version <= *newest) {
            return false;
        }
        self.listed(key, version);
        true
    }

    /// A list says so: a list knows better than events.
    pub(super) fn listed(&mut self, key: &ObjectKey, version: u64) {
        self.gone.remove(key);
        match self.there.get_mut(key) {
            Some(known) => *known = version,
            None => drop(self.there.insert(key.clone(), version)),
        }
    }

    /// An event says that an object was deleted, in this version. False: it is not there, or a later version is.
    pub(super) fn remove(&mut self, key: &ObjectKey, version: u64) -> bool {
        if self.there.get(key).is_none_or(|known| version < *known) {
            return false;
        }
        self.there.remove(key);
        if self.gone.insert(key.clone(), version).is_none() {
            self.gone_in_order.push_back(key.clone());
        }
        while self.gone_in_order.len() > MAX_GONE {
            if let Some(oldest) = self.gone_in_order.pop_front() {
                self.gone.remove(&oldest);
            }
        }
        true
    }

    /// A list is complete: forgets, and returns, what is not in it.
    pub(super) fn retain(&mut self, listed: &BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
        let gone: Vec<ObjectKey> = self.there.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        self.there.retain(|key, _| listed.contains(key));
        self.gone.clear();
        self.gone_in_order.clear();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("n", name)
    }

    #[test]
    fn what_is_said_twice_or_late_changes_nothing() {
        let mut known = Known::default();
        assert!(known.put(&key("a"), 5));
        assert!(!known.put(&key("a"), 5), "twice");
        assert!(known.put(&key("a"), 7));
        assert!(!known.put(&key("a"), 6), "late");
        assert!(known.put(&key("b"), 6), "another one");
        assert!(!known.remove(&key("a"), 6), "late");
        assert!(known.remove(&key("a"), 8));
        assert!(!known.remove(&key("a"), 8), "twice");
        assert!(!known.put(&key("a"), 7), "it is gone");
        assert!(known.put(&key("a"), 9), "made anew");
    }

    #[test]
    fn a_list_knows_better() {
        let mut known = Known::default();
        known.put(&key("a"), 5);
        known.put(&key("b"), 6);
        known.remove(&key("b"), 7);
        // After a restore versions go back.
        known.listed(&key("c"), 2);
        known.listed(&key("b"), 3);
        assert_eq!(known.retain(&[key("b"), key("c")].into()), [key("a")]);
        assert!(known.put(&key("b"), 4));
    }

    #[test]
    fn deletions_are_forgotten_some_day() {
        let mut known = Known::default();
        for number in 0..=MAX_GONE {
            known.put(&key(&number.to_string()), 1);
            known.remove(&key(&number.to_string()), 2);
        }
        assert_eq!((known.gone.len(), known.gone_in_order.len()), (MAX_GONE, MAX_GONE));
        assert!(known.put(&key("0"), 1));
    }
}
