//! The whole output of compile, and the difference between two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Backend, Certificate, Digest, Policy, Route, StaticContent, TlsHost, Version, VirtualHost};
use crate::diagnostic::DiagnosticReason;
use crate::key::{BackendKey, HostPattern, ObjectKey};

/// Why a resource is [`Resource::Invalid`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalid {
    /// The reason of the Diagnostic that says more.
    pub reason: DiagnosticReason,
}

/// A resource that compile could build, or could not. The receiver keeps the last good form of an invalid one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Resource<T> {
    /// Usable.
    Valid(Arc<T>),
    /// Its source is bad. That is not a deletion: a good form from before stays in force.
    Invalid(Invalid),
}

impl<T> Resource<T> {
    /// A usable resource.
    pub fn valid(value: T) -> Self {
        Resource::Valid(Arc::new(value))
    }

    /// An unusable one.
    pub fn invalid(reason: DiagnosticReason) -> Self {
        Resource::Invalid(Invalid { reason })
    }

    /// The value, where it is usable.
    pub fn value(&self) -> Option<&Arc<T>> {
        match self {
            Resource::Valid(value) => Some(value),
            Resource::Invalid(_) => None,
        }
    }
}

/// What exists once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Globals {
    /// Default backend of the oldest Ingress without rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_all: Option<Arc<Route>>,
    /// The configured default backend (`--default-backend`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_backend: Option<Arc<Route>>,
    /// The Secret of the default certificate (`--default-certificate NS/NAME`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_certificate: Option<ObjectKey>,
    /// What happens to requests of hosts that no rule names.
    #[serde(default)]
    pub policy: Policy,
}

/// Everything a gateway needs. Equal worlds, settings and mode give byte-equal snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// What it was compiled from.
    pub version: Version,
    /// What exists once.
    pub globals: Globals,
    /// Routes by host.
    pub hosts: BTreeMap<HostPattern, Arc<VirtualHost>>,
    /// Backends that an Ingress of ours names, or the settings.
    pub backends: BTreeMap<BackendKey, Resource<Backend>>,
    /// Static content that an Ingress of ours names, by ConfigMap. A route's ConfigMap that is missing here does not exist.
    pub contents: BTreeMap<ObjectKey, Resource<StaticContent>>,
    /// Certificates by server name.
    pub tls_hosts: BTreeMap<HostPattern, Arc<TlsHost>>,
    /// Certificates that an Ingress of ours or the settings name, by Secret. One that is missing here does not exist.
    pub certificates: BTreeMap<ObjectKey, Resource<Certificate>>,
}

/// What changed: per resource its new value, or `None` where it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delta {
    /// The version after the change.
    pub version: Version,
    /// New globals, where they changed.
    pub globals: Option<Globals>,
    /// Changed hosts.
    pub hosts: BTreeMap<HostPattern, Option<Arc<VirtualHost>>>,
    /// Changed backends.
    pub backends: BTreeMap<BackendKey, Option<Resource<Backend>>>,
    /// Changed static content.
    pub contents: BTreeMap<ObjectKey, Option<Resource<StaticContent>>>,
    /// Changed server names.
    pub tls_hosts: BTreeMap<HostPattern, Option<Arc<TlsHost>>>,
    /// Changed certificates.
    pub certificates: BTreeMap<ObjectKey, Option<Resource<Certificate>>>,
}

impl Delta {
    /// Whether nothing but the version may have changed.
    pub fn is_empty(&self) -> bool {
        let Delta { version: _, globals, hosts, backends, contents, tls_hosts, certificates } = self;
        globals.is_none()
            && hosts.is_empty()
            && backends.is_empty()
            && contents.is_empty()
            && tls_hosts.is_empty()
            && certificates.is_empty()
    }

    /// The delta that turns an empty replica into `snapshot`.
    pub fn full(snapshot: &Snapshot) -> Delta {
        fn all<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>) -> BTreeMap<K, Option<V>> {
            map.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
        }
        Delta {
            version: snapshot.version.clone(),
            globals: Some(snapshot.globals.clone()),
            hosts: all(&snapshot.hosts),
            backends: all(&snapshot.backends),
            contents: all(&snapshot.contents),
            tls_hosts: all(&snapshot.tls_hosts),
            certificates: all(&snapshot.certificates),
        }
    }

    /// The delta that turns `old` into `new`. Costs O(both); used where a whole snapshot arrives.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Delta {
        fn changed<K: Ord + Clone, V: Clone + PartialEq>(
            old: &BTreeMap<K, V>,
            new: &BTreeMap<K, V>,
        ) -> BTreeMap<K, Option<V>> {
            let gone = old.keys().filter(|key| !new.contains_key(key)).map(|key| (key.clone(), None));
            let set = new.iter().filter(|(key, value)| old.get(key) != Some(value));
            gone.chain(set.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
        }
        Delta {
            version: new.version.clone(),
            globals: (old.globals != new.globals).then(|| new.globals.clone()),
            hosts: changed(&old.hosts, &new.hosts),
            backends: changed(&old.backends, &new.backends),
            contents: changed(&old.contents, &new.contents),
            tls_hosts: changed(&old.tls_hosts, &new.tls_hosts),
            certificates: changed(&old.certificates, &new.certificates),
        }
    }
}

/// Sets or removes one entry and keeps the digest in step.
fn put<K: Ord + Clone + Serialize, V: Serialize>(
    map: &mut BTreeMap<K, V>,
    digest: &mut Digest,
    kind: &str,
    key: &K,
    value: Option<V>,
) {
    let old = match value {
        Some(value) => {
            digest.add(Digest::of(kind, key, &value));
            map.insert(key.clone(), value)
        }
        None => map.remove(key),
    };
    if let Some(old) = old {
        digest.remove(Digest::of(kind, key, &old));
    }
}

impl Snapshot {
    /// Applies a change; costs O(what it holds). The digest is recomputed from the content, the rest of the version is
    /// taken over.
    pub fn apply(&mut self, delta: &Delta) {
        let mut digest = self.version.digest;
        if let Some(globals) = &delta.globals {
            digest.remove(Digest::of("globals", &(), &self.globals));
            digest.add(Digest::of("globals", &(), globals));
            self.globals = globals.clone();
        }
        for (key, value) in &delta.hosts {
            put(&mut self.hosts, &mut digest, "host", key, value.clone());
        }
        for (key, value) in &delta.backends {
            put(&mut self.backends, &mut digest, "backend", key, value.clone());
        }
        for (key, value) in &delta.contents {
            put(&mut self.contents, &mut digest, "content", key, value.clone());
        }
        for (key, value) in &delta.tls_hosts {
            put(&mut self.tls_hosts, &mut digest, "tlsHost", key, value.clone());
        }
        for (key, value) in &delta.certificates {
            put(&mut self.certificates, &mut digest, "certificate", key, value.clone());
        }
        self.version = Version { digest, ..delta.version.clone() };
    }

    /// Number of routes, default backends of Ingresses included: what guards against a snapshot that lost most of itself.
    pub fn route_count(&self) -> usize {
        let of_hosts: usize =
            self.hosts.values().map(|host| host.routes.len() + usize::from(host.default.is_some())).sum();
        of_hosts + usize::from(self.globals.catch_all.is_some())
    }
}
