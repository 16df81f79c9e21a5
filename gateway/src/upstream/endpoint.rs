//! What the gateway knows about one endpoint and one backend. Atomics only: workers and the prober share them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Connect failures in a row that eject an endpoint.
pub const EJECT_AFTER: u32 = 3;

/// First ejection, in milliseconds; each further one is longer by as much, up to [`MAX_EJECTION_MS`].
pub const EJECTION_MS: u64 = 10_000;

/// Longest ejection, in milliseconds.
pub const MAX_EJECTION_MS: u64 = 300_000;

/// State of a backend as a whole.
#[derive(Debug, Default)]
pub struct BackendState {
    /// Round-robin position, shared by all workers so that requests spread evenly whichever worker takes them.
    pub cursor: AtomicUsize,
    /// Requests on their way.
    pub in_flight: AtomicI64,
}

/// State of one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    /// Its address.
    pub address: SocketAddr,
    /// Requests on their way.
    pub in_flight: AtomicI64,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds of [`crate::clock`] until which it is ejected; 0: it is not.
    ejected_until: AtomicU64,
    probe_good: AtomicU32,
    probe_bad: AtomicU32,
    /// What the active check says.
    probe_healthy: AtomicBool,
}

impl EndpointState {
    /// A healthy endpoint.
    pub fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(EndpointState {
            address,
            in_flight: AtomicI64::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            probe_good: AtomicU32::new(0),
            probe_bad: AtomicU32::new(0),
            probe_healthy: AtomicBool::new(true),
        })
    }

    /// Whether requests should go there, at `now` (milliseconds of [`crate::clock`]).
    pub fn is_healthy(&self, now: u64) -> bool {
        self.probe_healthy.load(Ordering::Relaxed) && !self.is_ejected(now)
    }

    /// Whether connect failures keep it out of rotation.
    pub fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// A connection was made.
    pub fn connected(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// A connection could not be made. Returns whether that is one too many: the caller decides whether the endpoint may
    /// be ejected ([`EndpointState::eject`]), since it knows how many others there are.
    pub fn connect_failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= EJECT_AFTER
    }

    /// Takes it out of rotation; returns for how many milliseconds. When the time is over one failure more ejects it
    /// again, for longer.
    pub fn eject(&self, now: u64) -> u64 {
        let times = u64::from(self.ejections.fetch_add(1, Ordering::Relaxed)) + 1;
        let duration = (EJECTION_MS * times).min(MAX_EJECTION_MS);
        self.ejected_until.store(now + duration, Ordering::Relaxed);
        self.failures.store(EJECT_AFTER - 1, Ordering::Relaxed);
        duration
    }

    /// Takes an active check's answer over. Returns the new health where it changed.
    pub fn probed(&self, good: bool, healthy_after: u8, unhealthy_after: u8) -> Option<bool> {
        let (count, other, needed) = match good {
            true => (&self.probe_good, &self.probe_bad, healthy_after),
            false => (&self.probe_bad, &self.probe_good, unhealthy_after),
        };
        other.store(0, Ordering::Relaxed);
        let in_row = count.fetch_add(1, Ordering::Relaxed) + 1;
        let changes = in_row >= u32::from(needed) && self.probe_healthy.load(Ordering::Relaxed) != good;
        if changes {
            self.probe_healthy.store(good, Ordering::Relaxed);
        }
        changes.then_some(good)
    }

    /// Another check begins: what was counted for the one before does not count for it.
    pub fn probed_anew(&self) {
        self.probe_good.store(0, Ordering::Relaxed);
        self.probe_bad.store(0, Ordering::Relaxed);
    }

    /// Forgets what active checks said: the backend is no longer checked.
    pub fn unprobed(&self) {
        self.probed_anew();
        self.probe_healthy.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<EndpointState> {
        EndpointState::new(SocketAddr::from(([127, 0, 0, 1], 80)))
    }

    #[test]
    fn three_failures_in_a_row_are_one_too_many() {
        let endpoint = endpoint();
        assert!(!endpoint.connect_failed());
        assert!(!endpoint.connect_failed());
        endpoint.connected();
        assert!(!endpoint.connect_failed());
        assert!(!endpoint.connect_failed());
        assert!(endpoint.connect_failed());
    }

    #[test]
    fn an_ejection_ends_by_itself_and_the_next_one_is_longer() {
        let endpoint = endpoint();
        assert_eq!(endpoint.eject(1_000), EJECTION_MS);
        assert!(!endpoint.is_healthy(1_000 + EJECTION_MS - 1));
        assert!(endpoint.is_healthy(1_000 + EJECTION_MS));
        assert!(endpoint.connect_failed(), "one failure is enough after the return");
        assert_eq!(endpoint.eject(50_000), 2 * EJECTION_MS);
        endpoint.connected();
        assert_eq!(endpoint.eject(90_000), EJECTION_MS, "a success forgives");
        for _ in 0..50 {
            assert!(endpoint.eject(0) <= MAX_EJECTION_MS);
        }
    }

    #[test]
    fn active_checks_need_their_thresholds() {
        let endpoint = endpoint();
        assert_eq!(endpoint.probed(false, 2, 2), None);
        assert_eq!(endpoint.probed(true, 2, 2), None);
        assert_eq!(endpoint.probed(false, 2, 2), None);
        assert_eq!(endpoint.probed(false, 2, 2), Some(false));
        assert!(!endpoint.is_healthy(0));
        assert_eq!(endpoint.probed(true, 2, 2), None);
        assert_eq!(endpoint.probed(true, 2, 2), Some(true));
        assert!(endpoint.is_healthy(0));
    }
}
