//! Counters of the controller, and the page that shows them.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use sluicegate_snapshot::Kind;

use crate::shared::Shared;

/// Why gateways are refused: too many, no TLS, no credentials, a certificate or token that is not served, a token that cannot be
/// reviewed now.
pub const REFUSALS: [&str; 6] = ["limit", "handshake", "noCredentials", "certificate", "token", "unknown"];

/// Counters. Labels are kinds of object, a closed set.
pub struct Metrics {
    registry: Registry,
    watch_events: IntCounterVec,
    lists: IntCounterVec,
    watch_failures: IntCounterVec,
    compile: Histogram,
    statuses: IntCounterVec,
    full_syncs: IntCounter,
    changes: IntCounter,
    change_bytes: IntCounter,
    refused: IntCounterVec,
    gateways: IntGauge,
    lagging: IntGauge,
    version: Gauge,
    epoch: IntGauge,
    diagnostics: GaugeVec,
    leader: IntGauge,
    events: IntCounterVec,
}

impl Metrics {
    /// All of them, at zero.
    ///
    /// # Errors
    /// Two metrics have one name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let name = |text: &str| format!("sluicegate_controller_{text}");
        let by_kind = |text: &str, help: &str| IntCounterVec::new(Opts::new(name(text), help), &["kind"]);
        let metrics = Metrics {
            registry: Registry::new(),
            watch_events: by_kind("watch_events_total", "Events of watches.")?,
            lists: by_kind("lists_total", "Lists, streamed or in pages: one per watch, more after 410.")?,
            watch_failures: by_kind("watch_failures_total", "Lists and watches that failed.")?,
            compile: Histogram::with_opts(
                HistogramOpts::new(name("compile_duration_seconds"), "From a batch of events to its change published.")
                    .buckets(vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0]),
            )?,
            statuses: IntCounterVec::new(
                Opts::new(name("status_writes_total"), "Statuses of Ingresses that were written, or failed to be."),
                &["outcome"],
            )?,
            full_syncs: IntCounter::new(name("full_syncs_total"), "Full syncs sent to gateways.")?,
            changes: IntCounter::new(name("changes_sent_total"), "Changes sent to gateways.")?,
            change_bytes: IntCounter::new(name("change_bytes_total"), "Bytes of the changes sent to gateways.")?,
            refused: IntCounterVec::new(
                Opts::new(name("gateways_refused_total"), "Connections of gateways that were refused, by reason."),
                &["reason"],
            )?,
            gateways: IntGauge::new(name("gateways"), "Connected gateways.")?,
            lagging: IntGauge::new(
                name("gateways_behind"),
                "Connected gateways that have not acknowledged the newest version.",
            )?,
            version: Gauge::new(
                name("config_version"),
                "The published snapshot: the first 48 bits of its digest, as sluicegate_config_version of gateways.",
            )?,
            epoch: IntGauge::new(name("config_epoch"), "Epoch of the published snapshot.")?,
            diagnostics: GaugeVec::new(
                Opts::new(name("diagnostics"), "Diagnostics of the objects."),
                &["severity", "reason"],
            )?,
            leader: IntGauge::new(name("leader"), "Whether this controller writes statuses and Events.")?,
            events: IntCounterVec::new(
                Opts::new(name("events_total"), "Events that were written, or dropped because too many waited."),
                &["outcome"],
            )?,
        };
        for outcome in ["written", "dropped"] {
            metrics.events.with_label_values(&[outcome]);
        }
        for outcome in ["written", "failed"] {
            metrics.statuses.with_label_values(&[outcome]);
        }
        for kind in Kind::ALL {
            for family in [&metrics.watch_events, &metrics.lists, &metrics.watch_failures] {
                family.with_label_values(&[kind.as_str()]);
            }
        }
        for reason in REFUSALS {
            metrics.refused.with_label_values(&[reason]);
        }
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let collectors: [Box<dyn prometheus::core::Collector>; 16] = [
            Box::new(self.watch_events.clone()),
            Box::new(self.lists.clone()),
            Box::new(self.watch_failures.clone()),
            Box::new(self.compile.clone()),
            Box::new(self.statuses.clone()),
            Box::new(self.full_syncs.clone()),
            Box::new(self.changes.clone()),
            Box::new(self.change_bytes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.gateways.clone()),
            Box::new(self.lagging.clone()),
            Box::new(self.version.clone()),
            Box::new(self.epoch.clone()),
            Box::new(self.diagnostics.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.events.clone()),
        ];
        collectors.into_iter().try_for_each(|collector| self.registry.register(collector))
    }

    /// An event of a watch came.
    pub fn watched(&self, kind: Kind) {
        self.watch_events.with_label_values(&[kind.as_str()]).inc();
    }

    /// A list was asked for.
    pub fn listed(&self, kind: Kind) {
        self.lists.with_label_values(&[kind.as_str()]).inc();
    }

    /// A list or watch failed.
    pub fn watch_failed(&self, kind: Kind) {
        self.watch_failures.with_label_values(&[kind.as_str()]).inc();
    }

    /// A batch was compiled and published.
    pub fn compiled(&self, time: Duration) {
        self.compile.observe(time.as_secs_f64());
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.statuses.with_label_values(&["written"]).inc();
    }

    /// A status could not be written.
    pub fn status_failed(&self) {
        self.statuses.with_label_values(&["failed"]).inc();
    }

    /// An Event was written.
    pub fn event_written(&self) {
        self.events.with_label_values(&["written"]).inc();
    }

    /// An Event was dropped.
    pub fn event_dropped(&self) {
        self.events.with_label_values(&["dropped"]).inc();
    }

    /// A gateway gets everything.
    pub fn sent_everything(&self) {
        self.full_syncs.inc();
    }

    /// A gateway got a change of so many bytes.
    pub fn sent_change(&self, bytes: usize) {
        self.changes.inc();
        self.change_bytes.inc_by(bytes as u64);
    }

    /// A gateway was refused, for one of [`REFUSALS`].
    pub fn gateway_refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// The page.
    ///
    /// # Errors
    /// The encoder refuses a family, which a test rules out.
    pub fn page(&self, shared: &Shared) -> Result<Vec<u8>, prometheus::Error> {
        let version = shared.publication.version();
        let gateways = shared.publication.gateways();
        let digest = version.as_ref().map(|version| version.digest);
        let is_behind =
            |gateway: &&crate::publish::Gateway| gateway.acknowledged.as_ref().map(|version| version.digest) != digest;
        self.gateways.set(gateways.len() as i64);
        self.lagging.set(gateways.iter().filter(is_behind).count() as i64);
        self.version.set(version.as_ref().map_or(0.0, |version| version.digest.number() as f64));
        self.epoch.set(version.as_ref().map_or(0, |version| version.epoch as i64));
        self.leader.set(i64::from(*shared.leads.borrow()));
        self.diagnostics.reset();
        for ((severity, reason), count) in shared.diagnostic_counts() {
            self.diagnostics.with_label_values(&[severity, reason]).set(count as f64);
        }
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }
}
