//! The last look at an address before it is connected to.
//!
//! A controller judges addresses that objects name, but what a name resolves to only the gateway knows. Everything that
//! connects to endpoints asks here: the resolver for each answer, requests and health checks for each connection.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use sluicegate_snapshot::model::{Globals, Reach, Unreachable, reach};

/// Which addresses may be connected to now.
#[derive(Debug, Default)]
pub struct Guard {
    reach: ArcSwapOption<Reach>,
    in_cluster: bool,
}

impl Guard {
    /// For a gateway that follows controllers: until one says otherwise, what a cluster guards by default.
    pub fn in_cluster() -> Self {
        Guard { reach: ArcSwapOption::from_pointee(Reach::default()), in_cluster: true }
    }

    /// Takes over what a snapshot says. Files say nothing: their author may connect to every address that exists.
    pub fn obey(&self, globals: &Globals) {
        let default = || self.in_cluster.then(|| Arc::new(Reach::default()));
        self.reach.store(globals.reach.clone().or_else(default));
    }

    /// Whether a name that an ExternalName Service of this namespace leads to, by an alias of its author's DNS, is that of another
    /// namespace's Service, or of a pod.
    pub fn leaves_namespace(&self, name: &str, namespace: &str) -> bool {
        self.reach.load().as_ref().is_some_and(|reach| reach.leaves_namespace(name, namespace))
    }

    /// Whether an address may be connected to. Costs a few comparisons, and no lock.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, address: SocketAddr) -> Result<(), Unreachable> {
        match &*self.reach.load() {
            Some(reach) => reach.judge(address),
            None => reach::never(address.ip()),
        }
    }
}
