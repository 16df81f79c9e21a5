//! What the access log tells of a request that was refused at its head, so that somebody who looks for a client that gets 400 finds it. It is as the
//! client wrote it and nothing is decided by it.

use http::HeaderValue;
use http::header::{HOST, USER_AGENT};
use pingora::http::RequestHeader;

use crate::phase::canonical::head::{is_token, trim};
use crate::phase::canonical::message::MAX_METHOD;

/// Bytes that are told of each, at most.
const MOST: usize = 256;

/// See the module. Empty: there is none, or nothing that looks like one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RefusedHead {
    /// `HTTP/2`, or empty: what came is not judged by what it says it is.
    pub protocol: &'static str,
    /// The first line, if it begins as a request or a PROXY header does: of other protocols, and their passwords, nothing is told.
    pub request_line: String,
    /// The first Host field, or over HTTP/2 `:authority`.
    pub host: String,
    /// The first User-Agent field.
    pub user_agent: String,
}

impl RefusedHead {
    /// Of what was read of an HTTP/1 connection. Costs a pass over it.
    pub fn of_bytes(bytes: &[u8]) -> RefusedHead {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(trim_end).skip_while(|line| line.is_empty());
        let Some((method, rest)) =
            lines.next().and_then(|line| split_at(line, b' ')).filter(|(method, rest)| is_request(method, rest))
        else {
            return RefusedHead::default();
        };
        let fields: Vec<_> =
            lines.take_while(|line| !line.is_empty()).filter_map(|line| split_at(line, b':')).collect();
        let value = |name: &str| {
            let of_name = |field: &&(&[u8], &[u8])| trim(field.0).eq_ignore_ascii_case(name.as_bytes());
            fields.iter().find(of_name).map_or(&b""[..], |(_, value)| trim(value))
        };
        RefusedHead {
            protocol: "",
            request_line: line(method, rest),
            host: told(without_user(value("host"))),
            user_agent: told(value("user-agent")),
        }
    }

    /// Of a stream of HTTP/2.
    pub fn of_stream(request: &RequestHeader) -> RefusedHead {
        let field = |name| request.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let host = request.uri.authority().map_or_else(|| field(HOST), |authority| authority.as_str().as_bytes());
        RefusedHead {
            protocol: "HTTP/2",
            request_line: line(request.method.as_str().as_bytes(), &[request.raw_path(), b"HTTP/2"].join(&b' ')),
            host: told(without_user(host)),
            user_agent: told(field(USER_AGENT)),
        }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What is before the first of these bytes, and behind it.
fn split_at(line: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|byte| *byte == at)?;
    Some((&line[..at], &line[at + 1..]))
}

/// Whether a line could be one of a request, its end may be missing.
fn is_request(method: &[u8], rest: &[u8]) -> bool {
    let has = |text: &[u8]| rest.windows(text.len()).any(|part| part == text);
    let is_method = (1..=MAX_METHOD).contains(&method.len()) && method.iter().all(|byte| is_token(*byte));
    is_method && (method == b"PROXY" || rest.starts_with(b"/") || has(b"://") || has(b" HTTP/"))
}

/// Without what is before an `@`: user information, and a password in it.
fn without_user(text: &[u8]) -> &[u8] {
    text.iter().rposition(|byte| *byte == b'@').map_or(text, |at| &text[at + 1..])
}

/// The request line. Where the target has an authority, however malformed, it begins behind the last `@`.
fn line(method: &[u8], rest: &[u8]) -> String {
    let rest = if rest.starts_with(b"/") { rest } else { without_user(rest) };
    told(&[method, rest].join(&b' '))
}

fn told(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(MOST)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> (String, String, String) {
        let RefusedHead { request_line, host, user_agent, .. } = RefusedHead::of_bytes(bytes);
        (request_line, host, user_agent)
    }

    #[test]
    fn what_is_told_of_a_head() {
        let rows: &[(&[u8], [&str; 3])] = &[
            (
                b"GET /x HTTP/1.1\r\nHost: a.test\r\nUser-Agent: curl\r\nExpect: y\r\n\r\n",
                ["GET /x HTTP/1.1", "a.test", "curl"],
            ),
            // However it is written.
            (b"\r\nGET /x HTTP/1.1\nHOST :\ta.test \n\nHost: of the body", ["GET /x HTTP/1.1", "a.test", ""]),
            (b"get /a b", ["get /a b", "", ""]),
            (b"* * HTTP/9\r\n", ["* * HTTP/9", "", ""]),
            (b"GET /x HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\nUser-Ag", ["GET /x HTTP/1.1", "a.test", ""]),
            (b"GET /\xff\x01 HTTP/1.1\r\nHost: \xfe\r\n", ["GET /\u{fffd}\u{1} HTTP/1.1", "\u{fffd}", ""]),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /", ["PROXY TCP4 192.0.2.1 192.0.2.2 1 2", "", ""]),
            // What looks like no request.
            (b"", ["", "", ""]),
            (b"\x16\x03\x01\x02\x00 \r\nHost: a.test\r\n", ["", "", ""]),
            (b"QUIT\r\nHost: a.test\r\n", ["", "", ""]),
            (b"PASS secret\r\n", ["", "", ""]),
            // Passwords.
            (
                b"GET http://me:secret@a.test/x HTTP/1.1\r\nHost: me:secret@a.test\r\n\r\n",
                ["GET a.test/x HTTP/1.1", "a.test", ""],
            ),
            (b"CONNECT me:sec/ret@a.test:443 HTTP/1.1\r\n\r\n", ["CONNECT a.test:443 HTTP/1.1", "", ""]),
            (
                b"GET /who@a.test HTTP/1.1\r\nAuthorization: Basic c2VjcmV0\r\n\r\n",
                ["GET /who@a.test HTTP/1.1", "", ""],
            ),
        ];
        for (bytes, [line, host, agent]) in rows {
            assert_eq!(
                of(bytes),
                ((*line).to_owned(), (*host).to_owned(), (*agent).to_owned()),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn of_each_so_much_is_told() {
        let long = "x".repeat(10_000);
        let (line, host, agent) =
            of(format!("GET /{long} HTTP/1.1\r\nHost: {long}\r\nUser-Agent: {long}\r\n\r\n").as_bytes());
        assert_eq!([line.len(), host.len(), agent.len()], [MOST; 3]);
        let method = "X".repeat(MAX_METHOD + 1);
        assert_eq!(of(format!("{method} / HTTP/1.1\r\n").as_bytes()).0, "");
        let user = format!("GET http://{long}@a.test/ HTTP/1.1\r\n");
        assert_eq!(of(user.as_bytes()).0, "GET a.test/ HTTP/1.1");
    }
}
