//! Writes statuses: a merge patch of the status subresource, of the newest that is wanted, some at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use sluicegate_snapshot::ObjectKey;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::{Job, Write};
use crate::metrics::Metrics;
use crate::watch::Failure;

/// Writes at a time.
const AT_A_TIME: usize = 16;

/// Least time between two writes of one Ingress: where somebody else writes it too, both are seen and neither keeps the API
/// server busy.
const SPACING: Duration = Duration::from_secs(1);

/// Wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What became of a write.
enum Written {
    Done,
    /// The Ingress is gone, or newer than what was looked at: the watch says so as well.
    Outdated,
    Failed(Failure),
}

/// What the writer works with.
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// As whom it writes.
    pub field_manager: String,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether this controller is the one that writes.
    pub leads: watch::Receiver<bool>,
}

/// Writes what comes, until nobody is left to ask for it.
pub async fn write(writer: Writer, mut jobs: UnboundedReceiver<Job>) {
    let mut waiting: HashMap<ObjectKey, Write> = HashMap::new();
    let mut last: HashMap<ObjectKey, Instant> = HashMap::new();
    let mut running = FuturesUnordered::new();
    let mut busy: HashSet<ObjectKey> = HashSet::new();
    let mut said: Option<Instant> = None;
    let mut is_asked = true;
    let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        tokio::select! {
            job = jobs.recv(), if is_asked => match job {
                Some(Job::Write(write)) => drop(waiting.insert(write.ingress.clone(), write)),
                Some(Job::Flush(done)) => flushes.push(done),
                // What was asked for before is still written.
                None => is_asked = false,
            },
            Some((write, written)) = running.next(), if !running.is_empty() => {
                let write: Write = write;
                busy.remove(&write.ingress);
                match written {
                    Written::Done => {
                        writer.metrics.status_written();
                        last.retain(|_, when: &mut Instant| when.elapsed() < SPACING);
                        last.insert(write.ingress, Instant::now());
                    }
                    Written::Outdated => {}
                    Written::Failed(failure) => {
                        writer.metrics.status_failed();
                        if said.is_none_or(|said| said.elapsed() > Duration::from_secs(60)) {
                            said = Some(Instant::now());
                            tracing::warn!(ingress = %write.ingress, "status cannot be written: {}; it is tried again", failure.sentence());
                        }
                        waiting.entry(write.ingress.clone()).or_insert(write);
                    }
                }
            }
        }
        if !*writer.leads.borrow() {
            waiting.clear();
        }
        let free = AT_A_TIME.saturating_sub(running.len());
        let next: Vec<ObjectKey> = waiting.keys().filter(|key| !busy.contains(*key)).take(free).cloned().collect();
        for key in next {
            if let Some(write) = waiting.remove(&key) {
                let pause = last.get(&key).and_then(|last| SPACING.checked_sub(last.elapsed())).unwrap_or_default();
                busy.insert(key);
                running.push(attempt(&writer, write, pause));
            }
        }
        if waiting.is_empty() && running.is_empty() {
            for done in flushes.drain(..) {
                let _ = done.send(());
            }
            if !is_asked {
                return;
            }
        }
    }
}

async fn attempt(writer: &Writer, write: Write, pause: Duration) -> (Write, Written) {
    sleep(pause).await;
    // The Lease may have gone while it waited.
    if !*writer.leads.borrow() {
        return (write, Written::Outdated);
    }
    let api: Api<Ingress> = Api::namespaced(writer.client.clone(), &write.ingress.namespace);
    let points = if write.points.is_empty() { json!(null) } else { json!(write.points) };
    let body = json!({
        "metadata": {"resourceVersion": write.resource_version},
        "status": {"loadBalancer": {"ingress": points}},
    });
    let params = PatchParams { field_manager: Some(writer.field_manager.clone()), ..PatchParams::default() };
    let written = match api.patch_status(&write.ingress.name, &params, &Patch::Merge(body)).await {
        Ok(_) => Written::Done,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Written::Outdated,
        Err(error) => {
            sleep(RETRY).await;
            Written::Failed(Failure::of(&error))
        }
    };
    (write, written)
}
