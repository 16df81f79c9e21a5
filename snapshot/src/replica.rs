//! The receiving side of snapshots: what was published, and the last good form of everything that turned bad since.
//!
//! Sans-IO: frames and files are the gateway's. Deletion is not turning bad: a resource that is gone is gone, one that
//! is `Invalid` keeps the form it had.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::{BackendKey, HostPattern, ObjectKey};
use crate::model::{
    Backend, Certificate, Delta, Globals, Resource, Snapshot, StaticContent, TlsHost, Version, VirtualHost,
};

/// Last good forms of what is invalid now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastGood {
    backends: BTreeMap<BackendKey, Arc<Backend>>,
    contents: BTreeMap<ObjectKey, Arc<StaticContent>>,
    certificates: BTreeMap<ObjectKey, Arc<Certificate>>,
}

/// What a table has to take over: values in force, last good ones included.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The version after the change.
    pub version: Version,
    /// New globals.
    pub globals: Option<Globals>,
    /// Hosts; `None`: gone.
    pub hosts: BTreeMap<HostPattern, Option<Arc<VirtualHost>>>,
    /// Backends; outer `None`: gone; inner `None`: bad, and no good form is known.
    pub backends: BTreeMap<BackendKey, Option<Option<Arc<Backend>>>>,
    /// Contents; `None`: gone, or bad with no good form.
    pub contents: BTreeMap<ObjectKey, Option<Arc<StaticContent>>>,
    /// Server names; `None`: gone.
    pub tls_hosts: BTreeMap<HostPattern, Option<Arc<TlsHost>>>,
    /// Certificates; `None`: gone, or bad with no good form.
    pub certificates: BTreeMap<ObjectKey, Option<Arc<Certificate>>>,
}

/// A gateway's copy of the snapshot. What it serialises to is the state file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    snapshot: Snapshot,
    last_good: LastGood,
}

impl Replica {
    /// What was published last.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How many resources are served in their last good form.
    pub fn held_back(&self) -> usize {
        let LastGood { backends, contents, certificates } = &self.last_good;
        backends.len() + contents.len() + certificates.len()
    }

    /// Takes a delta over; returns what the table has to show. Costs O(delta).
    pub fn apply(&mut self, delta: &Delta) -> Change {
        let Snapshot { backends, contents, certificates, .. } = &self.snapshot;
        let change = Change {
            globals: delta.globals.clone(),
            hosts: delta.hosts.clone(),
            tls_hosts: delta.tls_hosts.clone(),
            backends: in_force(&delta.backends, backends, &mut self.last_good.backends),
            contents: flat(in_force(&delta.contents, contents, &mut self.last_good.contents)),
            certificates: flat(in_force(&delta.certificates, certificates, &mut self.last_good.certificates)),
            version: Version::default(),
        };
        self.snapshot.apply(delta);
        Change { version: self.snapshot.version.clone(), ..change }
    }

    /// Everything in force, as the change that fills an empty table: after a start from the state file.
    pub fn everything(&self) -> Change {
        let mut copy = Replica { snapshot: Snapshot::default(), last_good: self.last_good.clone() };
        copy.apply(&Delta::full(&self.snapshot))
    }
}

/// Decides per resource what is in force, and keeps the last good form of what turns bad.
fn in_force<K: Ord + Clone, T>(
    delta: &BTreeMap<K, Option<Resource<T>>>,
    published: &BTreeMap<K, Resource<T>>,
    last_good: &mut BTreeMap<K, Arc<T>>,
) -> BTreeMap<K, Option<Option<Arc<T>>>> {
    let mut result = BTreeMap::new();
    for (key, resource) in delta {
        let value = match resource {
            None => {
                last_good.remove(key);
                None
            }
            Some(Resource::Valid(value)) => {
                last_good.remove(key);
                Some(Some(value.clone()))
            }
            Some(Resource::Invalid(_)) => {
                if let Some(Resource::Valid(good)) = published.get(key) {
                    last_good.insert(key.clone(), good.clone());
                }
                Some(last_good.get(key).cloned())
            }
        };
        result.insert(key.clone(), value);
    }
    result
}

fn flat<K: Ord, T>(map: BTreeMap<K, Option<Option<Arc<T>>>>) -> BTreeMap<K, Option<Arc<T>>> {
    map.into_iter().map(|(key, value)| (key, value.flatten())).collect()
}
