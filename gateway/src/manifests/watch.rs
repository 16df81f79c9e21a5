//! Following files: a library says what moved, a short quiet time collects a burst, and a slow poll catches what
//! notifications miss (network file systems, a directory that appears later).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::list::{is_hidden, is_manifest};

/// Quiet time that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(5);

/// Longest time for which a burst is collected: a file that is written all the time must not keep others waiting.
const MAX_BURST: Duration = Duration::from_millis(200);

/// How often files are looked at without a notification.
const POLL: Duration = Duration::from_secs(5);

/// How soon files that may still be being written are looked at again.
const UNSETTLED: Duration = Duration::from_millis(500);

/// Why a refresh is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A manifest file was written, moved or removed.
    File(PathBuf),
    /// Something moved that may concern any file.
    Tree,
    /// Somebody asks for it (SIGHUP).
    Asked,
    /// The gateway ends.
    Stop,
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// At these files.
    At(BTreeSet<PathBuf>),
    /// At everything, files that may still be being written aside.
    Everything,
    /// At everything, since somebody asks.
    Asked,
}

/// Notifications of file changes, as a stream of moments at which to look.
pub struct Changes {
    receiver: Receiver<Signal>,
    watcher: Option<RecommendedWatcher>,
    roots: Vec<Root>,
}

/// A root, and the directory that is watched for it.
struct Root {
    /// What is watched: the root, or the directory of a root that is a file (editors replace files).
    directory: PathBuf,
    mode: RecursiveMode,
    /// Device and inode of the directory that is watched now.
    watched: Option<(u64, u64)>,
}

impl Root {
    fn of(root: &Path) -> Self {
        if root.is_file() {
            let directory = root.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new(".")).to_owned();
            return Root { directory, mode: RecursiveMode::NonRecursive, watched: None };
        }
        Root { directory: root.to_owned(), mode: RecursiveMode::Recursive, watched: None }
    }
}

impl Changes {
    /// Watches `roots`. What cannot be watched is polled.
    pub fn of(roots: &[PathBuf]) -> (Changes, Sender<Signal>) {
        let (sender, receiver) = channel();
        let events = sender.clone();
        let names = Names::of(roots);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for signal in signals(event, &names) {
                let _ = events.send(signal);
            }
        });
        let watcher = watcher.map_err(|error| {
            tracing::warn!(%error, "file notifications are not available; manifests are polled every 5 s");
        });
        let mut changes =
            Changes { receiver, watcher: watcher.ok(), roots: roots.iter().map(|root| Root::of(root)).collect() };
        changes.watch_roots(true);
        (changes, sender)
    }

    /// Watches the roots that are not watched: at the start, or when a directory was replaced.
    fn watch_roots(&mut self, first: bool) {
        let Some(watcher) = &mut self.watcher else { return };
        for root in &mut self.roots {
            let there = std::fs::metadata(&root.directory).ok().map(|meta| (meta.dev(), meta.ino()));
            if there.is_some() && there == root.watched {
                continue;
            }
            root.watched = match watcher.watch(&root.directory, root.mode) {
                Ok(()) => there,
                Err(error) => {
                    if first {
                        tracing::warn!(path = %root.directory.display(), %error, "cannot be watched; it is polled every 5 s");
                    }
                    None
                }
            };
        }
    }

    /// Blocks until it is time to look again; `None`: the gateway ends. `unsettled`: files were left alone last time.
    pub fn wait(&mut self, unsettled: bool) -> Option<Look> {
        let mut paths = BTreeSet::new();
        match self.receiver.recv_timeout(if unsettled { UNSETTLED } else { POLL }) {
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            Ok(Signal::File(path)) => drop(paths.insert(path)),
            Ok(Signal::Tree) => return self.collect(paths, Look::Everything),
            Ok(Signal::Asked) => return self.collect(paths, Look::Asked),
            Err(RecvTimeoutError::Timeout) => {
                self.watch_roots(false);
                return Some(Look::Everything);
            }
        }
        self.collect(paths, Look::At(BTreeSet::new()))
    }

    /// Collects a burst; what asks for more than single files wins.
    fn collect(&mut self, mut paths: BTreeSet<PathBuf>, mut look: Look) -> Option<Look> {
        let started = Instant::now();
        while started.elapsed() < MAX_BURST {
            match self.receiver.recv_timeout(QUIET) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                Ok(Signal::File(path)) => drop(paths.insert(path)),
                Ok(Signal::Tree) if look == Look::Asked => {}
                Ok(Signal::Tree) => look = Look::Everything,
                Ok(Signal::Asked) => look = Look::Asked,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        Some(match look {
            Look::At(_) => Look::At(paths),
            everything => {
                self.watch_roots(false);
                everything
            }
        })
    }
}

/// Events name files by absolute paths; everybody else names them as the roots are given.
struct Names {
    /// Absolute root, and the root as given.
    roots: Vec<(PathBuf, PathBuf)>,
    /// Roots that are files, as given.
    files: BTreeSet<PathBuf>,
}

impl Names {
    fn of(roots: &[PathBuf]) -> Self {
        let absolute = |root: &PathBuf| (std::path::absolute(root).unwrap_or_else(|_| root.clone()), root.clone());
        let files = roots.iter().filter(|root| root.is_file()).cloned().collect();
        Names { roots: roots.iter().map(absolute).collect(), files }
    }

    /// A path as its root is given; `None`: it is below no root, or in a hidden directory of one.
    fn given(&self, path: &Path) -> Option<PathBuf> {
        self.roots.iter().find_map(|(absolute, root)| match path.strip_prefix(absolute).ok()? {
            rest if rest.as_os_str().is_empty() => Some(root.clone()),
            rest if rest.parent().is_some_and(|parents| parents.iter().any(|name| is_hidden(Path::new(name)))) => None,
            rest => Some(root.join(rest)),
        })
    }

    /// Whether a path stands beside a root that is a file.
    fn is_beside_file(&self, path: &Path) -> bool {
        let is_file = |root: &&(PathBuf, PathBuf)| self.files.contains(&root.1);
        self.roots.iter().filter(is_file).any(|(absolute, _)| absolute.parent() == path.parent())
    }
}

/// What an event means. Reading a file is an event too, and so is each write: only the end of writing counts, since a file
/// that is being written holds half of what it will say.
fn signals(event: notify::Result<notify::Event>, names: &Names) -> Vec<Signal> {
    let Ok(event) = event else { return vec![Signal::Tree] };
    let counts = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    };
    if !counts {
        return Vec::new();
    }
    if event.need_rescan() || event.paths.is_empty() {
        return vec![Signal::Tree];
    }
    let signal = |path: PathBuf| {
        // Of hidden things only the link that a mounted ConfigMap swaps is of interest.
        let is_swap = path.file_name().is_some_and(|name| name == "..data");
        if is_swap && names.is_beside_file(&path) {
            return Some(Signal::Tree);
        }
        let given = names.given(&path)?;
        if names.files.contains(&given) || (is_manifest(&path) && !is_hidden(&path)) {
            return Some(Signal::File(given));
        }
        // Of other things only directories.
        let may_be_directory = !is_hidden(&path) && path.extension().is_none();
        (is_swap || may_be_directory || path.is_dir()).then_some(Signal::Tree)
    };
    event.paths.into_iter().filter_map(signal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, path: &str) -> Vec<Signal> {
        let names = Names { roots: vec![("/m".into(), "m".into())], files: BTreeSet::new() };
        signals(Ok(notify::Event::new(kind).add_path(path.into())), &names)
    }

    #[test]
    fn the_end_of_writing_counts_and_not_the_writing() {
        use notify::event::DataChange;
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(event(written, "/m/a.yaml"), [Signal::File("m/a.yaml".into())], "as the root is given");
        assert!(event(written, "/elsewhere/a.yaml").is_empty());
        assert!(event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/m/a.yaml").is_empty());
        assert!(event(EventKind::Access(AccessKind::Read), "/m/a.yaml").is_empty());
    }

    #[test]
    fn other_files_beside_manifests_are_no_news() {
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        for path in ["/m/.a.yaml.swp", "/m/app.log", "/m/..2024_01", "/m/.backup/a.yaml", "/m/.git/x/a.yaml"] {
            assert!(event(written, path).is_empty(), "{path}");
        }
        assert_eq!(event(written, "/m/..data"), [Signal::Tree]);
        assert_eq!(event(EventKind::Create(notify::event::CreateKind::Folder), "/m/sub"), [Signal::Tree]);
    }
}
