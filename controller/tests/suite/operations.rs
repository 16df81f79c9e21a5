//! Every operation of the Ingress API: traffic and status follow.

use http::Method;
use serde_json::json;

use crate::Test;
use crate::api::{Answer, collection, documents};
use crate::harness::{Cluster, Pod, eventually, rule};

pub const TESTS: &[Test] =
    &[("each_one_is_followed", each_one_is_followed), ("their_options_are_followed", their_options_are_followed)];

const MERGE: &str = "application/merge-patch+json";

/// One Ingress through its life, in the order in which a user would do it.
fn each_one_is_followed() {
    let cluster = Cluster::new("operations");
    let (blue, green) = (Pod::start("blue"), Pod::start("green"));
    cluster.api.create(&[cluster.service("blue", &[&blue]), cluster.service("green", &[&green])].join("---\n"));
    let (_controller, gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    let path = cluster.path("Ingress", "shop");
    let call = |method: Method, target: &str, media_type: &str, body: &str| -> Answer {
        cluster.api.call(method, target, media_type, body)
    };

    // create
    cluster.api.create(&cluster.host("shop", "a.test", "blue"));
    gateway.answers("a.test", "/", &blue);
    eventually("its status", || (cluster.points("shop")[0]["ip"] == "192.0.2.7").then_some(()));
    assert_eq!(cluster.points("shop")[0]["ports"], json!([{"port": 80, "protocol": "TCP"}]));

    // update (replace), with the version that was read
    let mut read = cluster.api.get(&path);
    read["spec"] = documents(&cluster.host("shop", "b.test", "blue"))[0]["spec"].clone();
    call(Method::PUT, &path, "application/json", &read.to_string()).ok();
    gateway.answers("b.test", "/", &blue);
    gateway.answers("a.test", "/", 404);
    assert_eq!(cluster.points("shop")[0]["ip"], "192.0.2.7", "an update leaves the status alone");

    // patch: JSON, merge, strategic merge, apply
    let json_patch = json!([{"op": "replace", "path": "/spec/rules/0/host", "value": "c.test"}]);
    call(Method::PATCH, &path, "application/json-patch+json", &json_patch.to_string()).ok();
    gateway.answers("c.test", "/", &blue);
    let rules = documents(&cluster.ingress("shop", &rule("d.test", "green")))[0]["spec"]["rules"].clone();
    call(Method::PATCH, &path, MERGE, &json!({"spec": {"rules": rules}}).to_string()).ok();
    gateway.answers("d.test", "/", &green);
    gateway.answers("c.test", "/", 404);
    let tls = json!({"spec": {"tls": [{"hosts": ["d.test"], "secretName": "none"}]}});
    call(Method::PATCH, &path, "application/strategic-merge-patch+json", &tls.to_string()).ok();
    gateway.answers("d.test", "/", 308);
    eventually("the error of port 443", || {
        (cluster.points("shop")[0]["ports"][1]["error"] == "sluicegate.dev/CertificateMissing").then_some(())
    });
    let applied = documents(&cluster.host("shop", "e.test", "blue"))[0].to_string();
    call(Method::PATCH, &format!("{path}?fieldManager=test&force=true"), "application/apply-patch+yaml", &applied).ok();
    // The tls entry is another manager's and stays, so the Ingress still has TLS.
    gateway.answers("e.test", "/", 308);
    gateway.answers("e.test", "/.well-known/acme-challenge/x", &blue);
    call(Method::PATCH, &path, MERGE, &json!({"spec": {"tls": null}}).to_string()).ok();
    gateway.answers("e.test", "/", &blue);
    eventually("port 443 to leave the status", || (cluster.points("shop")[0]["ports"][1].is_null()).then_some(()));

    // status: patch and update by somebody else are set right again, and move no traffic
    let status = format!("{path}/status");
    let foreign = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.99"}]}}});
    call(Method::PATCH, &status, MERGE, &foreign.to_string()).ok();
    eventually("the status to be ours again", || (cluster.points("shop")[0]["ip"] == "192.0.2.7").then_some(()));
    // Between reading and writing the controller may write too: then the API server says so, and one reads again.
    eventually("a status to be updated", || {
        let mut read = cluster.api.get(&status);
        read["status"] = json!({"loadBalancer": {}});
        (call(Method::PUT, &status, "application/json", &read.to_string()).status == 200).then_some(())
    });
    eventually("the status to be ours again", || (cluster.points("shop")[0]["ip"] == "192.0.2.7").then_some(()));
    gateway.answers("e.test", "/", &blue);

    // delete and deletecollection
    cluster.api.delete(&path);
    gateway.answers("e.test", "/", 404);
    cluster
        .api
        .create(&[cluster.host("one", "one.test", "blue"), cluster.host("two", "two.test", "green")].join("---\n"));
    gateway.answers("one.test", "/", &blue);
    gateway.answers("two.test", "/", &green);
    cluster.api.delete(&collection("Ingress", &cluster.namespace));
    gateway.answers("one.test", "/", 404);
    gateway.answers("two.test", "/", 404);
}

/// What the operations' parameters change: only what is stored is served, and for as long as it is.
fn their_options_are_followed() {
    let cluster = Cluster::new("options");
    let pod = Pod::start("options");
    cluster.api.create(&cluster.service("web", &[&pod]));
    let (_controller, gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    let path = cluster.path("Ingress", "shop");
    let all = collection("Ingress", &cluster.namespace);
    let document = |name: &str, host: &str| documents(&cluster.host(name, host, "web"))[0].clone();
    let call = |method: Method, target: &str, media_type: &str, body: &serde_json::Value| -> Answer {
        cluster.api.call(method, target, media_type, &body.to_string())
    };

    // dryRun stores nothing; what follows it on the same watch is served, so it was not merely late.
    call(Method::POST, &format!("{all}?dryRun=All"), "application/json", &document("dry", "dry.test")).ok();
    let apply = format!("{path}?fieldManager=test&fieldValidation=Strict");
    call(Method::PATCH, &apply, "application/apply-patch+yaml", &document("shop", "shop.test")).ok();
    gateway.answers("shop.test", "/", &pod);
    gateway.answers("dry.test", "/", 404);
    call(Method::DELETE, &path, "application/json", &json!({"dryRun": ["All"]})).ok();

    // A field that does not exist is refused by the server, or dropped: the rest is served.
    let mut odd = document("odd", "odd.test");
    odd["spec"]["hots"] = json!("typo");
    let strict = call(Method::POST, &format!("{all}?fieldValidation=Strict"), "application/json", &odd);
    assert_eq!(strict.status, 400);
    call(Method::POST, &format!("{all}?fieldValidation=Ignore"), "application/json", &odd).ok();
    gateway.answers("odd.test", "/", &pod);
    gateway.answers("shop.test", "/", &pod);

    // An Ingress that is being deleted and has a finalizer is there until the finalizer is gone.
    let finalizers = |list: serde_json::Value| json!({"metadata": {"finalizers": list}});
    call(Method::PATCH, &path, MERGE, &finalizers(json!(["example.com/hold"]))).ok();
    let options = json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 0});
    call(Method::DELETE, &path, "application/json", &options).ok();
    assert!(cluster.api.get(&path)["metadata"]["deletionTimestamp"].is_string());
    cluster.api.create(&document("after", "after.test").to_string());
    gateway.answers("after.test", "/", &pod);
    gateway.answers("shop.test", "/", &pod);
    eventually("its status", || (cluster.points("shop")[0]["ip"] == "192.0.2.7").then_some(()));
    call(Method::PATCH, &path, MERGE, &finalizers(json!(null))).ok();
    gateway.answers("shop.test", "/", 404);

    // deletecollection with a selector takes those that it selects.
    let label = json!({"metadata": {"labels": {"color": "red"}}});
    call(Method::PATCH, &cluster.path("Ingress", "odd"), MERGE, &label).ok();
    call(Method::DELETE, &format!("{all}?labelSelector=color%3Dred"), "application/json", &json!({})).ok();
    gateway.answers("odd.test", "/", 404);
    gateway.answers("after.test", "/", &pod);
}
