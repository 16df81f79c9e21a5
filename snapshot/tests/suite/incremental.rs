//! Properties of compile and apply: incremental equals full, order does not matter, the table reads the rules as a
//! linear reading does, nothing panics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_snapshot::compile::{Access, Whose};
use sluicegate_snapshot::facts::{record_of, records};
use sluicegate_snapshot::model::Certificate;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::settings::{AllowedHosts, HostPolicy};
use sluicegate_snapshot::table::{RouteTable, ServerName, Unbound};
use sluicegate_snapshot::{Delta, Edit, HostPattern, Kind, Mode, ObjectKey, Settings, World};

use crate::{naive, objects};

/// Names are few, so that objects meet.
fn pick(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(names).prop_map(str::to_owned)
}

const HOSTS: &[&str] = &["", "a.test", "b.a.test", "*.a.test", "*.test", "A.test.", "*", "bad host", "10.0.0.1"];
const PATHS: &[&str] = &["/", "/x", "/x/", "/x/y", "/x/y/", "/X", "/x%2fy", "/%78", "x", "", "/a/../x", "/x//y", "/%"];
const TYPES: &[&str] = &["Exact", "Prefix", "ImplementationSpecific", "Regex", ""];
const SERVICES: &[&str] = &["web", "api", "gone", "a/b"];

fn backend() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (pick(SERVICES), prop_oneof![Just(json!({"number": 80})), Just(json!({"name": "http"})), Just(json!({"name": "80"})), Just(json!({"name": "http/1"})), Just(json!({"number": 81})), Just(json!({}))])
            .prop_map(|(name, port)| json!({"service": {"name": name, "port": port}})),
        2 => pick(&["files", "secret-files", "none"]).prop_map(|name| json!({"resource": {"kind": "ConfigMap", "name": name}})),
        1 => Just(json!({"resource": {"kind": "Bucket", "apiGroup": "x.y", "name": "b"}})),
        1 => Just(json!({})),
        1 => Just(json!({"service": {"name": "web", "port": {"number": 80}}, "resource": {"kind": "ConfigMap", "name": "files"}})),
    ]
}

fn rule() -> impl Strategy<Value = Value> {
    let path = (prop::option::of(pick(PATHS)), pick(TYPES), backend())
        .prop_map(|(path, path_type, backend)| json!({"path": path, "pathType": path_type, "backend": backend}));
    (pick(HOSTS), prop::collection::vec(path, 0..4)).prop_map(|(host, paths)| match (host.as_str(), paths.is_empty()) {
        ("", true) => json!({}),
        ("", false) => json!({"http": {"paths": paths}}),
        (_, true) => json!({"host": host}),
        (_, false) => json!({"host": host, "http": {"paths": paths}}),
    })
}

fn tls() -> impl Strategy<Value = Value> {
    (prop::collection::vec(pick(HOSTS), 0..3), prop::option::of(pick(&["good", "bad", "none", "a/b", ""])))
        .prop_map(|(hosts, secret)| json!({"hosts": hosts, "secretName": secret}))
}

fn ingress() -> impl Strategy<Value = Value> {
    let meta = (pick(&["one", "two", "three", "four"]), pick(&["n1", "n2"]), prop::option::of(0..3u8));
    let class =
        (prop::option::of(pick(&["ours", "theirs", "absent"])), prop::option::of(pick(&["sluicegate", "nginx", ""])));
    let set = |values: &'static [&'static str]| prop::option::of(pick(values));
    let settings =
        (set(&["true", "false", "maybe"]), set(&["0", "10m", "much"]), set(&["true", "true", "false", "maybe"]));
    (meta, class, settings, prop::option::of(backend()), prop::collection::vec(rule(), 0..4), prop::collection::vec(tls(), 0..3))
        .prop_map(|((name, namespace, age), (class, class_annotation), settings, default, rules, tls)| {
            let mut annotations = serde_json::Map::new();
            if let Some(value) = class_annotation {
                annotations.insert("kubernetes.io/ingress.class".into(), value.into());
            }
            let (redirect, body, passthrough) = settings;
            let named = [
                ("nginx.ingress.kubernetes.io/ssl-redirect", redirect),
                ("nginx.ingress.kubernetes.io/proxy-body-size", body),
                ("sluicegate.dev/tls-passthrough", passthrough),
            ];
            for (name, value) in named {
                annotations.extend(value.map(|value| (name.to_owned(), value.into())));
            }
            let created = age.map(|age| format!("2024-01-01T00:00:0{age}Z"));
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created, "annotations": annotations},
                "spec": {"ingressClassName": class, "defaultBackend": default, "rules": rules, "tls": tls},
            })
        })
}

fn service() -> impl Strategy<Value = Value> {
    let annotation = prop::option::of(pick(&["10.0.0.9:80", "http=10.0.0.9:80,[fd00::1]:81", "nowhere", "db.test:80"]));
    let health = prop::option::of(pick(&["tcp", "http path=/live", "icmp"]));
    let proxy = prop::option::of(pick(&["v2", "off", "v1"]));
    let kind = prop_oneof![4 => Just(None), 1 => Just(Some("app.test")), 1 => Just(Some("-"))];
    (pick(SERVICES), pick(&["n1", "n2"]), annotation, health, proxy, kind).prop_map(|(name, namespace, endpoints, health, proxy, external)| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace,
                "annotations": without_nulls([("sluicegate.dev/endpoints", endpoints), ("sluicegate.dev/health-check", health), ("sluicegate.dev/proxy-protocol", proxy)])},
            "spec": {"type": external.map(|_| "ExternalName"), "externalName": external, "ports": [{"name": "http", "port": 80}]},
        })
    })
}

fn without_nulls(pairs: [(&str, Option<String>); 3]) -> Value {
    pairs
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value?))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn slice() -> impl Strategy<Value = Value> {
    let network = prop_oneof![9 => Just("10.0.0"), 1 => Just("127.0.0")];
    let endpoint = (network, 1..4u8, prop::option::of(any::<bool>()), any::<bool>()).prop_map(|(network, last, ready, terminating)| {
        json!({"addresses": [format!("{network}.{last}")], "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
    });
    (
        prop_oneof![4 => (pick(&["s1", "s2", "s3"]), pick(&["n1", "n2"])), 1 => Just(("kubernetes".to_owned(), "default".to_owned()))],
        pick(SERVICES),
        pick(&["IPv4", "IPv6", "FQDN"]),
        prop::collection::vec(endpoint, 0..3),
        pick(&["http", ""]),
    )
        .prop_map(|((name, namespace), service, kind, endpoints, port)| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
                "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": port, "port": 8080}], "endpoints": endpoints,
            })
        })
}

fn class() -> impl Strategy<Value = Value> {
    let parameters = prop::option::of(pick(&["Namespace", "Cluster"]));
    (pick(&["ours", "theirs"]), any::<bool>(), any::<bool>(), parameters).prop_map(|(name, ours, default, scope)| {
        let parameters = scope.map(|scope| json!({"kind": "ConfigMap", "name": "files", "namespace": "n1", "scope": scope}));
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": default.to_string()}},
            "spec": {"controller": if ours { "sluicegate.dev/ingress-controller" } else { "x.y/z" }, "parameters": parameters},
        })
    })
}

fn config_map() -> impl Strategy<Value = Value> {
    (pick(&["files", "secret-files"]), pick(&["n1", "n2"]), any::<bool>(), pick(&["true", "false", "perhaps"])).prop_map(
        |(name, namespace, published, redirect)| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace, "labels": {"sluicegate.dev/publish": published.to_string()}},
                "data": {"index.html": "<p>", "sslRedirect": redirect},
            })
        },
    )
}

fn secret() -> impl Strategy<Value = Value> {
    (pick(&["good", "bad"]), pick(&["n1", "n2"]), 0..3u8).prop_map(|(name, namespace, content)| {
        // The third name tells whose it is.
        let marker = format!("{namespace}.marker");
        let (certificate, key) = crate::compile::certificate_pem(&["a.test", "*.a.test", &marker]);
        let data = match content {
            0 => json!({"tls.crt": certificate, "tls.key": key}),
            1 => json!({"tls.crt": certificate, "tls.key": "nonsense"}),
            _ => json!({"tls.crt": certificate}),
        };
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data})
    })
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![6 => ingress(), 3 => service(), 3 => slice(), 1 => class(), 1 => config_map(), 1 => secret()]
}

const RECORDS: &str = "n1/hosts";

/// What controllers record of hosts, in the right ConfigMap or another one.
fn record() -> impl Strategy<Value = Edit> {
    let owner = (pick(HOSTS), pick(&["n1", "n2", "n3"]))
        .prop_filter_map("no host", |(host, namespace)| Some((host.parse::<HostPattern>().ok()?, namespace.into())));
    let prefix: ObjectKey = RECORDS.parse().unwrap();
    let all = records(&prefix).into_iter().collect::<Vec<_>>();
    (prop::collection::vec(owner, 1..4), prop::sample::select(all), 0..5u8).prop_map(move |(owners, other, action)| {
        let right = record_of(&prefix, &owners[0].0);
        match action {
            0 => Edit::Remove(Kind::HostOwners, right),
            1 => Edit::Put(objects::host_owners(&other, &owners.into_iter().collect())),
            _ => Edit::Put(objects::host_owners(&right, &owners.into_iter().collect())),
        }
    })
}

/// What becomes known of a namespace's Secrets or ConfigMaps.
fn access() -> impl Strategy<Value = Edit> {
    let access = prop_oneof![
        1 => Just(Access::Pending),
        4 => Just(Access::Granted),
        2 => Just(Access::Denied { user: Some("system:serviceaccount:a:b".into()) }),
    ];
    let kind = prop_oneof![Just(Kind::Secret), Just(Kind::ConfigMap)];
    (kind, pick(&["n1", "n2"]), access)
        .prop_map(|(kind, namespace, access)| Edit::Access(kind, namespace.into(), access))
}

/// Before, at the end of, and after the life of the certificates.
fn time() -> impl Strategy<Value = Edit> {
    let end = 1_700_000_000 + 3650 * 86_400;
    prop::sample::select(vec![end - 400 * 86_400, end - 86_400, end]).prop_map(Edit::Now)
}

/// Puts, for some of them a later removal, and now and then an answer about access, or the time.
pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let object = (anything(), 0..5u8).prop_map(|(value, action)| {
        let object = objects::object(value);
        let (facts, _) = object.facts();
        match action {
            0 => Edit::Remove(facts.kind(), facts.key().clone()),
            1 => Edit::PutTrimmed(object.trim()),
            _ => Edit::Put(object),
        }
    });
    prop::collection::vec(prop_oneof![9 => object, 1 => access(), 1 => time(), 2 => record()], 1..25)
}

fn host_policy() -> impl Strategy<Value = HostPolicy> {
    let list = |namespace, hosts: &'static [&'static str]| {
        prop::sample::subsequence(hosts, 0..=hosts.len())
            .prop_map(move |hosts| (namespace, hosts.into_iter().map(str::to_owned).collect::<Vec<_>>()))
    };
    let lists = (list("n1", &["*", "a.test", "*.test"]), list("n2", &["*", "b.a.test", "*.a.test"]));
    let lists = lists.prop_map(|(one, two)| {
        let lists = [&one, &two].map(|(namespace, hosts)| (*namespace, hosts.as_slice()));
        HostPolicy::AllowList(AllowedHosts::parse(lists).unwrap())
    });
    prop_oneof![2 => Just(HostPolicy::Shared), 3 => Just(HostPolicy::PerNamespace), 2 => lists]
}

fn settings() -> impl Strategy<Value = Settings> {
    let class = prop::option::of(Just(Arc::from("ours")));
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), class, host_policy()).prop_map(
        |(cluster, configured, classless, guarded, class, host_policy)| Settings {
            guarded,
            host_policy,
            host_records: Some(RECORDS.parse().unwrap()),
            mode: if cluster { Mode::Cluster } else { Mode::Standalone },
            ingress_class: class,
            watch_without_class: classless,
            config_map: configured.then(|| ObjectKey::new("n1", "files")),
            default_certificate: configured.then(|| ObjectKey::new("n1", "good")),
            default_backend: configured.then(|| "n1/web:80".parse().unwrap()),
            ..Settings::default()
        },
    )
}

/// What remains of an edit script: the last edit of each object, in any order.
fn remaining(script: &[Edit]) -> Vec<Edit> {
    let mut last: std::collections::BTreeMap<(Kind, ObjectKey), Edit> = std::collections::BTreeMap::new();
    for edit in script {
        let identity = match edit {
            Edit::Put(object) => {
                let (facts, _) = object.facts();
                (facts.kind(), facts.key().clone())
            }
            Edit::PutTrimmed(object) => (object.facts.kind(), object.facts.key().clone()),
            Edit::Remove(kind, key) => (*kind, key.clone()),
            // No object has such a name.
            Edit::Access(kind, namespace, _) => (*kind, ObjectKey::new(namespace.clone(), "")),
            Edit::Now(_) => (Kind::Secret, ObjectKey::cluster("the time")),
        };
        last.insert(identity, edit.clone());
    }
    last.into_values().filter(|edit| !matches!(edit, Edit::Remove(..))).rev().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// After every batch of edits the incremental world equals one that is compiled from nothing, in another order; the
    /// deltas add up to the snapshot; the table equals one built at once, last good forms included; and no certificate is
    /// served to a host that it does not name.
    #[test]
    fn incremental_equals_full(settings in settings(), script in edits(), batch in 1..4usize) {
        let mut world = World::new(settings.clone());
        let mut replica = Replica::default();
        // What the settings alone make is published like everything else.
        let mut table = RouteTable::<Unbound>::default().apply(&replica.apply(&Delta::full(world.snapshot())), &mut Unbound);
        let mut owners = BTreeMap::new();
        for (index, edits) in script.chunks(batch).enumerate() {
            let outcome = world.apply(edits.to_vec());
            owners.extend(outcome.owners);
            owners.retain(|_, owner| *owner != Whose::Nobody);
            table = table.apply(&replica.apply(&outcome.delta), &mut Unbound);
            let done = (index * batch + edits.len()).min(script.len());
            let mut full = World::new(settings.clone());
            let mut owners_of_full = full.apply(remaining(&script[..done])).owners;
            owners_of_full.retain(|_, owner| *owner != Whose::Nobody);
            prop_assert_eq!(&owners, &owners_of_full);
            prop_assert_eq!(content(&world), content(&full));
            prop_assert_eq!(world.diagnostics(), full.diagnostics());
            prop_assert_eq!(world.snapshot(), replica.snapshot());
            prop_assert_eq!(world.snapshot().version.digest, full.snapshot().version.digest);
            for ingress in full.served() {
                prop_assert_eq!(world.status(ingress, &[]), full.status(ingress, &[]));
            }
            let built = RouteTable::<Unbound>::default().apply(&replica.everything(), &mut Unbound);
            for (host, path) in requests() {
                prop_assert_eq!(table.route(host, path), built.route(host, path), "{}{}", host, path);
                prop_assert_eq!(served(&table, host), served(&built, host), "{}", host);
                prop_assert_eq!(table.has_tls(host), built.has_tls(host), "{}", host);
                prop_assert!(served(&table, host).iter().flatten().all(|certificate| certificate.covers(host)), "{}", host);
            }
            for key in world.snapshot().backends.keys() {
                prop_assert_eq!(table.backend(key), built.backend(key), "{}", key);
            }
        }
    }

    /// Where hosts are owned, no namespace gets anything of another one's: not a path, not a default backend, not a certificate.
    #[test]
    fn an_owned_host_is_of_one_namespace(settings in settings(), script in edits()) {
        let mut world = World::new(Settings { host_policy: HostPolicy::PerNamespace, ..settings });
        // With everything that it remembers.
        let mut replica = Replica::default();
        let mut table = RouteTable::<Unbound>::default().apply(&replica.apply(&Delta::full(world.snapshot())), &mut Unbound);
        for edit in script {
            table = table.apply(&replica.apply(&world.apply([edit]).delta), &mut Unbound);
        }
        for (pattern, host) in &world.snapshot().hosts {
            let routes = host.routes.iter().chain(&host.default);
            let namespaces: BTreeSet<_> = routes.filter_map(|route| Some(route.ingress.as_ref()?.namespace.clone())).collect();
            prop_assert!(namespaces.len() <= 1, "{}: {:?}", pattern, namespaces);
            let Some(owner) = &host.owner else { continue };
            prop_assert!(namespaces.iter().all(|namespace| namespace == owner));
            let name = pattern.to_string().replace('*', "some");
            if table.host(&name).is_none_or(|entry| entry.source != *host) {
                continue;
            }
            for path in ["/", "/x", "/none"] {
                let route = table.route(&name, path).and_then(|route| route.ingress.as_ref());
                prop_assert!(route.is_none_or(|ingress| ingress.namespace == *owner), "{}{}", name, path);
            }
            for certificate in served(&table, &name).iter().flatten() {
                let marker = format!("{owner}.marker");
                prop_assert!(certificate.names.iter().any(|name| **name == *marker), "{}: {:?}", name, certificate.names);
            }
        }
    }

    /// A lookup in the table finds what a linear reading of the rules finds.
    #[test]
    fn table_lookup_is_a_linear_reading(script in edits(), host in "[a-c]{0,1}\\.?[a-b]?\\.?(a\\.)?test", path in "(/[xyX.]{0,2}){1,3}/?") {
        let mut world = World::new(Settings::default());
        world.apply(script);
        let change = Replica::default().apply(&Delta::full(world.snapshot()));
        let table = RouteTable::<Unbound>::default().apply(&change, &mut Unbound);
        prop_assert_eq!(table.route(&host, &path), naive::route(world.snapshot(), &host, &path));
        for (host, path) in requests() {
            prop_assert_eq!(table.route(host, path), naive::route(world.snapshot(), host, path), "{}{}", host, path);
        }
    }

    /// A snapshot survives JSON, but for private keys, which never enter it.
    #[test]
    fn snapshots_survive_serialisation(script in edits()) {
        let mut world = World::new(Settings::default());
        let mut replica = Replica::default();
        for edit in script {
            replica.apply(&world.apply([edit]).delta);
        }
        let text = serde_json::to_string(&replica).unwrap();
        prop_assert!(!text.contains("PRIVATE"));
        let read: Replica = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }
}

/// The certificates that a server name gets; `None`: the default certificate.
fn served<'a>(table: &'a RouteTable<Unbound>, host: &str) -> Option<Vec<&'a Arc<Certificate>>> {
    match table.server_name(host) {
        ServerName::Certificates(certificates) => Some(certificates),
        ServerName::Default | ServerName::KeyWithheld => None,
    }
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

fn content(world: &World) -> String {
    serde_json::to_string(world.snapshot()).unwrap()
}

fn requests() -> impl Iterator<Item = (&'static str, &'static str)> {
    let hosts = ["", "a.test", "b.a.test", "c.a.test", "x.b.a.test", "test", "other", "[::1]"];
    let paths = ["/", "/x", "/x/", "/x/y", "/x/y/z", "/X", "/xy", "/x//y", "/x%2Fy", "/.well-known/acme-challenge/t"];
    hosts.into_iter().flat_map(move |host| paths.into_iter().map(move |path| (host, path)))
}
