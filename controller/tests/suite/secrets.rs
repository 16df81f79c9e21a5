//! Secrets are read where a RoleBinding allows it, and nowhere else.

use serde_json::json;

use crate::Test;
use crate::bed;
use crate::client::Tls;
use crate::harness::{Cluster, Controller, Gateway, Pod, eventually, rule};
use crate::network::Wire;
use crate::pki;

pub const TESTS: &[Test] = &[
    ("a_namespace_that_grants_nothing_is_told_how", a_namespace_that_grants_nothing_is_told_how),
    ("a_grant_that_is_taken_back_costs_nothing", a_grant_that_is_taken_back_costs_nothing),
    ("a_grant_that_comes_back_is_believed", a_grant_that_comes_back_is_believed),
    ("a_gateway_gets_the_certificates_of_its_class", a_gateway_gets_the_certificates_of_its_class),
    ("what_happens_in_one_namespace_holds_up_no_other", what_happens_in_one_namespace_holds_up_no_other),
    ("who_comes_back_goes_on_where_it_was", who_comes_back_goes_on_where_it_was),
];

/// An Ingress with TLS whose namespace has not granted anything yet.
fn ungranted(name: &str, pod: &Pod) -> Cluster {
    let cluster = Cluster::new(name);
    cluster.api.delete(&cluster.path("RoleBinding", "sluicegate"));
    let host = format!("{name}.test");
    let pair = pki::ecdsa(&[&host]).secret("tls").replace("{name: tls}", &format!("{{name: tls, namespace: {name}}}"));
    let spec = format!("tls: [{{hosts: [{host}], secretName: tls}}], {}", rule(&host, "web"));
    cluster.api.create(&[cluster.service("web", &[pod]), pair, cluster.ingress("web", &spec)].join("---\n"));
    cluster
}

fn a_namespace_that_grants_nothing_is_told_how() {
    let pod = Pod::start("secrets");
    let cluster = ungranted("secrets", &pod);
    let plain = Pod::start("secrets-plain");
    cluster.api.create(
        &[cluster.service("plain", &[&plain]), cluster.host("plain", "plain-secrets.test", "plain")].join("---\n"),
    );
    let (controller, gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    gateway.answers("plain-secrets.test", "/", &plain);
    let told = eventually("the diagnostic", || {
        controller.diagnostics().into_iter().find(|d| d.starts_with("Ingress secrets/web SecretAccessDenied"))
    });
    let command = "kubectl create rolebinding sluicegate --namespace secrets --clusterrole sluicegate-secret-reader --serviceaccount sluicegate:sluicegate-controller";
    assert!(told.ends_with(command), "{told}");
    eventually("the error of port 443", || {
        (cluster.points("web")[0]["ports"][1]["error"] == "sluicegate.dev/SecretAccessDenied").then_some(())
    });
    cluster.grant("secrets");
    eventually("the certificate", || {
        let names = Tls::new().connect(gateway.https, Some("secrets.test")).certificate_names();
        names.contains(&"secrets.test".to_owned()).then_some(())
    });
    eventually("the error to go", || cluster.points("web")[0]["ports"][1]["error"].is_null().then_some(()));
}

fn a_grant_that_is_taken_back_costs_nothing() {
    let pod = Pod::start("revoked");
    let cluster = ungranted("revoked", &pod);
    cluster.grant("revoked");
    let (controller, gateway) = cluster.start(json!({}));
    let has_certificate = || {
        Tls::new().connect(gateway.https, Some("revoked.test")).certificate_names().contains(&"revoked.test".to_owned())
    };
    eventually("the certificate", || has_certificate().then_some(()));
    cluster.api.delete(&cluster.path("RoleBinding", "sluicegate"));
    // A new controller cannot read the Secret any more; the gateway keeps what it has.
    let publish = controller.publish;
    drop(controller);
    let controller = cluster.controller(json!({"publish": publish.to_string()}));
    eventually("the gateway to follow it", || {
        (crate::harness::metric(&gateway.page("/metrics").text(), "sluicegate_controller_connected") == Some(1.0))
            .then_some(())
    });
    eventually("the diagnostic", || {
        controller.diagnostics().iter().any(|d| d.contains("SecretAccessDenied")).then_some(())
    });
    eventually("the gateway to be in step", || {
        (controller.metric("sluicegate_controller_gateways_behind") == Some(0.0)).then_some(())
    });
    assert!(has_certificate(), "a 403 is not a deletion");
}

/// The watch is cut, refused, and goes on where it was: no list says that all is known again.
fn a_grant_that_comes_back_is_believed() {
    let cluster = Cluster::new("regranted");
    let spec = "tls: [{hosts: [regranted.test], secretName: none}], rules: [{host: regranted.test}]";
    cluster.api.create(&cluster.ingress("web", spec));
    let (url, text) = (bed::bed().url(), std::fs::read_to_string(&cluster.kubeconfig).unwrap());
    let wire = Wire::to(url.trim_start_matches("https://").parse().unwrap());
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kubeconfig.path(), text.replace(&url, &format!("https://{}", wire.address))).unwrap();
    let controller = Controller::start(kubeconfig.path(), json!({"ingressClass": cluster.class})).ready();
    let told = |word: &str| {
        eventually(word, || controller.diagnostics().iter().any(|diagnostic| diagnostic.contains(word)).then_some(()));
    };
    told("SecretNotFound");
    cluster.api.delete(&cluster.path("RoleBinding", "sluicegate"));
    wire.cut();
    told("SecretAccessDenied");
    cluster.grant("regranted");
    told("SecretNotFound");
}

/// Two classes in one namespace, a controller and a gateway for each: no gateway has what the other class serves, neither the
/// certificate nor the host.
fn a_gateway_gets_the_certificates_of_its_class() {
    let cluster = Cluster::new("two-classes");
    let pod = Pod::start("two-classes");
    cluster.api.create(&[cluster.service("web", &[&pod]), "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: two-classes-other}\nspec: {controller: sluicegate.dev/ingress-controller}\n".to_owned()].join("---\n"));
    for class in ["two-classes", "two-classes-other"] {
        let host = format!("{class}.test");
        let secret = pki::ecdsa(&[&host]).secret(class).replace("metadata: {", "metadata: {namespace: two-classes, ");
        let spec = format!("tls: [{{hosts: [{host}], secretName: {class}}}], {}", rule(&host, "web"));
        let ingress = cluster
            .ingress(class, &spec)
            .replace("ingressClassName: two-classes,", &format!("ingressClassName: {class},"));
        cluster.api.create(&[secret, ingress].join("---\n"));
    }
    for (class, other) in [("two-classes", "two-classes-other"), ("two-classes-other", "two-classes")] {
        let (controller, gateway) = cluster.start(json!({"ingressClass": class}));
        let names = |host: &str| Tls::new().connect(gateway.https, Some(host)).certificate_names();
        eventually("the certificate", || (names(&format!("{class}.test")) == [format!("{class}.test")]).then_some(()));
        assert_eq!(names(&format!("{other}.test")), ["sluicegate.invalid"]);
        for table in [controller.page("/table"), gateway.page("/table")] {
            let certificates = table.json()["certificates"].as_object().unwrap().clone();
            assert_eq!(
                certificates.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
                [format!("two-classes/{class}")]
            );
        }
    }
}

/// Secrets are watched by namespace, and where nothing happens a watch says nothing for a minute. What comes from another namespace, and
/// a namespace that is watched no more, must not make a gateway think that its controller has fallen behind.
fn what_happens_in_one_namespace_holds_up_no_other() {
    let (cluster, pod) = two_namespaces("busy");
    let (_controller, gateway) = cluster.start(json!({}));
    for round in 0..5 {
        // A renewed certificate, then another route.
        cluster.api.apply(&site(&cluster, "busy-other").0);
        let host = format!("more-{round}.busy.test");
        cluster.api.create(&cluster.host(&format!("more-{round}"), &host, "web"));
        gateway.answers(&host, "/", &pod);
    }
    // The last Ingress of the namespace that names a Secret.
    cluster.api.delete("/apis/networking.k8s.io/v1/namespaces/busy-other/ingresses/tls");
    cluster.api.create(&cluster.host("last", "last.busy.test", "web"));
    gateway.answers("last.busy.test", "/", &pod);
    gateway.answers("tls.busy-other.test", "/", 404);
    assert_eq!(refusals(&gateway), 0.0);
}

/// A gateway that comes back to the controller that it has everything from goes on where it was, however little that knows of the quiet
/// namespace.
fn who_comes_back_goes_on_where_it_was() {
    let (cluster, pod) = two_namespaces("back");
    let controller = cluster.controller(json!({}));
    let wire = Wire::to(controller.publish);
    let gateway = Gateway::start(&[wire.address], json!({})).ready();
    let counts = || {
        let page = controller.page("/metrics").text();
        let lists: Vec<&str> =
            page.lines().filter(|line| line.starts_with("sluicegate_controller_lists_total{")).collect();
        let syncs = controller.metric("sluicegate_controller_full_syncs_total");
        (refusals(&gateway), syncs, lists.join(" "))
    };
    let before = counts();
    for round in 0..5 {
        cluster.api.apply(&site(&cluster, "back-other").0);
        let renewed = controller.page("/table").json()["version"].clone();
        wire.cut();
        let host = format!("more-{round}.back.test");
        cluster.api.create(&cluster.host(&format!("more-{round}"), &host, "web"));
        gateway.answers(&host, "/", &pod);
        assert_ne!(controller.page("/table").json()["version"], renewed);
    }
    assert_eq!(counts(), before, "refused, sent in full, listed");
}

fn refusals(gateway: &Gateway) -> f64 {
    crate::harness::metric(&gateway.page("/metrics").text(), "sluicegate_controller_refusals_total").unwrap()
}

/// Two namespaces, each with a Secret, a host with TLS, and the right to read it.
fn two_namespaces(name: &str) -> (Cluster, Pod) {
    let cluster = Cluster::new(name);
    let (pod, other) = (Pod::start(name), format!("{name}-other"));
    cluster.api.create(&cluster.service("web", &[&pod]));
    cluster.api.create(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {other}}}\n"));
    cluster.grant(&other);
    for namespace in [name, &other] {
        let (secret, ingress) = site(&cluster, namespace);
        cluster.api.create(&[secret, ingress].join("---\n"));
    }
    (cluster, pod)
}

/// A Secret with a new certificate for a host of this namespace, and its Ingress.
fn site(cluster: &Cluster, namespace: &str) -> (String, String) {
    let (class, host) = (&cluster.class, format!("tls.{namespace}.test"));
    let into = |text: String| text.replace("metadata: {", &format!("metadata: {{namespace: {namespace}, "));
    let secret = into(pki::ecdsa(&[&host]).secret("tls"));
    let spec =
        format!("ingressClassName: {class}, tls: [{{hosts: [{host}], secretName: tls}}], {}", rule(&host, "web"));
    let ingress =
        into(format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: tls}}\nspec: {{{spec}}}\n"));
    (secret, ingress)
}
