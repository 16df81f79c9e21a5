//! How late a worker is: how long somebody who is ready waits until it has its turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::turns::everything_else;
use crate::observe::Cells;

/// How often that is measured.
const EVERY: Duration = Duration::from_millis(100);

/// What a timer is late by itself: it counts milliseconds, and so does the kernel.
const TIMER: Duration = Duration::from_millis(2);

/// Measures a worker for as long as it lives.
pub async fn measure(cells: Arc<Cells>) {
    loop {
        let due = Instant::now() + EVERY;
        sleep_until(due).await;
        let waited = due.elapsed().saturating_sub(TIMER);
        let ready = Instant::now();
        everything_else().await;
        cells.late(waited + ready.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::cells::BUCKETS;

    /// How often a worker was late by more than `bound`.
    fn above(cells: &Cells, bound: f64) -> u64 {
        let lags = cells.lags();
        BUCKETS.iter().zip(lags.buckets).filter(|(most, _)| **most > bound).map(|(_, count)| count).sum()
    }

    #[tokio::test]
    async fn a_worker_that_does_something_for_long_is_late() {
        let cells = Arc::new(Cells::default());
        let measuring = tokio::spawn(measure(cells.clone()));
        while cells.lags().buckets.iter().sum::<u64>() == 0 {
            tokio::task::yield_now().await;
        }
        let (before, begun) = (above(&cells, 0.05), Instant::now());
        while begun.elapsed() < 3 * EVERY {}
        while above(&cells, 0.05) == before {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
        measuring.abort();
    }
}
