//! Certificates, their keys, and which host gets which.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Route;
use crate::key::ObjectKey;

/// Kind of public key: a host may have one certificate of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// RSA.
    Rsa,
    /// ECDSA on any curve.
    Ecdsa,
    /// Ed25519 and the rest.
    Other,
}

/// A private key. It prints, dumps and serialises as the fingerprint of its public half; the bytes leave this type only
/// through [`PrivateKey::expose_der`].
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey {
    fingerprint: Arc<str>,
    der: Option<Arc<[u8]>>,
}

impl PrivateKey {
    /// A key from its PKCS#8 DER and the SHA-256 (hex) of its public key.
    pub fn new(der: impl Into<Arc<[u8]>>, fingerprint: impl Into<Arc<str>>) -> Self {
        PrivateKey { fingerprint: fingerprint.into(), der: Some(der.into()) }
    }

    /// The key's bytes (PKCS#8 DER); `None` where only the fingerprint is known, as after a start from the state file.
    pub fn expose_der(&self) -> Option<&[u8]> {
        self.der.as_deref()
    }

    /// SHA-256 of the public key, hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.fingerprint)
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.fingerprint)
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(PrivateKey { fingerprint: Arc::<str>::deserialize(deserializer)?, der: None })
    }
}

/// A certificate chain with its key and the facts that callers compare with names and clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// PEM of the chain, leaf first.
    pub chain_pem: Arc<str>,
    /// The leaf's key.
    pub key: PrivateKey,
    /// Kind of the leaf's key.
    pub key_type: KeyType,
    /// DNS names of the leaf's SAN, lower-case; its CN where there is no SAN (ingress-nginx takes these too).
    pub names: Vec<Arc<str>>,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the leaf, hexadecimal.
    pub fingerprint: Arc<str>,
}

impl Certificate {
    /// Whether one of its names is `host` or the wildcard one label up. A wildcard host must be named itself.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => &**name == host || crate::key::parent_of(host) == Some(suffix),
            None => &**name == host,
        })
    }
}

/// Which certificates a server name gets. None listed: the default certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsHost {
    /// Secrets, in order of preference. Those that are gone, unusable, of a key type that came before, or of a certificate
    /// that does not name the host are passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<ObjectKey>,
    /// Plain HTTP to the host is redirected: an Ingress with a rule for it has TLS, or nobody has a rule for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub redirect: bool,
    /// An Ingress with a rule for exactly this host has TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_rule: bool,
    /// The host is here only because a certificate names it whose tls entry lists no hosts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own_name: bool,
    /// TLS is not ended here: connections for the host go to the backend of this route as they are (`sluicegate.dev/tls-passthrough`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<Arc<Route>>,
}
