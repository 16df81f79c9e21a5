//! What the threads of a gateway share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::clock;
use crate::io::pressure::{Ladder, Pressure};
use crate::lane::room::Room;
use crate::manifests::{Placed, Problem};
use crate::observe::{AccessLog, Cells};
use crate::settings::Settings;
use crate::table::Table;
use crate::tls::ServerCertificate;

/// Everything that workers, the applier and the admin listener have in common.
pub struct Shared {
    /// Settings; they do not change while the process runs.
    pub settings: Settings,
    /// `serverHeader`, ready to be sent.
    pub server_header: Option<HeaderValue>,
    /// The table in force.
    pub table: Arc<ArcSwap<Table>>,
    /// The certificate for names that nobody claims, where the table has none.
    pub default_certificate: Arc<ArcSwap<ServerCertificate>>,
    /// Cells of each worker.
    pub cells: Vec<Arc<Cells>>,
    /// The access log.
    pub access_log: AccessLog,
    /// Readiness, diagnostics, ages.
    pub state: State,
    /// What is known of memory.
    pub memory: Arc<Ladder>,
    /// How many requests may be on their way to backends.
    pub room: Room,
}

impl Shared {
    /// Whether another request of a worker may be on its way to a backend.
    pub fn has_room(&self, own: &Cells) -> bool {
        self.room.has(own, &self.cells)
    }

    /// Whether connections end with their next answer.
    pub fn keeps_none(&self) -> bool {
        self.is_draining() || self.memory.pressure() >= Pressure::NoKeepAlive
    }

    /// Whether the gateway ends, and all connections with it.
    pub fn is_draining(&self) -> bool {
        self.state.stage() >= Stage::Draining
    }
}

/// The life of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not everything is there yet.
    Starting,
    /// Serving.
    Serving,
    /// SIGTERM came; connections are still accepted.
    LameDuck,
    /// Connections are no longer accepted; open ones end.
    Draining,
}

/// State that the admin listener shows.
#[derive(Default)]
pub struct State {
    stage: AtomicU8,
    /// Workers that listen.
    pub listening: AtomicUsize,
    table_applied: AtomicBool,
    follower_lost: AtomicBool,
    /// Certificates whose key has yet to come.
    awaited_keys: AtomicUsize,
    held_back: AtomicUsize,
    /// Milliseconds of [`clock`] when the source was last in step.
    in_step_at: AtomicU64,
    /// The stream of a gateway that follows controllers.
    pub controller: ControllerState,
    diagnostics: Mutex<Arc<Vec<Placed>>>,
    problems: Mutex<Arc<Vec<Problem>>>,
}

/// How the stream from a controller is doing.
#[derive(Default)]
pub struct ControllerState {
    connected: AtomicBool,
    connections: AtomicU64,
    resyncs: AtomicU64,
    refusals: AtomicU64,
    holds: AtomicBool,
}

/// [`ControllerState`], read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerReading {
    /// A controller is followed.
    pub connected: bool,
    /// How often one was connected.
    pub connections: u64,
    /// How often what came did not fit.
    pub resyncs: u64,
    /// How often what came was not taken, since it may be older than what is in force.
    pub refusals: u64,
    /// What came is held back, since it lost most routes.
    pub holds: bool,
}

impl ControllerState {
    /// A controller answered.
    pub fn connected(&self) {
        self.connected.store(true, Ordering::SeqCst);
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    /// It is gone.
    pub fn disconnected(&self) {
        self.connected.store(false, Ordering::SeqCst);
    }

    /// What came did not fit, everything was asked for.
    pub fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::SeqCst);
    }

    /// What came may be older than what is in force.
    pub fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether what came is held back.
    pub fn holds(&self, holds: bool) {
        self.holds.store(holds, Ordering::SeqCst);
    }

    /// All of it.
    pub fn read(&self) -> ControllerReading {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        ControllerReading {
            connected: self.connected.load(Ordering::SeqCst),
            connections: count(&self.connections),
            resyncs: count(&self.resyncs),
            refusals: count(&self.refusals),
            holds: self.holds.load(Ordering::SeqCst),
        }
    }
}

impl State {
    /// Moves on to a later stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            2 => Stage::LameDuck,
            _ => Stage::Draining,
        }
    }

    /// A table is in force; the keys of so many of its certificates have yet to come, so many resources have their last
    /// good form.
    pub fn table_applied(&self, awaited_keys: usize, held_back: usize) {
        self.awaited_keys.store(awaited_keys, Ordering::SeqCst);
        self.held_back.store(held_back, Ordering::SeqCst);
        self.table_applied.store(true, Ordering::SeqCst);
    }

    /// Nobody follows the source any more.
    pub fn follower_lost(&self) {
        self.follower_lost.store(true, Ordering::SeqCst);
    }

    /// Whether a table is in force.
    pub fn has_table(&self) -> bool {
        self.table_applied.load(Ordering::SeqCst)
    }

    /// The source was read and everything in it is in force.
    pub fn in_step(&self) {
        self.in_step_at.store(clock::now_ms(), Ordering::SeqCst);
    }

    /// Time since the source was last in step.
    pub fn config_age(&self) -> Duration {
        Duration::from_millis(clock::now_ms().saturating_sub(self.in_step_at.load(Ordering::SeqCst)))
    }

    /// Resources served in their last good form.
    pub fn held_back(&self) -> usize {
        self.held_back.load(Ordering::SeqCst)
    }

    /// Why the gateway is not ready; `Ok`: it is.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn ready(&self, workers: usize) -> Result<(), String> {
        if self.stage() >= Stage::LameDuck {
            return Err("shutting down".to_owned());
        }
        if !self.table_applied.load(Ordering::SeqCst) {
            return Err("no table is applied yet".to_owned());
        }
        if self.follower_lost.load(Ordering::SeqCst) {
            return Err("the configuration is no longer followed; see the log".to_owned());
        }
        let listening = self.listening.load(Ordering::SeqCst);
        if listening < workers {
            return Err(format!("{listening} of {workers} workers listen"));
        }
        match self.awaited_keys.load(Ordering::SeqCst) {
            0 => Ok(()),
            count => Err(format!(
                "{count} certificates have no private key yet; it comes with the source of the configuration"
            )),
        }
    }

    /// New diagnostics of the objects.
    pub fn set_diagnostics(&self, diagnostics: Vec<Placed>) {
        *self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(diagnostics);
    }

    /// Diagnostics of the objects.
    pub fn diagnostics(&self) -> Arc<Vec<Placed>> {
        self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// New problems of the files.
    pub fn set_problems(&self, problems: Vec<Problem>) {
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(problems);
    }

    /// Problems of the files.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Diagnostics and problems by severity and reason.
    pub fn diagnostic_counts(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for Placed { diagnostic, .. } in self.diagnostics().iter() {
            *counts.entry((diagnostic.severity.as_str(), diagnostic.reason.as_str())).or_default() += 1;
        }
        for problem in self.problems().iter() {
            *counts.entry((if problem.error { "error" } else { "warning" }, "Manifest")).or_default() += 1;
        }
        counts
    }
}
