//! The scenarios of the official Ingress conformance suite (kubernetes-sigs/ingress-controller-conformance), against the address in
//! `status.loadBalancer` on ports 80 and 443.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::Test;
use crate::api::documents;
use crate::client::{self, Response, Tls};
use crate::harness::{Cluster, Controller, Gateway, Pod, eventually};
use crate::{network, pki};

pub const TESTS: &[Test] = &[
    ("host_rules", host_rules),
    ("path_rules", path_rules),
    ("default_backend", default_backend),
    ("ingress_class", ingress_class),
    ("load_balancing", load_balancing),
];

/// A cluster whose gateway is reached at an address of its own, on the ports that everybody expects.
struct Edge {
    cluster: Cluster,
    _controller: Controller,
    _gateway: Gateway,
}

impl Edge {
    fn new(name: &str) -> Edge {
        let cluster = Cluster::new(name);
        let address = network::address();
        network::assign(address);
        let controller = cluster.controller(json!({"publishAddresses": [address]}));
        let listen = |port: u16| json!([SocketAddr::from((address, port))]);
        let config =
            json!({"http": listen(80), "https": listen(443), "serverHeader": "sluicegate", "debugHeader": false});
        let gateway = Gateway::start(&[controller.publish], config).ready();
        Edge { cluster, _controller: controller, _gateway: gateway }
    }

    /// The address in an Ingress' status, once it is there.
    fn address(&self, ingress: &str, port: u16) -> SocketAddr {
        let point = eventually("the Ingress to have an address", || {
            self.cluster.points(ingress)[0]["ip"].as_str().map(str::to_owned)
        });
        SocketAddr::new(point.parse().unwrap(), port)
    }
}

fn spec(cluster: &Cluster, name: &str, spec: &Value, annotations: &Value) -> String {
    let mut spec = spec.clone();
    spec["ingressClassName"] = json!(cluster.class);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": cluster.namespace, "annotations": annotations}, "spec": spec,
    })
    .to_string()
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// What every scenario asserts of a proxied answer.
fn is_proper(response: &Response, pod: &str) {
    assert_eq!(response.header("x-echo"), Some(pod), "{response:?}");
    assert_eq!(response.header("server"), Some("sluicegate"));
    assert!(response.header("content-length").is_some() && response.header("transfer-encoding").is_none());
    assert!(response.header("date").is_some());
}

fn host_rules() {
    let edge = Edge::new("host-rules");
    let cluster = &edge.cluster;
    let (exact, wildcard) = (Pod::start("foo-bar-com"), Pod::start("wildcard-foo-com"));
    cluster.api.create(&[cluster.service("exact", &[&exact]), cluster.service("wildcard", &[&wildcard])].join("---\n"));
    let secret = pki::ecdsa(&["foo.bar.com"])
        .secret("conformance-tls")
        .replace("{name: conformance-tls}", "{name: conformance-tls, namespace: host-rules}");
    cluster.api.create(&secret);
    let rule = |host: &str, service: &str| json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend(service)}]}});
    let object = json!({
        "tls": [{"hosts": ["foo.bar.com"], "secretName": "conformance-tls"}],
        "rules": [rule("*.foo.com", "wildcard"), rule("foo.bar.com", "exact")],
    });
    cluster.api.create(&spec(
        cluster,
        "host-rules",
        &object,
        &json!({"nginx.ingress.kubernetes.io/ssl-redirect": "false"}),
    ));
    let (http, https) = (edge.address("host-rules", 80), edge.address("host-rules", 443));
    eventually("the route", || (client::get(http, "foo.bar.com", "/").status == 200).then_some(()));

    // The certificate comes by another watch than the route.
    let named = || {
        let tls = Tls::new().connect(https, Some("foo.bar.com"));
        (tls.certificate_names() == ["foo.bar.com"]).then_some(tls)
    };
    let mut tls = eventually("the certificate", named);
    is_proper(&tls.request("GET", "foo.bar.com", "/", &[]), "foo-bar-com");
    is_proper(&client::get(http, "foo.bar.com", "/"), "foo-bar-com");
    is_proper(&client::get(http, "bar.foo.com", "/"), "wildcard-foo-com");
    for host in ["baz.bar.foo.com", "foo.com", "subdomain.foo.bar.com"] {
        assert_eq!(client::get(http, host, "/").status, 404, "{host}");
    }
    // A name without a certificate gets the default one, which has a DNS name as well.
    assert!(!Tls::new().connect(https, Some("bar.foo.com")).certificate_names().is_empty());
}

fn path_rules() {
    let edge = Edge::new("path-rules");
    let cluster = &edge.cluster;
    let pods: Vec<Pod> =
        ["foo-exact", "foo-prefix", "aaa-bbb-prefix", "aaa-prefix", "root-prefix"].map(Pod::start).into();
    let services: Vec<String> = pods.iter().map(|pod| cluster.service(&pod.name, &[pod])).collect();
    cluster.api.create(&services.join("---\n"));
    let path = |path: &str, path_type: &str, service: &str| json!({"path": path, "pathType": path_type, "backend": backend(service)});
    let rule = |host: &str, paths: Vec<Value>| json!({"host": host, "http": {"paths": paths}});
    let rules = json!({"rules": [
        rule("exact-path-rules", vec![path("/foo", "Exact", "foo-exact")]),
        rule("prefix-path-rules", vec![path("/foo", "Prefix", "foo-prefix"), path("/aaa/bbb", "Prefix", "aaa-bbb-prefix"), path("/aaa", "Prefix", "aaa-prefix")]),
        rule("mixed-path-rules", vec![path("/foo", "Prefix", "foo-prefix"), path("/foo", "Exact", "foo-exact")]),
        rule("trailing-slash-path-rules", vec![path("/aaa/bbb/", "Prefix", "aaa-bbb-prefix"), path("/foo/", "Exact", "foo-exact")]),
    ]});
    cluster.api.create(&spec(cluster, "path-rules", &rules, &json!({})));
    let http = edge.address("path-rules", 80);
    eventually("the route", || (client::get(http, "exact-path-rules", "/foo").status == 200).then_some(()));
    let rows = [
        ("exact-path-rules", "/foo", Some("foo-exact")),
        ("exact-path-rules", "/foo/", None),
        ("exact-path-rules", "/FOO", None),
        ("exact-path-rules", "/bar", None),
        ("prefix-path-rules", "/foo", Some("foo-prefix")),
        ("prefix-path-rules", "/foo/", Some("foo-prefix")),
        ("prefix-path-rules", "/FOO", None),
        ("prefix-path-rules", "/aaa/bbb", Some("aaa-bbb-prefix")),
        ("prefix-path-rules", "/aaa/bbb/ccc", Some("aaa-bbb-prefix")),
        ("prefix-path-rules", "/aaa", Some("aaa-prefix")),
        ("prefix-path-rules", "/aaa/ccc", Some("aaa-prefix")),
        ("prefix-path-rules", "/aaaccc", None),
        ("mixed-path-rules", "/foo", Some("foo-exact")),
        ("mixed-path-rules", "/foo/bar", Some("foo-prefix")),
        ("trailing-slash-path-rules", "/aaa/bbb", Some("aaa-bbb-prefix")),
        ("trailing-slash-path-rules", "/aaa/bbb/ccc", Some("aaa-bbb-prefix")),
        ("trailing-slash-path-rules", "/foo/", Some("foo-exact")),
        ("trailing-slash-path-rules", "/foo", None),
    ];
    for (host, path, pod) in rows {
        let response = client::get(http, host, path);
        match pod {
            Some(pod) => is_proper(&response, pod),
            None => assert_eq!(response.status, 404, "{host}{path}"),
        }
    }
}

fn default_backend() {
    let edge = Edge::new("default-backend");
    let cluster = &edge.cluster;
    let pod = Pod::start("default-backend");
    cluster.api.create(&cluster.service("echo", &[&pod]));
    cluster.api.create(&spec(cluster, "default-backend", &json!({"defaultBackend": backend("echo")}), &json!({})));
    let http = edge.address("default-backend", 80);
    eventually("the route", || (client::get(http, "any.test", "/").status == 200).then_some(()));
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        let target = "/sub/path?a=b";
        let fields = [("User-Agent", "conformance"), ("Content-Length", "0"), ("Connection", "close")];
        let response = client::connect(http).request(method, "any.test", target, &fields);
        is_proper(&response, "default-backend");
        let echo = response.json();
        assert_eq!((echo["method"].as_str(), echo["target"].as_str()), (Some(method), Some(target)));
        assert_eq!(response.echoed("host"), ["any.test"]);
        assert_eq!(response.echoed("user-agent"), ["conformance"]);
    }
}

fn ingress_class() {
    let edge = Edge::new("ingress-class");
    let cluster = &edge.cluster;
    let pod = Pod::start("ingress-class");
    cluster.api.create(&cluster.service("echo", &[&pod]));
    let rules = json!({"rules": [{"host": "ingress-class", "http": {"paths": [{"path": "/test", "pathType": "Prefix", "backend": backend("echo")}]}}]});
    let foreign = spec(cluster, "foreign", &rules, &json!({}));
    let mut foreign = documents(&foreign)[0].clone();
    foreign["spec"]["ingressClassName"] = json!("some-invalid-class-name");
    cluster.api.create(&foreign.to_string());
    // One of ours that comes after it and is served shows that the other was seen.
    let marker = rules.to_string().replace("ingress-class", "marker");
    cluster.api.create(&spec(cluster, "marker", &serde_json::from_str(&marker).unwrap(), &json!({})));
    let http = edge.address("marker", 80);
    eventually("the marker", || (client::get(http, "marker", "/test").status == 200).then_some(()));
    assert_eq!(client::get(http, "ingress-class", "/test").status, 404);
    assert!(cluster.points("foreign").is_null(), "an Ingress of another class gets no address");
}

fn load_balancing() {
    let edge = Edge::new("load-balancing");
    let cluster = &edge.cluster;
    let pods: Vec<Pod> = (0..10).map(|number| Pod::start(&format!("echo-{number}"))).collect();
    // A rollout as a kubelet shows it: first one pod, then the others.
    cluster.api.create(&cluster.service("echo", &[&pods[0]]));
    cluster.api.create(&cluster.host("echo", "load-balancing", "echo"));
    let http = edge.address("echo", 80);
    eventually("the first pod", || (client::get(http, "load-balancing", "/").status == 200).then_some(()));
    cluster.api.apply(&cluster.slice("echo", &pods.iter().collect::<Vec<_>>()));
    let names = |count: usize| -> BTreeSet<String> {
        (0..count).map(|_| client::get(http, "load-balancing", "/").header("x-echo").unwrap().to_owned()).collect()
    };
    eventually("all pods to be known", || (names(10).len() == 10).then_some(()));
    assert_eq!(names(100).len(), 10, "100 requests on connections of their own reach all of them");

    // A pod that goes with warning takes no request with it: it is taken out of the endpoints before it ends.
    let (mut gone, rest): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(|pod| pod.name == "echo-9");
    cluster.api.apply(&cluster.slice("echo", &rest.iter().collect::<Vec<_>>()));
    eventually("it to be unused", || (!names(20).contains("echo-9")).then_some(()));
    gone[0].vanish();
    assert_eq!(names(100).len(), 9);
    // One that goes without warning costs its requests a second try and no client an error.
    let mut rest = rest;
    rest[0].crash();
    let statuses: BTreeSet<u16> = (0..20).map(|_| client::get(http, "load-balancing", "/").status).collect();
    assert_eq!(statuses, BTreeSet::from([200]));
}
