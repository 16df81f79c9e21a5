//! The table as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::clock;
use crate::table::Table;
use crate::upstream::BoundBackend;

/// Everything in force. Private keys are not in it: certificates show names, times and fingerprints.
pub(super) fn dump(table: &Table) -> Value {
    let hosts: BTreeMap<String, Value> =
        table.hosts().map(|(host, entry)| (host.to_string(), json!(&*entry.source))).collect();
    let backends: BTreeMap<&str, Value> =
        table.backends().map(|(key, backend)| (&**key, dump_backend(backend))).collect();
    let certificates: BTreeMap<&str, Value> = table
        .certificates()
        .map(|(secret, entry)| {
            let source = &entry.source;
            let value = json!({
                "names": source.names,
                "keyType": source.key_type,
                "notBefore": source.not_before,
                "notAfter": source.not_after,
                "fingerprint": source.fingerprint,
                "keyPresent": entry.bound.is_some(),
            });
            (&**secret, value)
        })
        .collect();
    json!({
        "version": table.version,
        "globals": table.globals,
        "hosts": hosts,
        "backends": backends,
        "certificates": certificates,
    })
}

fn dump_backend(backend: &BoundBackend) -> Value {
    json!({
        "endpoints": endpoints(backend),
        "names": backend.names.iter().map(|name| format!("{}:{}", name.name.name, name.name.port)).collect::<Vec<_>>(),
        "unavailable": backend.unavailable.map(|why| why.map_or_else(|_| "Invalid".to_owned(), |why| format!("{why:?}"))),
    })
}

/// Endpoints of a backend with their health.
pub(super) fn endpoints(backend: &BoundBackend) -> Vec<Value> {
    let now = clock::now_ms();
    let shown = |endpoint: &std::sync::Arc<crate::upstream::EndpointState>| {
        json!({
            "address": endpoint.address.ip(),
            "port": endpoint.address.port(),
            "healthy": endpoint.is_healthy(now),
        })
    };
    backend.all_endpoints().iter().map(shown).collect()
}
