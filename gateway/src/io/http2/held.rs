//! What a stream holds besides its head: of its answer what is not sent, and what is kept of its request's body. A piece of the answer is
//! read ahead of the engine, read by it, passed to the client's side, given to the HTTP/2 library (`sent`), and goes out (`unsent.rs`).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::streams::Streams;

/// Pieces of an answer that are on their way through the engine, at most: four that wait, and one that is being written.
const PIECES: usize = 5;

/// Bytes of a piece: one DATA frame, for which the client has `timeouts.clientWrite`.
const PIECE: usize = 16 * 1024;

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
    /// Pieces that were read of the answer and have not come to the client's side of the engine.
    read: VecDeque<usize>,
    /// Bytes that have come there, and those of them that the HTTP/2 library had not been given when the last of them came.
    passed: usize,
    unsent: usize,
    /// Bytes that it had been given by then.
    sent: usize,
    /// Bytes that were read ahead of the engine.
    ahead: usize,
    /// The end of the answer has come to the client's side.
    ended: bool,
    /// Bytes of the request's body that are kept.
    kept: usize,
    /// All of it, as the connection counts it.
    counted: usize,
    /// The answer has begun, and waits for the client.
    answered: bool,
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
        let read = parts.read.iter().sum::<usize>() + parts.ahead;
        // What has come to the client's side may be sent by now, but for an end: with that the stream would be over.
        let waits = read > 0 || parts.ended;
        let now = read + parts.unsent + parts.kept;
        self.of.held.fetch_add(now, Ordering::Relaxed);
        self.of.held.fetch_sub(std::mem::replace(&mut parts.counted, now), Ordering::Relaxed);
        self.of.waiting.fetch_add(usize::from(waits), Ordering::Relaxed);
        self.of.waiting.fetch_sub(usize::from(std::mem::replace(&mut parts.waits, waits)), Ordering::Relaxed);
    }

    /// A piece was read; so many bytes wait to be.
    pub fn read(&self, bytes: usize, ahead: usize) {
        self.change(|parts| {
            if !std::mem::replace(&mut parts.answered, true) {
                self.of.answered.fetch_add(1, Ordering::Relaxed);
            }
            parts.ahead = ahead;
            parts.read.push_back(bytes);
            // The engine reads no further before it has passed on what was read so long ago.
            if parts.read.len() > PIECES {
                parts.read.pop_front();
            }
        });
    }

    /// So many bytes were read ahead.
    pub fn ahead(&self, bytes: usize) {
        self.change(|parts| parts.ahead = bytes);
    }

    /// A piece of so many bytes comes to the client's side; `sent`: all bytes that the HTTP/2 library was given before; `ended`: it is the last
    /// one.
    pub fn passed(&self, bytes: usize, sent: usize, ended: bool) {
        self.change(|parts| {
            parts.ended |= ended;
            parts.read.pop_front();
            self.sends(parts, sent);
            parts.passed += bytes;
            parts.unsent = parts.passed.saturating_sub(sent);
        });
    }

    /// The HTTP/2 library was given so many bytes of the answer, in all.
    pub fn sent(&self, sent: usize) {
        self.change(|parts| self.sends(parts, sent));
    }

    fn sends(&self, parts: &mut Parts, sent: usize) {
        let before = std::mem::replace(&mut parts.sent, sent);
        self.of.gives(sent.saturating_sub(before));
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
        self.of.answered.fetch_sub(usize::from(parts.answered), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::BUDGET;
    use super::super::streams::tests::{served, streams};
    use super::*;

    #[test]
    fn answers_that_nobody_takes_are_read_in_small_pieces_in_the_end() {
        let streams = streams();
        let served = served(&streams, 100);
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "the client has taken nothing yet");
        served.iter().for_each(|stream| stream.held.passed(0, PIECE, false));
        // The engine takes so many pieces of each, and then waits for the client.
        for stream in &served {
            (0..PIECES).for_each(|_| stream.held.read(stream.held.piece(), 0));
        }
        let held = streams.held.load(Ordering::Relaxed);
        assert!((BUDGET / 3..BUDGET / 2 + 100 * PIECES * SMALL_PIECE).contains(&held), "{held}");
        assert_eq!(served[0].held.piece(), SMALL_PIECE);
        // What is read more than the engine can have is not counted; what comes to the client's side is until it is sent.
        (0..1000).for_each(|_| served[0].held.read(1, 0));
        for stream in served.iter().skip(1) {
            (0..PIECES).for_each(|_| stream.held.passed(PIECE, 0, false));
        }
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "it is not sent yet");
        for stream in served.iter().skip(1) {
            stream.held.passed(1, PIECES * PIECE + 1, false);
        }
        assert_eq!(served[0].held.piece(), PIECE);
        served[0].held.ahead(BUDGET / 2);
        assert_eq!(served[1].held.piece(), SMALL_PIECE);
        served[0].held.ahead(0);
        (0..10).for_each(|number| served[number].held.keeps(KEPT));
        assert_eq!(served[1].held.piece(), SMALL_PIECE, "bodies that may be sent once more");
        (0..10).for_each(|number| served[number].held.keeps(KEPT + 1));
        assert_eq!(served[1].held.piece(), PIECE, "no more than that is kept");
        drop(served);
        assert!(!streams.is_over() && streams.holds() == 0);
    }

    #[test]
    fn a_stream_whose_answer_waits_counts_more() {
        let streams = streams();
        let served = served(&streams, 44);
        // Some are whole, some go on: all wait.
        served.iter().step_by(4).for_each(|stream| stream.held.passed(100, 0, true));
        served.iter().skip(1).step_by(4).for_each(|stream| stream.held.read(1, 0));
        assert!(!streams.is_over());
        served.iter().skip(2).step_by(2).for_each(|stream| stream.held.read(1, 0));
        assert!(streams.is_over());
        // What is between two parts, and taken, waits for the backend.
        served.iter().skip(1).for_each(|stream| stream.held.passed(1, 200, false));
        assert!(!streams.is_over());
        drop(served);
        assert!(!streams.is_over() && streams.holds() == 0);
    }
}
