//! Compiling in the gateway: edits of files into deltas for the applier.

use std::sync::Arc;

use sluicegate_snapshot::{Delta, Edit, Outcome, Settings, World};

use super::{Applier, restored};
use crate::clock;
use crate::manifests::source::Certainty;
use crate::shared::Shared;

/// Seconds after which the world is told the time again.
const TIME: i64 = 60;

/// Turns edits into tables.
pub struct Compiler {
    world: World,
    applier: Applier,
    shared: Arc<Shared>,
    /// Nothing about the source was in doubt once; before that the state file fills the gaps.
    synced: bool,
    /// Unix seconds that the world was told last.
    told: i64,
}

impl Compiler {
    /// A compiler over an empty world.
    pub fn new(settings: Settings, applier: Applier, shared: Arc<Shared>) -> Self {
        Compiler { world: World::new(settings), applier, shared, synced: false, told: 0 }
    }

    /// See [`Applier::restore`].
    pub fn restore(&mut self) -> bool {
        self.applier.restore()
    }

    /// Whether nothing about the source was in doubt once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether the world has to be told the time: certificates end without anybody writing a file.
    pub fn is_time_due(&self) -> bool {
        clock::unix_seconds() >= self.told.saturating_add(TIME)
    }

    /// The compiled world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Takes edits over.
    ///
    /// Until nothing was in doubt once, what the state file knows and the source may only have lost stays in force: a
    /// document that is broken at the start must not cost its routes. From then on the source itself remembers.
    pub fn apply(&mut self, mut edits: Vec<Edit>, certainty: &Certainty) -> Outcome {
        if self.is_time_due() {
            self.told = clock::unix_seconds();
            edits.push(Edit::Now(self.told));
        }
        let outcome = self.world.apply(edits);
        let delta = if self.synced {
            outcome.delta.clone()
        } else {
            let mut delta = Delta::between(self.applier.snapshot(), self.world.snapshot());
            self.synced = certainty.is_clean();
            if !self.synced {
                restored::keep_losses(&mut delta, self.applier.snapshot(), &self.world, certainty);
            }
            delta
        };
        if !delta.is_empty() || !self.shared.state.has_table() {
            self.applier.put_in_force(&delta);
        }
        outcome
    }

    /// See [`Applier::sweep`].
    pub fn sweep(&mut self) {
        self.applier.sweep();
    }
}
