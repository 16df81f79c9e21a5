//! The Sluicegate controller: watches of a Kubernetes API server in, snapshots for gateways out, statuses written back.
//!
//! ```text
//! watch -> compile -> publish -> gateways
//!             \-> status -> API server
//! ```
//!
//! What it compiles with is [`sluicegate_snapshot`], the same crate that the gateway reads files with. Two threads: the network
//! (watches, gateways, statuses, admin) and compile.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod connect;
pub mod events;
pub mod leader;
pub mod metrics;
pub mod owners;
pub mod publish;
pub mod report;
pub mod run;
pub mod settings;
pub mod shared;
pub mod status;
pub mod trust;
pub mod watch;
