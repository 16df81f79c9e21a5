//! The streams of a connection that are served: how many, and what their requests and answers hold.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// The same where the connection holds three quarters of what it may.
const SMALL_PIECE: usize = 1024;

/// What is not sent of a stream's answer: an upper bound, by the pieces that the engine may have.
#[derive(Debug)]
pub struct Held {
    of: Arc<Streams>,
    pieces: Mutex<VecDeque<usize>>,
}

impl Held {
    fn pieces(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that may be read of the answer at a time.
    pub fn piece(&self) -> usize {
        let small = self.of.held.load(Ordering::Relaxed) + PIECE > self.of.budget / 4 * 3;
        if small { SMALL_PIECE } else { PIECE }
    }

    /// A piece was read.
    pub fn read(&self, bytes: usize) {
        let mut pieces = self.pieces();
        pieces.push_back(bytes);
        self.of.held.fetch_add(bytes, Ordering::Relaxed);
        // The engine reads no further before it has passed on what was read so long ago.
        if pieces.len() > PIECES {
            self.forget(pieces.pop_front());
        }
    }

    /// A piece goes to the client; those before it are there.
    pub fn passed(&self) {
        let first = self.pieces().pop_front();
        self.forget(first);
    }

    fn forget(&self, piece: Option<usize>) {
        self.of.held.fetch_sub(piece.unwrap_or(0), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let all: usize = self.pieces().iter().sum();
        self.forget(Some(all));
    }
}

impl Streams {
    /// None yet; what is received is told when one ends. `trusted`: the connection is a proxy's of ours, and carries many clients.
    pub fn new(trusted: bool) -> (Arc<Streams>, watch::Receiver<()>) {
        let (ended, receiver) = watch::channel(());
        let budget = if trusted { TRUSTED_BUDGET } else { BUDGET };
        (Arc::new(Streams { count: AtomicUsize::new(0), held: AtomicUsize::new(0), budget, ended }), receiver)
    }

    /// Whether none is served.
    pub fn is_idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
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
        let held = Arc::new(Held { of: self.clone(), pieces: Mutex::default() });
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
        assert!((10..20).contains(&largest.len()), "{}", largest.len());
        drop(largest);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn answers_that_nobody_takes_are_read_in_small_pieces_in_the_end() {
        let (streams, _ended) = Streams::new(false);
        let served: Vec<_> = (0..100).map(|_| streams.begin(&head(100), 10).unwrap()).collect();
        // The engine takes so many pieces of each, and then waits for the client.
        for stream in &served {
            (0..PIECES).for_each(|_| stream.held.read(stream.held.piece()));
        }
        let held = streams.held.load(Ordering::Relaxed);
        assert!((BUDGET / 2..BUDGET / 4 * 3 + 100 * PIECES * SMALL_PIECE).contains(&held), "{held}");
        assert_eq!(served[0].held.piece(), SMALL_PIECE);
        // One that is taken goes on, and what is read more than the engine can have is not counted.
        (0..1000).for_each(|_| served[0].held.read(1));
        served.iter().skip(1).for_each(|stream| (0..PIECES + 1).for_each(|_| stream.held.passed()));
        assert_eq!(served[0].held.piece(), PIECE);
        drop(served);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }
}
