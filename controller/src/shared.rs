//! What the threads and tasks of a controller share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sluicegate_snapshot::{Diagnostic, ObjectKey};
use tokio::sync::watch;

use crate::events::Published;
use crate::metrics::Metrics;
use crate::publish::Publication;
use crate::trust::Trust;
use crate::watch::{Feed, Trouble};

/// Where an Ingress is in force, in its newest generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// On so many gateways.
    pub gateways: usize,
    /// Of so many that are connected to this controller.
    pub of: usize,
    /// What this controller publishes.
    pub version: String,
}

/// Readiness, diagnostics, counters.
pub struct Shared {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What does not work with the API server.
    pub trouble: Arc<Trouble>,
    /// What gateways get.
    pub publication: Arc<Publication>,
    /// Who may have it.
    pub trust: Trust,
    /// The Service whose address is published has none, or the like: for people.
    pub address_trouble: Mutex<Option<String>>,
    /// ConfigMaps in which it cannot be recorded whose hosts are: for people.
    record_trouble: Mutex<BTreeMap<ObjectKey, String>>,
    /// Those that are full, with the number of hosts that are left out.
    unrecorded: Mutex<BTreeMap<ObjectKey, usize>>,
    /// This controller is the one that writes statuses.
    pub leads: watch::Receiver<bool>,
    /// With which publication each Ingress went out.
    pub published: Published,
    /// Statuses that somebody else writes too, in sentences.
    foreign: Mutex<Vec<String>>,
    unlisted: Mutex<BTreeSet<Feed>>,
    diagnostics: Mutex<Arc<Vec<Diagnostic>>>,
}

impl Shared {
    /// Nothing is listed yet.
    pub fn new(
        metrics: Arc<Metrics>,
        publication: Arc<Publication>,
        trust: Trust,
        leads: watch::Receiver<bool>,
        feeds: &[Feed],
    ) -> Self {
        Shared {
            metrics,
            trouble: Arc::default(),
            publication,
            trust,
            address_trouble: Mutex::default(),
            record_trouble: Mutex::default(),
            unrecorded: Mutex::default(),
            leads,
            published: Published::default(),
            foreign: Mutex::default(),
            unlisted: Mutex::new(feeds.iter().cloned().collect()),
            diagnostics: Mutex::default(),
        }
    }

    /// The feeds that have not listed yet.
    pub fn set_unlisted(&self, feeds: &BTreeSet<Feed>) {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).clone_from(feeds);
    }

    /// Why a ConfigMap that records whose hosts are cannot be written; `None`: it can. Logs what is news.
    pub fn set_record_trouble(&self, record: &ObjectKey, sentence: Option<String>) {
        let mut trouble = self.record_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.get(record) == sentence.as_ref() {
            return;
        }
        match sentence {
            Some(sentence) => {
                tracing::error!("{}", unwritten(record, &sentence));
                trouble.insert(record.clone(), sentence);
            }
            None => {
                tracing::info!(%record, "it is recorded again whose hosts are");
                trouble.remove(record);
            }
        }
    }

    /// ConfigMaps that have no room for so many hosts. Logs which are new.
    pub fn set_unrecorded(&self, left_out: &BTreeMap<ObjectKey, usize>) {
        let mut unrecorded = self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner);
        for (record, count) in left_out.iter().filter(|(record, _)| !unrecorded.contains_key(*record)) {
            tracing::error!("{}", full(record, *count));
        }
        unrecorded.clone_from(left_out);
    }

    /// Statuses that somebody else writes too.
    pub fn set_foreign(&self, sentences: Vec<String>) {
        *self.foreign.lock().unwrap_or_else(PoisonError::into_inner) = sentences;
    }

    /// What does not work around the objects, in sentences: the API server, the address to publish, records of hosts, statuses that
    /// somebody else writes.
    pub fn trouble(&self) -> Vec<String> {
        let address = self.address_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut sentences = self.trouble.sentences();
        let records = self.record_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        sentences.extend(records.iter().map(|(record, sentence)| unwritten(record, sentence)));
        let unrecorded = self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner);
        sentences.extend(unrecorded.iter().map(|(record, count)| full(record, *count)));
        sentences.into_iter().chain(address).chain(foreign).collect()
    }

    /// New diagnostics of the objects.
    pub fn set_diagnostics(&self, diagnostics: Vec<&Diagnostic>) {
        let diagnostics = Arc::new(diagnostics.into_iter().cloned().collect());
        *self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner) = diagnostics;
    }

    /// Diagnostics of the objects.
    pub fn diagnostics(&self) -> Arc<Vec<Diagnostic>> {
        self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// On how many gateways each Ingress of ours is in force; of one namespace, where one is given. Costs O(Ingresses).
    pub fn in_force(&self, namespace: Option<&str>) -> Vec<InForce> {
        let (Some(version), gateways) = (self.publication.version(), self.publication.gateways()) else {
            return Vec::new();
        };
        let version = version.to_string();
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(ingress, sequence): (&ObjectKey, &u64)| InForce {
            namespace: ingress.namespace.clone(),
            name: ingress.name.clone(),
            gateways: gateways.iter().filter(|gateway| gateway.sequence >= *sequence).count(),
            of: gateways.len(),
            version: version.clone(),
        };
        let is_asked =
            |(ingress, _): &(&ObjectKey, &u64)| namespace.is_none_or(|namespace| *namespace == *ingress.namespace);
        published.iter().filter(is_asked).map(of).collect()
    }

    /// Diagnostics by severity and reason.
    pub fn diagnostic_counts(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for diagnostic in self.diagnostics().iter() {
            *counts.entry((diagnostic.severity.as_str(), diagnostic.reason.as_str())).or_default() += 1;
        }
        counts
    }

    /// Why the controller is not ready; `Ok`: it is.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn ready(&self) -> Result<(), String> {
        if self.publication.version().is_some() {
            return self.trust.ready();
        }
        let unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        let unlisted: Vec<String> = unlisted.iter().map(ToString::to_string).collect();
        let what = match unlisted.is_empty() {
            true => "the Secrets or ConfigMaps of a namespace are not listed yet".to_owned(),
            false => format!("not listed yet: {}", unlisted.join(", ")),
        };
        match self.trouble.sentences() {
            trouble if trouble.is_empty() => Err(what),
            trouble => Err(format!("{what}; {}", trouble.join("; "))),
        }
    }
}

fn unwritten(record: &ObjectKey, sentence: &str) -> String {
    format!(
        "ConfigMap {record}, which records whose hosts are, cannot be written: {sentence}; it is tried again, and until then hosts that are new go to the oldest Ingress that claims them"
    )
}

fn full(record: &ObjectKey, count: usize) -> String {
    format!(
        "ConfigMap {record}, which records whose hosts are, has no room for {count} more; they go to the oldest Ingress that claims them"
    )
}
