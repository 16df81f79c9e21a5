//! What the engine writes of a request, followed as it goes by: what was asked, and whether all of it was sent.

use std::fmt;

use super::answer::Question;
use crate::phase::canonical::chunked::Chunked;
use crate::phase::canonical::framing::content_length;
use crate::phase::canonical::head;

enum State {
    /// In the head, of which so much was looked at.
    Head(usize),
    Length(u64),
    Chunked(Box<Chunked>),
    /// What follows is no longer followed.
    Lost,
}

/// See the module.
pub struct Asked {
    state: State,
    /// What has come of the head, or of a chunk's line.
    text: Vec<u8>,
    question: Question,
    /// The client waits for 100 before it sends the body.
    expects: bool,
    is_grpc: bool,
}

// What others say is in no log.
impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl Default for Asked {
    fn default() -> Self {
        Asked { state: State::Head(0), text: Vec::new(), question: Question::default(), expects: false, is_grpc: false }
    }
}

impl Asked {
    /// What was asked, as far as it was sent.
    pub fn question(&self) -> Question {
        self.question
    }

    /// Whether the client has to send more of the body before anything can be expected of the backend. `continued`: it was told to.
    /// gRPC's streams are as slow as they like.
    pub fn awaits_client(&self, continued: bool) -> bool {
        let may_send = continued || !self.expects;
        may_send && !self.is_grpc && !self.is_whole() && !matches!(self.state, State::Head(_))
    }

    /// Whether one request was sent, whole, and nothing behind it.
    pub fn is_whole(&self) -> bool {
        match &self.state {
            State::Length(left) => *left == 0,
            State::Chunked(chunked) => chunked.is_done(),
            State::Head(_) | State::Lost => false,
        }
    }

    /// Bytes that were sent.
    pub fn wrote(&mut self, mut bytes: &[u8]) {
        if let State::Head(seen) = self.state {
            let before = self.text.len();
            self.text.extend_from_slice(bytes);
            match head::length(&self.text, seen) {
                Ok(None) => self.state = State::Head(self.text.len()),
                Ok(Some(length)) => {
                    self.state = self.read_head(length).unwrap_or(State::Lost);
                    self.text = Vec::new();
                    bytes = &bytes[length - before..];
                }
                Err(_) => self.state = State::Lost,
            }
        }
        self.follow_body(bytes);
    }

    fn read_head(&mut self, length: usize) -> Option<State> {
        let head = head::split(&self.text[..length]).ok()?;
        let field = |name: &str| head.fields.iter().find(|field| field.is(name));
        self.expects = field("expect").is_some();
        self.is_grpc = field("content-type").is_some_and(|field| field.value.starts_with(b"application/grpc"));
        self.question = Question { is_head: head.start.starts_with(b"HEAD "), upgrade: field("upgrade").is_some() };
        Some(match (field("transfer-encoding"), field("content-length")) {
            (Some(_), _) => State::Chunked(Box::default()),
            (None, Some(length)) => State::Length(content_length(length.value).ok()?),
            (None, None) => State::Length(0),
        })
    }

    fn follow_body(&mut self, mut bytes: &[u8]) {
        self.expects &= bytes.is_empty();
        while !bytes.is_empty() {
            match &mut self.state {
                State::Length(left) if *left >= bytes.len() as u64 => {
                    *left -= bytes.len() as u64;
                    return;
                }
                State::Chunked(chunked) if !chunked.is_done() => {
                    let data = bytes.len().min(usize::try_from(chunked.data_left()).unwrap_or(usize::MAX));
                    chunked.passed(data as u64);
                    let rest = &bytes[data..];
                    // Up to the end of a line there is nothing but framing.
                    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
                    self.text.clear();
                    match chunked.read(&rest[..end], &mut self.text) {
                        Ok(count) => bytes = &rest[count..],
                        Err(_) => return self.state = State::Lost,
                    }
                }
                State::Head(_) => return,
                _ => return self.state = State::Lost,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole_after(request: &[u8], step: usize) -> bool {
        let mut asked = Asked::default();
        let mut ends = Vec::new();
        for piece in request.chunks(step) {
            assert!(ends.is_empty(), "whole before its end");
            asked.wrote(piece);
            if asked.is_whole() {
                ends.push(());
            }
        }
        !ends.is_empty()
    }

    #[test]
    fn a_request_is_whole_at_its_end_however_it_is_written() {
        for request in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde",
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab\nde\r\n1\r\nx\r\n0\r\n\r\n",
        ] {
            for step in 1..=request.len() {
                assert!(whole_after(request, step), "{:?} by {step}", String::from_utf8_lossy(request));
                assert!(
                    !whole_after(&request[..request.len() - 1], step),
                    "{:?} by {step}",
                    String::from_utf8_lossy(request)
                );
            }
        }
    }

    #[test]
    fn more_than_a_request_is_none() {
        let mut asked = Asked::default();
        asked.wrote(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nx");
        assert!(!asked.is_whole());
        let mut asked = Asked::default();
        asked.wrote(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx");
        assert!(!asked.is_whole());
    }

    #[test]
    fn what_was_asked_is_known() {
        let mut asked = Asked::default();
        asked.wrote(b"HEAD / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
        assert!(asked.question().is_head && asked.question().upgrade);
    }
}
