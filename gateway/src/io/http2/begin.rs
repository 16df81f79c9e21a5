//! Which streams of a connection begin, wait, or are refused: what answers cost that nobody takes is known only when they are there.

use std::time::Duration;

use tokio::time::Instant;

use super::open::Seen;

/// A few more begin after each [`WAIT`]. How many those are, and how long the wait is: most backends have answered by then.
pub const A_FEW: usize = 8;
pub const WAIT: Duration = Duration::from_millis(50);

/// How long a stream waits where those that have begun hold too much and the client takes nothing of them, before it is refused.
/// On a slow line the kernel takes large pieces, with seconds in between.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The same where memory is scarce: who waits has sent as much of its body as the windows let through.
pub const SHORT_PATIENCE: Duration = Duration::from_millis(250);

/// What a stream that wants to begin is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Begin,
    Wait,
    Refuse,
}

/// How many have begun, and may have.
#[derive(Debug)]
pub struct Begin {
    begun: usize,
    /// How many may have, and since when so many.
    most: usize,
    since: Instant,
    /// When the client took something last.
    taken: Instant,
    /// Streams were refused since those that have begun hold too much. What the refused ones leave is for nobody: it would be as before a
    /// moment later.
    is_stuck: bool,
}

impl Begin {
    /// None has.
    pub fn new(now: Instant) -> Begin {
        Begin { begun: 0, most: 0, since: now, taken: now, is_stuck: false }
    }

    /// How many have begun and not ended.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// What one is told that has waited since then, and counts as begun where it begins. `at_once`: how many begin without a wait; `is_over`: those
    /// that have begun hold too much; `patience`: how long they may, with nothing taken.
    pub fn ask(&mut self, now: Instant, since: Instant, at_once: usize, is_over: bool, patience: Duration) -> Answer {
        if self.begun < at_once {
            (self.most, self.since) = (at_once, now);
        }
        // Those that have begun are waited for; without any there is nothing to wait for.
        let is_over = is_over || (self.is_stuck && self.begun > 0);
        if self.begun < self.most && !is_over {
            self.begun += 1;
            return Answer::Begin;
        }
        // Many answers at once are taken in a moment, or go on being taken; who takes nothing is told so.
        let idle = now.saturating_duration_since(self.taken.max(since));
        if is_over && idle >= patience {
            self.is_stuck = self.begun > 0;
            return Answer::Refuse;
        }
        Answer::Wait
    }

    /// The client has taken something.
    pub fn takes(&mut self, now: Instant) {
        self.taken = now;
        self.is_stuck = false;
    }

    /// The client has sent something of a request: it is there, and may be about to take something.
    pub fn sends(&mut self, now: Instant) {
        self.taken = now;
    }

    /// Whether none more could begin for a while.
    pub fn has_waited(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WAIT
    }

    /// For so many more there is room; they may begin, or a few of them. Those that are not answered yet are taken to be like those that are: where
    /// these hold much, one may begin.
    pub fn waited(&mut self, now: Instant, room: usize, seen: Seen) {
        if room > 0 {
            let unknown = self.begun.saturating_sub(seen.answered);
            let alike = (unknown * (seen.waiting + seen.flowing)).checked_div(seen.answered).unwrap_or(0);
            let more = room.saturating_sub(seen.flowing + alike).clamp(1, A_FEW);
            (self.most, self.since) = (self.begun + more, now);
        }
    }

    /// One that had begun has ended.
    pub fn ends(&mut self) {
        self.begun -= 1;
        self.is_stuck = false;
    }
}

#[cfg(test)]
mod tests {
    use super::Answer::{Begin as Begins, Refuse, Wait};
    use super::*;

    /// So many at once.
    const AT_ONCE: usize = 3;

    /// A connection with so many that have begun, and a time.
    fn with(begun: usize) -> (Begin, Instant) {
        let now = Instant::now();
        let mut begin = Begin::new(now);
        (0..begun).for_each(|_| assert_eq!(begin.ask(now, now, begun, false, PATIENCE), Begins));
        (begin, now)
    }

    #[test]
    fn some_begin_at_once_and_a_few_more_after_a_while() {
        let (mut begin, now) = with(AT_ONCE);
        assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Wait);
        assert!(!begin.has_waited(now + WAIT / 2) && begin.has_waited(now + WAIT));
        begin.waited(now + WAIT, 100, Seen::default());
        (0..A_FEW).for_each(|_| assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Begins));
        assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Wait);
        begin.waited(now + 2 * WAIT, 1, Seen::default());
        assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Begins);
        assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Wait, "there is no room for more");
        assert_eq!(begin.begun(), AT_ONCE + A_FEW + 1);
    }

    #[test]
    fn those_that_are_not_answered_yet_are_taken_to_be_like_those_that_are() {
        for (what, room, answered, waiting, flowing, expected) in [
            ("nothing is known", 12, 0, 0, 0, A_FEW),
            ("nothing is known, and there is little room", 2, 0, 0, 0, 2),
            ("messages", 12, 10, 0, 0, A_FEW),
            ("one waits, and nothing is known of the others", 11, 1, 1, 0, 2),
            ("one of several waits", 11, 5, 1, 0, A_FEW),
            ("half of those that are answered wait", 7, 10, 5, 0, 7),
            ("all that are answered wait", 7, 5, 5, 0, 2),
            ("all wait", 2, 10, 10, 0, 2),
            ("all flow", 12, 10, 0, 10, 2),
            ("more flow than there is room for", 5, 10, 0, 10, 1),
        ] {
            let (mut begin, now) = with(10);
            begin.waited(now + WAIT, room, Seen { answered, waiting, flowing });
            let begins = || (begin.ask(now, now, 10, false, PATIENCE) == Begins).then_some(());
            assert_eq!(std::iter::from_fn(begins).count(), expected, "{what}");
        }
    }

    #[test]
    fn one_that_ends_makes_room() {
        let (mut begin, now) = with(AT_ONCE);
        begin.ends();
        assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Begins);
        assert_eq!(begin.ask(now, now, AT_ONCE, false, PATIENCE), Wait);
    }

    #[test]
    fn where_too_much_is_held_it_is_refused_when_nothing_is_taken_for_a_while() {
        let (mut begin, now) = with(1);
        assert_eq!(begin.ask(now, now, AT_ONCE, true, PATIENCE), Wait);
        begin.takes(now + PATIENCE / 2);
        assert_eq!(begin.ask(now + PATIENCE, now, AT_ONCE, true, PATIENCE), Wait, "something was taken");
        assert_eq!(
            begin.ask(now + 2 * PATIENCE, now + 2 * PATIENCE, AT_ONCE, true, PATIENCE),
            Wait,
            "it has only just come"
        );
        begin.sends(now + 2 * PATIENCE);
        assert_eq!(begin.ask(now + 2 * PATIENCE, now, AT_ONCE, true, PATIENCE), Wait, "it is sending");
        assert_eq!(begin.ask(now + 3 * PATIENCE, now, AT_ONCE, true, PATIENCE), Refuse);
        let (mut begin, now) = with(1);
        assert_eq!(begin.ask(now, now, AT_ONCE, true, Duration::ZERO), Refuse, "nobody waits");
    }

    #[test]
    fn what_refused_ones_leave_is_for_nobody_until_something_is_taken_or_ends() {
        for frees in [|begin: &mut Begin, now| begin.takes(now), |begin: &mut Begin, _| begin.ends()] {
            let (mut begin, now) = with(2);
            let later = now + PATIENCE;
            assert_eq!(begin.ask(later, now, AT_ONCE, true, PATIENCE), Refuse);
            assert_eq!(begin.ask(later, now, AT_ONCE, false, PATIENCE), Refuse);
            assert_eq!(begin.ask(later, later, AT_ONCE, false, PATIENCE), Wait);
            frees(&mut begin, later);
            assert_eq!(begin.ask(later, now, AT_ONCE, false, PATIENCE), Begins);
        }
    }

    #[test]
    fn where_none_has_begun_there_is_nothing_to_wait_for() {
        let (mut begin, now) = with(0);
        let later = now + PATIENCE;
        assert_eq!(begin.ask(later, now, AT_ONCE, true, PATIENCE), Refuse, "memory ran short");
        for _ in 0..AT_ONCE {
            assert_eq!(begin.ask(later, now, AT_ONCE, false, PATIENCE), Begins);
        }
    }
}
