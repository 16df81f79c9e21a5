//! Finds the state of endpoints that a new table names again. Owned by the applier; workers never see it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use sluicegate_snapshot::BackendKey;
use sluicegate_snapshot::model::{Backend, HealthCheck, NamedEndpoint, Unavailable};
use tokio::task::AbortHandle;

use super::resolve::{ResolvedName, Resolver};
use super::{BackendState, EndpointState, Guard, probe};

/// A backend of a table, with the state of its endpoints.
#[derive(Debug)]
pub struct BoundBackend {
    /// Identity.
    pub key: BackendKey,
    /// Why there is nothing to send to; `Err` where even that is not known because its source is bad.
    pub unavailable: Option<Result<Unavailable, BadSource>>,
    /// State of the backend as a whole.
    pub state: Arc<BackendState>,
    /// Endpoints by address.
    pub endpoints: Vec<Arc<EndpointState>>,
    /// Endpoints by name.
    pub names: Vec<Arc<ResolvedName>>,
    /// Which of them may be connected to.
    pub guard: Arc<Guard>,
    /// Separates this backend's upstream connections from those of others to the same address.
    pub pool_group: u64,
}

/// The source of a backend is bad and no good form is known: it fails closed.
#[derive(Debug, Clone, Copy)]
pub struct BadSource;

impl BoundBackend {
    /// All endpoints known now: those by address, and what the names resolve to.
    pub fn all_endpoints(&self) -> Vec<Arc<EndpointState>> {
        let mut all = self.endpoints.clone();
        all.extend(self.names.iter().flat_map(|name| name.endpoints().iter().cloned().collect::<Vec<_>>()));
        all
    }
}

/// State by identity. Holds nothing alive by itself.
pub struct Registry {
    backends: HashMap<BackendKey, Weak<BackendState>>,
    endpoints: HashMap<(BackendKey, SocketAddr), Weak<EndpointState>>,
    names: HashMap<(BackendKey, NamedEndpoint), Weak<ResolvedName>>,
    /// The active check of each backend that has one.
    checks: HashMap<BackendKey, (HealthCheck, AbortHandle)>,
    /// Seeded per process; a pool group never leaves it.
    hasher: RandomState,
    guard: Arc<Guard>,
    resolver: Resolver,
    prober: probe::Prober,
    sweep_at: usize,
}

impl Registry {
    /// An empty registry whose names are resolved, and whose endpoints are checked, by these; `guard` says which may be
    /// connected to.
    pub fn new(guard: Arc<Guard>, resolver: Resolver, prober: probe::Prober) -> Self {
        Registry {
            backends: HashMap::new(),
            endpoints: HashMap::new(),
            names: HashMap::new(),
            checks: HashMap::new(),
            hasher: RandomState::new(),
            guard,
            resolver,
            prober,
            sweep_at: 1024,
        }
    }

    /// Which endpoints may be connected to.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Binds a backend to the state of its endpoints.
    pub fn bind(&mut self, key: &BackendKey, backend: Option<&Arc<Backend>>) -> Arc<BoundBackend> {
        self.sweep();
        let state = revive(&mut self.backends, key.clone(), || Arc::new(BackendState::default()));
        let pool_group = self.hasher.hash_one(key);
        let Some(backend) = backend else {
            return Arc::new(BoundBackend {
                key: key.clone(),
                unavailable: Some(Err(BadSource)),
                state,
                endpoints: Vec::new(),
                names: Vec::new(),
                guard: self.guard.clone(),
                pool_group,
            });
        };
        let endpoints: Vec<_> = backend
            .endpoints
            .iter()
            .map(|address| revive(&mut self.endpoints, (key.clone(), *address), || EndpointState::new(*address)))
            .collect();
        let names = backend
            .names
            .iter()
            .map(|name| {
                let resolver = &self.resolver;
                revive(&mut self.names, (key.clone(), name.clone()), || {
                    resolver.follow(name.clone(), key.service.namespace.clone(), self.guard.clone())
                })
            })
            .collect();
        let bound = Arc::new(BoundBackend {
            key: key.clone(),
            unavailable: backend.unavailable.map(Ok),
            state,
            endpoints,
            names,
            guard: self.guard.clone(),
            pool_group,
        });
        self.check(&bound, backend.health_check.as_ref());
        bound
    }

    /// Starts the check of a backend, in place of the one before.
    fn check(&mut self, bound: &Arc<BoundBackend>, check: Option<&HealthCheck>) {
        let before = self.checks.remove(&bound.key);
        let same = before.as_ref().map(|(check, _)| check) == check;
        if let Some((_, running)) = before {
            running.abort();
        }
        match check {
            Some(check) => {
                if !same {
                    bound.all_endpoints().iter().for_each(|endpoint| endpoint.probed_anew());
                }
                let running = self.prober.watch(bound, check.clone());
                self.checks.insert(bound.key.clone(), (check.clone(), running));
            }
            None if !same => bound.all_endpoints().iter().for_each(|endpoint| endpoint.unprobed()),
            None => {}
        }
    }

    /// Forgets dead entries once their number may have doubled: O(1) per bind on average.
    fn sweep(&mut self) {
        if self.endpoints.len() + self.backends.len() + self.names.len() < self.sweep_at {
            return;
        }
        self.backends.retain(|_, state| state.strong_count() > 0);
        self.endpoints.retain(|_, state| state.strong_count() > 0);
        self.names.retain(|_, name| name.strong_count() > 0);
        self.checks.retain(|_, (_, running)| !running.is_finished());
        self.sweep_at = 2 * (self.endpoints.len() + self.backends.len() + self.names.len()).max(512);
    }
}

/// The living state of an identity, or a new one.
fn revive<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, Weak<V>>, key: K, make: impl FnOnce() -> Arc<V>) -> Arc<V> {
    if let Some(state) = map.get(&key).and_then(Weak::upgrade) {
        return state;
    }
    let state = make();
    map.insert(key, Arc::downgrade(&state));
    state
}
