//! The compile thread: news of the watches into the world, its changes to gateways and statuses.
//!
//! Nothing is published before every watch has listed. After that each change goes out as it comes; those that come while one
//! is compiled are taken together, so that a burst costs few passes and a single change never waits.

mod news;
mod position;
mod relist;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use sluicegate_snapshot::compile::Access;
use sluicegate_snapshot::{Edit, Kind, ObjectKey, Settings, World};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::events::Ledger;
use crate::owners::Notice;
use crate::publish::{FIRST, Publication};
use crate::shared::Shared;
use crate::status::Desk;
use crate::watch::{Feed, Needs, News};
use position::Position;
use relist::Ended;
pub use relist::Relist;

/// Most news that is taken together.
const MAX_BATCH: usize = 4096;

/// What the thread works on.
pub struct Compiler {
    world: World,
    publication: Arc<Publication>,
    shared: Arc<Shared>,
    needs: watch::Sender<Needs>,
    desk: Desk,
    ledger: Ledger,
    owners: Option<UnboundedSender<Notice>>,
    /// Feeds that are always followed.
    feeds: BTreeSet<Feed>,
    /// Those of them that have not listed yet.
    unlisted: BTreeSet<Feed>,
    position: Position,
    relist: Relist,
    stage: Stage,
}

/// Where the thread's results go.
pub struct Outlets {
    /// To gateways.
    pub publication: Arc<Publication>,
    /// To the admin listener.
    pub shared: Arc<Shared>,
    /// To the watches of Secrets and ConfigMaps.
    pub needs: watch::Sender<Needs>,
    /// To statuses.
    pub desk: Desk,
    /// To Events.
    pub ledger: Ledger,
    /// To records of whose hosts are, if anybody keeps them.
    pub owners: Option<UnboundedSender<Notice>>,
    /// To all watches.
    pub relist: Relist,
}

/// Whether snapshots are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not yet: not everything was listed.
    Starting,
    Publishing,
    /// Not now: the API server was restored, and not everything was listed since.
    Restoring,
}

/// What one batch of news asks for.
#[derive(Default)]
struct Batch {
    edits: Vec<Edit>,
    /// Ingresses whose status has to be looked at.
    ingresses: BTreeSet<ObjectKey>,
    /// Those of them that have a new spec.
    renewed: BTreeSet<ObjectKey>,
    all_statuses: bool,
    /// Something is gone by not being in a list.
    listed: bool,
    stop: bool,
}

impl Compiler {
    /// A compiler over an empty world that waits for `feeds`.
    pub fn new(settings: Settings, feeds: impl IntoIterator<Item = Feed>, outlets: Outlets) -> Self {
        let feeds: BTreeSet<Feed> = feeds.into_iter().collect();
        let Outlets { publication, shared, needs, desk, ledger, owners, relist } = outlets;
        Compiler {
            world: World::new(settings),
            publication,
            shared,
            needs,
            desk,
            ledger,
            owners,
            unlisted: feeds.clone(),
            feeds,
            position: Position::default(),
            relist,
            stage: Stage::Starting,
        }
    }

    /// Works until it is told to stop, or nobody is left to bring news.
    pub fn run(mut self, news: &Receiver<News>) {
        loop {
            let first = match self.relist.wake() {
                None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => news.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let started = Instant::now();
            let mut batch = Batch::default();
            match first {
                Ok(first) => self.take(first, &mut batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 1..MAX_BATCH {
                match news.try_recv() {
                    Ok(more) => self.take(more, &mut batch),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            if batch.stop {
                return;
            }
            self.apply(batch, started);
            self.go_on_listing();
        }
    }

    /// Begins and ends listings of everything.
    fn go_on_listing(&mut self) {
        let now = Instant::now();
        if let Some(ended) = self.relist.end(&mut self.position, now) {
            self.world.stand_at(self.position.version());
            let delta = self.world.apply([]).delta;
            match self.stage {
                Stage::Starting => {}
                Stage::Publishing => drop(self.publication.update(&delta, false)),
                Stage::Restoring => {
                    self.stage = Stage::Publishing;
                    let sequence = self.publication.replace(self.world.snapshot());
                    self.went_out(sequence);
                    self.look_at_all();
                }
            }
            if ended == Ended::Complete {
                self.publication.listed(self.relist.generation());
            }
        }
        if self.stage != Stage::Starting {
            let feeds = || self.feeds.iter().chain(self.position.feeds()).cloned().collect();
            self.relist.look(&self.position, feeds, now);
        }
    }

    fn apply(&mut self, batch: Batch, started: Instant) {
        let count = batch.edits.len();
        self.world.stand_at(self.position.version());
        let mut outcome = self.world.apply(batch.edits);
        if !outcome.owners.is_empty() {
            self.note(Notice::Owners(std::mem::take(&mut outcome.owners)));
        }
        self.tell_needs();
        let mut ingresses = batch.ingresses;
        let of_ingresses = outcome.diagnosed.iter().filter(|object| object.kind == Kind::Ingress);
        ingresses.extend(of_ingresses.map(|object| object.object_key()));
        if self.stage == Stage::Starting {
            if !self.is_complete() {
                return;
            }
            self.publication.start(self.world.snapshot().clone());
            self.stage = Stage::Publishing;
            self.note(Notice::Complete);
            let (served, version) = (self.world.served().count(), &self.world.snapshot().version);
            tracing::info!(ingresses = served, %version, "everything is listed; snapshots are published");
            let diagnostics = self.world.diagnostics();
            diagnostics.iter().for_each(|diagnostic| tracing::warn!("{diagnostic}"));
            self.shared.set_diagnostics(diagnostics);
            self.went_out(FIRST);
            return self.look_at_all();
        }
        let changed = !outcome.delta.is_empty() && self.stage == Stage::Publishing;
        if self.stage == Stage::Publishing {
            let sequence = self.publication.update(&outcome.delta, batch.listed);
            batch.renewed.iter().for_each(|key| self.ledger.published(key, sequence, true, &self.world));
            if !changed && !batch.renewed.is_empty() {
                // It went out before, perhaps as another Ingress: gateways that have that have it.
                if let Some(by) = self.publication.acknowledged() {
                    self.ledger.acknowledged(&by);
                }
            }
        }
        let elapsed = started.elapsed();
        self.shared.metrics.compiled(elapsed);
        if changed {
            let version = &self.world.snapshot().version;
            tracing::info!(edits = count, %version, us = elapsed.as_micros() as u64, "snapshot published");
        }
        if !outcome.diagnosed.is_empty() {
            for diagnostic in outcome.diagnosed.iter().flat_map(|object| self.world.diagnostics_of(object)) {
                tracing::warn!("{diagnostic}");
            }
            self.shared.set_diagnostics(self.world.diagnostics());
            let ingresses = outcome.diagnosed.iter().filter(|object| object.kind == Kind::Ingress);
            if self.stage == Stage::Publishing {
                ingresses.for_each(|object| self.ledger.tell(&object.object_key(), &self.world));
            }
        }
        if self.stage == Stage::Publishing {
            self.ledger.look(&self.world);
        }
        match batch.all_statuses {
            true => self.look_at_all(),
            false => ingresses.iter().for_each(|key| self.desk.look(key, &self.world)),
        }
        self.shared.set_foreign(self.desk.foreign());
    }

    /// Tells who records whose hosts are.
    fn note(&self, notice: Notice) {
        if let Some(owners) = &self.owners {
            let _ = owners.send(notice);
        }
    }

    /// Every Ingress of ours went out with this publication.
    fn went_out(&mut self, sequence: u64) {
        let keys: Vec<ObjectKey> = self.world.served().cloned().collect();
        keys.iter().for_each(|key| self.ledger.published(key, sequence, false, &self.world));
        self.ledger.tell_all(&self.world);
    }

    fn look_at_all(&mut self) {
        let keys: Vec<ObjectKey> = self.world.ingresses().cloned().collect();
        keys.iter().for_each(|key| self.desk.look(key, &self.world));
    }

    /// Secrets and ConfigMaps are watched where they are named.
    fn tell_needs(&self) {
        let needs = Needs::of(&self.world);
        self.needs.send_if_modified(|current| std::mem::replace(current, needs.clone()) != needs);
    }

    /// Every feed has listed, and of every namespace whose Secrets or ConfigMaps are named it is known whether they may be read.
    fn is_complete(&self) -> bool {
        self.unlisted.is_empty() && self.needs.borrow().are_settled(&self.world)
    }
}

/// What is known of a namespace's Secrets or ConfigMaps; nothing where a feed is not of one namespace.
fn access(feed: &Feed, access: Access) -> Option<Edit> {
    Some(Edit::Access(feed.kind, feed.namespace.clone()?, access))
}
