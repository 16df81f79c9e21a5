//! Whose hosts are, recorded in ConfigMaps: `hostPolicy: perNamespace` outlives edits of older Ingresses and restarts of controllers.
//!
//! All controllers watch the ConfigMaps and compile what they say ([`sluicegate_snapshot::Settings::host_records`]); the one that
//! leads writes them (ADR 0025).

mod book;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use sluicegate_snapshot::compile::Whose;
use sluicegate_snapshot::facts::{HOST_OWNERS_LABEL, HostOwnersFacts, write_host_owners};
use sluicegate_snapshot::{HostPattern, ObjectKey};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::shared::Shared;
use crate::watch::Failure;
use book::{Book, Write};

/// Longest wait for an answer.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Writes in a row that come too late for what is there, after which that is said.
const SUSPICIOUS: usize = 5;

/// Longest sleep of the task.
const LONG: Duration = Duration::from_secs(3600);

/// What the compile thread tells.
#[derive(Debug)]
pub enum Notice {
    /// Whose hosts are now.
    Owners(BTreeMap<HostPattern, Whose>),
    /// A ConfigMap is there in this version, or no longer. `is_certain`: a list says so.
    Record {
        /// Which.
        key: ObjectKey,
        /// What it says.
        found: Option<(Arc<HostOwnersFacts>, u64)>,
        /// A list says so, not an event.
        is_certain: bool,
    },
    /// Everything is listed: what is told from now on is true.
    Complete,
    /// The API server was restored from an older state: versions begin anew.
    Restored,
}

/// What became of a write.
enum Written {
    /// It is there in this version.
    Done(u64),
    /// Somebody else wrote it: the watch says so as well.
    Outdated,
    Failed(String),
}

/// What the recorder works with.
pub struct Recorder {
    /// The API server.
    pub client: Client,
    /// What the names of the ConfigMaps begin with.
    pub prefix: ObjectKey,
    /// As whom it writes.
    pub field_manager: String,
    /// Whether this controller is the one that writes.
    pub leads: watch::Receiver<bool>,
    /// Where trouble is told.
    pub shared: Arc<Shared>,
}

/// Keeps the records true while this controller leads, until nobody is left to tell.
pub async fn record(recorder: Recorder, mut notices: UnboundedReceiver<Notice>) {
    let mut book = Book::new(recorder.prefix.clone());
    let mut leads = recorder.leads.clone();
    let mut is_complete = false;
    let mut outdated = BTreeMap::new();
    loop {
        let may_write = is_complete && *leads.borrow_and_update();
        let wait = book.wake().filter(|_| may_write).map(|at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => {
                    let mut next = Some(notice);
                    while let Some(notice) = next {
                        is_complete |= matches!(notice, Notice::Complete);
                        take(&mut book, notice);
                        next = notices.try_recv().ok();
                    }
                }
                None => return,
            },
            changed = leads.changed() => if changed.is_err() { return },
            () = sleep(wait.unwrap_or(LONG)) => {}
        }
        if !is_complete || !*leads.borrow() {
            continue;
        }
        for write in book.due(Instant::now()) {
            // The Lease may have gone meanwhile.
            if *leads.borrow() {
                recorder.attempt(&mut book, write, &mut outdated).await;
            }
        }
        recorder.shared.set_unrecorded(book.left_out());
    }
}

fn take(book: &mut Book, notice: Notice) {
    let now = Instant::now();
    match notice {
        Notice::Owners(owners) => book.want(owners, now),
        Notice::Record { key, found, is_certain } => {
            let found = found.as_ref().map(|(facts, version)| (&facts.owners, *version));
            book.record(&key, found, is_certain, now);
        }
        Notice::Restored => book.restart(),
        Notice::Complete => {}
    }
}

impl Recorder {
    async fn attempt(&self, book: &mut Book, write: Write, outdated: &mut BTreeMap<ObjectKey, usize>) {
        let written = timeout(CALL_LIMIT, self.write(&write)).await;
        let written = written.unwrap_or_else(|_| Written::Failed("the API server does not answer".to_owned()));
        let now = Instant::now();
        let record = &write.record;
        let trouble = match written {
            Written::Done(version) => {
                outdated.remove(record);
                book.record(record, Some((&write.owners, version)), false, now);
                None
            }
            Written::Outdated => {
                let count = outdated.entry(record.clone()).or_default();
                *count += 1;
                if *count < SUSPICIOUS {
                    return;
                }
                book.failed(record, now);
                let (label, value) = HOST_OWNERS_LABEL;
                Some(format!(
                    "it is written by somebody else all the time, or has lost its label {label}: {value}, without which it is not seen"
                ))
            }
            Written::Failed(sentence) => {
                book.failed(record, now);
                Some(sentence)
            }
        };
        self.shared.set_record_trouble(record, trouble);
    }

    async fn write(&self, write: &Write) -> Written {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &write.record.namespace);
        let params = PostParams { field_manager: Some(self.field_manager.clone()), ..PostParams::default() };
        let (label, value) = HOST_OWNERS_LABEL;
        let metadata = ObjectMeta {
            name: Some(write.record.name.to_string()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            resource_version: write.version.map(|version| version.to_string()),
            ..ObjectMeta::default()
        };
        let config_map = ConfigMap { metadata, data: Some(write_host_owners(&write.owners)), ..ConfigMap::default() };
        let written = match write.version {
            None => api.create(&params, &config_map).await,
            Some(_) => api.replace(&write.record.name, &params, &config_map).await,
        };
        match written {
            Ok(stored) => {
                let version = stored.metadata.resource_version.and_then(|text| text.parse().ok());
                version.map_or(Written::Outdated, Written::Done)
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Written::Outdated,
            Err(error) => Written::Failed(Failure::of(&error).sentence()),
        }
    }
}
