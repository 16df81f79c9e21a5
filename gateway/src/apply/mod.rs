//! The applier: the one thread that turns changes of the source into tables.
//!
//! edits → World → delta → Replica → change → table → `ArcSwap`. Tables are built and dropped here, off the workers.

pub mod follow;
mod restored;
mod retire;
pub mod state_file;

use std::sync::Arc;

use arc_swap::ArcSwap;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::{Delta, Edit, Outcome, Settings, World};

use crate::manifests::source::Certainty;
use crate::shared::Shared;
use crate::table::{GatewayBind, Table};
use retire::Retired;
use state_file::StateFile;

/// Turns edits into tables.
pub struct Applier {
    world: World,
    replica: Replica,
    bind: GatewayBind,
    table: Arc<ArcSwap<Table>>,
    shared: Arc<Shared>,
    retired: Retired,
    state_file: Option<StateFile>,
    /// Nothing about the source was in doubt once; before that the state file fills the gaps.
    synced: bool,
    /// Certificates whose key has yet to come.
    awaited_keys: usize,
}

impl Applier {
    /// An applier over an empty world.
    pub fn new(settings: Settings, bind: GatewayBind, shared: Arc<Shared>, state_file: Option<StateFile>) -> Self {
        Applier {
            world: World::new(settings),
            replica: Replica::default(),
            bind,
            table: shared.table.clone(),
            shared,
            retired: Retired::default(),
            state_file,
            synced: false,
            awaited_keys: 0,
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

    /// Whether nothing about the source was in doubt once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The compiled world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Takes edits over.
    ///
    /// Until nothing was in doubt once, what the state file knows and the source may only have lost stays in force: a
    /// document that is broken at the start must not cost its routes. From then on the source itself remembers.
    pub fn apply(&mut self, edits: Vec<Edit>, certainty: &Certainty) -> Outcome {
        let outcome = self.world.apply(edits);
        let delta = if self.synced {
            outcome.delta.clone()
        } else {
            let mut delta = Delta::between(self.replica.snapshot(), self.world.snapshot());
            self.synced = certainty.is_clean();
            if !self.synced {
                restored::keep_losses(&mut delta, self.replica.snapshot(), &self.world, certainty);
            }
            delta
        };
        if !delta.is_empty() || !self.shared.state.has_table() {
            self.put_in_force(&delta);
        }
        outcome
    }

    fn put_in_force(&mut self, delta: &Delta) {
        let change = self.replica.apply(delta);
        let table = self.table.load().apply(&change, &mut self.bind);
        self.swap(table);
        if let Some(file) = &mut self.state_file {
            file.record(delta);
        }
    }

    fn swap(&mut self, table: Table) {
        // Keys are only missing after a start from the state file, and come once.
        if self.awaited_keys > 0 {
            self.awaited_keys = self.replica.awaited_keys();
        }
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
