//! A backend of a table: its endpoints, and what is known of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_snapshot::BackendKey;
use sluicegate_snapshot::model::Unavailable;

use super::resolve::ResolvedName;
use super::{BackendState, EndpointState, Guard, pick};
use crate::clock;
use crate::reason::Reason;

/// How long a request waits for the first answer about a name.
const FIRST_LOOKUP: Duration = Duration::from_secs(5);

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
    /// Connections begin with a PROXY header.
    pub proxy_protocol: bool,
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

    /// The endpoints to choose from. Where nothing is known of any name yet the very first request waits for the first answer.
    ///
    /// # Errors
    /// No name resolves, or none to an address that may be connected to.
    pub async fn candidates(&self) -> Result<Cow<'_, [Arc<EndpointState>]>, Reason> {
        if self.names.is_empty() {
            return Ok(Cow::Borrowed(&self.endpoints));
        }
        let mut endpoints = self.all_endpoints();
        if endpoints.is_empty() {
            let asked = async {
                for name in &self.names {
                    name.asked().await;
                }
            };
            let _ = tokio::time::timeout(FIRST_LOOKUP, asked).await;
            endpoints = self.all_endpoints();
        }
        match endpoints.is_empty() {
            true if self.names.iter().any(|name| name.is_refused()) => Err(Reason::EndpointsRefused),
            true => Err(Reason::NameUnresolved),
            false => Ok(Cow::Owned(endpoints)),
        }
    }

    /// No connection to one of its endpoints could be made, and that is not the gateway's own trouble.
    pub fn connect_failed(&self, endpoint: &EndpointState) {
        let now = clock::now_ms();
        if endpoint.connect_failed() && !endpoint.is_ejected(now) && pick::may_eject(&self.all_endpoints(), now) {
            let duration = endpoint.eject(now);
            tracing::warn!(backend = %self.key, endpoint = %endpoint.address, ms = duration, "endpoint ejected: connections fail");
        }
    }
}
