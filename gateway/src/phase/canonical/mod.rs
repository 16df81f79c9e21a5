//! Phase 1: the request in canonical form, or a refusal.

use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::path;

use super::{Hosts, Reason, RequestHead};

/// Host, path and target of a request, in the form that is matched and forwarded.
#[derive(Debug)]
pub struct Canonical {
    /// Normalised host; empty where the request has none.
    pub host: RequestHost,
    /// Normalised path.
    pub path: String,
    /// The query with its `?`, untouched; empty where there is none.
    pub query: Vec<u8>,
}

impl Canonical {
    /// The target that is forwarded, and that a redirect carries.
    pub fn target(&self) -> Vec<u8> {
        let mut target = Vec::with_capacity(self.path.len() + self.query.len());
        target.extend_from_slice(self.path.as_bytes());
        target.extend_from_slice(&self.query);
        target
    }
}

/// Brings a request into canonical form.
///
/// # Errors
/// [`Reason::BadRequest`] for a Host that is missing (HTTP/1.1), repeated or ill-formed and for a target that is neither
/// origin-form nor an absolute-form URL; [`Reason::MethodNotAllowed`] for CONNECT.
pub fn canonicalise(head: &RequestHead<'_>) -> Result<Canonical, Reason> {
    if head.method == http::Method::CONNECT {
        return Err(Reason::MethodNotAllowed);
    }
    let host = match head.hosts {
        Hosts::None if head.http10 => RequestHost::NONE,
        Hosts::None | Hosts::Many => return Err(Reason::BadRequest),
        Hosts::One(raw) => RequestHost::parse(raw).map_err(|_| Reason::BadRequest)?,
    };
    // `OPTIONS *` is about the server as a whole; it is routed as `/`, since no rule can name `*`.
    let target = if head.target == b"*" && head.method == http::Method::OPTIONS { b"/" } else { head.target };
    let (host, target) = match absolute_form(target) {
        // RFC 9112, 3.2.2: the target's authority takes the place of Host.
        Some((authority, rest)) => (RequestHost::parse(authority).map_err(|_| Reason::BadRequest)?, rest),
        None => (host, target),
    };
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (raw_path, query) = target.split_at(end);
    if query.iter().any(|byte| byte.is_ascii_control()) {
        return Err(Reason::BadRequest);
    }
    let raw_path = if raw_path.is_empty() { b"/" } else { raw_path };
    let path = path::normalise(raw_path).map_err(|_| Reason::BadRequest)?.into_owned();
    Ok(Canonical { host, path, query: query.to_vec() })
}

/// Authority and the rest of `http://authority/...`.
fn absolute_form(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let head = target.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme.as_bytes()).then(|| &target[scheme.len()..])
    })?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::super::{Connection, Scheme};
    use super::*;
    use http::{HeaderMap, Method};

    fn canonical(method: Method, target: &[u8], hosts: Hosts<'_>, http10: bool) -> Result<(String, String), Reason> {
        let connection =
            Connection { scheme: Scheme::Http, peer: [127, 0, 0, 1].into(), port: 80, https_port: 443, trusted: false };
        let headers = HeaderMap::new();
        let head = RequestHead { method: &method, target, hosts, http10, headers: &headers, connection: &connection };
        let canonical = canonicalise(&head)?;
        Ok((canonical.host.as_str().to_owned(), String::from_utf8(canonical.target()).unwrap()))
    }

    #[test]
    fn path_is_normalised_and_query_is_not() {
        let one = canonical(Method::GET, b"/a/../b%2f?x=%2f..%7e", Hosts::One(b"A.test:80"), false).unwrap();
        assert_eq!(one, ("a.test".into(), "/b%2F?x=%2f..%7e".into()));
    }

    #[test]
    fn absolute_form_brings_its_own_host() {
        let one = canonical(Method::GET, b"HTTP://b.test:81/x?y", Hosts::One(b"a.test"), false).unwrap();
        assert_eq!(one, ("b.test".into(), "/x?y".into()));
        assert_eq!(canonical(Method::GET, b"http://b.test?y", Hosts::One(b"a"), false).unwrap().1, "/?y");
    }

    #[test]
    fn http10_needs_no_host() {
        assert_eq!(canonical(Method::GET, b"/", Hosts::None, true).unwrap().0, "");
        assert_eq!(canonical(Method::GET, b"/", Hosts::None, false), Err(Reason::BadRequest));
    }

    #[test]
    fn asterisk_is_for_options_only() {
        assert_eq!(canonical(Method::OPTIONS, b"*", Hosts::One(b"a"), false).unwrap().1, "/");
        assert_eq!(canonical(Method::GET, b"*", Hosts::One(b"a"), false), Err(Reason::BadRequest));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for (target, hosts) in [
            (&b"foo"[..], Hosts::One(b"a")),
            (b"//\\x", Hosts::One(b"a")),
            (b"/\x01", Hosts::One(b"a")),
            (b"/?\x00", Hosts::One(b"a")),
            (b"/", Hosts::Many),
            (b"/", Hosts::One(b"a b")),
            (b"http:///x", Hosts::One(b"a")),
            (b"ftp://a/", Hosts::One(b"a")),
        ] {
            assert_eq!(canonical(Method::GET, target, hosts, false), Err(Reason::BadRequest), "{target:?}");
        }
        assert_eq!(canonical(Method::CONNECT, b"a:443", Hosts::One(b"a"), false), Err(Reason::MethodNotAllowed));
    }
}
