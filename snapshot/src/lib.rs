//! The pure core of Sluicegate: objects of the Ingress world in, a route snapshot out.
//!
//! ```text
//! objects -> Facts -> World -> compile -> Delta -> Replica -> RouteTable -> lookup
//!                        \-> Diagnostics, status
//! ```
//!
//! Everything here is total, deterministic and free of IO, clocks and async: the controller compiles from watches, the
//! standalone gateway and `sluicegate check` from files, and all agree to the byte. Bad input becomes a [`Diagnostic`],
//! never a panic and never another object's trouble.

pub mod compile;
pub mod diagnostic;
pub mod facts;
pub mod host;
pub mod host_policy;
pub mod key;
pub mod model;
pub mod path;
pub mod replica;
pub mod setting;
pub mod settings;
pub mod table;
pub mod wire;

pub use compile::{Edit, Outcome, World};
pub use diagnostic::{Diagnostic, DiagnosticReason, Severity};
pub use facts::Object;
pub use key::{BackendKey, HostPattern, Kind, ObjectKey, ObjectRef, ServicePort};
pub use model::{Delta, Snapshot, Version};
pub use settings::{Mode, Settings};
