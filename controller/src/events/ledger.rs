//! What has to be told about Ingresses. Belongs to the compile thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sluicegate_snapshot::{Kind, ObjectKey, ObjectRef, World};
use tokio::sync::mpsc::UnboundedSender;

use super::{Loss, Notice};
use crate::publish::Acknowledged;
use crate::watch::Observed;

/// How often everything that is still wrong is told again: the API server forgets Events after an hour, and those that it still has
/// are not written twice.
const AGAIN: Duration = Duration::from_secs(30 * 60);

/// Least time between two Events that a loss is held back.
const HELD_SPACING: Duration = Duration::from_secs(10);

/// Number of the publication with which each Ingress of ours, in its newest form, went out.
pub type Published = Arc<Mutex<BTreeMap<ObjectKey, u64>>>;

/// What is known, and what waits for gateways.
pub struct Ledger {
    leads: bool,
    told: Instant,
    observed: BTreeMap<ObjectKey, Observed>,
    published: Published,
    /// Those of them that are not in force everywhere yet.
    waiting: BTreeMap<u64, BTreeSet<ObjectKey>>,
    notices: UnboundedSender<Notice>,
    /// The Lease of this controller.
    lease: ObjectKey,
    /// When a loss was told last.
    held: Option<Instant>,
}

impl Ledger {
    /// Nothing is known yet. Where an Event is about no Ingress, it is about the Lease.
    pub fn new(notices: UnboundedSender<Notice>, published: Published, lease: ObjectKey) -> Self {
        Ledger {
            leads: false,
            told: Instant::now(),
            observed: BTreeMap::new(),
            published,
            waiting: BTreeMap::new(),
            notices,
            lease,
            held: None,
        }
    }

    /// Whether this controller writes Events.
    pub fn lead(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// An Ingress is there. True: in a generation, or with annotations, that were not seen before, after it was seen in another form or
    /// not at all.
    pub fn observe(&mut self, ingress: &ObjectKey, observed: &Observed) -> bool {
        let old = self.observed.insert(ingress.clone(), observed.clone());
        old.is_none_or(|old| {
            (old.uid, old.generation, old.annotations)
                != (observed.uid.clone(), observed.generation, observed.annotations)
        })
    }

    /// An Ingress is gone.
    pub fn forget(&mut self, ingress: &ObjectKey) {
        self.observed.remove(ingress);
        self.leave(ingress);
    }

    fn leave(&mut self, ingress: &ObjectKey) {
        let Some(sequence) = self.sequences().remove(ingress) else { return };
        if let Some(waiting) = self.waiting.get_mut(&sequence) {
            waiting.remove(ingress);
            if waiting.is_empty() {
                self.waiting.remove(&sequence);
            }
        }
    }

    /// An Ingress went out with this publication. `tell`: an Event says when it is in force.
    pub fn published(&mut self, ingress: &ObjectKey, sequence: u64, tell: bool, world: &World) {
        self.leave(ingress);
        if world.class_of(ingress).is_none() {
            return;
        }
        self.sequences().insert(ingress.clone(), sequence);
        if tell {
            self.waiting.entry(sequence).or_default().insert(ingress.clone());
        }
    }

    fn sequences(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, u64>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with an Ingress has changed.
    pub fn tell(&self, ingress: &ObjectKey, world: &World) {
        let Some(observed) = self.observed.get(ingress).filter(|_| self.leads) else { return };
        for diagnostic in world.diagnostics_of(&ObjectRef::new(Kind::Ingress, ingress)) {
            let _ = self.notices.send(Notice::of(diagnostic, ingress, observed));
        }
    }

    /// A gateway holds back a loss.
    pub fn held(&mut self, loss: &Loss) {
        // Of many gateways one is enough.
        if self.held.is_some_and(|last| last.elapsed() < HELD_SPACING) {
            return;
        }
        self.held = Some(Instant::now());
        let _ = self.notices.send(Notice::loss_held(&self.lease, loss));
    }

    /// Gateways have taken something over.
    pub fn acknowledged(&mut self, by: &Acknowledged) {
        let rest = self.waiting.split_off(&(by.sequence + 1));
        let in_force = std::mem::replace(&mut self.waiting, rest);
        for ingress in in_force.values().flatten().filter(|_| self.leads) {
            if let Some(observed) = self.observed.get(ingress) {
                let notice = Notice::effective(ingress, observed, by.gateways, &by.version.to_string());
                let _ = self.notices.send(notice);
            }
        }
    }

    /// Tells everything again, if it is time.
    pub fn look(&mut self, world: &World) {
        if self.told.elapsed() >= AGAIN {
            self.tell_all(world);
        }
    }

    /// Tells everything that is wrong. The world has to be complete: of one that is still being listed it would be told what is only
    /// not there yet.
    pub fn tell_all(&mut self, world: &World) {
        self.told = Instant::now();
        if self.leads {
            self.observed.keys().for_each(|ingress| self.tell(ingress, world));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_gateways_that_hold_a_loss_back_one_is_told() {
        let (notices, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut ledger = Ledger::new(notices, Published::default(), ObjectKey::new("n", "lease"));
        for gateway in ["a", "b", "c"] {
            ledger.held(&Loss { gateway: gateway.to_owned(), routes: 20, left: 1 });
        }
        assert!(told.try_recv().is_ok_and(|notice| notice.note.contains("gateway a")));
        assert!(told.try_recv().is_err());
    }
}
