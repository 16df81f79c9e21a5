//! Who may have the snapshots, and how they are kept from everybody else.
//!
//! Gateways connect with TLS. They know the controller by its certificate, and it knows them by theirs or by the token of
//! their service account. Certificates come from files (`publishCert`), or from an authority of the controller's own
//! (ADR 0016). `plaintext` does without all of it.

mod acceptor;
pub mod authority;
mod enroll;
mod files;
mod identity;
mod keeper;
mod secret;
mod token;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use kube::Client;
use openssl::ssl::{Ssl, SslAcceptor, SslRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_openssl::SslStream;

pub use enroll::{Enrolment, enroll};
pub use files::Paths;
pub use identity::{Identity, Refusal};
pub use keeper::OwnAuthority;

use crate::settings::{Settings, Trusts};
use identity::Accounts;

/// Most bytes that are read of a connection that is refused.
const DRAIN: usize = 64 * 1024;

/// How connections of gateways are secured.
#[derive(Clone)]
pub struct Trust {
    /// `None`: they are not.
    tls: Option<Arc<Tls>>,
}

struct Tls {
    /// The newest; `None`: there is no certificate yet.
    acceptor: watch::Receiver<Option<Arc<SslAcceptor>>>,
    accounts: Accounts,
    trouble: Arc<Trouble>,
}

/// Why there is no certificate; for readiness.
#[derive(Debug, Default)]
struct Trouble(Mutex<Option<String>>);

impl Trouble {
    /// Says it where it is news.
    fn set(&self, sentence: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(sentence) {
            tracing::error!("certificate for gateways: {sentence}; it is tried again");
            *known = Some(sentence.to_owned());
        }
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Trust {
    /// Begins to keep a certificate at hand, as the settings say.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn start(settings: &Settings, client: &Client) -> Result<Trust, String> {
        let trouble = Arc::<Trouble>::default();
        let acceptor = match settings.trusts() {
            Trusts::Nobody => return Ok(Trust { tls: None }),
            Trusts::Files(paths) => files::keep(paths)?,
            Trusts::Authority(authority) => keeper::keep(client.clone(), authority, trouble.clone()),
        };
        let accounts = Accounts::new(client.clone(), settings);
        Ok(Trust { tls: Some(Arc::new(Tls { acceptor, accounts, trouble })) })
    }

    /// Whether gateways are served without encryption.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Begins TLS on a connection; `None`: it goes on as it is.
    ///
    /// # Errors
    /// A sentence: the handshake failed, or there is no certificate yet.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, String> {
        let Some(tls) = &self.tls else { return Ok(Accepted::Plain(tcp)) };
        let Some(acceptor) = tls.acceptor.borrow().clone() else {
            return Err("there is no certificate for gateways yet".to_owned());
        };
        let text = |error: &dyn std::fmt::Display| format!("TLS handshake: {error}");
        let ssl = Ssl::new(acceptor.context()).map_err(|error| text(&error))?;
        let mut stream = SslStream::new(ssl, tcp).map_err(|error| text(&error))?;
        match Pin::new(&mut stream).accept().await {
            Ok(()) => Ok(Accepted::Tls(Box::new(stream))),
            Err(error) => {
                end_gently(stream.get_mut()).await;
                Err(text(&error))
            }
        }
    }

    /// Who sends a request with these header fields; `None`: nobody is asked.
    ///
    /// # Errors
    /// Somebody who is not served.
    pub async fn identify(&self, certificate: Option<&str>, headers: &HeaderMap) -> Result<Option<Identity>, Refusal> {
        match &self.tls {
            Some(tls) => tls.accounts.identify(certificate, headers).await.map(Some),
            None => Ok(None),
        }
    }

    /// Why no gateway can be served; `Ok`: they can.
    ///
    /// # Errors
    /// A sentence.
    pub fn ready(&self) -> Result<(), String> {
        let Some(tls) = &self.tls else { return Ok(()) };
        if tls.acceptor.borrow().is_some() {
            return Ok(());
        }
        let trouble = tls.trouble.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(format!("there is no certificate for gateways yet: {}", trouble.as_deref().unwrap_or("it is being read")))
    }
}

/// Ends a connection so that the other side can read why: what it has sent and nobody reads would have the kernel reset it, and
/// the alert with it.
async fn end_gently(tcp: &mut TcpStream) {
    let _ = tcp.shutdown().await;
    let drain = async {
        let mut buffer = [0; 4096];
        let mut total = 0;
        while let Ok(read @ 1..) = tcp.read(&mut buffer).await {
            total += read;
            if total > DRAIN {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
}

/// A connection.
pub enum Accepted {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<SslStream<TcpStream>>),
}

/// The name in the client's certificate, which the handshake has verified; `None`: it has none.
pub fn certificate_name(ssl: &SslRef) -> Option<String> {
    ssl.peer_certificate().map(|certificate| identity::name_of(&certificate))
}
