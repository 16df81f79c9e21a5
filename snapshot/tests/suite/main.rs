//! Tests of the pure core as one binary: building and linking one is what tests cost most.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod access;
mod allocations;
mod compile;
mod incremental;
mod naive;
mod objects;
mod routing;
mod skew;
#[allow(dead_code, reason = "shared with the gateway's tests, which use more of it")]
mod spec;
mod status;
mod wire;
