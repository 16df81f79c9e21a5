//! No connection lives on a client's terms, or on a backend's: each wait has its limit, and somebody who reaches it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::backends::{Scripted, echo, everything_to};
use crate::client::{self, Connection, Tls, h2c};
use crate::connections::connect_from;
use crate::harness::{Gateway, PATIENCE, Start};

fn gateway(backend: SocketAddr, timeouts: Value) -> Gateway {
    Start::with(&everything_to(&[backend])).set("timeouts", timeouts).ready()
}

/// What comes until the connection ends.
fn rest(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends a piece every 100 ms until the other side has had enough, or `pieces` are sent.
fn drip(stream: &mut TcpStream, piece: &[u8], pieces: usize) {
    for _ in 0..pieces {
        if piece.is_empty() || stream.write_all(piece).is_err() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn who_says_nothing_is_closed_silently() {
    let gateway = gateway(echo(), json!({"firstByte": 1, "handshake": 1}));
    assert_eq!(rest(&mut client::connect(gateway.http).stream), "");
    gateway.wait_closed("FirstByte", 1);
    assert_eq!(rest(&mut client::connect(gateway.https).stream), "", "no handshake");
    gateway.wait_metric("sluicegate_tls_handshakes_total", &["timeout"], 1.0);
    assert_eq!(rest(&mut Tls::new().connect(gateway.https, Some("a.test")).stream), "", "a handshake and no request");
    // Of HTTP/2 without a preface nothing comes but the server's own SETTINGS.
    rest(&mut Tls::new().alpn(b"\x02h2").connect(gateway.https, Some("a.test")).stream);
    gateway.wait_closed("FirstByte", 2);
    gateway.wait_closed("Preface", 1);
    gateway.wait_metric("sluicegate_connections", &[], 0.0);
}

#[test]
fn a_head_has_one_time_for_all_of_it_however_it_drips() {
    let gateway = gateway(echo(), json!({"head": 1, "firstByte": 60, "keepAlive": 60}));
    let mut stream = client::connect(gateway.http).stream;
    let begun = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n").unwrap();
    let mut dripping = stream.try_clone().unwrap();
    let drips = std::thread::spawn(move || drip(&mut dripping, b"X-A: 1\r\n", 300));
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("ClientTimeout"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    drips.join().unwrap();
    gateway.wait_metric("sluicegate_rejected_total", &["SlowHead"], 1.0);
    let line = gateway.wait_access(|line| line["status"] == 408);
    assert_eq!(line["detail"], "the head took too long to arrive");
}

#[test]
fn a_kept_connection_has_its_time_and_one_of_a_trusted_proxy_a_longer_one() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("timeouts", json!({"keepAlive": 1, "keepAliveTrusted": 60}))
        .set("trustedProxies", json!(["127.0.0.9/32"]))
        .ready();
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut trusted = Connection::over(connect_from([127, 0, 0, 9], gateway.http));
    trusted.send(request);
    assert_eq!(trusted.read(false).status, 200);
    let mut other = Connection::over(connect_from([127, 0, 0, 8], gateway.http));
    other.send(request);
    assert_eq!(other.read(false).status, 200);
    assert!(other.is_closed());
    gateway.wait_closed("KeepAlive", 1);
    trusted.send(request);
    assert_eq!(trusted.read(false).status, 200);
}

#[test]
fn a_body_has_to_arrive_at_a_rate() {
    let gateway = gateway(echo(), json!({"body": 1}));
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n";
    for piece in [&b""[..], b"0123456789"] {
        let mut stream = client::connect(gateway.http).stream;
        stream.write_all(head.as_bytes()).unwrap();
        let mut dripping = stream.try_clone().unwrap();
        let drips = std::thread::spawn(move || drip(&mut dripping, piece, 300));
        let answer = rest(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        drips.join().unwrap();
    }
    gateway.wait_metric("sluicegate_requests_total", &["ClientTimeout"], 2.0);
    let mut quick = client::connect(gateway.http);
    quick.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 30000\r\n\r\n");
    drip(&mut quick.stream, &[b'x'; 1000], 30);
    assert_eq!(quick.read(false).json()["bodyBytes"], 30_000);
}

#[test]
fn a_body_of_http_2_has_to_arrive_at_a_rate_and_one_of_grpc_not() {
    let gateway = gateway(echo(), json!({"body": 1, "upstreamRead": 3}));
    h2c::run(async {
        let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
        for (media_type, status) in [("text/plain", 408), ("application/grpc", 504)] {
            let request = http::Request::post("https://a.test/").header("content-type", media_type).body(()).unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"0123456789"), false).unwrap();
            assert_eq!(answer.await.unwrap().status(), status, "{media_type}");
        }
    });
}

#[test]
fn who_takes_nothing_of_an_answer_is_cut_off() {
    let gateway = gateway(echo(), json!({"clientWrite": 1}));
    let mut stream = client::connect(gateway.http).stream;
    stream.write_all(b"GET /?bytes=50000000 HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    gateway.wait_metric("sluicegate_requests_total", &["ClientStalled"], 1.0);
    let line = gateway.wait_access(|line| line["reason"] == "ClientStalled");
    assert_eq!(line["detail"], "the client takes nothing of the answer");
    h2c::run(async {
        let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
        let request = http::Request::get("https://a.test/?bytes=50000000").body(()).unwrap();
        let mut answer = client.send_request(request, true).unwrap().0.await.unwrap();
        let mut taken = 0;
        // The window is never opened again.
        while let Some(Ok(chunk)) = answer.body_mut().data().await {
            taken += chunk.len();
        }
        assert!(taken < 50_000_000);
    });
    gateway.wait_metric("sluicegate_requests_total", &["ClientStalled"], 2.0);
}

#[test]
fn an_answer_that_stops_is_cut_off_and_one_that_drips_is_not() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789";
    let silent = Scripted::new(move |mut incoming| {
        incoming.send(begun);
        if incoming.head.contains("/drips") {
            for _ in 0..10 {
                std::thread::park_timeout(Duration::from_millis(300));
                incoming.send("x");
            }
        }
        drop(incoming.body_until(b"never"));
    });
    let gateway = gateway(silent.address, json!({"stream": 1, "upstreamRead": 60}));
    let mut stream = client::connect(gateway.http).stream;
    stream.write_all(b"GET /stops HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let answer = rest(&mut stream);
    assert!(answer.ends_with("0123456789"), "{answer}");
    gateway.wait_metric("sluicegate_requests_total", &["IdleTimeout"], 1.0);
    assert_eq!(gateway.get("a.test", "/drips").text(), "0123456789xxxxxxxxxx");
}

#[test]
fn a_websocket_that_is_silent_ends() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    let silent = Scripted::new(move |mut incoming| {
        incoming.send(switch);
        drop(incoming.body_until(b"never"));
    });
    let gateway = gateway(silent.address, json!({"stream": 60, "upgradedIdle": 1}));
    let mut connection = client::connect(gateway.http);
    connection.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(connection.read_head().status, 101);
    assert!(connection.is_closed());
}

#[test]
fn a_backend_that_takes_nothing_of_a_request_is_a_504() {
    let (ended, ends) = std::sync::mpsc::channel();
    let deaf = Scripted::new(move |incoming| {
        // Nothing is read of the body. What waits is lost where the other side gives up, and its kernel keeps none of it.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(Some(error)) = incoming.stream.take_error() {
                return ended.send(error.kind()).unwrap();
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let gateway = gateway(deaf.address, json!({"upstreamRead": 1, "body": 60}));
    let mut stream = client::connect(gateway.http).stream;
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n").unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sends = std::thread::spawn(move || while sending.write_all(&[b'x'; 64 * 1024]).is_ok() {});
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("UpstreamTimeout"), "{answer}");
    assert_eq!(ends.recv_timeout(PATIENCE), Ok(ErrorKind::ConnectionReset));
    drop(stream);
    sends.join().unwrap();
}

#[test]
fn a_connection_serves_so_many_requests() {
    let gateway = Start::with(&everything_to(&[echo()])).set("limits", json!({"requestsPerConnection": 5})).ready();
    let mut connection = client::connect(gateway.http);
    for number in 1..=5 {
        let last = connection.request("GET", "a.test", "/", &[]).header("connection") == Some("close");
        assert_eq!(last, number == 5, "request {number}");
    }
    assert!(connection.is_closed());
    gateway.wait_closed("RequestsPerConnection", 1);
}
