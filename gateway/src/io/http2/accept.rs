//! The next stream of a connection, where it is one that can be a request at all. The library has judged its fields (RFC 9113, 8.2 and 8.3);
//! what it leaves to others is judged here, and what every protocol has in common in [`crate::phase::canonical`].

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason as ErrorCode;
use h2::server::{Connection, SendResponse};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora::protocols::{Digest, Stream};

use super::session::StreamSession;

/// What came.
pub enum Accepted {
    /// A request.
    Request(Box<StreamSession>),
    /// None; that stream is answered, or reset.
    Malformed(u32),
}

/// How a stream is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is not clear whom it asks, or for what: 400.
    Unclear,
    /// It is malformed (RFC 9113, 8.1.1): reset.
    Malformed,
}

/// Waits for the next stream; meanwhile the connection is read and written. `None`: it has ended. May be dropped at any time.
pub async fn accept(connection: &mut Connection<Stream, Bytes>, digest: &Arc<Digest>) -> Option<Accepted> {
    let (request, mut respond) = connection.accept().await?.ok()?;
    let (parts, body) = request.into_parts();
    let request = RequestHeader::from(parts);
    if let Err(fault) = judge(&request) {
        refuse(&mut respond, fault);
        return Some(Accepted::Malformed(respond.stream_id().as_u32()));
    }
    Some(Accepted::Request(Box::new(StreamSession::new(request, body, respond, digest.clone()))))
}

fn refuse(respond: &mut SendResponse<Bytes>, fault: Fault) {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    // Where it was reset meanwhile there is nobody to tell.
    if fault == Fault::Malformed || respond.send_response(response, true).is_err() {
        respond.send_reset(ErrorCode::PROTOCOL_ERROR);
    }
}

fn judge(request: &RequestHeader) -> Result<(), Fault> {
    debug_assert_eq!(request.version, Version::HTTP_2);
    judge_length(&request.headers)?;
    let path = request.raw_path();
    if path.iter().any(|byte| byte.is_ascii_control() || *byte == b' ') {
        return Err(Fault::Malformed);
    }
    // CONNECT has none.
    let is_path = path.starts_with(b"/") || (path == b"*" && request.method == Method::OPTIONS);
    if !is_path && request.method != Method::CONNECT {
        return Err(Fault::Unclear);
    }
    judge_authority(request)
}

/// One Content-Length, of digits: the library compares it with the data, but it goes on as it came.
fn judge_length(headers: &HeaderMap) -> Result<(), Fault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_number = |length: &header::HeaderValue| {
        let digits = length.as_bytes();
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(length), None) if is_number(length) => Ok(()),
        _ => Err(Fault::Malformed),
    }
}

/// `:authority`, or Host, or both and equal (RFC 9113, 8.3.1), and without user information.
fn judge_authority(request: &RequestHeader) -> Result<(), Fault> {
    let mut hosts = request.headers.get_all(HOST).iter().map(header::HeaderValue::as_bytes);
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (hosts.next(), hosts.next(), authority) {
        (Some(_), Some(_), _) | (None, _, None) => return Err(Fault::Unclear),
        (Some(host), None, Some(authority)) if !host.eq_ignore_ascii_case(authority) => return Err(Fault::Unclear),
        (Some(host), ..) | (None, _, Some(host)) => host,
    };
    if host.contains(&b'@') { Err(Fault::Unclear) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::Fault::{Malformed, Unclear};
    use super::*;

    fn request(method: &str, uri: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = http::Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        RequestHeader::from(request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn what_can_be_a_request() {
        type Row<'a> = (&'a str, &'a str, &'a [(&'static str, &'a str)], Result<(), Fault>);
        let rows: &[Row<'_>] = &[
            ("GET", "https://a.test/x?y", &[], Ok(())),
            ("GET", "/x", &[("host", "a.test")], Ok(())),
            ("GET", "https://a.test/x", &[("host", "A.test")], Ok(())),
            ("OPTIONS", "*", &[("host", "a.test")], Ok(())),
            ("CONNECT", "a.test:443", &[], Ok(())),
            ("POST", "https://a.test/", &[("content-length", "05")], Ok(())),
            ("GET", "*", &[("host", "a.test")], Err(Unclear)),
            ("GET", "/x", &[], Err(Unclear)),
            ("GET", "/x", &[("host", "a.test"), ("host", "a.test")], Err(Unclear)),
            ("GET", "https://a.test/x", &[("host", "b.test")], Err(Unclear)),
            ("GET", "https://a.test/x", &[("host", "a.test:443")], Err(Unclear)),
            ("GET", "https://me@a.test/x", &[], Err(Unclear)),
            ("GET", "/x", &[("host", "me@a.test")], Err(Unclear)),
            ("POST", "https://a.test/", &[("content-length", "5"), ("content-length", "5")], Err(Malformed)),
            ("POST", "https://a.test/", &[("content-length", "5, 5")], Err(Malformed)),
            ("POST", "https://a.test/", &[("content-length", "+5")], Err(Malformed)),
            ("POST", "https://a.test/", &[("content-length", "")], Err(Malformed)),
        ];
        for (method, uri, fields, judged) in rows {
            assert_eq!(judge(&request(method, uri, fields)), *judged, "{method} {uri} {fields:?}");
        }
    }
}
