//! How many connections there are, whose, and how they end.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::backends::{Scripted, echo, everything_to};
use crate::client::{self, Connection, Tls};
use crate::harness::{PATIENCE, Start, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Connects from an address of loopback.
pub fn connect_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((IpAddr::from(address), 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn where_there_is_no_room_the_longest_idle_goes_and_else_the_newcomer() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("workers", 1.into())
        .set("limits", json!({"connections": 2}))
        .ready();
    let mut connections = [client::connect(gateway.http), client::connect(gateway.http)];
    for connection in &mut connections {
        connection.send(GET);
        assert_eq!(connection.read(false).status, 200);
    }
    let [mut oldest, mut newer] = connections;
    let mut newest = client::connect(gateway.http);
    newest.send(GET);
    assert_eq!(newest.read(false).status, 200);
    assert!(oldest.is_closed());
    gateway.wait_closed("NoRoom", 1);
    // Both are in the middle of something now.
    for connection in [&mut newer, &mut newest] {
        connection.send("GET /?delay=1500 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 2.0);
    assert!(client::connect(gateway.http).is_closed());
    gateway.wait_metric("sluicegate_rejected_total", &["TooManyConnections"], 1.0);
    assert_eq!((newer.read(false).status, newest.read(false).status), (200, 200), "who was there is served");
}

#[test]
fn a_network_has_so_many_connections_and_trusted_proxies_have_more() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("limits", json!({"connectionsPerNetwork": 1}))
        .set("trustedProxies", json!(["127.0.0.9/32"]))
        .ready();
    let mut first = Connection::over(connect_from([127, 0, 0, 8], gateway.http));
    first.send(GET);
    assert_eq!(first.read(false).status, 200);
    assert!(Connection::over(connect_from([127, 0, 0, 8], gateway.http)).is_closed());
    gateway.wait_metric("sluicegate_rejected_total", &["TooManyOfNetwork"], 1.0);
    for address in [[127, 0, 0, 7], [127, 0, 0, 9], [127, 0, 0, 9]] {
        let mut other = Connection::over(connect_from(address, gateway.http));
        other.send(GET);
        assert_eq!(other.read(false).status, 200, "{address:?}");
        std::mem::forget(other);
    }
}

#[test]
fn an_early_answer_arrives_whole_at_a_client_that_still_sends() {
    let body = "x".repeat(2_000_000);
    let answer = format!("HTTP/1.1 413 Content Too Large\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // It answers, and takes nothing of the body.
    let backend = Scripted::new(move |mut incoming| {
        incoming.send(&answer);
        while !matches!(incoming.stream.peek(&mut [0; 1]), Ok(0) | Err(_)) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let gateway = Start::with(&everything_to(&[backend.address])).ready();
    let mut stream = client::connect(gateway.http).stream;
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000000\r\n\r\n").unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sends = std::thread::spawn(move || while sending.write_all(&[b'y'; 64 * 1024]).is_ok() {});
    let (mut taken, mut chunk) = (Vec::new(), [0; 64 * 1024]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        taken.extend_from_slice(&chunk[..count]);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let _ = stream.shutdown(Shutdown::Both);
    sends.join().unwrap();
    assert!(taken.starts_with(b"HTTP/1.1 413"), "{:?}", String::from_utf8_lossy(&taken[..taken.len().min(100)]));
    assert!(taken.len() > 2_000_000, "{} bytes came", taken.len());
}

#[test]
fn an_upload_that_is_refused_before_it_is_sent_is_over_with_the_answer() {
    let refuses = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        drop(incoming.body_until(b"never"));
    });
    let gateway = Start::with(&everything_to(&[refuses.address])).ready();
    let begun = Instant::now();
    let mut connection = client::connect(gateway.http);
    connection.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n");
    let answer = connection.read(false);
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    assert!(connection.is_closed(), "the body is not waited for");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let line = gateway.wait_access(|line| line["status"] == 401);
    assert_eq!(line["reason"], "Upstream", "the client did nothing wrong");
}

/// A backend that answers the first request of each connection and ends at the second: as one whose connections died unseen.
fn forgetful() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                let _ = stream.read(&mut chunk);
                std::thread::park_timeout(Duration::from_millis(300));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                let _ = stream.read(&mut chunk);
            });
        }
    });
    (address, connections)
}

#[test]
fn kept_connections_that_have_all_died_unseen_cost_no_request() {
    let (backend, connections) = forgetful();
    let gateway = Start::with(&everything_to(&[backend])).set("workers", 1.into()).ready();
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| gateway.get("a.test", "/").status));
        assert_eq!(both.map(|one| one.join().unwrap()), [200, 200]);
    });
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    assert_eq!(gateway.get("a.test", "/").status, 200);
    assert_eq!(connections.load(Ordering::SeqCst), 3, "after one that failed a new one is made");
}

#[test]
fn an_empty_line_behind_a_body_begins_no_request() {
    let gateway = Start::with(&everything_to(&[echo()])).set("timeouts", json!({"head": 1, "keepAlive": 2})).ready();
    let mut connection = client::connect(gateway.http);
    connection.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nok\r\n");
    assert_eq!(connection.read(false).json()["bodyBytes"], 2);
    assert!(connection.is_closed(), "silently, and no 408 that would be taken for the next answer");
}

#[test]
fn what_can_be_no_request_is_refused_at_its_first_byte() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let begun = Instant::now();
    let answer = client::raw(gateway.http, b"\x16\x03\x01\x02\x00\x01");
    assert_eq!(answer.status, 400);
    assert!(begun.elapsed() < Duration::from_secs(8), "it is not waited for its end");
}

#[test]
fn an_endpoint_that_answers_and_hangs_up_in_the_middle_of_an_upload_has_answered() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // What it has not read resets the connection.
    let hangs_up = Scripted::new(move |mut incoming| {
        counted.fetch_add(1, Ordering::SeqCst);
        incoming.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large");
    });
    let gateway = Start::with(&everything_to(&[hangs_up.address])).ready();
    for number in 1..=5 {
        let mut connection = client::connect(gateway.http);
        connection.send("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000\r\n\r\n");
        for _ in 0..10 {
            std::thread::park_timeout(Duration::from_millis(20));
            if connection.stream.write_all(&[b'x'; 1000]).is_err() {
                break;
            }
        }
        let answer = connection.read(false);
        assert_eq!((answer.status, answer.text().as_str()), (413, "too large"));
        assert_eq!(asked.load(Ordering::SeqCst), number, "it is not asked again");
    }
}

#[test]
fn a_refusal_arrives_at_a_client_that_sends_everything_before_it_reads() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let mut connection = client::connect(gateway.http);
    connection.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8000000\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..80 {
        connection.send([b'x'; 100_000]);
    }
    assert_eq!(connection.read(false).status, 400, "a reset has not overtaken it");
}

#[test]
fn new_connections_have_a_rate() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("workers", 1.into())
        .set("limits", json!({"newConnections": 3}))
        .ready();
    let mut connections: Vec<Connection> = (0..6).map(|_| client::connect(gateway.http)).collect();
    let served = connections.iter_mut().filter_map(|connection| {
        // One that was closed may be noticed here, or when it is read.
        connection.stream.write_all(GET.as_bytes()).ok()?;
        let mut byte = [0];
        matches!(connection.stream.read(&mut byte), Ok(1)).then_some(())
    });
    assert_eq!(served.count(), 3, "as many at once as there may be in a second");
    gateway.wait_metric("sluicegate_rejected_total", &["TooManyNewConnections"], 3.0);
    eventually("room for the next", || {
        let mut next = client::connect(gateway.http);
        let sent = next.stream.write_all(GET.as_bytes()).is_ok();
        (sent && matches!(next.stream.read(&mut [0]), Ok(1))).then_some(())
    });
}

#[test]
fn handshakes_have_a_rate_and_wait_a_second_for_it() {
    let gateway =
        Start::with(&everything_to(&[echo()])).set("workers", 1.into()).set("limits", json!({"handshakes": 2})).ready();
    let handshake = || Tls::new().try_connect(gateway.https, Some("a.test")).is_ok();
    let all: Vec<bool> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..12).map(|_| scope.spawn(handshake)).collect();
        tries.into_iter().map(|each| each.join().unwrap()).collect()
    });
    let made = all.iter().filter(|made| **made).count();
    // Two at once, and about two more within the second that the others wait.
    assert!((3..=6).contains(&made), "{made}");
    gateway.wait_metric("sluicegate_rejected_total", &["TooManyHandshakes"], (12 - made) as f64);
    // Plain HTTP has nothing to do with it.
    assert_eq!(gateway.get("a.test", "/").status, 200);
}

#[test]
fn a_connection_ends_gracefully_when_it_is_old() {
    let gateway = Start::with(&everything_to(&[echo()])).set("timeouts", json!({"connectionAge": 2})).ready();
    let mut connection = client::connect(gateway.http);
    let begun = Instant::now();
    let mut served = 0;
    loop {
        let answer = connection.request("GET", "a.test", "/", &[]);
        assert_eq!(answer.status, 200);
        served += 1;
        if answer.header("connection") == Some("close") {
            break;
        }
    }
    assert!(connection.is_closed() && served > 10);
    assert!((1.7..3.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    // One that only waits is closed as any other that has waited long enough.
    let begun = Instant::now();
    let mut connection = client::connect(gateway.http);
    assert_eq!(connection.request("GET", "a.test", "/", &[]).status, 200);
    assert!(connection.is_closed());
    assert!((1.7..4.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    gateway.wait_closed("ConnectionAge", 2);
}
