//! The Sluicegate gateway: the data plane on Pingora.
//!
//! Read in this order: [`phase`] (what happens to a request), [`lane`] (who drives the phases), [`io`] (connections and
//! workers), [`apply`] (how changes become tables), [`run`] (how it all starts and ends).

pub mod admin;
pub mod apply;
pub mod check;
pub mod cli;
pub mod clock;
pub mod cpus;
pub mod echo;
pub mod explain;
pub mod io;
pub mod lane;
pub mod manifests;
pub mod observe;
pub mod phase;
pub mod reason;
pub mod run;
pub mod settings;
pub mod shared;
pub mod stream;
pub mod table;
pub mod tls;
pub mod upstream;
