//! Following files: a library says that something moved, a short quiet time collects a burst, and a slow poll catches
//! what notifications miss (network file systems, a directory that appears later).

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};

/// Quiet time that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(15);

/// How often files are looked at without a notification.
const POLL: Duration = Duration::from_secs(5);

/// Why a refresh is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A file moved.
    Changed,
    /// Somebody asks for it (SIGHUP).
    Asked,
    /// The gateway ends.
    Stop,
}

/// Notifications of file changes, as a stream of moments at which to look.
pub struct Changes {
    receiver: Receiver<Signal>,
    // Kept alive: dropping it ends the notifications.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    /// Watches `roots`. What cannot be watched is polled.
    pub fn of(roots: &[PathBuf]) -> (Changes, Sender<Signal>) {
        let (sender, receiver) = channel();
        let events = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too; following it would never end.
            if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
                let _ = events.send(Signal::Changed);
            }
        });
        let watcher = match watcher {
            Ok(mut watcher) => {
                for root in roots {
                    if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
                        tracing::warn!(path = %root.display(), %error, "cannot be watched; it is polled every 5 s");
                    }
                }
                Some(watcher)
            }
            Err(error) => {
                tracing::warn!(%error, "file notifications are not available; manifests are polled every 5 s");
                None
            }
        };
        (Changes { receiver, _watcher: watcher }, sender)
    }

    /// Blocks until it is time to look again; false: the gateway ends.
    pub fn wait(&self) -> bool {
        match self.receiver.recv_timeout(POLL) {
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Ok(Signal::Asked) | Err(RecvTimeoutError::Timeout) => return true,
            Ok(Signal::Changed) => {}
        }
        loop {
            match self.receiver.recv_timeout(QUIET) {
                Ok(Signal::Stop) => return false,
                Ok(Signal::Changed) => {}
                Ok(Signal::Asked) | Err(_) => return true,
            }
        }
    }
}
