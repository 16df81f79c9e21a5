//! The annotations that have a meaning beside those of the API itself, and the parsers of their values.

use std::sync::Arc;

use crate::model::{HealthCheck, HealthProbe};

/// Prefix of ingress-nginx's annotations.
pub const NGINX_PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Annotations of ingress-nginx that keep somebody out, without [`NGINX_PREFIX`]. None is read yet, and a route without its
/// lock must not be open.
const ACCESS_RULES: [&str; 7] = [
    "allowlist-source-range",
    "auth-secret",
    "auth-tls-secret",
    "auth-type",
    "auth-url",
    "denylist-source-range",
    "whitelist-source-range",
];

/// Directives of nginx that keep somebody out, as they begin in a snippet.
const SNIPPET_LOCKS: [&str; 6] = ["access_by_lua", "auth_", "deny ", "internal", "return 4", "satisfy "];

/// Whether an annotation of ingress-nginx (without its prefix) keeps somebody out.
pub fn is_access_rule(name: &str, value: &str) -> bool {
    ACCESS_RULES.contains(&name)
        || (name.ends_with("-snippet") && SNIPPET_LOCKS.iter().any(|lock| value.contains(lock)))
}

/// On an Ingress: whether it only takes a share of another one's requests (ingress-nginx).
pub const CANARY: &str = "nginx.ingress.kubernetes.io/canary";

/// On an Ingress: TLS of its hosts is ended by the backend.
pub const TLS_PASSTHROUGH: &str = "sluicegate.dev/tls-passthrough";

/// On a Service: endpoints without an EndpointSlice, in standalone mode.
pub const ENDPOINTS: &str = "sluicegate.dev/endpoints";

/// On a Service: an active health check of its endpoints.
pub const HEALTH_CHECK: &str = "sluicegate.dev/health-check";

/// On a Service: `v2` begins each connection to its endpoints with a PROXY header.
pub const PROXY_PROTOCOL: &str = "sluicegate.dev/proxy-protocol";

/// On a ConfigMap (label): it may be served as static content in cluster mode.
pub const PUBLISH: &str = "sluicegate.dev/publish";

/// Reads `sluicegate.dev/health-check`: `tcp` or `http`, then `key=value` pairs separated by blanks: `path` (http only,
/// default `/`), `host` (http only), `interval` (default 10s), `timeout` (default 2s), `healthy` (2), `unhealthy` (3).
/// Durations are `200ms`, `10s` or `1m`.
///
/// # Errors
/// A sentence that names the part that cannot be read and what is expected.
pub fn parse_health_check(text: &str) -> Result<HealthCheck, String> {
    let mut words = text.split_ascii_whitespace();
    let mut http = match words.next() {
        Some("tcp") => None,
        Some("http") => Some((Arc::from("/"), None)),
        _ => return Err("expected `tcp` or `http` as the first word".to_owned()),
    };
    let (mut interval_ms, mut timeout_ms, mut healthy, mut unhealthy) = (10_000, 2_000, 2, 3);
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("expected key=value, found `{word}`"));
        };
        match (key, &mut http) {
            ("path", Some((path, _))) if value.starts_with('/') && value.bytes().all(|b| b.is_ascii_graphic()) => {
                *path = Arc::from(value);
            }
            ("host", Some((_, host))) if crate::host::RequestHost::parse(value.as_bytes()).is_ok() => {
                *host = Some(Arc::from(value));
            }
            ("path" | "host", None) => return Err(format!("`{key}` is for http checks")),
            ("path" | "host", Some(_)) => return Err(format!("`{key}` cannot be read")),
            ("interval", _) => interval_ms = duration(key, value, 100..=3_600_000)?,
            ("timeout", _) => timeout_ms = duration(key, value, 10..=60_000)?,
            ("healthy", _) => healthy = count(key, value)?,
            ("unhealthy", _) => unhealthy = count(key, value)?,
            _ => {
                return Err(format!(
                    "unknown key `{key}`; known are path, host, interval, timeout, healthy, unhealthy"
                ));
            }
        }
    }
    let probe = match http {
        Some((path, host)) => HealthProbe::Http { path, host },
        None => HealthProbe::Tcp,
    };
    Ok(HealthCheck { probe, interval_ms, timeout_ms, healthy, unhealthy })
}

/// Reads `sluicegate.dev/proxy-protocol`: true for `v2`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_proxy_protocol(text: &str) -> Result<bool, String> {
    match text {
        "v2" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected `v2` or `off`".to_owned()),
    }
}

fn duration(key: &str, text: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let (digits, factor) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1_000),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60_000),
        _ => (text, 0),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|value| range.contains(value))
        .ok_or_else(|| {
            format!("`{key}` must be a duration like 200ms, 10s or 1m, from {} to {} ms", range.start(), range.end())
        })
}

fn count(key: &str, text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|value| (1..=100).contains(value)).ok_or_else(|| format!("`{key}` must be 1 to 100"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_are_read_with_their_defaults() {
        let check = parse_health_check("http path=/live host=x.test interval=500ms timeout=1s healthy=1").unwrap();
        assert_eq!(check.probe, HealthProbe::Http { path: "/live".into(), host: Some("x.test".into()) });
        assert_eq!((check.interval_ms, check.timeout_ms, check.healthy, check.unhealthy), (500, 1_000, 1, 3));
        assert_eq!(parse_health_check("tcp").unwrap().interval_ms, 10_000);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, part) in [
            ("", "first word"),
            ("grpc", "first word"),
            ("tcp path=/", "http checks"),
            ("http path=live", "`path`"),
            ("http host=a/b", "`host`"),
            ("tcp interval=10", "`interval`"),
            ("tcp interval=99ms", "`interval`"),
            ("tcp timeout=61s", "`timeout`"),
            ("tcp healthy=0", "`healthy`"),
            ("tcp unhealthy=101", "`unhealthy`"),
            ("tcp every=1s", "`every`"),
            ("tcp now", "key=value"),
        ] {
            let error = parse_health_check(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
