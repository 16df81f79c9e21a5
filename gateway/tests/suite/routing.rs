//! The routing spec, through the gateway's phases in process, and over sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use sluicegate::phase::admit::{self, Verdict};
use sluicegate::phase::{Connection, Hosts, Reason, Reply, RequestHead, Scheme, canonical};
use sluicegate::settings::Settings;
use sluicegate::table::{GatewayBind, Table};
use sluicegate::upstream::probe::Prober;
use sluicegate::upstream::resolve::Resolver;
use sluicegate::upstream::{BoundBackend, Registry};
use sluicegate_snapshot::model::{Resource, Route};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::{Delta, Edit, Mode, World};

use crate::backends::echo_on;
use crate::client;
use crate::harness::Start;
use crate::spec::{Outcome, Row, SpecFile};

/// The files of the ConfigMaps of a spec file, as `namespace/name key`.
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn of(spec: &SpecFile) -> Files {
        let mut world = World::new(spec.settings());
        world.apply(spec.objects().into_iter().map(Edit::Put));
        let contents = world.snapshot().contents.iter().filter_map(|(key, content)| Some((key, content.value()?)));
        let files = contents.flat_map(|(map, content)| {
            content.files.iter().map(move |(key, file)| (format!("{map} {key}"), file.bytes.to_vec()))
        });
        Files(files.collect())
    }

    /// Which file these bytes are; for HEAD, and where several are equal, the one that the row names.
    fn name_of(&self, row: &Row, body: &[u8]) -> String {
        if let Outcome::File(name) = &row.outcome
            && self.0.get(name).is_some_and(|bytes| row.method == "HEAD" || bytes == body)
        {
            return name.clone();
        }
        let found = self.0.iter().find(|(_, bytes)| *bytes == body);
        found.map_or_else(|| "no file of the spec".to_owned(), |(name, _)| name.clone())
    }
}

fn outcome(row: &Row, route: Option<&Route>, verdict: &Verdict, target: Option<String>, files: &Files) -> Outcome {
    match verdict {
        Verdict::Forward(backend) => {
            let route = route.expect("a forwarded request has a route");
            Outcome::Backend {
                backend: BoundBackend::clone_key(backend),
                path: Some(route.path.to_string()),
                path_type: Some(route.path_type.to_string()),
                ingress: route.ingress.as_ref().map(ToString::to_string),
                forwarded: target,
            }
        }
        Verdict::Reply(reply) if reply.reason == Reason::TlsRedirect => {
            Outcome::Redirect(reply.location.clone().unwrap_or_default())
        }
        Verdict::Reply(Reply { content: Some(content), .. }) => Outcome::File(files.name_of(row, &content.body)),
        Verdict::Reply(reply) => Outcome::Reply(reply.reason.status(), reply.reason.to_string()),
    }
}

trait CloneKey {
    fn clone_key(&self) -> String;
}

impl CloneKey for BoundBackend {
    fn clone_key(&self) -> String {
        self.key.to_string()
    }
}

/// Whether what was found is what the row says; what the row leaves out may be anything.
fn agrees(expected: &Outcome, found: &Outcome) -> bool {
    let open = |expected: &Option<String>, found: &Option<String>| expected.is_none() || expected == found;
    match (expected, found) {
        (
            Outcome::Backend { backend: a, path: b, path_type: c, ingress: d, forwarded: e },
            Outcome::Backend { backend: v, path: w, path_type: x, ingress: y, forwarded: z },
        ) => a == v && open(b, w) && open(c, x) && open(d, y) && open(e, z),
        _ => expected == found,
    }
}

#[test]
fn every_row_in_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let mut wrong = Vec::new();
    for (file, spec) in SpecFile::all() {
        let files = Files::of(&spec);
        let mut world = World::new(spec.settings());
        world.apply(spec.objects().into_iter().map(Edit::Put));
        let control = runtime.handle().clone();
        let mut bind =
            GatewayBind { registry: Registry::new(Resolver::new(None, control.clone()), Prober::new(control)) };
        let change = Replica::default().apply(&Delta::full(world.snapshot()));
        let table = Table::default().apply(&change, &mut bind);
        for row in spec.rows() {
            let scheme = if row.https { Scheme::Https } else { Scheme::Http };
            let connection =
                Connection { scheme, peer: [127, 0, 0, 1].into(), port: 80, https_port: 443, trusted: false };
            let method = row.method.parse().unwrap();
            let fields = row.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
            let field =
                |(name, value): &(String, String)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            let headers: HeaderMap = fields.map(field).collect();
            let head = RequestHead {
                method: &method,
                target: row.target.as_bytes(),
                hosts: Hosts::One(row.host().as_bytes()),
                http10: false,
                headers: &headers,
                connection: &connection,
            };
            let found = match canonical::canonicalise(&head) {
                Err(reason) => Outcome::Reply(reason.status(), reason.to_string()),
                Ok(canonical) => {
                    let (route, verdict) = admit::admit(&table, &head, &canonical);
                    outcome(&row, route.as_deref(), &verdict, String::from_utf8(canonical.target()).ok(), &files)
                }
            };
            if !agrees(&row.outcome, &found) {
                wrong.push(format!("{}: {}: found {found:?}", file.display(), row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Endpoints of every backend of a file, as compile gives them.
fn endpoints(spec: &SpecFile) -> BTreeMap<String, BTreeSet<SocketAddr>> {
    let mut world = World::new(spec.settings());
    world.apply(spec.objects().into_iter().map(Edit::Put));
    let of = |resource: &Resource<sluicegate_snapshot::model::Backend>| {
        resource.value().map(|backend| backend.endpoints.iter().copied().collect())
    };
    world.snapshot().backends.iter().filter_map(|(key, resource)| Some((key.to_string(), of(resource)?))).collect()
}

fn settings_of(spec: &SpecFile) -> Settings {
    let compile = spec.settings();
    Settings {
        ingress_class: compile.ingress_class.as_deref().map(str::to_owned),
        controller_names: compile.controller_names.iter().map(|name| name.to_string()).collect(),
        watch_without_class: compile.watch_without_class,
        configmap: compile.config_map.as_ref().map(ToString::to_string),
        default_backend: compile.default_backend.as_ref().map(ToString::to_string),
        ssl_redirect: compile.defaults.ssl_redirect,
        reject_encoded_slashes: compile.defaults.reject_encoded_slashes,
        ..Settings::default()
    }
}

#[test]
fn every_row_over_sockets() {
    let (mut listening, mut wrong) = (BTreeSet::new(), Vec::new());
    for (file, spec) in SpecFile::all() {
        // The gateway with files is the standalone mode; cluster mode over sockets comes with the controller.
        if spec.mode == Mode::Cluster {
            continue;
        }
        let endpoints = endpoints(&spec);
        for address in endpoints.values().flatten() {
            if listening.insert(*address) {
                echo_on(*address);
            }
        }
        let documents: Vec<String> = spec.manifests.iter().map(Value::to_string).collect();
        let mut start = Start::with(&documents.join("\n---\n"));
        let Value::Object(settings) = serde_json::to_value(settings_of(&spec)).unwrap() else { unreachable!() };
        for key in [
            "ingressClass",
            "controllerNames",
            "watchWithoutClass",
            "configmap",
            "defaultBackend",
            "sslRedirect",
            "rejectEncodedSlashes",
        ] {
            start = start.set(key, settings[key].clone());
        }
        let gateway = start.set("accessLog", json!({"enabled": false})).ready();
        let files = Files::of(&spec);
        for row in spec.rows() {
            let found = over_socket(&row, &gateway, &endpoints, &files);
            if !agrees(&row.outcome, &found) {
                wrong.push(format!("{}: {}: found {found:?}", file.display(), row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn over_socket(
    row: &Row,
    gateway: &crate::harness::Gateway,
    endpoints: &BTreeMap<String, BTreeSet<SocketAddr>>,
    files: &Files,
) -> Outcome {
    let host = row.host().to_owned();
    let fields: Vec<(&str, &str)> = row
        .headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let fields = [fields.as_slice(), &[("Connection", "close")]].concat();
    let response = if row.https {
        client::Tls::new().connect(gateway.https, Some(&row.authority)).request(
            &row.method,
            &host,
            &row.target,
            &fields,
        )
    } else {
        client::request(gateway.http, &row.method, &host, &row.target, &fields)
    };
    if let Some(backend) = response.header("x-echo") {
        let address: SocketAddr = backend.parse().unwrap();
        let route = response.header("sluicegate-route").expect("debugHeader is on");
        assert!(route.contains(";version="), "{route}");
        let part =
            |key: &str| route.split(';').find_map(|part| part.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        let forwarded =
            if row.method == "HEAD" { None } else { Some(response.json()["target"].as_str().unwrap().to_owned()) };
        return Outcome::Backend {
            backend: endpoints
                .iter()
                .find(|(_, addresses)| addresses.contains(&address))
                .expect("a known endpoint")
                .0
                .clone(),
            path: part("path"),
            path_type: part("type"),
            ingress: route.split(';').next().filter(|ingress| *ingress != "-").map(str::to_owned),
            forwarded,
        };
    }
    match (response.status, response.header("sluicegate-reason"), response.header("location")) {
        (308, _, Some(location)) => Outcome::Redirect(location.to_owned()),
        (200, None, _) if response.header("etag").is_some() => Outcome::File(files.name_of(row, &response.body)),
        (status, reason, _) => Outcome::Reply(status, reason.unwrap_or_default().to_owned()),
    }
}

#[test]
fn the_debug_header_shows_the_version_of_the_table() {
    let backend = crate::backends::echo();
    let gateway = Start::with(&crate::backends::everything_to(&[backend])).ready();
    let route = gateway.get("a.test", "/").header("sluicegate-route").unwrap().to_owned();
    let digest = gateway.table()["version"]["digest"].as_str().unwrap()[..12].to_owned();
    assert!(route.starts_with("default/web;") && route.ends_with(&format!("version=0-{digest}")), "{route}");
}
