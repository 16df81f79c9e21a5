//! Listing everything anew: after the API server was restored, and where a gateway has reason to doubt.
//!
//! A gateway that comes from another controller may know more than this one. Mostly this one is a moment late, and a short
//! wait is enough. Else everything is listed: a list is never older than what anybody saw before. What a gateway has seen and
//! a list made since then does not reach was undone by a restore, and the epoch is raised.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sluicegate_snapshot::model::Version;
use tokio::sync::watch;

use super::position::Position;
use crate::watch::Feed;

/// How long a gateway that knows more waits for this controller's watches to bring it.
const LATE: Duration = Duration::from_millis(300);

/// How long a loss is let be before it is looked at again: what an API server has lost for a moment only it has again by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Least time between two listings of everything: gateways must not keep the API server busy.
const SPACING: Duration = Duration::from_secs(10);

/// Longest time that a listing is waited for: a kind that cannot be listed must not stop the others.
const LIMIT: Duration = Duration::from_secs(30);

/// What was asked for, and what is under way.
pub struct Relist {
    /// Raised to have every feed list anew.
    generations: watch::Sender<u64>,
    running: Option<Running>,
    last: Option<Instant>,
    /// When to begin the next.
    due: Option<Instant>,
    /// The most that gateways said they have, where that is more than is known here.
    claimed: Option<Version>,
    doubted: bool,
}

/// How a listing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was listed.
    Complete,
    /// Something could not be listed in time; it is tried again.
    Incomplete,
}

/// A listing under way.
struct Running {
    /// Feeds that have not listed since.
    waiting: BTreeSet<Feed>,
    until: Instant,
    /// What was claimed before it began. What comes later is not answered by it: a feed may have been listed before.
    claimed: Option<Version>,
    doubted: bool,
}

impl Relist {
    /// Nothing was asked for. `generations` goes to the watches.
    pub fn new(generations: watch::Sender<u64>) -> Self {
        Relist { generations, running: None, last: None, due: None, claimed: None, doubted: false }
    }

    /// A gateway has this version in force, and what is published may not follow it.
    pub fn claim(&mut self, have: Version, now: Instant) {
        match &mut self.claimed {
            Some(claimed) if claimed.epoch > have.epoch => {}
            Some(claimed) if claimed.epoch == have.epoch => {
                for (kind, version) in have.resource_versions {
                    let highest = claimed.resource_versions.entry(kind).or_default();
                    *highest = (*highest).max(version);
                }
            }
            claimed => *claimed = Some(have),
        }
        self.plan(now + LATE);
    }

    /// A gateway doubts that a loss is real.
    pub fn doubt(&mut self, now: Instant) {
        self.doubted = true;
        self.plan(now + SETTLE);
    }

    fn plan(&mut self, at: Instant) {
        let earliest = self.last.map_or(at, |last| at.max(last + SPACING));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// When to look again; `None`: when there is news.
    pub fn wake(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.until).into_iter().chain(self.due).min()
    }

    /// Begins a listing that is due, unless the watches brought meanwhile what gateways have.
    pub fn look(&mut self, position: &Position, feeds: impl FnOnce() -> BTreeSet<Feed>, now: Instant) {
        if self.due.is_none_or(|due| due > now) || self.running.is_some() {
            return;
        }
        self.due = None;
        if self.claimed.as_ref().is_some_and(|claimed| position.version().may_follow(claimed).is_ok()) {
            self.claimed = None;
        }
        if self.claimed.is_some() || self.doubted {
            tracing::info!("everything is listed anew: a gateway knows more, or doubts a loss");
            self.begin(feeds(), now);
        }
    }

    /// Begins a listing at once.
    pub fn begin(&mut self, feeds: BTreeSet<Feed>, now: Instant) {
        let (claimed, doubted) = (self.claimed.take(), std::mem::take(&mut self.doubted));
        self.running = Some(Running { waiting: feeds, until: now + LIMIT, claimed, doubted });
        self.last = Some(now);
        self.generations.send_modify(|generation| *generation += 1);
    }

    /// A feed was listed, in a list that was begun in this generation.
    pub fn listed(&mut self, feed: &Feed, generation: u64) {
        if generation >= *self.generations.borrow() {
            self.lost(feed);
        }
    }

    /// A feed cannot be listed, or is not followed any more.
    pub fn lost(&mut self, feed: &Feed) {
        if let Some(running) = &mut self.running {
            running.waiting.remove(feed);
        }
    }

    /// Whether a listing has just come to its end; then the position says what it found. Raises the epoch where gateways have seen
    /// what a list made since then does not reach.
    pub fn end(&mut self, position: &mut Position, now: Instant) -> Option<Ended> {
        let Running { waiting, claimed, doubted, .. } =
            self.running.take_if(|running| running.waiting.is_empty() || now >= running.until)?;
        if waiting.is_empty() {
            if let Some(claimed) = claimed {
                judge(position, &claimed);
            }
            return Some(Ended::Complete);
        }
        // Nothing follows from an incomplete one.
        let waiting: Vec<String> = waiting.iter().map(ToString::to_string).collect();
        tracing::warn!("not listed within {} s: {}", LIMIT.as_secs(), waiting.join(", "));
        self.doubted |= doubted;
        claimed.into_iter().for_each(|claimed| self.claim(claimed, now));
        self.plan(now);
        Some(Ended::Incomplete)
    }

    /// The number of the listing that began last.
    pub fn generation(&self) -> u64 {
        *self.generations.borrow()
    }
}

/// A gateway has `claimed`, and everything was listed since it said so.
fn judge(position: &mut Position, claimed: &Version) {
    if claimed.epoch > position.epoch() {
        tracing::warn!(
            epoch = claimed.epoch,
            "another controller has noticed a restore of the API server; its epoch is taken over"
        );
        position.join(claimed.epoch);
    }
    if let Err(behind) = position.version().may_follow(claimed) {
        position.raise();
        tracing::error!(
            epoch = position.epoch(),
            "the API server was restored from an older state: a gateway has seen more than it knows ({behind}); a new epoch begins"
        );
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_snapshot::Kind;
    use sluicegate_snapshot::model::Digest;

    use super::*;

    fn feed(kind: Kind) -> Feed {
        Feed { kind, namespace: None, labels: None }
    }

    fn feeds() -> BTreeSet<Feed> {
        [feed(Kind::Ingress), feed(Kind::Service)].into()
    }

    fn have(epoch: u64, ingresses: u64) -> Version {
        let digest = Digest::of("other content", &(), &());
        Version { epoch, resource_versions: [(Kind::Ingress, ingresses)].into(), digest, ..Version::default() }
    }

    /// A controller that knows everything up to 100.
    fn controller() -> (Relist, Position, watch::Receiver<u64>) {
        let (generations, generation) = watch::channel(0);
        let mut position = Position::default();
        feeds().iter().for_each(|feed| assert!(position.lists(feed, 100)));
        (Relist::new(generations), position, generation)
    }

    #[test]
    fn a_controller_that_was_only_late_lists_nothing() {
        let (mut relist, mut position, generation) = controller();
        let now = Instant::now();
        relist.claim(have(0, 110), now);
        relist.look(&position, feeds, now);
        assert_eq!(relist.wake(), Some(now + LATE));
        position.reaches(&feed(Kind::Ingress), 110);
        relist.look(&position, feeds, now + LATE);
        assert_eq!((*generation.borrow(), relist.wake()), (0, None));
    }

    #[test]
    fn what_a_list_does_not_reach_was_undone_by_a_restore() {
        for (what, claimed, listed, epoch) in [
            ("it lagged", have(0, 110), 110, 0),
            ("restored", have(0, 110), 105, 1),
            ("restored again", have(4, 110), 105, 5),
            ("another controller noticed", have(3, 80), 105, 3),
            ("a gateway of long ago", have(0, 80), 105, 0),
        ] {
            let (mut relist, mut position, generation) = controller();
            let now = Instant::now();
            relist.claim(claimed, now);
            relist.look(&position, feeds, now + LATE);
            if relist.running.is_some() {
                assert_eq!(*generation.borrow(), 1, "{what}");
                // A list that was begun before the question says nothing.
                relist.listed(&feed(Kind::Ingress), 0);
                relist.listed(&feed(Kind::Service), 1);
                assert_eq!(relist.end(&mut position, now + LATE), None);
                position.reaches(&feed(Kind::Ingress), listed);
                relist.listed(&feed(Kind::Ingress), 1);
                assert_eq!(relist.end(&mut position, now + LATE), Some(Ended::Complete));
            }
            assert_eq!(position.epoch(), epoch, "{what}");
            assert_eq!(relist.wake(), None, "{what}");
        }
    }

    #[test]
    fn what_is_asked_while_everything_is_listed_waits_for_the_next_listing() {
        let (mut relist, mut position, generation) = controller();
        let now = Instant::now();
        relist.claim(have(0, 110), now);
        relist.look(&position, feeds, now + LATE);
        position.reaches(&feed(Kind::Ingress), 110);
        // This one has seen an event that came after the list of Ingresses.
        relist.listed(&feed(Kind::Ingress), 1);
        relist.claim(have(0, 120), now + LATE);
        relist.doubt(now + LATE);
        relist.listed(&feed(Kind::Service), 1);
        assert_eq!(relist.end(&mut position, now + LATE), Some(Ended::Complete));
        assert_eq!(position.epoch(), 0, "that was no restore");
        relist.look(&position, feeds, now + LATE + SPACING);
        assert_eq!(*generation.borrow(), 2, "the doubt is looked into");
    }

    #[test]
    fn listings_are_spaced_and_one_that_does_not_end_is_tried_again() {
        let (mut relist, mut position, generation) = controller();
        let now = Instant::now();
        relist.doubt(now - SETTLE);
        relist.look(&position, feeds, now - SETTLE);
        assert_eq!(*generation.borrow(), 0, "a moment later");
        relist.look(&position, feeds, now);
        assert_eq!(*generation.borrow(), 1);
        assert_eq!(relist.end(&mut position, now + LIMIT), Some(Ended::Incomplete), "the others go on");
        relist.look(&position, feeds, now + LIMIT);
        assert_eq!(*generation.borrow(), 2);
        feeds().iter().for_each(|feed| relist.listed(feed, 2));
        assert_eq!(relist.end(&mut position, now + LIMIT), Some(Ended::Complete));
        relist.doubt(now + LIMIT);
        relist.look(&position, feeds, now + LIMIT + SPACING / 2);
        assert_eq!(*generation.borrow(), 2, "not so soon");
        relist.look(&position, feeds, now + LIMIT + SPACING);
        assert_eq!(*generation.borrow(), 3);
    }
}
