//! The applier's thread of a gateway with files: reads them when they move, and puts what changed in force.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use super::Compiler;
use crate::manifests::source::Refresh;
use crate::manifests::watch::{Changes, Look, Signal};
use crate::manifests::{Placed, Source};
use crate::shared::Shared;
use crate::tls::DefaultCertificateFiles;

/// A source that is followed on a thread of its own.
pub struct Following {
    /// Ends after [`Signal::Stop`]; the state file is written by then.
    pub thread: JoinHandle<()>,
    /// Tells the thread something.
    pub send: Box<dyn Fn(Signal) + Send>,
}

/// What the thread works on.
struct Follower {
    source: Source,
    compiler: Compiler,
    shared: Arc<Shared>,
    default_certificate: Option<DefaultCertificateFiles>,
    /// A table is in force.
    applied: bool,
}

/// Reads the source once before it returns, so that a gateway that listens has what its files say; from then on whenever
/// they change.
///
/// # Errors
/// The thread cannot be started.
pub fn follow(
    mut compiler: Compiler,
    shared: Arc<Shared>,
    default_certificate: Option<DefaultCertificateFiles>,
) -> std::io::Result<Following> {
    let source = Source::new(shared.settings.manifests.clone());
    let applied = compiler.restore();
    let (mut changes, refresh) = Changes::of(source.roots());
    let (first_done, first) = channel();
    let mut follower = Follower { source, compiler, shared, default_certificate, applied };
    let thread = Builder::new().name("applier".to_owned()).spawn(move || {
        let _alive = Alive(follower.shared.clone());
        let mut unsettled = follower.look(&Look::Asked);
        let _ = first_done.send(());
        while let Some(look) = changes.wait(unsettled) {
            unsettled = follower.look(&look);
            follower.compiler.sweep();
        }
    })?;
    let _ = first.recv();
    let send = move |signal| drop(refresh.send(signal));
    Ok(Following { thread, send: Box::new(send) })
}

/// Says so when the thread ends by a panic: the gateway would serve an old configuration for ever, and look well.
pub(crate) struct Alive(pub(crate) Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the configuration is no longer followed: restart the gateway, and report this");
            self.0.state.follower_lost();
        }
    }
}

impl Follower {
    /// Looks at the files; true: look again soon.
    fn look(&mut self, look: &Look) -> bool {
        let started = Instant::now();
        if let Some(files) = &mut self.default_certificate {
            files.reload();
        }
        let refresh = self.source.refresh(look);
        if refresh.problems_changed {
            self.report_problems();
        }
        let unsettled = refresh.unsettled;
        self.apply(refresh, started);
        unsettled
    }

    fn report_problems(&self) {
        for problem in self.source.problems() {
            match problem.error {
                true => tracing::error!("{problem}"),
                false => tracing::warn!("{problem}"),
            }
        }
        self.shared.state.set_problems(self.source.problems().cloned().collect());
    }

    fn apply(&mut self, refresh: Refresh, started: Instant) {
        // A source that cannot be read at all says nothing; serving 404 for it would be a lie.
        if !refresh.certainty.complete && !self.applied && refresh.edits.is_empty() {
            return;
        }
        let count = refresh.edits.len();
        if count > 0 || !self.applied || !self.compiler.is_synced() || self.compiler.is_time_due() {
            let outcome = self.compiler.apply(refresh.edits, &refresh.certainty);
            self.applied = true;
            if count > 0 {
                let world = self.compiler.world();
                tracing::info!(edits = count, version = %world.snapshot().version, us = started.elapsed().as_micros() as u64, "configuration applied");
                for diagnostic in outcome.diagnosed.iter().flat_map(|object| world.diagnostics_of(object)) {
                    tracing::warn!("{}", Placed::new(diagnostic, &self.source));
                }
            }
            if !outcome.diagnosed.is_empty() {
                let diagnostics = self.compiler.world().diagnostics();
                let placed = diagnostics.into_iter().map(|diagnostic| Placed::new(diagnostic, &self.source));
                self.shared.state.set_diagnostics(placed.collect());
            }
        }
        if refresh.certainty.is_clean() && !self.source.problems().any(|problem| problem.error) {
            self.shared.state.in_step();
        }
    }
}
