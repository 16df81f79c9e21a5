//! Honest traffic in turns of a second, of which the quietest are judged: those in which the machine itself stood still least ([`Watch`]). Beside an
//! attack and without one the same is done, and how requests went in a turn never tells whether it is judged. Whether they were answered
//! counts in all turns.

use std::time::Duration;

use super::honest::{self, Outcome};
use super::scaled;
use super::watch::Watch;
use crate::harness::Gateway;

/// How long one takes.
const TURN: Duration = Duration::from_secs(1);

/// Where no CPU lost more of a turn, what is slower than 99 of 100 requests is so for another reason.
const QUIET: Duration = Duration::from_millis(3);

/// How many are judged.
fn count() -> usize {
    scaled(2, 20)
}

/// Requests a second of honest clients.
fn rate() -> u32 {
    scaled(100, 2_000)
}

struct Turn {
    lost: Duration,
    outcome: Outcome,
}

/// What became of honest traffic.
pub struct Turns {
    made: Vec<Turn>,
    /// So many are made at most.
    most: usize,
}

impl Turns {
    /// None yet. `judged`: their times are, and until there are enough quiet ones up to ten times as many are made.
    pub fn new(judged: bool) -> Turns {
        let times = if judged { scaled(1, 10) } else { 1 };
        Turns { made: Vec::new(), most: times * count() }
    }

    /// One more.
    pub fn make(&mut self, gateway: &Gateway) {
        let watch = Watch::start();
        let outcome = honest::traffic(gateway, rate(), TURN);
        self.made.push(Turn { lost: watch.lost(), outcome });
    }

    /// As many as are needed for one part in `parts` of all.
    pub fn make_part(&mut self, gateway: &Gateway, parts: usize) {
        let (made, quiet) = (self.made.len() + self.most / parts, self.quiet() + count() / parts);
        while self.made.len() < made && self.quiet() < quiet {
            self.make(gateway);
        }
    }

    fn quiet(&self) -> usize {
        self.made.iter().filter(|turn| turn.lost <= QUIET).count()
    }

    /// Whether no more are needed, or may be made.
    pub fn are_enough(&self) -> bool {
        self.quiet() >= count() || self.made.len() >= self.most
    }

    /// What became of all requests.
    pub fn all(&self) -> Outcome {
        Outcome::of(self.made.iter().map(|turn| &turn.outcome))
    }

    /// The quietest ones, and the most that a CPU lost of one of them.
    pub fn judged(&self) -> (Outcome, Duration) {
        let mut turns: Vec<&Turn> = self.made.iter().collect();
        turns.sort_by_key(|turn| turn.lost);
        turns.truncate(count());
        let lost = turns.last().map_or(Duration::ZERO, |turn| turn.lost);
        (Outcome::of(turns.into_iter().map(|turn| &turn.outcome)), lost)
    }

    /// What is judged, and of what it was chosen.
    pub fn spread(&self) -> String {
        let (outcome, lost) = self.judged();
        let lost = lost.as_secs_f64() * 1e3;
        format!(
            "{} ({} of {} turns, {lost:.1} ms lost)",
            outcome.spread(),
            count().min(self.made.len()),
            self.made.len()
        )
    }
}
