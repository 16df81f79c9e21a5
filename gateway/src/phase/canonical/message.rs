//! An HTTP/1 request, from the bytes of its head: judged, and written anew for whoever forwards it.
//!
//! Nothing that the client wrote is forwarded as bytes: method, target, host, framing and fields are read, and a head is written from
//! what was read, with one Host, one field about framing and none about the client's connection.

use std::borrow::Cow;

use http::Method;

use super::fields::{Nominated, is_one_hop, may_be_nominated};
use super::framing::{Declared, Framing};
use super::head::{self, Field, Malformed};
use super::{Canonical, Limits, Refused};
use crate::phase::{Hosts, Reason};

/// A request that was judged.
#[derive(Debug)]
pub struct Request {
    /// What it is routed by.
    pub canonical: Canonical,
    /// Its head, written anew.
    pub head: Vec<u8>,
    /// How its body is framed.
    pub framing: Framing,
}

/// Longest method; the longest of the registry (RFC 3253) has 16.
pub const MAX_METHOD: usize = 32;

/// What the fields say, besides what is forwarded as it is.
#[derive(Default)]
struct Said<'a> {
    host: Option<&'a [u8]>,
    hosts: usize,
    framing: Declared,
    nominated: Nominated<'a>,
    upgrade: Option<&'a [u8]>,
    upgrades: usize,
    /// A WebSocket is among what they name, or would be for a lenient server.
    offers_websocket: bool,
    expects: bool,
    expectations: usize,
    cookies: Vec<&'a [u8]>,
}

/// Judges a complete head, as [`head::length`] measures it, and writes it anew.
///
/// # Errors
/// The request is refused, whichever limit or rule it breaks first.
pub fn request(bytes: &[u8], limits: &Limits) -> Result<Request, Refused> {
    let head = head::split(bytes)?;
    let (method, target, http10) = request_line(head.start, limits)?;
    let said = judge_fields(&head.fields, http10, limits)?;
    let host = said.host.map_or(Hosts::None, Hosts::One);
    let canonical = Canonical::of(&method, &encoded(target), host, http10)?;
    let framing = said.framing.framing();
    let upgrade = is_websocket(&said, &method, http10);
    if said.offers_websocket && !matches!(framing, Framing::None | Framing::Length(0)) {
        return Err(Malformed("a request for a WebSocket has a body").into());
    }
    let head = write(&method, &canonical, http10, &head.fields, &said, upgrade);
    Ok(Request { canonical, head, framing })
}

/// Method, target, and whether the version is HTTP/1.0 (RFC 9112, 3).
fn request_line<'a>(line: &'a [u8], limits: &Limits) -> Result<(Method, &'a [u8], bool), Refused> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed("the request line is not `method target version`").into());
    };
    // As nginx has it: more than a token's bytes, less than other servers would take for the start of something else.
    let is_method = (1..=MAX_METHOD).contains(&method.len())
        && method.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'));
    let method = Method::from_bytes(method).ok().filter(|_| is_method).ok_or(Malformed("the method is none"))?;
    if target.len() > limits.target_bytes {
        return Err(Refused { reason: Reason::TargetTooLong, detail: "the target is too long" });
    }
    if target.is_empty() || target.iter().any(u8::is_ascii_control) {
        return Err(Malformed("the target is empty or has a control byte").into());
    }
    match version {
        b"HTTP/1.1" => Ok((method, target, false)),
        b"HTTP/1.0" => Ok((method, target, true)),
        _ => Err(Malformed("the version is neither HTTP/1.1 nor HTTP/1.0").into()),
    }
}

fn judge_fields<'a>(fields: &[Field<'a>], http10: bool, limits: &Limits) -> Result<Said<'a>, Refused> {
    let mut said = Said::default();
    for field in fields {
        if said.framing.read(field, http10)? {
            continue;
        }
        match field {
            field if field.is("host") => {
                said.hosts += 1;
                said.host = Some(field.value);
            }
            field if field.is("connection") => nominate(field.value, &mut said.nominated)?,
            field if field.is("upgrade") => {
                said.upgrades += 1;
                said.upgrade = Some(field.value);
                said.offers_websocket |=
                    Nominated::elements(field.value).any(|name| name.eq_ignore_ascii_case(b"websocket"));
            }
            field if field.is("expect") => {
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refused { reason: Reason::ExpectationFailed, detail: "Expect is not 100-continue" });
                }
                said.expects = !http10;
                said.expectations += 1;
            }
            field if field.is("cookie") => said.cookies.push(field.value),
            _ => {}
        }
    }
    if said.hosts > 1 {
        return Err(Malformed("there are several Host fields").into());
    }
    if said.expectations > 1 {
        return Err(Malformed("there are several Expect fields").into());
    }
    limits.judge_count(fields.len() - said.cookies.len(), said.cookies.len())?;
    Ok(said)
}

/// Reads a Connection field; one that nominates what is not the connection's is an attack on whoever relies on the field.
fn nominate<'a>(value: &'a [u8], nominated: &mut Nominated<'a>) -> Result<(), Malformed> {
    for name in Nominated::elements(value) {
        if !name.iter().all(|byte| head::is_token(*byte)) {
            return Err(Malformed("Connection is no list of tokens"));
        }
        if !may_be_nominated(name) {
            return Err(Malformed("Connection nominates a field that is not the connection's"));
        }
        nominated.add(name)?;
    }
    Ok(())
}

/// Whether the request asks for a WebSocket, the one protocol that is switched to (RFC 6455, 4.1). Every other offer of an upgrade may
/// be ignored (RFC 9110, 7.8), and is.
fn is_websocket(said: &Said<'_>, method: &Method, http10: bool) -> bool {
    let named = said.upgrades == 1 && said.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    named && said.nominated.has("upgrade") && *method == Method::GET && !http10
}

/// The target with what no URI holds (RFC 3986, appendix A) and no other rule refuses percent-encoded: sloppy clients send it, and
/// backends of ingress-nginx get it.
fn encoded(target: &[u8]) -> Cow<'_, [u8]> {
    let mut in_query = false;
    let mut encoded: Option<Vec<u8>> = None;
    for (index, &byte) in target.iter().enumerate() {
        in_query |= byte == b'?';
        if matches!(byte, 0x80..|b'<'| b'>' | b'`') || (byte == b'"' && in_query) {
            let out = encoded.get_or_insert_with(|| target[..index].to_vec());
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else if let Some(out) = &mut encoded {
            out.push(byte);
        }
    }
    encoded.map_or(Cow::Borrowed(target), Cow::Owned)
}

fn write(
    method: &Method,
    canonical: &Canonical,
    http10: bool,
    fields: &[Field<'_>],
    said: &Said<'_>,
    upgrade: bool,
) -> Vec<u8> {
    let length: usize = fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum();
    let mut out = Vec::with_capacity(length + canonical.path.len() + canonical.query.len() + 96);
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    let version: &[u8] = if http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
    put(&[method.as_str().as_bytes(), b" ", canonical.path.as_bytes(), &canonical.query, version]);
    let mut cookies = false;
    for field in fields {
        let goes = is_one_hop(field.name)
            || field.is("content-length")
            || (field.is("expect") && !said.expects)
            || said.nominated.has(field.name);
        if goes {
            continue;
        }
        if field.is("cookie") {
            // One field for HTTP/1 backends, which know no other (RFC 6265, 5.4; RFC 9113, 8.2.3).
            if !std::mem::replace(&mut cookies, true) {
                let crumbs: Vec<&[u8]> = said.cookies.iter().copied().filter(|crumb| !crumb.is_empty()).collect();
                put(&[field.name, b": ", &crumbs.join(&b"; "[..]), b"\r\n"]);
            }
            continue;
        }
        put(&[field.name, b": ", field.value, b"\r\n"]);
    }
    match said.framing.framing() {
        Framing::None => {}
        Framing::Length(length) => put(&[b"Content-Length: ", length.to_string().as_bytes(), b"\r\n"]),
        Framing::Chunked => put(&[b"Transfer-Encoding: chunked\r\n"]),
    }
    if upgrade {
        put(&[b"Upgrade: websocket\r\nConnection: upgrade\r\n"]);
    } else if said.nominated.has("close") {
        put(&[b"Connection: close\r\n"]);
    } else if http10 && said.nominated.has("keep-alive") {
        put(&[b"Connection: keep-alive\r\n"]);
    }
    put(&[b"\r\n"]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(bytes: &[u8]) -> Result<Request, Refused> {
        assert_eq!(head::length(bytes, 0), Ok(Some(bytes.len())));
        request(bytes, &Limits::default())
    }

    fn written(bytes: &[u8]) -> String {
        String::from_utf8(judged(bytes).unwrap().head).unwrap()
    }

    #[test]
    fn a_head_is_written_from_what_was_read() {
        let raw = b"\r\nPUT http://A.test/a/../b?c HTTP/1.1\r\nhost: a.test\r\nContent-Length: 007\r\nCookie: a=1\r\nX-Hop: 1\r\n\
            X-A:  1 \r\nConnection: close, x-hop\r\nCookie: b=2\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n";
        assert_eq!(
            written(raw),
            "PUT /b?c HTTP/1.1\r\nhost: a.test\r\nCookie: a=1; b=2\r\nX-A: 1\r\nContent-Length: 7\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_websocket_is_the_one_upgrade_that_goes_on() {
        let asks = |upgrade: &str, connection: &str| {
            written(
                format!("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: {upgrade}\r\nConnection: {connection}\r\n\r\n")
                    .as_bytes(),
            )
        };
        assert!(
            asks("WebSocket", "keep-alive, Upgrade").ends_with("Upgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        );
        for (upgrade, connection) in [("h2c", "upgrade"), ("websocket, h2c", "upgrade"), ("websocket", "keep-alive")] {
            assert_eq!(asks(upgrade, connection), "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "{upgrade} {connection}");
        }
    }

    #[test]
    fn limits_of_number_and_length_are_reached() {
        let fields = |count: usize, name: &str| {
            let fields = format!("{name}: 1\r\n").repeat(count);
            judged(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).map_err(|refused| refused.reason)
        };
        let limits = Limits::default();
        assert!(fields(limits.fields - 1, "X-A").is_ok());
        assert_eq!(fields(limits.fields, "X-A").unwrap_err(), Reason::HeadTooLarge);
        assert!(fields(limits.cookies, "Cookie").is_ok());
        assert_eq!(fields(limits.cookies + 1, "Cookie").unwrap_err(), Reason::HeadTooLarge);
        let target = |length: usize| {
            let target = format!("/{}", "a".repeat(length - 1));
            judged(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).map_err(|refused| refused.reason)
        };
        assert!(target(limits.target_bytes).is_ok());
        assert_eq!(target(limits.target_bytes + 1).unwrap_err(), Reason::TargetTooLong);
    }

    #[test]
    fn only_what_no_uri_holds_is_encoded_and_quotes_only_in_the_query() {
        assert_eq!(encoded(b"/a\"b?c=d"), Cow::Borrowed(b"/a\"b?c=d"));
        assert_eq!(encoded(b"/\xe9<\"?\"`").as_ref(), b"/%E9%3C\"?%22%60");
    }
}
