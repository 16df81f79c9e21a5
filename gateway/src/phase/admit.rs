//! Phase 2: whether the request goes on to a backend, and to which; or what it is answered with instead.

use std::sync::Arc;

use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::model::{Policy, Refusal, Route, Target, Unavailable};
use sluicegate_snapshot::path::has_encoded_slash;

use super::canonical::Canonical;
use super::static_files;
use super::{Reason, Reply, RequestHead, Scheme};
use crate::table::Table;
use crate::upstream::BoundBackend;

/// cert-manager's solvers answer here over plain HTTP, so it is never redirected (RFC 8555, 8.3).
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What becomes of a request.
#[derive(Debug)]
pub enum Verdict {
    /// To a backend.
    Forward(Arc<BoundBackend>),
    /// Answered here.
    Reply(Reply),
}

/// Finds the route and judges the request by it. The route is returned with every verdict but 404: metrics and the log
/// want it.
pub fn admit(table: &Table, head: &RequestHead<'_>, canonical: &Canonical) -> (Option<Arc<Route>>, Verdict) {
    let host = canonical.host.as_str();
    let Some(route) = table.route(host, &canonical.path) else {
        // A host with TLS redirects whatever the path, as ingress-nginx does by the implicit `/` of each host.
        let refused = refusal(table, table.policy(host), head, canonical);
        return (None, Verdict::Reply(refused.unwrap_or_else(|| Reason::NoRoute.into())));
    };
    let verdict = match refusal(table, &route.policy, head, canonical) {
        Some(reply) => Verdict::Reply(reply),
        None => follow(table, route, head, canonical),
    };
    (Some(route.clone()), verdict)
}

fn refusal(table: &Table, policy: &Policy, head: &RequestHead<'_>, canonical: &Canonical) -> Option<Reply> {
    if policy.reject_encoded_slashes && has_encoded_slash(&canonical.path) {
        return Some(Reason::BadRequest.into());
    }
    redirect_to_tls(table, policy, head, canonical).or_else(|| misdirected(table, head, canonical))
}

/// TLS was ended here for a host whose TLS is passed through: the client took a connection that it has for another name, and is to make one of
/// its own (RFC 9110, 15.5.20). What is sent to that backend has to be TLS.
fn misdirected(table: &Table, head: &RequestHead<'_>, canonical: &Canonical) -> Option<Reply> {
    let is_https = super::forward::client_scheme(head) == Scheme::Https;
    let passes = || table.passthrough(canonical.host.as_str()).is_some();
    (is_https && passes()).then(|| Reason::Misdirected.into())
}

/// 308 for plain HTTP to a host with TLS. Behind a trusted proxy that ended TLS itself, `X-Forwarded-Proto` counts.
fn redirect_to_tls(table: &Table, policy: &Policy, head: &RequestHead<'_>, canonical: &Canonical) -> Option<Reply> {
    let host = canonical.host.as_str();
    if !policy.ssl_redirect
        || super::forward::client_scheme(head) == Scheme::Https
        || canonical.path.starts_with(ACME_CHALLENGE)
        || !table.has_tls(host)
    {
        return None;
    }
    let target = String::from_utf8(canonical.target()).ok()?;
    let location = match head.connection.https_port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    // A query with raw 8-bit bytes cannot stand in a header.
    if http::HeaderValue::from_str(&location).is_err() {
        return Some(Reason::BadRequest.into());
    }
    Some(Reply { location: Some(location), ..Reason::TlsRedirect.into() })
}

fn follow(table: &Table, route: &Route, head: &RequestHead<'_>, canonical: &Canonical) -> Verdict {
    let reason = match &route.target {
        Target::Refused(refusal) => refused(*refusal),
        Target::Content(key) => return Verdict::Reply(static_files::serve(table.content(key), route, head, canonical)),
        Target::Backend(key) => match table.backend(key) {
            None => Reason::ServiceNotFound,
            Some(backend) => match backend.unavailable {
                Some(why) => why.map_or(Reason::BackendInvalid, unavailable),
                None if is_too_large(route, head) => Reason::BodyTooLarge,
                None => return Verdict::Forward(backend.clone()),
            },
        },
    };
    Verdict::Reply(reason.into())
}

/// By what the request says of its body; of one in chunks nothing is known yet.
fn is_too_large(route: &Route, head: &RequestHead<'_>) -> bool {
    let limit = route.policy.body_limit;
    let length = head.headers.get(http::header::CONTENT_LENGTH);
    // One that does not fit a number is larger than any limit.
    let length = length.map(|length| length.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX));
    limit > 0 && length.is_some_and(|length| length > limit)
}

const fn refused(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::BackendAmbiguous => Reason::BackendAmbiguous,
        Refusal::BackendMissing => Reason::BackendMissing,
        Refusal::ResourceUnsupported => Reason::ResourceUnsupported,
        Refusal::AccessRuleUnsupported => Reason::AccessRuleUnsupported,
        Refusal::BackendInvalid | Refusal::Unknown => Reason::BackendInvalid,
    }
}

/// The reply for a backend that has nothing to send to.
pub const fn unavailable(why: Unavailable) -> Reason {
    match why {
        Unavailable::ServiceNotFound => Reason::ServiceNotFound,
        Unavailable::PortNotFound => Reason::PortNotFound,
        Unavailable::NoEndpoints => Reason::NoEndpoints,
        Unavailable::EndpointsRefused => Reason::EndpointsRefused,
        Unavailable::ServiceUnsupported => Reason::ServiceUnsupported,
        Unavailable::Unknown => Reason::BackendInvalid,
    }
}

/// Whether the request is for the traffic health path.
pub fn is_health_request(path: Option<&str>, canonical: &Canonical) -> bool {
    path == Some(canonical.path.as_str())
}

/// The host of the request, for callers that have only the canonical form.
pub fn host(canonical: &Canonical) -> &RequestHost {
    &canonical.host
}
