//! Holding back what lost most of its routes.
//!
//! An API server that answers with half of its objects, or a controller that looks at the wrong cluster, must not empty an
//! edge in one step. What came by a list or a full sync and leaves less than half of at least [`MIN_ROUTES`] routes is held
//! back until the controller has listed everything a second time, [`HOLD_LIMIT`] at most. What events delete, one object
//! each, is not held back.

use std::time::{Duration, Instant};

use sluicegate_snapshot::wire::{Doubt, Origin};
use sluicegate_snapshot::{Delta, Snapshot};

/// Fewer routes than this may go in one step.
pub(super) const MIN_ROUTES: usize = 20;

/// Longest time that anything is held back.
pub(super) const HOLD_LIMIT: Duration = Duration::from_secs(60);

/// What is held back, if anything.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// What the controller has, where that is not in force.
    held: Option<Snapshot>,
    /// Since when something is held back; a new connection does not start the time anew.
    since: Option<Instant>,
}

/// What to do with a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// To put this in force: the change itself, or all that was held back.
    Take(Box<Delta>),
    /// It is held back; with the question for the controller, where it was not asked yet.
    Hold(Option<Doubt>),
}

impl Guard {
    /// What the stream builds on: what is held back, else what is in force.
    pub(super) fn base<'a>(&'a self, in_force: &'a Snapshot) -> &'a Snapshot {
        self.held.as_ref().unwrap_or(in_force)
    }

    /// Whether something is held back.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Judges a change of [`Guard::base`]. Costs O(change); O(routes) for a list or full sync, and while something is held.
    pub(super) fn judge(&mut self, delta: Box<Delta>, origin: Origin, in_force: &Snapshot, now: Instant) -> Judgement {
        let is_first = self.held.is_none();
        if is_first && matches!(origin, Origin::Events | Origin::Confirmed) {
            return Judgement::Take(delta);
        }
        let mut snapshot = self.held.take().unwrap_or_else(|| in_force.clone());
        snapshot.apply(&delta);
        let doubt = Doubt { routes: in_force.route_count(), left: snapshot.route_count() };
        let is_loss = doubt.routes >= MIN_ROUTES && doubt.left * 2 < doubt.routes;
        if !is_loss || origin == Origin::Confirmed {
            self.since = None;
            return Judgement::Take(if is_first { delta } else { Box::new(Delta::between(in_force, &snapshot)) });
        }
        self.since.get_or_insert(now);
        self.held = Some(snapshot);
        Judgement::Hold(is_first.then_some(doubt))
    }

    /// What was held back for long enough, as a change of what is in force.
    pub(super) fn expired(&mut self, in_force: &Snapshot, now: Instant) -> Option<Delta> {
        let is_due = self.since.is_some_and(|since| now.duration_since(since) >= HOLD_LIMIT);
        let snapshot = self.held.take_if(|_| is_due)?;
        self.since = None;
        Some(Delta::between(in_force, &snapshot))
    }

    /// A new connection builds on what is in force.
    pub(super) fn disconnected(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluicegate_snapshot::key::HostPattern;
    use sluicegate_snapshot::model::{PathType, Policy, Route, Target, VirtualHost};

    use super::*;

    /// A snapshot of so many hosts, each with one route.
    fn snapshot(hosts: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.apply(&hosts_delta(0..hosts, true));
        snapshot
    }

    fn hosts_delta(numbers: std::ops::Range<usize>, there: bool) -> Box<Delta> {
        let host = |number: usize| {
            let pattern = HostPattern::Exact(format!("h{number}.test").as_str().into());
            let route = Route {
                ingress: None,
                class: "".into(),
                host: pattern.clone(),
                path: "/".into(),
                path_type: PathType::Prefix,
                is_default: false,
                target: Target::Backend(sluicegate_snapshot::key::BackendKey {
                    service: sluicegate_snapshot::ObjectKey::new("n", "s"),
                    port: sluicegate_snapshot::key::ServicePort::Number(80),
                }),
                policy: Policy::default(),
            };
            let host = VirtualHost { routes: vec![Arc::new(route)], ..VirtualHost::default() };
            (pattern, there.then(|| Arc::new(host)))
        };
        Box::new(Delta { hosts: numbers.map(host).collect(), ..Delta::default() })
    }

    fn is_held(judgement: &Judgement) -> bool {
        matches!(judgement, Judgement::Hold(_))
    }

    #[test]
    fn a_list_that_lost_most_routes_is_held_and_asked_about_once() {
        let (in_force, now) = (snapshot(20), Instant::now());
        for (lost, origin, held) in [
            (11, Origin::List, true),
            (11, Origin::FullSync, true),
            (10, Origin::List, false),
            (20, Origin::Events, false),
            (20, Origin::Confirmed, false),
        ] {
            let mut guard = Guard::default();
            let judgement = guard.judge(hosts_delta(0..lost, false), origin, &in_force, now);
            assert_eq!((is_held(&judgement), guard.holds()), (held, held), "{lost} {origin:?}");
            if held {
                assert_eq!(judgement, Judgement::Hold(Some(Doubt { routes: 20, left: 9 })));
                let more = guard.judge(hosts_delta(11..12, false), Origin::Events, &in_force, now);
                assert_eq!(more, Judgement::Hold(None), "what comes meanwhile is held too");
                assert_eq!(guard.base(&in_force).route_count(), 8);
            }
        }
        let small = snapshot(19);
        let all = Guard::default().judge(hosts_delta(0..19, false), Origin::List, &small, now);
        assert!(!is_held(&all), "few routes may go at once");
    }

    #[test]
    fn what_is_held_goes_in_force_when_confirmed_or_healed_or_after_a_minute() {
        let (in_force, now) = (snapshot(20), Instant::now());
        let hold = || {
            let mut guard = Guard::default();
            assert!(is_held(&guard.judge(hosts_delta(0..20, false), Origin::List, &in_force, now)));
            guard
        };
        let routes = |delta: &Delta| {
            let mut snapshot = in_force.clone();
            snapshot.apply(delta);
            snapshot.route_count()
        };
        let Judgement::Take(delta) = hold().judge(Box::default(), Origin::Confirmed, &in_force, now) else { panic!() };
        assert_eq!(routes(&delta), 0);
        let Judgement::Take(delta) = hold().judge(hosts_delta(0..15, true), Origin::Events, &in_force, now) else {
            panic!()
        };
        assert_eq!(routes(&delta), 15);
        let mut guard = hold();
        let almost = now + HOLD_LIMIT - Duration::from_millis(1);
        assert!(guard.expired(&in_force, almost).is_none());
        guard.disconnected();
        assert!(is_held(&guard.judge(hosts_delta(0..20, false), Origin::FullSync, &in_force, almost)), "asked again");
        let delta = guard.expired(&in_force, now + HOLD_LIMIT).unwrap();
        assert_eq!(routes(&delta), 0, "a new connection does not start the minute anew");
        assert!(!guard.holds());
    }
}
