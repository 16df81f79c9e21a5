//! Edits of everything that an Ingress depends on.

use serde_json::json;

use crate::Test;
use crate::client::Tls;
use crate::harness::{Cluster, Pod, eventually};
use crate::pki;

pub const TESTS: &[Test] = &[
    ("classes", classes),
    ("services_and_their_endpoints", services_and_their_endpoints),
    ("certificates", certificates),
    ("config_maps", config_maps),
    ("named_namespaces_and_a_selector", named_namespaces_and_a_selector),
];

fn classes() {
    let cluster = Cluster::new("classes");
    let pod = Pod::start("classes");
    cluster.api.create(&cluster.service("web", &[&pod]));
    cluster.api.create(&cluster.host("web", "classes.test", "web"));
    let (controller, gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    gateway.answers("classes.test", "/", &pod);
    let class = crate::api::path("IngressClass", "", &cluster.class);

    // A class that is gone takes its Ingresses with it, and says so; one that is back brings them back.
    let object = cluster.api.get(&class);
    cluster.api.delete(&class);
    gateway.answers("classes.test", "/", 404);
    eventually("the diagnostic", || {
        controller.diagnostics().iter().any(|d| d.starts_with("Ingress classes/web UnknownClass")).then_some(())
    });
    eventually("its status to be cleared", || cluster.points("web").is_null().then_some(()));
    let mut again = object.clone();
    again["metadata"] = json!({"name": cluster.class});
    cluster.api.create(&again.to_string());
    gateway.answers("classes.test", "/", &pod);

    // The Ingress moves to a class of somebody else.
    cluster.api.create("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: classes-other}\nspec: {controller: example.test/other}\n");
    let path = cluster.path("Ingress", "web");
    cluster.api.merge(&path, &json!({"spec": {"ingressClassName": "classes-other"}}));
    gateway.answers("classes.test", "/", 404);
    eventually("its status to be cleared", || cluster.points("web").is_null().then_some(()));
    cluster.api.merge(&path, &json!({"spec": {"ingressClassName": cluster.class}}));
    gateway.answers("classes.test", "/", &pod);

    // The default class takes Ingresses without one. The API server's own admission fills the field in at creation, so it is
    // taken out again.
    cluster
        .api
        .merge(&class, &json!({"metadata": {"annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}}));
    cluster.api.merge(&path, &json!({"spec": {"ingressClassName": null}}));
    gateway.answers("classes.test", "/", &pod);
    cluster
        .api
        .merge(&class, &json!({"metadata": {"annotations": {"ingressclass.kubernetes.io/is-default-class": null}}}));
    gateway.answers("classes.test", "/", 404);
}

fn services_and_their_endpoints() {
    let cluster = Cluster::new("services");
    let (first, second) = (Pod::start("first"), Pod::start("second"));
    cluster.api.create(&cluster.host("web", "services.test", "web"));
    let (_controller, gateway) = cluster.start(json!({}));
    let reason = |expected: &str| {
        eventually(expected, || {
            (gateway.get("services.test", "/").header("sluicegate-reason") == Some(expected)).then_some(())
        });
    };
    reason("ServiceNotFound");
    cluster.api.create(&cluster.service("web", &[]));
    reason("NoEndpoints");

    let slice = cluster.path("EndpointSlice", "web-1");
    let endpoints = |pods: &[(&Pod, bool)]| {
        let endpoint =
            |(pod, ready): &(&Pod, bool)| json!({"addresses": [pod.address], "conditions": {"ready": ready}});
        json!({"endpoints": pods.iter().map(endpoint).collect::<Vec<_>>()})
    };
    cluster.api.merge(&slice, &endpoints(&[(&first, true)]));
    gateway.answers("services.test", "/", &first);
    cluster.api.merge(&slice, &endpoints(&[(&first, false), (&second, true)]));
    gateway.answers("services.test", "/", &second);
    assert_eq!(
        gateway.get("services.test", "/").header("x-echo"),
        Some("second"),
        "no request goes to one that is not ready"
    );
    cluster.api.delete(&slice);
    reason("NoEndpoints");
    cluster.api.create(&cluster.slice("web", &[&first, &second]));
    gateway.answers("services.test", "/", &second);

    // The port that the Ingress names is taken away and given back.
    let service = cluster.path("Service", "web");
    let port = |number: u16| json!({"spec": {"ports": [{"name": "http", "port": number, "targetPort": 8080}]}});
    cluster.api.merge(&service, &port(81));
    reason("PortNotFound");
    cluster.api.merge(&service, &port(80));
    gateway.answers("services.test", "/", &first);
    cluster.api.delete(&service);
    reason("ServiceNotFound");
}

fn certificates() {
    let cluster = Cluster::new("certificates");
    let pod = Pod::start("certificates");
    cluster.api.create(&cluster.service("web", &[&pod]));
    let spec =
        format!("tls: [{{hosts: [tls.test], secretName: web-tls}}], {}", crate::harness::rule("tls.test", "web"));
    cluster.api.create(&cluster.ingress("web", &spec));
    let (_controller, gateway) = cluster.start(json!({}));
    let names = || Tls::new().connect(gateway.https, Some("tls.test")).certificate_names();
    gateway.answers("tls.test", "/", 308);
    assert!(!names().contains(&"tls.test".to_owned()), "the default certificate");

    let secret = |pair: &pki::Pair| {
        pair.secret("web-tls").replace("{name: web-tls}", "{name: web-tls, namespace: certificates}")
    };
    cluster.api.apply(&secret(&pki::ecdsa(&["tls.test", "one.test"])));
    eventually("the certificate", || names().contains(&"one.test".to_owned()).then_some(()));
    cluster.api.apply(&secret(&pki::ecdsa(&["tls.test", "two.test"])));
    eventually("the renewed certificate", || names().contains(&"two.test".to_owned()).then_some(()));
    // A Secret that turns bad costs nothing; one that is deleted is gone.
    let path = cluster.path("Secret", "web-tls");
    cluster.api.merge(&path, &json!({"stringData": {"tls.crt": "nonsense"}}));
    let error = || cluster.api.get(&cluster.path("Ingress", "web"));
    eventually("the diagnostic", || {
        _controller.diagnostics().iter().any(|d| d.contains("CertificateInvalid")).then_some(())
    });
    assert!(names().contains(&"two.test".to_owned()), "the last good form stays");
    assert!(error()["status"]["loadBalancer"]["ingress"].is_null(), "no address is published here");
    cluster.api.delete(&path);
    eventually("the default certificate", || (!names().contains(&"two.test".to_owned())).then_some(()));
}

fn config_maps() {
    let cluster = Cluster::new("config-maps");
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: site, namespace: config-maps, labels: {sluicegate.dev/publish: 'true'}}\ndata: {index.html: hello}\n";
    let resource = "rules: [{host: static.test, http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: ConfigMap, name: site}}}]}}]";
    cluster.api.create(&cluster.ingress("site", resource));
    let (_controller, gateway) = cluster.start(json!({}));
    gateway.answers("static.test", "/", 503);
    cluster.api.create(config_map);
    gateway.answers("static.test", "/", 200);
    assert_eq!(gateway.get("static.test", "/").text(), "hello");
    let path = cluster.path("ConfigMap", "site");
    cluster.api.merge(&path, &json!({"data": {"index.html": "changed"}}));
    eventually("the new content", || (gateway.get("static.test", "/").text() == "changed").then_some(()));
    cluster.api.merge(&path, &json!({"metadata": {"labels": {"sluicegate.dev/publish": null}}}));
    gateway.answers("static.test", "/", 503);
    cluster.api.delete(&path);
    eventually("its absence", || {
        (gateway.get("static.test", "/").header("sluicegate-reason") == Some("ConfigMapNotFound")).then_some(())
    });

    // Settings of the class come from a ConfigMap that its parameters name.
    let class = crate::api::path("IngressClass", "", &cluster.class);
    let parameters = json!({"spec": {"parameters": {"kind": "ConfigMap", "name": "settings", "namespace": "config-maps", "scope": "Namespace"}}});
    cluster.api.create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: config-maps}\ndata: {rejectEncodedSlashes: 'true'}\n");
    cluster.api.merge(&class, &parameters);
    gateway.answers("static.test", "/a%2Fb", 400);
}

fn named_namespaces_and_a_selector() {
    let cluster = Cluster::new("named");
    let other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: named-not}\n";
    cluster.api.create(other);
    let pod = Pod::start("named");
    cluster.api.create(&cluster.service("web", &[&pod]));
    cluster.api.create(&cluster.service("web", &[&pod]).replace("namespace: named", "namespace: named-not"));
    cluster.api.create(&cluster.host("plain", "plain.test", "web"));
    let labelled = cluster
        .host("labelled", "labelled.test", "web")
        .replace("{name: labelled,", "{name: labelled, labels: {edge: 'yes'},");
    cluster.api.create(&labelled);
    cluster.api.create(
        &labelled.replace("namespace: named", "namespace: named-not").replace("labelled.test", "elsewhere.test"),
    );
    let (_controller, gateway) = cluster.start(json!({"watchNamespaces": ["named"], "selector": "edge=yes"}));
    gateway.answers("labelled.test", "/", &pod);
    gateway.answers("plain.test", "/", 404);
    gateway.answers("elsewhere.test", "/", 404);
    // A label that comes and goes is an object that comes and goes.
    cluster.api.merge(&cluster.path("Ingress", "plain"), &json!({"metadata": {"labels": {"edge": "yes"}}}));
    gateway.answers("plain.test", "/", &pod);
    cluster.api.merge(&cluster.path("Ingress", "plain"), &json!({"metadata": {"labels": {"edge": null}}}));
    gateway.answers("plain.test", "/", 404);
}
