//! What a stream holds besides its head: of its answer what is not sent, and what is kept of its request's body. A piece of the answer is
//! read ahead of the engine, read by it, passed to the client's side, given to the HTTP/2 library (`sent`), and goes out (`open.rs`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::streams::Streams;

/// Bytes of a piece: one DATA frame, for which the client has `timeouts.clientWrite`.
pub const PIECE: usize = 16 * 1024;

/// The part of the budget that pieces are, one of each answer; so they are smaller where there are more than seven.
const PIECES_PART: usize = 8;

/// The same to begin with, and where the connection holds half of what it may. What comes at a time of an answer is less where it is a message, or
/// its end.
pub const SMALL_PIECE: usize = 2048;

/// Bytes of a request's body that are kept, to send them once more, at most.
const KEPT: usize = 64 * 1024;

/// The part of the budget that all requests of a connection may hold with that.
pub const KEPT_PART: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Held {
    of: Arc<Streams>,
    stream: u32,
    parts: Mutex<Parts>,
}

impl Held {
    /// Nothing yet, of that stream.
    pub(super) fn new(of: Arc<Streams>, stream: u32) -> Held {
        Held { of, stream, parts: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct Parts {
    /// Bytes that were read of the answer's body and have not come to the client's side of the engine.
    read: usize,
    /// Bytes that the HTTP/2 library had been given when something came there last.
    sent: usize,
    /// Bytes that were read ahead of the engine.
    ahead: usize,
    /// Bytes of the request's body that are kept.
    kept: usize,
    /// All of it, as the connection counts it.
    counted: usize,
}

impl Held {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the connection holds so much that little more may be held for it.
    pub fn is_tight(&self) -> bool {
        self.of.has_no_room_for(PIECE)
    }

    /// Bytes that may be read of the answer at a time: the more, the more the client has taken of it.
    pub fn piece(&self) -> usize {
        if self.is_tight() {
            return SMALL_PIECE;
        }
        self.share().min(SMALL_PIECE + 2 * self.parts().sent)
    }

    /// Bytes of a piece at most, for as many answers as there are now.
    fn share(&self) -> usize {
        (self.of.budget / PIECES_PART / self.of.open().answering().max(1)).clamp(SMALL_PIECE, PIECE)
    }

    /// Ready when the next piece may be given to the HTTP/2 library. It keeps a large one of each answer, or, where there are many, what half of a
    /// piece is then, and that one.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        match self.share() {
            PIECE => Poll::Ready(()),
            share => self.of.open().poll_sent(self.stream, share / 2, cx),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts();
        change(&mut parts);
        let read = parts.read + parts.ahead;
        self.of.open().reads(self.stream, read);
        let now = read + parts.kept;
        self.of.held.fetch_add(now, Ordering::Relaxed);
        self.of.held.fetch_sub(std::mem::replace(&mut parts.counted, now), Ordering::Relaxed);
    }

    /// An exchange begins: of one before nothing is left.
    pub fn begins(&self) {
        self.change(|parts| (parts.read, parts.ahead) = (0, 0));
    }

    /// So many bytes of the body were read, if any; `ahead` wait to be.
    pub fn read(&self, bytes: usize, ahead: usize) {
        self.change(|parts| {
            parts.ahead = ahead;
            parts.read += bytes;
        });
    }

    /// So many bytes were read ahead.
    pub fn ahead(&self, bytes: usize) {
        self.change(|parts| parts.ahead = bytes);
    }

    /// The head of the answer comes to the client's side, so many bytes.
    pub fn passed_head(&self, bytes: usize) {
        self.of.open().passes_head(self.stream, bytes);
    }

    /// A piece of so many bytes comes there; `sent`: all bytes that the HTTP/2 library was given before.
    pub fn passed(&self, bytes: usize, sent: usize) {
        self.of.open().passes(self.stream, bytes);
        self.change(|parts| {
            parts.read = parts.read.saturating_sub(bytes);
            parts.sent = sent;
        });
    }

    /// The stream's number.
    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    /// Whether so many bytes of the request's body may be kept in all; they are counted then.
    pub fn keeps(&self, bytes: usize) -> bool {
        let before = self.parts().kept;
        let may = bytes <= KEPT && self.of.may_keep(bytes.saturating_sub(before));
        let now = if may { bytes } else { 0 };
        if now != before {
            self.of.kept.fetch_add(now, Ordering::Relaxed);
            self.of.kept.fetch_sub(before, Ordering::Relaxed);
            self.change(|parts| parts.kept = now);
        }
        may
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let parts = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.of.held.fetch_sub(parts.counted, Ordering::Relaxed);
        self.of.kept.fetch_sub(parts.kept, Ordering::Relaxed);
        self.of.follow(|open| open.leaves(self.stream));
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::tests::{BUDGET, goes, served, streams};
    use super::*;

    #[test]
    fn answers_that_nobody_takes_are_read_in_small_pieces_in_the_end() {
        let streams = streams();
        let served = served(&streams, 100);
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "the client has taken nothing yet");
        served.iter().for_each(|stream| stream.held.passed(0, PIECE));
        let pieces: Vec<usize> = served.iter().map(|stream| stream.held.piece()).collect();
        assert_eq!(pieces[0], PIECE);
        // Of each a piece is read, and comes to the client's side.
        served.iter().zip(&pieces).for_each(|(stream, bytes)| stream.held.read(*bytes, 0));
        assert_eq!(served[0].held.piece(), SMALL_PIECE);
        served.iter().zip(&pieces).for_each(|(stream, bytes)| stream.held.passed(*bytes, PIECE));
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "it has not gone out yet");
        served.iter().zip(&pieces).for_each(|(stream, bytes)| goes(&streams, stream.held.stream, *bytes));
        assert_eq!(served[0].held.piece(), PIECE);
        served[0].held.ahead(BUDGET / 2);
        assert_eq!(served[1].held.piece(), SMALL_PIECE);
        drop(served);
        assert_eq!(streams.cost(), 0);
    }

    #[test]
    fn the_more_answers_there_are_the_smaller_are_their_pieces() {
        let streams = streams();
        let served = served(&streams, 40);
        for (answers, piece) in [(1, PIECE), (7, PIECE), (10, 12_500), (20, 6_250), (40, 3_125)] {
            let held = &served[0].held;
            served[..answers].iter().for_each(|stream| stream.held.passed_head(0));
            held.passed(0, PIECE);
            assert_eq!(held.piece(), piece, "{answers}");
            let cx = Context::from_waker(std::task::Waker::noop());
            for (unsent, may_be_given) in [(0, true), (piece / 2, true), (piece / 2 + 1, piece == PIECE)] {
                held.passed(unsent, PIECE);
                assert_eq!(held.poll_room(&cx).is_ready(), may_be_given, "{unsent} of {answers}");
                goes(&streams, held.stream, unsent);
            }
        }
        drop(served);
        assert_eq!(streams.open().answering(), 0);
    }

    #[test]
    fn bodies_are_kept_as_far_as_there_is_room() {
        let streams = streams();
        let served = served(&streams, 10);
        assert!(!served[0].held.keeps(KEPT + 1), "of one stream");
        let kept = served.iter().filter(|stream| stream.held.keeps(KEPT / 2)).count();
        assert_eq!(kept, BUDGET / KEPT_PART / (KEPT / 2));
        assert!(!served[0].held.keeps(KEPT), "in all");
        assert!(served[9].held.keeps(KEPT / 2), "it has kept nothing any more");
        assert!((0..100).all(|_| served[9].held.keeps(KEPT / 2)), "it is the same");
        drop(served);
        assert_eq!((streams.cost(), streams.kept.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_stream_whose_answer_waits_counts_more() {
        let streams = streams();
        let served = served(&streams, 40);
        // Of some something was read, of some it has come to the client's side.
        served.iter().step_by(4).for_each(|stream| stream.held.passed(100, 0));
        served.iter().skip(1).step_by(4).for_each(|stream| stream.held.read(1, 0));
        assert!(!streams.is_over());
        served.iter().skip(2).step_by(2).for_each(|stream| stream.held.read(1, 0));
        assert!(streams.is_over());
        served.iter().for_each(|stream| stream.held.passed(1, 0));
        assert!(streams.is_over());
        // What is between two parts, and taken, waits for the backend, and so does a head.
        served.iter().for_each(|stream| goes(&streams, stream.held.stream, 101));
        served.iter().for_each(|stream| stream.held.read(0, 0));
        assert!(!streams.is_over());
        drop(served);
        assert_eq!(streams.cost(), 0);
    }
}
