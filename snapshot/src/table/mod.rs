//! The route table: what a request is looked up in. Immutable; an edit makes a new one that shares all it did not touch.
//!
//! Order of precedence, written once here: host exact, else wildcard one label up, else host-less; inside it Exact, then
//! the longest element-wise prefix, then the host's default backend; then the catch-all Ingress, then the configured
//! default backend. A lookup allocates nothing.

mod path_index;
mod shard_map;

use std::sync::Arc;

pub use path_index::PathIndex;
pub use shard_map::ShardMap;

use crate::key::{BackendKey, HostPattern, ObjectKey, parent_of};
use crate::model::{Backend, Certificate, Globals, Policy, Route, StaticContent, TlsHost, Version, VirtualHost};
use crate::replica::Change;

/// What a gateway attaches to the resources of a table: endpoint state, parsed certificates. Called when a resource
/// changes, never on a request.
pub trait Bind {
    /// What a backend becomes. `None`: its source is bad and no good form is known.
    type Backend: Clone;
    /// What a certificate becomes.
    type Certificate: Clone;

    /// Binds a backend.
    fn backend(&mut self, key: &BackendKey, backend: Option<&Arc<Backend>>) -> Self::Backend;
    /// Binds a certificate. `None`: unusable as it is.
    fn certificate(&mut self, key: &ObjectKey, certificate: &Arc<Certificate>) -> Option<Self::Certificate>;
}

/// Binds nothing: resources stand for themselves. For tools and tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unbound;

impl Bind for Unbound {
    type Backend = Option<Arc<Backend>>;
    type Certificate = Arc<Certificate>;

    fn backend(&mut self, _: &BackendKey, backend: Option<&Arc<Backend>>) -> Self::Backend {
        backend.cloned()
    }

    fn certificate(&mut self, _: &ObjectKey, certificate: &Arc<Certificate>) -> Option<Self::Certificate> {
        Some(certificate.clone())
    }
}

/// One host of the table: its routes, indexed.
#[derive(Debug)]
pub struct HostEntry {
    /// As published, for dumps and `explain`.
    pub source: Arc<VirtualHost>,
    paths: PathIndex,
}

impl HostEntry {
    fn new(source: Arc<VirtualHost>) -> Self {
        HostEntry { paths: PathIndex::new(&source.routes), source }
    }
}

/// The certificates of a server name, at most one per key type.
#[derive(Debug)]
pub enum ServerName<C> {
    /// These.
    Certificates(Vec<C>),
    /// The default certificate.
    Default,
    /// A certificate is known whose key is not at hand: the handshake must be refused, never answered with another one.
    KeyWithheld,
}

/// A certificate of the table.
#[derive(Debug, Clone)]
pub struct CertificateEntry<C> {
    /// As published.
    pub source: Arc<Certificate>,
    /// What the gateway made of it; `None` where the key is withheld or the certificate could not be bound.
    pub bound: Option<C>,
}

/// Tables of one gateway.
#[derive(Debug)]
pub struct RouteTable<B: Bind> {
    /// Which snapshot it shows.
    pub version: Version,
    /// What exists once.
    pub globals: Globals,
    exact: ShardMap<Arc<HostEntry>>,
    wildcard: ShardMap<Arc<HostEntry>>,
    any: Option<Arc<HostEntry>>,
    backends: ShardMap<B::Backend>,
    contents: ShardMap<Arc<StaticContent>>,
    tls_exact: ShardMap<Arc<TlsHost>>,
    tls_wildcard: ShardMap<Arc<TlsHost>>,
    certificates: ShardMap<Arc<CertificateEntry<B::Certificate>>>,
    /// Hosts whose TLS is passed through.
    passes: usize,
}

impl<B: Bind> Default for RouteTable<B> {
    fn default() -> Self {
        RouteTable {
            version: Version::default(),
            globals: Globals::default(),
            exact: ShardMap::default(),
            wildcard: ShardMap::default(),
            any: None,
            backends: ShardMap::default(),
            contents: ShardMap::default(),
            tls_exact: ShardMap::default(),
            tls_wildcard: ShardMap::default(),
            certificates: ShardMap::default(),
            passes: 0,
        }
    }
}

impl<B: Bind> Clone for RouteTable<B> {
    fn clone(&self) -> Self {
        RouteTable {
            version: self.version.clone(),
            globals: self.globals.clone(),
            exact: self.exact.clone(),
            wildcard: self.wildcard.clone(),
            any: self.any.clone(),
            backends: self.backends.clone(),
            contents: self.contents.clone(),
            tls_exact: self.tls_exact.clone(),
            tls_wildcard: self.tls_wildcard.clone(),
            certificates: self.certificates.clone(),
            passes: self.passes,
        }
    }
}

/// Whether the catch-all Ingress may take what nothing of a host takes.
fn may_take(catch_all: &Route, host: Option<&Arc<HostEntry>>) -> bool {
    let Some(owner) = host.and_then(|host| host.source.owner.as_ref()) else { return true };
    catch_all.ingress.as_ref().is_some_and(|ingress| ingress.namespace == *owner)
}

impl<B: Bind> RouteTable<B> {
    /// The table after a change. Costs O(the change) and the copying of the shards it falls into.
    pub fn apply(&self, change: &Change, bind: &mut B) -> RouteTable<B> {
        let mut table = self.clone();
        table.version = change.version.clone();
        if let Some(globals) = &change.globals {
            table.globals = globals.clone();
        }
        for (host, value) in &change.hosts {
            let entry = value.as_ref().map(|value| Arc::new(HostEntry::new(value.clone())));
            match host {
                HostPattern::Exact(name) => table.exact.put(name, entry),
                HostPattern::Wildcard(suffix) => table.wildcard.put(suffix, entry),
                HostPattern::Any => table.any = entry,
            }
        }
        for (key, value) in &change.backends {
            let bound = value.as_ref().map(|value| bind.backend(key, value.as_ref()));
            table.backends.put(&Arc::from(key.to_string()), bound);
        }
        for (key, value) in &change.contents {
            table.contents.put(&Arc::from(key.to_string()), value.clone());
        }
        for (host, value) in &change.tls_hosts {
            let (entries, name) = match host {
                HostPattern::Exact(name) => (&mut table.tls_exact, name),
                HostPattern::Wildcard(suffix) => (&mut table.tls_wildcard, suffix),
                HostPattern::Any => continue,
            };
            let passes =
                |entry: Option<&Arc<TlsHost>>| usize::from(entry.is_some_and(|entry| entry.passthrough.is_some()));
            table.passes = table.passes + passes(value.as_ref()) - passes(entries.get(name));
            entries.put(name, value.clone());
        }
        for (key, value) in &change.certificates {
            let entry = value.as_ref().map(|source| {
                let bound = bind.certificate(key, source);
                Arc::new(CertificateEntry { source: source.clone(), bound })
            });
            table.certificates.put(&Arc::from(key.to_string()), entry);
        }
        table
    }

    /// The host entry that takes requests for `host` (normalised; empty: the request has none).
    pub fn host(&self, host: &str) -> Option<&Arc<HostEntry>> {
        self.exact.get(host).or_else(|| self.wildcard.get(parent_of(host)?)).or(self.any.as_ref())
    }

    /// The route of a request: `host` and `path` normalised. `None`: 404.
    pub fn route(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let entry = self.host(host);
        entry
            .and_then(|entry| entry.paths.find(path).or(entry.source.default.as_ref()))
            .or_else(|| self.globals.catch_all.as_ref().filter(|route| may_take(route, entry)))
            .or(self.globals.default_backend.as_ref())
    }

    /// A backend that a route names.
    pub fn backend(&self, key: &BackendKey) -> Option<&B::Backend> {
        self.backends.get_display(key)
    }

    /// Content that a route names.
    pub fn content(&self, key: &ObjectKey) -> Option<&Arc<StaticContent>> {
        self.contents.get_display(key)
    }

    /// What happens to a request that no route takes, besides 404: as for the routes of its host, else as for everything.
    pub fn policy(&self, host: &str) -> &Policy {
        self.host(host).map_or(&self.globals.policy, |entry| &entry.source.policy)
    }

    /// Whether a host has TLS, so that plain HTTP is redirected.
    pub fn has_tls(&self, host: &str) -> bool {
        if let Some(exact) = self.tls_exact.get(host).filter(|entry| self.may_name(entry, host)) {
            return exact.redirect;
        }
        // A host with rules of its own is redirected by a wildcard only where that one has a rule too: who merely lists a
        // wildcard decides about certificates, not about other people's sites.
        let wildcard = parent_of(host).and_then(|parent| self.tls_wildcard.get(parent));
        let wildcard = wildcard.filter(|entry| self.may_name(entry, host));
        wildcard.is_some_and(|wildcard| wildcard.by_rule || (wildcard.redirect && self.exact.get(host).is_none()))
    }

    /// Whether TLS of any host is passed through.
    pub fn passes_any(&self) -> bool {
        self.passes > 0
    }

    /// The route that TLS of a server name (normalised) goes to as it is; `None`: it is ended here. A host with rules of its own is not its
    /// wildcard's.
    pub fn passthrough(&self, host: &str) -> Option<&Arc<Route>> {
        let wildcard = || self.tls_wildcard.get(parent_of(host)?).filter(|_| self.exact.get(host).is_none());
        // One that is there only because a certificate names the host takes nothing away from it.
        self.tls_exact.get(host).filter(|entry| !entry.own_name).or_else(wildcard)?.passthrough.as_ref()
    }

    fn tls_host(&self, host: &str) -> Option<&Arc<TlsHost>> {
        let exact = self.tls_exact.get(host).filter(|entry| self.may_name(entry, host));
        exact.or_else(|| self.tls_wildcard.get(parent_of(host)?).filter(|entry| self.may_name(entry, host)))
    }

    /// Whether an entry that is there only because a certificate names the host counts: not where the host is somebody else's. Compile sees
    /// to it, but the last good form of such an entry may be from before the host was claimed.
    fn may_name(&self, entry: &TlsHost, host: &str) -> bool {
        let owner = || self.host(host).and_then(|host| host.source.owner.as_ref());
        !entry.own_name
            || owner().is_none_or(|owner| entry.certificates.iter().all(|secret| secret.namespace == *owner))
    }

    /// A certificate by its Secret.
    pub fn certificate(&self, key: &ObjectKey) -> Option<&Arc<CertificateEntry<B::Certificate>>> {
        self.certificates.get_display(key)
    }

    /// The certificates for a server name (normalised), or what to do instead.
    pub fn server_name(&self, host: &str) -> ServerName<&B::Certificate> {
        match self.tls_host(host) {
            Some(entry) => self.bound(&entry.certificates, Some(host)),
            None => ServerName::Default,
        }
    }

    /// The default certificate by Secret, where one is configured and usable.
    pub fn default_certificate(&self) -> ServerName<&B::Certificate> {
        self.bound(self.globals.default_certificate.as_slice(), None)
    }

    /// The usable ones of some certificates, those that do not name the host left out: compile has seen to it for good
    /// ones, but the last good form of a bad one may be for other names.
    fn bound(&self, keys: &[ObjectKey], host: Option<&str>) -> ServerName<&B::Certificate> {
        let mut withheld = false;
        let mut bound = Vec::new();
        let mut types = Vec::new();
        let names_host =
            |entry: &&Arc<CertificateEntry<B::Certificate>>| host.is_none_or(|host| entry.source.covers(host));
        for entry in keys.iter().filter_map(|key| self.certificate(key)).filter(names_host) {
            match &entry.bound {
                Some(certificate) if !types.contains(&entry.source.key_type) => {
                    types.push(entry.source.key_type);
                    bound.push(certificate);
                }
                Some(_) => {}
                None => withheld |= entry.source.key.expose_der().is_none(),
            }
        }
        match (bound.is_empty(), withheld) {
            (false, _) => ServerName::Certificates(bound),
            (true, true) => ServerName::KeyWithheld,
            (true, false) => ServerName::Default,
        }
    }

    /// All hosts, in no particular order.
    pub fn hosts(&self) -> impl Iterator<Item = (HostPattern, &Arc<HostEntry>)> {
        let exact = self.exact.iter().map(|(name, entry)| (HostPattern::Exact(name.clone()), entry));
        let wildcard = self.wildcard.iter().map(|(name, entry)| (HostPattern::Wildcard(name.clone()), entry));
        exact.chain(wildcard).chain(self.any.iter().map(|entry| (HostPattern::Any, entry)))
    }

    /// All backends by their key's text, in no particular order.
    pub fn backends(&self) -> impl Iterator<Item = (&Arc<str>, &B::Backend)> {
        self.backends.iter()
    }

    /// All certificates by their Secret's text, in no particular order.
    pub fn certificates(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<CertificateEntry<B::Certificate>>)> {
        self.certificates.iter()
    }
}
