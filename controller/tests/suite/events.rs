//! Events on Ingresses.

use serde_json::{Value, json};

use crate::Test;
use crate::api::collection;
use crate::client::Tls;
use crate::harness::{Cluster, Pod, eventually, rule};
use crate::pki;

pub const TESTS: &[Test] = &[
    ("an_ingress_is_told_what_is_wrong_and_when_it_works", an_ingress_is_told_what_is_wrong_and_when_it_works),
    ("a_conflict_names_the_winner", a_conflict_names_the_winner),
    ("a_storm_is_written_slowly", a_storm_is_written_slowly),
    ("a_certificate_that_has_ended_is_told", a_certificate_that_has_ended_is_told),
    ("a_loss_that_a_gateway_holds_back_is_told", a_loss_that_a_gateway_holds_back_is_told),
];

/// The Events on an Ingress, as `kubectl describe` finds them: by its uid.
fn events(cluster: &Cluster, ingress: &str) -> Vec<Value> {
    let uid = cluster.api.get(&cluster.path("Ingress", ingress))["metadata"]["uid"].clone();
    let list = cluster.api.get(&collection("Event", &cluster.namespace));
    let all = list["items"].as_array().unwrap();
    all.iter().filter(|event| event["regarding"]["uid"] == uid).cloned().collect()
}

/// The notes of the Events of a reason.
fn notes(cluster: &Cluster, ingress: &str, reason: &str) -> Vec<String> {
    let events = events(cluster, ingress);
    let of_reason = events.iter().filter(|event| event["reason"] == reason);
    of_reason.map(|event| event["note"].as_str().unwrap().to_owned()).collect()
}

fn an_ingress_is_told_what_is_wrong_and_when_it_works() {
    let cluster = Cluster::new("events");
    let pod = Pod::start("events");
    cluster.api.create(&cluster.host("web", "events.test", "web"));
    let (controller, gateway) = cluster.start(json!({}));
    let note = eventually("the warning", || notes(&cluster, "web", "ServiceNotFound").first().cloned());
    assert!(note.contains("spec.rules[0].http.paths[0].backend: Service") && note.contains("events/web"), "{note}");
    let event = events(&cluster, "web").remove(0);
    assert_eq!(
        (&event["type"], &event["reportingController"]),
        (&json!("Warning"), &json!("sluicegate.dev/ingress-controller"))
    );
    assert_eq!(notes(&cluster, "web", "Effective"), [""; 0], "it was there before the controller");
    // Its Service, and then a new spec.
    cluster.api.create(&cluster.service("web", &[&pod]));
    gateway.answers("events.test", "/", &pod);
    let rules = crate::api::documents(&cluster.host("web", "new.events.test", "web"))[0]["spec"]["rules"].clone();
    cluster.api.merge(&cluster.path("Ingress", "web"), &json!({"spec": {"rules": rules}}));
    gateway.answers("new.events.test", "/", &pod);
    let note = eventually("it to be in force", || notes(&cluster, "web", "Effective").first().cloned());
    let version = controller.page("/table").json()["version"]["digest"].as_str().unwrap()[..12].to_owned();
    assert_eq!(note, format!("in force on 1 gateway, as version 0-{version}"));
    // An annotation is a change too, though it raises no generation.
    let annotation = json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}}});
    cluster.api.merge(&cluster.path("Ingress", "web"), &annotation);
    eventually("that to be in force", || (notes(&cluster, "web", "Effective").len() == 2).then_some(()));
    cluster
        .api
        .merge(&cluster.path("Ingress", "web"), &json!({"metadata": {"annotations": {"somebody.test/else": "x"}}}));
    // One that a controller starts with, and one that another has told already, is not told again.
    let count = events(&cluster, "web").len();
    let written = |controller: &crate::harness::Controller| {
        controller.metric("sluicegate_controller_events_total{outcome=\"written\"}")
    };
    drop(controller);
    let controller = cluster.controller(json!({"publishAddresses": ["192.0.2.7"]}));
    cluster.api.create(&cluster.host("broken", "broken.events.test", "none"));
    eventually("another warning", || notes(&cluster, "broken", "ServiceNotFound").first().cloned());
    assert_eq!(events(&cluster, "web").len(), count);
    assert_eq!(written(&controller), Some(1.0));
}

fn a_conflict_names_the_winner() {
    let cluster = Cluster::new("conflict");
    cluster.api.create(&cluster.host("first", "conflict.test", "web"));
    let (_controller, _gateway) = cluster.start(json!({}));
    // Younger by a second: ages have whole seconds.
    let created = || cluster.api.get(&cluster.path("Ingress", "first"))["metadata"]["creationTimestamp"].clone();
    let first = created();
    eventually("another second", || {
        let name = format!("later-{:?}", std::time::Instant::now())
            .to_lowercase()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let service = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: conflict}}\n");
        cluster.api.create(&service);
        (cluster.api.get(&cluster.path("ConfigMap", &name))["metadata"]["creationTimestamp"] != first).then_some(())
    });
    cluster.api.create(&cluster.host("second", "conflict.test", "web"));
    let note = eventually("the loser to be told", || notes(&cluster, "second", "PathConflict").first().cloned());
    assert!(note.contains("conflict/first"), "{note}");
    assert_eq!(notes(&cluster, "first", "PathConflict"), [""; 0]);
}

/// Many at once: some come soon, the API server is not flooded, and nothing else waits for them.
fn a_storm_is_written_slowly() {
    let cluster = Cluster::new("storm");
    let pod = Pod::start("storm");
    cluster.api.create(&cluster.service("web", &[&pod]));
    let (controller, gateway) = cluster.start(json!({}));
    for number in 0..80 {
        cluster.api.create(&cluster.host(&format!("broken-{number}"), &format!("{number}.storm.test"), "none"));
    }
    cluster.api.create(&cluster.host("good", "good.storm.test", "web"));
    gateway.answers("good.storm.test", "/", &pod);
    let written = || controller.metric("sluicegate_controller_events_total{outcome=\"written\"}").unwrap();
    eventually("the first of them", || (written() >= 50.0).then_some(()));
    // Each Ingress has a warning and, some time, an Event that it is in force: 161 in all.
    assert!(written() < 150.0, "{}", written());
}

fn a_certificate_that_has_ended_is_told() {
    let cluster = Cluster::new("ended");
    let pod = Pod::start("ended");
    cluster.api.create(&cluster.service("web", &[&pod]));
    for (name, from, to) in [("old", -90, -1), ("ending", -80, 10), ("good", -10, 80)] {
        let host = format!("{name}.ended.test");
        let secret =
            pki::valid(&[&host], from, to).secret(name).replace("metadata: {", "metadata: {namespace: ended, ");
        let spec = format!("tls: [{{hosts: [{host}], secretName: {name}}}], {}", rule(&host, "web"));
        cluster.api.create(&[secret, cluster.ingress(name, &spec)].join("---\n"));
    }
    let (_controller, gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    let note = eventually("the end to be told", || notes(&cluster, "old", "CertificateExpired").first().cloned());
    assert!(note.contains("Secret ended/old ended at 20"), "{note}");
    eventually("the coming end to be told", || notes(&cluster, "ending", "CertificateExpiring").first().cloned());
    let error = |ingress: &str| cluster.points(ingress)[0]["ports"][1]["error"].clone();
    eventually("the port's error", || (error("old") == "sluicegate.dev/CertificateExpired").then_some(()));
    eventually("the status", || (cluster.points("good")[0]["ip"] == "192.0.2.7").then_some(()));
    assert_eq!((error("good"), error("ending")), (Value::Null, Value::Null));
    assert!(!events(&cluster, "good").iter().any(|event| event["type"] == "Warning"));
    // What clients make of it is theirs.
    let names = Tls::new().connect(gateway.https, Some("old.ended.test")).certificate_names();
    assert_eq!(names, ["old.ended.test"]);
    // Renewed.
    let renewed =
        pki::valid(&["old.ended.test"], 0, 90).secret("old").replace("metadata: {", "metadata: {namespace: ended, ");
    cluster.api.apply(&renewed);
    eventually("the port's error to go", || error("old").is_null().then_some(()));
}

fn a_loss_that_a_gateway_holds_back_is_told() {
    let cluster = Cluster::new("held");
    let pod = Pod::start("held");
    cluster.api.create(&cluster.service("web", &[&pod]));
    let host = |number: usize| format!("h{number}.held.test");
    (0..24).for_each(|number| cluster.api.create(&cluster.host(&format!("h{number}"), &host(number), "web")));
    let (controller, gateway) = cluster.start(json!({}));
    gateway.answers(&host(23), "/", &pod);
    let publish = controller.publish.to_string();
    drop(controller);
    (0..20).for_each(|number| cluster.api.delete(&cluster.path("Ingress", &format!("h{number}"))));
    let _controller = cluster.controller(json!({"publish": publish}));
    let lease = "sluicegate-controller-held";
    let note = eventually("the Event", || {
        let list = cluster.api.get(&collection("Event", "sluicegate"));
        let held = list["items"].as_array()?.iter().find(|event| event["regarding"]["name"] == lease)?.clone();
        (held["reason"] == "LossHeld").then(|| held["note"].as_str().unwrap().to_owned())
    });
    assert!(note.contains("would leave 4 of 24 routes"), "{note}");
    // It was real.
    gateway.answers(&host(0), "/", 404);
    gateway.answers(&host(23), "/", &pod);
}
