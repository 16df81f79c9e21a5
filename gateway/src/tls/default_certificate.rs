//! The certificate for names that nobody claims: from files that are followed, else made at the start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use sluicegate_snapshot::facts::read_certificate;

use super::{ServerCertificate, self_signed};

/// PEM files of chain and key (`--default-certificate CHAIN.pem,KEY.pem`).
pub struct DefaultCertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    stamp: Stamp,
    current: Arc<ArcSwap<ServerCertificate>>,
}

/// Times of modification of both files.
type Stamp = (Option<SystemTime>, Option<SystemTime>);

impl DefaultCertificateFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence: a file cannot be read, or the two are no certificate with its key.
    pub fn read(chain: PathBuf, key: PathBuf) -> Result<(Self, Arc<ArcSwap<ServerCertificate>>), String> {
        let stamp = stamp(&chain, &key);
        let current = Arc::new(ArcSwap::from_pointee(load(&chain, &key)?));
        Ok((DefaultCertificateFiles { chain, key, stamp, current: current.clone() }, current))
    }

    /// Takes new files over. Files that are bad now, or do not fit each other yet, leave the certificate as it is.
    pub fn reload(&mut self) {
        let stamp = stamp(&self.chain, &self.key);
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match load(&self.chain, &self.key) {
            Ok(certificate) => {
                self.current.store(Arc::new(certificate));
                tracing::info!(chain = %self.chain.display(), "default certificate replaced");
            }
            Err(error) => tracing::error!("{error}; the one before stays in use"),
        }
    }
}

/// A certificate made now.
///
/// # Errors
/// A sentence.
pub fn made_now() -> Result<Arc<ArcSwap<ServerCertificate>>, String> {
    let (chain, key) = self_signed().map_err(|error| format!("default certificate: {error}"))?;
    parse(&chain, &key).map(|certificate| Arc::new(ArcSwap::from_pointee(certificate)))
}

fn stamp(chain: &PathBuf, key: &PathBuf) -> Stamp {
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    (modified(chain), modified(key))
}

fn load(chain: &PathBuf, key: &PathBuf) -> Result<ServerCertificate, String> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("defaultCertificate: {}: {error}", path.display()))
    };
    parse(&read(chain)?, &read(key)?)
}

fn parse(chain: &[u8], key: &[u8]) -> Result<ServerCertificate, String> {
    let facts = read_certificate(chain, key).map_err(|problem| format!("defaultCertificate: {}", problem.message()))?;
    let certificate = ServerCertificate::new(&facts).map_err(|error| format!("defaultCertificate: {error}"))?;
    certificate.ok_or_else(|| "defaultCertificate: has no key".to_owned())
}
