//! Delivery to gateways: what is published, and the server that streams it.

mod server;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use sluicegate_snapshot::model::{Digest, Version};
use sluicegate_snapshot::wire::{Cursor, Frame, Journal, Next, Refused, Update};
use sluicegate_snapshot::{Delta, Snapshot};
use tokio::sync::watch;

pub use server::{Sources, serve};

/// The snapshot that gateways get, with its last changes. Changes are encoded once; a gateway that reads slowly costs nothing
/// but its position.
pub struct Publication {
    instance: Arc<str>,
    current: Mutex<Option<Current>>,
    /// Raised at every change, so that sessions look.
    changes: watch::Sender<u64>,
    gateways: Mutex<BTreeMap<u64, Gateway>>,
    next_gateway: AtomicU64,
}

struct Current {
    snapshot: Snapshot,
    journal: Journal,
    /// The last listing of everything that came to its end.
    listing: u64,
    /// How many changes were published.
    sequence: u64,
    /// The last of them by what they made, newest last: what a gateway acknowledges is found in it.
    digests: VecDeque<(u64, Digest)>,
}

/// Number of what is published first.
pub const FIRST: u64 = 1;

/// Most changes of which it is known what they made.
const MAX_DIGESTS: usize = 4096;

impl Current {
    fn note(&mut self) {
        self.digests.push_back((self.sequence, self.snapshot.version.digest));
        if self.digests.len() > MAX_DIGESTS {
            self.digests.pop_front();
        }
    }

    /// The last change that made this; 0: not known any more.
    fn sequence_of(&self, digest: Digest) -> u64 {
        self.digests.iter().rev().find(|(_, made)| *made == digest).map_or(0, |(sequence, _)| *sequence)
    }
}

/// What all connected gateways have taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Every change up to this one.
    pub sequence: u64,
    /// How many gateways are connected.
    pub gateways: usize,
    /// What is published.
    pub version: Version,
}

/// A connected gateway, for people and metrics.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Its name, as it says.
    pub name: Arc<str>,
    /// Who it is, by its certificate or token; absent where nobody is asked (`plaintext`).
    pub identity: Option<Arc<str>>,
    /// Where it connects from.
    pub peer: SocketAddr,
    /// Version of its program.
    pub program: Arc<str>,
    /// Addresses at which clients reach it, as it says.
    pub addresses: Vec<Arc<str>>,
    /// What it has in force.
    pub acknowledged: Option<Version>,
    /// What it cannot use.
    pub refused: Vec<Refused>,
    /// Number of the change that made what it has in force; 0: nothing yet, or not known.
    #[serde(skip)]
    pub sequence: u64,
}

impl Default for Publication {
    fn default() -> Self {
        Publication {
            instance: format!("{:016x}", rand::random::<u64>()).into(),
            current: Mutex::new(None),
            changes: watch::Sender::new(0),
            gateways: Mutex::default(),
            next_gateway: AtomicU64::new(0),
        }
    }
}

impl Publication {
    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells this publication from every other one ([`sluicegate_snapshot::wire::Welcome::instance`]).
    fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    /// Begins to publish.
    pub fn start(&self, snapshot: Snapshot) {
        let mut current =
            Current { snapshot, journal: Journal::default(), listing: 0, sequence: FIRST, digests: VecDeque::new() };
        current.note();
        *self.lock() = Some(current);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Publishes a change; costs O(change). One that changes nothing but the version goes out with the next heartbeat.
    /// `listed`: something is gone by not being in a list.
    /// Returns the change's number, or that of the last one where nothing changed.
    pub fn update(&self, delta: &Delta, listed: bool) -> u64 {
        let base = self.lock().as_ref().map(|current| current.snapshot.version.digest);
        // Encoded without the lock. Only the compile thread changes what is published.
        let frame = (!delta.is_empty())
            .then(|| Frame::Update(Box::new(Update::new(base, delta.clone()).from_list(listed))).encode());
        let mut current = self.lock();
        let Some(current) = &mut *current else { return 0 };
        let base = current.snapshot.version.digest;
        current.snapshot.apply(delta);
        if let Some(frame) = frame {
            match frame {
                Some(frame) => current.journal.push(base, frame.into()),
                None => current.journal.clear(),
            }
            current.sequence += 1;
            current.note();
        }
        self.changes.send_modify(|count| *count += 1);
        current.sequence
    }

    /// What all connected gateways have taken over; `None`: nobody is connected, or somebody has nothing yet.
    pub fn acknowledged(&self) -> Option<Acknowledged> {
        let version = self.version()?;
        let gateways = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = gateways.values().map(|gateway| gateway.sequence).min().filter(|sequence| *sequence > 0)?;
        Some(Acknowledged { sequence, gateways: gateways.len(), version })
    }

    /// Publishes another snapshot; costs O(both).
    /// Returns the change's number.
    pub fn replace(&self, snapshot: &Snapshot) -> u64 {
        let delta = self.lock().as_ref().map(|current| Delta::between(&current.snapshot, snapshot));
        delta.map_or(0, |delta| self.update(&delta, true))
    }

    /// Everything was listed anew, in this listing.
    pub fn listed(&self, listing: u64) {
        if let Some(current) = &mut *self.lock() {
            current.listing = listing;
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// The last listing of everything that came to its end.
    fn listing(&self) -> u64 {
        self.lock().as_ref().map_or(0, |current| current.listing)
    }

    /// The version that is published; `None`: nothing is yet.
    pub fn version(&self) -> Option<Version> {
        self.lock().as_ref().map(|current| current.snapshot.version.clone())
    }

    /// Waits until something is published.
    pub async fn published(&self) {
        let mut changes = self.changes.subscribe();
        while self.version().is_none() {
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// The published snapshot. Costs O(resources).
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.lock().as_ref().map(|current| current.snapshot.clone())
    }

    /// Where somebody can go on who has this content; `None`: everything is needed.
    fn find(&self, have: Digest) -> Option<Cursor> {
        let current = self.lock();
        let current = current.as_ref()?;
        current.journal.find(have, current.snapshot.version.digest)
    }

    fn next(&self, cursor: Cursor) -> Next {
        self.lock().as_ref().map_or(Next::Nothing, |current| current.journal.read(cursor))
    }

    /// Everything, and the position after it.
    fn everything(&self) -> Option<(Snapshot, Cursor)> {
        let current = self.lock();
        let current = current.as_ref()?;
        Some((current.snapshot.clone(), current.journal.end()))
    }

    /// The connected gateways.
    pub fn gateways(&self) -> Vec<Gateway> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn enter(self: &Arc<Self>, gateway: Gateway) -> Entered {
        let id = self.next_gateway.fetch_add(1, Ordering::Relaxed);
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner).insert(id, gateway);
        Entered { publication: self.clone(), id }
    }
}

/// A gateway in the list, for as long as its session lives.
struct Entered {
    publication: Arc<Publication>,
    id: u64,
}

impl Entered {
    /// Notes what the gateway has, and says what it refuses since now.
    fn acknowledge(&self, version: Version, refused: Vec<Refused>) {
        let sequence = self.publication.lock().as_ref().map_or(0, |current| current.sequence_of(version.digest));
        let mut gateways = self.publication.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gateway) = gateways.get_mut(&self.id) else { return };
        for new in refused.iter().filter(|new| !gateway.refused.contains(new)) {
            tracing::warn!(gateway = %gateway.name, secret = %new.secret, "a gateway cannot use it: {}", new.message);
        }
        gateway.acknowledged = Some(version);
        gateway.sequence = sequence;
        gateway.refused = refused;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.publication.gateways.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
