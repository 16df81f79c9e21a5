//! A worker's connections that wait for a request, the longest waiting first: where there is no room for a new one, that one goes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::observe::Closing;

/// See the module.
#[derive(Debug, Default)]
pub struct IdleConnections {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, (Instant, oneshot::Sender<Closing>)>,
}

/// A connection that waits, until this is dropped.
pub struct Idle<'a> {
    of: &'a IdleConnections,
    number: u64,
    told: oneshot::Receiver<Closing>,
}

impl IdleConnections {
    /// A connection begins to wait.
    pub fn enter(&self) -> Idle<'_> {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, (Instant::now(), tell));
        Idle { of: self, number, told }
    }

    /// Tells the connection that has waited longest to end; false: none waits.
    pub fn end_oldest(&self) -> bool {
        let oldest = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).by_age.pop_first();
        // Whoever no longer looks has just gone, and makes room as well.
        oldest.map(|(_, (_, tell))| tell.send(Closing::NoRoom)).is_some()
    }

    /// Tells those to end that have waited for so long.
    pub fn end_after(&self, limit: Duration) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(longest) = waiting.by_age.first_entry() {
            if longest.get().0.elapsed() < limit {
                return;
            }
            let _ = longest.remove().1.send(Closing::MemoryPressure);
        }
    }
}

impl Idle<'_> {
    /// Resolves when this connection has to end, once.
    pub async fn told_to_end(&mut self) -> Closing {
        match (&mut self.told).await {
            Ok(why) => why,
            // Nobody is left who would tell.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.of.waiting.lock().unwrap_or_else(PoisonError::into_inner).by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_waiting_goes_first_and_who_no_longer_waits_not_at_all() {
        let connections = IdleConnections::default();
        assert!(!connections.end_oldest());
        let (gone, mut first, mut second) = (connections.enter(), connections.enter(), connections.enter());
        drop(gone);
        assert!(connections.end_oldest());
        assert_eq!(first.told_to_end().await, Closing::NoRoom);
        drop(first);
        assert!(connections.end_oldest());
        assert_eq!(second.told_to_end().await, Closing::NoRoom);
        assert!(!connections.end_oldest());
        drop(second);
        let mut third = connections.enter();
        connections.end_after(Duration::from_secs(60));
        assert_eq!(connections.waiting.lock().unwrap().by_age.len(), 1, "it has not waited for so long");
        connections.end_after(Duration::ZERO);
        assert_eq!(third.told_to_end().await, Closing::MemoryPressure);
    }
}
