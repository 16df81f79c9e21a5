//! The routing spec, through the gateway's phases in process, and over sockets.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use sluicegate::phase::admit::{self, Verdict};
use sluicegate::phase::{Connection, Hosts, Reason, Reply, RequestHead, Scheme, canonical};
use sluicegate::settings::Settings;
use sluicegate::table::{GatewayBind, Table};
use sluicegate::upstream::probe::Prober;
use sluicegate::upstream::resolve::Resolver;
use sluicegate::upstream::{BoundBackend, Registry};
use sluicegate_snapshot::model::Route;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::{Delta, Edit, Mode, World};

use crate::backends::echo_on;
use crate::harness::Start;
use crate::routing_rows::{Names, agrees, over_socket};
use crate::spec::{Outcome, Row, SpecFile};

fn outcome(row: &Row, route: Option<&Route>, verdict: &Verdict, target: Option<String>, names: &Names) -> Outcome {
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
        Verdict::Reply(Reply { content: Some(content), .. }) => Outcome::File(names.file(row, &content.body)),
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

#[test]
fn every_row_in_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let mut wrong = Vec::new();
    for (file, spec) in SpecFile::all() {
        let names = Names::of(spec.settings(), spec.objects());
        let mut world = World::new(spec.settings());
        world.apply(spec.objects().into_iter().map(Edit::Put));
        let control = runtime.handle().clone();
        let mut bind = GatewayBind::new(Registry::new(
            Default::default(),
            Resolver::new(None, control.clone()),
            Prober::new(control),
        ));
        let change = Replica::default().apply(&Delta::full(world.snapshot()));
        let table = Table::default().apply(&change, &mut bind);
        for row in spec.rows() {
            let scheme = if row.https { Scheme::Https } else { Scheme::Http };
            let connection = Connection::new(scheme, ([127, 0, 0, 1], 1024).into(), ([127, 0, 0, 1], 80).into());
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
                Err(refused) => Outcome::Reply(refused.reason.status(), refused.reason.to_string()),
                Ok(canonical) => {
                    let (route, verdict) = admit::admit(&table, &head, &canonical);
                    outcome(&row, route.as_deref(), &verdict, String::from_utf8(canonical.target()).ok(), &names)
                }
            };
            if !agrees(&row.outcome, &found) {
                wrong.push(format!("{}: {}: found {found:?}", file.display(), row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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
        // The gateway with files is the standalone mode, in which hosts are shared; the controller's tests run the rest over sockets.
        if spec.mode == Mode::Cluster || spec.host_settings().0 != "shared" {
            continue;
        }
        let names = Names::of(spec.settings(), spec.objects());
        for address in names.endpoints.values().flatten() {
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
        for row in spec.rows() {
            let found = over_socket(&row, (gateway.http, gateway.https), &names);
            if !agrees(&row.outcome, &found) {
                wrong.push(format!("{}: {}: found {found:?}", file.display(), row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_debug_header_shows_the_version_of_the_table() {
    let backend = crate::backends::echo();
    let gateway = Start::with(&crate::backends::everything_to(&[backend])).ready();
    let route = gateway.get("a.test", "/").header("sluicegate-route").unwrap().to_owned();
    let digest = gateway.table()["version"]["digest"].as_str().unwrap()[..12].to_owned();
    assert!(route.starts_with("default/web;") && route.ends_with(&format!("version=0-{digest}")), "{route}");
}
