//! Backends: where the requests of a Service port go.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a backend has nothing to send to. Each is a reply of its own (503) in the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Unavailable {
    /// The Service does not exist.
    ServiceNotFound,
    /// The Service does not have the port.
    PortNotFound,
    /// No endpoint is ready, and none serves while terminating.
    NoEndpoints,
    /// There are endpoints, and none may be connected to ([`super::Reach`]).
    EndpointsRefused,
    /// A Service that cannot be proxied.
    ServiceUnsupported,
    /// An arm of a newer version: fails closed.
    #[serde(other)]
    Unknown,
}

/// An endpoint by name: the gateway resolves it, so that snapshots stay equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedEndpoint {
    /// DNS name, lower-case, without trailing dot.
    pub name: Arc<str>,
    /// TCP port.
    pub port: u16,
}

/// How an active health check asks (`sluicegate.dev/health-check`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthProbe {
    /// A connection is made and closed.
    Tcp,
    /// `GET path` over HTTP/1.1; 200 to 399 is healthy.
    Http {
        /// Request target.
        path: Arc<str>,
        /// Host header; the endpoint's address where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<Arc<str>>,
    },
}

/// An active health check of every endpoint of a backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// Milliseconds between two checks of one endpoint: 100 to 3,600,000.
    pub interval_ms: u32,
    /// Milliseconds for one check, connection included: 10 to 60,000.
    pub timeout_ms: u32,
    /// Good answers in a row that make an endpoint healthy: 1 to 100.
    pub healthy: u8,
    /// Bad ones that make it unhealthy: 1 to 100.
    pub unhealthy: u8,
}

/// The endpoints of one Service port.
///
/// Addresses are sorted and unique. Either `unavailable` says why there is nothing to send to, or one of the two
/// lists has an element.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Endpoints by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
    /// Endpoints by name (ExternalName Services, host names in `sluicegate.dev/endpoints`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NamedEndpoint>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Unavailable>,
    /// Active health check, where the Service asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Each connection begins with a PROXY header, version 2, that says who the client is (`sluicegate.dev/proxy-protocol`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
}

impl Backend {
    /// A backend that has nothing to send to.
    pub fn unavailable(why: Unavailable) -> Self {
        Backend { unavailable: Some(why), ..Backend::default() }
    }
}
