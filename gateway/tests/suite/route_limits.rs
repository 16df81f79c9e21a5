//! What an Ingress says of its own requests: how large their bodies may be, and how long they may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backends::{Scripted, echo, ingress, service};
use crate::client::{self, Response, h2c};
use crate::harness::{Gateway, Start, eventually};

/// Ingress `name` of host `name`.test, with this annotation, before Service `web`.
fn annotated(name: &str, annotation: &str) -> String {
    let backend = "backend: {service: {name: web, port: {number: 80}}}";
    let rules = format!(
        "spec: {{rules: [{{host: {name}.test, http: {{paths: [{{path: /, pathType: Prefix, {backend}}}]}}}}]}}"
    );
    ingress(name, &rules)
        .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, annotations: {{{annotation}}}}}"))
}

fn reason(response: &Response) -> (u16, &str) {
    (response.status, response.header("sluicegate-reason").unwrap_or("-"))
}

const SIZE: &str = "nginx.ingress.kubernetes.io/proxy-body-size";

fn with_body_limits() -> Start {
    let manifests = [
        service("web", &echo().to_string()),
        annotated("small", &format!("{SIZE}: '10'")),
        annotated("unlimited", &format!("{SIZE}: '0'")),
        annotated("odd", &format!("{SIZE}: 10 MB")),
        annotated("plain", ""),
    ];
    Start::with(&manifests.join("---\n")).set("workers", 1.into()).set("bodyLimit", json!(100))
}

fn post(gateway: &Gateway, host: &str, framing: &str, body: &str) -> Response {
    client::raw(gateway.http, format!("POST / HTTP/1.1\r\nHost: {host}.test\r\n{framing}\r\n\r\n{body}"))
}

#[test]
fn bodies_are_refused_by_their_length_before_anything_is_forwarded() {
    let gateway = with_body_limits().ready();
    let of_length =
        |host: &str, length: usize| post(&gateway, host, &format!("Content-Length: {length}"), &"x".repeat(length));
    for (host, fits, does_not) in [("small", 10, 11), ("plain", 100, 101), ("odd", 100, 101)] {
        let response = of_length(host, fits);
        assert_eq!((response.status, response.json()["bodyBytes"].as_u64()), (200, Some(fits as u64)), "{host}");
        let response = of_length(host, does_not);
        assert_eq!(reason(&response), (413, "BodyTooLarge"), "{host}");
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(of_length("unlimited", 100_000).status, 200);
    // A length that no number holds is larger than any limit.
    assert_eq!(post(&gateway, "small", "Content-Length: 18446744073709551615", "").status, 413);
    // Who waits to be told to go on is told otherwise, at once.
    let waiting = "Content-Length: 11\r\nExpect: 100-continue";
    assert_eq!(reason(&post(&gateway, "small", waiting, "")), (413, "BodyTooLarge"));
    let line = gateway.wait_access(|line| line["reason"] == "BodyTooLarge");
    assert!(line.get("upstream").is_none() && line["ingress"] == "default/small", "{line}");
    gateway.wait_metric("sluicegate_requests_total", &["BodyTooLarge", "4xx"], 5.0);
    let diagnostics = gateway.admin_page("/diagnostics").text();
    assert!(diagnostics.contains(SIZE) && diagnostics.contains("expected a size like"), "{diagnostics}");
}

#[test]
fn bodies_of_no_known_length_are_refused_as_they_come() {
    let gateway = with_body_limits().ready();
    let chunked = |host: &str, chunks: &[&str]| {
        let body: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
        post(&gateway, host, "Transfer-Encoding: chunked", &format!("{body}0\r\n\r\n"))
    };
    assert_eq!(chunked("small", &["12345", "67890"]).status, 200);
    assert_eq!(reason(&chunked("small", &["12345", "678901"])), (413, "BodyTooLarge"));
    assert_eq!(reason(&chunked("small", &["12345678901"])), (413, "BodyTooLarge"));
    let large = "x".repeat(50_000);
    assert_eq!(reason(&chunked("small", &[&*large; 40])), (413, "BodyTooLarge"), "nobody waits for the end of it");
    assert_eq!(chunked("unlimited", &[&*large; 40]).status, 200);
    // Whoever refuses has an upstream connection in the middle of a request: it is not used again.
    assert_eq!(chunked("small", &["1"]).json()["bodyBytes"], 1);
}

#[test]
fn bodies_of_http_2_have_the_same_limit() {
    let gateway = with_body_limits().ready();
    let of_size = |size: usize, with_length: bool| {
        h2c::run(async {
            let (mut client, _connection) = h2c::connect(gateway.https, "small.test").await;
            let mut message = http::Request::builder().method("POST").uri("https://small.test/");
            if with_length {
                message = message.header("content-length", size);
            }
            let body = vec![bytes::Bytes::from("x".repeat(size))];
            h2c::exchange(&mut client, message.body(()).unwrap(), body, None).await.unwrap().0
        })
    };
    for with_length in [true, false] {
        assert_eq!(of_size(10, with_length).status, 200);
        assert_eq!(reason(&of_size(11, with_length)), (413, "BodyTooLarge"), "{with_length}");
    }
}

#[test]
fn a_redirect_comes_before_the_limit() {
    let with_tls =
        annotated("small", &format!("{SIZE}: '10'")).replace("spec: {", "spec: {tls: [{hosts: [small.test]}], ");
    let gateway = Start::with(&[service("web", &echo().to_string()), with_tls].join("---\n")).ready();
    assert_eq!(post(&gateway, "small", "Content-Length: 100", &"x".repeat(100)).status, 308, "as with ingress-nginx");
}

#[test]
fn an_answer_that_stops_is_cut_off_when_the_route_says_so() {
    let backend = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
        incoming.body_until(b"never");
    });
    let manifests = [
        service("web", &backend.address.to_string()),
        annotated("quick", "sluicegate.dev/stream-timeout: 1s"),
        annotated("usual", ""),
    ];
    let gateway = Start::with(&manifests.join("---\n")).set("timeouts", json!({"stream": 4})).ready();
    for (host, seconds) in [("quick", 1), ("usual", 4)] {
        let begun = Instant::now();
        let mut connection = client::connect(gateway.http);
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n"));
        assert_eq!(connection.read_head().status, 200);
        assert_eq!(connection.some(5), b"12345");
        assert!(connection.is_closed());
        let limit = Duration::from_secs(seconds);
        assert!((limit..limit + Duration::from_secs(2)).contains(&begun.elapsed()), "{host}: {:?}", begun.elapsed());
    }
    gateway.wait_metric("sluicegate_requests_total", &["IdleTimeout"], 2.0);
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_when_the_route_says_so() {
    let finished = Arc::new(AtomicUsize::new(0));
    let counted = finished.clone();
    let backend = Scripted::new(move |mut incoming| {
        let part = vec![b'x'; 1 << 20];
        incoming.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while std::io::Write::write_all(&mut incoming.stream, &part).is_ok() {}
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let manifests = [
        service("web", &backend.address.to_string()),
        annotated("quick", "sluicegate.dev/client-write-timeout: 1s"),
        annotated("patient", "sluicegate.dev/client-write-timeout: 1h"),
    ];
    let gateway = Start::with(&manifests.join("---\n")).set("timeouts", json!({"clientWrite": 3})).ready();
    let [mut quick, mut patient] = ["quick", "patient"].map(|host| {
        let mut connection = client::connect(gateway.http);
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n"));
        assert_eq!(connection.read_head().status, 200);
        connection
    });
    let begun = Instant::now();
    eventually("the end of the quick one", || (finished.load(Ordering::Relaxed) == 1).then_some(()));
    assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
    gateway.wait_metric("sluicegate_requests_total", &["ClientStalled"], 1.0);
    drop(quick.some(1));
    // Longer than the setting, of the gateway as of the kernel.
    std::thread::park_timeout(Duration::from_secs(5).saturating_sub(begun.elapsed()));
    assert_eq!(finished.load(Ordering::Relaxed), 1);
    assert_eq!(patient.some(8 << 20).len(), 8 << 20, "it goes on where it stopped");
}

#[test]
fn a_websocket_that_is_silent_ends_when_the_route_says_so() {
    let backend = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        incoming.body_until(b"never");
    });
    let manifests =
        [service("web", &backend.address.to_string()), annotated("quick", "sluicegate.dev/upgraded-idle-timeout: 1s")];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    let mut connection = client::connect(gateway.http);
    connection.send("GET / HTTP/1.1\r\nHost: quick.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(connection.read_head().status, 101);
    assert!(connection.is_closed());
    gateway.wait_metric("sluicegate_requests_total", &["IdleTimeout"], 1.0);
}

#[test]
fn what_follows_an_upgrade_is_no_body() {
    let backend = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(incoming.body_until(b"end").len(), 3 * 8 + 3);
        incoming.send("all of it");
    });
    let manifests = [service("web", &backend.address.to_string()), annotated("small", &format!("{SIZE}: '10'"))];
    let gateway = Start::with(&manifests.join("---\n")).ready();
    let mut connection = client::connect(gateway.http);
    connection.send("GET / HTTP/1.1\r\nHost: small.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(connection.read_head().status, 101);
    for _ in 0..3 {
        connection.send("12345678");
    }
    connection.send("end");
    assert_eq!(connection.some(9), b"all of it", "as with ingress-nginx, the limit is one of requests");
}
