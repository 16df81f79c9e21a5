//! What is recorded of whose hosts are, what should be, and when to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_snapshot::facts::record_of;
use sluicegate_snapshot::{HostPattern, ObjectKey};

/// How long a record stays that is no longer true. Who replaces an Ingress by deleting it keeps its hosts, and a controller that has
/// not seen everything yet takes nothing from anybody.
pub const GRACE: Duration = Duration::from_secs(30);

/// Least time between two writes of one ConfigMap.
const SPACING: Duration = Duration::from_secs(1);

/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Most bytes of hosts in one ConfigMap. The API server takes a megabyte.
const MAX_BYTES: usize = 900_000;

/// Namespaces by host.
pub type Owners = BTreeMap<HostPattern, Arc<str>>;

/// One of the ConfigMaps.
#[derive(Debug, Default)]
struct Record {
    /// What it says.
    recorded: Owners,
    /// Its `resourceVersion`; `None`: it is not there.
    version: Option<u64>,
    /// What it should say.
    wanted: Owners,
    /// Hosts that nobody is recorded for.
    missing: BTreeSet<HostPattern>,
    /// Hosts that somebody else has now, or nobody, since when.
    untrue: BTreeMap<HostPattern, Instant>,
    /// Not to be written before.
    not_before: Option<Instant>,
}

/// A ConfigMap to write.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub record: ObjectKey,
    /// What it says then.
    pub owners: Owners,
    /// The `resourceVersion` that is replaced; `None`: it is to be created.
    pub version: Option<u64>,
    /// Hosts for which it has no room.
    pub left_out: usize,
}

/// All ConfigMaps whose names begin with a prefix.
#[derive(Debug)]
pub struct Book {
    prefix: ObjectKey,
    records: BTreeMap<ObjectKey, Record>,
}

impl Record {
    fn compare(&mut self, host: &HostPattern, now: Instant) {
        let (recorded, wanted) = (self.recorded.get(host), self.wanted.get(host));
        match (recorded.is_some(), wanted.is_some()) {
            (false, true) => drop(self.missing.insert(host.clone())),
            _ => drop(self.missing.remove(host)),
        }
        match recorded.is_some() && recorded != wanted {
            true => drop(self.untrue.entry(host.clone()).or_insert(now)),
            false => drop(self.untrue.remove(host)),
        }
    }

    /// When there is something to write; not later than `now` for what is due.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = match self.missing.is_empty() {
            true => *self.untrue.values().min()? + GRACE,
            false => now,
        };
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// What it should say now, and how many hosts it has no room for.
    fn content(&self, now: Instant) -> (Owners, usize) {
        let mut owners = self.recorded.clone();
        for (host, _) in self.untrue.iter().filter(|(_, since)| **since + GRACE <= now) {
            match self.wanted.get(host) {
                Some(owner) => owners.insert(host.clone(), owner.clone()),
                None => owners.remove(host),
            };
        }
        let size = |host: &HostPattern| host.to_string().len() + 1;
        let mut bytes: usize = owners.keys().map(size).sum();
        let mut left_out = 0;
        for host in &self.missing {
            bytes += size(host);
            match self.wanted.get(host) {
                Some(owner) if bytes <= MAX_BYTES => drop(owners.insert(host.clone(), owner.clone())),
                _ => left_out += 1,
            }
        }
        (owners, left_out)
    }
}

impl Book {
    /// An empty book.
    pub fn new(prefix: ObjectKey) -> Self {
        Book { prefix, records: BTreeMap::new() }
    }

    /// Whose hosts are now; `None`: nobody's who claims them.
    pub fn want(&mut self, owners: BTreeMap<HostPattern, Option<Arc<str>>>, now: Instant) {
        for (host, owner) in owners {
            let record = self.records.entry(record_of(&self.prefix, &host)).or_default();
            match owner {
                Some(owner) => drop(record.wanted.insert(host.clone(), owner)),
                None => drop(record.wanted.remove(&host)),
            }
            record.compare(&host, now);
        }
    }

    /// A ConfigMap is there in this version, or no longer.
    pub fn record(&mut self, key: &ObjectKey, found: Option<(&Owners, u64)>, now: Instant) {
        let record = self.records.entry(key.clone()).or_default();
        let (owners, version) = match found {
            // The answer to a write may have come before this event of the watch.
            Some((_, version)) if record.version.is_some_and(|known| known > version) => return,
            Some((owners, version)) => (owners.clone(), Some(version)),
            None => (Owners::new(), None),
        };
        let old = std::mem::replace(&mut record.recorded, owners);
        record.version = version;
        let differs = |host: &&HostPattern| old.get(*host) != record.recorded.get(*host);
        let hosts: BTreeSet<HostPattern> = old.keys().chain(record.recorded.keys()).filter(differs).cloned().collect();
        hosts.iter().for_each(|host| record.compare(host, now));
    }

    /// Versions begin anew: whatever is found next is newer than what is known.
    pub fn restart(&mut self) {
        for record in self.records.values_mut() {
            record.version = record.version.map(|_| 0);
        }
    }

    /// When to look again; `None`: when something changes.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        self.records.values().filter_map(|record| record.due(now)).min()
    }

    /// What is to be written now.
    pub fn due(&mut self, now: Instant) -> Vec<Write> {
        let mut writes = Vec::new();
        for (key, record) in &mut self.records {
            if record.due(now).is_none_or(|due| due > now) {
                continue;
            }
            record.not_before = Some(now + SPACING);
            let (owners, left_out) = record.content(now);
            if left_out > 0 {
                // No sooner than when something is out of date: that makes room.
                record.not_before = Some(now + GRACE);
            }
            if owners != record.recorded || left_out > 0 {
                writes.push(Write { record: key.clone(), owners, version: record.version, left_out });
            }
        }
        writes
    }

    /// A write failed: it is tried again later.
    pub fn failed(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(record) = self.records.get_mut(key) {
            record.not_before = Some(now + RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    fn owners(pairs: &[(&str, &str)]) -> Owners {
        pairs.iter().map(|(name, owner)| (host(name), Arc::from(*owner))).collect()
    }

    fn book() -> (Book, Instant, ObjectKey) {
        let prefix = ObjectKey::new("n", "hosts");
        let key = record_of(&prefix, &host("a.test"));
        (Book::new(prefix), Instant::now(), key)
    }

    fn want(book: &mut Book, name: &str, owner: Option<&str>, now: Instant) {
        book.want([(host(name), owner.map(Arc::from))].into(), now);
    }

    #[test]
    fn who_has_a_host_first_is_recorded_at_once() {
        let (mut book, now, key) = book();
        assert_eq!(book.wake(now), None);
        want(&mut book, "a.test", Some("one"), now);
        let written = owners(&[("a.test", "one")]);
        let write =
            |owners: &Owners, version| Write { record: key.clone(), owners: owners.clone(), version, left_out: 0 };
        assert_eq!(book.due(now), [write(&written, None)]);
        assert_eq!(book.due(now), [], "it is on its way");
        book.record(&key, Some((&written, 7)), now);
        assert_eq!(book.wake(now), None);
        // The next change of the same ConfigMap waits for a moment.
        want(&mut book, "b.test", Some("two"), now);
        assert_eq!(book.wake(now), Some(now + SPACING));
        assert_eq!(book.due(now), []);
        assert_eq!(book.due(now + SPACING), [write(&owners(&[("a.test", "one"), ("b.test", "two")]), Some(7))]);
    }

    #[test]
    fn a_record_outlives_its_owners_absence_for_a_while() {
        let (mut book, now, key) = book();
        book.record(&key, Some((&owners(&[("a.test", "one")]), 1)), now);
        want(&mut book, "a.test", Some("one"), now);
        // Deleted, and made anew.
        want(&mut book, "a.test", None, now);
        assert_eq!((book.due(now + GRACE / 2), book.wake(now)), (vec![], Some(now + GRACE)));
        want(&mut book, "a.test", Some("one"), now + GRACE / 2);
        assert_eq!(book.wake(now), None);
        // Somebody else has it for good.
        want(&mut book, "a.test", Some("two"), now + GRACE);
        assert_eq!(book.due(now + GRACE), []);
        want(&mut book, "a.test", Some("two"), now + GRACE * 3 / 2);
        let write = Write { record: key, owners: owners(&[("a.test", "two")]), version: Some(1), left_out: 0 };
        assert_eq!(book.due(now + GRACE * 2), [write]);
    }

    #[test]
    fn what_nobody_claims_is_forgotten_in_the_end() {
        let (mut book, now, key) = book();
        book.record(&key, Some((&owners(&[("a.test", "one"), ("b.test", "one")]), 1)), now);
        want(&mut book, "b.test", Some("one"), now);
        assert_eq!(book.due(now), []);
        assert_eq!(book.due(now + GRACE)[0].owners, owners(&[("b.test", "one")]));
    }

    #[test]
    fn a_late_event_takes_nothing_back_and_a_deleted_record_is_written_anew() {
        let (mut book, now, key) = book();
        let (old, new) = (owners(&[("a.test", "one")]), owners(&[("a.test", "one"), ("b.test", "two")]));
        book.record(&key, Some((&new, 9)), now);
        book.record(&key, Some((&old, 8)), now);
        want(&mut book, "b.test", Some("two"), now);
        want(&mut book, "a.test", Some("one"), now);
        assert_eq!(book.wake(now), None);
        // But for the API server's own past.
        book.restart();
        book.record(&key, Some((&old, 8)), now);
        assert_eq!(book.due(now)[0].owners, new);
        book.record(&key, None, now);
        assert_eq!(book.due(now + SPACING), [Write { record: key, owners: new, version: None, left_out: 0 }]);
    }

    #[test]
    fn a_write_that_fails_is_tried_again() {
        let (mut book, now, key) = book();
        want(&mut book, "a.test", Some("one"), now);
        assert_eq!(book.due(now).len(), 1);
        book.failed(&key, now);
        assert_eq!((book.due(now + SPACING).len(), book.due(now + RETRY).len()), (0, 1));
    }

    #[test]
    fn a_record_takes_so_many_hosts_and_no_more() {
        let (mut book, now, key) = book();
        let name = |number: usize| host(&format!("{}-{number:06}.a.test", "x".repeat(50)));
        let wanted = (0..20_000).map(|number| (name(number), Some(Arc::from("one"))));
        book.want(wanted.collect(), now);
        let writes = book.due(now);
        let [Write { owners, left_out, .. }] = &writes[..] else { panic!("{} writes", writes.len()) };
        let bytes: usize = owners.keys().map(|host| host.to_string().len() + 1).sum();
        assert!(*left_out > 0 && bytes <= MAX_BYTES && bytes > MAX_BYTES - 100, "{left_out} left out, {bytes} bytes");
        assert_eq!(owners.len() + left_out, 20_000);
        assert_ne!(writes[0].record, key, "another domain, another record");
        assert_eq!(book.wake(now), Some(now + GRACE));
    }
}
