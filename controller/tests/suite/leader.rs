//! Of several controllers one writes statuses, and somebody always does.

use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::Test;
use crate::api::path;
use crate::endurance::form;
use crate::harness::{Cluster, Controller, eventually};
use crate::{audit, bed};

pub const TESTS: &[Test] = &[
    ("one_writes_and_the_other_takes_over", one_writes_and_the_other_takes_over),
    ("a_class_that_was_left_while_nobody_looked", a_class_that_was_left_while_nobody_looked),
    ("a_foreign_writer_is_named_and_not_fought", a_foreign_writer_is_named_and_not_fought),
    ("statuses_are_emptied_at_the_end", statuses_are_emptied_at_the_end),
];

const BACKEND: &str = "defaultBackend: {service: {name: none, port: {number: 80}}}";

fn leads(controller: &Controller) -> bool {
    controller.metric("sluicegate_controller_leader") == Some(1.0)
}

fn written(controller: &Controller) -> f64 {
    controller.metric("sluicegate_controller_status_writes_total{outcome=\"written\"}").unwrap()
}

fn address(cluster: &Cluster, ingress: &str) -> Option<String> {
    cluster.points(ingress)[0]["ip"].as_str().map(str::to_owned)
}

fn one_writes_and_the_other_takes_over() {
    let cluster = Cluster::new("leader");
    let config = json!({"publishAddresses": ["192.0.2.7"]});
    let mut controllers: Vec<Controller> = (0..2).map(|_| cluster.controller(config.clone())).collect();
    let signals = form(vec![Signal::TERM, Signal::KILL, Signal::TERM], vec![Signal::KILL; 20]);
    let rounds = signals.len();
    for (round, signal) in signals.into_iter().enumerate() {
        let name = format!("web-{round}");
        cluster.api.create(&cluster.ingress(&name, BACKEND));
        eventually("the address", || (address(&cluster, &name)? == "192.0.2.7").then_some(()));
        let leaders: Vec<bool> = controllers.iter().map(leads).collect();
        assert_eq!(leaders.iter().filter(|leads| **leads).count(), 1, "{leaders:?}");
        let leader = leaders.iter().position(|leads| *leads).unwrap();
        let other = 1 - leader;
        eventually("the write to be counted", || (written(&controllers[leader]) >= 1.0).then_some(()));
        if round == 0 {
            assert_eq!(written(&controllers[other]), 0.0, "only the leader writes");
        }
        let gone = controllers.remove(leader);
        let started = Instant::now();
        gone.program.process.signal(signal);
        let next = &controllers[0];
        eventually("the other to lead", || leads(next).then_some(()));
        println!("takeover after {signal:?}: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(15), "takeover after {signal:?}: {:?}", started.elapsed());
        drop(gone);
        controllers.push(cluster.controller(config.clone()));
    }
    // One write each, and none that met another: whoever took over found the others' as they should be.
    let log = bed::bed().audit_log();
    for round in 0..rounds {
        assert_eq!(audit::status_writes(&log, &cluster.namespace, &format!("web-{round}")), [200], "web-{round}");
    }
}

fn a_class_that_was_left_while_nobody_looked() {
    let cluster = Cluster::new("left");
    let config = json!({"publishAddresses": ["192.0.2.7"]});
    cluster.api.create(&[cluster.ingress("web", BACKEND), cluster.ingress("stays", BACKEND)].join("---\n"));
    let controller = cluster.controller(config.clone());
    eventually("the address", || address(&cluster, "web"));
    eventually("the address", || address(&cluster, "stays"));
    drop(controller);
    let web = cluster.path("Ingress", "web");
    cluster.api.merge(&web, &json!({"spec": {"ingressClassName": "somebody-else"}}));
    let _controller = cluster.controller(config);
    eventually("what was written to go", || address(&cluster, "web").is_none().then_some(()));
    assert!(address(&cluster, "stays").is_some());
}

fn a_foreign_writer_is_named_and_not_fought() {
    let cluster = Cluster::new("foreign");
    cluster.api.create(&cluster.ingress("web", BACKEND));
    let controller = cluster.controller(json!({"publishAddresses": ["192.0.2.7"]}));
    let status = format!("{}/status?fieldManager=nginx-ingress-controller", cluster.path("Ingress", "web"));
    let foreign = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.99"}]}}}).to_string();
    for times in 1..=3 {
        eventually("our address", || (address(&cluster, "web")? == "192.0.2.7").then_some(()));
        cluster.api.call(Method::PATCH, &status, "application/merge-patch+json", &foreign).ok();
        eventually("it to be noticed", || {
            (controller.program.said().matches("has written over the status").count() == times).then_some(())
        });
    }
    let trouble = eventually("it to be reported", || {
        let page = controller.page("/diagnostics").json();
        page["trouble"].as_array()?.first().map(|sentence| sentence.as_str().unwrap_or_default().to_owned())
    });
    assert!(trouble.contains("Ingress foreign/web") && trouble.contains("`nginx-ingress-controller`"), "{trouble}");
    // Something else happens, and the status is left as it is.
    cluster.api.create(&cluster.ingress("other", BACKEND));
    eventually("another Ingress to have its address", || address(&cluster, "other"));
    assert_eq!(address(&cluster, "web").as_deref(), Some("192.0.2.99"));
}

fn statuses_are_emptied_at_the_end() {
    let cluster = Cluster::new("emptied");
    cluster.api.create(&cluster.ingress("web", BACKEND));
    let controller = cluster.controller(json!({"publishAddresses": ["192.0.2.7"], "clearStatusOnShutdown": true}));
    eventually("the address", || address(&cluster, "web"));
    drop(controller);
    assert_eq!(address(&cluster, "web"), None);
    let lease = cluster.api.get(&path("Lease", "sluicegate", "sluicegate-controller-emptied"));
    assert!(lease["spec"]["holderIdentity"].is_null(), "the Lease is given back: {lease}");
}
