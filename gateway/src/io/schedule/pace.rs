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

/// How many pieces each step of a connection reads, where each has gone on for long before it reads one. `read`: one of them; false: it was the last.
#[cfg(test)]
pub async fn pieces_of_long_steps(mut read: impl FnMut(&mut Context<'_>) -> Poll<bool>) -> Vec<usize> {
    let mut steps = vec![];
    let connection = std::future::poll_fn(|cx| {
        steps.push(0);
        assert!(steps.len() < 1000, "it does not go on and on");
        while !is_long() {}
        loop {
            let more = std::task::ready!(read(cx));
            *steps.last_mut().unwrap() += 1;
            if !more {
                return Poll::Ready(());
            }
        }
    });
    super::Scheduled::first(connection).await;
    steps
}

#[cfg(test)]
mod tests {
    use super::super::Scheduled;
    use super::*;

    /// Reads four pieces.
    fn four() -> impl FnMut(&mut Context<'_>) -> Poll<bool> {
        let (mut pace, mut left) = (Pace::default(), 4);
        move |cx| {
            std::task::ready!(pace.poll(cx));
            pace.read();
            left -= 1;
            Poll::Ready(left > 0)
        }
    }

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
        assert_eq!(pieces_of_long_steps(four()).await, [1, 1, 1, 1]);
        let (mut read, mut steps) = (four(), 0);
        std::future::poll_fn(|cx| {
            steps += 1;
            while std::task::ready!(read(cx)) {}
            Poll::Ready(())
        })
        .await;
        assert_eq!(steps, 1, "in no step, and so in none that is long");
    }
}
