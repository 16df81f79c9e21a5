//! How long a step of a connection goes on: one that has done so for long lets others come between two pieces of what it passes on.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long a step goes on with one piece of an answer after the other.
const LONG: Duration = Duration::from_micros(200);

thread_local! {
    /// When the step that goes on now began.
    pub(super) static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether the connection that is being served has been for long, and others should be.
pub fn is_long() -> bool {
    BEGUN.get().is_some_and(|begun| begun.elapsed() >= LONG)
}

/// Whoever reads one piece after the other, between which others come where a step is long.
#[derive(Debug, Default)]
pub struct Pace {
    /// A piece was read since others came.
    has_read: bool,
}

impl Pace {
    /// A piece was read.
    pub fn read(&mut self) {
        self.has_read = true;
    }

    /// Ready to read the next one; where the step is long, in the next step. That one reads a piece at least, however long it is by then: other
    /// work of the connection would keep it from reading at all.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_read && is_long() {
            self.has_read = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scheduled;
    use super::*;

    #[tokio::test]
    async fn a_step_knows_when_it_is_long() {
        assert!(!is_long(), "no step");
        let connection = async {
            assert!(!is_long());
            let begun = Instant::now();
            while !is_long() {
                assert!(begun.elapsed() < 1000 * LONG);
            }
        };
        Scheduled::first(connection).await;
        assert!(!is_long());
    }

    #[tokio::test]
    async fn others_come_between_two_pieces_of_a_long_step_and_each_step_reads_one() {
        for (work, pieces, expected) in [(true, 4, vec![1, 1, 1, 1]), (false, 4, vec![4])] {
            let (mut pace, mut steps, mut left) = (Pace::default(), vec![], pieces);
            let connection = std::future::poll_fn(|cx| {
                steps.push(0);
                // Something else that the connection does before it reads.
                while work && !is_long() {}
                while left > 0 {
                    std::task::ready!(pace.poll(cx));
                    pace.read();
                    left -= 1;
                    *steps.last_mut().unwrap() += 1;
                }
                Poll::Ready(())
            });
            Scheduled::first(connection).await;
            assert_eq!(steps, expected, "{work}");
        }
    }
}
