//! The metrics page: cells summed and gauges read at scrape time, encoded by the `prometheus` crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as ProtoHistogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, Registry, TextEncoder};

use super::cells::{BUCKETS, Handshake, Histogram, METHODS, Rejection, Sum};
use super::closing::Closing;
use crate::clock;
use crate::shared::Shared;

/// Reads the state of the gateway at each scrape.
pub struct GatewayCollector {
    shared: Arc<Shared>,
}

/// Renders the metrics page.
///
/// # Errors
/// The encoder refuses a family, which a test rules out.
pub fn page(shared: &Arc<Shared>) -> Result<Vec<u8>, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(GatewayCollector { shared: shared.clone() }))?;
    let mut page = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut page)?;
    Ok(page)
}

impl Collector for GatewayCollector {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut sum = Sum::default();
        self.shared.cells.iter().for_each(|cells| cells.add_to(&mut sum));
        let mut families = vec![requests(&sum, self.shared.settings.metrics_per_route)];
        families.extend(durations(&sum));
        families.push(passed_through(&sum));
        families.push(self.lags());
        families.extend(self.connections());
        families.extend(self.access_log());
        families.extend(self.memory());
        families.extend(self.upstream());
        families.extend(self.table());
        if !self.shared.settings.controllers.is_empty() {
            families.extend(self.controller());
        }
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

impl GatewayCollector {
    fn cell_sum<T: std::iter::Sum<T>>(&self, read: impl Fn(&super::Cells) -> T) -> T {
        self.shared.cells.iter().map(|cells| read(cells)).sum()
    }

    /// A counter with one label, of which all values are known. `name`: and what it is.
    fn counted<T: Copy>(
        &self,
        (name, help): (&str, &str),
        label: &str,
        values: &[(T, &str)],
        cell: impl Fn(&super::Cells, T) -> &AtomicU64,
    ) -> MetricFamily {
        let mut counted = family(name, help, MetricType::COUNTER);
        for (value, text) in values {
            let count: u64 = self.cell_sum(|cells| cell(cells, *value).load(Ordering::Relaxed));
            counter(&mut counted, &[(label, text)], count);
        }
        counted
    }

    fn lags(&self) -> MetricFamily {
        let help = "How long what is ready waits for a worker; measured ten times a second.";
        let mut lags = family("sluicegate_worker_lag_seconds", help, MetricType::HISTOGRAM);
        for (worker, cells) in self.shared.cells.iter().enumerate() {
            histogram(&mut lags, &[("worker", &worker.to_string())], &cells.lags());
        }
        lags
    }

    fn connections(&self) -> Vec<MetricFamily> {
        let mut open = family("sluicegate_connections", "Open client connections.", MetricType::GAUGE);
        let mut accepted =
            family("sluicegate_connections_accepted_total", "Accepted client connections.", MetricType::COUNTER);
        for (index, scheme) in ["http", "https"].into_iter().enumerate() {
            let now: i64 = self.cell_sum(|cells| cells.connections[index].load(Ordering::Relaxed));
            let ever: u64 = self.cell_sum(|cells| cells.accepted[index].load(Ordering::Relaxed));
            gauge(&mut open, &[("scheme", scheme)], now as f64);
            counter(&mut accepted, &[("scheme", scheme)], ever);
        }
        let handshakes = self.counted(
            ("sluicegate_tls_handshakes_total", "TLS handshakes with clients."),
            "outcome",
            &Handshake::ALL,
            |cells, outcome| &cells.handshakes[outcome as usize],
        );
        let rejected = self.counted(
            ("sluicegate_rejected_total", "Connections and streams refused before a request was routed."),
            "reason",
            &Rejection::ALL,
            |cells, why| &cells.rejected[why as usize],
        );
        let closed = self.counted(
            (
                "sluicegate_connections_closed_total",
                "Client connections that the gateway ended, whose clients did nothing wrong.",
            ),
            "reason",
            &Closing::ALL,
            |cells, why| &cells.closed[why as usize],
        );
        vec![open, accepted, handshakes, rejected, closed]
    }

    fn access_log(&self) -> Vec<MetricFamily> {
        let help = "Lines of the access log that were lost because they could not be written fast enough.";
        let mut lost = family("sluicegate_access_log_lost_total", help, MetricType::COUNTER);
        counter(&mut lost, &[], self.shared.access_log.lost());
        let help = "Lines of the access log that were left out, since there were too many of their reason in a second.";
        let mut suppressed = family("sluicegate_access_log_suppressed_total", help, MetricType::COUNTER);
        for (reason, count) in self.shared.access_log.suppressed() {
            counter(&mut suppressed, &[("reason", reason.as_str())], count);
        }
        vec![lost, suppressed]
    }

    fn memory(&self) -> Vec<MetricFamily> {
        let memory = &self.shared.memory;
        let mut used = family("sluicegate_memory_used_bytes", "Memory that is in use.", MetricType::GAUGE);
        gauge(&mut used, &[], memory.used() as f64);
        let mut limit = family("sluicegate_memory_limit_bytes", "Memory that may be used.", MetricType::GAUGE);
        gauge(&mut limit, &[], memory.limit() as f64);
        let help =
            "How short memory is: 0 enough, 1 idle connections end soon, 2 none is kept, 3 requests are refused.";
        let mut pressure = family("sluicegate_memory_pressure", help, MetricType::GAUGE);
        gauge(&mut pressure, &[], f64::from(memory.pressure() as u8));
        let help = "What is kept of bodies of requests, to be sent once more, or may be.";
        let mut bodies = family("sluicegate_kept_body_bytes", help, MetricType::GAUGE);
        gauge(&mut bodies, &[], memory.bodies().taken() as f64);
        vec![used, limit, pressure, bodies]
    }

    fn upstream(&self) -> Vec<MetricFamily> {
        let mut retries =
            family("sluicegate_upstream_retries_total", "Attempts after the first of a request.", MetricType::COUNTER);
        counter(&mut retries, &[], self.cell_sum(|cells| cells.retries.load(Ordering::Relaxed)));
        let mut in_flight =
            family("sluicegate_upstream_inflight", "Requests on their way to backends.", MetricType::GAUGE);
        gauge(&mut in_flight, &[], self.cell_sum(|cells| cells.in_flight.load(Ordering::Relaxed)) as f64);
        let mut health = family("sluicegate_endpoint_health", "Endpoints of a backend by health.", MetricType::GAUGE);
        let table = self.shared.table.load();
        let now = clock::now_ms();
        let backends: BTreeMap<_, _> = table.backends().collect();
        for (key, backend) in backends {
            let endpoints = backend.all_endpoints();
            let healthy = endpoints.iter().filter(|endpoint| endpoint.is_healthy(now)).count();
            gauge(&mut health, &[("backend", key), ("state", "healthy")], healthy as f64);
            gauge(&mut health, &[("backend", key), ("state", "unhealthy")], (endpoints.len() - healthy) as f64);
        }
        vec![retries, in_flight, health]
    }

    fn controller(&self) -> Vec<MetricFamily> {
        let state = self.shared.state.controller.read();
        let help = "Whether the gateway has a controller that it follows.";
        let mut connected = family("sluicegate_controller_connected", help, MetricType::GAUGE);
        gauge(&mut connected, &[], f64::from(u8::from(state.connected)));
        let help = "Connections to controllers that were made.";
        let mut connections = family("sluicegate_controller_connections_total", help, MetricType::COUNTER);
        counter(&mut connections, &[], state.connections);
        let help = "Changes that did not fit what the gateway had, after which everything was asked for.";
        let mut resyncs = family("sluicegate_controller_resyncs_total", help, MetricType::COUNTER);
        counter(&mut resyncs, &[], state.resyncs);
        let help = "Changes that were not taken, since they may be older than what is in force.";
        let mut refusals = family("sluicegate_controller_refusals_total", help, MetricType::COUNTER);
        counter(&mut refusals, &[], state.refusals);
        let help = "Whether what the controller sends is held back, since it lost most routes.";
        let mut holds = family("sluicegate_controller_held", help, MetricType::GAUGE);
        gauge(&mut holds, &[], f64::from(u8::from(state.holds)));
        vec![connected, connections, resyncs, refusals, holds]
    }

    fn table(&self) -> Vec<MetricFamily> {
        let table = self.shared.table.load();
        let mut version = family(
            "sluicegate_config_version",
            "The snapshot in force: the first 48 bits of its digest, so that equal content has equal values.",
            MetricType::GAUGE,
        );
        gauge(&mut version, &[], table.version.digest.number() as f64);
        let mut epoch = family("sluicegate_config_epoch", "Epoch of the snapshot in force.", MetricType::GAUGE);
        gauge(&mut epoch, &[], table.version.epoch as f64);
        let mut age = family(
            "sluicegate_config_age_seconds",
            "Seconds since the source of the configuration was last known to be in step.",
            MetricType::GAUGE,
        );
        gauge(&mut age, &[], self.shared.state.config_age().as_secs_f64());
        let mut expiry = family(
            "sluicegate_certificate_expiry_timestamp_seconds",
            "End of validity of certificates, Unix time; `(default)` is the one for names that nobody claims.",
            MetricType::GAUGE,
        );
        let certificates: BTreeMap<_, _> = table.certificates().collect();
        for (secret, entry) in certificates {
            gauge(&mut expiry, &[("secret", secret)], entry.source.not_after as f64);
        }
        let fallback = self.shared.default_certificate.load();
        gauge(&mut expiry, &[("secret", "(default)")], fallback.not_after as f64);
        let mut diagnostics =
            family("sluicegate_diagnostics", "Diagnostics of the objects in force.", MetricType::GAUGE);
        for ((severity, reason), count) in self.shared.state.diagnostic_counts() {
            gauge(&mut diagnostics, &[("severity", severity), ("reason", reason)], count as f64);
        }
        let mut held =
            family("sluicegate_config_held_back", "Resources served in their last good form.", MetricType::GAUGE);
        gauge(&mut held, &[], self.shared.state.held_back() as f64);
        vec![version, epoch, age, expiry, diagnostics, held]
    }
}

fn requests(sum: &Sum, per_route: bool) -> MetricFamily {
    let mut requests =
        family("sluicegate_requests_total", "Requests by class, method, status class and reason.", MetricType::COUNTER);
    let sorted: BTreeMap<_, _> = sum.requests.iter().collect();
    for (labels, count) in sorted {
        let status = match labels.status_class {
            0 => "none".to_owned(),
            digit => format!("{digit}xx"),
        };
        let mut pairs = vec![
            ("class", &*labels.class),
            ("method", METHODS[usize::from(labels.method)]),
            ("status", &status),
            ("reason", labels.reason.as_str()),
        ];
        if per_route {
            pairs.push(("route", &labels.route));
        }
        counter(&mut requests, &pairs, *count);
    }
    requests
}

fn passed_through(sum: &Sum) -> MetricFamily {
    let help = "Connections whose TLS went to a backend as it was, by how they ended.";
    let mut passed = family("sluicegate_tls_passthrough_total", help, MetricType::COUNTER);
    for (reason, count) in &sum.passed_through {
        counter(&mut passed, &[("reason", reason.as_str())], *count);
    }
    passed
}

fn durations(sum: &Sum) -> Vec<MetricFamily> {
    let mut durations = family(
        "sluicegate_request_duration_seconds",
        "Time from a request's head to the end of its response.",
        MetricType::HISTOGRAM,
    );
    let sorted: BTreeMap<_, _> = sum.durations.iter().collect();
    for (class, values) in sorted {
        histogram(&mut durations, &[("class", class)], values);
    }
    let mut connects = family(
        "sluicegate_upstream_connect_duration_seconds",
        "Time to connect to an endpoint, new connections only.",
        MetricType::HISTOGRAM,
    );
    histogram(&mut connects, &[], &sum.connects);
    vec![durations, connects]
}

fn family(name: &str, help: &str, kind: MetricType) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

fn metric(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn gauge(family: &mut MetricFamily, labels: &[(&str, &str)], value: f64) {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = metric(labels);
    metric.set_gauge(gauge);
    family.mut_metric().push(metric);
}

fn counter(family: &mut MetricFamily, labels: &[(&str, &str)], value: u64) {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = metric(labels);
    metric.set_counter(counter);
    family.mut_metric().push(metric);
}

fn histogram(family: &mut MetricFamily, labels: &[(&str, &str)], values: &Histogram) {
    let mut histogram = ProtoHistogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::new();
    for (bound, count) in BUCKETS.iter().zip(values.buckets) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    histogram.set_sample_count(values.buckets.iter().sum());
    histogram.set_sample_sum(values.sum);
    let mut metric = metric(labels);
    metric.set_histogram(histogram);
    family.mut_metric().push(metric);
}
