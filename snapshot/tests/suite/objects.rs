//! Objects for tests, from YAML text.

use sluicegate_snapshot::{Edit, Object, Settings, World};

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

/// A world with these objects.
pub fn world(settings: Settings, yaml: &str) -> World {
    let mut world = World::new(settings);
    world.apply(objects(yaml).into_iter().map(Edit::Put));
    world
}
