//! The streams of a connection that are served: how many, and what their requests and answers hold.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use tokio::sync::watch;

/// Most bytes that a connection's requests, and what is not sent of their answers, may hold at a time. A client that sends the largest heads
/// on every stream, and takes no answer, gets no further.
pub const BUDGET: usize = 1_000_000;

/// The same for a trusted proxy.
pub const TRUSTED_BUDGET: usize = 8 * BUDGET;

/// What a stream costs besides its head.
const EACH: usize = 2 * 1024;

/// How often a head is held while it is forwarded, as `measure connections` finds: as it came, as it goes, and what holds both.
const TIMES: usize = 3;

/// Bytes that a field costs besides its name and value (RFC 9113, 6.5.2).
const FIELD: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Streams {
    count: AtomicUsize,
    held: AtomicUsize,
    budget: usize,
    ended: watch::Sender<()>,
}

/// A stream that is served, until this is dropped, also when its task panics.
#[derive(Debug)]
pub struct Served {
    of: Arc<Streams>,
    cost: usize,
    /// What is not sent of its answer.
    pub held: Arc<Held>,
}

/// Pieces of an answer that are on their way through the engine, at most: four that wait, and one that is being written.
const PIECES: usize = 5;

/// Bytes of a piece: one DATA frame, for which the client has `timeouts.clientWrite`.
const PIECE: usize = 16 * 1024;

/// The same to begin with, and where the connection holds half of what it may.
const SMALL_PIECE: usize = 1024;

/// Bytes of a request's body that the engine keeps, to send them once more, at most.
const KEPT: usize = 64 * 1024;

/// What a stream holds besides its head: of its answer what is not sent, at most, and what is kept of its request's body.
#[derive(Debug)]
pub struct Held {
    of: Arc<Streams>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Pieces that were read of the answer and have not come to the client's side of the engine.
    read: VecDeque<usize>,
    /// Bytes that have come there, and those of them that were not sent when the last of them came.
    passed: usize,
    unsent: usize,
    /// Bytes that were sent by then.
    sent: usize,
    /// Bytes that were read ahead of the engine.
    ahead: usize,
    /// Bytes of the request's body that are kept.
    kept: usize,
    /// All of it, as the connection counts it.
    counted: usize,
}

impl Held {
    /// Bytes that may be read of the answer at a time: the more, the more the client has taken of it.
    pub fn piece(&self) -> usize {
        if self.of.held.load(Ordering::Relaxed) + PIECE > self.of.budget / 2 {
            return SMALL_PIECE;
        }
        let sent = self.parts.lock().unwrap_or_else(PoisonError::into_inner).sent;
        PIECE.min(SMALL_PIECE + 2 * sent)
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let now = parts.read.iter().sum::<usize>() + parts.unsent + parts.ahead + parts.kept;
        self.of.held.fetch_add(now, Ordering::Relaxed);
        self.of.held.fetch_sub(std::mem::replace(&mut parts.counted, now), Ordering::Relaxed);
    }

    /// A piece was read; so many bytes wait to be.
    pub fn read(&self, bytes: usize, ahead: usize) {
        self.change(|parts| {
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

    /// A piece of so many bytes comes to the client's side; `sent`: all bytes that were sent before.
    pub fn passed(&self, bytes: usize, sent: usize) {
        self.change(|parts| {
            parts.read.pop_front();
            (parts.passed, parts.sent) = (parts.passed + bytes, sent);
            parts.unsent = parts.passed.saturating_sub(sent);
        });
    }

    /// So many bytes of the request's body were read.
    pub fn keeps(&self, bytes: usize) {
        self.change(|parts| parts.kept = bytes.min(KEPT));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let counted = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).counted;
        self.of.held.fetch_sub(counted, Ordering::Relaxed);
    }
}

impl Streams {
    /// None yet; what is received is told when one ends. `trusted`: the connection is a proxy's of ours, and carries many clients.
    pub fn new(trusted: bool) -> (Arc<Streams>, watch::Receiver<()>) {
        let (ended, receiver) = watch::channel(());
        let budget = if trusted { TRUSTED_BUDGET } else { BUDGET };
        (Arc::new(Streams { count: AtomicUsize::new(0), held: AtomicUsize::new(0), budget, ended }), receiver)
    }

    /// Streams that are served.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none is served.
    pub fn is_idle(&self) -> bool {
        self.count() == 0
    }

    /// Serves one with these fields; `None`: the connection's requests hold too much already.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, target: usize) -> Option<Served> {
        let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let cost = EACH + TIMES * (fields + target);
        if self.held.fetch_add(cost, Ordering::Relaxed) + cost > self.budget {
            self.held.fetch_sub(cost, Ordering::Relaxed);
            return None;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let held = Arc::new(Held { of: self.clone(), parts: Mutex::default() });
        Some(Served { of: self.clone(), cost, held })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.cost, Ordering::Relaxed);
        self.of.count.fetch_sub(1, Ordering::Relaxed);
        self.of.ended.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn head(bytes: usize) -> HeaderMap {
        let value = HeaderValue::from_str(&"x".repeat(bytes)).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static("x"), value)])
    }

    #[test]
    fn a_hundred_usual_requests_fit_and_a_few_of_the_largest() {
        let (streams, _ended) = Streams::new(false);
        let usual: Vec<_> = (0..100).map(|_| streams.begin(&head(2_000), 100)).collect();
        assert!(usual.iter().all(Option::is_some));
        drop(usual);
        assert!(streams.is_idle());
        let largest: Vec<_> = (0..100).filter_map(|_| streams.begin(&head(32 * 1024), 100)).collect();
        assert!((8..20).contains(&largest.len()), "{}", largest.len());
        drop(largest);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn answers_that_nobody_takes_are_read_in_small_pieces_in_the_end() {
        let (streams, _ended) = Streams::new(false);
        let served: Vec<_> = (0..100).map(|_| streams.begin(&head(100), 10).unwrap()).collect();
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "the client has taken nothing yet");
        served.iter().for_each(|stream| stream.held.passed(0, PIECE));
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
            (0..PIECES).for_each(|_| stream.held.passed(PIECE, 0));
        }
        assert_eq!(served[0].held.piece(), SMALL_PIECE, "it is not sent yet");
        for stream in served.iter().skip(1) {
            stream.held.passed(1, PIECES * PIECE + 1);
        }
        assert_eq!(served[0].held.piece(), PIECE);
        served[0].held.ahead(BUDGET / 2);
        assert_eq!(served[1].held.piece(), SMALL_PIECE);
        served[0].held.ahead(0);
        served[0].held.keeps(10 * KEPT);
        assert_eq!(served[1].held.piece(), PIECE);
        drop(served);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }
}
