//! Phase 1: the request in canonical form, or a refusal.
//!
//! Everything that is routed is a [`Canonical`]. For HTTP/1 it is made from the raw head ([`message`]), which is judged by the grammar
//! ([`head`]) before any other parser sees it, and written anew; for HTTP/2 from a stream's fields.

pub mod chunked;
pub mod fields;
pub mod framing;
pub mod head;
pub mod message;

use http::{HeaderMap, Method};
use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::path;

use super::{Hosts, Reason, RequestHead};
use head::Malformed;

/// A request that goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub reason: Reason,
    /// What is wrong, in a few words; nothing of what the client wrote.
    pub detail: &'static str,
}

impl From<Malformed> for Refused {
    fn from(Malformed(detail): Malformed) -> Self {
        Refused { reason: Reason::BadRequest, detail }
    }
}

/// How much a head may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the head, with its request line and the empty lines before it.
    pub head_bytes: usize,
    /// Bytes of the target.
    pub target_bytes: usize,
    /// Fields, without those named Cookie.
    pub fields: usize,
    /// Fields named Cookie: HTTP/2 clients write one for each pair (RFC 9113, 8.2.3).
    pub cookies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { head_bytes: 32 * 1024, target_bytes: 16 * 1024, fields: 100, cookies: 256 }
    }
}

impl Limits {
    /// Judges how many fields there are.
    ///
    /// # Errors
    /// More than there may be.
    pub fn judge_count(&self, fields: usize, cookies: usize) -> Result<(), Refused> {
        if fields > self.fields || cookies > self.cookies {
            return Err(Refused { reason: Reason::HeadTooLarge, detail: "there are too many fields" });
        }
        Ok(())
    }
}

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

impl Canonical {
    /// Brings what a request is routed by into canonical form.
    ///
    /// # Errors
    /// [`Reason::BadRequest`] for a Host that is missing (HTTP/1.1), repeated or ill-formed and for a target that is neither
    /// origin-form, nor `*` of OPTIONS, nor an absolute-form URL of that host; [`Reason::MethodNotAllowed`] for CONNECT.
    pub fn of(method: &Method, target: &[u8], hosts: Hosts<'_>, http10: bool) -> Result<Self, Refused> {
        if method == Method::CONNECT {
            return Err(Refused { reason: Reason::MethodNotAllowed, detail: "CONNECT asks for a tunnel" });
        }
        // `OPTIONS *` is about the server as a whole; it is routed as `/`, since no rule can name `*`.
        let target = if target == b"*" && method == Method::OPTIONS { b"/" } else { target };
        let (authority, target) = absolute_form(target).map_or((None, target), |(host, rest)| (Some(host), rest));
        let raw = match (hosts, authority) {
            (Hosts::One(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
                return Err(Malformed("the target's host is not the one of Host").into());
            }
            (Hosts::One(host), _) => Some(host),
            // Host-less health probes of load balancers.
            (Hosts::None, authority) if http10 => authority,
            (Hosts::None, _) => return Err(Malformed("there is no Host").into()),
            (Hosts::Many, _) => return Err(Malformed("there are several Host fields").into()),
        };
        let parse = |raw| RequestHost::parse(raw).map_err(|_| Malformed("Host is no host"));
        let host = raw.map_or(Ok(RequestHost::NONE), parse)?;
        let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        let (raw_path, query) = target.split_at(end);
        if target.iter().any(|byte| byte.is_ascii_control() || *byte == b'#' || *byte == b' ') {
            return Err(Malformed("the target holds what no URI does").into());
        }
        let raw_path = if raw_path.is_empty() && authority.is_some() { b"/" } else { raw_path };
        let path = path::normalise(raw_path).map_err(|_| Malformed("the target's path is none"))?.into_owned();
        Ok(Canonical { host, path, query: query.to_vec() })
    }
}

/// [`Canonical::of`] a head.
///
/// # Errors
/// Those of [`Canonical::of`].
pub fn canonicalise(head: &RequestHead<'_>) -> Result<Canonical, Refused> {
    Canonical::of(head.method, head.target, head.hosts, head.http10)
}

/// Judges the fields of an HTTP/2 request; what is about framing and the connection was judged with the frames (RFC 9113, 8.2).
///
/// # Errors
/// Those of [`message::request`] that are about fields.
pub fn judge_http2(headers: &HeaderMap, limits: &Limits) -> Result<(), Refused> {
    let mut cookies = 0;
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        cookies += usize::from(name == b"cookie");
        if fields::is_look_alike(name) {
            return Err(Malformed("a field looks like one about framing and is none").into());
        }
        if name == b"expect" && !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(Refused { reason: Reason::ExpectationFailed, detail: "Expect is not 100-continue" });
        }
    }
    limits.judge_count(headers.len() - cookies, cookies)
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

    fn canonical(method: Method, target: &[u8], hosts: Hosts<'_>, http10: bool) -> Result<(String, String), Reason> {
        let nobody = ([127, 0, 0, 1], 80).into();
        let connection = Connection::new(Scheme::Http, nobody, nobody);
        let headers = HeaderMap::new();
        let head = RequestHead { method: &method, target, hosts, http10, headers: &headers, connection: &connection };
        let canonical = canonicalise(&head).map_err(|refused| refused.reason)?;
        Ok((canonical.host.as_str().to_owned(), String::from_utf8(canonical.target()).unwrap()))
    }

    #[test]
    fn path_is_normalised_and_query_is_not() {
        let one = canonical(Method::GET, b"/a/../b%2f?x=%2f..%7e", Hosts::One(b"A.test:80"), false).unwrap();
        assert_eq!(one, ("a.test".into(), "/b%2F?x=%2f..%7e".into()));
    }

    #[test]
    fn absolute_form_names_the_host_that_host_does() {
        let one = canonical(Method::GET, b"HTTP://A.test:81/x?y", Hosts::One(b"a.TEST:81"), false).unwrap();
        assert_eq!(one, ("a.test".into(), "/x?y".into()));
        assert_eq!(canonical(Method::GET, b"http://a?y", Hosts::One(b"a"), false).unwrap().1, "/?y");
        for host in [&b"b.test"[..], b"a.test:80", b""] {
            assert_eq!(canonical(Method::GET, b"http://a.test/", Hosts::One(host), false), Err(Reason::BadRequest));
        }
        assert_eq!(canonical(Method::GET, b"http://a.test/", Hosts::None, true).unwrap().0, "a.test");
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
            (b"/#x", Hosts::One(b"a")),
            (b"/?x#y", Hosts::One(b"a")),
            (b"/", Hosts::One(b"")),
            (b"/", Hosts::Many),
            (b"/", Hosts::One(b"a b")),
            (b"http:///x", Hosts::One(b"a")),
            (b"http:///x", Hosts::One(b"")),
            (b"ftp://a/", Hosts::One(b"a")),
        ] {
            assert_eq!(canonical(Method::GET, target, hosts, false), Err(Reason::BadRequest), "{target:?}");
        }
        assert_eq!(canonical(Method::CONNECT, b"a:443", Hosts::One(b"a"), false), Err(Reason::MethodNotAllowed));
    }
}
