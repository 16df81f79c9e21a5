//! What all requests together may keep of their bodies. Over HTTP/1 the engine keeps the first 64 KiB of each, to send them once more where
//! an endpoint fails: of a body that does not come to its end, for as long as its client likes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Bytes of a body that are kept, at most; of a longer one nothing is kept any more.
pub const KEPT: usize = 64 * 1024;

/// Bytes of a body that need no place.
pub const FREE: usize = 4 * 1024;

/// What a body is counted with that is longer than what is kept: a piece waits for the client, and one for the endpoint.
pub const LONG: usize = 32 * 1024;

/// The part of the memory that bodies may take.
pub const PART: u64 = 8;

/// How long a body waits for a place: others are looked at every 5 s, and have as long to go on.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is counted.
const UNIT: usize = 1024;

/// The room that there is.
#[derive(Debug)]
pub struct Bodies {
    free: Arc<Semaphore>,
    units: usize,
    waiting: AtomicUsize,
}

impl Bodies {
    /// Of a process with so many bytes.
    pub fn new(memory: u64) -> Self {
        let units = usize::try_from(memory / PART).unwrap_or(usize::MAX) / UNIT;
        // One at least has to fit.
        let units = units.clamp(KEPT / UNIT, Semaphore::MAX_PERMITS);
        Bodies { free: Arc::new(Semaphore::new(units)), units, waiting: AtomicUsize::new(0) }
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> u64 {
        (self.units.saturating_sub(self.free.available_permits()) * UNIT) as u64
    }

    /// Whether bodies wait for what others hold.
    pub fn are_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.min(KEPT).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// A request's place among them.
#[derive(Default)]
pub struct Place {
    taken: Option<OwnedSemaphorePermit>,
    waits: Option<Waits>,
}

/// It waits for one.
struct Waits {
    of: Arc<Bodies>,
    permit: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send + Sync>>,
    patience: Pin<Box<Sleep>>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.of.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Place {
    /// Whether it has one.
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    fn take(&mut self, bytes: usize, of: &Bodies) -> bool {
        self.taken = of.free.clone().try_acquire_many_owned(units(bytes)).ok();
        self.is_taken()
    }

    /// Waits for one for so many bytes, behind those that came before; ready with false when that has lasted too long. `is_short`: memory is,
    /// and nobody waits.
    pub fn poll(&mut self, bytes: usize, of: &Arc<Bodies>, is_short: bool, cx: &mut Context<'_>) -> Poll<bool> {
        if self.is_taken() || (self.waits.is_none() && self.take(bytes, of)) {
            return Poll::Ready(true);
        }
        if is_short {
            self.waits = None;
            return Poll::Ready(false);
        }
        let waits = self.waits.get_or_insert_with(|| {
            of.waiting.fetch_add(1, Ordering::Relaxed);
            let permit = of.free.clone().acquire_many_owned(units(bytes));
            Waits {
                of: of.clone(),
                permit: Box::pin(async { permit.await.ok() }),
                patience: Box::pin(tokio::time::sleep(PATIENCE)),
            }
        });
        let has_come = match waits.permit.as_mut().poll(cx) {
            Poll::Ready(permit) => {
                self.taken = permit;
                self.is_taken()
            }
            Poll::Pending if waits.patience.as_mut().poll(cx).is_ready() => false,
            Poll::Pending => return Poll::Pending,
        };
        self.waits = None;
        Poll::Ready(has_come)
    }

    /// Leaves to others what is more than so many bytes.
    pub fn keep(&mut self, bytes: usize) {
        let Some(taken) = &mut self.taken else { return };
        let more = taken.num_permits().saturating_sub(units(bytes) as usize);
        drop(taken.split(more));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Room for two bodies.
    fn bodies() -> Arc<Bodies> {
        Arc::new(Bodies::new(2 * KEPT as u64 * PART))
    }

    fn room(bodies: &Bodies) -> usize {
        2 * KEPT - usize::try_from(bodies.taken()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_in_turn_and_not_for_ever() {
        let bodies = bodies();
        let [mut large, mut small, mut next, mut last] = [(); 4].map(|()| Place::default());
        assert!(large.take(10 * KEPT, &bodies) && small.take(FREE + 1, &bodies));
        assert_eq!(room(&bodies), KEPT - FREE - UNIT);
        assert!(!next.take(KEPT, &bodies));
        let wait = async |place: &mut Place, bytes| poll_fn(|cx| place.poll(bytes, &bodies, false, cx)).await;
        let begun = tokio::time::Instant::now();
        tokio::join!(
            async { assert!(!wait(&mut next, KEPT).await, "nobody leaves") },
            async { assert!(wait(&mut last, UNIT).await, "it fits once the one before has gone") },
            async {
                tokio::time::sleep(PATIENCE / 2).await;
                assert!(bodies.are_waiting());
            }
        );
        assert_eq!(begun.elapsed(), PATIENCE);
        assert!(!bodies.are_waiting());
        drop(large);
        assert!(wait(&mut next, KEPT).await);
        drop((small, next, last));
        assert_eq!(room(&bodies), 2 * KEPT);
    }

    #[tokio::test]
    async fn who_goes_while_waiting_holds_nobody_up() {
        let bodies = bodies();
        let mut places = [(); 3].map(|()| Place::default());
        for (place, fits) in places.iter_mut().zip([true, true, false]) {
            let polled = poll_fn(|cx| Poll::Ready(place.poll(KEPT, &bodies, false, cx))).await;
            assert_eq!(polled.is_ready(), fits);
        }
        let while_short = poll_fn(|cx| places[2].poll(KEPT, &bodies, true, cx)).await;
        assert!(!while_short && !bodies.are_waiting());
        assert!(poll_fn(|cx| places[0].poll(KEPT, &bodies, true, cx)).await, "it has one");
        let [first, second, third] = places;
        drop(third);
        assert!(!bodies.are_waiting());
        drop((first, second));
        assert_eq!(room(&bodies), 2 * KEPT);
    }

    #[test]
    fn a_long_body_leaves_what_is_not_kept() {
        let bodies = bodies();
        let mut place = Place::default();
        place.keep(1);
        assert!(place.take(usize::MAX, &bodies));
        place.keep(LONG);
        place.keep(2 * LONG);
        assert_eq!(room(&bodies), 2 * KEPT - LONG);
    }

    #[test]
    fn one_fits_where_there_is_hardly_any_memory() {
        assert!(Place::default().take(KEPT, &Bodies::new(1)));
        assert!(Place::default().take(KEPT, &Bodies::new(u64::MAX)));
    }
}
