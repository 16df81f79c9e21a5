//! The whole output of compile, and the difference between two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::partial::{self, Partial, PartialDelta};
use super::{Backend, Certificate, Digest, Policy, Reach, Route, StaticContent, TlsHost, Version, VirtualHost};
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
    /// Which addresses backends may have, in a cluster. Absent: any (files), or what a cluster guards by default (a
    /// controller that does not know of it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Arc<Reach>>,
}

/// Everything a gateway needs. Equal worlds, settings and mode give byte-equal snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// What it was compiled from.
    pub version: Version,
    /// What exists once.
    pub globals: Globals,
    /// They were set. Until then they have no part in the digest: what is in them unset differs between versions.
    #[serde(default)]
    pub has_globals: bool,
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
    /// What is understood in part only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partial: Partial,
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
    /// What of it is understood in part only. It is found out by each reader for itself.
    #[serde(skip)]
    pub partial: PartialDelta,
}

impl Delta {
    /// Whether nothing but the version may have changed.
    pub fn is_empty(&self) -> bool {
        let Delta { version: _, globals, hosts, backends, contents, tls_hosts, certificates, partial } = self;
        globals.is_none()
            && partial.is_empty()
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
            partial: snapshot.partial.iter().map(|(id, digest)| (id.clone(), Some(*digest))).collect(),
        }
    }

    /// The delta that turns `old` into `new`. Costs O(both); used where a whole snapshot arrives.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Delta {
        // Of what is understood in part, other parts may have changed.
        let same = |id: &dyn Fn() -> String| {
            (old.partial.is_empty() && new.partial.is_empty()) || {
                let id = id();
                old.partial.get(&id) == new.partial.get(&id)
            }
        };
        fn changed<K: Ord + Clone + Serialize, V: Clone + PartialEq>(
            kind: &str,
            old: &BTreeMap<K, V>,
            new: &BTreeMap<K, V>,
            same: &dyn Fn(&dyn Fn() -> String) -> bool,
        ) -> BTreeMap<K, Option<V>> {
            let gone = old.keys().filter(|key| !new.contains_key(key)).map(|key| (key.clone(), None));
            let set =
                new.iter().filter(|(key, value)| old.get(key) != Some(value) || !same(&|| partial::id_of(kind, key)));
            gone.chain(set.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
        }
        let gone = old.partial.keys().filter(|id| !new.partial.contains_key(*id)).map(|id| (id.clone(), None));
        let there = new.partial.iter().map(|(id, digest)| (id.clone(), Some(*digest)));
        let globals_differ =
            old.has_globals != new.has_globals || old.globals != new.globals || !same(&|| partial::id("globals", ""));
        Delta {
            version: new.version.clone(),
            globals: globals_differ.then(|| new.globals.clone()),
            hosts: changed("host", &old.hosts, &new.hosts, &same),
            backends: changed("backend", &old.backends, &new.backends, &same),
            contents: changed("content", &old.contents, &new.contents, &same),
            tls_hosts: changed("tlsHost", &old.tls_hosts, &new.tls_hosts, &same),
            certificates: changed("certificate", &old.certificates, &new.certificates, &same),
            partial: gone.chain(there).collect(),
        }
    }
}

/// The digest of a snapshot while a delta is applied to it.
struct Sum<'a> {
    digest: Digest,
    partial: &'a mut Partial,
    /// What the delta says of resources that are understood in part; those that were met are taken out.
    news: PartialDelta,
}

impl Sum<'_> {
    /// One resource changes from one value to another.
    fn change<K: Serialize, V: Serialize>(&mut self, kind: &str, key: &K, old: Option<&V>, new: Option<&V>) {
        let (said_before, said_now) = match self.partial.is_empty() && self.news.is_empty() {
            true => (None, None),
            false => {
                let id = partial::id_of(kind, key);
                let before = self.partial.remove(&id);
                let now = self.news.remove(&id).flatten().filter(|_| new.is_some());
                if let Some(said) = now {
                    self.partial.insert(id, said);
                }
                (before, now)
            }
        };
        if let Some(before) = said_before.or_else(|| old.map(|old| Digest::of(kind, key, old))) {
            self.digest.remove(before);
        }
        if let Some(now) = said_now.or_else(|| new.map(|new| Digest::of(kind, key, new))) {
            self.digest.add(now);
        }
    }

    /// Sets or removes one entry.
    fn put<K: Ord + Clone + Serialize, V: Serialize>(
        &mut self,
        kind: &str,
        map: &mut BTreeMap<K, V>,
        key: &K,
        value: Option<V>,
    ) {
        self.change(kind, key, map.get(key), value.as_ref());
        match value {
            Some(value) => drop(map.insert(key.clone(), value)),
            None => drop(map.remove(key)),
        }
    }

    /// What no known collection has.
    fn rest(&mut self) {
        for (id, said) in std::mem::take(&mut self.news) {
            let before = match said {
                Some(said) => {
                    self.digest.add(said);
                    self.partial.insert(id, said)
                }
                None => self.partial.remove(&id),
            };
            if let Some(before) = before {
                self.digest.remove(before);
            }
        }
    }
}

impl Snapshot {
    /// Applies a change; costs O(what it holds). The digest is recomputed from the content, the rest of the version is
    /// taken over.
    pub fn apply(&mut self, delta: &Delta) {
        let mut partial = std::mem::take(&mut self.partial);
        let mut sum = Sum { digest: self.version.digest, partial: &mut partial, news: delta.partial.clone() };
        if let Some(globals) = &delta.globals {
            sum.change("globals", &(), self.has_globals.then_some(&self.globals), Some(globals));
            (self.globals, self.has_globals) = (globals.clone(), true);
        }
        for (key, value) in &delta.hosts {
            sum.put("host", &mut self.hosts, key, value.clone());
        }
        for (key, value) in &delta.backends {
            sum.put("backend", &mut self.backends, key, value.clone());
        }
        for (key, value) in &delta.contents {
            sum.put("content", &mut self.contents, key, value.clone());
        }
        for (key, value) in &delta.tls_hosts {
            sum.put("tlsHost", &mut self.tls_hosts, key, value.clone());
        }
        for (key, value) in &delta.certificates {
            sum.put("certificate", &mut self.certificates, key, value.clone());
        }
        sum.rest();
        self.version = Version { digest: sum.digest, ..delta.version.clone() };
        self.partial = partial;
    }

    /// Number of routes, default backends of Ingresses included: what guards against a snapshot that lost most of itself.
    pub fn route_count(&self) -> usize {
        let of_hosts: usize =
            self.hosts.values().map(|host| host.routes.len() + usize::from(host.default.is_some())).sum();
        of_hosts + usize::from(self.globals.catch_all.is_some())
    }
}
