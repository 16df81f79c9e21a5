//! Where endpoints may lead in a cluster: the operator's settings, and the API server's own addresses, which its Service
//! and its EndpointSlice tell.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::store::Store;
use super::{Dirty, Origin, World};
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::SliceFacts;
use crate::key::{Kind, ObjectKey, ObjectRef, ServicePort};
use crate::model::{Reach, Unreachable};
use crate::settings::{Mode, Settings};

/// Namespace of the API server's Service.
const NAMESPACE: &str = "default";

/// Name of that Service, and of the one EndpointSlice that the API server writes itself. Others that claim to belong to the
/// Service are anybody's, and could have any address refused.
const NAME: &str = "kubernetes";

/// Whether an object tells the API server's addresses.
pub(super) fn tells_api_server(kind: Kind, key: &ObjectKey) -> bool {
    matches!(kind, Kind::Service | Kind::EndpointSlice) && *key.namespace == *NAMESPACE && *key.name == *NAME
}

/// What backends may have; `None`: every address.
pub(super) fn of(settings: &Settings, store: &Store) -> Option<Arc<Reach>> {
    if settings.mode == Mode::Standalone {
        return None;
    }
    let mut reach = settings.reach.clone();
    let key = ObjectKey::new(NAMESPACE, NAME);
    reach.api_server.extend(store.services.get(&key).iter().flat_map(|service| &service.api_server));
    reach.api_server.extend(store.slices.get(&key).iter().flat_map(|slice| addresses(slice)));
    Some(Arc::new(reach))
}

fn addresses(slice: &SliceFacts) -> impl Iterator<Item = SocketAddr> {
    let of_port = |port: u16| slice.endpoints.iter().map(move |endpoint| SocketAddr::new(endpoint.address, port));
    slice.ports.iter().flat_map(move |port| of_port(port.port))
}

impl World {
    /// Takes over new addresses of the API server. They change when a control plane does: everything is looked at.
    pub(super) fn recompute_reach(&mut self, dirty: &mut Dirty) {
        let new = of(&self.settings, &self.store);
        if new == self.reach {
            return;
        }
        self.reach = new;
        dirty.globals = true;
        let first = crate::BackendKey { service: ObjectKey::new("", ""), port: ServicePort::Number(0) };
        dirty.backends.extend(self.by_backend.keys_from(&first).cloned());
        dirty.backends.extend(self.settings.default_backend.clone());
        dirty.slices.extend(self.store.slices.keys().cloned());
    }

    /// Says which endpoints of a slice are refused.
    pub(super) fn judge_reach(&mut self, key: &ObjectKey, diagnosed: &mut BTreeSet<ObjectRef>) {
        let diagnostics = match (self.store.slices.get(key), &self.reach) {
            // That an Ingress leads there is said at the Ingress; the object itself is as it should be.
            (Some(_), _) if tells_api_server(Kind::EndpointSlice, key) => Vec::new(),
            (Some(slice), Some(reach)) => refusals(slice, reach),
            _ => Vec::new(),
        };
        self.diagnose(Origin::Reach(key.clone()), diagnostics, diagnosed);
    }
}

fn refusals(slice: &SliceFacts, reach: &Reach) -> Vec<Diagnostic> {
    let refused: BTreeSet<(SocketAddr, Unreachable)> =
        addresses(slice).filter_map(|address| Some((address, reach.judge(address).err()?))).collect();
    let object = ObjectRef::new(Kind::EndpointSlice, &slice.key);
    let diagnostic = |(address, why): &(SocketAddr, Unreachable)| {
        let allow =
            why.allowed_by().map(|name| format!(" (allowBackends: [{name}] would allow it)")).unwrap_or_default();
        let message = format!("{address} is {why}; the endpoint is not used{allow}");
        Diagnostic::new(object.clone(), DiagnosticReason::EndpointRefused, "endpoints", message)
    };
    // Whoever writes a thousand of them needs no thousand lines.
    refused.iter().take(MAX_REFUSALS).map(diagnostic).collect()
}

/// Diagnostics of one slice, at most.
const MAX_REFUSALS: usize = 16;
