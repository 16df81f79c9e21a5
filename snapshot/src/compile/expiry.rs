//! Certificates that have ended, or are about to. The time is an input like an object, so that compile stays a function of what it
//! was told; it changes what is said, and nothing that is published: an expired certificate is served.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use super::{Dirty, World};
use crate::diagnostic::DiagnosticReason;
use crate::key::ObjectKey;
use crate::model::{Certificate, Resource};

/// A certificate is about to end in the last seventh of its life, and never earlier than this many seconds before. Whoever renews
/// by the usual rule, when a third is left, never comes so far.
const AT_MOST: i64 = 14 * 24 * 3600;

/// How a certificate stands to the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validity {
    Good,
    Ending,
    Ended,
}

fn validity(certificate: &Certificate, now: i64) -> Validity {
    let life = certificate.not_after.saturating_sub(certificate.not_before);
    match certificate.not_after.saturating_sub(now) {
        ..=0 => Validity::Ended,
        left if left <= (life / 7).min(AT_MOST) => Validity::Ending,
        _ => Validity::Good,
    }
}

/// What is said of a certificate at a time; nothing where no time was told.
pub(super) fn problem(
    key: &ObjectKey,
    certificate: &Certificate,
    now: Option<i64>,
) -> Option<(DiagnosticReason, String)> {
    let until = || {
        let end = Timestamp::from_second(certificate.not_after);
        end.map_or_else(|_| certificate.not_after.to_string(), |end| end.to_string())
    };
    match validity(certificate, now?) {
        Validity::Good => None,
        Validity::Ending => Some((
            DiagnosticReason::CertificateExpiring,
            format!(
                "the certificate in Secret {key} ends at {} and was not renewed; clients refuse it from then on. Renew it",
                until()
            ),
        )),
        Validity::Ended => Some((
            DiagnosticReason::CertificateExpired,
            format!(
                "the certificate in Secret {key} ended at {}; it is served, and clients refuse it. Renew it",
                until()
            ),
        )),
    }
}

impl World {
    /// It is later: marks the Ingresses of certificates about which something else is to be said. Costs O(certificates).
    pub(super) fn take_time(&mut self, now: i64, dirty: &mut Dirty) {
        let before = self.now.replace(now);
        let changed = |certificate: &Certificate| {
            before.map_or(Validity::Good, |before| validity(certificate, before)) != validity(certificate, now)
        };
        let certificates = self.snapshot.certificates.iter();
        let keys = certificates.filter_map(|(key, resource)| match resource {
            Resource::Valid(certificate) if changed(certificate) => Some(key),
            Resource::Valid(_) | Resource::Invalid(_) => None,
        });
        let ingresses: BTreeSet<ObjectKey> = keys.flat_map(|key| self.by_secret.of(key).cloned()).collect();
        dirty.references.extend(ingresses);
    }
}
