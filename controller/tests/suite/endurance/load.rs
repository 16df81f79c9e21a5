//! Requests at a rate, each answer judged: it has to come from a pod of the right Service, by the right route.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client;

/// Connections that requests are spread over.
const CLIENTS: u32 = 4;

/// One that is asked for.
#[derive(Clone)]
pub struct Target {
    pub host: String,
    /// `namespace/name` of its Ingress.
    pub ingress: String,
    /// What names of its pods begin with.
    pub pods: String,
}

/// What came of it.
#[derive(Default)]
pub struct Report {
    pub requests: usize,
    /// Answers that are no answers, or somebody else's; the first few.
    pub wrong: Vec<String>,
    pub wrong_count: usize,
    /// From when each request was due until its answer was there.
    pub latencies: Vec<Duration>,
}

impl Report {
    fn join(mut self, other: Report) -> Report {
        self.requests += other.requests;
        self.wrong_count += other.wrong_count;
        self.wrong.extend(other.wrong);
        self.latencies.extend(other.latencies);
        self
    }

    /// A quantile of the latencies.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let place = (sorted.len() as f64 * share) as usize;
        sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Panics unless everything was answered, and by whom it should be.
    #[track_caller]
    pub fn assert_all_well(&self) {
        assert!(self.wrong_count == 0, "{} of {} went wrong: {:?}", self.wrong_count, self.requests, self.wrong);
    }
}

/// Asks `per_second` times a second, in turn for each target, until `over` is set.
pub fn run(http: SocketAddr, per_second: u32, targets: &[Target], over: &AtomicBool) -> Report {
    std::thread::scope(|scope| {
        let client = |index| move || ask(http, index, per_second, targets, over);
        let clients: Vec<_> = (0..CLIENTS).map(|index| scope.spawn(client(index))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).fold(Report::default(), Report::join)
    })
}

fn ask(http: SocketAddr, index: u32, per_second: u32, targets: &[Target], over: &AtomicBool) -> Report {
    let pause = Duration::from_secs(1) * CLIENTS / per_second;
    let mut due = Instant::now() + pause * index / CLIENTS;
    let mut report = Report::default();
    let mut connection = client::connect(http);
    let mut turn = index as usize;
    while !over.load(Ordering::Relaxed) {
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(early);
        }
        let target = &targets[turn % targets.len()];
        let answer = connection.request("GET", &target.host, "/", &[]);
        report.latencies.push(due.elapsed());
        report.requests += 1;
        // After so many requests a connection ends, and says so.
        if answer.header("connection") == Some("close") {
            connection = client::connect(http);
        }
        let pod = answer.header("x-echo").unwrap_or_default();
        let route = answer.header("sluicegate-route").unwrap_or_default();
        let by_route =
            route.split_once(';').is_some_and(|(ingress, rest)| ingress == target.ingress && rest.contains("version="));
        if answer.status != 200 || !pod.starts_with(&target.pods) || !by_route {
            report.wrong_count += 1;
            if report.wrong.len() < 5 {
                let reason = answer.header("sluicegate-reason");
                report.wrong.push(format!("{}: {} {reason:?} by `{pod}` ({route})", target.host, answer.status));
            }
        }
        turn += CLIENTS as usize;
        due += pause;
    }
    report
}
