//! `status.loadBalancer` of Ingresses: what it should be, whether it is, and writing it where it is not.

mod address;
mod desk;
mod owner;
mod reported;
mod writer;

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use serde::Serialize;
use sluicegate_snapshot::model::Digest;

pub use address::{Source, follow as follow_addresses};
pub use desk::{Desk, Job, Write};
pub use owner::Writers;
pub use reported::{Addresses, Board, follow as follow_gateways};
pub use writer::{Writer, write};

/// `metadata.managedFields[].manager` of what controllers write. One that serves one class has its name behind it: what it cleans up
/// is its own.
pub const FIELD_MANAGER: &str = "sluicegate-controller";

/// Digest of `status.loadBalancer.ingress`; absent is the same as empty.
pub fn digest<T: Serialize>(points: &Option<T>) -> Digest {
    match points.as_ref().map(serde_json::to_value) {
        Some(Ok(serde_json::Value::Array(points))) if !points.is_empty() => Digest::of("status", &(), &points),
        _ => Digest::default(),
    }
}

/// The addresses in the status of an Ingress, as text for people, each with the errors of its ports.
pub fn texts(ingress: &Ingress) -> Vec<String> {
    let points = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let text = |point: &IngressLoadBalancerIngress| {
        let errors =
            point.ports.iter().flatten().filter_map(|port| Some(format!(" ({}: {})", port.port, port.error.as_ref()?)));
        let errors: String = errors.collect();
        Some(format!("{}{errors}", point.ip.as_ref().or(point.hostname.as_ref())?))
    };
    points.into_iter().flatten().filter_map(text).collect()
}
