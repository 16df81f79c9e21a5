//! The one TLS context of all workers, and the choice of certificate inside a handshake.
//!
//! One context means one set of ticket keys: a session resumes on whichever worker the connection lands. Sessions are
//! not cached (the cache is a lock between workers); tickets carry the state.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, NameType, SslAcceptor, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVersion,
    select_next_proto,
};
use pingora::listeners::TlsAccept;
use pingora::protocols::tls::TlsRef;
use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::table::ServerName;

use super::ServerCertificate;
use crate::table::Table;

/// ALPN in the wire's form, by preference. HTTP/1.0 is what `curl --http1.0` offers, and nothing else.
const ALPN: &[u8] = b"\x02h2\x08http/1.1\x08http/1.0";

/// The context for handshakes.
pub struct Acceptor {
    /// OpenSSL's context, without a certificate of its own.
    pub context: SslAcceptor,
}

impl Acceptor {
    /// TLS 1.2 and 1.3, h2 and HTTP/1.1, Mozilla's "intermediate" ciphers.
    ///
    /// # Errors
    /// OpenSSL cannot build a context.
    pub fn new() -> Result<Self, ErrorStack> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.set_options(SslOptions::NO_RENEGOTIATION | SslOptions::CIPHER_SERVER_PREFERENCE);
        builder.set_mode(SslMode::RELEASE_BUFFERS);
        // One read of the socket per record, and not one for its header and one for the rest.
        builder.set_read_ahead(true);
        builder.set_session_cache_mode(SslSessionCacheMode::SERVER | SslSessionCacheMode::NO_INTERNAL);
        builder.set_num_tickets(1)?;
        builder.set_alpn_select_callback(|_, offered| select_next_proto(ALPN, offered).ok_or(AlpnError::ALERT_FATAL));
        Ok(Acceptor { context: builder.build() })
    }
}

/// Chooses certificates by server name, from the table in force when the handshake asks.
pub struct CertificateChoice {
    /// Tables.
    pub table: Arc<ArcSwap<Table>>,
    /// What an unknown or absent server name gets where the table has no default certificate.
    pub fallback: Arc<ArcSwap<ServerCertificate>>,
}

impl CertificateChoice {
    fn choose(&self, ssl: &mut TlsRef) -> Result<(), ErrorStack> {
        let table = self.table.load();
        let name = ssl.servername(NameType::HOST_NAME).and_then(|name| RequestHost::parse(name.as_bytes()).ok());
        let by_name = match &name {
            Some(name) => table.server_name(name.as_str()),
            None => ServerName::Default,
        };
        let chosen = match by_name {
            ServerName::Default => table.default_certificate(),
            other => other,
        };
        match chosen {
            // One that OpenSSL refuses must not keep the others from being used.
            ServerName::Certificates(certificates) => {
                let results: Vec<_> = certificates.into_iter().map(|certificate| certificate.set_on(ssl)).collect();
                match results.iter().any(Result::is_ok) {
                    true => Ok(()),
                    false => results.into_iter().collect(),
                }
            }
            ServerName::Default => self.fallback.load().set_on(ssl),
            // Without any certificate OpenSSL ends the handshake with the alert handshake_failure.
            ServerName::KeyWithheld => Ok(()),
        }
    }
}

#[async_trait]
impl TlsAccept for CertificateChoice {
    async fn certificate_callback(&self, ssl: &mut TlsRef) {
        if let Err(error) = self.choose(ssl) {
            tracing::debug!(%error, "certificate cannot be used in a handshake");
        }
    }
}
