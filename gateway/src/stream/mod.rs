//! Following a controller: its stream of snapshots instead of files.
//!
//! The applier's thread runs it: what comes is applied where it arrives, so there is no queue between the network and the
//! table. A controller that is gone changes nothing; the gateway serves what it has and tries the next one.

mod connection;
mod guard;
mod tls;
mod url;

use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use tokio::sync::mpsc;

pub use tls::Credentials;
pub use url::ControllerUrl;

use crate::apply::Applier;
use crate::apply::follow::{Alive, Following};
use crate::manifests::watch::Signal;
use crate::shared::Shared;
use crate::tls::DefaultCertificateFiles;
use connection::{Ended, Session};

/// First wait before a controller is tried again; it doubles up to [`LONGEST_WAIT`], and starts anew after a connection that
/// brought something.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows the first of the controllers that answers, until it is told to stop.
///
/// # Errors
/// The thread or its runtime cannot be started.
pub fn follow(
    mut applier: Applier,
    shared: Arc<Shared>,
    controllers: Vec<ControllerUrl>,
    credentials: Credentials,
    default_certificate: Option<DefaultCertificateFiles>,
) -> std::io::Result<Following> {
    applier.restore();
    let (sender, signals) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let alive = Alive(shared.clone());
    let session = Session::new(applier, shared, signals, credentials, default_certificate);
    let thread = Builder::new().name("applier".to_owned()).spawn(move || {
        let _alive = alive;
        runtime.block_on(run(session, &controllers));
    })?;
    Ok(Following { thread, send: Box::new(move |signal: Signal| drop(sender.send(signal))) })
}

async fn run(mut session: Session, controllers: &[ControllerUrl]) {
    let mut wait = FIRST_WAIT;
    for controller in controllers.iter().cycle() {
        let (why, was_useful) = match session.follow(controller).await {
            Ended::Stopped => return,
            Ended::Lost { why, was_useful } => (why, was_useful),
        };
        session.lost();
        if was_useful {
            wait = FIRST_WAIT;
        }
        // Gateways that lost the same controller must not come back in one moment.
        let jittered = wait.mul_f64(rand::random_range(0.75..1.25));
        tracing::warn!(%controller, retry_in_ms = jittered.as_millis() as u64, "controller: {why}; what is in force stays");
        if session.pause(jittered).await {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
