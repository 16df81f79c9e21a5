//! What a stream holds besides its head: of its answer what is not sent, and what is kept of its request's body. A piece of the answer is
//! read ahead of the engine, read by it, passed to the client's side, given to the HTTP/2 library (`sent`), and goes out (`unsent.rs`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::streams::Streams;
use super::unsent::Round;

/// Bytes of a piece: one DATA frame, for which the client has `timeouts.clientWrite`.
pub const PIECE: usize = 16 * 1024;

/// The same to begin with, and where the connection holds half of what it may.
const SMALL_PIECE: usize = 2048;

/// Bytes of a request's body that the engine keeps, to send them once more, at most.
const KEPT: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Held {
    of: Arc<Streams>,
    parts: Mutex<Parts>,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(of: Arc<Streams>) -> Held {
        Held { of, parts: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct Parts {
    /// Bytes that were read of the answer's body and have not come to the client's side of the engine.
    read: usize,
    /// When something came there last.
    round: Round,
    /// Bytes that the HTTP/2 library had been given by then.
    sent: usize,
    /// Bytes that were read ahead of the engine.
    ahead: usize,
    /// Bytes of the request's body that are kept.
    kept: usize,
    /// All of it, as the connection counts it.
    counted: usize,
    /// What was read of the answer waits for the client.
    waits: bool,
}

impl Held {
    /// Bytes that may be read of the answer at a time: the more, the more the client has taken of it.
    pub fn piece(&self) -> usize {
        if self.of.is_over() || self.of.holds() + PIECE > self.of.budget / 2 {
            return SMALL_PIECE;
        }
        let sent = self.parts.lock().unwrap_or_else(PoisonError::into_inner).sent;
        PIECE.min(SMALL_PIECE + 2 * sent)
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let read = parts.read + parts.ahead;
        // One of which something has come to the client's side is counted there.
        let waits = read > 0 && !self.of.unsent().waits(&parts.round);
        let now = read + parts.kept;
        self.of.held.fetch_add(now, Ordering::Relaxed);
        self.of.held.fetch_sub(std::mem::replace(&mut parts.counted, now), Ordering::Relaxed);
        self.of.waiting.fetch_add(usize::from(waits), Ordering::Relaxed);
        self.of.waiting.fetch_sub(usize::from(std::mem::replace(&mut parts.waits, waits)), Ordering::Relaxed);
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

    /// A piece of so many bytes comes to the client's side, or is the gateway's own; `sent`: all bytes that the HTTP/2 library was given before.
    pub fn passed(&self, bytes: usize, sent: usize) {
        self.change(|parts| {
            parts.read = parts.read.saturating_sub(bytes);
            parts.sent = sent;
            self.of.unsent().passes(bytes, &mut parts.round);
        });
    }

    /// So many bytes of the request's body were read. The engine keeps all of them to send them once more, or none.
    pub fn keeps(&self, bytes: usize) {
        self.change(|parts| parts.kept = if bytes <= KEPT { bytes } else { 0 });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let parts = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.of.held.fetch_sub(parts.counted, Ordering::Relaxed);
        self.of.waiting.fetch_sub(usize::from(parts.waits), Ordering::Relaxed);
        self.of.unsent().leaves(&parts.round);
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::BUDGET;
    use super::super::streams::tests::{served, streams};
    use super::super::wire::{Frame, kind};
    use super::*;

    fn goes(streams: &Streams, length: usize) {
        streams.goes(&Frame { length, kind: kind::DATA, flags: 0, stream: 1 });
    }

    /// The client has opened so many.
    fn opened(streams: &Streams, count: u32) {
        let open = |stream| streams.came(&Frame { length: 10, kind: kind::HEADERS, flags: kind::END_STREAM, stream });
        (0..count).for_each(|number| open(2 * number + 1));
    }

    #[test]
    fn answers_that_nobody_takes_are_read_in_small_pieces_in_the_end() {
        let streams = streams();
        opened(&streams, 100);
        let served = served(&streams, 100);
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "the client has taken nothing yet");
        served.iter().for_each(|stream| stream.held.passed(0, PIECE));
        goes(&streams, 0);
        let pieces: Vec<usize> = served.iter().map(|stream| stream.held.piece()).collect();
        assert_eq!(pieces[0], PIECE);
        // Of each a piece is read, and comes to the client's side.
        served.iter().zip(&pieces).for_each(|(stream, bytes)| stream.held.read(*bytes, 0));
        assert_eq!(served[0].held.piece(), SMALL_PIECE);
        served.iter().zip(&pieces).for_each(|(stream, bytes)| stream.held.passed(*bytes, PIECE));
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "it has not gone out yet");
        goes(&streams, pieces.iter().sum());
        assert_eq!(served[0].held.piece(), PIECE);
        served[0].held.ahead(BUDGET / 2);
        assert_eq!(served[1].held.piece(), SMALL_PIECE);
        served[0].held.ahead(0);
        (0..10).for_each(|number| served[number].held.keeps(KEPT));
        assert_eq!(served[1].held.piece(), SMALL_PIECE, "bodies that may be sent once more");
        (0..10).for_each(|number| served[number].held.keeps(KEPT + 1));
        assert_eq!(served[1].held.piece(), PIECE, "no more than that is kept");
        drop(served);
        assert_eq!(streams.cost(), 0);
    }

    #[test]
    fn a_stream_whose_answer_waits_counts_more() {
        let streams = streams();
        opened(&streams, 44);
        let served = served(&streams, 44);
        // Of some something was read, of some it has come to the client's side.
        served.iter().step_by(4).for_each(|stream| stream.held.passed(100, 0));
        served.iter().skip(1).step_by(4).for_each(|stream| stream.held.read(1, 0));
        assert!(!streams.is_over());
        served.iter().skip(2).step_by(2).for_each(|stream| stream.held.read(1, 0));
        assert!(streams.is_over());
        served.iter().for_each(|stream| stream.held.passed(1, 0));
        assert!(streams.is_over());
        // What is between two parts, and taken, waits for the backend, and so does a head.
        goes(&streams, 11 * 100 + 44);
        served.iter().for_each(|stream| stream.held.read(0, 0));
        assert!(!streams.is_over());
        drop(served);
        assert_eq!(streams.cost(), 0);
    }
}
