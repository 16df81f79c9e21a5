//! The streams of a connection: how many are served, and what their requests and answers hold.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::begin::{Answer, Begin, PATIENCE, SHORT_PATIENCE, WAIT};
use super::held::{Held, KEPT_PART};
use super::open::{self, Ended, Open, SEND_BUFFER};
use super::wire::{Frame, kind};
use crate::io::pressure::Ladder;
use crate::settings::Http2Settings;

/// What a stream costs besides its head.
const EACH: usize = 2 * 1024;

/// What it costs while its answer waits for the client: what the engine needs for a request, which the backend holds else.
const ANSWER: usize = 42 * 1024;

/// The same with what the HTTP/2 library holds of it.
const WAITING: usize = ANSWER + open::cost(SEND_BUFFER);

/// How often a head is held: as it came, and what holds that. While it is forwarded, also as it goes (`measure connections` finds three).
const TIMES: usize = 2;

/// What heads may hold of the budget. The rest is for answers: how large those are is not known yet.
const HEADS_PERCENT: usize = 65;

/// How much more than the budget requests may cost whose end the client has not sent: there is room for all, until memory runs short.
const REQUESTS_TIMES: usize = 5;

/// Bytes that a field costs besides its name and value (RFC 9113, 6.5.2).
const FIELD: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Streams {
    count: AtomicUsize,
    begin: Mutex<Begin>,
    /// Those that wait to begin do so one after another.
    queue: tokio::sync::Mutex<()>,
    /// The next one may begin, perhaps.
    moved: Notify,
    pub(super) held: AtomicUsize,
    /// Bytes of bodies that are kept, to be sent once more.
    pub(super) kept: AtomicUsize,
    open: Mutex<Open>,
    /// Most bytes that requests, and what is not sent of their answers, may hold at a time. A client that sends the largest heads on every
    /// stream, and takes no answer, gets no further.
    pub(super) budget: usize,
    memory: Arc<Ladder>,
    ended: watch::Sender<()>,
}

/// A stream that is served, until this is dropped, also when it panics.
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

impl Streams {
    /// None yet; what is received is told when one ends. `settings`: those of the connection.
    pub fn new(settings: &Http2Settings, memory: Arc<Ladder>) -> (Arc<Streams>, watch::Receiver<()>) {
        let (ended, receiver) = watch::channel(());
        let streams = Streams {
            count: AtomicUsize::default(),
            begin: Mutex::new(Begin::new(Instant::now())),
            queue: tokio::sync::Mutex::default(),
            moved: Notify::new(),
            held: AtomicUsize::default(),
            kept: AtomicUsize::default(),
            open: Mutex::new(Open::new(settings.streams)),
            budget: settings.held_bytes,
            memory,
            ended,
        };
        (Arc::new(streams), receiver)
    }

    fn beginning(&self) -> MutexGuard<'_, Begin> {
        self.begin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams that are served.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Those of them that have begun.
    pub fn begun(&self) -> usize {
        self.beginning().begun()
    }

    /// What is known to be held.
    pub(super) fn holds(&self) -> usize {
        let open = self.open();
        self.held.load(Ordering::Relaxed) + open::cost(open.unsent())
    }

    /// What the streams cost in all, in bytes.
    pub(super) fn cost(&self) -> usize {
        let (unsent, waiting) = {
            let open = self.open();
            (open::cost(open.unsent()), open.waiting())
        };
        self.held.load(Ordering::Relaxed) + unsent + waiting * ANSWER
    }

    /// Whether half of the budget is held, or would be with so many bytes more, or it costs too much already.
    pub(super) fn has_no_room_for(&self, bytes: usize) -> bool {
        self.holds() + bytes > self.budget / 2 || self.is_over()
    }

    /// Whether so many bytes more of requests may be kept.
    pub(super) fn may_keep(&self, bytes: usize) -> bool {
        self.kept.load(Ordering::Relaxed) + bytes <= self.memory.allowance(self.budget) / KEPT_PART
    }

    /// Whether that is more than may be.
    pub fn is_over(&self) -> bool {
        self.cost() > self.memory.allowance(self.budget)
    }

    /// Whether those that have begun, and whose requests the client has not ended, cost as much as they may.
    fn waits_for_requests(&self) -> bool {
        self.open().asking() * ANSWER > self.memory.allowance(REQUESTS_TIMES * self.budget)
    }

    /// For how many more answers there is room, if nobody takes any of them, nor the rest of those that wait for the client already.
    fn room(&self) -> usize {
        let most = self.held.load(Ordering::Relaxed) + self.open().waiting() * WAITING;
        self.memory.allowance(self.budget).saturating_sub(most.max(self.cost())) / WAITING
    }

    /// A few more may begin where none could for a while.
    fn let_more_begin(&self, now: Instant) {
        if !self.beginning().has_waited(now) {
            return;
        }
        let seen = self.open().look();
        let room = self.room();
        self.beginning().waited(now, room, seen);
    }

    /// What is on its way.
    pub(super) fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many begin without a wait: their answers have room if nobody takes them.
    fn at_once(&self) -> usize {
        let left = self.memory.allowance(self.budget).saturating_sub(self.held.load(Ordering::Relaxed));
        (left / WAITING).max(1)
    }

    /// Whether none is served, and everything is sent.
    pub fn is_idle(&self) -> bool {
        self.count() == 0 && self.open().streams() == 0
    }

    /// A frame came from the client. False: more streams are open than can be.
    pub fn came(&self, frame: &Frame) -> bool {
        if frame.kind == kind::DATA {
            self.beginning().sends(Instant::now());
        }
        self.follow(|open| open.came(frame))
    }

    /// A frame has gone to the client. Tells where the library has ended a stream thereby that was never accepted.
    pub fn goes(&self, frame: &Frame) -> Option<Ended> {
        self.follow(|open| open.goes(frame))
    }

    /// The library has no stream.
    pub fn none_is_known(&self) {
        self.follow(Open::none_is_known);
    }

    /// A stream has come to the connection's loop.
    pub fn accepts(&self, stream: u32) {
        self.open().accepts(stream);
    }

    /// Frames that the client has taken, and whether others wait for it.
    pub fn progress(&self) -> (u64, bool) {
        let open = self.open();
        (open.gone(), open.unsent() > 0)
    }

    /// Something changes of what is on its way; told when the last stream ends thereby.
    pub(super) fn follow<T>(&self, change: impl FnOnce(&mut Open) -> T) -> T {
        let mut open = self.open();
        let was_open = open.streams() > 0;
        let told = change(&mut open);
        let is_over = was_open && open.streams() == 0;
        drop(open);
        if is_over && self.count() == 0 {
            self.ended.send_replace(());
        }
        told
    }

    /// The client has taken some data.
    pub fn takes(&self) {
        self.beginning().takes(Instant::now());
        self.moved.notify_one();
    }

    /// What one is told that has waited to begin since then.
    fn ask(&self, since: Instant) -> Answer {
        let at_once = self.at_once();
        let has_no_room = self.room() == 0 || self.waits_for_requests();
        let mut begin = self.beginning();
        // Without any that has begun there is nothing to wait for.
        let is_over = if begin.begun() > 0 { has_no_room } else { self.is_over() };
        // What those hold that wait may be needed soon.
        let patience = if self.memory.is_scarce() { SHORT_PATIENCE } else { PATIENCE };
        begin.ask(Instant::now(), since, at_once, is_over, patience)
    }

    /// Serves one with these fields; `None`: the connection's requests hold too much already.
    pub fn begin(self: &Arc<Self>, stream: u32, headers: &HeaderMap, target: usize) -> Option<Served> {
        let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let forwarded = fields + target;
        let cost = EACH + TIMES * forwarded;
        if self.held.load(Ordering::Relaxed) + cost > self.memory.allowance(self.budget) / 100 * HEADS_PERCENT {
            return None;
        }
        self.held.fetch_add(cost, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.open().serves(stream);
        let held = Arc::new(Held::new(self.clone(), stream));
        Some(Served { of: self.clone(), cost, forwarded, begun: false, held })
    }
}

impl Served {
    /// Waits until it may begin; false: the connection holds too much meanwhile.
    pub async fn may_begin(&mut self) -> bool {
        let of = &self.of;
        let since = Instant::now();
        let _next = of.queue.lock().await;
        loop {
            match of.ask(since) {
                Answer::Begin => break,
                Answer::Refuse => return false,
                Answer::Wait => {}
            }
            // A few more when the time is over, whatever others take meanwhile: it is the backend that has not answered yet.
            let _ = timeout(WAIT, of.moved.notified()).await;
            of.let_more_begin(Instant::now());
        }
        of.open().begins(self.held.stream());
        of.held.fetch_add(self.forwarded, Ordering::Relaxed);
        self.cost += self.forwarded;
        self.begun = true;
        true
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.begun {
            self.of.beginning().ends();
        }
        self.of.held.fetch_sub(self.cost, Ordering::Relaxed);
        self.of.moved.notify_one();
        self.of.count.fetch_sub(1, Ordering::Relaxed);
        self.of.ended.send_replace(());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};

    use super::super::begin::A_FEW;
    use super::*;

    pub fn head(bytes: usize) -> HeaderMap {
        let value = HeaderValue::from_str(&"x".repeat(bytes)).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static("x"), value)])
    }

    /// Of a client, where there is memory enough.
    pub fn streams() -> Arc<Streams> {
        Streams::new(&Http2Settings::default(), Arc::new(Ladder::new(1 << 30))).0
    }

    /// What it may hold.
    pub const BUDGET: usize = 1_000_000;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Frame {
        Frame { length, kind, flags, stream, code: 0 }
    }

    /// The next one, with such fields.
    fn begin(streams: &Arc<Streams>, fields: usize) -> Option<Served> {
        let stream = streams.open().next();
        streams.came(&frame(kind::HEADERS, kind::END_STREAM, stream, 10));
        let served = streams.begin(stream, &head(fields), 10);
        if served.is_none() {
            streams.goes(&frame(kind::RST_STREAM, 0, stream, 4));
        }
        served
    }

    /// So many usual requests.
    pub fn served(streams: &Arc<Streams>, count: usize) -> Vec<Served> {
        (0..count).map(|_| begin(streams, 100).unwrap()).collect()
    }

    /// So many bytes of an answer go out.
    pub fn goes(streams: &Streams, stream: u32, length: usize) {
        streams.goes(&frame(kind::DATA, 0, stream, length));
    }

    /// As many as begin at once.
    fn at_once(streams: &Arc<Streams>) -> Vec<Served> {
        let mut first = Vec::new();
        while first.len() < streams.at_once() {
            first.append(&mut served(streams, 1));
        }
        first
    }

    #[test]
    fn a_hundred_usual_requests_fit_and_a_few_of_the_largest() {
        let streams = streams();
        let usual: Vec<_> = (0..100).map(|_| begin(&streams, 2_000)).collect();
        assert!(usual.iter().all(Option::is_some));
        drop(usual);
        assert_eq!((streams.cost(), streams.count()), (0, 0));
        let largest: Vec<_> = (0..100).filter_map(|_| begin(&streams, 32 * 1024)).collect();
        assert!((8..20).contains(&largest.len()), "{}", largest.len());
        drop(largest);
        assert_eq!(streams.cost(), 0);
    }

    #[test]
    fn a_stream_is_there_until_its_answer_is_sent() {
        let streams = streams();
        let stream = served(&streams, 1).remove(0);
        stream.held.passed(5_000, 0);
        drop(stream);
        let cost = streams.cost() - ANSWER;
        assert!((5_000..10_000).contains(&cost), "{cost}");
        assert!(!streams.is_idle());
        let mut ended = streams.ended.subscribe();
        streams.goes(&frame(kind::DATA, kind::END_STREAM, 1, 5_000));
        assert!(streams.is_idle() && ended.has_changed().unwrap());
        assert_eq!(streams.cost(), 0);
        // Its answer has gone out before it is served no more.
        ended.mark_unchanged();
        let stream = served(&streams, 1).remove(0);
        streams.goes(&frame(kind::HEADERS, kind::END_STREAM, 3, 10));
        assert!(!streams.is_idle());
        drop(stream);
        assert!(streams.is_idle() && ended.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn where_requests_are_large_fewer_begin_at_once() {
        let streams = streams();
        let mut large: Vec<_> = std::iter::from_fn(|| begin(&streams, 3_000)).collect();
        assert!((70..90).contains(&large.len()), "{}", large.len());
        let (begun, mut at_once) = (Instant::now(), 0);
        for stream in &mut large {
            assert!(stream.may_begin().await);
            at_once += usize::from(begun.elapsed().is_zero());
        }
        assert!((3..10).contains(&at_once), "{at_once}: so many answers have room");
        drop(large);
        assert_eq!(streams.cost(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_refused_together_and_served_when_something_is_taken() {
        let streams = streams();
        let mut all = served(&streams, 50);
        assert!(all[0].may_begin().await);
        all[0].held.ahead(BUDGET);
        let begun = Instant::now();
        let refused = async |stream: &mut Served| !stream.may_begin().await;
        let refused = futures_util::future::join_all(all[1..].iter_mut().map(refused)).await;
        assert!(refused.iter().all(|refused| *refused));
        assert!((PATIENCE..PATIENCE + 2 * WAIT).contains(&begun.elapsed()));
        drop(all.split_off(1));
        all[0].held.ahead(BUDGET / 2);
        let mut next = served(&streams, 1).remove(0);
        assert!(!next.may_begin().await, "nothing was taken");
        streams.takes();
        assert!(next.may_begin().await);
    }

    #[tokio::test(start_paused = true)]
    async fn where_memory_is_scarce_nobody_waits_for_long() {
        let memory = Arc::new(Ladder::new(1000));
        let streams = Streams::new(&Http2Settings::default(), memory.clone()).0;
        let mut all = served(&streams, 2);
        assert!(all[0].may_begin().await);
        all[0].held.ahead(BUDGET);
        memory.look(750);
        let begun = Instant::now();
        assert!(!all[1].may_begin().await);
        assert!((SHORT_PATIENCE..SHORT_PATIENCE + 2 * WAIT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_and_goes_keeps_nobody_waiting() {
        let streams = streams();
        let mut all = served(&streams, 4);
        assert!(all[0].may_begin().await);
        all[0].held.ahead(BUDGET);
        let [_, first, second, third] = &mut all[..] else { panic!() };
        let (first, second) = (tokio::time::timeout(WAIT, first.may_begin()), second.may_begin());
        let frees = async {
            tokio::time::sleep(2 * WAIT).await;
            streams.takes();
        };
        let (first, second, third, ()) =
            tokio::join!(first, tokio::time::timeout(WAIT, second), third.may_begin(), frees);
        assert!(first.is_err() && second.is_err() && !third);
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_begin_after_a_while_or_when_others_have_ended() {
        let streams = streams();
        let mut first = at_once(&streams);
        assert!((12..16).contains(&first.len()), "{}", first.len());
        let begun = Instant::now();
        for stream in &mut first {
            assert!(stream.may_begin().await);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let all = served(&streams, 2 * A_FEW).into_iter();
        let all = futures_util::future::join_all(all.map(async |mut stream| {
            assert!(stream.may_begin().await);
            (begun.elapsed(), stream)
        }));
        let all = all.await;
        let waited = |times: u32| all.iter().filter(|(waited, _)| waited.abs_diff(times * WAIT) < WAIT / 10).count();
        assert_eq!((waited(1), waited(2)), (A_FEW, A_FEW));
        drop(all);
        let (mut next, begun) = (served(&streams, 1), Instant::now());
        let ended = async { drop(first.split_off(1)) };
        assert!(tokio::join!(next[0].may_begin(), ended).0);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_answers_flow_one_more_begins_at_a_time() {
        let streams = streams();
        let mut first = at_once(&streams);
        for stream in &mut first {
            assert!(stream.may_begin().await);
        }
        for times in 1..=3 {
            for stream in &first {
                stream.held.passed_head(100);
                streams.goes(&frame(kind::HEADERS, 0, stream.held.stream(), 100));
                stream.held.passed(5_000, 0);
                goes(&streams, stream.held.stream(), 5_000);
            }
            let begun = Instant::now();
            let mut all = served(&streams, 2);
            assert!(all[0].may_begin().await);
            assert!(begun.elapsed() <= 2 * WAIT, "it waits for none of them to end");
            assert!(tokio::time::timeout(WAIT / 2, all[1].may_begin()).await.is_err(), "{times}");
            first.push(all.remove(0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_take_keeps_nobody_from_beginning() {
        let streams = streams();
        let mut first = at_once(&streams);
        for stream in &mut first {
            assert!(stream.may_begin().await);
        }
        let (begun, mut next) = (Instant::now(), served(&streams, 1));
        let others_take = async {
            for _ in 0..100 {
                tokio::time::sleep(WAIT / 5).await;
                streams.takes();
            }
        };
        tokio::select! {
            may_begin = next[0].may_begin() => assert!(may_begin),
            () = others_take => panic!("it waits for as long as they do"),
        }
        assert!(begun.elapsed() <= 2 * WAIT, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_not_ended_have_room_until_memory_runs_short() {
        let memory = Arc::new(Ladder::new(1 << 30));
        let (streams, _ended) = Streams::new(&Http2Settings::default(), memory.clone());
        let mut uploads = Vec::new();
        for stream in (1..200).step_by(2) {
            streams.came(&frame(kind::HEADERS, 0, stream, 10));
            let mut upload = streams.begin(stream, &head(100), 10).unwrap();
            assert!(upload.may_begin().await, "the {}th", uploads.len() + 1);
            uploads.push(upload);
        }
        assert_eq!(uploads.len(), 100);
        // Three quarters are used.
        memory.look(3 << 28);
        uploads.truncate(12);
        let mut next = served(&streams, 1);
        assert!(!next[0].may_begin().await, "the client sends nothing");
        uploads.truncate(11);
        assert!(next[0].may_begin().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trusted_proxy_carries_many_clients() {
        let (streams, _ended) = Streams::new(&Http2Settings::default().of(true), Arc::new(Ladder::new(1 << 30)));
        let begun = Instant::now();
        for stream in &mut served(&streams, 100) {
            assert!(stream.may_begin().await);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
