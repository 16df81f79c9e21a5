//! TLS that is passed through by its server name.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;
use serde_json::json;

use crate::backends::{Refusing, Scripted, echo, ingress, service};
use crate::client::{self, Tls};
use crate::harness::{Gateway, Start, eventually};
use crate::pki::{self, Pair};

/// A backend that ends TLS itself with this certificate, and sends back what it gets until the end of it, then `bye`.
fn tls_echo(pair: &Pair) -> SocketAddr {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(&X509::from_pem(pair.certificate.as_bytes()).unwrap()).unwrap();
    builder.set_private_key(&PKey::private_key_from_pem(pair.key.as_bytes()).unwrap()).unwrap();
    let acceptor = Arc::new(builder.build());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let acceptor = acceptor.clone();
            std::thread::spawn(move || {
                let Ok(mut stream) = acceptor.accept(stream) else { return };
                let mut bytes = [0; 16 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"bye");
                let _ = stream.shutdown();
            });
        }
    });
    address
}

/// An Ingress that passes TLS of these hosts through to Service `name`.
fn passing(name: &str, hosts: &[&str], annotations: &str) -> String {
    let rules: Vec<String> = hosts
        .iter()
        .map(|host| format!("{{host: '{host}', http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}]}}}}"))
        .collect();
    let spec = format!("spec: {{tls: [{{hosts: {hosts:?}}}], rules: [{}]}}", rules.join(", "));
    let meta = format!("{{name: {name}, annotations: {{sluicegate.dev/tls-passthrough: 'true'{annotations}}}}}");
    ingress(name, &spec).replace(&format!("{{name: {name}}}\nspec"), &format!("{meta}\nspec"))
}

fn scene(pair: &Pair) -> Start {
    let manifests = [
        service("secure", &tls_echo(pair).to_string()),
        passing("secure", &["a.test", "*.w.test"], ""),
        service("web", &echo().to_string()),
        crate::backends::host_to_web("plain", "b.test", "[{hosts: [b.test]}]"),
        crate::backends::host_to_web("under", "own.w.test", "[]"),
    ];
    Start::with(&manifests.join("---\n"))
}

/// Names in the certificate that a client of this name is shown.
fn shown(gateway: &Gateway, name: Option<&str>) -> Vec<String> {
    Tls::new().connect(gateway.https, name).certificate_names()
}

#[test]
fn the_server_name_decides_who_ends_tls() {
    let pair = pki::ecdsa(&["backend.test"]);
    let gateway = scene(&pair).ready();
    for name in ["a.test", "A.TEST", "x.w.test"] {
        assert_eq!(shown(&gateway, Some(name)), ["backend.test"], "{name}");
    }
    for name in [Some("b.test"), Some("other.test"), Some("x.y.w.test"), Some("own.w.test"), None] {
        assert_eq!(shown(&gateway, name), ["sluicegate.invalid"], "{name:?}");
    }
    // What is said below is nobody's business here, whatever host it names.
    let mut connection = Tls::new().alpn(b"\x04mqtt").connect(gateway.https, Some("a.test"));
    connection.send("anything");
    assert_eq!(connection.some(8), b"anything");
    // The end of one direction is passed on, and the other goes on until it ends itself.
    connection.stream.shutdown().unwrap();
    connection.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.some(3), b"bye");
    let line = gateway.wait_access(|line| line["protocol"] == "TLS" && line["reason"] == "Upstream");
    assert_eq!((&line["ingress"], &line["status"]), (&json!("default/secure"), &json!(0)));
    assert!(line["bytesOut"].as_u64() > Some(0) && line["upstream"].is_string(), "{line}");
    // Some clients just went away.
    gateway.wait_metric("sluicegate_tls_passthrough_total", &[], 4.0);
    assert!(gateway.metric("sluicegate_tls_handshakes_total", &["full"]) >= 5.0, "those that are ended here");
}

#[test]
fn plain_http_to_such_a_host_is_redirected_and_explain_tells() {
    let gateway = scene(&pki::ecdsa(&["backend.test"])).ready();
    let response = gateway.get("a.test", "/x");
    assert_eq!((response.status, response.header("location")), (308, Some("https://a.test/x")));
    let explained = gateway.admin_page("/explain?method=GET&url=https://a.test/x").json();
    assert_eq!((&explained["tlsPassthrough"], &explained["backend"]["service"]), (&json!(true), &json!("secure")));
    let explained = gateway.admin_page("/explain?method=GET&url=https://b.test/x").json();
    assert!(explained.get("tlsPassthrough").is_none());
}

/// A browser asks on a connection that it has for another name of the same certificate.
#[test]
fn http_for_such_a_host_over_tls_that_is_ended_here_is_misdirected() {
    let gateway = scene(&pki::ecdsa(&["backend.test"])).set("trustedProxies", json!(["127.0.0.1/32"])).ready();
    let mut connection = Tls::new().connect(gateway.https, Some("b.test"));
    assert_eq!(connection.request("GET", "b.test", "/", &[]).status, 200);
    let refused = connection.request("GET", "a.test", "/", &[]);
    assert_eq!((refused.status, refused.header("sluicegate-reason")), (421, Some("Misdirected")));
    assert_eq!(connection.request("GET", "b.test", "/", &[]).status, 200, "the connection is good for others");
    let https = [("X-Forwarded-Proto", "https")];
    assert_eq!(client::request(gateway.http, "GET", "x.w.test", "/", &https).status, 421);
}

/// Takes a connection, and what comes back goes on as it is; what the client sends is handed on by `hand_on`.
fn relay(to: SocketAddr, hand_on: impl FnOnce(TcpStream, TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let upstream = TcpStream::connect(to).unwrap();
        upstream.set_nodelay(true).unwrap();
        let (mut back_from, mut back_to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
        hand_on(client, upstream);
    });
    address
}

#[test]
fn much_passes_both_ways_however_the_hello_is_cut() {
    let gateway = scene(&pki::ecdsa(&["backend.test"])).ready();
    // Bytes are handed on one by one at first.
    let address = relay(gateway.https, |mut client, mut upstream| {
        let mut bytes = [0; 16 * 1024];
        let mut first = true;
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            for piece in bytes[..count].chunks(if first { 1 } else { count }) {
                upstream.write_all(piece).unwrap();
            }
            first = false;
        }
    });
    let mut connection = Tls::new().connect(address, Some("a.test"));
    let block: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for _ in 0..20 {
        connection.send(&block);
        assert_eq!(connection.some(block.len()), block);
    }
}

/// Where some hosts pass TLS through, those of all others are looked at as well.
#[test]
fn a_hello_may_be_in_several_records() {
    let gateway = scene(&pki::ecdsa(&["backend.test"])).ready();
    for (name, shown) in [("a.test", "backend.test"), ("b.test", "sluicegate.invalid")] {
        let address = relay(gateway.https, |mut client, mut upstream| {
            let mut hello = [0; 5];
            client.read_exact(&mut hello).unwrap();
            let mut message = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
            client.read_exact(&mut message).unwrap();
            for part in message.chunks(200) {
                upstream.write_all(&[&hello[..3], &(part.len() as u16).to_be_bytes(), part].concat()).unwrap();
                std::thread::park_timeout(Duration::from_millis(20));
            }
            let _ = std::io::copy(&mut client, &mut upstream);
        });
        assert_eq!(Tls::new().connect(address, Some(name)).certificate_names(), [shown]);
    }
    assert_eq!(gateway.metric("sluicegate_tls_handshakes_total", &["timeout"]), 0.0);
}

#[test]
fn other_endpoints_are_tried_and_without_any_the_connection_is_closed() {
    let pair = pki::ecdsa(&["backend.test"]);
    let refusing = Refusing::new();
    let two = format!("{},{}", refusing.1, tls_echo(&pair));
    let manifests = [
        service("two", &two),
        passing("two", &["two.test"], ""),
        service("dead", &refusing.1.to_string()),
        passing("dead", &["dead.test"], ""),
        passing("missing", &["missing.test"], ""),
    ];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    for _ in 0..4 {
        assert_eq!(shown(&gateway, Some("two.test")), ["backend.test"]);
    }
    for (name, reason) in [("dead.test", "ConnectFailed"), ("missing.test", "ServiceNotFound")] {
        assert!(Tls::new().try_connect(gateway.https, Some(name)).is_err());
        gateway.wait_metric("sluicegate_tls_passthrough_total", &[reason], 1.0);
    }
}

#[test]
fn a_tunnel_ends_when_it_is_silent_or_its_client_takes_nothing() {
    let count = Arc::new(AtomicUsize::new(0));
    let ended = count.clone();
    // It says whatever it likes, which nobody here looks at.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let ended = ended.clone();
            std::thread::spawn(move || {
                let part = vec![b'x'; 1 << 20];
                while stream.write_all(&part).is_ok() {}
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let silent = Scripted::new(|mut incoming| drop(incoming.body_until(b"never")));
    let manifests = [
        service("loud", &address.to_string()),
        passing("loud", &["loud.test"], ", sluicegate.dev/client-write-timeout: 1s"),
        service("silent", &silent.address.to_string()),
        passing("silent", &["silent.test"], ", sluicegate.dev/upgraded-idle-timeout: 1s"),
    ];
    let gateway = Start::with(&manifests.join("---\n")).set("workers", 1.into()).ready();
    // Both clients are in the middle of a handshake with somebody who does not speak TLS.
    let hello = hello_of("loud.test");
    let mut loud = client::connect(gateway.https);
    loud.send(&hello);
    let begun = Instant::now();
    let mut quiet = client::connect(gateway.https);
    quiet.send(hello_of("silent.test"));
    assert!(quiet.is_closed());
    assert!((0.9..4.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    gateway.wait_metric("sluicegate_tls_passthrough_total", &["IdleTimeout"], 1.0);
    eventually("the end of the loud one", || (count.load(Ordering::Relaxed) == 1).then_some(()));
    gateway.wait_metric("sluicegate_tls_passthrough_total", &["ClientStalled"], 1.0);
}

/// The first bytes of a TLS client.
pub fn hello_of(name: &str) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let name = name.to_owned();
    let client = std::thread::spawn(move || drop(Tls::new().try_connect(address, Some(&name))));
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; 16 * 1024];
    let count = stream.read(&mut bytes).unwrap();
    drop(stream);
    client.join().unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn a_hello_has_its_time_and_the_backend_may_be_told_who_the_client_is() {
    let (send, seen) = std::sync::mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 33];
        stream.read_exact(&mut bytes).unwrap();
        send.send(bytes).unwrap();
    });
    let told = service("told", &address.to_string())
        .replace("annotations: {", "annotations: {sluicegate.dev/proxy-protocol: v2, ");
    let gateway = Start::with(&[told, passing("told", &["told.test"], "")].join("---\n"))
        .set("timeouts", json!({"handshake": 1}))
        .ready();
    let mut slow = client::connect(gateway.https);
    let hello = hello_of("told.test");
    slow.send(&hello[..20]);
    assert!(slow.is_closed(), "the rest of the hello did not come");
    gateway.wait_metric("sluicegate_tls_handshakes_total", &["timeout"], 1.0);
    let mut client = client::connect(gateway.https);
    let port = client.stream.local_addr().unwrap().port();
    client.send(&hello);
    let bytes = seen.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(bytes[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!((&bytes[16..20], &bytes[24..26]), (&[127, 0, 0, 1][..], &port.to_be_bytes()[..]));
    assert_eq!(bytes[28..], hello[..5]);
}

#[test]
fn the_hello_and_the_rest_of_a_handshake_have_one_time() {
    let gateway = scene(&pki::ecdsa(&["backend.test"])).set("timeouts", json!({"handshake": 4})).ready();
    let mut client = client::connect(gateway.https);
    let begun = Instant::now();
    let hello = hello_of("b.test");
    let (first, rest) = hello.split_at(20);
    client.send(first);
    std::thread::park_timeout(Duration::from_secs(2));
    client.send(rest);
    let mut answer = Vec::new();
    client.stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"\x16\x03"), "the gateway's part of the handshake");
    let took = begun.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&took), "{took:?}");
    gateway.wait_metric("sluicegate_tls_handshakes_total", &["timeout"], 1.0);
}

#[test]
fn what_cannot_be_passed_through_is_said_and_ended_here() {
    let web = |host: &str, annotation: &str, tls: &str| {
        let name = host.strip_suffix(".test").unwrap();
        crate::backends::host_to_web(name, host, tls).replace(
            &format!("{{name: {name}}}"),
            &format!("{{name: {name}, annotations: {{sluicegate.dev/tls-passthrough: '{annotation}'}}}}"),
        )
    };
    let pair = pki::ecdsa(&["secret.test"]);
    let manifests = [
        pair.secret("s"),
        service("web", &echo().to_string()),
        web("odd.test", "perhaps", "[{hosts: [odd.test]}]"),
        web("secret.test", "true", "[{hosts: [secret.test], secretName: s}]"),
        web("off.test", "false", "[{hosts: [off.test]}]"),
    ];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    assert_eq!(shown(&gateway, Some("secret.test")), ["secret.test"]);
    for name in ["odd.test", "off.test"] {
        assert_eq!(shown(&gateway, Some(name)), ["sluicegate.invalid"]);
        assert_eq!(client::get_tls(gateway.https, name, "/").status, 200);
    }
    let text = gateway.admin_page("/diagnostics").text();
    assert!(text.contains("expected \\\"true\\\" or \\\"false\\\"") && text.contains("without a secretName"), "{text}");
    assert!(!text.contains("default/off"), "{text}");
}

#[test]
fn a_tunnel_of_which_one_end_is_gone_does_not_wait_for_the_other() {
    // It closes as soon as it has something.
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = backend.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in backend.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let annotation = ", sluicegate.dev/client-write-timeout: 1s";
    let manifests = [service("hasty", &address.to_string()), passing("hasty", &["hasty.test"], annotation)];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    let mut client = client::connect(gateway.https);
    client.send(hello_of("hasty.test"));
    // It neither closes nor says anything.
    gateway.wait_metric("sluicegate_tls_passthrough_total", &[], 1.0);
    gateway.wait_metric("sluicegate_connections", &["https"], 0.0);
}

#[test]
fn a_tunnel_that_only_waits_makes_room_for_others() {
    let silent = Scripted::new(|mut incoming| drop(incoming.body_until(b"never")));
    let manifests = [
        service("silent", &silent.address.to_string()),
        passing("silent", &["silent.test"], ""),
        service("web", &echo().to_string()),
        crate::backends::host_to_web("plain", "b.test", "[]"),
    ];
    let limits = json!({"connections": 1});
    let gateway = Start::with(&manifests.join("---\n")).set("workers", 1.into()).set("limits", limits).ready();
    let mut client = client::connect(gateway.https);
    client.send(hello_of("silent.test"));
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 1.0);
    assert_eq!(gateway.get("b.test", "/").status, 200);
    assert!(client.is_closed());
}

#[test]
fn only_who_has_the_first_rule_of_a_host_takes_its_tls() {
    let pair = pki::ecdsa(&["backend.test"]);
    let secure = tls_echo(&pair);
    let of = |namespace: &str, year: u32, manifest: &str| {
        let created = format!("metadata: {{namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z', ");
        manifest.replace("metadata: {", &created)
    };
    let in_namespace = |namespace: &str, manifest: &str| {
        manifest.replace("metadata:\n  name:", &format!("metadata:\n  namespace: {namespace}\n  name:"))
    };
    let manifests = [
        in_namespace("old", &service("web", &echo().to_string())),
        of("old", 2020, &crate::backends::host_to_web("plain", "a.test", "[]")),
        in_namespace("new", &service("secure", &secure.to_string())),
        of("new", 2021, &passing("secure", &["a.test", "free.test"], "")),
    ];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    assert_eq!(shown(&gateway, Some("free.test")), ["backend.test"]);
    assert_eq!(shown(&gateway, Some("a.test")), ["sluicegate.invalid"], "it came later: paths of a.test are another's");
    let text = gateway.admin_page("/diagnostics").text();
    assert!(text.contains("Ingress old/plain decides about TLS of a.test"), "{text}");
    // When the older rule is gone there is nobody to take anything from.
    gateway.apply(&manifests[2..].join("---\n"));
    assert_eq!(shown(&gateway, Some("a.test")), ["backend.test"]);
}

#[test]
fn only_hosts_of_entries_without_a_secret_name_are_passed_through() {
    let pair = pki::ecdsa(&["backend.test"]);
    let hosts = ["listed.test", "bad.test", "unlisted.test"];
    let passing = passing("secure", &hosts, "").replace(
        &format!("tls: [{{hosts: {hosts:?}}}]"),
        "tls: [{hosts: [listed.test]}, {hosts: [bad.test], secretName: Bad_Name}]",
    );
    let gateway = Start::with(&[service("secure", &tls_echo(&pair).to_string()), passing].join("---\n")).ready();
    assert_eq!(shown(&gateway, Some("listed.test")), ["backend.test"]);
    for name in ["bad.test", "unlisted.test"] {
        assert_eq!(shown(&gateway, Some(name)), ["sluicegate.invalid"], "{name}");
    }
}
