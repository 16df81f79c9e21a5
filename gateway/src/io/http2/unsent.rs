//! Bytes of answers that the HTTP/2 library has been given and that have not gone out: it keeps some of each stream, also of one that has
//! ended, for as long as its client takes none.

use std::collections::BTreeSet;

use super::wire::{Frame, kind};

/// What it keeps of a stream, at most.
pub const SEND_BUFFER: usize = 16 * 1024;

/// What so many bytes cost: the library has some 350 for each piece as well, of which it makes room for up to twice as many as there are.
pub const fn cost(bytes: usize) -> usize {
    bytes / 2 * 3
}

/// See the module.
#[derive(Debug, Default)]
pub struct Unsent {
    /// Bytes that it was given, of all streams, and those of them that have gone out.
    given: u64,
    gone: u64,
    /// Streams that the client has opened, and to which more may be sent.
    open: BTreeSet<u32>,
    /// The last one that was opened.
    last: u32,
}

impl Unsent {
    /// A frame came from the client.
    pub fn came(&mut self, frame: &Frame) {
        match frame.kind {
            kind::HEADERS if frame.stream > self.last => {
                self.last = frame.stream;
                self.open.insert(frame.stream);
            }
            kind::RST_STREAM => self.ends(frame.stream),
            _ => {}
        }
    }

    /// A frame goes to the client.
    pub fn goes(&mut self, frame: &Frame) {
        if frame.kind == kind::DATA {
            self.gone += frame.length as u64;
        }
        if frame.kind == kind::RST_STREAM || frame.ends_stream() {
            self.ends(frame.stream);
        }
    }

    fn ends(&mut self, stream: u32) {
        self.open.remove(&stream);
        if self.open.is_empty() {
            self.gone = self.given;
        }
    }

    /// The library was given so many bytes of an answer.
    pub fn gives(&mut self, bytes: usize) {
        self.given += bytes as u64;
    }

    /// Streams to which more may be sent, also of those that are not served any more.
    pub fn streams(&self) -> usize {
        self.open.len()
    }

    /// Bytes that wait, at most: those of streams that were reset are gone as well, and it is not known how many they were.
    pub fn bytes(&self) -> usize {
        let waits = usize::try_from(self.given.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        waits.min(self.open.len() * SEND_BUFFER)
    }

    /// What these cost.
    pub fn cost(&self) -> usize {
        cost(self.bytes())
    }

    /// Bytes that have gone out, in all.
    pub fn gone(&self) -> u64 {
        self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Frame {
        Frame { length, kind, flags, stream }
    }

    fn opened(streams: &[u32]) -> Unsent {
        let mut unsent = Unsent::default();
        streams.iter().for_each(|stream| unsent.came(&frame(kind::HEADERS, kind::END_STREAM, *stream, 10)));
        unsent
    }

    #[test]
    fn what_was_given_waits_until_it_goes_out() {
        let mut unsent = opened(&[1, 3]);
        unsent.gives(5_000);
        unsent.goes(&frame(kind::HEADERS, 0, 1, 100));
        assert_eq!(unsent.bytes(), 5_000);
        unsent.goes(&frame(kind::DATA, 0, 1, 2_000));
        assert_eq!((unsent.bytes(), unsent.gone(), unsent.streams()), (3_000, 2_000, 2));
        unsent.goes(&frame(kind::DATA, kind::END_STREAM, 1, 3_000));
        assert_eq!((unsent.bytes(), unsent.streams()), (0, 1));
    }

    #[test]
    fn what_streams_held_that_are_reset_is_gone() {
        for resets in [Unsent::came, Unsent::goes] {
            let mut unsent = opened(&[1, 3, 5]);
            unsent.gives(10 * SEND_BUFFER);
            assert_eq!(unsent.bytes(), 3 * SEND_BUFFER, "no stream keeps more");
            resets(&mut unsent, &frame(kind::RST_STREAM, 0, 3, 4));
            assert_eq!(unsent.bytes(), 2 * SEND_BUFFER);
            unsent.goes(&frame(kind::HEADERS, kind::END_STREAM, 1, 20));
            resets(&mut unsent, &frame(kind::RST_STREAM, 0, 5, 4));
            unsent.came(&frame(kind::HEADERS, 0, 7, 10));
            assert_eq!((unsent.bytes(), unsent.streams()), (0, 1), "it begins anew");
        }
    }

    #[test]
    fn the_trailers_of_a_request_open_nothing() {
        let mut unsent = opened(&[1, 3]);
        unsent.goes(&frame(kind::DATA, kind::END_STREAM, 3, 0));
        unsent.came(&frame(kind::HEADERS, kind::END_STREAM, 3, 10));
        assert_eq!(unsent.streams(), 1);
    }
}
