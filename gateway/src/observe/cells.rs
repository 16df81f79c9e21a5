//! Metric cells: each worker counts into its own, a scrape sums them. No counter is shared between workers.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;

use super::closing::Closing;
use crate::phase::{Reason, Scheme};

/// Upper bounds of the duration buckets, in seconds.
pub const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Most different label sets that one worker keeps. Classes come from objects, so this bounds a cluster with thousands of
/// classes (or routes, with `metricsPerRoute`), not clients: these cannot make labels.
const MAX_SERIES: usize = 20_000;

/// A duration histogram.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Observations per bucket of [`BUCKETS`]; the last one is above all bounds.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Sum in seconds.
    pub sum: f64,
}

impl Histogram {
    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let index = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[index] += 1;
        self.sum += seconds;
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(bucket, more)| *bucket += more);
        self.sum += other.sum;
    }
}

/// Methods that have a label of their own; every other one is `OTHER`.
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "OTHER"];

/// Labels of a request. All sets are closed but the class and the route, which come from objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestLabels {
    /// IngressClass of the route; empty without one.
    pub class: Arc<str>,
    /// Ingress of the route, where `metricsPerRoute` is on; else empty.
    pub route: Arc<str>,
    /// Index into [`METHODS`].
    pub method: u8,
    /// First digit of the status; 0: none was sent.
    pub status_class: u8,
    /// Why.
    pub reason: Reason,
}

impl RequestLabels {
    /// Labels of a request that was refused before anything of it was known.
    pub fn unrouted(status: u16, reason: Reason) -> Self {
        let (class, route) = (Arc::from(""), Arc::from(""));
        RequestLabels { class, route, method: (METHODS.len() - 1) as u8, status_class: (status / 100) as u8, reason }
    }

    /// The index of a method.
    pub fn method_index(method: &Method) -> u8 {
        let index = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        index as u8
    }
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// A new session.
    Full,
    /// A resumed one.
    Resumed,
    /// It failed.
    Failed,
    /// It took too long.
    TimedOut,
}

impl Handshake {
    /// All, in the order of [`Cells::handshakes`].
    pub const ALL: [(Handshake, &'static str); 4] = [
        (Handshake::Full, "full"),
        (Handshake::Resumed, "resumed"),
        (Handshake::Failed, "failed"),
        (Handshake::TimedOut, "timeout"),
    ];
}

#[derive(Debug, Default)]
struct Tables {
    requests: HashMap<RequestLabels, u64>,
    durations: HashMap<Arc<str>, Histogram>,
    connects: Histogram,
    lags: Histogram,
    passed_through: HashMap<Reason, u64>,
}

/// The cells of one worker.
#[derive(Debug, Default)]
pub struct Cells {
    /// Locked by the worker for some tens of nanoseconds a request, and by a scrape.
    tables: Mutex<Tables>,
    /// Open connections, plain and TLS.
    pub connections: [AtomicI64; 2],
    /// Accepted connections, plain and TLS.
    pub accepted: [AtomicU64; 2],
    /// Handshakes by [`Handshake`].
    pub handshakes: [AtomicU64; 4],
    /// Requests sent to another endpoint after a connection could not be made.
    pub retries: AtomicU64,
    /// Requests on their way to a backend.
    pub in_flight: AtomicI64,
    /// Connections refused before a request, by [`Rejection`].
    pub rejected: [AtomicU64; Rejection::ALL.len()],
    /// Connections that the gateway ended, by [`Closing`].
    pub closed: [AtomicU64; Closing::ALL.len()],
}

/// Why a connection ended before a request was routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The head is no HTTP/1, or asks for a tunnel.
    MalformedHead,
    /// The head is larger than it may be.
    HeadTooLarge,
    /// Its target is.
    TargetTooLong,
    /// It took too long to arrive.
    SlowHead,
    /// It expects something else than `100-continue`.
    ExpectationFailed,
    /// `accept` failed.
    AcceptFailed,
    /// There are as many connections as there may be, and none of them waits.
    TooManyConnections,
    /// The client's network has as many as it may have.
    TooManyOfNetwork,
    /// More new ones a second than there may be.
    TooManyNewConnections,
    /// More TLS handshakes than may be made, or can be computed.
    TooManyHandshakes,
    /// A proxy whose connections begin with a PROXY header sent none, or a malformed one.
    MalformedProxyHeader,
    /// Plain HTTP on the TLS port.
    PlainOnTls,
    /// A malformed HTTP/2 stream.
    MalformedStream,
    /// More frames of HTTP/2 that belong to no request than a client may send.
    FrameFlood,
    /// The requests of an HTTP/2 connection hold as much as they may.
    RequestsTooLarge,
    /// An HTTP/2 connection has as many streams as there is room for.
    TooManyStreams,
    /// A body on an HTTP/2 stream that nobody needs any more, and that does not end.
    BodyAfterAnswer,
    /// A client takes nothing of the answers on an HTTP/2 connection.
    AnswersNotTaken,
}

impl Rejection {
    /// All with their label.
    pub const ALL: [(Rejection, &'static str); 18] = [
        (Rejection::MalformedHead, "MalformedHead"),
        (Rejection::HeadTooLarge, "HeadTooLarge"),
        (Rejection::TargetTooLong, "TargetTooLong"),
        (Rejection::SlowHead, "SlowHead"),
        (Rejection::ExpectationFailed, "ExpectationFailed"),
        (Rejection::AcceptFailed, "AcceptFailed"),
        (Rejection::TooManyConnections, "TooManyConnections"),
        (Rejection::TooManyOfNetwork, "TooManyOfNetwork"),
        (Rejection::TooManyNewConnections, "TooManyNewConnections"),
        (Rejection::TooManyHandshakes, "TooManyHandshakes"),
        (Rejection::MalformedProxyHeader, "MalformedProxyHeader"),
        (Rejection::PlainOnTls, "PlainOnTls"),
        (Rejection::MalformedStream, "MalformedStream"),
        (Rejection::FrameFlood, "FrameFlood"),
        (Rejection::RequestsTooLarge, "RequestsTooLarge"),
        (Rejection::TooManyStreams, "TooManyStreams"),
        (Rejection::BodyAfterAnswer, "BodyAfterAnswer"),
        (Rejection::AnswersNotTaken, "AnswersNotTaken"),
    ];

    /// What a request that was refused before any phase counts as.
    pub const fn of(reason: Reason) -> Rejection {
        match reason {
            Reason::PlainOnTls => Rejection::PlainOnTls,
            Reason::HeadTooLarge => Rejection::HeadTooLarge,
            Reason::TargetTooLong => Rejection::TargetTooLong,
            Reason::ClientTimeout => Rejection::SlowHead,
            Reason::ExpectationFailed => Rejection::ExpectationFailed,
            _ => Rejection::MalformedHead,
        }
    }
}

/// What a scrape reads of all workers.
#[derive(Debug, Default)]
pub struct Sum {
    /// Requests by labels.
    pub requests: HashMap<RequestLabels, u64>,
    /// Durations by class.
    pub durations: HashMap<Arc<str>, Histogram>,
    /// Durations of connecting to endpoints.
    pub connects: Histogram,
    /// Connections whose TLS was passed through, by how they ended.
    pub passed_through: BTreeMap<Reason, u64>,
}

impl Cells {
    /// Counts a finished request.
    pub fn request(&self, mut labels: RequestLabels, duration: Duration) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let class = labels.class.clone();
        tables.durations.entry(class).or_default().observe(duration);
        if tables.requests.len() >= MAX_SERIES && !tables.requests.contains_key(&labels) {
            (labels.class, labels.route) = (Arc::from("overflow"), Arc::from(""));
        }
        *tables.requests.entry(labels).or_default() += 1;
    }

    /// Counts a connection made to an endpoint.
    pub fn connected(&self, duration: Duration) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).connects.observe(duration);
    }

    /// Counts once how late the worker is.
    pub fn late(&self, by: Duration) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).lags.observe(by);
    }

    /// How late it was.
    pub fn lags(&self) -> Histogram {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).lags.clone()
    }

    /// Counts a connection whose TLS was passed through, at its end.
    pub fn passed_through(&self, reason: Reason) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        *tables.passed_through.entry(reason).or_default() += 1;
    }

    /// Counts a handshake.
    pub fn handshake(&self, outcome: Handshake) {
        self.handshakes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a rejection.
    pub fn reject(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that the gateway ends.
    pub fn close(&self, why: Closing) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was accepted.
    pub fn opened(&self, scheme: Scheme) {
        self.connections[scheme as usize].fetch_add(1, Ordering::Relaxed);
        self.accepted[scheme as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// It ended.
    pub fn closed(&self, scheme: Scheme) {
        self.connections[scheme as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds the tables to a sum.
    pub fn add_to(&self, sum: &mut Sum) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, count) in &tables.requests {
            *sum.requests.entry(labels.clone()).or_default() += count;
        }
        for (class, histogram) in &tables.durations {
            sum.durations.entry(class.clone()).or_default().add(histogram);
        }
        sum.connects.add(&tables.connects);
        for (reason, count) in &tables.passed_through {
            *sum.passed_through.entry(*reason).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_share_a_label() {
        assert_eq!(METHODS[usize::from(RequestLabels::method_index(&Method::PATCH))], "PATCH");
        assert_eq!(METHODS[usize::from(RequestLabels::method_index(&Method::from_bytes(b"BREW").unwrap()))], "OTHER");
    }

    #[test]
    fn label_sets_are_bounded() {
        let cells = Cells::default();
        for number in 0..MAX_SERIES + 50 {
            let labels = RequestLabels {
                class: Arc::from(number.to_string()),
                route: Arc::from(""),
                method: 0,
                status_class: 2,
                reason: Reason::Upstream,
            };
            cells.request(labels, Duration::from_millis(1));
        }
        let mut sum = Sum::default();
        cells.add_to(&mut sum);
        assert!(sum.requests.len() <= MAX_SERIES + 1);
        assert_eq!(sum.requests.values().sum::<u64>(), MAX_SERIES as u64 + 50);
    }
}
