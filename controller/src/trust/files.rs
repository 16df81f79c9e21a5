//! Certificates from files, which somebody else renews: new ones are taken over without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use openssl::x509::X509;
use tokio::sync::watch;

use super::acceptor;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Where certificate, key and the gateways' authority are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The controller's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authorities that sign gateways' certificates, PEM; `None`: gateways come with tokens only.
    pub client_ca: Option<PathBuf>,
}

/// What the files hold.
type Contents = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Reads the files, and looks at them now and then. Files that are bad later, or do not fit each other yet, change nothing.
pub(super) fn keep(paths: Paths) -> Result<watch::Receiver<Option<Arc<SslAcceptor>>>, String> {
    let mut current = read(&paths)?;
    let (sender, receiver) = watch::channel(Some(Arc::new(build(&current)?)));
    tokio::spawn(async move {
        let mut bad: Option<String> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let new = match read(&paths) {
                Ok(new) if new == current => continue,
                Ok(new) => build(&new).map(|acceptor| (new, acceptor)),
                Err(error) => Err(error),
            };
            match new {
                Ok((new, acceptor)) => {
                    (current, bad) = (new, None);
                    tracing::info!(certificate = %paths.certificate.display(), "certificate for gateways replaced");
                    if sender.send(Some(Arc::new(acceptor))).is_err() {
                        return;
                    }
                }
                Err(error) if bad.as_ref() != Some(&error) => {
                    tracing::error!("{error}; the certificate before stays in use");
                    bad = Some(error);
                }
                Err(_) => {}
            }
        }
    });
    Ok(receiver)
}

fn read(paths: &Paths) -> Result<Contents, String> {
    let file = |key: &str, path: &Path| {
        std::fs::read(path).map_err(|error| format!("{key}: {} cannot be read: {error}", path.display()))
    };
    let client_ca = paths.client_ca.as_deref().map(|path| file("clientCa", path)).transpose()?;
    Ok((file("publishCert", &paths.certificate)?, file("publishKey", &paths.key)?, client_ca.unwrap_or_default()))
}

fn build((chain, key, client_ca): &Contents) -> Result<SslAcceptor, String> {
    let authorities = match client_ca.is_empty() {
        true => Vec::new(),
        false => X509::stack_from_pem(client_ca).map_err(|_| "clientCa: no certificates in PEM")?,
    };
    if authorities.is_empty() && !client_ca.is_empty() {
        return Err("clientCa: it holds no certificate".to_owned());
    }
    acceptor::from_pem(chain, key, &authorities).map_err(|error| format!("publishCert and publishKey: {error}"))
}
