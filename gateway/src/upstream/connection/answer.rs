//! The head of a backend's answer: judged as strictly as a client's request, and written anew for the engine.

use std::time::Duration;

use crate::phase::canonical::fields::{Nominated, is_one_hop, may_be_nominated};
use crate::phase::canonical::framing::{Declared, Framing};
use crate::phase::canonical::head::{self, Field, Malformed};

/// What was asked, as far as it says how an answer is framed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question {
    /// The method is HEAD: the answer has no body, whatever it says.
    pub is_head: bool,
    /// A WebSocket was asked for.
    pub upgrade: bool,
}

/// How an answer goes on behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// With another head: this one was an interim answer.
    Head,
    /// With so many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the connection ends.
    UntilClose,
    /// Protocols are switched.
    Switched,
}

/// A judged answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, written anew.
    pub head: Vec<u8>,
    /// What follows it.
    pub rest: Rest,
    /// Whether its connection may be used again.
    pub keeps: bool,
    /// For how long, where the server says.
    pub idle: Option<Duration>,
}

/// Most fields of an answer; the engine takes no more.
const MAX_FIELDS: usize = 240;

/// Reads the time of `Keep-Alive: timeout=N`, less what the next request may take to arrive: servers that close first cost requests
/// that may not be repeated.
fn timeout(value: &[u8]) -> Option<Duration> {
    let parts = std::str::from_utf8(value).ok()?.split(',');
    let seconds: u64 = parts.filter_map(|part| part.trim().strip_prefix("timeout=")?.trim().parse().ok()).next()?;
    Some(Duration::from_secs(seconds).saturating_sub(KEPT_MARGIN))
}

/// See [`timeout`].
const KEPT_MARGIN: Duration = Duration::from_secs(1);

/// Reads a complete head.
///
/// # Errors
/// It is not what the grammar says, or answers something else than what was asked.
pub fn read(bytes: &[u8], question: Question) -> Result<Answer, Malformed> {
    if bytes.first() == Some(&b'\r') {
        return Err(Malformed("an empty line stands before the status line"));
    }
    let head = head::split(bytes)?;
    let (http10, status) = status_line(head.start)?;
    let said = judge_fields(&head.fields, http10)?;
    let rest = match status {
        101 if question.upgrade && said.is_switch() && !http10 => Rest::Switched,
        101 => return Err(Malformed("protocols are switched that nobody asked to")),
        100..=199 => Rest::Head,
        204 | 304 => Rest::Length(0),
        _ if question.is_head => Rest::Length(0),
        _ => match said.framing.framing() {
            Framing::None => Rest::UntilClose,
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked,
        },
    };
    let keeps = if http10 { said.nominated.has("keep-alive") } else { !said.nominated.has("close") };
    let idle = said.idle;
    let head = write(&head.fields, head.start, &said, status, rest);
    Ok(Answer { status, head, rest, keeps: keeps && !matches!(rest, Rest::UntilClose | Rest::Switched), idle })
}

/// Whether the version is HTTP/1.0, and the status (RFC 9112, 4). Many servers leave out the blank before an empty reason.
fn status_line(line: &[u8]) -> Result<(bool, u16), Malformed> {
    let http10 = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return Err(Malformed("the version is neither HTTP/1.1 nor HTTP/1.0")),
    };
    let (code, reason) = line[9..].split_at_checked(3).ok_or(Malformed("there is no status"))?;
    let status = std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
    let status = status.and_then(|code| code.parse().ok()).filter(|status| (100..=599).contains(status));
    let is_reason = reason.first().is_none_or(|byte| *byte == b' ')
        && !reason.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    status.filter(|_| is_reason).map(|status| (http10, status)).ok_or(Malformed("the status line is none"))
}

#[derive(Default)]
struct Said<'a> {
    framing: Declared,
    /// Upgrade fields, and those that say `websocket`.
    upgrades: usize,
    websockets: usize,
    /// How long the server keeps the connection.
    idle: Option<Duration>,
    nominated: Nominated<'a>,
}

impl Said<'_> {
    /// Whether it says that it switches to WebSocket and nothing else, and frames nothing (RFC 9110, 7.8 and 15.2.2). That `Connection` does not
    /// name `upgrade` is left out: nginx has always said it for the backend.
    fn is_switch(&self) -> bool {
        let has_no_body = matches!(self.framing.framing(), Framing::None | Framing::Length(0));
        self.upgrades == 1 && self.websockets == 1 && has_no_body
    }
}

fn judge_fields<'a>(fields: &[Field<'a>], http10: bool) -> Result<Said<'a>, Malformed> {
    if fields.len() > MAX_FIELDS {
        return Err(Malformed("there are too many fields"));
    }
    let mut said = Said::default();
    for field in fields {
        if said.framing.read(field, http10)? {
            continue;
        }
        if field.is("connection") {
            // Servers do write `Connection: Transfer-Encoding`; what is not the connection's own stays.
            for name in Nominated::elements(field.value).filter(|name| may_be_nominated(name)) {
                said.nominated.add(name)?;
            }
        } else if field.is("keep-alive") {
            said.idle = timeout(field.value);
        } else if field.is("upgrade") {
            said.upgrades += 1;
            said.websockets += usize::from(field.value.eq_ignore_ascii_case(b"websocket"));
        }
    }
    Ok(said)
}

/// The engine gets each connection for one exchange, and is told so: whether it is used again is decided here.
fn write(fields: &[Field<'_>], start: &[u8], said: &Said<'_>, status: u16, rest: Rest) -> Vec<u8> {
    let length: usize = fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum();
    let mut out = Vec::with_capacity(start.len() + length + 64);
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(&[start, if start.len() == 12 { b" \r\n" } else { b"\r\n" }]);
    for field in fields {
        let goes = is_one_hop(field.name) || field.is("content-length") || said.nominated.has(field.name);
        if !goes {
            put(&[field.name, b": ", field.value, b"\r\n"]);
        }
    }
    match rest {
        Rest::Head | Rest::UntilClose => {}
        Rest::Chunked => put(&[b"Transfer-Encoding: chunked\r\n"]),
        Rest::Switched => put(&[b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"]),
        Rest::Length(_) => {
            // An answer to HEAD, and 304, tell the length that another would have; 204 has none (RFC 9110, 8.6).
            if let Some(length) = said.framing.length().filter(|_| status != 204) {
                put(&[b"Content-Length: ", length.to_string().as_bytes(), b"\r\n"]);
            }
        }
    }
    match rest {
        Rest::Switched => {}
        Rest::Head => put(&[b"\r\n"]),
        _ => put(&[b"Connection: close\r\n\r\n"]),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::canonical::fields::MAX_NOMINATED;

    fn asked(head: &str) -> Result<Answer, Malformed> {
        read(head.as_bytes(), Question::default())
    }

    #[test]
    fn a_head_is_written_from_what_was_read() {
        let raw = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 007\r\nKeep-Alive: timeout=5\r\nUpgrade: h2,h2c\r\n\
            Connection: Upgrade, X-Hop\r\nX-Hop: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n";
        let answer = asked(raw).unwrap();
        assert_eq!(
            String::from_utf8(answer.head).unwrap(),
            "HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 7\r\nConnection: close\r\n\r\n"
        );
        assert_eq!((answer.rest, answer.keeps), (Rest::Length(7), true));
    }

    #[test]
    fn what_follows_a_head_is_known_by_status_question_and_fields() {
        let rest = |head: &str, is_head: bool| {
            let answer = read(head.as_bytes(), Question { is_head, upgrade: false }).unwrap();
            (answer.rest, answer.keeps)
        };
        for (head, is_head, expected) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, (Rest::Chunked, true)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, (Rest::Length(0), true)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, (Rest::Length(0), true)),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, (Rest::Length(0), true)),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, (Rest::Length(0), true)),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", false, (Rest::Head, true)),
            ("HTTP/1.1 200\r\n\r\n", false, (Rest::UntilClose, false)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", false, (Rest::Length(5), false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, (Rest::Length(5), false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", false, (Rest::Length(5), true)),
        ] {
            assert_eq!(rest(head, is_head), expected, "{head}");
        }
    }

    #[test]
    fn what_connection_may_not_nominate_stays_and_is_no_reason_to_refuse() {
        let answer = asked("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive; timeout=5\r\nConnection: Transfer-Encoding\r\n\r\n").unwrap();
        assert_eq!((answer.rest, answer.keeps), (Rest::Chunked, true));
        let many = format!("HTTP/1.1 200 OK\r\nConnection: {}a\r\n\r\n", "a,".repeat(MAX_NOMINATED));
        assert_eq!(asked(&many).unwrap_err(), Malformed("Connection nominates too many fields"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(asked(&many).unwrap_err(), Malformed("there are too many fields"));
    }

    #[test]
    fn a_server_says_how_long_it_keeps_a_connection() {
        let idle = |value: &str| asked(&format!("HTTP/1.1 204 x\r\nKeep-Alive: {value}\r\n\r\n")).unwrap().idle;
        assert_eq!(idle("timeout=5, max=100"), Some(Duration::from_secs(4)));
        assert_eq!(idle("max=100, timeout=0"), Some(Duration::ZERO));
        assert_eq!(idle("max=100"), None);
    }

    #[test]
    fn protocols_are_switched_only_where_that_was_asked() {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\r\n";
        assert!(read(head, Question::default()).is_err());
        let answer = read(head, Question { is_head: false, upgrade: true }).unwrap();
        assert_eq!((answer.rest, answer.keeps), (Rest::Switched, false));
        assert!(String::from_utf8(answer.head).unwrap().ends_with("Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"));
    }

    #[test]
    fn a_status_line_without_its_last_blank_is_one() {
        assert!(asked("HTTP/1.1 200\r\n\r\n").unwrap().head.starts_with(b"HTTP/1.1 200 \r\n"));
        for line in [
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 099 x",
            "HTTP/1.1 600 x",
            "HTTP/2 200 OK",
            "ICY 200 OK",
        ] {
            assert!(asked(&format!("{line}\r\n\r\n")).is_err(), "{line}");
        }
    }
}
