//! Watches the frames that an HTTP/2 client sends. The library behind it bounds what a stream may do; what costs work and belongs to no
//! request (RFC 9113, 10.5) it serves as often as it is sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

/// Bytes of the connection preface.
const PREFACE: usize = 24;

/// Bytes of a frame's header.
const HEADER: usize = 9;

/// What is left over for frames that belong to no request, to begin with and at most.
const ALLOWANCE: f64 = 1000.0;

/// What comes in addition each second.
const PER_SECOND: f64 = 100.0;

/// Bytes to the client that allow one frame more: who takes much has to open windows often.
const BYTES_EACH: f64 = 1024.0;

/// How much more a connection of a trusted proxy may send, which carries many clients.
const TRUSTED_FACTOR: f64 = 100.0;

/// Microseconds of work, roughly, that a client may cause at once before it takes turns with its like; what it begins with, and what comes
/// in addition each second.
const WORK: f64 = 1000.0;
const FIRST_WORK: f64 = 300.0;
const WORK_PER_SECOND: f64 = 10_000.0;

/// The work of a request, of a frame that is answered or changes something, and of any other.
const REQUEST_WORK: f64 = 50.0;
const CONTROL_WORK: f64 = 2.0;
const DATA_WORK: f64 = 1.0;

/// Bytes that are read at a time, besides what is left of a frame with data. In a turn it is one frame.
const STEP: usize = 1024;

/// Types of frames (RFC 9113, 6), and flags.
mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// What the watch tells the connection's loop.
#[derive(Debug, Default)]
pub struct Watched {
    spent: AtomicBool,
    in_head: AtomicBool,
    takes_turns: AtomicBool,
    changed: Notify,
}

impl Watched {
    /// Whether the client has sent more than it may.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Whether a head has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        self.in_head.load(Ordering::Relaxed)
    }

    /// Whether it has caused so much work that it takes turns with its like.
    pub fn takes_turns(&self) -> bool {
        self.takes_turns.load(Ordering::Relaxed)
    }

    /// That it does, or does not any more.
    pub fn set_takes_turns(&self, takes_turns: bool) {
        self.takes_turns.store(takes_turns, Ordering::Relaxed);
    }

    /// Resolves when one of the first two may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

enum At {
    Preface(usize),
    Header,
    Payload(usize),
}

/// Reads frames' headers as bytes go by.
pub struct FrameWatch {
    at: At,
    header: [u8; HEADER],
    have: usize,
    left: f64,
    since: Instant,
    /// Work that the client may still cause, and when that was so.
    work: f64,
    worked: Instant,
    /// The payload at hand is data.
    is_data: bool,
    /// How many clients the connection may carry, roughly.
    factor: f64,
}

impl FrameWatch {
    /// From the preface on.
    /// `trusted`: of a proxy of ours.
    pub fn new(now: Instant, trusted: bool) -> Self {
        let factor = if trusted { TRUSTED_FACTOR } else { 1.0 };
        FrameWatch {
            at: At::Preface(PREFACE),
            header: [0; HEADER],
            have: 0,
            left: ALLOWANCE * factor,
            since: now,
            work: FIRST_WORK * factor,
            worked: now,
            is_data: false,
            factor,
        }
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, count: usize) {
        let frames = count as f64 / BYTES_EACH;
        self.left = (self.left + frames).min(ALLOWANCE * self.factor);
        self.work = (self.work + frames * CONTROL_WORK).min(WORK * self.factor);
    }

    /// Whether the client has caused so much work that it takes turns with its like.
    pub fn takes_turns(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.worked).as_secs_f64() * WORK_PER_SECOND * self.factor;
        self.worked = now;
        self.work = (self.work + earned).min(WORK * self.factor);
        self.work < 0.0
    }

    /// Bytes to read at a time; in a turn no further than to the end of a frame.
    pub fn step(&self, in_turn: bool) -> usize {
        match self.at {
            At::Preface(left) | At::Payload(left) if in_turn => left,
            At::Header if in_turn => HEADER - self.have,
            At::Payload(left) if self.is_data => left + STEP,
            _ => STEP,
        }
    }

    /// Whether what was read ends with a frame.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.at, At::Header) && self.have == 0
    }

    /// Looks at bytes that came from the client.
    pub fn feed(&mut self, mut bytes: &[u8], now: Instant, watched: &Watched) {
        while !bytes.is_empty() {
            let count = match &mut self.at {
                At::Preface(left) | At::Payload(left) => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    if *left == 0 {
                        self.at = At::Header;
                    }
                    count
                }
                At::Header => {
                    let count = bytes.len().min(HEADER - self.have);
                    self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
                    self.have += count;
                    if self.have == HEADER {
                        self.have = 0;
                        self.frame(now, watched);
                    }
                    count
                }
            };
            bytes = &bytes[count..];
        }
    }

    fn frame(&mut self, now: Instant, watched: &Watched) {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.at = if length == 0 { At::Header } else { At::Payload(length) };
        if matches!(kind, frame::HEADERS | frame::CONTINUATION) {
            let in_head = flags & frame::END_HEADERS == 0;
            if watched.in_head.swap(in_head, Ordering::Relaxed) != in_head {
                watched.changed.notify_one();
            }
        }
        self.is_data = kind == frame::DATA;
        self.work -= match kind {
            frame::HEADERS => REQUEST_WORK,
            frame::DATA if length > 0 => DATA_WORK,
            _ => CONTROL_WORK,
        };
        let cost = match kind {
            frame::DATA if length > 0 || flags & frame::END_STREAM != 0 => 0.0,
            frame::HEADERS => 0.0,
            frame::RST_STREAM => 2.0,
            frame::SETTINGS => 5.0,
            _ => 1.0,
        };
        if cost > 0.0 {
            self.pay(cost, now, watched);
        }
    }

    fn pay(&mut self, cost: f64, now: Instant, watched: &Watched) {
        let earned = now.saturating_duration_since(self.since).as_secs_f64() * PER_SECOND * self.factor;
        self.since = now;
        self.left = (self.left + earned).min(ALLOWANCE * self.factor) - cost;
        if self.left < 0.0 && !watched.spent.swap(true, Ordering::Relaxed) {
            watched.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PREFACE_BYTES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame_of(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Whether so many of a frame are too many, at once or one each so often.
    fn is_spent(frame: &[u8], count: usize, each: Duration, sent: usize) -> bool {
        let (begun, watched) = (Instant::now(), Watched::default());
        let mut watch = FrameWatch::new(begun, false);
        watch.feed(PREFACE_BYTES, begun, &watched);
        for number in 0..count {
            watch.sent(sent);
            watch.feed(frame, begun + each * u32::try_from(number).unwrap(), &watched);
        }
        watched.is_spent()
    }

    #[test]
    fn frames_that_belong_to_no_request_are_budgeted_by_kind() {
        for (kind, payload, most) in [
            (6, &[0; 8][..], 1000),
            (2, &[0; 5], 1000),
            (8, &[0; 4], 1000),
            (3, &[0; 4], 500),
            (4, &[], 200),
            (0, &[], 1000),
            (99, &[0; 20], 1000),
        ] {
            let frame = frame_of(kind, 0, payload);
            assert!(!is_spent(&frame, most, Duration::ZERO, 0), "{kind}");
            assert!(is_spent(&frame, most + 1, Duration::ZERO, 0), "{kind}");
        }
    }

    #[test]
    fn requests_and_those_who_take_much_or_are_slow_pay_nothing() {
        assert!(!is_spent(&frame_of(1, 4, &[0; 30]), 100_000, Duration::ZERO, 0), "HEADERS");
        assert!(!is_spent(&frame_of(0, 0, &[0; 30]), 100_000, Duration::ZERO, 0), "DATA");
        assert!(!is_spent(&frame_of(8, 0, &[0; 4]), 100_000, Duration::ZERO, 1024), "a window for each KiB");
        assert!(!is_spent(&frame_of(6, 0, &[0; 8]), 100_000, Duration::from_millis(10), 0), "a hundred pings a second");
    }

    #[test]
    fn who_causes_much_work_takes_turns_until_that_is_over() {
        let (begun, watched) = (Instant::now(), Watched::default());
        let after = |milliseconds| begun + Duration::from_millis(milliseconds);
        let turns = |frame: &[u8], count: usize, trusted: bool, at: Instant| {
            let mut watch = FrameWatch::new(begun, trusted);
            watch.feed(PREFACE_BYTES, begun, &watched);
            watch.feed(&frame.repeat(count), begun, &watched);
            watch.takes_turns(at)
        };
        let request = frame_of(1, 4, &[0; 30]);
        assert!(!turns(&request, 6, false, begun));
        assert!(turns(&request, 7, false, begun));
        assert!(
            turns(&request, 7, false, after(4)),
            "each costs 50 microseconds, of which 10 are earned in a millisecond"
        );
        assert!(!turns(&request, 7, false, after(6)));
        assert!(!turns(&request, 100, true, begun), "a trusted proxy carries many clients");
        assert!(turns(&frame_of(6, 0, &[0; 8]), 151, false, begun));
        assert!(!turns(&frame_of(0, 0, &[0; 100]), 300, false, begun), "uploads");
    }

    #[test]
    fn frames_are_found_however_they_arrive() {
        let ping = frame_of(6, 0, &[0; 8]);
        let bytes: Vec<u8> =
            PREFACE_BYTES.iter().copied().chain(ping.iter().copied().cycle().take(ping.len() * 1001)).collect();
        for step in [1, 2, 7, 9, 100, 4096] {
            let (now, watched) = (Instant::now(), Watched::default());
            let mut watch = FrameWatch::new(now, false);
            bytes.chunks(step).for_each(|piece| watch.feed(piece, now, &watched));
            assert!(watched.is_spent(), "{step}");
        }
    }

    #[test]
    fn a_head_that_has_not_ended_is_seen() {
        let (now, watched) = (Instant::now(), Watched::default());
        let mut watch = FrameWatch::new(now, false);
        watch.feed(PREFACE_BYTES, now, &watched);
        watch.feed(&frame_of(1, 0, &[0; 3]), now, &watched);
        assert!(watched.is_in_head());
        watch.feed(&frame_of(9, 4, &[0; 3]), now, &watched);
        assert!(!watched.is_in_head());
    }
}
