//! Finds the state of endpoints that a new table names again. Owned by the applier; workers never see it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use sluicegate_snapshot::BackendKey;
use sluicegate_snapshot::model::{Backend, HealthCheck, NamedEndpoint};
use tokio::task::AbortHandle;

use super::bound::{BadSource, BoundBackend};
use super::resolve::{ResolvedName, Resolver};
use super::{BackendState, EndpointState, Guard, probe};

/// What is known of a backend, as long as somebody else has it.
#[derive(Default)]
struct Known {
    state: Weak<BackendState>,
    endpoints: Vec<Weak<EndpointState>>,
    names: Vec<Weak<ResolvedName>>,
}

/// State by identity. Holds nothing alive by itself.
pub struct Registry {
    backends: HashMap<BackendKey, Known>,
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
        let known = self.backends.entry(key.clone()).or_default();
        let state = known.state.upgrade().unwrap_or_default();
        known.state = Arc::downgrade(&state);
        let pool_group = self.hasher.hash_one(key);
        let Some(backend) = backend else {
            return Arc::new(BoundBackend {
                key: key.clone(),
                unavailable: Some(Err(BadSource)),
                state,
                endpoints: Vec::new(),
                names: Vec::new(),
                guard: self.guard.clone(),
                proxy_protocol: false,
                pool_group,
            });
        };
        let endpoint = |address: &SocketAddr| EndpointState::new(*address);
        let endpoints = revive(&mut known.endpoints, &backend.endpoints, |state| &state.address, endpoint);
        let namespace = &key.service.namespace;
        let follow = |name: &NamedEndpoint| self.resolver.follow(name.clone(), namespace.clone(), self.guard.clone());
        let names = revive(&mut known.names, &backend.names, |state| &state.name, follow);
        let bound = Arc::new(BoundBackend {
            key: key.clone(),
            unavailable: backend.unavailable.map(Ok),
            state,
            endpoints,
            names,
            guard: self.guard.clone(),
            proxy_protocol: backend.proxy_protocol,
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
        if self.backends.len() < self.sweep_at {
            return;
        }
        self.backends.retain(|_, known| known.state.strong_count() > 0);
        self.checks.retain(|_, (_, running)| !running.is_finished());
        self.sweep_at = 2 * self.backends.len().max(512);
    }
}

/// The living states of these identities, or new ones. Those that live and are not named now stay known: requests have them.
fn revive<I: Ord, S>(
    known: &mut Vec<Weak<S>>,
    identities: &[I],
    identity: impl Fn(&S) -> &I,
    make: impl Fn(&I) -> Arc<S>,
) -> Vec<Arc<S>> {
    let living: Vec<Arc<S>> = known.iter().filter_map(Weak::upgrade).collect();
    let mut others: BTreeMap<&I, &Arc<S>> = living.iter().map(|state| (identity(state), state)).collect();
    let named: Vec<Arc<S>> =
        identities.iter().map(|wanted| others.remove(wanted).cloned().unwrap_or_else(|| make(wanted))).collect();
    *known = named.iter().chain(others.into_values()).map(Arc::downgrade).collect();
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_again_as_long_as_somebody_has_it() {
        let mut known = Vec::new();
        let mut bind = |ports: &[u16]| {
            let addresses: Vec<SocketAddr> =
                ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
            revive(
                &mut known,
                &addresses,
                |state: &EndpointState| &state.address,
                |address| EndpointState::new(*address),
            )
        };
        let first = bind(&[1, 2]);
        let request = first[1].clone();
        let second = bind(&[1, 3]);
        assert!(Arc::ptr_eq(&first[0], &second[0]), "named by both");
        let third = bind(&[3, 2, 1]);
        assert!(Arc::ptr_eq(&third[1], &request), "not named for a while, but a request had it");
        assert!(Arc::ptr_eq(&third[0], &second[1]));
        drop((first, second, third, request));
        assert_eq!(bind(&[1])[0].in_flight.load(std::sync::atomic::Ordering::Relaxed), 0);
        assert_eq!(known.len(), 1, "what nobody has is forgotten");
    }
}
