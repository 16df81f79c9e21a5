//! A real API server on this machine: kube-apiserver of Kubernetes with a real etcd, on loopback.
//!
//! The binary is `target/apiserver/kube-apiserver` (`.ci/apiserver` builds it from `controller/tests/apiserver`), or, where
//! `KUBEBUILDER_ASSETS` is set, `kube-apiserver` and `etcd` of that directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test bed that fails has nothing better to do"
)]

mod pki;
mod process;
mod server;

pub use pki::Authority;
pub use process::Process;
pub use server::{ApiServer, free_port};
