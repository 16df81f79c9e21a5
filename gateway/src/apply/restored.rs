//! A broken source at the start: what the state file knows fills the gaps.

use std::sync::Arc;

use sluicegate_snapshot::key::{HostPattern, Kind};
use sluicegate_snapshot::model::{Route, VirtualHost};
use sluicegate_snapshot::{Delta, Snapshot, World};

use crate::manifests::source::Certainty;

/// Takes out of a delta what may be a loss and no deletion: objects that the files may hold in a form that cannot be read
/// keep what the state file says of them. Everything else is as the files say.
pub(super) fn keep_losses(delta: &mut Delta, old: &Snapshot, world: &World, certainty: &Certainty) {
    let lost = |route: &Arc<Route>| {
        route
            .ingress
            .as_ref()
            .is_some_and(|key| !world.knows(Kind::Ingress, key) && certainty.doubts(Kind::Ingress, key))
    };
    for (host, value) in &mut delta.hosts {
        let Some(old) = old.hosts.get(host) else { continue };
        *value = merged(value.as_deref(), old, lost).map(Arc::new);
    }
    let any_slice = certainty.doubts_any(Kind::EndpointSlice);
    // What a lost Ingress names is named by nobody else, perhaps: its routes want it in the form it had.
    let any_ingress = certainty.doubts_any(Kind::Ingress);
    delta.backends.retain(|key, value| {
        let lost = !world.knows(Kind::Service, &key.service) && certainty.doubts(Kind::Service, &key.service);
        let unnamed = value.is_none() && any_ingress;
        !(old.backends.contains_key(key) && (lost || any_slice || unnamed))
    });
    delta.contents.retain(|key, value| value.is_some() || !(any_ingress || certainty.doubts(Kind::ConfigMap, key)));
    delta.certificates.retain(|key, value| value.is_some() || !(any_ingress || certainty.doubts(Kind::Secret, key)));
    let any_name = any_ingress || certainty.doubts_any(Kind::Secret);
    delta.tls_hosts.retain(|_: &HostPattern, value| value.is_some() || !any_name);
    if let Some(globals) = &mut delta.globals
        && globals.catch_all.is_none()
    {
        globals.catch_all = old.globals.catch_all.clone().filter(lost);
    }
}

/// A host with the routes of lost Ingresses beside those of its other ones; `None`: nothing is left of it.
fn merged(new: Option<&VirtualHost>, old: &VirtualHost, lost: impl Fn(&Arc<Route>) -> bool) -> Option<VirtualHost> {
    let mut host = new.cloned().unwrap_or_else(|| VirtualHost { policy: old.policy.clone(), ..VirtualHost::default() });
    let free = |route: &&Arc<Route>, taken: &[Arc<Route>]| {
        let same = |other: &Arc<Route>| {
            other.path_type.is_prefix() == route.path_type.is_prefix() && other.match_path() == route.match_path()
        };
        lost(route) && !taken.iter().any(same)
    };
    let kept: Vec<Arc<Route>> = old.routes.iter().filter(|route| free(route, &host.routes)).cloned().collect();
    host.routes.extend(kept);
    if host.default.is_none() {
        host.default = old.default.clone().filter(&lost);
    }
    (new.is_some() || !host.routes.is_empty() || host.default.is_some()).then_some(host)
}
