//! Watches the frames that an HTTP/2 client sends. The library behind it bounds what a stream may do; what costs work and belongs to no
//! request (RFC 9113, 10.5) it serves as often as it is sent.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::wire::{Frame, kind};

/// What comes each second in addition to what is left over for frames that belong to no request: a part of what that is at most.
const PART_PER_SECOND: f64 = 0.1;

/// Bytes to the client that allow one frame more: who takes much has to open windows often.
const BYTES_EACH: f64 = 1024.0;

/// How much more a connection of a trusted proxy may send, which carries many clients.
const TRUSTED_FACTOR: f64 = 100.0;

/// Microseconds of work, roughly, that a client may cause at once before it takes turns with its like; what it begins with, and what comes
/// in addition each second.
const WORK: f64 = 1000.0;
const FIRST_WORK: f64 = 300.0;
const WORK_PER_SECOND: f64 = 10_000.0;

/// The work of a request, of a frame that is answered or changes something, which often comes in a TLS record of its own, and of any other.
const REQUEST_WORK: f64 = 50.0;
const CONTROL_WORK: f64 = 5.0;
const DATA_WORK: f64 = 1.0;

/// How much more than it may a client can have caused, in seconds: who has gone on for long at a steady rate does not take turns for as long.
const MOST_DEBT: f64 = 2.0;

/// What the watch tells the connection's loop.
#[derive(Debug, Default)]
pub struct Watched {
    spent: AtomicBool,
    in_head: AtomicBool,
    in_frame: AtomicBool,
    /// Until when it takes turns, in nanoseconds since it was first asked.
    takes_turns: AtomicU64,
    asked: OnceLock<Instant>,
    changed: Notify,
}

impl Watched {
    /// Whether the client has sent more than it may.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// It has, and the loop is to know.
    pub fn spend(&self) {
        if !self.spent.swap(true, Ordering::Relaxed) {
            self.look();
        }
    }

    /// The loop is to look.
    pub fn look(&self) {
        self.changed.notify_one();
    }

    /// Whether a head has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        self.in_head.load(Ordering::Relaxed)
    }

    /// Whether a frame has.
    pub fn is_in_frame(&self) -> bool {
        self.in_frame.load(Ordering::Relaxed)
    }

    /// That it has, or has not.
    pub fn set_in_frame(&self, in_frame: bool) {
        self.in_frame.store(in_frame, Ordering::Relaxed);
    }

    /// Whether it has caused so much work that it takes turns with its like.
    pub fn takes_turns(&self) -> bool {
        let until = self.takes_turns.load(Ordering::Relaxed);
        until > 0 && until > self.nanoseconds(Instant::now())
    }

    /// That it does until then.
    pub fn set_takes_turns(&self, until: Instant) {
        self.takes_turns.store(self.nanoseconds(until), Ordering::Relaxed);
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(*self.asked.get_or_init(Instant::now));
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Resolves when the loop has to look at them, or at what the library has refused.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Weighs the frames of a client.
pub struct FrameWatch {
    /// What is left over for frames that belong to no request, and what that is to begin with and at most.
    left: f64,
    most: f64,
    since: Instant,
    /// Work that the client may still cause, and when that was so.
    work: f64,
    worked: Instant,
    /// How many clients the connection may carry, roughly.
    factor: f64,
}

impl FrameWatch {
    /// Nothing was sent yet. `frames`: so many belong to no request, at once; `trusted`: it is a proxy of ours.
    pub fn new(now: Instant, frames: usize, trusted: bool) -> Self {
        let factor = if trusted { TRUSTED_FACTOR } else { 1.0 };
        let most = frames as f64 * factor;
        FrameWatch { left: most, most, since: now, work: FIRST_WORK * factor, worked: now, factor }
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, count: usize) {
        let frames = count as f64 / BYTES_EACH;
        self.left = (self.left + frames).min(self.most);
        self.work = (self.work + frames * CONTROL_WORK).min(WORK * self.factor);
    }

    /// Until when the client takes turns with its like, since it has caused so much work; a time in the past: it does not.
    pub fn takes_turns_until(&mut self, now: Instant) -> Instant {
        let per_second = WORK_PER_SECOND * self.factor;
        let earned = now.saturating_duration_since(self.worked).as_secs_f64() * per_second;
        self.worked = now;
        self.work = (self.work + earned).min(WORK * self.factor);
        now + Duration::from_secs_f64((-self.work).max(0.0) / per_second)
    }

    /// Looks at a frame that came from the client.
    pub fn frame(&mut self, frame: &Frame, now: Instant, watched: &Watched) {
        let Frame { length, kind, flags, .. } = *frame;
        if matches!(kind, kind::HEADERS | kind::CONTINUATION) {
            let in_head = flags & kind::END_HEADERS == 0;
            if watched.in_head.swap(in_head, Ordering::Relaxed) != in_head {
                watched.changed.notify_one();
            }
        }
        self.work -= match kind {
            kind::HEADERS => REQUEST_WORK,
            kind::DATA if length > 0 => DATA_WORK,
            _ => CONTROL_WORK,
        };
        self.work = self.work.max(-MOST_DEBT * WORK_PER_SECOND * self.factor);
        let cost = match kind {
            kind::DATA if length > 0 || flags & kind::END_STREAM != 0 => 0.0,
            kind::HEADERS => 0.0,
            kind::RST_STREAM => 2.0,
            kind::SETTINGS => 5.0,
            _ => 1.0,
        };
        if cost > 0.0 {
            self.pay(cost, now, watched);
        }
    }

    fn pay(&mut self, cost: f64, now: Instant, watched: &Watched) {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() * PART_PER_SECOND * self.most;
        self.since = now;
        self.left = (self.left + earned).min(self.most) - cost;
        if self.left < 0.0 {
            watched.spend();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Frame {
        Frame { length, kind, flags, stream: 1, code: 0 }
    }

    /// Whether so many of a frame are too many, at once or one each so often.
    fn is_spent(frame: Frame, count: usize, each: Duration, sent: usize) -> bool {
        let (begun, watched) = (Instant::now(), Watched::default());
        let mut watch = FrameWatch::new(begun, 1000, false);
        for number in 0..count {
            watch.sent(sent);
            watch.frame(&frame, begun + each * u32::try_from(number).unwrap(), &watched);
        }
        watched.is_spent()
    }

    #[test]
    fn frames_that_belong_to_no_request_are_budgeted_by_kind() {
        for (kind, length, most) in
            [(6, 8, 1000), (2, 5, 1000), (8, 4, 1000), (3, 4, 500), (4, 0, 200), (0, 0, 1000), (99, 20, 1000)]
        {
            let frame = frame(kind, 0, length);
            assert!(!is_spent(frame, most, Duration::ZERO, 0), "{kind}");
            assert!(is_spent(frame, most + 1, Duration::ZERO, 0), "{kind}");
        }
    }

    #[test]
    fn requests_and_those_who_take_much_or_are_slow_pay_nothing() {
        assert!(!is_spent(frame(1, 4, 30), 100_000, Duration::ZERO, 0), "HEADERS");
        assert!(!is_spent(frame(0, 0, 30), 100_000, Duration::ZERO, 0), "DATA");
        assert!(!is_spent(frame(8, 0, 4), 100_000, Duration::ZERO, 1024), "a window for each KiB");
        assert!(!is_spent(frame(6, 0, 8), 100_000, Duration::from_millis(10), 0), "a hundred pings a second");
    }

    #[test]
    fn who_causes_much_work_takes_turns_until_that_is_over() {
        let begun = Instant::now();
        // How long it takes turns.
        let turns = |frame: Frame, count: usize, trusted: bool| {
            let mut watch = FrameWatch::new(begun, 1000, trusted);
            (0..count).for_each(|_| watch.frame(&frame, begun, &Watched::default()));
            watch.takes_turns_until(begun).duration_since(begun)
        };
        let request = frame(1, 4, 30);
        assert_eq!(turns(request, 6, false), Duration::ZERO);
        assert_eq!(turns(request, 7, false), Duration::from_millis(5), "50 microseconds each, 10 a millisecond");
        assert_eq!(turns(request, 100, true), Duration::ZERO, "a trusted proxy carries many clients");
        assert_eq!(turns(frame(6, 0, 8), 60, false), Duration::ZERO, "5 microseconds each");
        assert!(turns(frame(6, 0, 8), 61, false) > Duration::ZERO);
        assert_eq!(turns(frame(0, 0, 100), 300, false), Duration::ZERO, "uploads");
    }

    #[test]
    fn the_turns_end_by_themselves() {
        let (now, watched) = (Instant::now(), Watched::default());
        assert!(!watched.takes_turns());
        watched.set_takes_turns(now + Duration::from_secs(60));
        assert!(watched.takes_turns());
        watched.set_takes_turns(now);
        assert!(!watched.takes_turns());
    }

    #[test]
    fn a_head_that_has_not_ended_is_seen() {
        let (now, watched) = (Instant::now(), Watched::default());
        let mut watch = FrameWatch::new(now, 1000, false);
        watch.frame(&frame(1, 0, 3), now, &watched);
        assert!(watched.is_in_head());
        watch.frame(&frame(9, 4, 3), now, &watched);
        assert!(!watched.is_in_head());
    }
}
