//! What a connection has done, and so in which line it stands.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::io::turns::behind_others;

/// How often a request may go on, and for how many microseconds, before its connection no longer comes first. A small one takes five to ten steps.
pub(super) const PROMPT_STEPS: u32 = 32;
const PROMPT_MICROS: u32 = 1_000;

/// How often one that has not been served yet goes on among its like, and for how long: browsers connect seconds before they ask, and those whose
/// time is over (`timeouts.firstByte` and others, 10 seconds), thousands at once, are not new.
const NEW_STEPS: u32 = 64;
const NEW_FOR: Duration = Duration::from_secs(9);

/// What a step takes at least, to be counted: to wake a task is not for nothing.
pub(super) const LEAST_MICROS: u32 = 10;

/// What it counts at most: what took longer was kept waiting itself, by a machine that did something else.
pub(super) const MOST_MICROS: u32 = 250;

/// What the last step of a connection takes, at least: the kernel takes leave of the other side in it.
const END_MICROS: u32 = 50;

/// What a connection has done, and whether it waits for its part.
#[derive(Debug)]
pub struct Standing {
    /// When it was accepted.
    since: Instant,
    /// It was served before.
    is_proven: AtomicBool,
    /// Its streams take turns with others' (`http2/group.rs`), and so does what it sends (`http2/frames.rs`).
    is_http2: AtomicBool,
    /// It has the turn of a costly step (`turns.rs`), for which others wait.
    has_turn: AtomicBool,
    /// It comes to its end.
    ends: AtomicBool,
    /// Steps since the last request was served, and their microseconds.
    steps: AtomicU32,
    micros: AtomicU32,
    /// Microseconds of the last one.
    last: AtomicU32,
    /// In no line, in one, or at the head of it.
    pub(super) place: AtomicU8,
}

impl Default for Standing {
    /// It has just come.
    fn default() -> Self {
        Standing {
            since: Instant::now(),
            is_proven: AtomicBool::default(),
            is_http2: AtomicBool::default(),
            has_turn: AtomicBool::default(),
            ends: AtomicBool::default(),
            steps: AtomicU32::default(),
            micros: AtomicU32::default(),
            last: AtomicU32::default(),
            place: AtomicU8::default(),
        }
    }
}

/// A connection's place: in no line, in one, or at the head of it.
pub(super) const NONE: u8 = 0;
pub(super) const WAITS: u8 = 1;
pub(super) const MAY_GO_ON: u8 = 2;

/// Those who do not come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Not served yet.
    New,
    /// The request takes long.
    Long,
}

impl Standing {
    /// It speaks HTTP/2.
    pub fn set_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// It has the turn of a costly step, or no longer.
    pub fn set_has_turn(&self, has_turn: bool) {
        self.has_turn.store(has_turn, Ordering::Relaxed);
    }

    /// A request was served: the next one comes first, until it takes long.
    pub fn served(&self) {
        self.is_proven.store(true, Ordering::Relaxed);
        self.steps.store(0, Ordering::Relaxed);
        self.micros.store(0, Ordering::Relaxed);
    }

    /// It comes to its end when those that come first have gone on. Thousands do at once, where their time is over or the host of their clients
    /// is gone, and an end costs far more than to be told of it.
    pub async fn ends(&self) {
        self.ends.store(true, Ordering::Relaxed);
        behind_others().await;
    }

    /// Where it stands; `None`: it comes first.
    pub(super) fn line(&self) -> Option<Line> {
        if self.comes_now() {
            return None;
        }
        if self.ends.load(Ordering::Relaxed) {
            return Some(Line::Long);
        }
        let steps = self.steps.load(Ordering::Relaxed);
        if !self.is_proven.load(Ordering::Relaxed) {
            let is_new = steps < NEW_STEPS && self.since.elapsed() < NEW_FOR;
            return Some(if is_new { Line::New } else { Line::Long });
        }
        let is_prompt = steps < PROMPT_STEPS && self.micros.load(Ordering::Relaxed) < PROMPT_MICROS;
        let comes_first = is_prompt || self.is_http2.load(Ordering::Relaxed);
        (!comes_first).then_some(Line::Long)
    }

    /// Whether it goes on wherever it stands: others wait for what it does now.
    pub(in crate::io) fn comes_now(&self) -> bool {
        self.has_turn.load(Ordering::Relaxed)
    }

    /// What the next step takes, as far as the last one tells.
    pub(super) fn cost(&self) -> i64 {
        let least = if self.ends.load(Ordering::Relaxed) { END_MICROS } else { LEAST_MICROS };
        self.last.load(Ordering::Relaxed).max(least).into()
    }

    /// A step took so long; what it is counted as.
    pub(super) fn stepped(&self, took: Duration) -> u32 {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).min(MOST_MICROS);
        self.last.store(micros, Ordering::Relaxed);
        // Costly steps are counted where they take turns.
        if self.comes_now() {
            return micros;
        }
        let add =
            |sum: &AtomicU32, more: u32| sum.store(sum.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
        add(&self.steps, 1);
        add(&self.micros, micros);
        micros.max(LEAST_MICROS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(is_proven: bool, steps: u32, micros: u32) -> Standing {
        Standing { is_proven: is_proven.into(), steps: steps.into(), micros: micros.into(), ..Standing::default() }
    }

    #[test]
    fn who_was_served_comes_first_until_its_request_takes_long() {
        let old = Instant::now().checked_sub(NEW_FOR).unwrap();
        let http2 = |standing: Standing| Standing { is_http2: true.into(), ..standing };
        for (what, standing, line) in [
            ("it has come", standing(false, 0, 1_000_000), Some(Line::New)),
            ("and goes on and on", standing(false, NEW_STEPS, 0), Some(Line::Long)),
            ("or takes its time", Standing { since: old, ..Standing::default() }, Some(Line::Long)),
            ("it has a turn", Standing { has_turn: true.into(), since: old, ..Standing::default() }, None),
            (
                "it has one at its end",
                Standing { has_turn: true.into(), ends: true.into(), ..Standing::default() },
                None,
            ),
            ("it was served", Standing { since: old, ..standing(true, 0, 0) }, None),
            ("and is served a little", standing(true, PROMPT_STEPS - 1, PROMPT_MICROS - 1), None),
            ("in many steps", standing(true, PROMPT_STEPS, 0), Some(Line::Long)),
            ("with much to do", standing(true, 1, PROMPT_MICROS), Some(Line::Long)),
            ("over HTTP/2 it has come", http2(standing(false, 0, 0)), Some(Line::New)),
            ("and is served, which takes turns", http2(standing(true, PROMPT_STEPS, PROMPT_MICROS)), None),
        ] {
            assert_eq!(standing.line(), line, "{what}");
            standing.set_has_turn(false);
            standing.served();
            let ends = standing.ends.load(Ordering::Relaxed);
            assert_eq!(standing.line(), ends.then_some(Line::Long), "{what}: served");
        }
    }

    #[test]
    fn steps_that_take_turns_are_not_counted_once_more() {
        let standing = Standing::default();
        standing.set_has_turn(true);
        (0..NEW_STEPS).for_each(|_| assert_eq!(standing.stepped(Duration::ZERO), 0));
        standing.set_has_turn(false);
        assert_eq!(standing.line(), Some(Line::New));
    }

    #[tokio::test]
    async fn who_comes_to_its_end_no_longer_comes_first_and_costs_more() {
        for standing in [standing(false, 0, 0), standing(true, 0, 0)] {
            assert_eq!(standing.cost(), i64::from(LEAST_MICROS));
            standing.ends().await;
            assert_eq!((standing.line(), standing.cost()), (Some(Line::Long), i64::from(END_MICROS)), "{standing:?}");
        }
    }

    #[test]
    fn a_step_costs_what_the_last_one_took_within_bounds() {
        let standing = Standing::default();
        for (took, counts, costs) in
            [(0, LEAST_MICROS, LEAST_MICROS), (100, 100, 100), (1_000_000, MOST_MICROS, MOST_MICROS)]
        {
            assert_eq!(standing.stepped(Duration::from_micros(took)), counts, "{took}");
            assert_eq!(standing.cost(), i64::from(costs), "{took}");
        }
    }
}
