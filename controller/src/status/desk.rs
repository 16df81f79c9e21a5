//! Compares what the status of each Ingress says with what it should say. Belongs to the compile thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_snapshot::compile::{IngressPoint, PublishAddress};
use sluicegate_snapshot::model::Digest;
use sluicegate_snapshot::{ObjectKey, World};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::digest;
use crate::watch::Observed;

/// How often somebody else may write over a status within [`FORGET`] before it is left to them.
const FIGHTS: usize = 3;

/// How long a foreign writer is remembered, and a status left to it.
const FORGET: Duration = Duration::from_secs(600);

/// What the writer is asked for.
#[derive(Debug)]
pub enum Job {
    /// To write a status.
    Write(Write),
    /// To say when everything is written.
    Flush(oneshot::Sender<()>),
}

/// A status to be written.
#[derive(Debug)]
pub struct Write {
    /// The Ingress.
    pub ingress: ObjectKey,
    /// Its new `status.loadBalancer.ingress`.
    pub points: Vec<IngressPoint>,
    /// The `resourceVersion` that it was seen with: a write to a newer one is refused by the API server, and a newer look follows.
    /// `None`: whatever it is by now.
    pub resource_version: Option<Arc<str>>,
}

/// Somebody else writes a status too.
#[derive(Debug)]
struct Fight {
    with: Arc<str>,
    times: usize,
    last: Instant,
}

/// What is known of statuses.
pub struct Desk {
    /// The addresses of the gateways; `None`: not known, so that nothing is written.
    addresses: Option<Vec<PublishAddress>>,
    /// This controller is the one that writes.
    leads: bool,
    observed: BTreeMap<ObjectKey, Observed>,
    /// What was asked to be written last.
    asked: BTreeMap<ObjectKey, Asked>,
    fights: BTreeMap<ObjectKey, Fight>,
    jobs: UnboundedSender<Job>,
}

/// A write that was asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    digest: Digest,
    /// It was seen in the Ingress.
    seen: bool,
}

impl Desk {
    /// Nothing is known yet. Without `addresses` (`None`) no status is written until they come.
    pub fn new(addresses: Option<Vec<PublishAddress>>, jobs: UnboundedSender<Job>) -> Self {
        let (observed, asked, fights) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Desk { addresses, leads: false, observed, asked, fights, jobs }
    }

    /// The gateways have other addresses.
    pub fn set_addresses(&mut self, addresses: Vec<PublishAddress>) {
        self.addresses = Some(addresses);
    }

    /// Whether this controller writes statuses.
    pub fn lead(&mut self, leads: bool) {
        self.leads = leads;
        self.asked.clear();
    }

    /// What the status of an Ingress says.
    pub fn observe(&mut self, ingress: &ObjectKey, observed: Observed) {
        if let Some(asked) = self.asked.get(ingress).copied() {
            let is_ours = asked.digest == observed.digest;
            if let (true, false, Some(manager)) = (asked.seen, is_ours, &observed.writers.foreign) {
                self.overwritten(ingress, manager.clone());
            }
            match is_ours {
                true => drop(self.asked.insert(ingress.clone(), Asked { seen: true, ..asked })),
                false => drop(self.asked.remove(ingress)),
            }
        }
        self.observed.insert(ingress.clone(), observed);
    }

    fn overwritten(&mut self, ingress: &ObjectKey, manager: Arc<str>) {
        let now = Instant::now();
        let fight =
            self.fights.entry(ingress.clone()).or_insert_with(|| Fight { with: manager.clone(), times: 0, last: now });
        if fight.last.elapsed() > FORGET {
            fight.times = 0;
        }
        (fight.with, fight.last) = (manager, now);
        fight.times += 1;
        let what = match fight.times >= FIGHTS {
            true => "it is left as they write it, for ten minutes",
            false => "it is set right",
        };
        tracing::warn!(%ingress, manager = %fight.with, "somebody else has written over the status of an Ingress; {what}");
    }

    /// Statuses that are left to somebody else, in sentences.
    pub fn foreign(&self) -> Vec<String> {
        let left = self.fights.iter().filter(|(_, fight)| fight.is_on());
        left.map(|(ingress, fight)| {
            format!(
                "the status of Ingress {ingress} is written by `{}` too, and left to it: let one of them write it",
                fight.with
            )
        })
        .collect()
    }

    /// An Ingress is gone.
    pub fn forget(&mut self, ingress: &ObjectKey) {
        self.asked.remove(ingress);
        self.observed.remove(ingress);
        self.fights.remove(ingress);
    }

    /// Has the status of an Ingress written where it is not what it should be. One that is not ours is not touched, unless it
    /// was: then what we wrote goes.
    pub fn look(&mut self, ingress: &ObjectKey, world: &World) {
        let (Some(addresses), Some(observed)) = (&self.addresses, self.observed.get(ingress)) else { return };
        let points = match world.status(ingress, addresses) {
            Some(points) => points,
            None if observed.writers.us && observed.writers.foreign.is_none() => Vec::new(),
            None => return,
        };
        self.write(ingress, points);
    }

    /// Has every status emptied that was written here. The last thing that is done, so no newer look follows.
    pub fn clear(&mut self) {
        let written = |ingress: &&ObjectKey| {
            let is_ours = self.observed.get(*ingress).is_some_and(|observed| observed.writers.us);
            let is_asked = self.asked.get(*ingress).is_some_and(|asked| asked.digest != Digest::default());
            let is_left = self.fights.get(*ingress).is_some_and(Fight::is_on);
            (is_ours || is_asked) && !is_left
        };
        for ingress in self.observed.keys().filter(|_| self.leads).filter(written) {
            let write = Write { ingress: ingress.clone(), points: Vec::new(), resource_version: None };
            let _ = self.jobs.send(Job::Write(write));
        }
    }

    /// Has everything written that was asked for, and says when it is.
    pub fn flush(&self, done: oneshot::Sender<()>) {
        let _ = self.jobs.send(Job::Flush(done));
    }

    fn write(&mut self, ingress: &ObjectKey, points: Vec<IngressPoint>) {
        let Some(observed) = self.observed.get(ingress).filter(|_| self.leads) else { return };
        let wanted = digest(&Some(&points));
        let is_left = self.fights.get(ingress).is_some_and(Fight::is_on);
        let is_asked = self.asked.get(ingress).is_some_and(|asked| asked.digest == wanted && !asked.seen);
        if wanted == observed.digest {
            self.asked.insert(ingress.clone(), Asked { digest: wanted, seen: true });
            return;
        }
        if is_left || is_asked {
            return;
        }
        self.asked.insert(ingress.clone(), Asked { digest: wanted, seen: false });
        let resource_version = Some(observed.resource_version.clone());
        let _ = self.jobs.send(Job::Write(Write { ingress: ingress.clone(), points, resource_version }));
    }
}

impl Fight {
    fn is_on(&self) -> bool {
        self.times >= FIGHTS && self.last.elapsed() < FORGET
    }
}
