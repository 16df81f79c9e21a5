//! Tests of the gateway as one binary: the built `sluicegate` with real sockets, clients and backends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod attack;
mod backends;
mod canonical;
mod cli;
mod client;
mod connections;
mod deadlines;
mod dns;
mod docs;
mod early;
mod fidelity;
mod fuzz;
mod h2spec;
mod harness;
mod http2;
mod hyper_client;
mod ipv6;
mod lifecycle;
mod limits;
mod manifests;
mod memory;
mod observe;
mod passthrough;
mod pki;
mod proxy_protocol;
mod retries;
mod rollouts;
mod route_limits;
mod routing;
mod routing_rows;
mod state;
mod tls;
mod traffic;
mod upstream;
mod workers;

#[path = "../../../snapshot/tests/suite/objects.rs"]
#[allow(dead_code, reason = "shared with the other crate's tests, which use more of it")]
mod objects;
#[path = "../../../snapshot/tests/suite/spec.rs"]
#[allow(dead_code, reason = "shared with the other crate's tests, which use more of it")]
mod spec;
