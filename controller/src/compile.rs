//! The compile thread: news of the watches into the world, its changes to gateways and statuses.
//!
//! Nothing is published before every watch has listed. After that each change goes out as it comes; those that come while one
//! is compiled are taken together, so that a burst costs few passes and a single change never waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use sluicegate_snapshot::compile::Access;
use sluicegate_snapshot::facts::Trimmed;
use sluicegate_snapshot::{Edit, Kind, ObjectKey, Settings, World};
use tokio::sync::watch;

use crate::publish::Publication;
use crate::shared::Shared;
use crate::status::Desk;
use crate::watch::{Feed, Needs, News};

/// Most news that is taken together.
const MAX_BATCH: usize = 4096;

/// What the thread works on.
pub struct Compiler {
    world: World,
    publication: Arc<Publication>,
    shared: Arc<Shared>,
    needs: watch::Sender<Needs>,
    desk: Desk,
    /// Feeds that have not listed yet.
    unlisted: BTreeSet<Feed>,
    is_published: bool,
}

/// What one batch of news asks for.
#[derive(Default)]
struct Batch {
    edits: Vec<Edit>,
    /// Ingresses whose status has to be looked at.
    ingresses: BTreeSet<ObjectKey>,
    all_statuses: bool,
    stop: bool,
}

impl Compiler {
    /// A compiler over an empty world that waits for `feeds`.
    pub fn new(
        settings: Settings,
        feeds: impl IntoIterator<Item = Feed>,
        publication: Arc<Publication>,
        shared: Arc<Shared>,
        needs: watch::Sender<Needs>,
        desk: Desk,
    ) -> Self {
        let unlisted = feeds.into_iter().collect();
        Compiler { world: World::new(settings), publication, shared, needs, desk, unlisted, is_published: false }
    }

    /// Works until it is told to stop, or nobody is left to bring news.
    pub fn run(mut self, news: &Receiver<News>) {
        while let Ok(first) = news.recv() {
            let started = Instant::now();
            let mut batch = Batch::default();
            self.take(first, &mut batch);
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
        }
    }

    fn take(&mut self, news: News, batch: &mut Batch) {
        match news {
            News::Put(object, observed) => self.put(object, observed, batch),
            News::Remove(kind, key) => {
                if kind == Kind::Ingress {
                    self.desk.forget(&key);
                }
                batch.edits.push(Edit::Remove(kind, key));
            }
            News::Seen(kind, version) => batch.edits.push(Edit::Seen(kind, version)),
            News::Listed(feed) => {
                self.unlisted.remove(&feed);
                self.shared.set_unlisted(&self.unlisted);
                let access = |namespace| Edit::Access(feed.kind, namespace, Access::Granted);
                batch.edits.extend(feed.namespace.clone().map(access));
            }
            News::Denied(feed, user) => {
                let access = |namespace| Edit::Access(feed.kind, namespace, Access::Denied { user });
                batch.edits.extend(feed.namespace.clone().map(access));
            }
            News::Ended(feed) => {
                let Some(namespace) = feed.namespace else { return };
                // Those of the world, and those that came in this batch.
                let came = batch.edits.iter().filter_map(|edit| match edit {
                    Edit::PutTrimmed(object) if object.facts.kind() == feed.kind => Some(object.facts.key()),
                    _ => None,
                });
                let came = came.filter(|key| key.namespace == namespace).cloned();
                let gone: Vec<ObjectKey> = came.chain(self.world.objects_in(feed.kind, &namespace)).collect();
                batch.edits.extend(gone.into_iter().map(|key| Edit::Remove(feed.kind, key)));
                batch.edits.push(Edit::Access(feed.kind, namespace, Access::Pending));
            }
            News::Addresses(addresses) => {
                self.desk.set_addresses(addresses);
                batch.all_statuses = true;
            }
            News::Stop => batch.stop = true,
        }
    }

    fn put(&mut self, object: Trimmed, observed: Option<crate::watch::Observed>, batch: &mut Batch) {
        if let Some(observed) = observed {
            let key = object.facts.key();
            self.desk.observe(key, observed);
            batch.ingresses.insert(key.clone());
        }
        batch.edits.push(Edit::PutTrimmed(object));
    }

    fn apply(&mut self, batch: Batch, started: Instant) {
        let count = batch.edits.len();
        let outcome = self.world.apply(batch.edits);
        self.tell_needs();
        let mut ingresses = batch.ingresses;
        let of_ingresses = outcome.diagnosed.iter().filter(|object| object.kind == Kind::Ingress);
        ingresses.extend(of_ingresses.map(|object| object.object_key()));
        if !self.is_published {
            if !self.is_complete() {
                return;
            }
            self.publication.start(self.world.snapshot().clone());
            self.is_published = true;
            let (served, version) = (self.world.served().count(), &self.world.snapshot().version);
            tracing::info!(ingresses = served, %version, "everything is listed; snapshots are published");
            let diagnostics = self.world.diagnostics();
            diagnostics.iter().for_each(|diagnostic| tracing::warn!("{diagnostic}"));
            self.shared.set_diagnostics(diagnostics);
            return self.look_at_all();
        }
        let changed = !outcome.delta.is_empty();
        self.publication.update(&outcome.delta);
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
        }
        match batch.all_statuses {
            true => self.look_at_all(),
            false => ingresses.iter().for_each(|key| self.desk.look(key, &self.world)),
        }
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
