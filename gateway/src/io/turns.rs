//! What costs much takes turns with its like: a step of a handshake costs up to a millisecond of computing, and a worker that has a thousand of
//! them to do would serve nobody else for a second; so does a client that sends frames or requests over HTTP/2 as fast as it can. Between two
//! steps everything else that is ready comes first.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// How long a handshake waits for its first turn. More of them than can be computed are shed, and not queued.
const PATIENCE: Duration = Duration::from_secs(1);

/// The turns of a worker for one kind of work.
#[derive(Debug)]
pub struct Turns {
    turn: Arc<Semaphore>,
    patience: Duration,
}

/// There was no turn in time.
#[derive(Debug, PartialEq, Eq)]
pub struct Shed;

impl Default for Turns {
    fn default() -> Self {
        Turns { turn: Arc::new(Semaphore::new(1)), patience: PATIENCE }
    }
}

/// Everything that is ready to run has run: what was, and what has come from the kernel since.
async fn everything_else() {
    behind_others().await;
    // The kernel is asked.
    tokio::task::yield_now().await;
    behind_others().await;
}

/// Goes to the end of the queue.
pub async fn behind_others() {
    let mut woken = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut woken, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for a turn.
pub type Next = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Turns {
    /// Waits for one step of something costly; the next turn is given when everything else that was ready has come.
    ///
    /// The turn belongs to a task of its own: whoever asked for it may have stopped to look, and others wait.
    pub fn next(&self) -> Next {
        let turn = self.turn.clone();
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let Ok(_turn) = turn.acquire_owned().await else { return };
            if tell.send(()).is_ok() {
                everything_else().await;
            }
        });
        Box::pin(async move {
            // Not told: the worker ends.
            let _ = told.await;
        })
    }

    /// Does something costly in turns.
    ///
    /// # Errors
    /// Too many others wait.
    pub async fn take<F: Future>(&self, costly: F) -> Result<F::Output, Shed> {
        let mut costly = pin!(costly);
        let Ok(Ok(mut turn)) = timeout(self.patience, self.turn.acquire()).await else { return Err(Shed) };
        loop {
            // What is ready comes before it, and before the next one's turn.
            everything_else().await;
            let mut held = Some(turn);
            let done = std::future::poll_fn(|cx| match held {
                Some(_) => match costly.as_mut().poll(cx) {
                    Poll::Ready(done) => Poll::Ready(Some(done)),
                    Poll::Pending => {
                        held = None;
                        Poll::Pending
                    }
                },
                // Woken: it goes on in its next turn.
                None => Poll::Ready(None),
            });
            if let Some(done) = done.await {
                return Ok(done);
            }
            turn = self.turn.acquire().await.map_err(|_| Shed)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn others_come_between_two_turns() {
        let turns = Arc::new(Turns::default());
        let others = Arc::new(AtomicUsize::new(0));
        let counting = others.clone();
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let costly: Vec<_> = (0..100)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(async { tokio::task::yield_now().await }).await })
            })
            .collect();
        for task in costly {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        other.abort();
        assert!(others.load(Ordering::Relaxed) >= 200, "{others:?}");
    }

    #[tokio::test]
    async fn steps_are_done_one_at_a_time_and_others_come_between() {
        let turns = Arc::new(Turns::default());
        let (others, steps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counting = others.clone();
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let costly: Vec<_> = (0..10)
            .map(|_| {
                let (turns, steps, others) = (turns.clone(), steps.clone(), others.clone());
                tokio::spawn(async move {
                    for _ in 0..10 {
                        turns.next().await;
                        steps.fetch_add(1, Ordering::Relaxed);
                        let (others, steps) = (others.load(Ordering::Relaxed), steps.load(Ordering::Relaxed));
                        assert!(others + 2 >= steps, "{others} {steps}");
                    }
                })
            })
            .collect();
        for task in costly {
            task.await.unwrap();
        }
        other.abort();
        assert_eq!(steps.load(Ordering::Relaxed), 100);
    }

    #[tokio::test]
    async fn who_does_not_take_its_turn_keeps_nobody_waiting() {
        let turns = Turns::default();
        let (mut first, mut second) = (turns.next(), turns.next());
        tokio::select! {
            biased;
            () = &mut second => panic!("it is the first one's turn"),
            () = &mut first => {}
        }
        // The second has looked once, and never does again.
        turns.next().await;
        assert_eq!(turns.take(async {}).await, Ok(()));
        drop(second);
    }

    #[tokio::test]
    async fn who_waits_too_long_for_the_first_turn_is_shed() {
        let turns = Turns { patience: Duration::from_millis(5), ..Turns::default() };
        let held = turns.turn.acquire().await.unwrap();
        assert_eq!(turns.take(async {}).await, Err(Shed));
        drop(held);
        // What waits for something else has no turn meanwhile, and is not shed.
        let slow = turns.take(async { tokio::time::sleep(4 * turns.patience).await });
        let (slow, quick) = tokio::join!(slow, turns.take(async {}));
        assert_eq!((slow, quick), (Ok(()), Ok(())));
    }
}
