//! Recorded cases of a real ingress-nginx (controller v1.15.1), replayed: same status, certificate, Location, and the same
//! requests at the same backends? Every difference that stays stands in `tests/fidelity/differences.yaml`, with its
//! reason; one that is not there fails, and so does one that is there and no longer seen.

mod case;
mod echoes;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::table::{RouteTable, Unbound};
use sluicegate_snapshot::{Delta, Edit, Mode, Settings, World};

use crate::dns::dns_server;
use crate::fidelity::case::Case;
use crate::fidelity::echoes::Echoes;
use crate::fidelity::replay::Replay;
use crate::harness::Start;
use crate::objects;

/// A difference that stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// Cases, by file name without its ending.
    cases: Vec<String>,
    /// Requests of them.
    requests: Vec<String>,
    /// Why it stays.
    reason: String,
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fidelity")
}

/// What stays different: `case/request`.
fn accepted() -> BTreeSet<String> {
    let text = std::fs::read_to_string(directory().join("differences.yaml")).unwrap();
    let differences: Vec<Difference> = serde_saphyr::from_str(&text).unwrap();
    assert!(differences.iter().all(|difference| difference.reason.len() > 20), "a reason is a sentence");
    let pairs = |difference: &Difference| {
        let requests = difference.requests.clone();
        difference
            .cases
            .clone()
            .into_iter()
            .flat_map(move |case| requests.clone().into_iter().map(move |request| format!("{case}/{request}")))
    };
    differences.iter().flat_map(pairs).collect()
}

#[test]
fn recorded_answers_of_ingress_nginx() {
    let echoes = Echoes::start();
    let dns = dns_server(|name| {
        let number = name.strip_prefix("echo")?.strip_suffix(".dns.test")?.parse().ok()?;
        Some(std::net::IpAddr::from([127, 0, 1, number]))
    });
    let gateway = Start::with("")
        .set("controllerNames", json!(["k8s.io/ingress-nginx"]))
        .set("dns", json!(dns))
        // What ingress-nginx has where nothing is said.
        .set("bodyLimit", json!(1 << 20))
        .set("accessLog", json!({"enabled": false}))
        .set("log", json!({"format": "json", "level": "info"}))
        .ready();
    let (mut found, mut compared) = (BTreeMap::new(), 0);
    for (index, case) in Case::all(&directory()).into_iter().filter(Case::is_plain).enumerate() {
        let replay = Replay { gateway: &gateway, echoes: &echoes, case: &case };
        replay.apply(index);
        for request in &case.requests {
            compared += 1;
            let (expected, got) = (replay.expected(request), replay.send(request));
            if expected != got {
                found.insert(
                    format!("{}/{}", case.name, request.name),
                    format!("{}: expected {expected:?}, got {got:?}", case.title),
                );
            }
        }
    }
    let with_config_maps = with_a_config_map(&echoes);
    assert!(compared >= 200 && with_config_maps >= 12, "{compared} and {with_config_maps} requests were compared");
    let accepted = accepted();
    let new: Vec<_> = found.iter().filter(|(request, _)| !accepted.contains(*request)).collect();
    assert!(new.is_empty(), "differences without a reason: {new:#?}");
    let gone: Vec<_> = accepted.iter().filter(|request| !found.contains_key(*request)).collect();
    assert!(gone.is_empty(), "listed as different, but equal: {gone:?}");
    println!("{} of {compared} requests equal", compared - found.len());
}

/// Cases with a ConfigMap, each with a gateway of its own.
fn with_a_config_map(echoes: &Echoes) -> usize {
    let mut compared = 0;
    let cases = Case::all(&directory()).into_iter().filter(|case| !case.is_plain() && case.needs_only_what_is_read());
    for (index, case) in cases.enumerate() {
        let config_map = case.configmap.as_ref().unwrap();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ingress-nginx", "name": "settings"}, "data": config_map});
        // Of a listener's settings the ConfigMap says nothing here.
        let proxies = if config_map["use-proxy-protocol"] == "true" { json!(["127.0.0.0/8"]) } else { json!([]) };
        let gateway = Start::with("")
            .file("settings.yaml", &object.to_string())
            .set("controllerNames", json!(["k8s.io/ingress-nginx"]))
            .set("configmap", json!("ingress-nginx/settings"))
            .set("trustedProxies", proxies.clone())
            .set("proxyProtocol", proxies)
            .ready();
        let replay = Replay { gateway: &gateway, echoes, case: &case };
        replay.apply(index);
        for request in &case.requests {
            compared += 1;
            assert_eq!(replay.expected(request), replay.send(request), "{}/{}", case.name, request.name);
        }
    }
    compared
}

/// The group `class` in cluster mode, in process: who is served is decided by compile.
#[test]
fn classes_decide_as_recorded() {
    let settings =
        Settings { mode: Mode::Cluster, controller_names: vec!["k8s.io/ingress-nginx".into()], ..Settings::default() };
    let mut compared = 0;
    for case in Case::all(&directory()).iter().filter(|case| case.name.starts_with("class-") && case.is_plain()) {
        let mut world = World::new(settings.clone());
        let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
        let objects = case.manifests.iter().cloned().chain([class]).map(objects::object);
        world.apply(objects.map(Edit::Put));
        let change = Replica::default().apply(&Delta::full(world.snapshot()));
        let table = RouteTable::<Unbound>::default().apply(&change, &mut Unbound);
        for request in &case.requests {
            let host = request.host.as_deref().unwrap_or_default();
            let served = table.route(host, &request.target).is_some();
            let expected = request.expect["status"] == 200;
            assert_eq!(served, expected, "{}/{}", case.name, request.name);
            compared += 1;
        }
    }
    assert!(compared >= 8, "{compared} requests were compared");
}
