//! The applier: the one thread that turns changes of the source into tables.
//!
//! files: edits → [`Compiler`] (World) → delta; controller: delta. Then: delta → Replica → change → table → `ArcSwap`. Tables are
//! built and dropped here, off the workers.

pub mod compiler;
pub mod follow;
mod restored;
mod retire;
pub mod state_file;
pub mod state_format;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sluicegate_snapshot::model::Version;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::wire::Refused;
use sluicegate_snapshot::{Delta, ObjectKey, Snapshot};

pub use compiler::Compiler;

use crate::shared::Shared;
use crate::table::{GatewayBind, Table};
use retire::Retired;
use state_file::StateFile;

/// Turns deltas into tables.
pub struct Applier {
    replica: Replica,
    bind: GatewayBind,
    table: Arc<ArcSwap<Table>>,
    shared: Arc<Shared>,
    retired: Retired,
    state_file: Option<StateFile>,
    /// Certificates whose key has yet to come.
    awaited_keys: usize,
    /// What is published and cannot be used, by Secret.
    refused: BTreeMap<ObjectKey, Refused>,
}

impl Applier {
    /// An applier that has nothing yet.
    pub fn new(bind: GatewayBind, shared: Arc<Shared>, state_file: Option<StateFile>) -> Self {
        Applier {
            replica: Replica::default(),
            bind,
            table: shared.table.clone(),
            shared,
            retired: Retired::default(),
            state_file,
            awaited_keys: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Puts the last good snapshot of the state file in force. True: there was one.
    pub fn restore(&mut self) -> bool {
        let Some(file) = &mut self.state_file else { return false };
        match file.read() {
            Ok(Some(replica)) => {
                let change = replica.everything();
                file.start_from(&replica);
                self.awaited_keys = replica.awaited_keys();
                self.replica = replica;
                self.bind.registry.guard().obey(&self.replica.snapshot().globals);
                let table = self.table.load().apply(&change, &mut self.bind);
                self.swap(table);
                tracing::info!(version = %self.replica.snapshot().version, "last good snapshot is in force");
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::error!(%error, "state file is not used");
                false
            }
        }
    }

    /// What was published last.
    pub fn snapshot(&self) -> &Snapshot {
        self.replica.snapshot()
    }

    /// Whether the keys of some certificates have yet to come.
    pub fn awaits_keys(&self) -> bool {
        self.awaited_keys > 0
    }

    /// What is published and cannot be used.
    pub fn refused(&self) -> Vec<Refused> {
        self.refused.values().cloned().collect()
    }

    /// Takes a delta over.
    pub fn put_in_force(&mut self, delta: &Delta) {
        let change = self.replica.apply(delta);
        if let Some(globals) = &delta.globals {
            self.bind.registry.guard().obey(globals);
        }
        delta.certificates.keys().for_each(|secret| drop(self.refused.remove(secret)));
        let table = self.table.load().apply(&change, &mut self.bind);
        self.swap(table);
        if let Some(file) = &mut self.state_file {
            file.record(delta);
        }
    }

    /// The content in force has this version too: later ones follow it. Costs nothing unless the epoch changes.
    pub fn adopt(&mut self, version: Version) {
        let is_new_epoch = version.epoch != self.replica.snapshot().version.epoch;
        match is_new_epoch {
            // Shown in metrics and kept over restarts, like a change.
            true => self.put_in_force(&Delta { version, ..Delta::default() }),
            false => self.replica.adopt(version),
        }
    }

    fn swap(&mut self, table: Table) {
        // Keys are only missing after a start from the state file, and come once.
        if self.awaited_keys > 0 {
            self.awaited_keys = self.replica.awaited_keys();
        }
        let refused = self.bind.refused.drain(..).map(|refused| (refused.secret.clone(), refused));
        self.refused.extend(refused);
        let version = table.version.clone();
        let old = self.table.swap(Arc::new(table));
        self.retired.push(old);
        self.shared.state.table_applied(self.awaited_keys, self.replica.held_back());
        tracing::debug!(%version, "table applied");
    }

    /// Drops tables that no worker reads any more. Call now and then.
    pub fn sweep(&mut self) {
        self.retired.sweep();
    }
}
