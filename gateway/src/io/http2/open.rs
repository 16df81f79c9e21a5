//! The streams that are open on the wire, and what of their answers has come to the client's side and has not gone out. The HTTP/2 library keeps
//! it, also of a stream that is served no more.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use super::held::SMALL_PIECE;
use super::wire::{Frame, kind};

/// What the library keeps of an answer, at most.
pub const SEND_BUFFER: usize = 16 * 1024;

/// How many times as many streams can be open as the client was told, since it may reset some and open others before it hears of either.
const TIMES: usize = 4;

/// What so many bytes cost: the library has some 350 for each piece as well, of which it makes room for up to twice as many as there are.
pub const fn cost(bytes: usize) -> usize {
    bytes / 2 * 3
}

/// See the module.
#[derive(Debug)]
pub struct Open {
    ways: BTreeMap<u32, Way>,
    /// The last stream that was opened.
    last: u32,
    /// Bytes that have not gone out, and streams of whose answers something waits for the client.
    unsent: usize,
    waiting: usize,
    /// Streams that have begun, and whose client has not ended the request, nor is answered.
    asking: usize,
    /// Streams that are served and whose answers have begun.
    answering: usize,
    /// Frames with heads and data that have gone out.
    gone: u64,
    /// Most streams that can be open.
    most: usize,
}

/// A stream's way.
#[derive(Debug, Default)]
struct Way {
    /// Bytes of the answer's head, and of its body, that have not gone out.
    head: usize,
    body: usize,
    /// Bytes of its body that were read, and have not come there.
    read: usize,
    /// Bytes of it that have come since the last look ([`Open::look`]).
    passed: usize,
    /// It came to the connection's loop.
    is_accepted: bool,
    /// It is being served, or waits for that; and it is.
    is_served: bool,
    has_begun: bool,
    /// The request is whole.
    is_asked: bool,
    /// Its answer has begun.
    is_answered: bool,
    /// Whoever waits for some of it to go out.
    waker: Option<Waker>,
}

impl Way {
    fn unsent(&self) -> usize {
        self.head + self.body
    }

    fn asks(&self) -> bool {
        self.is_served && self.has_begun && !self.is_asked && !self.is_answered
    }

    fn answers(&self) -> bool {
        self.is_served && (self.is_answered || self.read > 0)
    }

    fn waits(&self) -> bool {
        self.unsent() > 0 || self.read > 0
    }
}

/// What the library did with a stream that it has not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was reset.
    Reset,
    /// It was answered.
    Answered,
}

/// What can be seen of the streams that have begun.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Their answers have begun.
    pub answered: usize,
    /// Of these much waits for the client,
    pub waiting: usize,
    /// or has gone out since the last look: it waits as soon as the client takes no more.
    pub flowing: usize,
}

impl Open {
    /// Of a connection that may have so many streams at a time.
    pub fn new(streams: usize) -> Open {
        Open {
            ways: BTreeMap::new(),
            last: 0,
            unsent: 0,
            waiting: 0,
            asking: 0,
            answering: 0,
            gone: 0,
            most: TIMES * streams,
        }
    }

    /// A frame came from the client, whose header has. False: more streams are open than can be.
    pub fn came(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            kind::HEADERS if frame.stream > self.last => {
                self.last = frame.stream;
                self.ways.entry(frame.stream).or_default();
            }
            kind::RST_STREAM => self.remove(frame.stream),
            _ => {}
        }
        if frame.ends_stream() {
            self.change(frame.stream, |way| way.is_asked = true);
        }
        self.ways.len() <= self.most
    }

    /// A frame has gone to the client. Tells where a stream has ended thereby that was never accepted.
    pub fn goes(&mut self, frame: &Frame) -> Option<Ended> {
        match frame.kind {
            kind::DATA => self.change(frame.stream, |way| way.body = way.body.saturating_sub(frame.length)),
            kind::HEADERS => self.change(frame.stream, |way| way.head = 0),
            kind::RST_STREAM => {}
            _ => return None,
        }
        self.gone += 1;
        let ended = if frame.kind == kind::RST_STREAM { Ended::Reset } else { Ended::Answered };
        if ended == Ended::Answered && !frame.ends_stream() {
            return None;
        }
        let is_accepted = self.ways.get(&frame.stream).is_none_or(|way| way.is_accepted);
        self.remove(frame.stream);
        (!is_accepted).then_some(ended)
    }

    fn change(&mut self, stream: u32, change: impl FnOnce(&mut Way)) {
        let Some(way) = self.ways.get_mut(&stream) else { return };
        let (unsent, waits, asks, answers) = (way.unsent(), way.waits(), way.asks(), way.answers());
        change(way);
        if way.unsent() < unsent {
            way.waker.take().into_iter().for_each(Waker::wake);
        }
        self.unsent = self.unsent + way.unsent() - unsent;
        self.waiting = self.waiting + usize::from(way.waits()) - usize::from(waits);
        self.asking = self.asking + usize::from(way.asks()) - usize::from(asks);
        self.answering = self.answering + usize::from(way.answers()) - usize::from(answers);
    }

    fn remove(&mut self, stream: u32) {
        self.change(stream, |way| *way = Way { waker: way.waker.take(), ..Way::default() });
        self.ways.remove(&stream);
    }

    /// The library knows no stream: it passes over what comes after a GOAWAY.
    pub fn none_is_known(&mut self) {
        let forgotten = |(stream, way): (&u32, &Way)| (!way.is_served).then_some(*stream);
        let forgotten: Vec<u32> = self.ways.iter().filter_map(forgotten).collect();
        forgotten.into_iter().for_each(|stream| self.remove(stream));
    }

    /// A stream was accepted: what becomes of it is known.
    pub fn accepts(&mut self, stream: u32) {
        self.change(stream, |way| way.is_accepted = true);
    }

    /// It is served from now on, or waits to be.
    pub fn serves(&mut self, stream: u32) {
        self.change(stream, |way| (way.is_accepted, way.is_served) = (true, true));
    }

    /// It waits no longer.
    pub fn begins(&mut self, stream: u32) {
        self.change(stream, |way| way.has_begun = true);
    }

    /// It is served no more. Its answer goes on.
    pub fn leaves(&mut self, stream: u32) {
        self.change(stream, |way| (way.is_served, way.read) = (false, 0));
    }

    /// A head of so many bytes comes to the client's side.
    pub fn passes_head(&mut self, stream: u32, bytes: usize) {
        self.change(stream, |way| (way.head, way.is_answered) = (bytes, true));
    }

    /// So many bytes of its body were read, and have not come to the client's side.
    pub fn reads(&mut self, stream: u32, bytes: usize) {
        self.change(stream, |way| way.read = bytes);
    }

    /// So many bytes of a body do.
    pub fn passes(&mut self, stream: u32, bytes: usize) {
        self.change(stream, |way| {
            way.body += bytes;
            way.passed += bytes;
        });
    }

    /// What the answers of those that are served come to, as far as can be seen.
    pub fn look(&mut self) -> Seen {
        let mut seen = Seen { answered: self.answering, ..Seen::default() };
        for way in self.ways.values_mut() {
            let passed = std::mem::take(&mut way.passed);
            if way.answers() {
                seen.waiting += usize::from(way.unsent() + way.read >= SMALL_PIECE);
                seen.flowing += usize::from(passed >= SMALL_PIECE && !way.waits());
            }
        }
        seen
    }

    /// Of how many streams something was read that has not gone out.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many have begun, and wait for the client to send the rest of the request, as far as no answer has begun.
    pub fn asking(&self) -> usize {
        self.asking
    }

    /// Ready when no more than so many bytes of the stream's answer have not gone out.
    pub fn poll_sent(&mut self, stream: u32, most: usize, cx: &Context<'_>) -> Poll<()> {
        match self.ways.get_mut(&stream) {
            Some(way) if way.unsent() > most => {
                way.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// How many are served, and their answers have begun.
    pub fn answering(&self) -> usize {
        self.answering
    }

    /// Streams to which more may be sent, also those that are served no more.
    pub fn streams(&self) -> usize {
        self.ways.len()
    }

    /// The number of the client's next stream, if it leaves none out.
    #[cfg(test)]
    pub fn next(&self) -> u32 {
        if self.last == 0 { 1 } else { self.last + 2 }
    }

    /// Bytes of answers that have not gone out.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Frames with heads and data that have gone out, in all.
    pub fn gone(&self) -> u64 {
        self.gone
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// How often somebody was.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Frame {
        Frame { length, kind, flags, stream, code: 0 }
    }

    /// Streams that the client has opened, and that are served.
    fn opened(streams: &[u32], flags: u8) -> Open {
        let mut open = Open::new(100);
        for stream in streams {
            assert!(open.came(&frame(kind::HEADERS, flags, *stream, 10)));
            open.serves(*stream);
        }
        open
    }

    #[test]
    fn what_has_come_to_the_clients_side_waits_until_it_goes_out() {
        let mut open = opened(&[1, 3], kind::END_STREAM);
        open.passes_head(1, 200);
        open.passes(1, 5_000);
        assert_eq!((open.unsent(), open.waiting()), (5_200, 1));
        open.goes(&frame(kind::HEADERS, 0, 1, 100));
        open.goes(&frame(kind::DATA, 0, 1, 2_000));
        assert_eq!((open.unsent(), open.gone(), open.streams()), (3_000, 2, 2));
        open.goes(&frame(kind::DATA, kind::END_STREAM, 1, 3_000));
        assert_eq!((open.unsent(), open.waiting(), open.streams()), (0, 0, 1));
    }

    #[test]
    fn what_was_read_of_a_stream_waits_as_well_and_is_counted_once() {
        let mut open = opened(&[1, 3], kind::END_STREAM);
        open.reads(1, 5_000);
        assert_eq!((open.unsent(), open.waiting(), open.answering()), (0, 1, 1), "its head is not there yet");
        open.passes_head(1, 100);
        open.passes(1, 5_000);
        assert_eq!((open.unsent(), open.waiting(), open.answering()), (5_100, 1, 1));
        open.goes(&frame(kind::HEADERS, 0, 1, 50));
        open.goes(&frame(kind::DATA, 0, 1, 5_000));
        assert_eq!((open.unsent(), open.waiting()), (0, 1), "the next piece was read meanwhile");
        open.leaves(1);
        assert_eq!((open.waiting(), open.answering()), (0, 0));
    }

    #[test]
    fn a_look_tells_of_which_answers_much_waits_or_has_gone_out() {
        const MESSAGE: usize = SMALL_PIECE - 1;
        let mut open = opened(&[1, 3, 5, 7, 9, 11], kind::END_STREAM);
        for (stream, passed, gone) in [(1, SMALL_PIECE, SMALL_PIECE), (3, MESSAGE, MESSAGE), (5, SMALL_PIECE, 0)] {
            open.passes_head(stream, 0);
            open.passes(stream, passed);
            open.goes(&frame(kind::DATA, 0, stream, gone));
        }
        open.passes_head(7, 0);
        open.passes(7, MESSAGE);
        // Nothing of it has come to the client's side.
        open.reads(9, SMALL_PIECE);
        assert_eq!(open.look(), Seen { answered: 5, waiting: 2, flowing: 1 }, "a message is not much");
        assert_eq!(open.look(), Seen { answered: 5, waiting: 2, flowing: 0 }, "since the last look");
        [5, 9].into_iter().for_each(|stream| open.leaves(stream));
        assert_eq!(open.look(), Seen { answered: 3, ..Seen::default() });
    }

    #[test]
    fn who_waits_for_some_of_an_answer_to_go_out_is_told_when_it_has_or_never_will() {
        for reset in [false, true] {
            let mut open = opened(&[1, 3], kind::END_STREAM);
            [1, 3].into_iter().for_each(|stream| open.passes(stream, 5_000));
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            let cx = Context::from_waker(&waker);
            assert!(open.poll_sent(1, 5_000, &cx).is_ready());
            assert!(open.poll_sent(1, 4_000, &cx).is_pending());
            open.goes(&frame(kind::DATA, 0, 3, 5_000));
            assert_eq!(woken.0.load(Ordering::Relaxed), 0, "that of another one");
            let goes = if reset { frame(kind::RST_STREAM, 0, 1, 4) } else { frame(kind::DATA, 0, 1, 1_000) };
            open.goes(&goes);
            assert_eq!(woken.0.load(Ordering::Relaxed), 1, "{reset}");
            assert!(open.poll_sent(1, 4_000, &cx).is_ready());
        }
    }

    #[test]
    fn an_answer_is_on_its_way_when_its_stream_is_served_no_more() {
        let mut open = opened(&[1], kind::END_STREAM);
        open.passes(1, 5_000);
        open.leaves(1);
        assert_eq!((open.unsent(), open.streams()), (5_000, 1));
        open.goes(&frame(kind::DATA, kind::END_STREAM, 1, 5_000));
        assert_eq!((open.unsent(), open.streams()), (0, 0));
    }

    #[test]
    fn of_a_stream_that_is_reset_nothing_is_left_and_others_lose_nothing() {
        for client in [true, false] {
            let mut open = opened(&[1, 3, 5], 0);
            for stream in [1, 3, 5] {
                open.begins(stream);
                open.passes(stream, 1_000);
            }
            let reset = frame(kind::RST_STREAM, 0, 3, 4);
            if client {
                assert!(open.came(&reset));
            } else {
                assert_eq!(open.goes(&reset), None);
            }
            // The engine had another piece.
            open.passes(3, 1_000);
            open.leaves(3);
            assert_eq!((open.unsent(), open.waiting(), open.streams(), open.asking()), (2_000, 2, 2, 2));
        }
    }

    #[test]
    fn who_has_begun_asks_until_the_request_is_whole_or_answered_or_gone() {
        let mut open = opened(&[1, 3, 5, 7], 0);
        assert_eq!(open.asking(), 0, "they wait for the gateway");
        [1, 3, 5, 7].into_iter().for_each(|stream| open.begins(stream));
        assert_eq!(open.asking(), 4);
        open.came(&frame(kind::DATA, 0, 1, 10));
        assert_eq!(open.asking(), 4);
        open.came(&frame(kind::DATA, kind::END_STREAM, 1, 10));
        open.passes_head(3, 10);
        open.leaves(5);
        assert_eq!(open.asking(), 1);
        open.came(&frame(kind::HEADERS, kind::END_STREAM, 7, 10));
        assert_eq!((open.asking(), open.streams()), (0, 4), "trailers");
    }

    #[test]
    fn what_the_library_does_with_streams_that_are_never_accepted_is_told() {
        let mut open = opened(&[1], 0);
        (3..=9).step_by(2).for_each(|stream| assert!(open.came(&frame(kind::HEADERS, 0, stream, 10))));
        let (reset, head) = (kind::RST_STREAM, kind::HEADERS);
        assert_eq!(open.goes(&frame(reset, 0, 3, 4)), Some(Ended::Reset));
        assert_eq!(open.goes(&frame(head, kind::END_STREAM, 5, 4)), Some(Ended::Answered));
        open.accepts(7);
        assert_eq!(open.goes(&frame(reset, 0, 7, 4)), None);
        assert_eq!(open.goes(&frame(reset, 0, 1, 4)), None);
        assert_eq!(open.goes(&frame(kind::SETTINGS, 0, 0, 4)), None);
        assert_eq!(open.streams(), 1);
        open.none_is_known();
        assert_eq!(open.streams(), 0);
    }

    #[test]
    fn more_streams_than_can_be_are_told() {
        let mut open = Open::new(100);
        let opens = |number: usize| frame(kind::HEADERS, 0, 2 * number as u32 + 1, 10);
        assert!((0..400).all(|number| open.came(&opens(number))));
        assert!(!open.came(&opens(400)));
    }

    #[test]
    fn the_trailers_of_a_request_open_nothing() {
        let mut open = opened(&[1, 3], 0);
        open.goes(&frame(kind::DATA, kind::END_STREAM, 3, 0));
        open.came(&frame(kind::HEADERS, kind::END_STREAM, 3, 10));
        assert_eq!(open.streams(), 1);
    }
}
