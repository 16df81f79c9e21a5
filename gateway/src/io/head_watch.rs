//! Watches the raw request line of HTTP/1 as it arrives. The engine percent-encodes control bytes and blanks in a target
//! while it parses, before any phase could refuse them; here they are still what the client sent.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const IDLE: u8 = 0;
const LINE: u8 = 1;
const BAD: u8 = 2;

/// A request line has two blanks; a third stands in the target.
const TOO_MANY_BLANKS: u8 = 3;

/// State of one connection's watch. Shared between the stream, which feeds it, and the lane, which asks.
#[derive(Debug, Default)]
pub struct HeadWatch {
    line: AtomicU8,
    /// Blanks of the line so far.
    blanks: AtomicU8,
    /// Something of the line has arrived.
    begun: AtomicBool,
    taken: AtomicBool,
}

impl HeadWatch {
    /// The next bytes are a request's head.
    pub fn expect_head(&self) {
        self.line.store(LINE, Ordering::Relaxed);
        self.blanks.store(0, Ordering::Relaxed);
        self.begun.store(false, Ordering::Relaxed);
        self.taken.store(false, Ordering::Relaxed);
    }

    /// The phases have the request now: what is written from here on is theirs.
    pub fn take(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// Whether the phases have the request.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Looks at bytes that were read; returns how many of them, from the first on, belong to the request line.
    pub fn feed(&self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while self.line.load(Ordering::Relaxed) == LINE && !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
            rest = after;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let blanks = line.iter().filter(|byte| **byte == b' ').count().min(usize::from(TOO_MANY_BLANKS)) as u8;
            let blanks = self.blanks.load(Ordering::Relaxed) + blanks;
            self.blanks.store(blanks.min(TOO_MANY_BLANKS), Ordering::Relaxed);
            let empty = line.is_empty() && !self.begun.load(Ordering::Relaxed);
            self.begun.store(!empty, Ordering::Relaxed);
            if line.iter().any(u8::is_ascii_control) || blanks >= TOO_MANY_BLANKS {
                self.line.store(BAD, Ordering::Relaxed);
            } else if end.is_some() && !empty {
                // An empty line before the request line is skipped (RFC 9112, 2.2).
                self.line.store(IDLE, Ordering::Relaxed);
            }
        }
        bytes.len() - rest.len()
    }

    /// Whether the request line holds what no target may hold.
    pub fn is_bad(&self) -> bool {
        self.line.load(Ordering::Relaxed) == BAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_bad(chunks: &[&[u8]]) -> bool {
        let watch = HeadWatch::default();
        watch.expect_head();
        chunks.iter().for_each(|chunk| {
            watch.feed(chunk);
        });
        watch.is_bad()
    }

    #[test]
    fn control_bytes_and_blanks_in_the_target_are_seen_across_reads() {
        assert!(is_bad(&[b"GET /a\x01b HTTP/1.1\r\n"]));
        assert!(is_bad(&[b"GET /a\0"]));
        assert!(is_bad(&[b"GET /", b"\x7f HTTP/1.1\r\n"]));
        assert!(is_bad(&[b"GET /a b HTTP/1.1\r\n"]));
        assert!(is_bad(&[b"GET /a b", b" HTTP/1.1\r\n"]), "blanks are counted across reads");
        assert!(is_bad(&[b"\r\n\r\nGET /a\x01b HTTP/1.1\r\n"]), "also behind empty lines in the same read");
    }

    #[test]
    fn good_lines_and_everything_behind_them_pass() {
        assert!(!is_bad(&[b"GET /a HTTP/1.1\r\nx: \x01\r\n"]));
        assert!(!is_bad(&[b"\r\nGET /", b"a HTTP/1.1\r", b"\nhost: a b c d\r\n\r\n\x00"]));
    }

    #[test]
    fn body_bytes_are_not_looked_at() {
        let watch = HeadWatch::default();
        watch.feed(b"\x00\x01");
        assert!(!watch.is_bad());
    }
}
