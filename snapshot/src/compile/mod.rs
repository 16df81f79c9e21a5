//! Compile: the world's objects into a snapshot, incrementally. An edit costs what it touches.
//!
//! [`World::apply`] takes edits and returns what changed. It works in stages, each a pure function per key: classes →
//! claims of an Ingress → certificates, contents and backends → hosts and server names → diagnostics of references. A
//! stage marks the keys of later stages that depend on what it changed; equal results stop there. The whole output is a
//! function of the objects, settings and mode alone: applying edits one by one, in any order, and applying their sum to
//! an empty world give equal snapshots and diagnostics (`tests/suite/incremental.rs`).

mod access;
mod backend;
mod claims;
mod class;
mod content;
mod expiry;
mod host;
mod index;
mod mode;
mod owner;
mod passthrough;
mod reach;
mod references;
mod stages;
mod status;
mod store;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use access::{Access, READER_ROLE};
pub use owner::Whose;
pub use status::{IngressPoint, PortStatus, PublishAddress};

use claims::Claims;
use class::{ClassRef, Classes};
use store::{Index, Store};

use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::{Object, Trimmed};
use crate::key::{BackendKey, HostPattern, Kind, ObjectKey, ObjectRef, ServicePort};
use crate::model::{Delta, Reach, Snapshot, Version};
use crate::settings::Settings;

/// Diagnostics of one object from one stage that have the same reason, at most: an object with ten thousand flaws needs no list of all of
/// them.
const MAX_DIAGNOSTICS: usize = 100;

/// One change of the world.
#[derive(Debug, Clone)]
pub enum Edit {
    /// An object is there, with this content.
    Put(Object),
    /// The same, trimmed already.
    PutTrimmed(Trimmed),
    /// An object is gone.
    Remove(Kind, ObjectKey),
    /// What is known of the Secrets or ConfigMaps of a namespace. Without [`Settings::guarded`] it changes nothing.
    Access(Kind, Arc<str>, Access),
    /// The time: Unix seconds. Until one is told nothing is said of certificates that have ended.
    Now(i64),
}

/// What a batch of edits did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What changed in the snapshot.
    pub delta: Delta,
    /// Objects whose diagnostics may have changed.
    pub diagnosed: BTreeSet<ObjectRef>,
    /// Where it is recorded whose hosts are: whose those are now that were looked at.
    pub owners: BTreeMap<HostPattern, Whose>,
}

/// Where a diagnostic comes from: the stage and key whose recomputation replaces it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Object(Kind, ObjectKey),
    Reach(ObjectKey),
    Settings,
    Classes,
    CatchAlls,
    Claims(ObjectKey),
    Host(HostPattern),
    TlsHost(HostPattern),
    References(ObjectKey),
}

/// Keys that have to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    classes: bool,
    globals: bool,
    reach: bool,
    slices: BTreeSet<ObjectKey>,
    ingresses: BTreeSet<ObjectKey>,
    hosts: BTreeSet<HostPattern>,
    tls_hosts: BTreeSet<HostPattern>,
    backends: BTreeSet<BackendKey>,
    contents: BTreeSet<ObjectKey>,
    certificates: BTreeSet<ObjectKey>,
    references: BTreeSet<ObjectKey>,
}

/// All objects, all settings, and everything derived from them.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    store: Store,
    classes: Classes,
    /// Which addresses backends may have; `None`: every one.
    reach: Option<Arc<Reach>>,
    claims: BTreeMap<ObjectKey, Arc<Claims>>,
    /// Wildcards that somebody claims, unless hosts are everybody's.
    above: BTreeMap<HostPattern, owner::Above>,
    class_of: BTreeMap<ObjectKey, ClassRef>,
    by_class: Index<ClassRef, ObjectKey>,
    by_host: Index<HostPattern, ObjectKey>,
    by_tls_host: Index<HostPattern, ObjectKey>,
    by_backend: Index<BackendKey, ObjectKey>,
    by_content: Index<ObjectKey, ObjectKey>,
    by_secret: Index<ObjectKey, ObjectKey>,
    catch_alls: BTreeSet<ObjectKey>,
    snapshot: Snapshot,
    diagnostics: BTreeMap<Origin, Vec<Diagnostic>>,
    /// Origins of the diagnostics of an object.
    origins: Index<ObjectRef, Origin>,
    /// The time that was told last.
    now: Option<i64>,
    /// Where the objects stand in the API server's history: a version without its digest.
    position: Version,
}

impl World {
    /// An empty world.
    pub fn new(settings: Settings) -> Self {
        let store = Store { guarded: settings.guarded, ..Store::default() };
        let (classes, _) = Classes::build(&store, &settings);
        let reach = reach::of(&settings, &store);
        let mut world = World {
            settings,
            store,
            classes,
            reach,
            claims: BTreeMap::new(),
            above: BTreeMap::new(),
            class_of: BTreeMap::new(),
            by_class: Index::default(),
            by_host: Index::default(),
            by_tls_host: Index::default(),
            by_backend: Index::default(),
            by_content: Index::default(),
            by_secret: Index::default(),
            catch_alls: BTreeSet::new(),
            snapshot: Snapshot::default(),
            diagnostics: BTreeMap::new(),
            origins: Index::default(),
            now: None,
            position: Version::default(),
        };
        let mut dirty = Dirty { globals: true, ..Dirty::default() };
        dirty.backends.extend(world.settings.default_backend.clone());
        dirty.certificates.extend(world.settings.default_certificate.clone());
        world.recompute(dirty);
        world
    }

    /// The inputs besides the objects.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The compiled output.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Everything that is wrong, sorted.
    pub fn diagnostics(&self) -> Vec<&Diagnostic> {
        let mut all: Vec<&Diagnostic> = self.diagnostics.values().flatten().collect();
        all.sort();
        all
    }

    /// What is wrong with one object, sorted.
    pub fn diagnostics_of(&self, object: &ObjectRef) -> Vec<&Diagnostic> {
        let mut all: Vec<&Diagnostic> = self
            .origins
            .of(object)
            .filter_map(|origin| self.diagnostics.get(origin))
            .flatten()
            .filter(|diagnostic| diagnostic.object == *object)
            .collect();
        all.sort();
        all
    }

    /// `status.loadBalancer.ingress` of an Ingress; `None` where it is not ours.
    pub fn status(&self, ingress: &ObjectKey, addresses: &[PublishAddress]) -> Option<Vec<IngressPoint>> {
        let has_tls = !self.store.ingresses.get(ingress)?.tls.is_empty();
        self.claims.get(ingress)?;
        let diagnostics = self.diagnostics_of(&ObjectRef::new(Kind::Ingress, ingress));
        Some(status::build(addresses, has_tls, diagnostics.iter().map(|diagnostic| diagnostic.reason)))
    }

    /// Name of the class of an Ingress, empty where it has none; `None` where it is not ours.
    pub fn class_of(&self, ingress: &ObjectKey) -> Option<&Arc<str>> {
        Some(self.claims.get(ingress)?.class())
    }

    /// Every Ingress, ours or not.
    pub fn ingresses(&self) -> impl Iterator<Item = &ObjectKey> {
        self.store.ingresses.keys()
    }

    /// Whether the world has an object, used or not.
    pub fn knows(&self, kind: Kind, key: &ObjectKey) -> bool {
        self.store.contains(kind, key)
    }

    /// The Ingresses that are ours.
    pub fn served(&self) -> impl Iterator<Item = &ObjectKey> {
        self.claims.keys()
    }

    /// The edits that come next stand here in the API server's history. The digest of `position` has no meaning.
    pub fn stand_at(&mut self, position: Version) {
        self.position = position;
    }

    /// Applies edits, in order; costs O(what they touch).
    pub fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) -> Outcome {
        let mut dirty = Dirty::default();
        let mut diagnosed = BTreeSet::new();
        for edit in edits {
            self.take(edit, &mut dirty, &mut diagnosed);
        }
        let mut outcome = self.recompute(dirty);
        outcome.diagnosed.append(&mut diagnosed);
        outcome
    }

    /// Stores one edit and marks what depends on the object directly.
    fn take(&mut self, edit: Edit, dirty: &mut Dirty, diagnosed: &mut BTreeSet<ObjectRef>) {
        let (kind, key, facts, diagnostics) = match edit {
            Edit::Put(object) => return self.take(Edit::PutTrimmed(object.trim()), dirty, diagnosed),
            Edit::PutTrimmed(Trimmed { facts, mut diagnostics, resource_version: _ }) => {
                diagnostics.extend(self.judge_mode(&facts));
                (facts.kind(), facts.key().clone(), Some(facts), diagnostics)
            }
            Edit::Remove(kind, key) => (kind, key, None, Vec::new()),
            Edit::Access(kind, namespace, access) => return self.take_access(kind, namespace, access, dirty),
            Edit::Now(now) => return self.take_time(now, dirty),
        };
        self.diagnose(Origin::Object(kind, key.clone()), diagnostics, diagnosed);
        let Some(change) = self.store.put(kind, &key, facts.as_ref()) else { return };
        dirty.reach |= reach::tells_api_server(kind, &key);
        match kind {
            Kind::Ingress => drop(dirty.ingresses.insert(key)),
            Kind::IngressClass => dirty.classes = true,
            Kind::Service => self.mark_backends(&key, dirty),
            Kind::EndpointSlice => {
                change.services.iter().for_each(|service| self.mark_backends(service, dirty));
                dirty.slices.insert(key);
            }
            Kind::Secret => {
                match change.renewed {
                    // Only its end is another one.
                    true => dirty.references.extend(self.by_secret.of(&key).cloned()),
                    false => self.mark_secret(&key, dirty),
                }
                dirty.certificates.insert(key);
            }
            Kind::ConfigMap => {
                let parameters = self.store.classes.values().filter_map(|class| class.parameters.as_ref());
                let names_it = |namespace: &Option<Arc<str>>, name: &Arc<str>| {
                    namespace.as_ref() == Some(&key.namespace) && *name == key.name
                };
                dirty.classes |= self.settings.config_map.as_ref() == Some(&key)
                    || parameters.into_iter().any(|parameters| names_it(&parameters.namespace, &parameters.name));
                dirty.contents.insert(key);
            }
            Kind::HostOwners => self.mark_recorded(&key, change.hosts, dirty),
        }
    }

    /// Whoever names a Secret has to be looked at again, and every server name that it may serve.
    fn mark_secret(&self, secret: &ObjectKey, dirty: &mut Dirty) {
        for ingress in self.by_secret.of(secret) {
            dirty.ingresses.insert(ingress.clone());
            dirty.tls_hosts.extend(self.claims.get(ingress).into_iter().flat_map(|claims| claims.tls.keys().cloned()));
        }
    }

    fn mark_backends(&self, service: &ObjectKey, dirty: &mut Dirty) {
        // Port 0 sorts before every port of the Service.
        let first = BackendKey { service: service.clone(), port: ServicePort::Number(0) };
        let used = self.by_backend.keys_from(&first).take_while(|key| key.service == *service);
        let default = self.settings.default_backend.iter().filter(|key| key.service == *service);
        dirty.backends.extend(used.chain(default).cloned());
    }

    /// Runs the stages over what is marked.
    fn recompute(&mut self, mut dirty: Dirty) -> Outcome {
        let mut delta = Delta::default();
        let mut diagnosed = BTreeSet::new();
        if dirty.reach {
            self.recompute_reach(&mut dirty);
        }
        for key in std::mem::take(&mut dirty.slices) {
            self.judge_reach(&key, &mut diagnosed);
        }
        if dirty.classes {
            self.recompute_classes(&mut dirty, &mut diagnosed);
        }
        for key in std::mem::take(&mut dirty.ingresses) {
            self.recompute_claims(&key, &mut dirty, &mut diagnosed);
        }
        self.mark_owned(&mut dirty);
        self.recompute_resources(&mut dirty, &mut delta);
        for host in &dirty.hosts {
            self.recompute_host(host, &mut delta, &mut diagnosed);
        }
        for host in &dirty.tls_hosts {
            self.recompute_tls_host(host, &mut delta, &mut diagnosed);
        }
        if dirty.globals {
            let globals = self.recompute_globals(&mut diagnosed);
            let is_news = !self.snapshot.has_globals || globals != self.snapshot.globals;
            delta.globals = is_news.then_some(globals);
        }
        delta.version = Version { digest: self.snapshot.version.digest, ..self.position.clone() };
        self.snapshot.apply(&delta);
        delta.version = self.snapshot.version.clone();
        for key in &dirty.references {
            let diagnostics = match self.claims.get(key) {
                Some(claims) => references::diagnose(claims, &self.store, &self.snapshot, self.now),
                None => Vec::new(),
            };
            self.diagnose(Origin::References(key.clone()), diagnostics, &mut diagnosed);
        }
        let diagnostics = references::diagnose_settings(&self.settings, &self.store, &self.snapshot, self.now);
        self.diagnose(Origin::Settings, diagnostics, &mut diagnosed);
        let owners = self.owners_of(&dirty);
        Outcome { delta, diagnosed, owners }
    }

    /// The claims of some Ingresses, in order of precedence.
    fn ranked<'a>(&'a self, keys: impl Iterator<Item = &'a ObjectKey>) -> Vec<&'a Arc<Claims>> {
        let mut claims: Vec<&Arc<Claims>> = keys.filter_map(|key| self.claims.get(key)).collect();
        host::sort_by_precedence(&mut claims);
        claims
    }

    /// Replaces the diagnostics of an origin, the first [`MAX_DIAGNOSTICS`] of each object and reason, and notes the objects whose diagnostics change by it.
    fn diagnose(&mut self, origin: Origin, mut new: Vec<Diagnostic>, diagnosed: &mut BTreeSet<ObjectRef>) {
        if new.len() > MAX_DIAGNOSTICS {
            let mut counts: BTreeMap<(ObjectRef, DiagnosticReason), usize> = BTreeMap::new();
            new.retain(|diagnostic| {
                let count = counts.entry((diagnostic.object.clone(), diagnostic.reason)).or_default();
                *count += 1;
                *count <= MAX_DIAGNOSTICS
            });
        }
        let old = self.diagnostics.remove(&origin).unwrap_or_default();
        if old != new {
            let (was, is): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
            diagnosed.extend(was.symmetric_difference(&is).map(|diagnostic| diagnostic.object.clone()));
            let objects = |diagnostics: &[Diagnostic]| -> BTreeSet<ObjectRef> {
                diagnostics.iter().map(|diagnostic| diagnostic.object.clone()).collect()
            };
            let (was, is) = (objects(&old), objects(&new));
            was.difference(&is).for_each(|object| self.origins.remove(object, &origin));
            is.difference(&was).for_each(|object| self.origins.insert(object, &origin));
        }
        if !new.is_empty() {
            self.diagnostics.insert(origin, new);
        }
    }
}
