//! Which endpoint a request goes to: round robin over the healthy ones that it has not tried yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::EndpointState;

/// Endpoints that one request is not to be sent to again.
pub type Tried = Vec<std::net::SocketAddr>;

/// Endpoints that may fail to connect before a request is answered with 502.
pub const MAX_TRIES: usize = 3;

/// Picks an endpoint. Unhealthy ones are left aside, unless no healthy one is left: then all that were not tried are
/// used, since a wrong opinion about health must not become an outage. `None`: all were tried, or there is none.
///
/// Costs O(endpoints); allocates nothing.
pub fn round_robin<'a>(
    endpoints: &'a [Arc<EndpointState>],
    cursor: &AtomicUsize,
    tried: &Tried,
    now: u64,
) -> Option<&'a Arc<EndpointState>> {
    let untried = |endpoint: &&Arc<EndpointState>| !tried.contains(&endpoint.address);
    let healthy = |endpoint: &&Arc<EndpointState>| untried(endpoint) && endpoint.is_healthy(now);
    nth(endpoints, cursor, healthy).or_else(|| nth(endpoints, cursor, untried))
}

fn nth<'a>(
    endpoints: &'a [Arc<EndpointState>],
    cursor: &AtomicUsize,
    usable: impl Fn(&&Arc<EndpointState>) -> bool,
) -> Option<&'a Arc<EndpointState>> {
    let count = endpoints.iter().filter(&usable).count();
    if count == 0 {
        return None;
    }
    let turn = cursor.fetch_add(1, Ordering::Relaxed) % count;
    endpoints.iter().filter(&usable).nth(turn)
}

/// Whether one more endpoint may be ejected: at least half of them, and always one, stay in rotation.
pub fn may_eject(endpoints: &[Arc<EndpointState>], now: u64) -> bool {
    let healthy = endpoints.iter().filter(|endpoint| endpoint.is_healthy(now)).count();
    healthy > endpoints.len().div_ceil(2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u8) -> Vec<Arc<EndpointState>> {
        (0..count).map(|index| EndpointState::new(([10, 0, 0, index], 80).into())).collect()
    }

    fn spread(endpoints: &[Arc<EndpointState>], cursor: &AtomicUsize, requests: usize) -> Vec<usize> {
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..requests {
            let picked = round_robin(endpoints, cursor, &Vec::new(), 0).unwrap();
            counts[endpoints.iter().position(|endpoint| Arc::ptr_eq(endpoint, picked)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn requests_spread_evenly_over_changing_sets() {
        let cursor = AtomicUsize::new(7);
        assert_eq!(spread(&endpoints(3), &cursor, 30), [10, 10, 10]);
        assert_eq!(spread(&endpoints(4), &cursor, 40), [10, 10, 10, 10]);
        assert_eq!(spread(&endpoints(1), &cursor, 5), [5]);
    }

    #[test]
    fn the_share_of_an_unhealthy_endpoint_is_spread_over_all_others() {
        let endpoints = endpoints(3);
        endpoints[1].eject(0);
        assert_eq!(spread(&endpoints, &AtomicUsize::new(0), 30), [15, 0, 15]);
    }

    #[test]
    fn with_no_healthy_endpoint_all_are_used() {
        let endpoints = endpoints(2);
        for endpoint in &endpoints {
            endpoint.eject(0);
        }
        assert_eq!(spread(&endpoints, &AtomicUsize::new(0), 10), [5, 5]);
    }

    #[test]
    fn a_tried_endpoint_is_not_tried_again() {
        let endpoints = endpoints(2);
        let cursor = AtomicUsize::new(0);
        let mut tried = vec![endpoints[0].address];
        assert_eq!(round_robin(&endpoints, &cursor, &tried, 0).unwrap().address, endpoints[1].address);
        tried.push(endpoints[1].address);
        assert!(round_robin(&endpoints, &cursor, &tried, 0).is_none());
    }

    #[test]
    fn the_last_half_is_never_ejected() {
        for (count, ejectable) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
            let endpoints = endpoints(count);
            let mut ejected = 0;
            for endpoint in &endpoints {
                if may_eject(&endpoints, 0) {
                    endpoint.eject(0);
                    ejected += 1;
                }
            }
            assert_eq!(ejected, ejectable, "of {count}");
        }
    }
}
