//! `status.loadBalancer` as data.

use sluicegate_snapshot::compile::PublishAddress;
use sluicegate_snapshot::{ObjectKey, Settings};

use crate::objects::world;

const INGRESS: &str = "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i, namespace: n}
spec:
  TLS
  defaultBackend: {service: {name: s, port: {number: 80}}}
";

fn status(tls: &str) -> serde_json::Value {
    let world = world(Settings::default(), &INGRESS.replace("TLS", tls));
    let addresses = [PublishAddress::Ip("192.0.2.1".parse().unwrap()), PublishAddress::Hostname("lb.test".into())];
    serde_json::to_value(world.status(&ObjectKey::new("n", "i"), &addresses)).unwrap()
}

#[test]
fn every_address_gets_its_ports() {
    let http = serde_json::json!({"port": 80, "protocol": "TCP"});
    assert_eq!(
        status("tls: []"),
        serde_json::json!([{"ip": "192.0.2.1", "ports": [http]}, {"hostname": "lb.test", "ports": [http]}])
    );
}

#[test]
fn a_certificate_problem_is_the_error_of_port_443() {
    let status = status("tls: [{secretName: gone}]");
    assert_eq!(
        status[0]["ports"][1],
        serde_json::json!({"port": 443, "protocol": "TCP", "error": "sluicegate.dev/CertificateMissing"})
    );
    assert!(status[0]["ports"][0].get("error").is_none());
}

#[test]
fn an_ingress_of_somebody_else_has_no_status_of_ours() {
    let settings = Settings { ingress_class: Some("ours".into()), ..Settings::default() };
    let world = world(settings, &INGRESS.replace("TLS", ""));
    assert_eq!(world.status(&ObjectKey::new("n", "i"), &[]), None);
}

#[test]
fn what_can_be_published() {
    for (text, can) in [
        ("192.0.2.1", true),
        ("2001:db8::1", true),
        ("edge.example.com", true),
        ("0.0.0.0", false),
        ("::", false),
        ("224.0.0.1", false),
        ("a b", false),
        ("", false),
    ] {
        assert_eq!(text.parse::<PublishAddress>().is_ok(), can, "{text}");
    }
}
