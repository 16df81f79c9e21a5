//! Gateways and controllers know each other, or nothing is said.

use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};
use sluicegate_testbed::Authority;
use tempfile::TempDir;

use crate::Test;
use crate::api::{Api, path};
use crate::harness::{Cluster, Controller, Gateway, Pod, eventually};

pub const TESTS: &[Test] = &[
    ("certificates_from_files", certificates_from_files),
    ("whom_the_files_do_not_know_is_refused", whom_the_files_do_not_know_is_refused),
    ("new_files_need_no_restart", new_files_need_no_restart),
    ("the_own_authority_and_tokens", the_own_authority_and_tokens),
    ("tokens_that_are_not_taken", tokens_that_are_not_taken),
    ("an_enrolled_gateway", an_enrolled_gateway),
    ("an_authority_that_cannot_be_used", an_authority_that_cannot_be_used),
];

const NAMESPACE: &str = "sluicegate";

/// A directory of PEM files.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Certificate and key.
    fn pair(&self, name: &str, (certificate, key): &(String, String)) -> (PathBuf, PathBuf) {
        (self.write(&format!("{name}.crt"), certificate), self.write(&format!("{name}.key"), key))
    }
}

/// A cluster with one route, and what its controller's configuration says beside trust.
fn routed(name: &str) -> (Cluster, Pod, String) {
    let (cluster, pod, host) = (Cluster::new(name), Pod::start(name), format!("{name}.test"));
    cluster.api.create(&[cluster.service("web", &[&pod]), cluster.host("web", &host, "web")].join("---\n"));
    (cluster, pod, host)
}

/// A controller with certificates of an authority.
fn with_files(cluster: &Cluster, files: &Files, authority: &Authority) -> Controller {
    let (certificate, key) = files.pair("server", &authority.server());
    let ca = files.write("ca.crt", &authority.pem());
    let config = json!({"plaintext": false, "publishCert": certificate, "publishKey": key, "clientCa": ca});
    cluster.controller(config)
}

/// A gateway's configuration with a certificate.
fn by_certificate(ca: &Path, (certificate, key): &(PathBuf, PathBuf)) -> Value {
    json!({"controllerCa": ca, "clientCert": certificate, "clientKey": key})
}

fn refused(controller: &Controller, reason: &str) -> f64 {
    controller.metric(&format!("sluicegate_controller_gateways_refused_total{{reason=\"{reason}\"}}")).unwrap()
}

fn identities(controller: &Controller) -> Vec<String> {
    let page = controller.page("/gateways").json();
    page.as_array().unwrap().iter().map(|gateway| gateway["identity"].as_str().unwrap_or_default().to_owned()).collect()
}

fn certificates_from_files() {
    let (cluster, pod, host) = routed("files");
    let (files, authority) = (Files::new(), Authority::new());
    let controller = with_files(&cluster, &files, &authority);
    let client = files.pair("edge", &authority.client("edge.example", 1));
    let config = by_certificate(&files.0.path().join("ca.crt"), &client);
    let gateway = Gateway::start(&[controller.publish], config).ready();
    gateway.answers(&host, "/", &pod);
    assert_eq!(identities(&controller), ["edge.example"]);
}

fn whom_the_files_do_not_know_is_refused() {
    let (cluster, _pod, _) = routed("unknown");
    let (files, authority, other) = (Files::new(), Authority::new(), Authority::new());
    let controller = with_files(&cluster, &files, &authority);
    let ca = files.0.path().join("ca.crt");
    let says = |config: Value, word: &str| {
        let gateway = Gateway::start(&[controller.publish], config);
        gateway.program.says(word);
        assert_eq!(gateway.page("/readyz").status, 503, "{word}");
    };
    let expired = files.pair("expired", &authority.client("edge.example", -1));
    says(by_certificate(&ca, &expired), "it refuses this gateway's certificate (certificate expired)");
    let foreign = files.pair("foreign", &other.client("edge.example", 1));
    says(by_certificate(&ca, &foreign), "it refuses this gateway's certificate");
    // A certificate of the authority that is not for clients.
    let server = files.pair("server2", &authority.server());
    says(by_certificate(&ca, &server), "it refuses this gateway's certificate (unsupported certificate)");
    eventually("all to be counted", || (refused(&controller, "handshake") >= 3.0).then_some(()));
    controller.program.says("TLS handshake");
    // One without any name, by which it could be known.
    let nameless = files.pair("nameless", &authority.user("edge", &[], 1));
    says(by_certificate(&ca, &nameless), "refuses this gateway's credentials");
    assert!(refused(&controller, "certificate") >= 1.0);
    // The gateway does not know the controller, or knows it by another name.
    let client = files.pair("edge", &authority.client("edge.example", 1));
    let wrong = files.write("other.crt", &other.pem());
    says(by_certificate(&wrong, &client), "its certificate is not accepted for 127.0.0.1");
    // Without TLS, and without anything.
    let gateway = Gateway::start(&[controller.publish], json!({}));
    gateway.program.says("what is in force stays");
    assert_eq!(gateway.page("/readyz").status, 503);
    assert!(identities(&controller).is_empty());
}

fn new_files_need_no_restart() {
    let (cluster, pod, host) = routed("rotated");
    let (files, old, new) = (Files::new(), Authority::new(), Authority::new());
    let controller = with_files(&cluster, &files, &old);
    let ca = files.0.path().join("ca.crt");
    let config = by_certificate(&ca, &files.pair("edge", &old.client("edge.example", 1)));
    let gateway = Gateway::start(&[controller.publish], config.clone()).ready();
    // Both authorities are trusted while things move from one to the other. A key that does not fit yet changes nothing.
    files.write("ca.crt", &format!("{}{}", old.pem(), new.pem()));
    let (certificate, key) = new.server();
    files.write("server.crt", &certificate);
    controller.program.says("the certificate before stays in use");
    files.write("server.key", &key);
    controller.program.says("certificate for gateways replaced");
    files.pair("edge", &new.client("edge.example", 1));
    let second = Gateway::start(&[controller.publish], config).ready();
    second.answers(&host, "/", &pod);
    gateway.answers(&host, "/", &pod);
}

/// A token of a service account in the namespace of the manifests.
fn token(api: &Api, account: &str, audience: &str) -> String {
    let target = format!("{}/token", path("ServiceAccount", NAMESPACE, account));
    let spec = json!({"audiences": [audience], "expirationSeconds": 600});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = api.call(Method::POST, &target, "application/json", &request.to_string()).ok();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// The published certificate of the own authority, as a gateway's pod mounts it.
fn published(api: &Api, files: &Files) -> PathBuf {
    let text = eventually("the authority to be published", || {
        let map = api.get(&path("ConfigMap", NAMESPACE, "sluicegate-ca"));
        map["data"]["ca.crt"].as_str().map(str::to_owned)
    });
    files.write("ca.crt", &text)
}

fn the_own_authority_and_tokens() {
    let (cluster, pod, host) = routed("authority");
    // Two at once: both have the same authority in the end.
    let config = json!({"plaintext": false});
    let (first, second) = (cluster.starting_controller(config.clone()), cluster.starting_controller(config));
    let (first, second) = (first.ready(), second.ready());
    let files = Files::new();
    let ca = published(&cluster.api, &files);
    let shown = token(&cluster.api, "sluicegate-gateway", "sluicegate-controller");
    let config = json!({"controllerCa": ca, "tokenFile": files.write("token", &format!("{shown}\n"))});
    for controller in [&first, &second] {
        let gateway = Gateway::start(&[controller.publish], config.clone()).ready();
        gateway.answers(&host, "/", &pod);
        assert_eq!(identities(controller), ["sluicegate:sluicegate-gateway"]);
        for text in [gateway.program.said(), controller.program.said()] {
            assert!(!text.contains(&shown), "a token is in a log");
        }
    }
    let secret = cluster.api.get(&path("Secret", NAMESPACE, "sluicegate-ca"));
    let key = secret["data"]["tls.key"].as_str().unwrap();
    assert!(!key.is_empty());
    let page = first.page("/table").text() + &first.page("/gateways").text() + &first.page("/metrics").text();
    assert!(!page.contains(key));
}

fn tokens_that_are_not_taken() {
    let (cluster, _pod, _) = routed("tokens");
    let controller = cluster.controller(json!({"plaintext": false}));
    let files = Files::new();
    let ca = published(&cluster.api, &files);
    let says = |name: &str, token: &str, word: &str| {
        let config = json!({"controllerCa": ca, "tokenFile": files.write(name, token)});
        let gateway = Gateway::start(&[controller.publish], config);
        gateway.program.says(word);
        assert_eq!(gateway.page("/readyz").status, 503, "{name}");
    };
    let api = &cluster.api;
    let refuses = "refuses this gateway's credentials";
    says("audience", &token(api, "sluicegate-gateway", "somebody-else"), refuses);
    controller.program.says("its token is not accepted for the audience sluicegate-controller");
    says("api", &token(api, "sluicegate-gateway", "https://kubernetes.default.svc.cluster.local"), refuses);
    says("account", &token(api, "sluicegate-controller", "sluicegate-controller"), refuses);
    controller.program.says("service account sluicegate:sluicegate-controller is not among gatewayAccounts");
    says("nonsense", "nonsense", refuses);
    assert!(refused(&controller, "token") >= 4.0);
    says("empty", " \n", "holds no token");
    assert!(identities(&controller).is_empty());
}

fn an_enrolled_gateway() {
    let (cluster, pod, host) = routed("enrolled");
    let controller = cluster.controller(json!({"plaintext": false}));
    let files = Files::new();
    let enroll = |name: &str, more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate-controller"));
        let admin = crate::bed::bed().admin();
        command.args(["enroll", name, "--out"]).arg(files.0.path()).arg("--kubeconfig").arg(admin).args(more);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, said, errors) = enroll("edge-1", &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("--client-key /etc/sluicegate/edge-1.key") && said.contains("90 days"), "{said}");
    let file = |name: &str| files.0.path().join(name);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(file("edge-1.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let config = by_certificate(&file("ca.crt"), &(file("edge-1.crt"), file("edge-1.key")));
    let gateway = Gateway::start(&[controller.publish], config).ready();
    gateway.answers(&host, "/", &pod);
    assert_eq!(identities(&controller), ["edge-1"]);
    // Where only some names are served, it is not among them.
    let strict = cluster.controller(json!({"plaintext": false, "gatewayNames": ["edge-2"]}));
    let config = by_certificate(&file("ca.crt"), &(file("edge-1.crt"), file("edge-1.key")));
    Gateway::start(&[strict.publish], config).program.says("refuses this gateway's credentials");
    strict.program.says("`edge-1` is not among gatewayNames");
    for (name, more, word, expected) in [
        ("Edge!", &[][..], "a name has lower-case letters", 64),
        ("edge-1", &["--authority", "sluicegate/none"][..], "holds no authority", 2),
        ("edge-1", &["--days", "0"][..], "--days", 64),
    ] {
        let (code, _, errors) = enroll(name, more);
        assert_eq!(code, Some(expected), "{errors}");
        assert!(errors.contains(word), "{errors}");
    }
}

fn an_authority_that_cannot_be_used() {
    let cluster = Cluster::new("bad-authority");
    let data = json!({"tls.crt": "bm9uc2Vuc2U=", "tls.key": "bm9uc2Vuc2U="});
    let meta = json!({"name": "bad", "namespace": cluster.namespace});
    cluster.api.create(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}).to_string());
    // As somebody who may read it: the shipped rights end at the shipped Secret.
    let admin = crate::bed::bed().admin();
    let start = |kubeconfig: &Path, authority: &str| {
        Controller::start(
            kubeconfig,
            json!({"plaintext": false, "authority": authority, "ingressClass": cluster.class}),
        )
    };
    let controller = start(&admin, "bad-authority/bad");
    controller.program.says("tls.crt has no certificate");
    eventually("readiness to say so", || {
        let page = controller.page("/readyz");
        (page.status == 503 && page.text().contains("Secret bad-authority/bad")).then_some(())
    });
    // It is mended: emptied, so that a new one is made.
    let secret = path("Secret", &cluster.namespace, "bad");
    cluster.api.merge(&secret, &json!({"data": null}));
    let controller = controller.ready();
    drop(controller);
    let controller = start(&cluster.kubeconfig, "bad-authority/bad");
    controller.program.says("Secret bad-authority/bad (setting authority) cannot be read: 403");
}
