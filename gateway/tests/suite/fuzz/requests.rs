//! Requests: what is taken is written anew in a form that a strict reader takes, with the body where it was; and what the strict reader takes as
//! the client wrote it ends for the gateway at the same byte.

use rand::rngs::StdRng;
use sluicegate::observe::refused_head::RefusedHead;
use sluicegate::phase::canonical::Limits;
use sluicegate::phase::canonical::chunked::Chunked;
use sluicegate::phase::canonical::framing::Framing;
use sluicegate::phase::canonical::head;
use sluicegate::phase::canonical::message::{self, Request};

use super::{Taken, feed, pieces};
use crate::canonical::cases;
use crate::canonical::strict::{Judged, judge_form};

/// What becomes of a body.
struct Body {
    written: Vec<u8>,
    /// Bytes that were of it.
    length: usize,
    whole: bool,
}

/// Reads a body, all at once or in pieces. `None`: it is refused.
fn body(framing: Framing, parts: &[&[u8]]) -> Option<Body> {
    let all: usize = parts.iter().map(|part| part.len()).sum();
    let length = match framing {
        Framing::None => 0,
        Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Framing::Chunked => {
            let (mut chunked, mut written, mut length) = (Chunked::default(), Vec::new(), 0);
            for part in parts {
                length += chunked.read(part, &mut written).ok()?;
            }
            return Some(Body { written, length, whole: chunked.is_done() });
        }
    };
    let written = parts.concat()[..length.min(all)].to_vec();
    Some(Body { length: written.len(), whole: length <= all, written })
}

fn check(bytes: &[u8], random: &mut StdRng) -> Taken {
    let told = RefusedHead::of_bytes(bytes);
    let longest = [&told.request_line, &told.host, &told.user_agent].map(|text| text.chars().count());
    assert!(longest.into_iter().all(|count| count <= 256), "the log tells too much: {told:?}");
    let Some(length) = whole_head(bytes, random) else { return Taken::No };
    let limits = Limits::default();
    if length > limits.head_bytes {
        return Taken::No;
    }
    let Ok(request) = message::request(&bytes[..length], &limits) else { return Taken::No };
    let rest = &bytes[length..];
    let at_once = body(request.framing, &[rest]);
    let in_pieces = body(request.framing, &pieces(rest, random));
    assert_eq!(at_once.is_some(), in_pieces.is_some(), "pieces matter");
    let forwarded = |body: &[u8]| [&request.head[..], body].concat();
    let (Some(body), Some(pieces)) = (at_once, in_pieces) else { return Taken::No };
    assert_eq!((&body.written, body.length), (&pieces.written, pieces.length), "pieces matter");
    let forwarded = forwarded(&body.written);
    match judge_form(&forwarded) {
        Judged::Whole(_, length) => {
            assert!(
                body.whole && length == forwarded.len(),
                "the forwarded request ends elsewhere: {}",
                show(&request)
            );
        }
        Judged::Partial => assert!(!body.whole, "the forwarded request has no end: {}", show(&request)),
        Judged::Dirty(why) => panic!("forwarded: {why}: {}", show(&request)),
    }
    let again = message::request(&request.head, &limits);
    assert_eq!(again.expect("it is taken once more").head, request.head, "written anew it changes once more");
    if let Judged::Whole(_, strict) = judge_form(bytes) {
        assert_eq!(strict, length + body.length, "the strict reader sees its end elsewhere");
    }
    Taken::Yes
}

/// Where its head ends, however it arrives.
fn whole_head(bytes: &[u8], random: &mut StdRng) -> Option<usize> {
    let at_once = head::length(bytes, 0);
    let (mut have, mut seen) = (Vec::new(), 0);
    let mut in_pieces = Ok(None);
    for piece in pieces(bytes, random) {
        have.extend_from_slice(piece);
        in_pieces = head::length(&have, seen);
        if !matches!(in_pieces, Ok(None)) {
            break;
        }
        seen = have.len();
    }
    // What is wrong may stand behind the end of a head, where in pieces nobody looks.
    match (at_once, in_pieces) {
        (Ok(at_once), Ok(in_pieces)) => assert_eq!(at_once, in_pieces, "pieces matter"),
        (at_once, in_pieces) => assert!(at_once.is_err() && in_pieces.is_err(), "{at_once:?} {in_pieces:?}"),
    }
    at_once.ok().flatten()
}

fn show(request: &Request) -> String {
    format!("b\"{}\"", request.head.escape_ascii())
}

#[test]
fn a_request_that_is_taken_is_one_request_for_everybody() {
    let mut seeds: Vec<Vec<u8>> = cases::all("requests").iter().map(cases::Case::raw).collect();
    seeds.push(
        b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n"
            .to_vec(),
    );
    seeds.push(b"POST /a?b=c HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nCookie: a=b\r\n\r\nhello".to_vec());
    println!("{}", feed("requests", seeds, 1, check));
}
