//! TLS: which certificate a client gets, protocol versions, redirects, rotation.

use std::io::Write;

use openssl::ssl::{SslSessionCacheMode, SslVersion};
use serde_json::json;

use crate::backends::{echo, everything_to, host_to_web, service};
use crate::client::{self, Tls};
use crate::harness::Start;
use crate::pki;

fn names(gateway: &crate::harness::Gateway, sni: Option<&str>) -> Vec<String> {
    Tls::new().connect(gateway.https, sni).certificate_names()
}

#[test]
fn sni_chooses_the_certificate_and_host_chooses_the_route() {
    let (a, wild) = (pki::ecdsa(&["a.test"]), pki::ecdsa(&["*.w.test"]));
    let manifests = [
        a.secret("a"),
        wild.secret("wild"),
        service("web", &echo().to_string()),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: a}]"),
        host_to_web("wild", "*.w.test", "[{hosts: ['*.w.test'], secretName: wild}]"),
    ];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    assert_eq!(names(&gateway, Some("a.test")), ["a.test"]);
    assert_eq!(names(&gateway, Some("A.TEST")), ["a.test"]);
    assert_eq!(names(&gateway, Some("x.w.test")), ["*.w.test"]);
    for other in [Some("x.y.w.test"), Some("other.test"), None] {
        assert_eq!(names(&gateway, other), ["sluicegate.invalid"], "{other:?}");
    }
    let crossed = Tls::new().connect(gateway.https, Some("a.test")).request("GET", "x.w.test", "/", &[]);
    assert!(crossed.header("sluicegate-route").unwrap().starts_with("default/wild;"));
}

#[test]
fn clients_get_the_certificate_type_they_can_verify() {
    let (rsa, ecdsa) = (pki::rsa(&["a.test"]), pki::ecdsa(&["a.test"]));
    let manifests = [
        rsa.secret("rsa"),
        ecdsa.secret("ecdsa"),
        service("web", &echo().to_string()),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: rsa}, {hosts: [a.test], secretName: ecdsa}]"),
    ];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    let with = |algorithms: fn(&mut openssl::ssl::SslConnectorBuilder)| {
        Tls::new().configure(algorithms).connect(gateway.https, Some("a.test")).certificate().public_key().unwrap().id()
    };
    assert_eq!(with(|builder| builder.set_sigalgs_list("RSA-PSS+SHA256:RSA+SHA256").unwrap()), openssl::pkey::Id::RSA);
    assert_eq!(with(|builder| builder.set_sigalgs_list("ECDSA+SHA256").unwrap()), openssl::pkey::Id::EC);
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let version = |configure| {
        Tls::new()
            .configure(configure)
            .try_connect(gateway.https, Some("a.test"))
            .map(|connection| connection.stream.ssl().version_str())
    };
    assert_eq!(version(|builder| builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap()), Ok("TLSv1.2"));
    assert_eq!(version(|builder| builder.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap()), Ok("TLSv1.3"));
    let old = version(|builder| {
        builder.set_security_level(0);
        builder.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
        builder.set_max_proto_version(Some(SslVersion::TLS1_1)).unwrap();
    });
    assert!(old.is_err());
    gateway.wait_metric("sluicegate_tls_handshakes_total", &["failed"], 1.0);
    gateway.wait_metric("sluicegate_tls_handshakes_total", &["full"], 2.0);
}

#[test]
fn sessions_resume_on_whichever_worker_takes_the_connection() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", json!(4)).ready();
    let mut builder = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap();
    builder.set_verify(openssl::ssl::SslVerifyMode::NONE);
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
    let sessions = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = sessions.clone();
    builder.set_new_session_callback(move |_, session| kept.lock().unwrap().push(session));
    let connector = builder.build();
    for round in 0..9 {
        let mut config = connector.configure().unwrap();
        config.set_verify_hostname(false);
        let mut ssl = config.into_ssl("a.test").unwrap();
        if let Some(session) = sessions.lock().unwrap().last() {
            set_session(&mut ssl, session);
        }
        let mut stream =
            openssl::ssl::SslStream::new(ssl, std::net::TcpStream::connect(gateway.https).unwrap()).unwrap();
        stream.connect().unwrap();
        // TLS 1.3 tickets arrive with the first data.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut response);
        assert!(response.starts_with(b"HTTP/1.1 200"));
        // OpenSSL does not resume sessions of connections that were dropped without a goodbye.
        stream.shutdown().unwrap();
        assert_eq!(stream.ssl().session_reused(), round > 0, "round {round}");
    }
    gateway.wait_metric("sluicegate_tls_handshakes_total", &["resumed"], 8.0);
}

#[allow(
    unsafe_code,
    reason = "the openssl crate asks for unsafe here, since the session must be of the same context; it is"
)]
fn set_session(ssl: &mut openssl::ssl::Ssl, session: &openssl::ssl::SslSession) {
    unsafe { ssl.set_session(session) }.unwrap();
}

#[test]
fn a_new_certificate_reaches_new_handshakes_and_drops_no_connection() {
    let (old, new) = (pki::ecdsa(&["a.test"]), pki::ecdsa(&["a.test", "new.a.test"]));
    let rest = [service("web", &echo().to_string()), host_to_web("a", "a.test", "[{hosts: [a.test], secretName: t}]")]
        .join("---\n");
    let gateway = Start::with(&format!("{}---\n{rest}", old.secret("t"))).ready();
    let mut connection = Tls::new().connect(gateway.https, Some("a.test"));
    assert_eq!(connection.certificate_names(), ["a.test"]);
    let first = connection.request("GET", "a.test", "/", &[]);
    gateway.write("main.yaml", &format!("{}---\n{rest}", new.secret("t")));
    crate::harness::eventually("the new certificate", || (names(&gateway, Some("a.test")).len() == 2).then_some(()));
    assert_eq!((first.status, connection.request("GET", "a.test", "/", &[]).status), (200, 200));
    let broken = new.secret("t").replace("BEGIN CERTIFICATE", "BEGIN NONSENSE");
    gateway.write("main.yaml", &format!("{broken}---\n{rest}"));
    gateway.wait_log("CertificateInvalid");
    assert_eq!(names(&gateway, Some("a.test")).len(), 2, "a broken one does not replace a good one");
    gateway.wait_metric("sluicegate_config_held_back", &[], 1.0);
}

#[test]
fn the_default_certificate_is_configurable() {
    let own = pki::ecdsa(&["default.test"]);
    let by_secret = Start::with(&own.secret("own")).set("defaultCertificate", json!("default/own")).ready();
    assert_eq!(names(&by_secret, Some("any.test")), ["default.test"]);
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    std::fs::write(&chain, &own.certificate).unwrap();
    std::fs::write(&key, &own.key).unwrap();
    let files = format!("{},{}", chain.display(), key.display());
    let by_files = Start::with("").arg("--default-certificate").arg(&files).ready();
    assert_eq!(names(&by_files, None), ["default.test"]);
}

#[test]
fn plain_http_to_a_host_with_tls_is_redirected() {
    let manifests =
        [service("web", &echo().to_string()), host_to_web("a", "a.test", "[{hosts: [a.test]}]")].join("---\n");
    let gateway = Start::with(&manifests).ready();
    let response = gateway.get("A.test:8080", "/x/../y?q=1");
    assert_eq!((response.status, response.header("location")), (308, Some("https://a.test/y?q=1")));
    assert_eq!(gateway.get("a.test", "/.well-known/acme-challenge/token").status, 200);
    assert_eq!(client::get_tls(gateway.https, "a.test", "/").status, 200);
}

#[test]
fn behind_a_proxy_that_ends_tls_nothing_is_redirected_in_circles() {
    let manifests =
        [service("web", &echo().to_string()), host_to_web("a", "a.test", "[{hosts: [a.test]}]")].join("---\n");
    let gateway = Start::with(&manifests).set("trustedProxies", json!(["127.0.0.1/32"])).ready();
    let response = client::request(gateway.http, "GET", "a.test", "/", &[("X-Forwarded-Proto", "https")]);
    assert_eq!(response.status, 200);
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let gateway = Start::with("").ready();
    let response = client::get(gateway.https, "a.test", "/");
    assert_eq!(response.status, 400);
    gateway.wait_metric("sluicegate_rejected_total", &["PlainOnTls"], 1.0);
}

#[test]
fn certificate_expiry_is_a_metric() {
    let pair = pki::ecdsa(&["a.test"]);
    let manifests = [
        pair.secret("t"),
        service("web", "127.0.0.1:1"),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: t}]"),
    ]
    .join("---\n");
    let gateway = Start::with(&manifests).ready();
    let expiry = gateway.metric("sluicegate_certificate_expiry_timestamp_seconds", &["default/t"]);
    let in_days =
        (expiry - std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()) / 86_400.0;
    assert!((29.0..31.0).contains(&in_days), "{in_days}");
}

#[test]
fn default_certificate_files_are_followed() {
    let (old, new) = (pki::ecdsa(&["old.test"]), pki::ecdsa(&["new.test"]));
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    let write = |pair: &pki::Pair| {
        std::fs::write(&chain, &pair.certificate).unwrap();
        std::fs::write(&key, &pair.key).unwrap();
    };
    write(&old);
    let files = format!("{},{}", chain.display(), key.display());
    let gateway = Start::with("").arg("--default-certificate").arg(&files).ready();
    assert_eq!(names(&gateway, None), ["old.test"]);
    assert!(gateway.metric("sluicegate_certificate_expiry_timestamp_seconds", &["(default)"]) > 0.0);
    std::fs::write(&chain, "nonsense").unwrap();
    gateway.signal("HUP");
    gateway.wait_log("the one before stays in use");
    assert_eq!(names(&gateway, None), ["old.test"]);
    write(&new);
    gateway.signal("HUP");
    crate::harness::eventually("the new certificate", || (names(&gateway, None) == ["new.test"]).then_some(()));
}

#[test]
fn redirects_name_the_port_that_clients_reach_https_on() {
    let manifests =
        [service("web", &echo().to_string()), host_to_web("a", "a.test", "[{hosts: [a.test]}]")].join("---\n");
    let gateway = Start::with(&manifests).set("publicPorts", json!({"http": 8080, "https": 8443})).ready();
    assert_eq!(gateway.get("a.test:8080", "/x").header("location"), Some("https://a.test:8443/x"));
}

#[test]
fn a_certificate_that_has_ended_is_served_and_reported() {
    let manifests = [
        pki::valid(&["a.test"], -90, -1).secret("a"),
        service("web", &echo().to_string()),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: a}]"),
    ]
    .join("---\n");
    let gateway = Start::with(&manifests).ready();
    assert_eq!(names(&gateway, Some("a.test")), ["a.test"]);
    gateway.wait_metric("sluicegate_diagnostics", &["CertificateExpired", "error"], 1.0);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("site.yaml"), &manifests).unwrap();
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    let output = check.arg("check").arg(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("CertificateExpired"));
}
