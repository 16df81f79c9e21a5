//! The streams of a connection that are served: how many, and what their requests and answers hold.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::io::pressure::Ladder;

/// Most bytes that a connection's requests, and what is not sent of their answers, may hold at a time. A client that sends the largest heads
/// on every stream, and takes no answer, gets no further.
pub const BUDGET: usize = 1_000_000;

/// The same for a trusted proxy.
pub const TRUSTED_BUDGET: usize = 8 * BUDGET;

/// What a stream costs besides its head.
const EACH: usize = 2 * 1024;

/// How often a head is held: as it came, and what holds that. While it is forwarded, also as it goes (`measure connections` finds three).
const TIMES: usize = 2;

/// What heads may hold of the budget. The rest is for answers: how large those are is not known yet.
const HEADS_PERCENT: usize = 65;

/// Bytes that a field costs besides its name and value (RFC 9113, 6.5.2).
const FIELD: usize = 32;

/// Streams that begin at once, where their answers would have room if nobody took them. A few more begin each time when the client has taken
/// something, and after each [`WAIT`]: what answers cost that nobody takes is known only when they are there.
const AT_ONCE: usize = 24;

/// How many those are, and how long the wait is: most backends have answered by then.
const A_FEW: usize = 8;
const WAIT: Duration = Duration::from_millis(50);

/// How long a stream waits where those that have begun hold too much and the client takes nothing of them, before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Streams {
    count: AtomicUsize,
    /// Those of them that have begun.
    begun: AtomicUsize,
    /// How many begin without a wait, at most.
    at_once: usize,
    /// How many may have begun, and since when so many may.
    may_begin: Mutex<(usize, Instant)>,
    /// When the client took something last.
    taken: Mutex<Instant>,
    /// Streams were refused because those that have begun hold too much. What the refused ones leave is not for others: it would be as
    /// before a moment later.
    is_stuck: AtomicBool,
    /// More may have begun, or a stream has ended.
    moved: Notify,
    held: AtomicUsize,
    /// Those whose answers wait for the client.
    waiting: AtomicUsize,
    budget: usize,
    memory: Arc<Ladder>,
    ended: watch::Sender<()>,
}

/// A stream that is served, until this is dropped, also when its task panics.
#[derive(Debug)]
pub struct Served {
    of: Arc<Streams>,
    /// What its head costs, and how much more that is when it has begun.
    cost: usize,
    forwarded: usize,
    begun: bool,
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

/// What a stream costs besides, while its answer waits for the client: what the engine needs for a request, which the backend holds else.
const ANSWER: usize = 36 * 1024;

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
    /// The end of the answer has come to the client's side.
    ended: bool,
    /// Bytes of the request's body that are kept.
    kept: usize,
    /// All of it, as the connection counts it.
    counted: usize,
    /// The answer waits for the client.
    waits: bool,
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

    /// Whether the connection holds more than it may: answers of streams that had begun before wait as well.
    pub fn is_over(&self) -> bool {
        self.of.is_over()
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

    /// A piece of so many bytes comes to the client's side; `sent`: all bytes that were sent before; `ended`: it is the last one.
    pub fn passed(&self, bytes: usize, sent: usize, ended: bool) {
        self.change(|parts| {
            parts.ended |= ended;
            parts.read.pop_front();
            self.sends(parts, sent);
            parts.passed += bytes;
            parts.unsent = parts.passed.saturating_sub(sent);
        });
    }

    /// So many bytes of the answer were sent, in all.
    pub fn sent(&self, sent: usize) {
        self.change(|parts| self.sends(parts, sent));
    }

    fn sends(&self, parts: &mut Parts, sent: usize) {
        if std::mem::replace(&mut parts.sent, sent) < sent {
            *self.of.taken.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.of.is_stuck.store(false, Ordering::Relaxed);
            self.of.make_room(Duration::ZERO);
        }
    }

    /// So many bytes of the request's body were read.
    pub fn keeps(&self, bytes: usize) {
        self.change(|parts| parts.kept = bytes.min(KEPT));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let parts = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.of.held.fetch_sub(parts.counted, Ordering::Relaxed);
        self.of.waiting.fetch_sub(usize::from(parts.waits), Ordering::Relaxed);
    }
}

impl Streams {
    /// None yet; what is received is told when one ends. `trusted`: the connection is a proxy's of ours, and carries many clients.
    pub fn new(trusted: bool, memory: Arc<Ladder>) -> (Arc<Streams>, watch::Receiver<()>) {
        let (ended, receiver) = watch::channel(());
        let (budget, at_once) = if trusted { (TRUSTED_BUDGET, usize::MAX) } else { (BUDGET, AT_ONCE) };
        let none = AtomicUsize::default;
        let streams = Streams {
            count: none(),
            begun: none(),
            at_once,
            may_begin: Mutex::new((at_once, Instant::now())),
            taken: Mutex::new(Instant::now()),
            is_stuck: AtomicBool::new(false),
            moved: Notify::new(),
            held: none(),
            waiting: none(),
            budget,
            memory,
            ended,
        };
        (Arc::new(streams), receiver)
    }

    /// Streams that are served.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Those of them that have begun.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// What they cost in all, in bytes.
    fn cost(&self) -> usize {
        self.held.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) * ANSWER
    }

    /// Whether that is more than may be.
    fn is_over(&self) -> bool {
        self.cost() > self.memory.allowance(self.budget)
    }

    /// How many begin without a wait now.
    fn at_once(&self) -> usize {
        let left = self.memory.allowance(self.budget).saturating_sub(self.held.load(Ordering::Relaxed));
        self.at_once.min((left / ANSWER).max(1))
    }

    /// Whether what refused streams have left is for nobody. Those that have begun are waited for: without any there is nothing to wait for.
    fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed) && self.begun() > 0
    }

    /// Whether one more may begin.
    fn has_room(&self) -> bool {
        let (begun, at_once) = (self.begun(), self.at_once());
        let mut may_begin = self.may_begin.lock().unwrap_or_else(PoisonError::into_inner);
        if begun < at_once {
            may_begin.0 = at_once;
        }
        begun < may_begin.0
    }

    /// A few more may begin, where none more could for so long.
    fn make_room(&self, after: Duration) {
        let (begun, at_once) = (self.begun(), self.at_once());
        if begun < at_once {
            return;
        }
        let mut may_begin = self.may_begin.lock().unwrap_or_else(PoisonError::into_inner);
        if may_begin.1.elapsed() >= after {
            *may_begin = (begun + A_FEW.min(at_once), Instant::now());
            self.moved.notify_waiters();
        }
    }

    /// Whether none is served.
    pub fn is_idle(&self) -> bool {
        self.count() == 0
    }

    /// Serves one with these fields; `None`: the connection's requests hold too much already.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, target: usize) -> Option<Served> {
        let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let forwarded = fields + target;
        let cost = EACH + TIMES * forwarded;
        if self.held.load(Ordering::Relaxed) + cost > self.memory.allowance(self.budget) / 100 * HEADS_PERCENT {
            return None;
        }
        self.held.fetch_add(cost, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        let held = Arc::new(Held { of: self.clone(), parts: Mutex::default() });
        Some(Served { of: self.clone(), cost, forwarded, begun: false, held })
    }
}

impl Served {
    /// Waits until it may begin; false: the connection holds too much meanwhile.
    pub async fn may_begin(&mut self) -> bool {
        let of = &self.of;
        let since = Instant::now();
        while !of.has_room() || of.is_over() || of.is_stuck() {
            // Many answers at once are taken in a moment, or go on being taken; who takes nothing is told so.
            let idle = of.taken.lock().unwrap_or_else(PoisonError::into_inner).max(since).elapsed();
            if idle >= PATIENCE && (of.is_over() || of.is_stuck()) {
                of.is_stuck.store(true, Ordering::Relaxed);
                return false;
            }
            // A few more when the time is over: it is the backend that has not answered yet.
            if timeout(WAIT, of.moved.notified()).await.is_err() {
                of.make_room(WAIT);
            }
        }
        of.begun.fetch_add(1, Ordering::Relaxed);
        of.held.fetch_add(self.forwarded, Ordering::Relaxed);
        self.cost += self.forwarded;
        self.begun = true;
        true
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.begun {
            self.of.begun.fetch_sub(1, Ordering::Relaxed);
            self.of.is_stuck.store(false, Ordering::Relaxed);
        }
        // Whoever comes next tells the one behind it when it ends, or is refused.
        self.of.moved.notify_one();
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
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
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
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
        let served: Vec<_> = (0..100).map(|_| streams.begin(&head(100), 10).unwrap()).collect();
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
        served[0].held.keeps(10 * KEPT);
        assert_eq!(served[1].held.piece(), PIECE);
        drop(served);
        assert_eq!(streams.cost(), 0);
    }

    #[test]
    fn a_stream_whose_answer_waits_counts_more() {
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
        let served: Vec<_> = (0..44).map(|_| streams.begin(&head(100), 10).unwrap()).collect();
        // Some are whole, some go on: all wait.
        served.iter().step_by(4).for_each(|stream| stream.held.passed(100, 0, true));
        served.iter().skip(1).step_by(4).for_each(|stream| stream.held.read(1, 0));
        assert!(!served[0].held.is_over());
        served.iter().skip(2).step_by(2).for_each(|stream| stream.held.read(1, 0));
        assert!(served[0].held.is_over());
        // What is between two parts, and taken, waits for the backend.
        served.iter().skip(1).for_each(|stream| stream.held.passed(1, 200, false));
        assert!(!served[0].held.is_over());
        drop(served);
        assert_eq!(streams.cost(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_requests_are_large_fewer_begin_at_once() {
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
        let mut large: Vec<_> = std::iter::from_fn(|| streams.begin(&head(3_000), 100)).collect();
        assert!((70..90).contains(&large.len()), "{}", large.len());
        let (begun, mut at_once) = (Instant::now(), 0);
        for stream in &mut large {
            assert!(stream.may_begin().await);
            at_once += usize::from(begun.elapsed().is_zero());
        }
        assert!((5..AT_ONCE / 2).contains(&at_once), "{at_once}: so many answers have room");
        drop(large);
        assert_eq!(streams.cost(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_refused_streams_leave_is_for_nobody_until_something_is_taken() {
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
        let mut large: Vec<_> = std::iter::from_fn(|| streams.begin(&head(3_000), 100)).collect();
        assert!(large[0].may_begin().await);
        large[0].held.ahead(BUDGET / 2);
        let waiting = &mut large[1..];
        let refused = async |stream: &mut Served| !stream.may_begin().await;
        let all = futures_util::future::join_all(waiting.iter_mut().map(refused)).await;
        assert!(all.iter().all(|refused| *refused));
        drop(large.split_off(1));
        assert!(!streams.is_over());
        let mut next = streams.begin(&head(100), 10).unwrap();
        assert!(!next.may_begin().await);
        large[0].held.sent(1);
        assert!(next.may_begin().await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_refused_for_want_of_memory_is_served_when_there_is_some() {
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
        let mut waiting = streams.begin(&head(100), 10).unwrap();
        // What waits is more than may be by now, and nothing has begun that would end.
        waiting.held.ahead(2 * BUDGET);
        assert!(!waiting.may_begin().await);
        drop(waiting);
        assert!(streams.begin(&head(100), 10).unwrap().may_begin().await);
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_begin_when_something_was_taken_or_after_a_while() {
        let (streams, _ended) = Streams::new(false, Arc::new(Ladder::new(1 << 30)));
        let begin = || streams.begin(&head(100), 10).unwrap();
        let mut served: Vec<_> = (0..AT_ONCE).map(|_| begin()).collect();
        let begun = Instant::now();
        for stream in &mut served {
            assert!(stream.may_begin().await);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let all = (0..2 * A_FEW).map(|_| begin());
        let all = futures_util::future::join_all(all.map(async |mut stream| {
            assert!(stream.may_begin().await);
            (begun.elapsed(), stream)
        }));
        let all = all.await;
        let waited = |times: u32| all.iter().filter(|(waited, _)| waited.abs_diff(times * WAIT) < WAIT / 10).count();
        assert_eq!((waited(1), waited(2)), (A_FEW, A_FEW));
        drop(all);
        let (mut next, begun) = (begin(), Instant::now());
        let taken = async { served[0].held.sent(1) };
        assert!(tokio::join!(next.may_begin(), taken).0);
        drop(next);
        let mut next = begin();
        let ended = async { drop(served.split_off(1)) };
        assert!(tokio::join!(next.may_begin(), ended).0);
        drop(next);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (of_proxy, _ended) = Streams::new(true, streams.memory.clone());
        for stream in &mut (0..100).map(|_| of_proxy.begin(&head(100), 10).unwrap()).collect::<Vec<_>>() {
            assert!(stream.may_begin().await);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "a trusted proxy carries many clients");
        // What the others hold is known by then.
        served.extend((1..AT_ONCE).map(|_| begin()));
        for stream in &mut served[1..] {
            assert!(stream.may_begin().await);
        }
        assert_eq!(streams.begun(), AT_ONCE);
        let (mut next, begun) = (begin(), Instant::now());
        served[0].held.ahead(BUDGET);
        let taken = async {
            tokio::time::sleep(PATIENCE / 2).await;
            served[0].held.sent(2);
        };
        assert!(!tokio::join!(next.may_begin(), taken).0);
        let waited = begun.elapsed();
        assert!(
            (PATIENCE * 3 / 2..PATIENCE * 3 / 2 + 2 * WAIT).contains(&waited),
            "{waited:?}, and something was taken"
        );
    }
}
