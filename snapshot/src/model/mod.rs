//! The contract: what compile puts out, the stream and the state file carry, and the gateway reads.
//!
//! One set of types for wire, file and dump. Cardinality follows what users edit: one [`VirtualHost`] per host, one
//! [`Backend`] per Service port, one [`Certificate`] per Secret. A route names its backend, never addresses, so that a
//! restarted pod changes one backend and no route. Deliberately absent: anything that only one gateway can know
//! (health, resolved names, clocks).

mod backend;
mod certificate;
mod content;
pub mod partial;
pub mod reach;
mod route;
mod snapshot;
mod version;

pub use backend::{Backend, HealthCheck, HealthProbe, NamedEndpoint, Unavailable};
pub use certificate::{Certificate, KeyType, PrivateKey, TlsHost};
pub use content::{StaticContent, StaticFile};
pub use reach::{Allowed, Reach, Unreachable};
pub use route::{Lost, PathType, Policy, Refusal, Route, SetBy, Sources, Target, VirtualHost, match_path};
pub use snapshot::{Delta, Globals, Invalid, Resource, Snapshot};
pub use version::{Behind, Digest, ResourceVersions, Version};
