//! The last good snapshot on disk: written atomically, mode 0600, without private keys, refused as a whole when anything
//! about it is off.
//!
//! Form: one line `sluicegate-state FORMAT SHA256-OF-THE-REST`, then JSON. Writing happens on a thread of its own, so
//! that a slow disk delays no table; only the newest state waits.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
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

/// What waits for the disk.
#[derive(Default)]
struct Pending {
    replica: Option<Replica>,
    writing: bool,
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

    /// Has a state written. Returns at once; a state that is still waiting is replaced.
    pub fn save(&mut self, replica: &Replica) {
        let (lock, changed) = &*self.pending;
        lock.lock().unwrap_or_else(PoisonError::into_inner).replica = Some(replica.clone());
        changed.notify_all();
    }

    /// Waits until everything is written.
    pub fn flush(&self) {
        let (lock, changed) = &*self.pending;
        let pending = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |pending: &mut Pending| pending.replica.is_some() || pending.writing;
        drop(changed.wait_while(pending, idle).unwrap_or_else(PoisonError::into_inner));
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
    loop {
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard = changed
            .wait_while(guard, |pending| pending.replica.is_none() && !pending.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(replica) = guard.replica.take() else { return };
        guard.writing = true;
        drop(guard);
        if let Err(error) = write(path, &replica) {
            tracing::error!(path = %path.display(), %error, "last good snapshot cannot be written; the one before stays");
        }
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
    use super::*;

    #[test]
    fn what_was_saved_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(&directory.path().join("state")).unwrap();
        assert!(file.read().unwrap().is_none());
        file.save(&Replica::default());
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
