//! What is recorded of whose hosts are, what should be, and when to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_snapshot::compile::Whose;
use sluicegate_snapshot::facts::{record_of, records};
use sluicegate_snapshot::{HostPattern, ObjectKey};

/// How long a record stays whose namespace claims the host no more, while others wait for it. Who replaces an Ingress by deleting it keeps
/// its hosts, and a controller that has not seen everything yet takes nothing from anybody.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long it stays where nobody waits: what is lost for a while as a whole, with its class for example, comes back as it was.
const UNCLAIMED: Duration = Duration::from_secs(3600);

/// How long a claim is looked at before it is recorded: of several that come at once, the oldest is the first, and not the one that is
/// heard of first.
const SETTLE: Duration = Duration::from_secs(1);

/// Least time between two writes of one ConfigMap.
const SPACING: Duration = Duration::from_secs(1);

/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Most bytes of hosts in one ConfigMap. The API server takes a megabyte.
const MAX_BYTES: usize = 900_000;

/// Most bytes of them that one namespace gets: it must not take the room from the others.
const MAX_SHARE: usize = MAX_BYTES / 4;

/// Namespaces by host.
pub type Owners = BTreeMap<HostPattern, Arc<str>>;

/// One of the ConfigMaps.
#[derive(Debug, Default)]
struct Record {
    /// What it says.
    recorded: Owners,
    /// Its `resourceVersion`; `None`: it is not there.
    version: Option<u64>,
    /// What it says is of before a restore of the API server: it is not written before it is seen again.
    is_past: bool,
    /// What it should say.
    wanted: Owners,
    /// Hosts that their namespaces no longer claim, and others do.
    disputed: BTreeSet<HostPattern>,
    /// Hosts that nobody is recorded for, since when.
    missing: BTreeMap<HostPattern, Instant>,
    /// Hosts that are recorded for a namespace that does not have them, since when, and for how long that stays.
    untrue: BTreeMap<HostPattern, (Instant, Duration)>,
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
}

/// All ConfigMaps whose names begin with a prefix.
#[derive(Debug)]
pub struct Book {
    prefix: ObjectKey,
    records: BTreeMap<ObjectKey, Record>,
    /// Hosts that a ConfigMap has no room for.
    left_out: BTreeMap<ObjectKey, usize>,
}

/// Room of a host in a ConfigMap.
fn size(host: &HostPattern) -> usize {
    host.to_string().len() + 1
}

impl Record {
    fn compare(&mut self, host: &HostPattern, now: Instant) {
        let (recorded, wanted) = (self.recorded.get(host), self.wanted.get(host));
        match (recorded.is_some(), wanted.is_some()) {
            (false, true) => drop(self.missing.entry(host.clone()).or_insert(now)),
            _ => drop(self.missing.remove(host)),
        }
        if recorded.is_none() || recorded == wanted {
            self.untrue.remove(host);
            return;
        }
        let grace = if wanted.is_some() || self.disputed.contains(host) { GRACE } else { UNCLAIMED };
        let (since, known) = self.untrue.entry(host.clone()).or_insert((now, grace));
        if *known != grace {
            (*since, *known) = (now, grace);
        }
    }

    /// When there is something to write.
    fn due(&self) -> Option<Instant> {
        let missing = self.missing.values().map(|since| *since + SETTLE);
        let untrue = self.untrue.values().map(|(since, grace)| *since + *grace);
        let due = missing.chain(untrue).min().filter(|_| !self.is_past)?;
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// What it should say now, and how many hosts it has no room for.
    fn content(&self, now: Instant) -> (Owners, usize) {
        let mut owners = self.recorded.clone();
        for (host, (since, grace)) in &self.untrue {
            if *since + *grace <= now {
                match self.wanted.get(host) {
                    Some(owner) => owners.insert(host.clone(), owner.clone()),
                    None => owners.remove(host),
                };
            }
        }
        let mut shares: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut bytes = 0;
        for (host, owner) in &owners {
            bytes += size(host);
            *shares.entry(owner.clone()).or_default() += size(host);
        }
        let mut left_out = 0;
        for (host, _) in self.missing.iter().filter(|(_, since)| **since + SETTLE <= now) {
            let Some(owner) = self.wanted.get(host) else { continue };
            let share = shares.entry(owner.clone()).or_default();
            if bytes + size(host) > MAX_BYTES || *share + size(host) > MAX_SHARE {
                left_out += 1;
                continue;
            }
            bytes += size(host);
            *share += size(host);
            owners.insert(host.clone(), owner.clone());
        }
        (owners, left_out)
    }
}

impl Book {
    /// An empty book.
    pub fn new(prefix: ObjectKey) -> Self {
        let records = records(&prefix).into_iter().map(|key| (key, Record::default())).collect();
        Book { prefix, records, left_out: BTreeMap::new() }
    }

    /// Whose hosts are now.
    pub fn want(&mut self, owners: BTreeMap<HostPattern, Whose>, now: Instant) {
        for (host, whose) in owners {
            let Some(record) = self.records.get_mut(&record_of(&self.prefix, &host)) else { continue };
            match whose == Whose::Disputed {
                true => drop(record.disputed.insert(host.clone())),
                false => drop(record.disputed.remove(&host)),
            }
            match whose {
                Whose::Namespace(owner) => drop(record.wanted.insert(host.clone(), owner)),
                Whose::Disputed | Whose::Nobody => drop(record.wanted.remove(&host)),
            }
            record.compare(&host, now);
        }
    }

    /// A ConfigMap is there in this version, or no longer. `is_certain`: a list says so, which knows better than anything before.
    /// Those of other controllers are passed over.
    pub fn record(&mut self, key: &ObjectKey, found: Option<(&Owners, u64)>, is_certain: bool, now: Instant) {
        let Some(record) = self.records.get_mut(key) else { return };
        let (owners, version) = match found {
            // The answer to a write may have come before this event of the watch.
            Some((_, version))
                if !is_certain && !record.is_past && record.version.is_some_and(|known| known > version) =>
            {
                return;
            }
            Some((owners, version)) => (owners.clone(), Some(version)),
            None => (Owners::new(), None),
        };
        let old = std::mem::replace(&mut record.recorded, owners);
        (record.version, record.is_past) = (version, false);
        let differs = |host: &&HostPattern| old.get(*host) != record.recorded.get(*host);
        let hosts: BTreeSet<HostPattern> = old.keys().chain(record.recorded.keys()).filter(differs).cloned().collect();
        hosts.iter().for_each(|host| record.compare(host, now));
    }

    /// The API server was restored: nothing is written before it is seen what is there now.
    pub fn restart(&mut self) {
        for record in self.records.values_mut() {
            record.is_past = record.version.is_some();
        }
    }

    /// When to look again; `None`: when something changes.
    pub fn wake(&self) -> Option<Instant> {
        self.records.values().filter_map(Record::due).min()
    }

    /// What is to be written now.
    pub fn due(&mut self, now: Instant) -> Vec<Write> {
        let mut writes = Vec::new();
        for (key, record) in &mut self.records {
            if record.due().is_none_or(|due| due > now) {
                continue;
            }
            let (owners, left_out) = record.content(now);
            // What has no room waits until something is out of date.
            record.not_before = Some(now + if left_out > 0 { GRACE } else { SPACING });
            match left_out {
                0 => drop(self.left_out.remove(key)),
                some => drop(self.left_out.insert(key.clone(), some)),
            }
            if owners != record.recorded {
                writes.push(Write { record: key.clone(), owners, version: record.version });
            }
        }
        writes
    }

    /// ConfigMaps that have no room for so many hosts.
    pub fn left_out(&self) -> &BTreeMap<ObjectKey, usize> {
        &self.left_out
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
        let whose = owner.map_or(Whose::Nobody, |owner| Whose::Namespace(owner.into()));
        book.want([(host(name), whose)].into(), now);
    }

    fn dispute(book: &mut Book, name: &str, now: Instant) {
        book.want([(host(name), Whose::Disputed)].into(), now);
    }

    fn record(book: &mut Book, key: &ObjectKey, found: &[(&str, &str)], version: u64, now: Instant) {
        book.record(key, Some((&owners(found), version)), false, now);
    }

    #[test]
    fn who_has_a_host_first_is_recorded_after_a_moment() {
        let (mut book, now, key) = book();
        assert_eq!(book.wake(), None);
        want(&mut book, "a.test", Some("young"), now);
        assert_eq!((book.due(now), book.wake()), (vec![], Some(now + SETTLE)));
        // An older one was heard of later.
        want(&mut book, "a.test", Some("one"), now + SETTLE / 2);
        let now = now + SETTLE;
        let write = |found: &[(&str, &str)], version| Write { record: key.clone(), owners: owners(found), version };
        assert_eq!(book.due(now), [write(&[("a.test", "one")], None)]);
        assert_eq!(book.due(now), [], "it is on its way");
        record(&mut book, &key, &[("a.test", "one")], 7, now);
        assert_eq!(book.wake(), None);
        want(&mut book, "b.test", Some("two"), now);
        assert_eq!(book.due(now + SETTLE), [write(&[("a.test", "one"), ("b.test", "two")], Some(7))]);
    }

    #[test]
    fn a_record_outlives_its_owners_absence_for_a_while() {
        let (mut book, now, key) = book();
        record(&mut book, &key, &[("a.test", "one")], 1, now);
        want(&mut book, "a.test", Some("one"), now);
        // Deleted, while somebody else waits, and made anew.
        dispute(&mut book, "a.test", now);
        assert_eq!((book.due(now + GRACE / 2), book.wake()), (vec![], Some(now + GRACE)));
        want(&mut book, "a.test", Some("one"), now + GRACE / 2);
        assert_eq!(book.wake(), None);
        // Deleted for good.
        dispute(&mut book, "a.test", now + GRACE);
        assert_eq!(book.due(now + GRACE * 2)[0].owners, owners(&[]));
        record(&mut book, &key, &[], 2, now + GRACE * 2);
        want(&mut book, "a.test", Some("two"), now + GRACE * 2);
        let write = Write { record: key, owners: owners(&[("a.test", "two")]), version: Some(2) };
        assert_eq!(book.due(now + GRACE * 2 + SETTLE), [write]);
    }

    #[test]
    fn what_nobody_claims_or_waits_for_stays_for_long() {
        let (mut book, now, key) = book();
        record(&mut book, &key, &[("a.test", "one"), ("b.test", "one")], 1, now);
        want(&mut book, "b.test", Some("one"), now);
        assert_eq!(book.due(now + GRACE), []);
        assert_eq!(book.wake(), Some(now + UNCLAIMED));
        // Somebody comes who waits for it: he waits as long as everybody does.
        dispute(&mut book, "a.test", now + GRACE);
        assert_eq!(book.wake(), Some(now + GRACE * 2));
        want(&mut book, "a.test", None, now + GRACE);
        assert_eq!(book.wake(), Some(now + GRACE + UNCLAIMED));
        assert_eq!(book.due(now + GRACE + UNCLAIMED)[0].owners, owners(&[("b.test", "one")]));
    }

    #[test]
    fn a_late_event_takes_nothing_back_and_a_list_knows_better() {
        let (mut book, now, key) = book();
        let (old, new) = ([("a.test", "one")], [("a.test", "one"), ("b.test", "two")]);
        record(&mut book, &key, &new, 9, now);
        record(&mut book, &key, &old, 8, now);
        want(&mut book, "b.test", Some("two"), now);
        want(&mut book, "a.test", Some("one"), now);
        assert_eq!(book.wake(), None);
        book.record(&key, Some((&owners(&old), 8)), true, now);
        let write = |version| Write { record: key.clone(), owners: owners(&new), version };
        assert_eq!(book.due(now + SETTLE), [write(Some(8))]);
        // Deleted: it is made anew.
        book.record(&key, None, false, now);
        assert_eq!(book.due(now + SETTLE + SPACING), [write(None)]);
    }

    #[test]
    fn after_a_restore_nothing_is_written_over_what_was_not_seen() {
        let (mut book, now, key) = book();
        record(&mut book, &key, &[("a.test", "one")], 9, now);
        want(&mut book, "a.test", Some("one"), now);
        book.restart();
        want(&mut book, "b.test", Some("two"), now);
        assert_eq!((book.due(now + GRACE), book.wake()), (vec![], None));
        record(&mut book, &key, &[("b.test", "two")], 3, now + GRACE);
        let write = Write { record: key, owners: owners(&[("a.test", "one"), ("b.test", "two")]), version: Some(3) };
        assert_eq!(book.due(now + GRACE + SETTLE), [write]);
    }

    #[test]
    fn records_of_other_controllers_are_nobodys_business() {
        let (mut book, now, _) = book();
        let other = record_of(&ObjectKey::new("n", "other-hosts"), &host("a.test"));
        record(&mut book, &other, &[("a.test", "one")], 9, now);
        assert_eq!((book.due(now + UNCLAIMED), book.wake()), (vec![], None));
    }

    #[test]
    fn a_write_that_fails_is_tried_again() {
        let (mut book, now, key) = book();
        want(&mut book, "a.test", Some("one"), now);
        let now = now + SETTLE;
        assert_eq!(book.due(now).len(), 1);
        book.failed(&key, now);
        assert_eq!((book.due(now + SPACING).len(), book.due(now + RETRY).len()), (0, 1));
    }

    #[test]
    fn a_record_takes_so_many_hosts_of_a_namespace_and_so_many_in_all() {
        let (mut book, now, _) = book();
        let name = |number: usize| host(&format!("{}-{number:06}.a.test", "x".repeat(50)));
        let owner = |number: usize| Whose::Namespace(format!("n{}", number / 5_000).into());
        book.want((0..30_000).map(|number| (name(number), owner(number))).collect(), now);
        let now = now + SETTLE;
        let writes = book.due(now);
        let [Write { owners, record, .. }] = &writes[..] else { panic!("{} writes", writes.len()) };
        let bytes = |of: &str| -> usize {
            let of = |(_, owner): &(&HostPattern, &Arc<str>)| of.is_empty() || ***owner == *of;
            owners.iter().filter(of).map(|(host, _)| size(host)).sum()
        };
        assert!(bytes("") <= MAX_BYTES && bytes("") > MAX_BYTES - 100, "{} bytes", bytes(""));
        assert!(bytes("n0") <= MAX_SHARE && bytes("n0") > MAX_SHARE - 100, "{} bytes", bytes("n0"));
        assert_eq!(owners.len() + book.left_out()[record], 30_000);
        assert_eq!(book.wake(), Some(now + GRACE));
        // Nothing is written that says the same.
        let (owners, record) = (owners.clone(), record.clone());
        book.record(&record, Some((&owners, 1)), false, now);
        assert_eq!(book.due(now + GRACE), []);
    }
}
