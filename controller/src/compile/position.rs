//! Where the world stands in the API server's history, and whether that history went back.

use std::collections::BTreeMap;

use sluicegate_snapshot::Kind;
use sluicegate_snapshot::model::{ResourceVersions, Version};

use crate::watch::Feed;

/// The `resourceVersion`s of everything that is watched.
#[derive(Debug, Default)]
pub struct Position {
    epoch: u64,
    /// Up to where each feed is known.
    feeds: BTreeMap<Feed, u64>,
    /// Highest per kind that the world may show.
    shown: ResourceVersions,
}

impl Position {
    /// The world shows something of a kind of this `resourceVersion`.
    pub fn shows(&mut self, kind: Kind, version: u64) {
        let highest = self.shown.entry(kind).or_default();
        *highest = (*highest).max(version);
    }

    /// A feed is known up to here, by an event or a bookmark.
    pub fn reaches(&mut self, feed: &Feed, version: u64) {
        match self.feeds.get_mut(feed) {
            Some(known) => *known = (*known).max(version),
            None => drop(self.feeds.insert(feed.clone(), version)),
        }
    }

    /// Everything of a feed was listed. False: the list is older than what was known, so the API server was restored from an
    /// older state. (A list without a `resourceVersion` in its question is never older than what was seen before.)
    pub fn lists(&mut self, feed: &Feed, version: u64) -> bool {
        let goes_on = self.feeds.get(feed).is_none_or(|known| *known <= version);
        self.feeds.insert(feed.clone(), version);
        // What is not in a list may have been deleted as late as the list was made.
        self.shows(feed.kind, version);
        goes_on
    }

    /// A feed is no longer known: it is refused, or not followed any more.
    pub fn loses(&mut self, feed: &Feed) {
        self.feeds.remove(feed);
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A later epoch begins, and with it another history: nothing of it is known yet.
    pub fn restart(&mut self, epoch: u64) {
        *self = Position { epoch, ..Position::default() };
    }

    /// The same epoch as somebody else's, whose history this is.
    pub fn join(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// A later epoch of the history that is known.
    pub fn raise(&mut self) {
        self.epoch += 1;
        self.shown = self.complete();
    }

    fn complete(&self) -> ResourceVersions {
        let mut complete = ResourceVersions::new();
        for (feed, version) in &self.feeds {
            let lowest = complete.entry(feed.kind).or_insert(*version);
            *lowest = (*lowest).min(*version);
        }
        complete
    }

    /// The feeds that are known.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.feeds.keys()
    }

    /// As a version; its digest has no meaning.
    pub fn version(&self) -> Version {
        let shown = self.shown.iter().filter(|(_, version)| **version > 0);
        Version {
            epoch: self.epoch,
            resource_versions: shown.map(|(kind, version)| (*kind, *version)).collect(),
            complete: self.complete(),
            ..Version::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(kind: Kind, namespace: Option<&str>) -> Feed {
        Feed { kind, namespace: namespace.map(Into::into), labels: None }
    }

    #[test]
    fn what_is_known_is_the_least_of_the_feeds_and_what_is_shown_the_highest() {
        let (a, b) = (feed(Kind::Secret, Some("a")), feed(Kind::Secret, Some("b")));
        let mut position = Position::default();
        assert!(position.lists(&a, 10) && position.lists(&b, 20));
        position.shows(Kind::Secret, 25);
        position.reaches(&a, 25);
        let version = position.version();
        assert_eq!((version.resource_versions[&Kind::Secret], version.complete[&Kind::Secret]), (25, 20));
        position.loses(&b);
        assert_eq!(position.version().complete[&Kind::Secret], 25);
        position.loses(&a);
        assert!(position.version().complete.is_empty(), "what is not followed has no say");
    }

    #[test]
    fn a_list_that_is_older_than_what_was_known_shows_a_restore() {
        let services = feed(Kind::Service, None);
        let mut position = Position::default();
        assert!(position.lists(&services, 100));
        position.reaches(&services, 120);
        assert!(position.lists(&services, 120), "nothing happened since");
        assert!(!position.lists(&services, 90));
        position.restart(1);
        assert!(position.lists(&services, 90));
        position.raise();
        assert_eq!(position.version().resource_versions[&Kind::Service], 90);
        assert_eq!(position.epoch(), 2);
    }
}
