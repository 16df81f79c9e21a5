//! A certificate as OpenSSL wants it: parsed once, shared by all handshakes, set on the connection.
//!
//! A context per certificate costs several times the memory (docs/benchmarks.md, docs/adr/0004), so there is one context.

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::SslRef;
use openssl::x509::X509;
use pingora::tls::ext;
use sluicegate_snapshot::model::Certificate;

/// A parsed chain with its key.
pub struct ServerCertificate {
    leaf: X509,
    chain: Vec<X509>,
    key: PKey<Private>,
    /// End of validity, Unix seconds.
    pub not_after: i64,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerCertificate({} in chain)", self.chain.len() + 1)
    }
}

impl ServerCertificate {
    /// Parses a certificate; `None` where its key is not at hand.
    ///
    /// # Errors
    /// OpenSSL cannot read the chain or the key, which compile has read before.
    pub fn new(certificate: &Certificate) -> Result<Option<Self>, ErrorStack> {
        let Some(der) = certificate.key.expose_der() else { return Ok(None) };
        let key = PKey::private_key_from_pkcs8(der)?;
        let mut chain = X509::stack_from_pem(certificate.chain_pem.as_bytes())?;
        if chain.is_empty() {
            return Ok(None);
        }
        let leaf = chain.remove(0);
        Ok(Some(ServerCertificate { leaf, chain, key, not_after: certificate.not_after }))
    }

    /// Gives it to a handshake. Called once per key type; OpenSSL chooses by what the client can verify.
    ///
    /// # Errors
    /// OpenSSL refuses it (for example a key too short for its security level).
    pub fn set_on(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ext::ssl_use_certificate(ssl, &self.leaf)?;
        ext::ssl_use_private_key(ssl, &self.key)?;
        self.chain.iter().try_for_each(|certificate| ext::ssl_add_chain_cert(ssl, certificate))
    }
}
