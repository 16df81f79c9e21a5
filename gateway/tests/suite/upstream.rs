//! Backends that are slow, gone, or many: balancing, retries, health, names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::backends::{Refusing, Scripted, echo, everything_to, ingress, service};
use crate::client;
use crate::dns::{Found, dns_server};
use crate::harness::{Start, eventually};

fn backends_of(gateway: &crate::harness::Gateway, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let response = gateway.get("a.test", "/");
        *counts.entry(response.header("x-echo").unwrap_or("none").to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn requests_on_separate_connections_spread_evenly() {
    let endpoints: Vec<SocketAddr> = (0..5).map(|_| echo()).collect();
    let gateway = Start::with(&everything_to(&endpoints)).ready();
    let counts = backends_of(&gateway, 50);
    assert_eq!(counts.len(), 5);
    assert!(counts.values().all(|count| *count == 10), "{counts:?}");
}

#[test]
fn a_refused_connection_goes_to_another_endpoint_and_is_counted() {
    let (good, refusing) = (echo(), Refusing::new());
    let gateway = Start::with(&everything_to(&[good, refusing.1])).ready();
    for _ in 0..10 {
        assert_eq!(client::request(gateway.http, "POST", "a.test", "/", &[("Content-Length", "0")]).status, 200);
    }
    assert!(gateway.metric("sluicegate_upstream_retries_total", &[]) >= 3.0);
}

#[test]
fn an_endpoint_that_refuses_is_ejected_but_never_the_last() {
    let (good, refusing) = (echo(), Refusing::new());
    let gateway = Start::with(&everything_to(&[good, refusing.1])).ready();
    backends_of(&gateway, 10);
    gateway.wait_log("endpoint ejected");
    let healthy = |state: &str| gateway.metric("sluicegate_endpoint_health", &["default/web:80", state]);
    assert_eq!((healthy("\"healthy\""), healthy("\"unhealthy\"")), (1.0, 1.0));

    let alone = Refusing::new();
    let gateway = Start::with(&everything_to(&[alone.1])).ready();
    for _ in 0..10 {
        assert_eq!(gateway.get("a.test", "/").header("sluicegate-reason"), Some("ConnectFailed"));
    }
    gateway.wait_metric("sluicegate_endpoint_health", &["unhealthy"], 0.0);
    let address = alone.revive();
    assert_eq!(
        gateway.get("a.test", "/").header("x-echo"),
        Some(address.to_string().as_str()),
        "used at once when it is back"
    );
}

#[test]
fn health_survives_a_table_swap() {
    let (good, refusing) = (echo(), Refusing::new());
    let gateway = Start::with(&everything_to(&[good, refusing.1])).ready();
    backends_of(&gateway, 10);
    gateway.wait_log("endpoint ejected");
    // Another endpoint joins: a new table, the same state.
    gateway.apply(&everything_to(&[good, refusing.1, echo()]));
    gateway.wait_metric("sluicegate_endpoint_health", &["\"unhealthy\""], 1.0);
    let retries = gateway.metric("sluicegate_upstream_retries_total", &[]);
    backends_of(&gateway, 10);
    assert_eq!(gateway.metric("sluicegate_upstream_retries_total", &[]), retries, "nobody asks the ejected one");
}

#[test]
fn without_a_connection_the_reply_is_502() {
    let refusing = Refusing::new();
    let gateway = Start::with(&everything_to(&[refusing.1])).ready();
    let response = gateway.get("a.test", "/");
    assert_eq!((response.status, response.header("sluicegate-reason")), (502, Some("ConnectFailed")));
    gateway.wait_metric("sluicegate_requests_total", &["reason=\"ConnectFailed\"", "status=\"5xx\""], 1.0);
}

#[test]
fn a_silent_backend_is_504_a_broken_one_502() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let silent = Scripted::new(move |mut incoming| {
        counted.fetch_add(1, Ordering::SeqCst);
        drop(incoming.body_until(b"never"));
    });
    let gateway = Start::with(&everything_to(&[silent.address])).set("timeouts", json!({"upstreamRead": 1})).ready();
    assert_eq!(gateway.get("a.test", "/").header("sluicegate-reason"), Some("UpstreamTimeout"));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "what was slow is not asked again");

    let closing = Scripted::new(drop);
    let gateway = Start::with(&everything_to(&[closing.address])).ready();
    let response = gateway.get("a.test", "/");
    assert_eq!((response.status, response.header("sluicegate-reason")), (502, Some("UpstreamReset")));

    let babbling = Scripted::answering("this is not HTTP at all\r\n\r\n");
    let gateway = Start::with(&everything_to(&[babbling.address])).ready();
    let response = gateway.get("a.test", "/");
    assert_eq!((response.status, response.header("sluicegate-reason")), (502, Some("UpstreamInvalid")));
}

#[test]
fn active_checks_take_an_endpoint_out_and_back() {
    let healthy = Arc::new(AtomicBool::new(false));
    let shared = healthy.clone();
    let checked = Scripted::new(move |mut incoming| {
        let good = shared.load(Ordering::SeqCst) || !incoming.head.starts_with("GET /live ");
        let status = if good { "200 OK" } else { "500 Internal Server Error" };
        incoming
            .send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nx-echo: checked\r\nConnection: close\r\n\r\n"));
    });
    let good = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-echo: good\r\nConnection: close\r\n\r\n")
    });
    let manifests = everything_to(&[checked.address, good.address])
        .replace("annotations: {", "annotations: {sluicegate.dev/health-check: 'http path=/live interval=100ms timeout=1s healthy=2 unhealthy=2', ");
    let gateway = Start::with(&manifests).ready();
    let unhealthy = || gateway.metric("sluicegate_endpoint_health", &["\"unhealthy\""]);
    eventually("the endpoint to be taken out", || (unhealthy() == 1.0).then_some(()));
    assert_eq!(backends_of(&gateway, 10).keys().collect::<Vec<_>>(), ["good"]);
    healthy.store(true, Ordering::SeqCst);
    eventually("the endpoint to come back", || (unhealthy() == 0.0).then_some(()));
    assert_eq!(backends_of(&gateway, 10).len(), 2);
}

#[test]
fn external_names_are_resolved_followed_and_kept_when_dns_fails() {
    let port = echo().port();
    let second = crate::backends::echo_on(SocketAddr::from(([127, 0, 0, 2], port)));
    let answer = Arc::new(std::sync::Mutex::new(Some(IpAddr::from([127, 0, 0, 1]))));
    let shared = answer.clone();
    let dns = dns_server(move |_| *shared.lock().unwrap());
    let manifests = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: ext}}\nspec: {{type: ExternalName, externalName: app.internal.test}}\n---\n{}",
        ingress("ext", &format!("spec: {{defaultBackend: {{service: {{name: ext, port: {{number: {port}}}}}}}}}"))
    );
    let gateway = Start::with(&manifests).set("dns", json!(dns)).ready();
    assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(format!("127.0.0.1:{port}").as_str()));
    *answer.lock().unwrap() = Some(IpAddr::from([127, 0, 0, 2]));
    eventually("the new address", || {
        (gateway.get("a.test", "/").header("x-echo")? == second.to_string()).then_some(())
    });
    *answer.lock().unwrap() = None;
    gateway.wait_log("cannot be resolved");
    assert_eq!(gateway.get("a.test", "/").status, 200, "the last answer is kept");
}

#[test]
fn a_name_that_does_not_resolve_is_503() {
    let manifests = format!(
        "{}---\n{}",
        service("web", "nowhere.test:80"),
        ingress("web", "spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}")
    );
    let gateway = Start::with(&manifests).set("dns", json!(dns_server(|_| None::<IpAddr>))).ready();
    assert_eq!(gateway.get("a.test", "/").header("sluicegate-reason"), Some("NameUnresolved"));
}

/// Among files an alias may lead anywhere; in a cluster `controller/tests/attacks/addresses.yaml` has what it may not.
#[test]
fn an_alias_of_a_name_is_followed() {
    let dns = dns_server(|name| match name {
        "alias.test" => Some(Found::Alias("there.other.svc.cluster.local".to_owned())),
        _ => Some(Found::Address(echo().ip())),
    });
    let manifests = format!(
        "{}---\n{}",
        service("web", &format!("alias.test:{}", echo().port())),
        ingress("web", "spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}")
    );
    let gateway = Start::with(&manifests).set("dns", json!(dns)).ready();
    assert_eq!(gateway.get("a.test", "/").status, 200);
}

#[test]
fn health_checks_end_with_their_annotation() {
    let backend = Scripted::new(|mut incoming| {
        let status = if incoming.head.starts_with("GET /live ") { "500 No" } else { "200 OK" };
        incoming
            .send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nx-echo: checked\r\nConnection: close\r\n\r\n"));
    });
    let unchecked = everything_to(&[backend.address, echo()]);
    let checked = unchecked.replace(
        "annotations: {",
        "annotations: {sluicegate.dev/health-check: 'http path=/live interval=100ms timeout=1s healthy=1 unhealthy=1', ",
    );
    let gateway = Start::with(&checked).ready();
    gateway.wait_metric("sluicegate_endpoint_health", &["\"unhealthy\""], 1.0);
    gateway.apply(&unchecked);
    gateway.wait_metric("sluicegate_endpoint_health", &["\"unhealthy\""], 0.0);
    assert!(backends_of(&gateway, 10).contains_key("checked"));
}
