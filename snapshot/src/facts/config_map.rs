//! Facts of a ConfigMap: settings text, static files, and whether it may be served.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::annotation::PUBLISH;
use super::{label, namespaced};
use crate::key::ObjectKey;

/// What of a ConfigMap has a meaning here.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigMapFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `data`.
    pub data: BTreeMap<Arc<str>, Arc<str>>,
    /// `binaryData`, decoded.
    pub binary: BTreeMap<Arc<str>, Arc<[u8]>>,
    /// Label `sluicegate.dev/publish` is `true`.
    pub published: bool,
}

/// Trims a ConfigMap.
pub fn facts(config_map: &ConfigMap) -> ConfigMapFacts {
    ConfigMapFacts {
        key: namespaced(&config_map.metadata),
        data: config_map
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
            .collect(),
        binary: config_map
            .binary_data
            .iter()
            .flatten()
            .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.0.as_slice())))
            .collect(),
        published: label(&config_map.metadata, PUBLISH) == Some("true"),
    }
}
