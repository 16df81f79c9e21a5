//! One host: whose claim wins each path, and whose default backend counts. Precedence is written here and nowhere else.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::claims::Claims;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::key::{HostPattern, Kind, ObjectRef};
use crate::model::{Lost, Route, VirtualHost};

/// Claims that lost and are remembered with a host, at most: `explain` shows them, and nobody must make somebody else's host large.
/// The diagnostics have more of them.
pub const MAX_LOST: usize = 100;

/// Most bytes of a host's routes, as they are sent to gateways, by estimate: about 25,000 of them. A host is sent as a whole, and one that does
/// not arrive in time would keep everything from every gateway.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The order in which Ingresses get what they claim: the older first; of equal age the one whose `namespace/name` sorts
/// last (ingress-nginx, `ListIngresses` in its store.go).
pub fn sort_by_precedence(claims: &mut [&Arc<Claims>]) {
    claims.sort_by_cached_key(|claims| (claims.created, Reverse(claims.ingress.to_string())));
}

/// Builds a host from the claims of its Ingresses, which must be in order of precedence.
pub fn build(host: &HostPattern, claims: &[&Arc<Claims>]) -> (VirtualHost, Vec<Diagnostic>) {
    let policy = claims.first().map(|claims| claims.policy().clone()).unwrap_or_default();
    let mut virtual_host = VirtualHost { policy, ..VirtualHost::default() };
    let mut diagnostics = Vec::new();
    let mut taken: BTreeMap<(bool, String), Arc<Route>> = BTreeMap::new();
    let mut bytes = 0;
    for claims in claims {
        for claim in claims.hosts.get(host).into_iter().flatten() {
            let route = &claim.route;
            let key = (route.path_type.is_prefix(), route.match_path().to_owned());
            let Some(winner) = taken.get(&key) else {
                if bytes > MAX_BYTES {
                    diagnostics.push(full(host, claims, &claim.field));
                    continue;
                }
                bytes += route.bytes();
                taken.insert(key, route.clone());
                virtual_host.routes.push(route.clone());
                continue;
            };
            let Some(winner) = winner.ingress.clone() else { continue };
            let message = format!(
                "Ingress {winner} is older, or of the same age and sorts last, and has {host}{} ({}) already; this path takes no request",
                route.path, route.path_type
            );
            let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
            diagnostics.push(Diagnostic::new(
                object,
                DiagnosticReason::PathConflict,
                format!("{}.path", claim.field),
                message,
            ));
            if virtual_host.lost.len() == MAX_LOST {
                continue;
            }
            virtual_host.lost.push(Lost {
                ingress: claims.ingress.clone(),
                path: route.path.clone(),
                path_type: route.path_type,
                winner,
            });
        }
        match (&virtual_host.default, claims.default_for(host)) {
            (None, default) => virtual_host.default = default,
            (Some(winner), Some(_)) => diagnostics.extend(default_conflict(claims, winner, &format!("of {host}"))),
            (Some(_), None) => {}
        }
    }
    (virtual_host, diagnostics)
}

fn full(host: &HostPattern, claims: &Claims, field: &str) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let message = format!(
        "{host} has as many paths as a host can have; this one is left out, and a shorter path takes its requests if there is one. Use several hosts, or prefixes"
    );
    Diagnostic::new(object, DiagnosticReason::HostFull, format!("{field}.path"), message)
}

/// The diagnostic of an Ingress whose default backend another Ingress' takes the place of.
pub fn default_conflict(loser: &Claims, winner: &Route, whose: &str) -> Option<Diagnostic> {
    let winner = winner.ingress.as_ref()?;
    let message = format!(
        "the default backend {whose} is that of Ingress {winner}, which is older, or of the same age and sorts last; this one takes no request there"
    );
    let object = ObjectRef::new(Kind::Ingress, &loser.ingress);
    Some(Diagnostic::new(object, DiagnosticReason::DefaultBackendConflict, "spec.defaultBackend", message))
}
