//! What a request adds to the load of its backend and endpoint, for as long as it is on its way; also when its task is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::observe::Cells;
use crate::upstream::{BackendState, EndpointState};

/// See the module.
pub struct Load {
    cells: Arc<Cells>,
    backend: Arc<BackendState>,
    endpoint: Option<Arc<EndpointState>>,
}

impl Load {
    /// A request is on its way to a backend.
    pub fn begin(cells: &Arc<Cells>, backend: &Arc<BackendState>) -> Self {
        cells.in_flight.fetch_add(1, Ordering::Relaxed);
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        Load { cells: cells.clone(), backend: backend.clone(), endpoint: None }
    }

    /// It goes to this endpoint now, and to no other.
    pub fn go_to(&mut self, endpoint: &Arc<EndpointState>) {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        self.leave_endpoint();
        self.endpoint = Some(endpoint.clone());
    }

    fn leave_endpoint(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.leave_endpoint();
        self.cells.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.backend.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
