//! A broken source at the start: what the state file knows fills the gaps.

use std::sync::Arc;

use sluicegate_snapshot::model::{Route, VirtualHost};
use sluicegate_snapshot::{Delta, Snapshot, World};

/// Takes the losses out of a delta: what would be removed stays, and a host that changes keeps the routes of Ingresses
/// that the world does not know.
pub(super) fn keep_losses(delta: &mut Delta, old: &Snapshot, world: &World) {
    delta.hosts.retain(|_, value| value.is_some());
    delta.backends.retain(|_, value| value.is_some());
    delta.contents.retain(|_, value| value.is_some());
    delta.tls_hosts.retain(|_, value| value.is_some());
    delta.certificates.retain(|_, value| value.is_some());
    let unknown = |route: &Arc<Route>| route.ingress.as_ref().is_some_and(|ingress| !world.knows_ingress(ingress));
    for (host, value) in &mut delta.hosts {
        let (Some(new), Some(old)) = (value.as_mut(), old.hosts.get(host)) else { continue };
        let mut merged = VirtualHost::clone(new);
        let free = |route: &&Arc<Route>| {
            let same = |other: &Arc<Route>| {
                other.path_type.is_prefix() == route.path_type.is_prefix() && other.match_path() == route.match_path()
            };
            unknown(route) && !new.routes.iter().any(same)
        };
        merged.routes.extend(old.routes.iter().filter(free).cloned());
        if merged.default.is_none() {
            merged.default = old.default.clone().filter(unknown);
        }
        *new = Arc::new(merged);
    }
    if let Some(globals) = &mut delta.globals
        && globals.catch_all.is_none()
    {
        globals.catch_all = old.globals.catch_all.clone().filter(unknown);
    }
}
