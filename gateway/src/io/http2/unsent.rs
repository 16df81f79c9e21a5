//! Bytes of answers that have come to the client's side and have not gone out: they wait to be given to the HTTP/2 library, which keeps some of
//! each stream, also of one that has ended, for as long as its client takes none.

use std::collections::BTreeSet;

use super::held::PIECE;
use super::wire::{Frame, kind};

/// What the library keeps of a stream, at most.
pub const SEND_BUFFER: usize = 16 * 1024;

/// What waits of a stream, at most: that, and a piece.
const OF_A_STREAM: usize = SEND_BUFFER + PIECE;

/// What waits of one that is reset, at most: what it is not told at once about comes as well.
const OF_A_RESET: u64 = (OF_A_STREAM + 2 * PIECE) as u64;

/// What so many bytes cost: the library has some 350 for each piece as well, of which it makes room for up to twice as many as there are.
pub const fn cost(bytes: usize) -> usize {
    bytes / 2 * 3
}

/// See the module.
#[derive(Debug)]
pub struct Unsent {
    /// Bytes that have come to the client's side, of all streams, and those that have gone out.
    passed: u64,
    gone: u64,
    /// Streams that the client has opened, and to which more may be sent.
    open: BTreeSet<u32>,
    /// The last one that was opened.
    last: u32,
    /// Begins anew whenever everything has gone out.
    round: u64,
    /// Streams to which something came in this round, and that were reset in it.
    waiting: usize,
    resets: u64,
}

impl Default for Unsent {
    fn default() -> Self {
        Unsent { passed: 0, gone: 0, open: BTreeSet::new(), last: 0, round: 1, waiting: 0, resets: 0 }
    }
}

/// The last round in which something came to a stream.
#[derive(Debug, Default)]
pub struct Round(u64);

impl Unsent {
    /// A frame came from the client.
    pub fn came(&mut self, frame: &Frame) {
        match frame.kind {
            kind::HEADERS if frame.stream > self.last => {
                self.last = frame.stream;
                self.open.insert(frame.stream);
            }
            kind::RST_STREAM => self.ends(frame),
            _ => {}
        }
    }

    /// A frame goes to the client.
    pub fn goes(&mut self, frame: &Frame) {
        if frame.kind == kind::DATA {
            self.gone += frame.length as u64;
        }
        if frame.kind == kind::RST_STREAM || frame.ends_stream() {
            self.ends(frame);
        }
        if self.gone >= self.passed {
            self.next_round();
        }
    }

    fn ends(&mut self, frame: &Frame) {
        if self.open.remove(&frame.stream) && frame.kind == kind::RST_STREAM {
            self.resets += 1;
        }
        if self.open.is_empty() {
            self.forget();
        }
    }

    /// The library knows none of those that were opened: it passes over what comes after a GOAWAY.
    pub fn none_is_open(&mut self) {
        self.open.clear();
        self.forget();
    }

    /// What is left is not there any more.
    pub fn forget(&mut self) {
        self.gone = self.gone.max(self.passed);
        self.next_round();
    }

    fn next_round(&mut self) {
        self.round += 1;
        (self.waiting, self.resets) = (0, 0);
    }

    /// So many bytes come to the client's side of a stream.
    pub fn passes(&mut self, bytes: usize, round: &mut Round) {
        self.passed += bytes as u64;
        if !self.waits(round) {
            round.0 = self.round;
            self.waiting += 1;
        }
    }

    /// A stream is not served any more.
    pub fn leaves(&mut self, round: &Round) {
        self.waiting -= usize::from(self.waits(round));
    }

    /// Whether something of the stream may wait.
    pub fn waits(&self, round: &Round) -> bool {
        round.0 == self.round
    }

    /// How many streams these are.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Streams to which more may be sent, also of those that are not served any more.
    pub fn streams(&self) -> usize {
        self.open.len()
    }

    /// Bytes that wait, at most: those of streams that were reset are gone as well, and it is not known how many they were.
    pub fn bytes(&self) -> usize {
        let waits = usize::try_from(self.passed.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        waits.min(self.open.len() * OF_A_STREAM)
    }

    /// Whether any do, whatever was reset.
    pub fn are_sure(&self) -> bool {
        self.passed > self.gone + self.resets * OF_A_RESET
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
    fn what_has_come_waits_until_it_goes_out() {
        let (mut unsent, mut round) = (opened(&[1, 3]), Round::default());
        assert!(!unsent.waits(&round));
        unsent.passes(5_000, &mut round);
        unsent.goes(&frame(kind::HEADERS, 0, 1, 100));
        assert_eq!((unsent.bytes(), unsent.waiting(), unsent.waits(&round)), (5_000, 1, true));
        unsent.goes(&frame(kind::DATA, 0, 1, 2_000));
        assert_eq!((unsent.bytes(), unsent.gone(), unsent.streams()), (3_000, 2_000, 2));
        assert!(unsent.are_sure());
        unsent.goes(&frame(kind::DATA, kind::END_STREAM, 1, 3_000));
        assert_eq!((unsent.bytes(), unsent.waiting(), unsent.waits(&round)), (0, 0, false));
        assert_eq!((unsent.streams(), unsent.are_sure()), (1, false));
    }

    #[test]
    fn streams_wait_until_everything_has_gone_out_or_they_leave() {
        let mut unsent = opened(&[1, 3, 5]);
        let mut rounds = [Round::default(), Round::default(), Round::default()];
        rounds.iter_mut().for_each(|round| unsent.passes(100, round));
        unsent.passes(100, &mut rounds[0]);
        assert_eq!(unsent.waiting(), 3);
        unsent.leaves(&rounds[2]);
        assert_eq!(unsent.waiting(), 2);
        unsent.goes(&frame(kind::DATA, 0, 1, 400));
        assert_eq!(unsent.waiting(), 0);
        unsent.leaves(&rounds[1]);
        unsent.passes(0, &mut rounds[0]);
        assert_eq!(unsent.waiting(), 1, "an end, which has not gone out");
    }

    #[test]
    fn what_streams_held_that_are_reset_is_gone() {
        for resets in [Unsent::came, Unsent::goes] {
            let (mut unsent, mut round) = (opened(&[1, 3, 5]), Round::default());
            unsent.passes(10 * OF_A_STREAM, &mut round);
            assert_eq!(unsent.bytes(), 3 * OF_A_STREAM, "no stream has more");
            resets(&mut unsent, &frame(kind::RST_STREAM, 0, 3, 4));
            assert_eq!((unsent.bytes(), unsent.are_sure()), (2 * OF_A_STREAM, true));
            unsent.goes(&frame(kind::DATA, 0, 1, 8 * OF_A_STREAM));
            assert_eq!((unsent.bytes(), unsent.are_sure()), (2 * OF_A_STREAM, false), "or what was reset");
            unsent.goes(&frame(kind::HEADERS, kind::END_STREAM, 1, 20));
            resets(&mut unsent, &frame(kind::RST_STREAM, 0, 5, 4));
            unsent.came(&frame(kind::HEADERS, 0, 7, 10));
            assert_eq!((unsent.bytes(), unsent.streams()), (0, 1), "it begins anew");
        }
    }

    #[test]
    fn streams_that_the_library_does_not_know_hold_nothing() {
        let (mut unsent, mut round) = (opened(&[1, 3]), Round::default());
        unsent.passes(100, &mut round);
        unsent.none_is_open();
        assert_eq!((unsent.bytes(), unsent.waiting(), unsent.streams()), (0, 0, 0));
    }

    #[test]
    fn the_trailers_of_a_request_open_nothing() {
        let mut unsent = opened(&[1, 3]);
        unsent.goes(&frame(kind::DATA, kind::END_STREAM, 3, 0));
        unsent.came(&frame(kind::HEADERS, kind::END_STREAM, 3, 10));
        assert_eq!(unsent.streams(), 1);
    }
}
