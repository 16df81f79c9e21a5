//! The memory ladder: what the process uses is looked at four times a second, and the less there is left, the less is kept for later.
//! The steps are those of Envoy's overload manager.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use sluicegate_process::memory::Memory;
use tokio::sync::watch;

use super::bodies::Bodies;

/// How often it is looked at, and how often from [`CLOSE`] on: an attacker on a fast line fills some hundred megabytes a second.
const EVERY: Duration = Duration::from_millis(250);
const OFTEN: Duration = Duration::from_millis(20);

/// From this part of the limit on it is looked at often.
const CLOSE: f64 = 0.5;

/// From this part of the limit on what is held for a client that takes nothing has become as little as it can.
const SCARCE: f64 = 0.75;

/// How long a connection may wait for a request on the first step.
pub const SHORT_IDLE: Duration = Duration::from_secs(5);

/// How long a client may take nothing of its answer then: what is held for it is needed.
pub const SHORT_STALL: Duration = Duration::from_secs(5);

/// Bytes of a body that are read at a time, at least and at most.
const PIECE: RangeInclusive<u64> = 1024..=16 * 1024;

/// The same where there is plenty of memory for it: the engine takes no more at once.
const LARGE_PIECE: u64 = 64 * 1024;

/// The part of the memory that is left which the pieces of all requests in flight may take, each once: a client that takes nothing holds
/// two of them, and the kernel more.
const PARTS: u64 = 8;

/// How far use has to fall below a step to leave it, in parts of the limit.
const SLACK: f64 = 0.02;

/// The steps, each with everything of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is enough.
    None,
    /// Connections that have waited for [`SHORT_IDLE`] end, and those whose client has taken nothing for [`SHORT_STALL`].
    ShortIdle,
    /// No connection is kept: answers close it, HTTP/2 clients are told to go.
    NoKeepAlive,
    /// No connection is accepted, and requests are answered with 503.
    Refusing,
}

impl Pressure {
    /// All, each with the part of the limit from which it holds.
    pub const STEPS: [(Pressure, f64); 4] =
        [(Pressure::None, 0.0), (Pressure::ShortIdle, 0.85), (Pressure::NoKeepAlive, 0.92), (Pressure::Refusing, 0.95)];

    /// The step for a part of the limit, coming from another one.
    fn of(part: f64, before: Pressure) -> Pressure {
        let holds = |(step, from): &&(Pressure, f64)| part >= if *step <= before { from - SLACK } else { *from };
        Pressure::STEPS.iter().rfind(holds).map_or(Pressure::None, |(step, _)| *step)
    }
}

/// What is known of memory.
#[derive(Debug)]
pub struct Ladder {
    step: watch::Sender<Pressure>,
    /// The same, for those who ask often.
    now: AtomicU8,
    used: AtomicU64,
    limit: u64,
    bodies: Arc<Bodies>,
}

impl Ladder {
    /// With so many bytes for the process. Nothing is looked at yet.
    pub fn new(limit: u64) -> Self {
        let (step, bodies) = (watch::Sender::new(Pressure::None), Arc::new(Bodies::new(limit)));
        Ladder { step, now: AtomicU8::new(0), used: AtomicU64::new(0), limit, bodies }
    }

    /// The room for bodies of requests.
    pub fn bodies(&self) -> &Arc<Bodies> {
        &self.bodies
    }

    /// Bytes that may be used.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that were used when it was looked at last.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn part(&self) -> f64 {
        self.used() as f64 / self.limit as f64
    }

    /// The step. Costs nothing.
    pub fn pressure(&self) -> Pressure {
        let now = self.now.load(Ordering::Relaxed);
        Pressure::STEPS.get(usize::from(now)).map_or(Pressure::None, |(step, _)| *step)
    }

    /// Bytes of a body that are read at a time: large ones cost less for each byte, but the less memory is left for each of so many requests in
    /// flight, the smaller they are.
    pub fn piece(&self, in_flight: usize) -> usize {
        let left = self.limit.saturating_sub(self.used());
        let share = left / PARTS / (in_flight as u64).max(1);
        // Those who came when there were few keep theirs while others come.
        let most = if share >= 4 * LARGE_PIECE { LARGE_PIECE } else { *PIECE.end() };
        // A power of two: the allocator has sizes of its own.
        1 << share.clamp(*PIECE.start(), most).ilog2()
    }

    /// What may be held of an allowance: all of it while half of the memory is free, and a tenth from three quarters of the limit on.
    pub fn allowance(&self, allowance: usize) -> usize {
        let free = (SCARCE - self.part()) / (SCARCE - CLOSE);
        (allowance as f64 * free.clamp(0.1, 1.0)).round() as usize
    }

    /// Whether allowances are as little as they can be.
    pub fn is_scarce(&self) -> bool {
        self.part() >= SCARCE
    }

    /// Tells when the step changes.
    pub fn subscribe(&self) -> watch::Receiver<Pressure> {
        self.step.subscribe()
    }

    /// Looks at what is used now.
    pub(super) fn look(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
        let before = self.pressure();
        let step = Pressure::of(self.part(), before);
        if step == before {
            return;
        }
        let (used_mib, limit_mib) = (used >> 20, self.limit >> 20);
        if step > before {
            tracing::warn!(?step, used_mib, limit_mib, "memory runs short");
        } else {
            tracing::info!(?step, used_mib, limit_mib, "memory is freed");
        }
        self.now.store(step as u8, Ordering::Relaxed);
        self.step.send_replace(step);
    }

    /// Looks at it for as long as somebody else has it, on a thread of its own: it must not wait for what it is to end.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(self: &Arc<Self>, memory: Memory) -> std::io::Result<()> {
        let watched: Weak<Ladder> = Arc::downgrade(self);
        thread::Builder::new().name("memory".to_owned()).spawn(move || {
            while let Some(of) = watched.upgrade() {
                of.look(memory.used());
                let every = if of.part() < CLOSE { EVERY } else { OFTEN };
                drop(of);
                thread::park_timeout(every);
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_a_share_of_what_is_left() {
        let memory = Ladder::new(512 << 20);
        memory.look(32 << 20);
        let pieces = [1, 200, 400, 2000, 10_000, 1_000_000].map(|in_flight| memory.piece(in_flight) / 1024);
        assert_eq!(pieces, [64, 64, 16, 16, 4, 1]);
        memory.look(600 << 20);
        assert_eq!(memory.piece(1), 1024);
    }

    #[test]
    fn allowances_shrink_before_the_first_step_is_reached() {
        let memory = Ladder::new(1000);
        let allowances = [0, 500, 625, 749, 2000].map(|used| {
            memory.look(used);
            memory.allowance(1000)
        });
        assert_eq!(allowances, [1000, 1000, 500, 100, 100]);
    }

    #[test]
    fn steps_are_left_a_little_lower_than_they_are_reached() {
        let memory = Ladder::new(100);
        let steps = [84, 85, 84, 82, 92, 95, 94, 93, 92, 90, 89, 83, 82, 99, 10].map(|used| {
            memory.look(used);
            memory.pressure()
        });
        use Pressure::{NoKeepAlive, None, Refusing, ShortIdle};
        let expected = [
            None,
            ShortIdle,
            ShortIdle,
            None,
            NoKeepAlive,
            Refusing,
            Refusing,
            Refusing,
            NoKeepAlive,
            NoKeepAlive,
            ShortIdle,
            ShortIdle,
            None,
            Refusing,
            None,
        ];
        assert_eq!(steps, expected);
        assert_eq!((memory.used(), memory.limit()), (10, 100));
    }
}
