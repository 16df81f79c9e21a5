//! The receiving side of snapshots: what was published, and the last good form of everything that turned bad since.
//!
//! Sans-IO: frames and files are the gateway's. Deletion is not turning bad: a resource that is gone is gone, one that
//! is `Invalid` keeps the form it had.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::{BackendKey, HostPattern, ObjectKey};
use crate::model::{
    Backend, Certificate, Delta, Globals, PrivateKey, Resource, Snapshot, StaticContent, TlsHost, Version, VirtualHost,
};

/// Last good forms of what is invalid now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastGood {
    backends: BTreeMap<BackendKey, Arc<Backend>>,
    contents: BTreeMap<ObjectKey, Arc<StaticContent>>,
    certificates: BTreeMap<ObjectKey, Arc<Certificate>>,
    /// Server names that only the names in a certificate gave: they are known while it is good, so they go with it when it
    /// turns bad, and are kept with its last good form.
    tls_hosts: BTreeMap<HostPattern, Arc<TlsHost>>,
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
        let LastGood { backends, contents, certificates, tls_hosts: _ } = &self.last_good;
        backends.len() + contents.len() + certificates.len()
    }

    /// Certificates in force whose key is not at hand, but will come with the source: it publishes them as good. Those
    /// whose source is bad may never come. Costs O(certificates).
    pub fn awaited_keys(&self) -> usize {
        let awaited = |resource: &Resource<Certificate>| {
            resource.value().is_some_and(|certificate| certificate.key.expose_der().is_none())
        };
        self.snapshot.certificates.values().filter(|resource| awaited(resource)).count()
    }

    /// Every private key that is at hand, with the fingerprint of its public half. Costs O(certificates).
    pub fn private_keys(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let published = self.snapshot.certificates.values().filter_map(Resource::value);
        let all = published.chain(self.last_good.certificates.values());
        all.filter_map(|certificate| Some((certificate.key.fingerprint(), certificate.key.expose_der()?)))
    }

    /// Gives certificates whose key is not at hand the one that `find` has for its fingerprint. Costs O(certificates).
    pub fn restore_keys(&mut self, find: impl Fn(&str) -> Option<Vec<u8>>) {
        let published = self.snapshot.certificates.values_mut().filter_map(|resource| match resource {
            Resource::Valid(certificate) => Some(certificate),
            Resource::Invalid(_) => None,
        });
        for certificate in published.chain(self.last_good.certificates.values_mut()) {
            let fingerprint = certificate.key.fingerprint().to_owned();
            if let (None, Some(der)) = (certificate.key.expose_der(), find(&fingerprint)) {
                Arc::make_mut(certificate).key = PrivateKey::new(der, fingerprint);
            }
        }
    }

    /// Takes another version of equal content over.
    pub fn adopt(&mut self, version: Version) {
        debug_assert_eq!(version.digest, self.snapshot.version.digest, "the content is equal");
        self.snapshot.version = version;
    }

    /// Takes a delta over; returns what the table has to show. Costs O(delta).
    pub fn apply(&mut self, delta: &Delta) -> Change {
        let tls_hosts = self.tls_hosts_in_force(delta);
        let Snapshot { backends, contents, certificates, .. } = &self.snapshot;
        let change = Change {
            globals: delta.globals.clone(),
            hosts: delta.hosts.clone(),
            tls_hosts,
            backends: in_force(&delta.backends, backends, &mut self.last_good.backends),
            contents: flat(in_force(&delta.contents, contents, &mut self.last_good.contents)),
            certificates: flat(in_force(&delta.certificates, certificates, &mut self.last_good.certificates)),
            version: Version::default(),
        };
        self.snapshot.apply(delta);
        Change { version: self.snapshot.version.clone(), ..change }
    }

    /// Server names after a delta: those that a certificate took with it when it turned bad stay, until it is good again or
    /// gone.
    fn tls_hosts_in_force(&mut self, delta: &Delta) -> BTreeMap<HostPattern, Option<Arc<TlsHost>>> {
        let mut result = delta.tls_hosts.clone();
        let is_bad = |secret: &ObjectKey| {
            let published = delta
                .certificates
                .get(secret)
                .map_or_else(|| self.snapshot.certificates.get(secret), |changed| changed.as_ref());
            matches!(published, Some(Resource::Invalid(_)))
        };
        let kept = &mut self.last_good.tls_hosts;
        for (host, value) in &mut result {
            let old = self.snapshot.tls_hosts.get(host).filter(|_| value.is_none());
            match old {
                Some(old) if old.own_name && old.certificates.iter().any(is_bad) => {
                    kept.insert(host.clone(), old.clone());
                    *value = Some(old.clone());
                }
                _ => drop(kept.remove(host)),
            }
        }
        let ended: Vec<HostPattern> = match delta.certificates.is_empty() {
            true => Vec::new(),
            false => kept
                .iter()
                .filter(|(_, host)| !host.certificates.iter().any(is_bad))
                .map(|(host, _)| host.clone())
                .collect(),
        };
        for host in ended {
            kept.remove(&host);
            result.entry(host).or_insert(None);
        }
        result
    }

    /// Everything in force, as the change that fills an empty table: after a start from the state file.
    pub fn everything(&self) -> Change {
        let mut copy = Replica { snapshot: Snapshot::default(), last_good: self.last_good.clone() };
        let mut change = copy.apply(&Delta::full(&self.snapshot));
        let kept = self.last_good.tls_hosts.iter();
        change.tls_hosts.extend(kept.map(|(host, value)| (host.clone(), Some(value.clone()))));
        change
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
