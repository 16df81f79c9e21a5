//! Upstream state: endpoints, their health, how one is picked, how names are resolved.
//!
//! State is keyed by identity (backend, address) and outlives tables: [`registry::Registry`] hands the same
//! [`EndpointState`] to every table that names the endpoint. The table holds the state, the registry only knows it, so
//! removing the last route to an endpoint frees it.

pub mod bound;
pub mod connection;
pub mod endpoint;
pub mod guard;
pub mod pick;
pub mod probe;
pub mod registry;
pub mod resolve;

pub use bound::BoundBackend;
pub use endpoint::{BackendState, EndpointState};
pub use guard::Guard;
pub use registry::Registry;
