//! How many connections there are, and whose. A connection is admitted before anything is read of it, and before TLS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::timeout;

use crate::observe::cells::Rejection;
use crate::settings::Settings;

/// Descriptors that are not for clients and their requests: listeners, logs, the controller, DNS, the admin pages.
const RESERVED: u64 = 256;

/// Memory that is taken for what a connection needs, on average. Idle ones need less (docs/benchmarks.md).
const MEMORY_EACH: u64 = 24 * 1024;

/// Descriptors that are for clients and their requests.
pub fn descriptors(open_files: u64, idle_upstream: u64) -> u64 {
    open_files.saturating_sub(RESERVED + idle_upstream)
}

/// The default for the most connections: each may need one of so many descriptors for an endpoint as well, and all of them half of the memory.
pub fn default_limit(descriptors: u64, memory: Option<u64>) -> usize {
    let by_files = descriptors / 2;
    let by_memory = memory.map_or(u64::MAX, |bytes| bytes / 2 / MEMORY_EACH);
    usize::try_from(by_files.min(by_memory)).unwrap_or(usize::MAX).clamp(16, 1_000_000)
}

/// Where a client is: one subscriber has a /56 of IPv6 (RFC 6177), and may be many behind an address of IPv4.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 72))),
    }
}

/// Counts connections.
#[derive(Debug)]
pub struct Admission {
    open: AtomicUsize,
    limit: usize,
    /// Most of one network; 0: however many.
    limit_each: usize,
    networks: Mutex<HashMap<IpAddr, usize>>,
    /// New ones a second.
    rate: Option<DefaultDirectRateLimiter>,
    /// Of those over TLS.
    handshakes: Option<DefaultDirectRateLimiter>,
}

/// How long a handshake waits where there are too many of them.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many a second, of which as many may come at once; `None`: however many.
fn per_second(count: u32) -> Option<DefaultDirectRateLimiter> {
    Some(RateLimiter::direct(Quota::per_second(NonZeroU32::new(count)?)))
}

/// A connection that was admitted; it is counted until this is dropped, also when its task panics.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    network: Option<IpAddr>,
}

impl Admission {
    /// By the settings; `limit`: most connections in all.
    pub fn new(settings: &Settings, limit: usize) -> Self {
        let limit_each = settings.limits.connections_per_network;
        Admission {
            open: AtomicUsize::new(0),
            limit,
            limit_each,
            networks: Mutex::default(),
            rate: per_second(settings.limits.new_connections),
            handshakes: per_second(settings.limits.handshakes),
        }
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Admits a connection; `trusted`: of a proxy of ours, which speaks for many. Where there is no room, `makes_room` is asked.
    ///
    /// # Errors
    /// Its network has too many, or there is no room.
    pub fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        trusted: bool,
        makes_room: impl FnOnce() -> bool,
    ) -> Result<Admitted, Rejection> {
        let network = self.enter(peer, trusted)?;
        let has_room = self.open.fetch_add(1, Ordering::SeqCst) < self.limit;
        // Counted from here on, and no more if it is dropped.
        let admitted = Admitted { admission: self.clone(), network };
        // Behind the network's own limit: who is over that takes nothing of what is everybody's.
        if self.rate.as_ref().is_some_and(|rate| rate.check().is_err()) {
            return Err(Rejection::TooManyNewConnections);
        }
        if has_room || makes_room() { Ok(admitted) } else { Err(Rejection::TooManyConnections) }
    }
}

impl Admission {
    /// Counts a connection in its network; `None`: it is not counted there.
    fn enter(&self, peer: IpAddr, trusted: bool) -> Result<Option<IpAddr>, Rejection> {
        if self.limit_each == 0 || trusted {
            return Ok(None);
        }
        let network = network(peer);
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let count = networks.entry(network).or_default();
        if *count >= self.limit_each {
            return Err(Rejection::TooManyOfNetwork);
        }
        *count += 1;
        Ok(Some(network))
    }
}

impl Admitted {
    /// Waits until its handshake may be made; false: there are too many.
    pub async fn may_shake_hands(&self) -> bool {
        match &self.admission.handshakes {
            Some(rate) => timeout(PATIENCE, rate.until_ready()).await.is_ok(),
            None => true,
        }
    }

    /// The connection, which a trusted proxy made, is a client's, who is counted in its own network.
    ///
    /// # Errors
    /// That has too many.
    pub fn is_of(&mut self, client: IpAddr, trusted: bool) -> Result<(), Rejection> {
        self.network = self.admission.enter(client, trusted)?;
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::SeqCst);
        let Some(network) = self.network else { return };
        let mut networks = self.admission.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                networks.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_leaves_descriptors_and_memory_for_everything_else() {
        assert_eq!(default_limit(descriptors(65_536, 1024), None), (65_536 - 256 - 1024) / 2);
        assert_eq!(default_limit(descriptors(1 << 20, 1024), Some(512 << 20)), 10_922);
        assert_eq!(default_limit(descriptors(64, 1024), None), 16, "a machine that has nothing serves a little");
    }

    #[test]
    fn a_network_has_its_share_and_gives_it_back() {
        let mut settings = Settings::default();
        settings.limits.connections_per_network = 1;
        let admission = Arc::new(Admission::new(&settings, 8));
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = admission.admit(peer("2001:db8:0:1ff::1"), false, || false).unwrap();
        assert_eq!(
            admission.admit(peer("2001:db8:0:100::2"), false, || false).unwrap_err(),
            Rejection::TooManyOfNetwork
        );
        let others =
            ["2001:db8:0:200::1", "192.0.2.1", "192.0.2.2"].map(|text| admission.admit(peer(text), false, || false));
        assert!(others.iter().all(Result::is_ok));
        let trusted = [0, 1].map(|_| admission.admit(peer("198.51.100.1"), true, || false));
        assert!(trusted.iter().all(Result::is_ok));
        assert_eq!(admission.open(), 6);
        drop(first);
        assert!(admission.admit(peer("2001:db8:0:100::2"), false, || false).is_ok());
        let mut proxied = admission.admit(peer("198.51.100.1"), true, || false).unwrap();
        assert_eq!(proxied.is_of(peer("192.0.2.1"), false), Err(Rejection::TooManyOfNetwork));
        assert_eq!(proxied.is_of(peer("192.0.2.3"), false), Ok(()));
        drop((others, trusted, proxied));
        assert_eq!((admission.open(), admission.networks.lock().unwrap().len()), (0, 0));
    }
}
