//! Worlds of any size for the measurements: per host one Ingress with two paths, one Service, one EndpointSlice with two
//! endpoints.

use serde_json::{Value, json};
use sluicegate_snapshot::{Edit, Object};

/// Numbers of hosts at which things are measured.
pub const SIZES: [usize; 3] = [10, 1_000, 20_000];

/// The host of a number.
pub fn host(number: usize) -> String {
    format!("h{number}.bench.test")
}

/// An Ingress with two paths. `path`: the second one.
pub fn ingress(number: usize, path: &str) -> Value {
    let backend = json!({"service": {"name": format!("s{number}"), "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": format!("i{number}"), "namespace": "bench", "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"rules": [{"host": host(number), "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend},
            {"path": path, "pathType": "Prefix", "backend": backend},
        ]}}]},
    })
}

/// Its Service.
pub fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{number}"), "namespace": "bench"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// Its EndpointSlice. `last`: last byte of the first endpoint's address.
pub fn slice(number: usize, last: u8) -> Value {
    let address = |last: u8| json!({"addresses": [format!("127.{}.{}.{last}", number >> 8 & 127, number & 255)]});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s{number}-1"), "namespace": "bench", "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [address(last), address(last.wrapping_add(100))],
    })
}

/// A document as an object.
///
/// # Panics
/// The document is none of the three kinds above.
#[expect(clippy::panic, reason = "the documents are made here")]
pub fn object(value: Value) -> Object {
    let parsed = match value["kind"].as_str() {
        Some("Ingress") => serde_json::from_value(value).map(|object| Object::Ingress(Box::new(object))),
        Some("Service") => serde_json::from_value(value).map(|object| Object::Service(Box::new(object))),
        _ => serde_json::from_value(value).map(|object| Object::EndpointSlice(Box::new(object))),
    };
    parsed.unwrap_or_else(|error| panic!("{error}"))
}

/// The edits that make a world of so many hosts.
pub fn world(hosts: usize) -> Vec<Edit> {
    (0..hosts)
        .flat_map(|number| [ingress(number, "/api"), service(number), slice(number, 1)])
        .map(|value| Edit::Put(object(value)))
        .collect()
}
