//! The shipped manifests on a real API server.

use http::Method;
use serde_json::{Value, json};

use crate::Test;
use crate::api::{Api, collection, documents, path};
use crate::bed;
use crate::harness::{Controller, eventually};

pub const TESTS: &[Test] =
    &[("they_apply_and_their_service_gives_the_address", they_apply_and_their_service_gives_the_address)];

const NAMESPACE: &str = "sluicegate";

/// Every shipped manifest, in the order of its file's name.
fn texts() -> Vec<String> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    names.iter().map(|name| bed::manifest(name)).collect()
}

/// The command line of the container of a Deployment.
fn arguments(objects: &[Value], deployment: &str) -> Vec<String> {
    let object = objects
        .iter()
        .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == deployment)
        .unwrap();
    let arguments = object["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    arguments.iter().map(|argument| argument.as_str().unwrap().to_owned()).collect()
}

fn they_apply_and_their_service_gives_the_address() {
    let api = Api::of(&bed::bed().admin());
    let objects: Vec<Value> = texts().iter().flat_map(|text| documents(text)).collect();
    // Twice: applying what is there changes nothing.
    for _ in 0..2 {
        objects.iter().for_each(|object| api.apply(&object.to_string()));
    }
    // The namespace enforces the restricted Pod Security Standard, and the pods of both Deployments are admitted.
    let pods = collection("Pod", NAMESPACE);
    for object in objects.iter().filter(|object| object["kind"] == "Deployment") {
        let name = object["metadata"]["name"].as_str().unwrap();
        let mut pod = object["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        api.call(Method::POST, &pods, "application/json", &pod.to_string()).ok();
        api.delete(&format!("{}?gracePeriodSeconds=0", path("Pod", NAMESPACE, name)));
        pod["spec"]["containers"][0]["securityContext"] = json!({});
        let refused = api.call(Method::POST, &pods, "application/json", &pod.to_string());
        assert_eq!(refused.status, 403, "without its security context {name} is refused: {}", refused.body);
    }
    // Every flag is one that the programs know; the Service they name is among the manifests.
    for (deployment, binary) in
        [("sluicegate-controller", "sluicegate-controller"), ("sluicegate-gateway", "sluicegate")]
    {
        let mut command = std::process::Command::new(crate::harness::binary(binary));
        let output = command.args(arguments(&objects, deployment)).arg("--no-such-flag").output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.contains("'--no-such-flag'"),
            "{deployment}: the first flag that is not known must be ours: {errors}"
        );
    }
    let publish = arguments(&objects, "sluicegate-controller")
        .iter()
        .find_map(|argument| argument.strip_prefix("--publish-service=").map(str::to_owned));
    assert_eq!(publish.as_deref(), Some("sluicegate/sluicegate"));

    // A controller with the shipped rights; the cloud gives the Service its address.
    let kubeconfig = bed::controller_kubeconfig(&bed::bed());
    let config = json!({"ingressClass": "sluicegate", "publishService": publish, "watchNamespaces": [NAMESPACE]});
    let _controller = Controller::start(&kubeconfig, config).ready();
    let backend = json!({"service": {"name": "none", "port": {"number": 80}}});
    api.create(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"ingressClassName": "sluicegate", "defaultBackend": backend},
    }).to_string());
    let status = format!("{}/status", path("Service", NAMESPACE, "sluicegate"));
    let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.80"}]}}});
    api.merge(&status, &address);
    let points = || api.get(&path("Ingress", NAMESPACE, "web"))["status"]["loadBalancer"]["ingress"].clone();
    eventually("the address in the status", || (points()[0]["ip"] == "192.0.2.80").then_some(()));
}
