//! The next stream of a connection, where it is one that can be a request at all. The library has judged its fields (RFC 9113, 8.2 and 8.3);
//! what it leaves to others is judged here, and what every protocol has in common in [`crate::phase::canonical`].

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason as ErrorCode;
use h2::server::{Connection, SendResponse};
use http::header::{CONTENT_LENGTH, HOST, SERVER};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora::http::RequestHeader;
use pingora::protocols::{Digest, Stream};

use super::session::StreamSession;
use crate::io::client::{ClientStream, Refusal};
use crate::phase::canonical::Refused;
use crate::phase::respond::{REASON, REQUEST_ID};
use crate::phase::{Reason, request_id};

/// What came.
pub enum Accepted {
    /// A request.
    Request(Box<StreamSession>),
    /// None; its stream is answered, or reset.
    Malformed(Box<MalformedStream>),
}

/// A stream that is no request.
pub struct MalformedStream {
    /// Its number.
    pub id: u32,
    /// What came.
    pub request: RequestHeader,
    /// What is wrong with it, and the id that its answer tells, if there is one.
    pub refusal: Refusal,
    /// The status of the answer; 0: it was reset.
    pub status: u16,
}

/// How a stream is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is not clear whom it asks, or for what: 400.
    Unclear(&'static str),
    /// It is malformed (RFC 9113, 8.1.1): reset.
    Malformed(&'static str),
}

/// Waits for the next stream; meanwhile the connection is read and written. `None`: it has ended. May be dropped at any time.
pub async fn accept(connection: &mut Connection<Stream, Bytes>, digest: &Arc<Digest>) -> Option<Accepted> {
    let (request, mut respond) = connection.accept().await?.ok()?;
    let (parts, body) = request.into_parts();
    let request = RequestHeader::from(parts);
    if let Err(fault) = judge(&request) {
        let (Fault::Unclear(detail) | Fault::Malformed(detail)) = fault;
        let id = respond.stream_id().as_u32();
        let refused = Refused { reason: Reason::BadRequest, detail };
        let refusal = Refusal { refused, request_id: request_id::new() };
        let info = ClientStream::info_of(Some(digest));
        let server = info.as_ref().and_then(|info| info.server_header.as_ref());
        let status = refuse(&mut respond, fault, &refusal, server);
        return Some(Accepted::Malformed(Box::new(MalformedStream { id, request, refusal, status })));
    }
    Some(Accepted::Request(Box::new(StreamSession::new(request, body, respond, digest.clone()))))
}

/// Answers, without a body that a window could hold back, or resets. The status that its client gets.
fn refuse(
    respond: &mut SendResponse<Bytes>,
    fault: Fault,
    Refusal { refused, request_id }: &Refusal,
    server: Option<&HeaderValue>,
) -> u16 {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let fields = response.headers_mut();
    fields.insert(REASON, HeaderValue::from_static(refused.reason.as_str()));
    fields.extend(HeaderValue::from_str(request_id).ok().map(|id| (REQUEST_ID, id)));
    fields.extend(server.map(|server| (SERVER, server.clone())));
    // Where it was reset meanwhile there is nobody to tell.
    if matches!(fault, Fault::Malformed(_)) || respond.send_response(response, true).is_err() {
        respond.send_reset(ErrorCode::PROTOCOL_ERROR);
        return 0;
    }
    StatusCode::BAD_REQUEST.as_u16()
}

fn judge(request: &RequestHeader) -> Result<(), Fault> {
    debug_assert_eq!(request.version, Version::HTTP_2);
    judge_length(&request.headers)?;
    let path = request.raw_path();
    if path.iter().any(|byte| byte.is_ascii_control() || *byte == b' ') {
        return Err(Fault::Malformed("the target has a blank or a control byte"));
    }
    // CONNECT has none.
    let is_path = path.starts_with(b"/") || (path == b"*" && request.method == Method::OPTIONS);
    if !is_path && request.method != Method::CONNECT {
        return Err(Fault::Unclear("the target is no path"));
    }
    judge_authority(request)
}

/// One Content-Length, of digits: the library compares it with the data, but it goes on as it came.
fn judge_length(headers: &HeaderMap) -> Result<(), Fault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_number = |length: &HeaderValue| {
        let digits = length.as_bytes();
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(length), None) if is_number(length) => Ok(()),
        (Some(_), None) => Err(Fault::Malformed("Content-Length is not a number")),
        (Some(_), Some(_)) => Err(Fault::Malformed("there are several Content-Length fields")),
    }
}

/// `:authority`, or Host, or both and equal (RFC 9113, 8.3.1), and without user information.
fn judge_authority(request: &RequestHeader) -> Result<(), Fault> {
    let mut hosts = request.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (hosts.next(), hosts.next(), authority) {
        (Some(_), Some(_), _) => return Err(Fault::Unclear("there are several Host fields")),
        (None, _, None) => return Err(Fault::Unclear("there is neither :authority nor Host")),
        (Some(host), None, Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            return Err(Fault::Unclear(":authority is not the host of Host"));
        }
        (Some(host), ..) | (None, _, Some(host)) => host,
    };
    if host.contains(&b'@') { Err(Fault::Unclear("the host has user information")) } else { Ok(()) }
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
        type Row<'a> = (&'a str, &'a str, &'a [(&'static str, &'a str)], Result<(), fn(&'static str) -> Fault>);
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
            let expected = judged.map_err(|kind| std::mem::discriminant(&kind("")));
            let found = judge(&request(method, uri, fields)).map_err(|fault| std::mem::discriminant(&fault));
            assert_eq!(found, expected, "{method} {uri} {fields:?}");
        }
    }
}
