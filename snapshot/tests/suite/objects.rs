//! Objects for tests, from YAML text.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use sluicegate_snapshot::facts::{HOST_OWNERS_LABEL, write_host_owners};
use sluicegate_snapshot::{Edit, HostPattern, Object, ObjectKey, Settings, World};

/// Reads objects from documents separated by `---`.
pub fn objects(yaml: &str) -> Vec<Object> {
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple_with_options(yaml, serde_saphyr::options! { strict_booleans: true }).expect("yaml");
    documents.into_iter().filter(|value| !value.is_null()).map(object).collect()
}

/// Reads one object.
pub fn object(value: serde_json::Value) -> Object {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    let parse = |kind: &str| match kind {
        "Ingress" => serde_json::from_value(value.clone()).map(|object| Object::Ingress(Box::new(object))),
        "IngressClass" => serde_json::from_value(value.clone()).map(|object| Object::IngressClass(Box::new(object))),
        "Service" => serde_json::from_value(value.clone()).map(|object| Object::Service(Box::new(object))),
        "EndpointSlice" => serde_json::from_value(value.clone()).map(|object| Object::EndpointSlice(Box::new(object))),
        "Secret" => serde_json::from_value(value.clone()).map(|object| Object::Secret(Box::new(object))),
        "ConfigMap" => serde_json::from_value(value.clone()).map(|object| Object::ConfigMap(Box::new(object))),
        other => panic!("kind {other}"),
    };
    parse(&kind).unwrap_or_else(|error| panic!("{kind}: {error}: {value}"))
}

/// A ConfigMap in which controllers have recorded whose hosts are.
pub fn host_owners(key: &ObjectKey, owners: &BTreeMap<HostPattern, Arc<str>>) -> Object {
    let mut config_map = ConfigMap { data: Some(write_host_owners(owners)), ..ConfigMap::default() };
    config_map.metadata.namespace = Some(key.namespace.to_string());
    config_map.metadata.name = Some(key.name.to_string());
    let (label, value) = HOST_OWNERS_LABEL;
    config_map.metadata.labels = Some(BTreeMap::from([(label.to_owned(), value.to_owned())]));
    Object::HostOwners(Box::new(config_map))
}

/// A world with these objects.
pub fn world(settings: Settings, yaml: &str) -> World {
    let mut world = World::new(settings);
    world.apply(objects(yaml).into_iter().map(Edit::Put));
    world
}
