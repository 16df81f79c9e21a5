//! A worker's connections that wait for a request, the longest waiting first: where there is no room for a new one, that one goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct IdleConnections {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// A connection that waits, until this is dropped.
pub struct Idle<'a> {
    of: &'a IdleConnections,
    number: u64,
    told: Arc<Notify>,
}

impl IdleConnections {
    /// A connection begins to wait.
    pub fn enter(&self) -> Idle<'_> {
        let told = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, (Instant::now(), told.clone()));
        Idle { of: self, number, told }
    }

    /// Tells the connection that has waited longest to end; false: none waits.
    pub fn end_oldest(&self) -> bool {
        let oldest = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).by_age.pop_first();
        oldest.inspect(|(_, (_, told))| told.notify_one()).is_some()
    }

    /// Tells those to end that have waited for so long.
    pub fn end_after(&self, limit: Duration) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(longest) = waiting.by_age.first_entry() {
            if longest.get().0.elapsed() < limit {
                return;
            }
            longest.remove().1.notify_one();
        }
    }
}

impl Idle<'_> {
    /// Resolves when this connection has to end.
    pub async fn told_to_end(&self) {
        self.told.notified().await;
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
        let (gone, first, second) = (connections.enter(), connections.enter(), connections.enter());
        drop(gone);
        assert!(connections.end_oldest());
        first.told_to_end().await;
        drop(first);
        assert!(connections.end_oldest());
        second.told_to_end().await;
        assert!(!connections.end_oldest());
        drop(second);
        let third = connections.enter();
        connections.end_after(Duration::from_secs(60));
        assert_eq!(connections.waiting.lock().unwrap().by_age.len(), 1, "it has not waited for so long");
        connections.end_after(Duration::ZERO);
        third.told_to_end().await;
    }
}
