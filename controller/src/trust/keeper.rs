//! Keeps a certificate of the own authority at hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use openssl::ssl::SslAcceptor;
use openssl::x509::X509;
use sluicegate_snapshot::ObjectKey;
use tokio::sync::watch;

use super::{Trouble, acceptor, secret};

/// How often Secret and ConfigMap are looked at: somebody may have replaced or emptied them.
const LOOK: Duration = Duration::from_secs(300);

/// How often a new certificate is made: it is valid for 30 days.
const RENEW: Duration = Duration::from_secs(24 * 3600);

const FIRST_WAIT: Duration = Duration::from_millis(200);

const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The own authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAuthority {
    /// Secret and ConfigMap.
    pub key: ObjectKey,
    /// Names and addresses by which gateways reach the controller.
    pub names: Vec<String>,
}

/// Loads or makes the authority, and keeps a certificate of it.
pub(super) fn keep(
    client: Client,
    authority: OwnAuthority,
    trouble: Arc<Trouble>,
) -> watch::Receiver<Option<Arc<SslAcceptor>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut keeper = Keeper { client, authority, signed: None };
        let mut wait = FIRST_WAIT;
        while !sender.is_closed() {
            match keeper.look().await {
                Ok(new) => {
                    if let Some(acceptor) = new {
                        let _ = sender.send(Some(Arc::new(acceptor)));
                    }
                    trouble.clear();
                    wait = FIRST_WAIT;
                    tokio::time::sleep(LOOK).await;
                }
                // What is at hand stays in use.
                Err(error) => {
                    trouble.set(&error);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    });
    receiver
}

struct Keeper {
    client: Client,
    authority: OwnAuthority,
    /// When the certificate at hand was made, and the authorities that were trusted then.
    signed: Option<(Instant, String)>,
}

impl Keeper {
    /// `Some`: a certificate to be used from now on.
    async fn look(&mut self) -> Result<Option<SslAcceptor>, String> {
        let OwnAuthority { key, names } = &self.authority;
        let authority = secret::load(&self.client, key).await?;
        let pem = bundle(authority.certificates())?;
        secret::publish(&self.client, key, &pem).await?;
        let is_fresh = self.signed.as_ref().is_some_and(|(when, of)| when.elapsed() < RENEW && *of == pem);
        if is_fresh {
            return Ok(None);
        }
        let pair = authority.server(names).map_err(|error| format!("a certificate cannot be made: {error}"))?;
        let acceptor = acceptor::from_pem(&pair.certificate, &pair.key, authority.certificates())?;
        tracing::info!(authority = %key, names = names.join(" "), "a certificate for gateways was made");
        self.signed = Some((Instant::now(), pem));
        Ok(Some(acceptor))
    }
}

/// Certificates as one PEM text.
pub(super) fn bundle(certificates: &[X509]) -> Result<String, String> {
    let pem = |certificate: &X509| certificate.to_pem().map_err(|error| error.to_string());
    let pems: Vec<Vec<u8>> = certificates.iter().map(pem).collect::<Result<_, _>>()?;
    String::from_utf8(pems.concat()).map_err(|error| error.to_string())
}
