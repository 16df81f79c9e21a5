//! The last good snapshot on disk: written atomically, mode 0600, without private keys, refused as a whole when anything
//! about it is off.
//!
//! Form: one line `sluicegate-state FORMAT SHA256-OF-THE-REST`, then JSON. Writing happens on a thread of its own, which
//! follows the deltas in a replica of its own: a change costs the applier its delta, a slow disk delays no table, and many
//! changes are written once.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use sluicegate_snapshot::Delta;
use sluicegate_snapshot::replica::Replica;

/// Name of the file inside the state directory.
pub const NAME: &str = "snapshot.json";

/// Version of the file's form. A file of another version is not read.
pub const FORMAT: u32 = 1;

const MAGIC: &str = "sluicegate-state";

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
    pending: Arc<(Mutex<Pending>, Condvar)>,
}

impl StateFile {
    /// Uses a directory, which is made (mode 0700) where it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or no thread can be started.
    pub fn open(directory: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let probe = directory.join(".probe");
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe)?;
        fs::remove_file(probe)?;
        let path = directory.join(NAME);
        let pending = Arc::new((Mutex::new(Pending::default()), Condvar::new()));
        let (target, shared) = (path.clone(), pending.clone());
        std::thread::Builder::new().name("state-file".to_owned()).spawn(move || write_newest(&target, &shared))?;
        Ok(StateFile { path, pending })
    }

    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, is truncated, changed, foreign, or of another version.
    pub fn read(&self) -> Result<Option<Replica>, StateError> {
        let error = |message: String| StateError { path: self.path.clone(), message };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(error(format!("cannot be read: {other}"))),
        };
        decode(&bytes).map(Some).map_err(error)
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

fn write_newest(path: &Path, pending: &(Mutex<Pending>, Condvar)) {
    let (lock, changed) = pending;
    let mut replica = Replica::default();
    let mut last_write: Option<Instant> = None;
    loop {
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard = changed
            .wait_while(guard, |pending| pending.deltas.is_empty() && !pending.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = last_write.and_then(|last| WRITE_INTERVAL.checked_sub(last.elapsed())) {
            let waited = changed.wait_timeout_while(guard, wait, |pending| !pending.urgent && !pending.closed);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if guard.deltas.is_empty() {
            return;
        }
        let deltas = std::mem::take(&mut guard.deltas);
        if let Some(base) = guard.base.take() {
            replica = base;
        }
        guard.writing = true;
        drop(guard);
        for delta in &deltas {
            replica.apply(delta);
        }
        if let Err(error) = write(path, &replica) {
            tracing::error!(path = %path.display(), %error, "last good snapshot cannot be written; the one before stays");
        }
        last_write = Some(Instant::now());
        lock.lock().unwrap_or_else(PoisonError::into_inner).writing = false;
        changed.notify_all();
    }
}

/// Writes beside the file and renames: a reader sees the old state or the new one.
fn write(path: &Path, replica: &Replica) -> io::Result<()> {
    let bytes = encode(replica)?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn encode(replica: &Replica) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(replica)?;
    let mut bytes = format!("{MAGIC} {FORMAT} {}\n", hex(&Sha256::digest(&body))).into_bytes();
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Replica, String> {
    let foreign = || "is no state file of sluicegate; remove it or choose another state directory".to_owned();
    let end = bytes.iter().take(200).position(|byte| *byte == b'\n').ok_or_else(foreign)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| foreign())?;
    let mut words = head.split(' ');
    let (Some(MAGIC), Some(format), Some(digest), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(foreign());
    };
    if format != FORMAT.to_string() {
        return Err(format!("is of format {format}, this gateway reads {FORMAT}; it is rebuilt from the source"));
    }
    let body = &bytes[end + 1..];
    if hex(&Sha256::digest(body)) != digest {
        return Err("is truncated or was changed (its checksum differs); it is rebuilt from the source".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("cannot be understood: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use sluicegate_snapshot::model::Globals;

    use super::*;

    #[test]
    fn what_was_saved_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(&directory.path().join("state")).unwrap();
        assert!(file.read().unwrap().is_none());
        file.record(&Delta { globals: Some(Globals::default()), ..Delta::default() });
        file.flush();
        assert_eq!(file.read().unwrap(), Some(Replica::default()));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_truncation_and_no_flipped_bit_is_taken() {
        let good = encode(&Replica::default()).unwrap();
        assert!(decode(&good).is_ok());
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "cut at {length}");
        }
        for (index, bit) in (0..good.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            assert!(decode(&bad).is_err(), "bit {bit} of byte {index}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let good = encode(&Replica::default()).unwrap();
        let text = String::from_utf8(good).unwrap().replacen(" 1 ", " 2 ", 1);
        let message = decode(text.as_bytes()).unwrap_err();
        assert!(message.contains("format 2"), "{message}");
        assert!(decode(b"{}\n").unwrap_err().contains("no state file"));
    }
}
