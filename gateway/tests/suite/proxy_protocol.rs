//! The PROXY protocol: from proxies in front of the gateway, and to backends behind it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::backends::{echo, everything_to, host_to_web, service};
use crate::client::{self, Connection, Response, Tls};
use crate::connections::connect_from;
use crate::harness::{Gateway, Start, eventually};
use crate::pki;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// The proxy of these tests; everybody else connects from another address of loopback.
const PROXY: [u8; 4] = [127, 0, 0, 9];

fn behind_proxy(manifests: &str) -> Start {
    Start::with(manifests)
        .set("trustedProxies", json!(["127.0.0.9/32", "10.0.0.0/8"]))
        .set("proxyProtocol", json!(["127.0.0.9/32"]))
}

/// Sends a PROXY header and a request, in pieces of this size.
fn ask(address: SocketAddr, header: &[u8], request: &str, pieces: usize) -> Connection {
    let mut connection = Connection::over(connect_from(PROXY, address));
    for piece in [header, request.as_bytes()].concat().chunks(pieces) {
        connection.send(piece);
    }
    connection
}

fn version2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

/// `192.0.2.7:4444` to `198.51.100.1` at this port.
fn block(port: u16) -> Vec<u8> {
    [&[192, 0, 2, 7, 198, 51, 100, 1][..], &4444_u16.to_be_bytes(), &port.to_be_bytes()].concat()
}

/// What an echo backend was told of the client: address, port, scheme.
fn told(response: &Response) -> [String; 3] {
    assert_eq!(response.status, 200);
    ["x-forwarded-for", "x-forwarded-port", "x-forwarded-proto"].map(|name| response.echoed(name).join("|"))
}

#[test]
fn the_header_says_who_the_client_is_and_where_it_connected() {
    let gateway = behind_proxy(&everything_to(&[echo()])).ready();
    let port = gateway.http.port().to_string();
    let plain = ["192.0.2.7", "80", "http"];
    let tls = ["192.0.2.7", "443", "https"];
    let itself = ["127.0.0.9", &*port, "http"];
    let told_tls = [&block(80)[..], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
    let six = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0x20, 1, 0xd, 0xb8], &[0; 12], &[1, 2, 0, 80]].concat();
    let rows: [(Vec<u8>, [&str; 3]); 9] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 80\r\n".to_vec(), plain),
        // A load balancer that has ended TLS, as with ingress-nginx.
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\r\n".to_vec(), tls),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4444 80\r\n".to_vec(), ["2001:db8::7", "80", "http"]),
        (b"PROXY UNKNOWN\r\n".to_vec(), itself),
        (version2(0x21, 0x11, &block(80)), plain),
        (version2(0x21, 0x11, &block(443)), tls),
        (version2(0x21, 0x11, &told_tls), ["192.0.2.7", "80", "https"]),
        (version2(0x21, 0x21, &six), plain),
        (version2(0x20, 0x00, b""), itself),
    ];
    for (header, expected) in &rows {
        for pieces in [1, 7, 4096] {
            let mut connection = ask(gateway.http, header, GET, pieces);
            assert_eq!(told(&connection.read(false)), *expected, "{}", String::from_utf8_lossy(header));
            // It is the connection's, not the request's.
            connection.send(GET);
            assert_eq!(told(&connection.read(false)), *expected);
        }
    }
    assert_eq!(gateway.metric("sluicegate_rejected_total", &[]), 0.0);
}

#[test]
fn it_comes_before_tls() {
    let pair = pki::ecdsa(&["a.test"]);
    let manifests = [everything_to(&[echo()]), host_to_web("tls", "a.test", "[{hosts: [a.test], secretName: a}]")];
    let gateway = behind_proxy(&[manifests.join("---\n"), pair.secret("a")].join("---\n")).ready();
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\r\n".to_vec(), version2(0x21, 0x11, &block(443))] {
        let mut tcp = connect_from(PROXY, gateway.https);
        tcp.write_all(&header).unwrap();
        let mut connection = Tls::new().try_over(tcp, Some("a.test")).unwrap();
        connection.send(GET);
        assert_eq!(told(&connection.read(false)), ["192.0.2.7", "443", "https"]);
    }
}

#[test]
fn forwarding_fields_are_believed_of_a_client_that_is_trusted_itself() {
    let gateway = behind_proxy(&everything_to(&[echo()])).ready();
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.5, 203.0.113.9\r\n\r\n";
    let of = |source: &str| {
        let header = format!("PROXY TCP4 {source} 198.51.100.1 4444 80\r\n");
        ask(gateway.http, header.as_bytes(), request, 4096).read(false)
    };
    let stranger = of("192.0.2.7");
    assert_eq!(
        (stranger.echoed("x-forwarded-for"), stranger.echoed("x-real-ip")),
        (vec!["192.0.2.7".into()], vec!["192.0.2.7".into()])
    );
    // Whose it is nobody knows, but it is not the proxy's: a client may be behind it.
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), version2(0x21, 0x00, b""), version2(0x21, 0x31, &[0; 216])] {
        let unknown = ask(gateway.http, &header, request, 4096).read(false);
        assert_eq!(unknown.echoed("x-forwarded-for"), ["127.0.0.9"]);
        assert_eq!(unknown.echoed("x-real-ip"), ["127.0.0.9"]);
    }
    let itself = ask(gateway.http, &version2(0x20, 0x00, b""), request, 4096).read(false);
    assert_eq!(itself.echoed("x-real-ip"), ["203.0.113.9"]);
    let proxy = of("10.1.2.3");
    assert_eq!(proxy.echoed("x-forwarded-for"), ["203.0.113.5, 203.0.113.9, 10.1.2.3"]);
    assert_eq!(proxy.echoed("x-real-ip"), ["203.0.113.9"]);
}

#[test]
fn a_network_is_counted_by_its_clients_and_not_by_the_proxy() {
    let gateway = behind_proxy(&everything_to(&[echo()])).set("limits", json!({"connectionsPerNetwork": 1})).ready();
    let of = |source: &str| {
        let header = format!("PROXY TCP4 {source} 198.51.100.1 4444 80\r\n");
        ask(gateway.http, header.as_bytes(), "", 4096)
    };
    let mut first = [of("192.0.2.1"), of("192.0.2.2")];
    for connection in &mut first {
        connection.send(GET);
        assert_eq!(connection.read(false).status, 200);
    }
    assert!(of("192.0.2.1").is_closed());
    gateway.wait_metric("sluicegate_rejected_total", &["TooManyOfNetwork"], 1.0);
    let [gone, _stays] = first;
    drop(gone);
    eventually("room in the network", || {
        let mut again = of("192.0.2.1");
        // Where there is none the gateway closes, before or behind this.
        let _ = again.stream.write_all(GET.as_bytes());
        (!again.is_closed()).then_some(())
    });
}

#[test]
fn without_a_header_where_one_is_due_the_connection_is_closed_and_counted() {
    let gateway = behind_proxy(&everything_to(&[echo()])).set("timeouts", json!({"handshake": 1})).ready();
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let rows: [&[u8]; 9] = [
        GET.as_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4444\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 80\n",
        b"PROXY\tTCP4 192.0.2.7 198.51.100.1 4444 80\r\n",
        long.as_bytes(),
        // It never ends.
        b"PROXY TCP4 192.0.2.7",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x7f\0\0\x01",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
    ];
    for (index, header) in rows.iter().enumerate() {
        for address in [gateway.http, gateway.https] {
            let mut connection = Connection::over(connect_from(PROXY, address));
            connection.send(header);
            assert!(connection.is_closed(), "{}", String::from_utf8_lossy(header));
        }
        gateway.wait_metric("sluicegate_rejected_total", &["MalformedProxyHeader"], 2.0 * (index + 1) as f64);
    }
    // Who only connects looks whether somebody listens.
    drop(connect_from(PROXY, gateway.http));
    let mut tcp = connect_from(PROXY, gateway.http);
    assert_eq!(tcp.read(&mut [0]).unwrap(), 0, "closed when its time is over");
    let counted = gateway.metric("sluicegate_rejected_total", &["MalformedProxyHeader"]);
    assert!((18.0..=19.0).contains(&counted), "{counted}");
}

#[test]
fn nobody_else_may_send_one() {
    let gateway = behind_proxy(&everything_to(&[echo()])).ready();
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 80\r\n".to_vec(), version2(0x21, 0x11, &block(80))] {
        let mut connection = client::connect(gateway.http);
        connection.send([&header, GET.as_bytes()].concat());
        assert_eq!(connection.read(false).status, 400);
    }
    assert_eq!(told(&gateway.get("a.test", "/"))[0], "127.0.0.1");
}

/// A backend that hands out what each connection begins with, and answers one request after another.
fn recording() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, seen) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let send = send.clone();
            std::thread::spawn(move || serve(&mut stream, |bytes| drop(send.send(bytes))));
        }
    });
    (address, seen)
}

fn serve(stream: &mut TcpStream, seen: impl Fn(Vec<u8>)) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
        if bytes.ends_with(b"\r\n\r\n") && bytes.len() > 40 {
            seen(std::mem::take(&mut bytes));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    }
}

fn with_annotation(endpoint: SocketAddr, annotation: &str) -> String {
    let web =
        service("web", &endpoint.to_string()).replace("annotations: {", &format!("annotations: {{{annotation}, "));
    let manifests = everything_to(&[endpoint]);
    let (_, ingress) = manifests.split_once("---\n").unwrap();
    format!("{web}---\n{ingress}")
}

fn connect_as(gateway: &Gateway, from: [u8; 4]) -> (Connection, u16) {
    let stream = connect_from(from, gateway.http);
    let port = stream.local_addr().unwrap().port();
    (Connection::over(stream), port)
}

#[test]
fn a_backend_is_told_by_a_header_of_its_own_for_each_client() {
    let (address, seen) = recording();
    let manifests = with_annotation(address, "sluicegate.dev/proxy-protocol: v2");
    let gateway = Start::with(&manifests).set("trustedProxies", json!(["127.0.0.3/32"])).ready();
    for from in [[127, 0, 0, 2], [127, 0, 0, 4]] {
        let (mut connection, port) = connect_as(&gateway, from);
        for _ in 0..2 {
            connection.send(GET);
            assert_eq!(connection.read(false).status, 200);
            let bytes = seen.recv().unwrap();
            let ports = [port.to_be_bytes(), gateway.http.port().to_be_bytes()].concat();
            let expected = version2(0x21, 0x11, &[&from[..], &[127, 0, 0, 1], &ports].concat());
            assert_eq!(bytes[..28], expected, "a connection is one client's: no request goes on another's");
            assert!(bytes[28..].starts_with(b"GET / HTTP/1.1\r\n"));
        }
    }
    // Of a client that only a trusted proxy's field names.
    let (mut connection, _) = connect_as(&gateway, [127, 0, 0, 3]);
    connection.send("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    assert_eq!(connection.read(false).status, 200);
    assert_eq!(seen.recv().unwrap()[16..26], [192, 0, 2, 7, 127, 0, 0, 1, 0, 0]);
}

#[test]
fn health_checks_of_such_a_backend_speak_for_themselves() {
    let (address, seen) = recording();
    let check = "sluicegate.dev/proxy-protocol: v2, sluicegate.dev/health-check: http interval=100ms";
    let gateway = Start::with(&with_annotation(address, check)).ready();
    let bytes = seen.recv().unwrap();
    assert_eq!(bytes[..16], version2(0x20, 0, b""));
    assert!(bytes[16..].starts_with(b"GET / HTTP/1.1\r\n"));
    gateway.wait_metric("sluicegate_endpoint_health", &["state=\"healthy\""], 1.0);
}

#[test]
fn a_value_that_is_none_is_reported_and_connections_begin_as_usual() {
    let (address, seen) = recording();
    let gateway = Start::with(&with_annotation(address, "sluicegate.dev/proxy-protocol: v3")).ready();
    assert_eq!(gateway.get("a.test", "/").status, 200);
    assert!(seen.recv().unwrap().starts_with(b"GET "));
    let diagnostics: Value = gateway.admin_page("/diagnostics").json();
    let text = diagnostics.to_string();
    assert!(text.contains("sluicegate.dev/proxy-protocol") && text.contains("`v2`"), "{text}");
}
