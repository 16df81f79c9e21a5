//! Facts of a Secret: the certificate in it. Nothing else of a Secret is kept.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::certificate::{self, CertificateFacts, CertificateProblem};
use super::namespaced;
use crate::key::ObjectKey;

/// What of a Secret has a meaning here.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The certificate of `tls.crt` and `tls.key`, whatever the Secret's type is.
    pub certificate: Result<CertificateFacts, CertificateProblem>,
}

/// Trims a Secret. `stringData` is laid over `data`, as the API server does it on writing.
pub fn facts(secret: &Secret) -> SecretFacts {
    let value = |key: &str| -> Option<&[u8]> {
        let text = secret.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
        let data: Option<&BTreeMap<String, ByteString>> = secret.data.as_ref();
        text.or_else(|| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice()))
    };
    let certificate = match (value("tls.crt"), value("tls.key")) {
        (Some(chain), Some(key)) => certificate::read(chain, key),
        (None, Some(_)) => Err(CertificateProblem::Missing("tls.crt")),
        (_, None) => Err(CertificateProblem::Missing("tls.key")),
    };
    SecretFacts { key: namespaced(&secret.metadata), certificate }
}
