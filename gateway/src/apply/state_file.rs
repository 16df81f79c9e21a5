//! The last good snapshot on disk: written atomically, mode 0600, refused as a whole when anything about it is off (its form:
//! [`super::state_format`]). Private keys are in it only encrypted, with a key that the operator provides.
//!
//! Beside it is a counter, written after each file: a file of a lower one is older than what was in force here, and refused.
//!
//! Writing happens on a thread of its own, which follows the deltas in a replica of its own: a change costs the applier its delta,
//! a slow disk delays no table, and many changes are written once.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluicegate_snapshot::Delta;
use sluicegate_snapshot::replica::Replica;

use super::state_format::{self, StateKey};

/// Name of the file inside the state directory.
pub const NAME: &str = "snapshot.json";

/// Name of the counter's file.
pub const COUNTER: &str = "counter";

/// A state file that is not used, with the reason.
#[derive(Debug)]
pub struct StateError {
    path: PathBuf,
    message: String,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for StateError {}

/// Least time between two writes: with many changes a second the disk is not kept busy with each.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Least part of the time in which nothing is written, in times of what a write takes: a large table that changes all the time must
/// not take the CPU from requests.
const WRITE_SHARE: u32 = 200;

/// Longest time between two writes.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);

/// Longest time that the end of the process waits for the disk.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);

/// What waits for the disk.
#[derive(Default)]
struct Pending {
    base: Option<Replica>,
    deltas: Vec<Delta>,
    /// Taken, and not on disk yet.
    writing: bool,
    /// Somebody waits, or the process ends: write now.
    urgent: bool,
    closed: bool,
}

/// The state file and the thread that writes it.
pub struct StateFile {
    path: PathBuf,
    key: Option<StateKey>,
    pending: Arc<(Mutex<Pending>, Condvar)>,
}

impl StateFile {
    /// Uses a directory, which is made (mode 0700) where it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or no thread can be started.
    pub fn open(directory: &Path, key: Option<StateKey>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let probe = directory.join(".probe");
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe)?;
        fs::remove_file(probe)?;
        let path = directory.join(NAME);
        let pending = Arc::new((Mutex::new(Pending::default()), Condvar::new()));
        let writer = Writer { path: path.clone(), key: key.clone(), counter: read_counter(&path) };
        let shared = pending.clone();
        std::thread::Builder::new().name("state-file".to_owned()).spawn(move || writer.write_newest(&shared))?;
        Ok(StateFile { path, key, pending })
    }

    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, is truncated, changed, foreign, of another version or key, or older than the counter says.
    pub fn read(&self) -> Result<Option<Replica>, StateError> {
        let error = |message: String| StateError { path: self.path.clone(), message };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(error(format!("cannot be read: {other}"))),
        };
        let state = state_format::decode(&bytes, self.key.as_ref()).map_err(&error)?;
        let newest = read_counter(&self.path);
        if state.counter < newest {
            return Err(error(format!(
                "is number {} and {newest} was written already: an old one was put in its place; it is rebuilt from the source",
                state.counter
            )));
        }
        Ok(Some(state.replica))
    }

    /// The state that later deltas build on: what was read from the file.
    pub fn start_from(&mut self, replica: &Replica) {
        // Last good forms are not in the snapshot; the file that they came from stays until something changes.
        let (lock, _) = &*self.pending;
        lock.lock().unwrap_or_else(PoisonError::into_inner).base = Some(replica.clone());
    }

    /// Has a change written, soon.
    pub fn record(&mut self, delta: &Delta) {
        let (lock, changed) = &*self.pending;
        lock.lock().unwrap_or_else(PoisonError::into_inner).deltas.push(delta.clone());
        changed.notify_all();
    }

    /// Waits until everything is written, at most five seconds.
    pub fn flush(&self) {
        let (lock, changed) = &*self.pending;
        let mut pending = lock.lock().unwrap_or_else(PoisonError::into_inner);
        pending.urgent = true;
        changed.notify_all();
        let busy = |pending: &mut Pending| !pending.deltas.is_empty() || pending.writing;
        let waited = changed.wait_timeout_while(pending, CLOSING_LIMIT, busy);
        let (mut pending, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        pending.urgent = false;
        if timeout.timed_out() {
            tracing::error!("the disk does not take the last good snapshot; the one before stays");
        }
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        self.flush();
        let (lock, changed) = &*self.pending;
        lock.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        changed.notify_all();
    }
}

/// The counter beside the state file; 0 where there is none.
fn read_counter(path: &Path) -> u64 {
    let text = fs::read_to_string(path.with_file_name(COUNTER)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Time from the end of a write to the next, by what it took.
fn interval(took: Duration) -> Duration {
    (took * WRITE_SHARE).clamp(WRITE_INTERVAL, LONGEST_INTERVAL)
}

/// What the thread works on.
struct Writer {
    path: PathBuf,
    key: Option<StateKey>,
    counter: u64,
}

impl Writer {
    fn write_newest(mut self, pending: &(Mutex<Pending>, Condvar)) {
        let (lock, changed) = pending;
        let mut replica = Replica::default();
        let mut last_write: Option<(Instant, Duration)> = None;
        let mut is_changed = false;
        loop {
            let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let mut guard = changed
                .wait_while(guard, |pending| pending.deltas.is_empty() && !pending.closed && !is_changed)
                .unwrap_or_else(PoisonError::into_inner);
            let pause = last_write.map_or(Duration::ZERO, |(last, took)| interval(took).saturating_sub(last.elapsed()));
            if !pause.is_zero() {
                let wait = pause.min(WRITE_INTERVAL);
                let waited = changed.wait_timeout_while(guard, wait, |pending| !pending.urgent && !pending.closed);
                guard = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if guard.deltas.is_empty() && !is_changed {
                return;
            }
            let deltas = std::mem::take(&mut guard.deltas);
            if let Some(base) = guard.base.take() {
                replica = base;
            }
            let is_urgent = guard.urgent || guard.closed;
            guard.writing = true;
            drop(guard);
            for delta in &deltas {
                replica.apply(delta);
            }
            is_changed = true;
            // Changes do not pile up until then.
            if pause > WRITE_INTERVAL && !is_urgent {
                continue;
            }
            is_changed = false;
            let started = Instant::now();
            if let Err(error) = self.write(&replica) {
                tracing::error!(path = %self.path.display(), %error, "last good snapshot cannot be written; the one before stays");
            }
            last_write = Some((Instant::now(), started.elapsed()));
            lock.lock().unwrap_or_else(PoisonError::into_inner).writing = false;
            changed.notify_all();
        }
    }

    /// The file first: between the two writes it is newer than its counter, which is no harm.
    fn write(&mut self, replica: &Replica) -> io::Result<()> {
        let counter = self.counter + 1;
        write(&self.path, |file| state_format::encode(replica, counter, self.key.as_ref(), file))?;
        self.counter = counter;
        write(&self.path.with_file_name(COUNTER), |file| writeln!(file, "{counter}"))
    }
}

/// Writes beside the file and renames: a reader sees the old state or the new one.
fn write(path: &Path, what: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    what(&mut file)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_snapshot::model::Globals;

    use super::*;

    fn change() -> Delta {
        Delta { globals: Some(Globals::default()), ..Delta::default() }
    }

    #[test]
    fn what_takes_longer_is_written_less_often() {
        for (took, seconds) in [(0, 1), (5, 1), (20, 4), (1_000, 30)] {
            assert_eq!(interval(Duration::from_millis(took)), Duration::from_secs(seconds), "{took} ms");
        }
    }

    fn save(file: &mut StateFile) {
        file.record(&change());
        file.flush();
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(&directory.path().join("state"), None).unwrap();
        assert!(file.read().unwrap().is_none());
        save(&mut file);
        let mut expected = Replica::default();
        expected.apply(&change());
        assert_eq!(file.read().unwrap(), Some(expected));
        use std::os::unix::fs::PermissionsExt;
        for path in [&file.path, &file.path.with_file_name(COUNTER)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn an_older_file_in_its_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(directory.path(), None).unwrap();
        save(&mut file);
        let old = fs::read(&file.path).unwrap();
        save(&mut file);
        drop(file);
        let mut file = StateFile::open(directory.path(), None).unwrap();
        assert!(file.read().unwrap().is_some());
        fs::write(&file.path, &old).unwrap();
        let message = file.read().unwrap_err().to_string();
        assert!(message.contains("is number 1 and 2 was written already"), "{message}");
        // What is written next goes on from the counter, not from the file.
        save(&mut file);
        assert!(file.read().unwrap().is_some());
        assert_eq!(read_counter(&file.path), 3);
        // Without a counter, as after an upgrade or a crash between the two writes, the file is taken.
        fs::remove_file(file.path.with_file_name(COUNTER)).unwrap();
        assert!(file.read().unwrap().is_some());
    }
}
