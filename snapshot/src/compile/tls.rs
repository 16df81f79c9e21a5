//! One server name: which certificates it gets.

use std::sync::Arc;

use super::claims::{Claims, TlsClaim, TlsRank};
use super::store::Store;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::key::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::model::{KeyType, TlsHost};

/// Secrets of a server name of which no certificate is known now, at most: a gateway may have a last good form of each.
const MAX_CERTIFICATES: usize = 100;

/// Builds a server name from the claims of its Ingresses, which must be in order of precedence. `ruled`: some Ingress has a
/// rule for exactly this host.
///
/// The strongest claim decides, and among equal ones the first Ingress (ingress-nginx: a host's certificate is that of its
/// oldest Ingress with TLS). A second Secret counts only where it adds another key type (RSA beside ECDSA) and comes from
/// the same namespace: no other namespace can slip a certificate under a host.
///
/// TLS is passed through only for the namespace of the first Ingress with a rule for the host, `ruler`: whoever comes later has no part in what
/// others say over HTTP, and must not get all of it over HTTPS.
pub fn build(
    host: &HostPattern,
    claims: &[&Arc<Claims>],
    store: &Store,
    ruled: bool,
    ruler: Option<&ObjectKey>,
) -> (TlsHost, Vec<Diagnostic>) {
    let mut ranked: Vec<(&Claims, &TlsClaim)> = claims
        .iter()
        .flat_map(|claims| claims.tls.get(host).into_iter().flatten().map(|claim| (&***claims, claim)))
        .collect();
    // Stable: the order of precedence stays among equals.
    ranked.sort_by_key(|(_, claim)| claim.rank);
    let Some((owner, strongest)) = ranked.first().copied() else { return (TlsHost::default(), Vec::new()) };
    let mut diagnostics = Vec::new();
    let rules = |ingress: &ObjectKey| ruler.is_none_or(|ruler| ruler.namespace == ingress.namespace);
    let mut chosen = TlsHost {
        passthrough: strongest.passthrough.clone().filter(|_| rules(&owner.ingress)),
        certificates: Vec::new(),
        redirect: strongest.rank == TlsRank::Rule || !ruled,
        by_rule: strongest.rank == TlsRank::Rule,
        own_name: strongest.rank == TlsRank::OwnName,
    };
    let mut types: Vec<KeyType> = Vec::new();
    let name = host.to_string();
    for (claims, claim) in ranked {
        if claim.passthrough.is_some() && claims.ingress != owner.ingress {
            diagnostics.push(not_passed(host, claims, &claim.field, &owner.ingress));
        } else if let Some(ruler) = ruler.filter(|_| claim.passthrough.is_some() && !rules(&claims.ingress)) {
            diagnostics.push(not_passed(host, claims, &claim.field, ruler));
        }
        let Some(secret) = claim.secret.as_ref().filter(|secret| !chosen.certificates.contains(secret)) else {
            continue;
        };
        let facts = store.secrets.get(secret);
        let certificate = facts.and_then(|facts| facts.certificate.as_ref().ok());
        if certificate.is_some_and(|certificate| !certificate.covers(&name)) {
            diagnostics.push(mismatch(host, claims, &claim.field, secret));
            continue;
        }
        let adds_type = certificate.is_some_and(|certificate| !types.contains(&certificate.key_type));
        // A Secret that is bad now stays listed: the gateway may hold its last good form.
        let is_bad = facts.is_some() && certificate.is_none();
        let keep = if claims.ingress == owner.ingress {
            certificate.is_none() || adds_type
        } else {
            !chosen.certificates.is_empty()
                && owner.ingress.namespace == claims.ingress.namespace
                && (adds_type || is_bad)
        };
        if keep && certificate.is_none() && chosen.certificates.len() >= MAX_CERTIFICATES {
            diagnostics.push(too_many(host, claims, &claim.field, secret));
        } else if keep {
            types.extend(certificate.map(|certificate| certificate.key_type));
            chosen.certificates.push(secret.clone());
        } else if claims.ingress != owner.ingress && claim.rank != TlsRank::OwnName {
            diagnostics.push(conflict(host, claims, &claim.field, secret, &owner.ingress));
        }
    }
    (chosen, diagnostics)
}

fn too_many(host: &HostPattern, claims: &Claims, field: &Arc<str>, secret: &ObjectKey) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let message = format!(
        "{host} has {MAX_CERTIFICATES} Secrets without a usable certificate already; Secret {secret} is not looked at for it until it has one"
    );
    Diagnostic::new(object, DiagnosticReason::CertificateConflict, format!("{field}.secretName"), message)
}

fn not_passed(host: &HostPattern, claims: &Claims, field: &Arc<str>, owner: &ObjectKey) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let message = format!(
        "Ingress {owner} decides about TLS of {host} (it has a rule for the host, is older, or sorts last); it is not passed through to a backend of this one"
    );
    Diagnostic::new(object, DiagnosticReason::CertificateConflict, field.clone(), message)
}

fn mismatch(host: &HostPattern, claims: &Claims, field: &Arc<str>, secret: &ObjectKey) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let message = format!(
        "the certificate in Secret {secret} does not name {host}; it is not served there, and unless another one is, the default certificate is"
    );
    Diagnostic::new(object, DiagnosticReason::CertificateHostMismatch, format!("{field}.hosts"), message)
}

fn conflict(
    host: &HostPattern,
    claims: &Claims,
    field: &Arc<str>,
    secret: &ObjectKey,
    owner: &ObjectKey,
) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let message = format!(
        "Ingress {owner} decides about the certificate of {host} (it has a rule for the host, is older, or sorts last); Secret {secret} is not used there"
    );
    Diagnostic::new(object, DiagnosticReason::CertificateConflict, format!("{field}.secretName"), message)
}
