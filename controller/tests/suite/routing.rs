//! The routing spec a third time: its objects through a real API server, its requests over sockets.
//!
//! What differs in a cluster is translated: endpoints may not be loopback, so 127.x.y.z becomes 10.x.y.z; endpoints by annotation
//! become EndpointSlices; an Ingress that names no class, or one that the file does not have, gets one of ours; and the API server
//! decides about ages, so that objects are created in the order of the ages that the file gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sluicegate_snapshot::{Mode, Object, ObjectKey, Settings};
use sluicegate_testbed::{ApiServer, Process};

use crate::Test;
use crate::api::{Api, collection, path};
use crate::harness::{Controller, Gateway, binary, eventually};
use crate::network;
use crate::objects::object;
use crate::routing_rows::{Names, agrees, over_socket};
use crate::spec::SpecFile;

pub const TESTS: &[Test] = &[("every_row_through_the_api_server", every_row_through_the_api_server)];

/// Rows of a file that have another outcome here, with the reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    file: String,
    reason: String,
    rows: Vec<String>,
}

fn differences() -> BTreeSet<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/routing-differences.yaml");
    let all: Vec<Difference> = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(all.iter().all(|difference| !difference.reason.is_empty()));
    all.into_iter()
        .flat_map(|Difference { file, rows, .. }| rows.into_iter().map(move |row| (file.clone(), row)))
        .collect()
}

/// The class of Ingresses that name none.
const CLASS: &str = "spec";

fn every_row_through_the_api_server() {
    let directory = tempfile::tempdir().unwrap();
    let server = ApiServer::start(directory.path());
    let api = Api::of(&server.admin());
    let mut echoes = BTreeMap::new();
    let mut differences = differences();
    let (mut wrong, mut refused, mut rows) = (Vec::new(), 0, 0);
    for (file, spec) in SpecFile::all() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let objects = translated(&spec);
        let created = create(&api, &objects);
        refused += created.iter().filter(|created| created.is_none()).count();
        let settings = Settings { mode: Mode::Cluster, ..spec.settings() };
        let stored = created.iter().flatten().map(|stored| object(stored.clone()));
        let names = Names::of(Settings { watch_without_class: true, ..settings }, stored);
        names.endpoints.values().flatten().for_each(|address| listen(*address, &mut echoes));
        let lease = ObjectKey::new("default", format!("spec-{}", name.trim_end_matches(".yaml")));
        record(&api, &spec, &lease);
        let config = config(&spec, &lease);
        let controller = Controller::start(&server.admin(), config).ready();
        let gateway = Gateway::start(&[controller.publish], json!({})).ready();
        for row in spec.rows() {
            let found = over_socket(&row, (gateway.http, gateway.https), &names);
            let is_known = differences.remove(&(name.clone(), row.text.clone()));
            if agrees(&row.outcome, &found) == is_known {
                wrong.push(format!("{name}: {}: found {found:?}", row.text));
            }
            rows += 1;
        }
        remove(&api, &objects, &created);
    }
    println!("{rows} rows; {refused} objects that the API server does not take");
    assert!(wrong.is_empty(), "neither as the row says nor a known difference, or one that is no more: {wrong:#?}");
    assert!(differences.is_empty(), "known differences that are no rows: {differences:#?}");
    assert!(rows > 600);
}

/// What controllers that share the Lease have recorded.
fn record(api: &Api, spec: &SpecFile, lease: &ObjectKey) {
    for record in spec.records(&ObjectKey::new(lease.namespace.clone(), format!("{}-hosts", lease.name))) {
        let Object::HostOwners(config_map) = record else { unreachable!() };
        let mut config_map = json!(config_map);
        config_map["apiVersion"] = json!("v1");
        config_map["kind"] = json!("ConfigMap");
        api.create(&config_map.to_string());
    }
}

fn config(spec: &SpecFile, lease: &ObjectKey) -> Value {
    let settings = spec.settings();
    let (host_policy, allowed_hosts) = spec.host_settings();
    json!({
        "lease": lease.to_string(),
        "hostPolicy": host_policy,
        "allowedHosts": allowed_hosts,
        "ingressClass": settings.ingress_class,
        "controllerNames": settings.controller_names,
        "watchWithoutClass": settings.watch_without_class,
        "configmap": settings.config_map.map(|key| key.to_string()),
        "defaultBackend": settings.default_backend.map(|key| key.to_string()),
        "sslRedirect": settings.defaults.ssl_redirect,
        "rejectEncodedSlashes": settings.defaults.reject_encoded_slashes,
    })
}

/// A file's objects as a cluster has them, oldest first.
fn translated(spec: &SpecFile) -> Vec<Value> {
    let mut text = Value::from(spec.manifests.clone()).to_string();
    let standalone = spec.mode == Mode::Standalone;
    if standalone {
        text = text.replace("127.", "10.").replace("::1", "fd00:88::1");
    }
    let mut objects: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut added = Vec::new();
    if standalone {
        objects
            .iter_mut()
            .filter(|object| object["kind"] == "Service")
            .for_each(|service| added.extend(slices(service)));
        let mut classes: BTreeSet<String> = BTreeSet::new();
        for class in objects.iter_mut().filter(|object| object["kind"] == "IngressClass") {
            classes.insert(class["metadata"]["name"].as_str().unwrap().to_owned());
            class["spec"]["controller"] = json!("sluicegate.dev/ingress-controller");
        }
        let every_class = spec.settings().ingress_class.is_none();
        for ingress in objects.iter_mut().filter(|object| object["kind"] == "Ingress").filter(|_| every_class) {
            let named = ingress["spec"]["ingressClassName"].as_str().is_some_and(|name| classes.contains(name));
            if !named {
                if let Some(annotations) = ingress["metadata"]["annotations"].as_object_mut() {
                    annotations.remove("kubernetes.io/ingress.class");
                }
                ingress["spec"]["ingressClassName"] = json!(CLASS);
            }
        }
        for name in
            [Some(CLASS.to_owned()), spec.settings().ingress_class.as_deref().map(str::to_owned)].into_iter().flatten()
        {
            if classes.insert(name.clone()) {
                added.push(json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name},
                    "spec": {"controller": "sluicegate.dev/ingress-controller"},
                }));
            }
        }
    }
    if standalone {
        // The label that allows a ConfigMap to be served, which files do not need.
        for config_map in objects.iter_mut().filter(|object| object["kind"] == "ConfigMap") {
            config_map["metadata"]["labels"]["sluicegate.dev/publish"] = json!("true");
        }
    }
    let age = |object: &Value| object["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    // Classes after Ingresses of their age: the API server's admission would give those without one a default class of anybody.
    objects.sort_by_key(|object| (age(object), object["kind"] == "IngressClass"));
    added.into_iter().chain(objects).collect()
}

/// EndpointSlices instead of a Service's annotation.
fn slices(service: &mut Value) -> Vec<Value> {
    let Some(annotations) = service["metadata"]["annotations"].as_object_mut() else { return Vec::new() };
    let Some(Value::String(text)) = annotations.remove("sluicegate.dev/endpoints") else { return Vec::new() };
    let name = service["metadata"]["name"].as_str().unwrap();
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let slice = |(number, entry): (usize, &str)| {
        let (port_name, address) = entry.split_once('=').map_or((None, entry), |(name, address)| (Some(name), address));
        let address: SocketAddr = address.trim().parse().ok()?;
        let port = |port: &Value| json!({"name": port["name"], "port": address.port()});
        let ports: Vec<Value> = match port_name {
            Some(name) => vec![json!({"name": name.trim(), "port": address.port()})],
            None => ports.iter().map(port).collect(),
        };
        Some(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-{number}"), "namespace": service["metadata"]["namespace"], "labels": {"kubernetes.io/service-name": name}},
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" }, "ports": ports, "endpoints": [{"addresses": [address.ip()]}],
        }))
    };
    text.split(',').enumerate().filter_map(slice).collect()
}

fn namespace(object: &Value) -> String {
    object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned()
}

/// Creates objects, equal ages within one second and later ones in a later second. `None`: the API server refuses the object.
fn create(api: &Api, objects: &[Value]) -> Vec<Option<Value>> {
    let mut last = None;
    let mut created = Vec::new();
    for object in objects {
        let age = object["metadata"]["creationTimestamp"].clone();
        if (object["kind"] == "Ingress" || !age.is_null()) && last.as_ref() != Some(&age) {
            next_second();
            last = Some(age);
        }
        let namespace = namespace(object);
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string();
        let answer = api.call(Method::POST, &collection("Namespace", ""), "application/json", &body);
        assert!(matches!(answer.status, 201 | 409), "{answer:?}");
        let object = if object["kind"] == "Ingress" { &acceptable(api, object) } else { object };
        created.push(post(api, object, ""));
    }
    created
}

fn post(api: &Api, object: &Value, query: &str) -> Option<Value> {
    let path = collection(object["kind"].as_str().unwrap(), &namespace(object));
    let answer = api.call(Method::POST, &format!("{path}{query}"), "application/json", &object.to_string());
    (answer.status == 201).then_some(answer.body)
}

/// An Ingress without the rules, paths, tls entries and default backend that the API server refuses.
fn acceptable(api: &Api, ingress: &Value) -> Value {
    let is_taken = |spec: Value| {
        let mut candidate = ingress.clone();
        candidate["spec"] = spec;
        candidate["spec"]["ingressClassName"] = ingress["spec"]["ingressClassName"].clone();
        post(api, &candidate, "?dryRun=All").is_some()
    };
    if is_taken(ingress["spec"].clone()) {
        return ingress.clone();
    }
    let filler = json!({"service": {"name": "filler", "port": {"number": 80}}});
    let mut kept = ingress.clone();
    if !is_taken(json!({"defaultBackend": kept["spec"]["defaultBackend"], "rules": [{"host": "filler.test"}]})) {
        kept["spec"]["defaultBackend"] = Value::Null;
    }
    if let Some(Value::Array(rules)) = kept.pointer_mut("/spec/rules") {
        for rule in rules.iter_mut() {
            let mut alone = rule.clone();
            if let Some(Value::Array(paths)) = rule.pointer_mut("/http/paths") {
                paths.retain(|path| {
                    alone["http"]["paths"] = json!([path]);
                    is_taken(json!({"rules": [alone]}))
                });
            }
        }
        rules.retain(|rule| is_taken(json!({"rules": [rule]})));
    }
    if let Some(Value::Array(entries)) = kept.pointer_mut("/spec/tls") {
        for entry in entries.iter_mut() {
            let mut alone = entry.clone();
            if let Some(Value::Array(hosts)) = entry.pointer_mut("/hosts") {
                hosts.retain(|host| {
                    alone["hosts"] = json!([host]);
                    is_taken(json!({"defaultBackend": filler, "tls": [alone]}))
                });
            }
        }
        entries.retain(|entry| is_taken(json!({"defaultBackend": filler, "tls": [entry]})));
    }
    kept
}

/// Waits for the beginning of a second: the API server's timestamps have no finer unit.
fn next_second() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now().as_secs();
    eventually("the next second", || (now().as_secs() > before).then_some(()));
}

fn remove(api: &Api, objects: &[Value], created: &[Option<Value>]) {
    for (object, _) in objects.iter().zip(created).filter(|(_, created)| created.is_some()) {
        let name = object["metadata"]["name"].as_str().unwrap();
        api.delete(&path(object["kind"].as_str().unwrap(), &namespace(object), name));
    }
}

/// Has an echo process listen on an address.
fn listen(address: SocketAddr, echoes: &mut BTreeMap<SocketAddr, Process>) {
    if echoes.contains_key(&address) {
        return;
    }
    if !echoes.keys().any(|known| known.ip() == address.ip()) {
        match address.ip() {
            IpAddr::V4(ip) => network::assign(ip),
            IpAddr::V6(ip) => network::assign_v6(ip),
        }
    }
    let mut command = Command::new(binary("sluicegate"));
    command.arg("echo").arg("--listen").arg(address.to_string());
    let process = Process::start(&mut command, std::path::Path::new("/dev/null"));
    eventually("an echo backend", || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok());
    echoes.insert(address, process);
}
