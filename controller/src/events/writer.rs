//! Writes Events, slowly: they are for people, and a storm of them helps nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use sluicegate_snapshot::settings::CONTROLLER_NAME;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Notice, Regarding};
use crate::metrics::Metrics;
use crate::watch::Failure;

/// Events that may be written at once; then [`PACE`] holds.
const BURST: u32 = 50;

/// Least time between two of them, on average.
const PACE: Duration = Duration::from_millis(200);

/// Most that wait to be written: the oldest give way. What still holds is told again.
const MAX_WAITING: usize = 5000;

/// How long one that was written is not written again.
const REMEMBERED: Duration = Duration::from_secs(20 * 60);

/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Writes what comes, until nobody is left to ask for it.
pub async fn write(
    client: Client,
    mut notices: UnboundedReceiver<Notice>,
    metrics: Arc<Metrics>,
    leads: watch::Receiver<bool>,
) {
    let mut waiting: VecDeque<Notice> = VecDeque::new();
    let mut written: HashMap<(String, String), Instant> = HashMap::new();
    let mut bucket = Bucket { tokens: f64::from(BURST), filled: Instant::now() };
    let mut said: Option<String> = None;
    loop {
        if waiting.is_empty() {
            match notices.recv().await {
                Some(notice) => waiting.push_back(notice),
                None => return,
            }
        }
        while let Ok(notice) = notices.try_recv() {
            waiting.push_back(notice);
        }
        while waiting.len() > MAX_WAITING {
            waiting.pop_front();
            metrics.event_dropped();
        }
        if !*leads.borrow() {
            waiting.retain(|notice| notice.regarding == Regarding::Lease);
        }
        let Some(notice) = waiting.pop_front() else { continue };
        written.retain(|_, when| when.elapsed() < REMEMBERED);
        let key = (notice.object.namespace.to_string(), notice.name.clone());
        if written.contains_key(&key) {
            continue;
        }
        bucket.take().await;
        match create(&client, &notice).await {
            Ok(is_new) => {
                said = None;
                written.insert(key, Instant::now());
                if is_new {
                    metrics.event_written();
                }
            }
            Err(failure) => {
                let sentence = failure.sentence();
                if said.as_ref() != Some(&sentence) {
                    tracing::warn!(object = %notice.object, "an Event cannot be written: {sentence}; it is tried again");
                    said = Some(sentence);
                }
                waiting.push_back(notice);
                sleep(RETRY).await;
            }
        }
    }
}

/// True: it is new; false: it exists already, or its namespace is about to go.
async fn create(client: &Client, notice: &Notice) -> Result<bool, Failure> {
    let api: Api<Event> = Api::namespaced(client.clone(), &notice.object.namespace);
    let (api_version, kind, uid) = match &notice.regarding {
        Regarding::Ingress(uid) => ("networking.k8s.io/v1", "Ingress", Some(uid.clone())),
        Regarding::Lease => ("coordination.k8s.io/v1", "Lease", None),
    };
    let regarding = ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(notice.object.name.to_string()),
        namespace: Some(notice.object.namespace.to_string()),
        uid,
        ..ObjectReference::default()
    };
    let event = Event {
        metadata: ObjectMeta { name: Some(notice.name.clone()), ..ObjectMeta::default() },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(CONTROLLER_NAME.to_owned()),
        reporting_instance: Some(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        action: Some("Serve".to_owned()),
        reason: Some(notice.reason.to_owned()),
        regarding: Some(regarding),
        note: Some(notice.note.clone()),
        type_: Some(notice.kind.to_owned()),
        ..Event::default()
    };
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("being terminated") => Ok(false),
        Err(error) => Err(Failure::of(&error)),
    }
}

/// A token bucket.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// Waits until there is a token, and takes it.
    async fn take(&mut self) {
        let gained = self.filled.elapsed().as_secs_f64() / PACE.as_secs_f64();
        self.tokens = (self.tokens + gained).min(f64::from(BURST));
        self.filled = Instant::now();
        if self.tokens < 1.0 {
            sleep(PACE.mul_f64(1.0 - self.tokens)).await;
            self.tokens = 1.0;
            self.filled = Instant::now();
        }
        self.tokens -= 1.0;
    }
}
