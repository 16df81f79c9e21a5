//! How long a client may do nothing, or next to nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Table, scaled};
use crate::client::{self, Tls};
use crate::harness::{Gateway, PATIENCE, Start};
use crate::http2::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, request};
use crate::passthrough::hello_of;

/// Time until the other side ends a connection, or says with 408 that it will; a byte of `drip` is sent every so often.
fn until_ended(stream: &mut (impl Read + Write), drip: Option<(&[u8], Duration)>) -> Duration {
    let begun = Instant::now();
    let mut dripped = begun;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(count) if bytes[..count].starts_with(b"HTTP/1.1 408 ") => return begun.elapsed(),
            // Another answer, or an alert. The end follows.
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if let Some((byte, every)) = drip
                    && dripped.elapsed() >= every
                {
                    dripped = Instant::now();
                    if stream.write_all(byte).is_err() {
                        return begun.elapsed();
                    }
                }
            }
            Ok(0) | Err(_) => return begun.elapsed(),
        }
        assert!(begun.elapsed() < 4 * PATIENCE, "it never ends");
    }
}

fn look_often(stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
}

fn nap(every: Duration) {
    std::thread::park_timeout(every);
}

const NOTHING: Option<(&[u8], Duration)> = None;

/// A client, what it does, and how long it may.
type Probe = (&'static str, fn(&Gateway) -> Duration, u64);

/// Every probe, with its limit in seconds: of the defaults, and of the short form's settings.
fn probes() -> Vec<Probe> {
    let (handshake, head, keep, body, write) = scaled((2, 2, 3, 2, 2), (10, 10, 75, 30, 30));
    vec![
        ("TCP to the TLS port, no ClientHello", |gateway| plain(gateway.https, b"", NOTHING), handshake),
        (
            "a ClientHello byte by byte",
            |gateway| {
                let mut stream = client::connect(gateway.https).stream;
                look_often(&stream);
                let hello = hello_of("a.test");
                let begun = Instant::now();
                for byte in hello {
                    if stream.write_all(&[byte]).is_err() || matches!(stream.read(&mut [0; 64]), Ok(0)) {
                        break;
                    }
                }
                begun.elapsed()
            },
            handshake,
        ),
        ("TLS, no request", |gateway| tls(gateway, b"\x08http/1.1", b"", NOTHING), handshake),
        ("TLS with ALPN h2, no preface", |gateway| tls(gateway, b"\x02h2", b"", NOTHING), handshake),
        ("half of a preface", |gateway| tls(gateway, b"\x02h2", b"PRI * HTTP/2.0\r\n", NOTHING), handshake),
        ("TCP to the HTTP port, no request", |gateway| plain(gateway.http, b"", NOTHING), handshake),
        (
            "a head, one line in a second",
            |gateway| plain(gateway.http, b"GET / HTTP/1.1\r\n", Some((b"X-A: 1\r\n", Duration::from_secs(1)))),
            head,
        ),
        (
            "a head over HTTP/2 without its end",
            |gateway| {
                let mut raw = Raw::connect(gateway, &[]);
                raw.send(HEADERS, END_STREAM, 1, &request(b"GET", b"/", &[]));
                look_often(raw.stream.get_ref());
                until_ended(&mut raw.stream, NOTHING)
            },
            head,
        ),
        (
            "an HTTP/2 connection without streams",
            |gateway| {
                let mut raw = Raw::connect(gateway, &[]);
                let begun = Instant::now();
                raw.stream.get_ref().set_read_timeout(Some(4 * PATIENCE)).unwrap();
                raw.until(|frame| frame.kind == GOAWAY).expect("it is told to go");
                begun.elapsed()
            },
            keep,
        ),
        (
            "a kept connection without requests",
            |gateway| plain(gateway.http, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", NOTHING),
            keep,
        ),
        (
            "a body, one byte in a second",
            |gateway| {
                let head = b"POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n";
                plain(gateway.http, head, Some((b"x", Duration::from_secs(1))))
            },
            body,
        ),
        (
            "an answer that is not read",
            |gateway| {
                let mut stream = client::connect(gateway.http).stream;
                stream.write_all(b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(20).as_slice()).unwrap();
                let begun = Instant::now();
                // Its own line: other probes end for the same reason.
                let counted = || {
                    let is_it = |line: &String| line.contains("ClientStalled") && line.contains("/large");
                    gateway.access_log().iter().any(is_it)
                };
                while !counted() {
                    nap(Duration::from_millis(100));
                    assert!(begun.elapsed() < 4 * PATIENCE, "it never ends");
                }
                begun.elapsed()
            },
            write,
        ),
        (
            "an answer over HTTP/2 with a window of zero",
            |gateway| {
                let mut raw = Raw::connect(gateway, &[(4, 0)]);
                let begun = Instant::now();
                raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &request(b"GET", b"/", &[]));
                raw.stream.get_ref().set_read_timeout(Some(2 * PATIENCE)).unwrap();
                raw.until(|frame| frame.kind == RST_STREAM).expect("it is reset");
                begun.elapsed()
            },
            write,
        ),
        (
            "an error over HTTP/2 with a window of zero",
            |gateway| {
                let mut raw = Raw::connect(gateway, &[(4, 0)]);
                let begun = Instant::now();
                raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &request(b"GET", b"/%zz", &[]));
                raw.until(|frame| frame.kind == RST_STREAM).expect("it is reset");
                begun.elapsed()
            },
            1,
        ),
        (
            "half of a PROXY header",
            |gateway| {
                // The proxy of this gateway.
                let mut stream = crate::connections::connect_from([127, 0, 0, 9], gateway.http);
                stream.write_all(b"PROXY TCP4 192.0.2.7").unwrap();
                look_often(&stream);
                until_ended(&mut stream, NOTHING)
            },
            handshake,
        ),
    ]
}

fn plain(address: std::net::SocketAddr, begin: &[u8], drip: Option<(&[u8], Duration)>) -> Duration {
    let mut stream = client::connect(address).stream;
    look_often(&stream);
    stream.write_all(begin).unwrap();
    until_ended(&mut stream, drip)
}

fn tls(gateway: &Gateway, alpn: &'static [u8], begin: &[u8], drip: Option<(&[u8], Duration)>) -> Duration {
    let mut stream = Tls::new().alpn(alpn).connect(gateway.https, Some("a.test")).stream;
    look_often(stream.get_ref());
    stream.write_all(begin).unwrap();
    until_ended(&mut stream, drip)
}

pub fn run(table: &Table) {
    let gateway = behind_proxy();
    std::thread::scope(|scope| {
        let gateway = &gateway;
        let running: Vec<_> = probes()
            .into_iter()
            .map(|(name, probe, limit)| (name, limit, scope.spawn(move || probe(gateway))))
            .collect();
        for (name, limit, probe) in running {
            table.after(name, probe.join().unwrap(), Duration::from_secs(limit));
        }
    });
}

/// With the timeouts of this run, before a proxy of its own.
fn behind_proxy() -> Gateway {
    let timeouts = scaled(
        json!({"handshake": 2, "firstByte": 2, "head": 2, "keepAlive": 3, "body": 2, "clientWrite": 2}),
        json!({}),
    );
    Start::with(&crate::backends::everything_to(&[super::backend::address()]))
        .set("timeouts", timeouts)
        .set("trustedProxies", json!(["127.0.0.9/32"]))
        .set("proxyProtocol", json!(["127.0.0.9/32"]))
        .ready()
}
