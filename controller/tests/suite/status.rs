//! The addresses in statuses.

use http::Method;
use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Cluster, Controller, Gateway, eventually};

pub const TESTS: &[Test] = &[
    ("a_service_gives_its_addresses", a_service_gives_its_addresses),
    ("gateways_report_their_addresses", gateways_report_their_addresses),
    ("it_is_written_once_and_by_name", it_is_written_once_and_by_name),
    ("the_command_prints_what_is_wrong", the_command_prints_what_is_wrong),
];

const BACKEND: &str = "defaultBackend: {service: {name: none, port: {number: 80}}}";

fn addresses(points: &Value) -> Vec<String> {
    let address = |point: &Value| point["ip"].as_str().or(point["hostname"].as_str()).unwrap_or_default().to_owned();
    points.as_array().into_iter().flatten().map(address).collect()
}

fn a_service_gives_its_addresses() {
    let cluster = Cluster::new("addresses");
    cluster.api.create(&cluster.ingress("web", BACKEND));
    let controller = cluster.controller(json!({"publishService": "addresses/edge"}));
    controller.program.says("Service addresses/edge (setting publishService) does not exist");
    cluster.api.create("apiVersion: v1\nkind: Service\nmetadata: {name: edge, namespace: addresses}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n");
    controller.program.says("Service addresses/edge (setting publishService) has no address yet");
    assert!(cluster.points("web").is_null());
    let status = format!("{}/status", cluster.path("Service", "edge"));
    let balancer = |points: Value| {
        cluster
            .api
            .call(
                Method::PATCH,
                &status,
                "application/merge-patch+json",
                &json!({"status": {"loadBalancer": {"ingress": points}}}).to_string(),
            )
            .ok()
    };
    balancer(json!([{"ip": "192.0.2.9"}, {"hostname": "lb.test"}]));
    eventually("both addresses", || (addresses(&cluster.points("web")) == ["192.0.2.9", "lb.test"]).then_some(()));
    balancer(json!([{"ip": "192.0.2.8"}]));
    eventually("the new address", || (addresses(&cluster.points("web")) == ["192.0.2.8"]).then_some(()));
    // A Service that loses its address takes nothing with it: whoever reads statuses would take the edge out of DNS.
    balancer(json!([]));
    eventually("the message", || (controller.program.said().matches("has no address yet").count() == 2).then_some(()));
    cluster.api.create(&cluster.ingress("late", BACKEND));
    eventually("a new Ingress to have the last known address", || {
        (addresses(&cluster.points("late")) == ["192.0.2.8"]).then_some(())
    });
    assert_eq!(addresses(&cluster.points("web")), ["192.0.2.8"]);
}

fn it_is_written_once_and_by_name() {
    let cluster = Cluster::new("written");
    cluster.api.create(&cluster.ingress("web", BACKEND));
    let config = json!({"publishAddresses": ["192.0.2.7"]});
    let controller = cluster.controller(config.clone());
    eventually("the status", || (addresses(&cluster.points("web")) == ["192.0.2.7"]).then_some(()));
    let written = |controller: &crate::harness::Controller| {
        controller.metric("sluicegate_controller_status_writes_total{outcome=\"written\"}")
    };
    eventually("the write to be counted", || (written(&controller) == Some(1.0)).then_some(()));
    let object = cluster.api.get(&cluster.path("Ingress", "web"));
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    let ours = managers.iter().find(|entry| entry["manager"] == "sluicegate-controller-written").unwrap();
    assert_eq!(ours["subresource"], "status");
    // Edits that change nothing of it, and another controller that wants the same, write nothing.
    cluster.api.merge(&cluster.path("Ingress", "web"), &json!({"metadata": {"labels": {"a": "b"}}}));
    let second = cluster.controller(config);
    cluster.api.create(&cluster.ingress("marker", BACKEND));
    eventually("the marker", || (addresses(&cluster.points("marker")) == ["192.0.2.7"]).then_some(()));
    let web = cluster.api.get(&cluster.path("Ingress", "web"));
    assert_eq!(web["metadata"]["generation"], object["metadata"]["generation"]);
    let writes = || written(&controller).unwrap() + written(&second).unwrap();
    eventually("the marker to be counted", || (writes() >= 2.0).then_some(()));
    assert_eq!(written(&second), Some(0.0), "the other one leads");
}

fn the_command_prints_what_is_wrong() {
    let cluster = Cluster::new("printed");
    cluster.api.create(&cluster.ingress("web", BACKEND));
    cluster
        .api
        .create(&cluster.ingress("other", BACKEND).replace("ingressClassName: printed", "ingressClassName: nobody"));
    let (controller, _gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    eventually("the status", || (addresses(&cluster.points("web")) == ["192.0.2.7"]).then_some(()));
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate-controller"));
        command.arg("status").args(arguments).arg("--kubeconfig").arg(&cluster.kubeconfig);
        let output = command.args(["--ingress-class", "printed", "--watch-namespace", "printed"]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text, _) = run(&[]);
    assert_eq!(code, Some(1), "errors were found");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "printed/other: not ours; no address");
    assert!(lines[1].starts_with("  error: spec.ingressClassName: UnknownClass:"), "{text}");
    assert_eq!(lines[2], "printed/web: class printed; 192.0.2.7");
    assert!(lines[3].contains("ServiceNotFound"), "{text}");
    let (_, text, _) = run(&["printed/web", "--output", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json[0]["diagnostics"][0]["reason"], "ServiceNotFound");
    assert!(json[0]["inForce"].is_null(), "no controller was asked");
    // A controller knows where it is in force.
    let admin = controller.admin.to_string();
    let version = controller.page("/table").json()["version"]["digest"].as_str().unwrap()[..12].to_owned();
    eventually("the gateway to have it", || {
        let (_, text, _) = run(&["printed/web", "--admin", &admin]);
        let expected =
            format!("printed/web: class printed; 192.0.2.7; in force on 1 of 1 gateways, version 0-{version}");
        (text.lines().next() == Some(&expected)).then_some(())
    });
    let of = |namespace: &str| {
        let page = controller.page(&format!("/diagnostics?namespace={namespace}")).json();
        page["diagnostics"].as_array().unwrap().len()
    };
    assert_eq!((of("printed"), of("elsewhere")), (2, 0));
    let (code, _, errors) = run(&["printed/gone"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("Ingress printed/gone does not exist"), "{errors}");
}

/// Each gateway follows another controller; one of these writes the statuses, with the addresses of both gateways.
fn gateways_report_their_addresses() {
    let cluster = Cluster::new("reported");
    cluster.api.create(&cluster.host("web", "reported.test", "web"));
    let controllers = [(); 2].map(|()| cluster.controller(json!({"publishGateways": true})));
    let gateway = |controller: &Controller, addresses: serde_json::Value| {
        Gateway::start(&[controller.publish], json!({"reportAddresses": addresses})).ready()
    };
    let _gateways = [
        gateway(&controllers[0], json!(["192.0.2.8", "edge.reported.test"])),
        gateway(&controllers[1], json!(["192.0.2.9"])),
        gateway(&controllers[1], json!([])),
    ];
    let published = || {
        let points = cluster.points("web");
        let texts = points.as_array()?.iter().filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str()));
        Some(texts.map(str::to_owned).collect::<Vec<_>>())
    };
    let all = ["192.0.2.8", "192.0.2.9", "edge.reported.test"];
    eventually("the addresses of both", || (published()? == all).then_some(()));
    assert!(
        controllers.iter().filter(|controller| controller.metric("sluicegate_controller_leader") == Some(1.0)).count()
            == 1
    );
    // The leader dies, and its gateway is heard of no more: what was noted of it counts on.
    let [first, second] = controllers;
    let (leader, other) = match first.metric("sluicegate_controller_leader") {
        Some(1.0) => (first, second),
        _ => (second, first),
    };
    drop(leader);
    cluster.api.create(&cluster.host("late", "late.reported.test", "web"));
    eventually("the other to lead", || (other.metric("sluicegate_controller_leader") == Some(1.0)).then_some(()));
    eventually("the late one's status", || (cluster.points("late").as_array()?.len() == 3).then_some(()));
}
