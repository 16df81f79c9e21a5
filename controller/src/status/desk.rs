//! Compares what the status of each Ingress says with what it should say. Belongs to the compile thread.

use std::collections::{BTreeMap, BTreeSet};

use sluicegate_snapshot::compile::{IngressPoint, PublishAddress};
use sluicegate_snapshot::model::Digest;
use sluicegate_snapshot::{ObjectKey, World};
use tokio::sync::mpsc::UnboundedSender;

use super::digest;
use crate::watch::Observed;

/// A status to be written.
#[derive(Debug)]
pub struct Write {
    /// The Ingress.
    pub ingress: ObjectKey,
    /// Its new `status.loadBalancer.ingress`.
    pub points: Vec<IngressPoint>,
    /// The `resourceVersion` that it was seen with: a write to a newer one is refused by the API server, and a newer look follows.
    pub resource_version: std::sync::Arc<str>,
}

/// What is known of statuses.
pub struct Desk {
    /// The addresses of the gateways; `None`: not known, so that nothing is written.
    addresses: Option<Vec<PublishAddress>>,
    observed: BTreeMap<ObjectKey, Observed>,
    /// Writes that were asked for and not yet seen.
    asked: BTreeMap<ObjectKey, Digest>,
    /// Ingresses that were ours: their status goes when they stop being it.
    ours: BTreeSet<ObjectKey>,
    writes: UnboundedSender<Write>,
}

impl Desk {
    /// Nothing is known yet. Without `addresses` (`None`) no status is written until they come.
    pub fn new(addresses: Option<Vec<PublishAddress>>, writes: UnboundedSender<Write>) -> Self {
        Desk { addresses, observed: BTreeMap::new(), asked: BTreeMap::new(), ours: BTreeSet::new(), writes }
    }

    /// The gateways have other addresses.
    pub fn set_addresses(&mut self, addresses: Vec<PublishAddress>) {
        self.addresses = Some(addresses);
    }

    /// What the status of an Ingress says.
    pub fn observe(&mut self, ingress: &ObjectKey, observed: Observed) {
        self.asked.remove(ingress);
        self.observed.insert(ingress.clone(), observed);
    }

    /// An Ingress is gone.
    pub fn forget(&mut self, ingress: &ObjectKey) {
        self.asked.remove(ingress);
        self.observed.remove(ingress);
        self.ours.remove(ingress);
    }

    /// Has the status of an Ingress written where it is not what it should be. One that is not ours, and was not before, is not
    /// touched.
    pub fn look(&mut self, ingress: &ObjectKey, world: &World) {
        let (Some(addresses), Some(observed)) = (&self.addresses, self.observed.get(ingress)) else { return };
        let points = match world.status(ingress, addresses) {
            Some(points) => {
                self.ours.insert(ingress.clone());
                points
            }
            None if self.ours.contains(ingress) => {
                if observed.digest == Digest::default() {
                    self.ours.remove(ingress);
                    return;
                }
                Vec::new()
            }
            None => return,
        };
        let wanted = digest(&Some(&points));
        if wanted == observed.digest || self.asked.get(ingress) == Some(&wanted) {
            return;
        }
        self.asked.insert(ingress.clone(), wanted);
        let resource_version = observed.resource_version.clone();
        let _ = self.writes.send(Write { ingress: ingress.clone(), points, resource_version });
    }
}
