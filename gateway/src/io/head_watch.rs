//! Watches the raw request line of HTTP/1 as it arrives. The engine percent-encodes control bytes and blanks in a target
//! while it parses, before any phase could refuse them; here they are still what the client sent.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const IDLE: u8 = 0;
const LINE: u8 = 1;
const BAD: u8 = 2;

/// State of one connection's watch. Shared between the stream, which feeds it, and the lane, which asks.
#[derive(Debug, Default)]
pub struct HeadWatch {
    line: AtomicU8,
    taken: AtomicBool,
}

impl HeadWatch {
    /// The next bytes are a request's head.
    pub fn expect_head(&self) {
        self.line.store(LINE, Ordering::Relaxed);
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

    /// Looks at bytes that were read.
    pub fn feed(&self, bytes: &[u8]) {
        if self.line.load(Ordering::Relaxed) != LINE {
            return;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(u8::is_ascii_control) || line.iter().filter(|byte| **byte == b' ').count() > 2 {
            self.line.store(BAD, Ordering::Relaxed);
        } else if end.is_some() && !line.is_empty() {
            // An empty line before the request line is skipped (RFC 9112, 2.2).
            self.line.store(IDLE, Ordering::Relaxed);
        }
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
        chunks.iter().for_each(|chunk| watch.feed(chunk));
        watch.is_bad()
    }

    #[test]
    fn control_bytes_and_blanks_in_the_target_are_seen_across_reads() {
        assert!(is_bad(&[b"GET /a\x01b HTTP/1.1\r\n"]));
        assert!(is_bad(&[b"GET /a\0"]));
        assert!(is_bad(&[b"GET /", b"\x7f HTTP/1.1\r\n"]));
        assert!(is_bad(&[b"GET /a b HTTP/1.1\r\n"]));
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
