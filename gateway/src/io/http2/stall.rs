//! How long the client of a connection has taken nothing, while something waits for it.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Stall(Option<(u64, Instant)>);

impl Stall {
    /// Looks once more. `gone`: the bytes that the client has taken in all; `waits`: whether there are more for it.
    pub fn look(&mut self, gone: u64, waits: bool, now: Instant) -> Duration {
        match self.0 {
            Some((before, since)) if waits && before == gone => return now.saturating_duration_since(since),
            _ => self.0 = waits.then_some((gone, now)),
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_when_something_waits_and_ends_when_something_is_taken() {
        let (mut stall, begun) = (Stall::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let seconds = [
            (100, false, 0, 0),
            (100, false, 60, 0),
            (100, true, 61, 0),
            (100, true, 70, 9),
            (101, true, 71, 0),
            (101, true, 73, 2),
            (101, false, 74, 0),
            (101, true, 75, 0),
            (101, true, 76, 1),
        ];
        for (gone, waits, at, stalled) in seconds {
            assert_eq!(stall.look(gone, waits, after(at)), Duration::from_secs(stalled), "after {at} s");
        }
    }
}
