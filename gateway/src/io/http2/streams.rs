//! The streams of a connection that are served: how many, and what their requests hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use tokio::sync::watch;

/// Most bytes that the requests of one connection may hold at a time. A client that sends the largest heads on every stream, and takes no
/// answer, gets no further.
pub const BUDGET: usize = 1024 * 1024;

/// The same for a trusted proxy.
pub const TRUSTED_BUDGET: usize = 8 * BUDGET;

/// What a stream costs besides its head.
const EACH: usize = 2 * 1024;

/// How often a head is held while it is forwarded, as `measure connections` finds: as it came, as it goes, and what holds both.
const TIMES: usize = 3;

/// Bytes that a field costs besides its name and value (RFC 9113, 6.5.2).
const FIELD: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Streams {
    count: AtomicUsize,
    held: AtomicUsize,
    budget: usize,
    ended: watch::Sender<()>,
}

/// A stream that is served, until this is dropped, also when its task panics.
#[derive(Debug)]
pub struct Served {
    of: Arc<Streams>,
    cost: usize,
}

impl Streams {
    /// None yet; what is received is told when one ends. `trusted`: the connection is a proxy's of ours, and carries many clients.
    pub fn new(trusted: bool) -> (Arc<Streams>, watch::Receiver<()>) {
        let (ended, receiver) = watch::channel(());
        let budget = if trusted { TRUSTED_BUDGET } else { BUDGET };
        (Arc::new(Streams { count: AtomicUsize::new(0), held: AtomicUsize::new(0), budget, ended }), receiver)
    }

    /// Whether none is served.
    pub fn is_idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Serves one with these fields; `None`: the connection's requests hold too much already.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, target: usize) -> Option<Served> {
        let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let cost = EACH + TIMES * (fields + target);
        if self.held.fetch_add(cost, Ordering::Relaxed) + cost > self.budget {
            self.held.fetch_sub(cost, Ordering::Relaxed);
            return None;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(Served { of: self.clone(), cost })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.cost, Ordering::Relaxed);
        self.of.count.fetch_sub(1, Ordering::Relaxed);
        self.of.ended.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn head(bytes: usize) -> HeaderMap {
        let value = HeaderValue::from_str(&"x".repeat(bytes)).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static("x"), value)])
    }

    #[test]
    fn a_hundred_usual_requests_fit_and_a_few_of_the_largest() {
        let (streams, _ended) = Streams::new(false);
        let usual: Vec<_> = (0..100).map(|_| streams.begin(&head(2_000), 100)).collect();
        assert!(usual.iter().all(Option::is_some));
        drop(usual);
        assert!(streams.is_idle());
        let largest: Vec<_> = (0..100).filter_map(|_| streams.begin(&head(32 * 1024), 100)).collect();
        assert!((10..20).contains(&largest.len()), "{}", largest.len());
        drop(largest);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }
}
