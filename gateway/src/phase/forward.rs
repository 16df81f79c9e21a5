//! Phase 4: what a request gains and loses on its way to a backend.

use std::net::IpAddr;

use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, uri::Authority};

use super::respond::REQUEST_ID;
use super::{RequestHead, Scheme};
use sluicegate_snapshot::host::RequestHost;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_SCHEME: HeaderName = HeaderName::from_static("x-scheme");

/// Changes of a request's header fields: names that go, then fields that are set.
#[derive(Debug, Default)]
pub struct Edits {
    /// Removed, all values.
    pub remove: Vec<HeaderName>,
    /// Set, replacing what was there.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// What the edits are made of, besides the request.
pub struct Forwarding<'a> {
    /// The client's address ([`super::address::client`]).
    pub client: IpAddr,
    /// Id of this request.
    pub request_id: &'a str,
    /// Host that clients see, with its port where they sent one.
    pub host: &'a [u8],
}

/// Computes the edits.
///
/// Forwarding fields are ours to set. What a client sends of them is dropped, whichever way it writes the name, unless
/// its address is trusted; then `X-Forwarded-For` is continued and the others are kept, where they say one thing that can be so. `X-Scheme` and
/// `X-Forwarded-Scheme` say what `X-Forwarded-Proto` does: backends of ingress-nginx know them.
pub fn edits(head: &RequestHead<'_>, forwarding: &Forwarding<'_>) -> Edits {
    let trusted = head.connection.trusted;
    let mut edits = Edits::default();
    for name in head.headers.keys() {
        if is_forwarding(name.as_str()) && !(trusted && is_exact(name)) {
            edits.remove.push(name.clone());
        }
    }
    // httpoxy: a `Proxy` field would become HTTP_PROXY in CGI programs.
    edits.remove.push(HeaderName::from_static("proxy"));
    // HTTP/2 clients may write a field for each cookie; HTTP/1 backends know one (RFC 9113, 8.2.3).
    let cookies: Vec<&[u8]> = head.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        edits.set.push((COOKIE, joined));
    }
    let mut set = |name: HeaderName, value: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            edits.set.push((name, value));
        }
    };
    set(X_FORWARDED_FOR, forwarded_for(head, trusted).as_bytes());
    set(X_REAL_IP, forwarding.client.to_string().as_bytes());
    set(REQUEST_ID, forwarding.request_id.as_bytes());
    let scheme = client_scheme(head).as_str().as_bytes();
    [X_FORWARDED_PROTO, X_FORWARDED_SCHEME, X_SCHEME].into_iter().for_each(|name| set(name, scheme));
    // Several proxies in a row write a list.
    let is_host =
        |hosts: &[u8]| hosts.split(|byte| *byte == b',').all(|host| RequestHost::parse(host.trim_ascii()).is_ok());
    let is_port = |ports: &[u8]| ports.split(|byte| *byte == b',').all(|port| is_port(port.trim_ascii()));
    if said(head, &X_FORWARDED_HOST, is_host).is_none() {
        if forwarding.host.is_empty() {
            edits.remove.push(X_FORWARDED_HOST);
        } else {
            set(X_FORWARDED_HOST, forwarding.host);
        }
    }
    if said(head, &X_FORWARDED_PORT, is_port).is_none() {
        set(X_FORWARDED_PORT, head.connection.port.to_string().as_bytes());
    }
    edits
}

/// What a trusted proxy says in a field, if it says one thing, and that can be so: a client may have added another one.
fn said<'a>(head: &RequestHead<'a>, name: &HeaderName, can_be: impl Fn(&[u8]) -> bool) -> Option<&'a [u8]> {
    let mut values = head.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let value = values.next().filter(|value| head.connection.trusted && can_be(value))?;
    values.next().is_none().then_some(value)
}

fn is_port(text: &[u8]) -> bool {
    std::str::from_utf8(text).ok().and_then(|text| text.parse::<u16>().ok()).is_some_and(|port| port > 0)
}

/// `X-Forwarded-For` of a trusted peer goes on with that peer; otherwise it starts with it.
fn forwarded_for(head: &RequestHead<'_>, trusted: bool) -> String {
    let mut value = String::new();
    if trusted {
        let fields = head.headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|field| field.to_str().ok());
        let members = fields.flat_map(|field| field.split(',')).map(str::trim);
        for member in members.filter(|member| !member.is_empty()) {
            value.push_str(member);
            value.push_str(", ");
        }
    }
    value.push_str(&head.connection.peer.to_string());
    value
}

/// The scheme that the client used: that of a trusted proxy's `X-Forwarded-Proto`, else what the PROXY protocol tells, else the connection's.
pub fn client_scheme(head: &RequestHead<'_>) -> Scheme {
    match said(head, &X_FORWARDED_PROTO, |_| true) {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => Scheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case(b"http") => Scheme::Http,
        _ => head.connection.client_scheme,
    }
}

/// Whether a field is about forwarding. Only letters and digits count: CGI-like servers cannot tell the other signs apart.
fn is_forwarding(name: &str) -> bool {
    let squeezed = || name.bytes().filter(u8::is_ascii_alphanumeric);
    let is = |known: &str| squeezed().eq(known.bytes());
    let begins = |known: &str| squeezed().take(known.len()).eq(known.bytes());
    is("forwarded") || is("xscheme") || is("xrealip") || is("xrequestid") || begins("xforwarded") || begins("xoriginal")
}

/// Whether the name is written as its standard says, so that keeping it cannot be a trick.
fn is_exact(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_plain = !name.contains("--") && name.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric());
    let is_known = matches!(name, "forwarded" | "x-scheme" | "x-real-ip" | "x-request-id");
    is_plain && (is_known || name.starts_with("x-forwarded-") || name.starts_with("x-original-"))
}

/// The id of a request: a trusted proxy's, else a new one.
pub fn request_id(head: &RequestHead<'_>) -> String {
    let given = head.headers.get(&REQUEST_ID).filter(|_| head.connection.trusted);
    match given.and_then(|id| id.to_str().ok()) {
        Some(id) if super::request_id::is_acceptable(id) => id.to_owned(),
        _ => super::request_id::new(),
    }
}

/// The authority that clients see: `Host` as sent.
pub fn authority<'a>(headers: &'a HeaderMap, uri_authority: Option<&'a Authority>) -> &'a [u8] {
    match (uri_authority, headers.get(HOST)) {
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Connection, Hosts};
    use super::*;
    use http::Method;

    fn forwarded(trusted: bool, fields: &[(&str, &str)]) -> HeaderMap {
        let (peer, local) = (([10, 0, 0, 1], 1024).into(), ([10, 0, 0, 2], 443).into());
        let connection = Connection { trusted, ..Connection::new(Scheme::Https, peer, local) };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let head = RequestHead {
            method: &Method::GET,
            target: b"/",
            hosts: Hosts::One(b"a.test"),
            http10: false,
            headers: &headers.clone(),
            connection: &connection,
        };
        let forwarding = Forwarding { client: [192, 0, 2, 7].into(), request_id: "id", host: b"a.test:8443" };
        let edits = edits(&head, &forwarding);
        for name in &edits.remove {
            headers.remove(name);
        }
        for (name, value) in edits.set {
            headers.insert(name, value);
        }
        headers
    }

    fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_client_cannot_set_forwarding_fields_however_it_writes_them() {
        let names = [
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Real-IP",
            "X-Request-Id",
            "Forwarded",
            "X-Forwarded-Prefix",
            "X-Original-URL",
            "X_Forwarded_For",
            "X-Forwarded_Proto",
            "x_real_ip",
            "X_ORIGINAL_URL",
            "X_Request-Id",
            "X.Forwarded.For",
            "X--Forwarded-For",
            "XForwardedFor",
            "-X-Real-IP",
            "X-Scheme",
            "X-Forwarded-Scheme",
            "Proxy",
        ];
        let fields: Vec<_> = names.iter().map(|name| (*name, "evil")).collect();
        let headers = forwarded(false, &fields);
        assert!(headers.values().all(|value| value != "evil"), "{headers:?}");
        assert_eq!(all(&headers, "x-forwarded-for"), ["10.0.0.1"]);
        for name in ["x-forwarded-proto", "x-forwarded-scheme", "x-scheme"] {
            assert_eq!(all(&headers, name), ["https"]);
        }
        assert_eq!(all(&headers, "x-forwarded-host"), ["a.test:8443"]);
        assert_eq!(all(&headers, "x-forwarded-port"), ["443"]);
        assert_eq!(all(&headers, "x-real-ip"), ["192.0.2.7"]);
        assert_eq!(all(&headers, "x-request-id"), ["id"]);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_continued() {
        let fields = [
            ("X-Forwarded-For", "192.0.2.7"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "b.test"),
            ("X-Original-URL", "/x"),
            ("X_Forwarded_For", "evil"),
        ];
        let headers = forwarded(true, &fields);
        assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7, 10.0.0.1"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["b.test"]);
        assert_eq!(all(&headers, "x-original-url"), ["/x"]);
        assert!(headers.values().all(|value| value != "evil"));
    }

    #[test]
    fn what_a_trusted_proxy_says_twice_or_cannot_mean_is_not_believed() {
        let rows: &[&[(&str, &str)]] = &[
            &[("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")],
            &[("X-Forwarded-Proto", "javascript"), ("X-Forwarded-Host", "<script>"), ("X-Forwarded-Port", "70000")],
            &[("X-Forwarded-Proto", "http, https"), ("X-Forwarded-Host", ""), ("X-Forwarded-Port", "0")],
            &[("X-Forwarded-Host", "b.test"), ("X-Forwarded-Host", "c.test"), ("X-Forwarded-Port", "443, abc")],
        ];
        for fields in rows {
            let headers = forwarded(true, fields);
            assert_eq!(all(&headers, "x-forwarded-proto"), ["https"], "{fields:?}");
            assert_eq!(all(&headers, "x-forwarded-host"), ["a.test:8443"], "{fields:?}");
            assert_eq!(all(&headers, "x-forwarded-port"), ["443"], "{fields:?}");
        }
        assert_eq!(
            all(&forwarded(true, &[("X-Forwarded-For", ",, 192.0.2.7 ,")]), "x-forwarded-for"),
            ["192.0.2.7, 10.0.0.1"]
        );
    }

    #[test]
    fn other_fields_pass() {
        let headers = forwarded(false, &[("Cookie", "a=b"), ("X-Forward", "1"), ("Authorization", "x")]);
        assert_eq!(headers.len(), 3 + 8);
    }
}
