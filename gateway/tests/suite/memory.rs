//! What happens as memory runs short: the gateway keeps less, then takes less, and recovers by itself.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backends::{Scripted, echo, everything_to};
use crate::client;
use crate::harness::{Gateway, PATIENCE, Start, eventually};
use crate::http2::{END_STREAM, HEADERS, Raw, request};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Memory of the gateway in these tests. It needs some 40 MiB by itself, as it is built for tests.
const LIMIT: u64 = 128 << 20;

fn small() -> Start {
    Start::with(&everything_to(&[echo()])).set("workers", 1.into()).set("limits", json!({"memory": LIMIT}))
}

/// Connections that each hold as much as they can, for as long as they live.
struct Attack {
    gateway: SocketAddr,
    /// Bytes of their bodies that never come.
    left: usize,
    held: Vec<TcpStream>,
}

impl Attack {
    fn on(gateway: &Gateway) -> Attack {
        Attack { gateway: gateway.http, left: 0, held: Vec::new() }
    }

    /// Opens more until the gateway says that it is on this step.
    fn until(&mut self, gateway: &Gateway, step: u8) {
        let request = format!(
            "POST /?delay=60000 HTTP/1.1\r\nHost: a.test\r\nX-A: {}\r\nContent-Length: 4096\r\n\r\n{}",
            "x".repeat(31_000),
            "x".repeat(4_096 - self.left)
        );
        eventually("memory to run short", || {
            for _ in 0..20 {
                // On the last step nobody answers any more.
                let Ok(mut stream) = TcpStream::connect(self.gateway) else { break };
                stream.set_nonblocking(true).unwrap();
                let _ = stream.write(request.as_bytes());
                self.held.push(stream);
            }
            (gateway.metric("sluicegate_memory_pressure", &[]) >= f64::from(step)).then_some(())
        });
    }
}

/// A window of zero, in answers that had begun before.
#[test]
fn who_takes_nothing_of_an_answer_over_http_2_is_closed_soon_when_memory_runs_short() {
    let gateway = small().set("timeouts", json!({"clientWrite": 600, "stream": 600})).ready();
    let mut raw = Raw::connect(&gateway, &[(4, 0)]);
    for stream in [1, 3, 5] {
        raw.head(stream, END_STREAM, &request(b"GET", b"/?bytes=1000000", &[]));
    }
    assert!((0..3).all(|_| raw.until(|frame| frame.kind == HEADERS).is_some()));
    let mut attack = Attack::on(&gateway);
    attack.until(&gateway, 1);
    gateway.wait_metric("sluicegate_rejected_total", &["AnswersNotTaken"], 1.0);
    assert!(raw.until(|_| false).is_none(), "it is closed");
}

#[test]
fn the_ladder_is_climbed_by_whoever_holds_much_and_left_when_they_go() {
    let gateway = small().set("timeouts", json!({"head": 60})).ready();
    assert_eq!(gateway.metric("sluicegate_memory_pressure", &[]), 0.0);
    assert_eq!(gateway.metric("sluicegate_memory_limit_bytes", &[]), LIMIT as f64);
    let [mut idle, mut asking, mut asked] = [(); 3].map(|()| client::connect(gateway.http));
    assert_eq!(idle.request("GET", "a.test", "/", &[]).status, 200);
    asking.send("GET / HTTP/1.1\r\nHost: a.");
    asked.send("GET /?delay=15000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut attack = Attack::on(&gateway);
    attack.until(&gateway, 2);
    assert!(idle.is_closed(), "who only waits goes first");
    assert!(gateway.metric("sluicegate_connections_closed_total", &["MemoryPressure"]) >= 1.0);
    attack.until(&gateway, 3);
    asking.send("test\r\n\r\n");
    let answer = asking.read(false);
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1")),
        "who asks now is told that there is no room"
    );
    assert_eq!(answer.header("sluicegate-reason"), Some("MemoryExhausted"));
    assert!(asking.is_closed());
    let mut newcomer = client::connect(gateway.http);
    newcomer.send(GET);
    let answer = asked.read(false);
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close")),
        "who has asked is served, and not kept"
    );
    let used = gateway.metric("sluicegate_memory_used_bytes", &[]);
    assert!(used < LIMIT as f64, "{used}");
    drop(attack);
    eventually("memory to be freed", || (gateway.metric("sluicegate_memory_pressure", &[]) == 0.0).then_some(()));
    assert_eq!(newcomer.read(false).status, 200, "who waited to be accepted is served now");
    gateway.wait_log("memory runs short");
    gateway.wait_log("memory is freed");
}

#[test]
fn who_takes_nothing_has_less_time_for_it_while_memory_runs_short() {
    let gateway = small().set("timeouts", json!({"clientWrite": 60})).ready();
    let begun = Instant::now();
    let mut unread = client::connect(gateway.http).stream;
    unread.write_all(b"GET /?bytes=50000000 HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let mut attack = Attack::on(&gateway);
    attack.until(&gateway, 1);
    gateway.wait_metric("sluicegate_requests_total", &["ClientStalled"], 1.0);
    assert!((5..40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn who_sends_a_body_slowly_has_to_send_faster_while_memory_runs_short() {
    let gateway = small().set("timeouts", json!({"body": 600})).ready();
    let begun = Instant::now();
    let mut attack = Attack { left: 1, ..Attack::on(&gateway) };
    attack.until(&gateway, 1);
    // Nobody goes; nobody sends the rest.
    let refused = || gateway.metric("sluicegate_requests_total", &["ClientTimeout"]);
    eventually("uploads to be refused", || (refused() > 0.0).then_some(()));
    eventually("memory to be freed", || (gateway.metric("sluicegate_memory_pressure", &[]) == 0.0).then_some(()));
    assert!((5..60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

/// As many bodies as may be kept, with another field, each whole but for so many bytes, of which one comes now and then, if there are any.
struct Uploads {
    held: Arc<Vec<TcpStream>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for stream in &*self.held {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn uploads(gateway: &Gateway, field: &str, left: usize) -> Uploads {
    let places = usize::try_from(LIMIT).unwrap() / 8 / 65_536;
    let request = post("/?delay=60000", field, 65_536);
    let part = &request.as_bytes()[..request.len() - left];
    let held = (0..places).map(|_| {
        let mut stream = client::connect(gateway.http).stream;
        stream.write_all(part).unwrap();
        stream
    });
    let uploads = Uploads { held: Arc::new(held.collect()), stop: Arc::default() };
    let (held, stop) = (uploads.held.clone(), uploads.stop.clone());
    std::thread::spawn(move || {
        for _ in 0..left / 2 {
            std::thread::park_timeout(Duration::from_millis(300));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for mut stream in &*held {
                let _ = stream.write(b"x");
            }
        }
    });
    gateway.wait_metric("sluicegate_kept_body_bytes", &[], LIMIT as f64 / 8.0);
    uploads
}

fn post(target: &str, field: &str, length: usize) -> String {
    let body = "x".repeat(length);
    format!("POST {target} HTTP/1.1\r\nHost: a.test\r\n{field}Content-Length: {length}\r\n\r\n{body}")
}

#[test]
fn a_body_that_does_not_come_leaves_its_place_to_one_that_waits() {
    // It answers at once, and takes what comes.
    let early = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        drop(incoming.body_until(b"never"));
    });
    // It begins an answer, and takes what comes.
    let begins = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        drop(incoming.body_until(b"never"));
    });
    let grpc = "Content-Type: application/grpc\r\n";
    for (backend, field, reason) in [
        (echo(), "", "ClientTimeout"),
        (echo(), grpc, "ClientTimeout"),
        (begins.address, "", "ClientTimeout"),
        (early.address, "", "Upstream"),
    ] {
        let gateway = Start::with(&everything_to(&[backend]))
            .set("workers", 1.into())
            .set("limits", json!({"memory": LIMIT}))
            .set("timeouts", json!({"body": 600}))
            .ready();
        let held = uploads(&gateway, field, 1000);
        let ended = || gateway.metric("sluicegate_requests_total", &[reason]);
        let mut small = client::connect(gateway.http);
        small.send(post("/", "", 4096));
        let small = small.read_head();
        assert_eq!(small.status, 200, "a small one needs none");
        let before = ended();
        let mut waits = client::connect(gateway.http);
        waits.stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
        waits.send(post("/", "", 65_536));
        assert_eq!(waits.read_head().status, 200, "{reason} {field}");
        eventually("one to be ended", || (ended() > before).then_some(()));
        drop(held);
    }
}

#[test]
fn a_body_for_which_no_place_comes_is_refused() {
    let gateway = small().set("timeouts", json!({"body": 600})).ready();
    let held = uploads(&gateway, "", 0);
    let mut waits = client::connect(gateway.http);
    waits.stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
    waits.send(post("/", "", 1_000_000));
    let answer = waits.read(false);
    assert_eq!((answer.status, answer.header("sluicegate-reason")), (503, Some("MemoryExhausted")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    gateway.wait_metric("sluicegate_requests_total", &["MemoryExhausted"], 1.0);
    drop(held);
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 0.0);
    let mut next = client::connect(gateway.http);
    next.send(post("/", "", 1_000_000));
    assert_eq!(next.read(false).status, 200);
}
