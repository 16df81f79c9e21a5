//! One server name: which certificates it gets.

use std::sync::Arc;

use super::claims::Claims;
use super::store::Store;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::key::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::model::{KeyType, TlsHost};

/// Builds a server name from the claims of its Ingresses, which must be in order of precedence.
///
/// The first Ingress decides (ingress-nginx: a host's certificate is that of its oldest Ingress with TLS). A second
/// Secret counts only where it adds another key type (RSA beside ECDSA) and comes from the same namespace: no other
/// namespace can slip a certificate under a host.
pub fn build(host: &HostPattern, claims: &[&Arc<Claims>], store: &Store) -> (TlsHost, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut chosen = TlsHost::default();
    let mut types: Vec<KeyType> = Vec::new();
    let owner = claims.first().map(|claims| &claims.ingress);
    for claims in claims {
        for claim in claims.tls.iter().filter(|claim| claim.host == *host) {
            let Some(secret) = &claim.secret else { continue };
            let facts = store.secrets.get(secret);
            let certificate = facts.and_then(|facts| facts.certificate.as_ref().ok());
            if certificate.is_some_and(|certificate| !certificate.covers(&host.to_string())) {
                diagnostics.push(mismatch(host, claims, &claim.field, secret));
                continue;
            }
            let first_choice = owner == Some(&claims.ingress);
            let same_namespace = owner.is_some_and(|owner| owner.namespace == claims.ingress.namespace);
            let adds_type = certificate.is_some_and(|certificate| !types.contains(&certificate.key_type));
            // A Secret of the owner that is bad now stays listed: the gateway may hold its last good form.
            let keep = if first_choice {
                certificate.is_none() || adds_type
            } else {
                !types.is_empty() && same_namespace && adds_type
            };
            if keep && !chosen.certificates.contains(secret) {
                types.extend(certificate.map(|certificate| certificate.key_type));
                chosen.certificates.push(secret.clone());
            }
        }
    }
    (chosen, diagnostics)
}

fn mismatch(host: &HostPattern, claims: &Claims, field: &Arc<str>, secret: &ObjectKey) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let message =
        format!("the certificate in Secret {secret} does not name {host}; the default certificate is served there");
    Diagnostic::new(object, DiagnosticReason::CertificateHostMismatch, format!("{field}.hosts"), message)
}
