//! What happens as memory runs short: the gateway keeps less, then takes less, and recovers by itself.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::json;

use crate::backends::{echo, everything_to};
use crate::client;
use crate::harness::{Gateway, Start, eventually};
use crate::http2::{END_STREAM, HEADERS, Raw, request};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Memory of the gateway in these tests. It needs some 40 MiB by itself, as it is built for tests.
const LIMIT: u64 = 192 << 20;

fn small() -> Start {
    Start::with(&everything_to(&[echo()])).set("workers", 1.into()).set("limits", json!({"memory": LIMIT}))
}

/// Connections that each hold as much as they can, for as long as they live.
struct Attack {
    gateway: SocketAddr,
    held: Vec<TcpStream>,
}

impl Attack {
    fn on(gateway: &Gateway) -> Attack {
        Attack { gateway: gateway.http, held: Vec::new() }
    }

    /// Opens more until the gateway says that it is on this step.
    fn until(&mut self, gateway: &Gateway, step: u8) {
        let request = format!(
            "POST /?delay=60000 HTTP/1.1\r\nHost: a.test\r\nX-A: {}\r\nContent-Length: 65536\r\n\r\n{}",
            "x".repeat(31_000),
            "x".repeat(65_535)
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
    let gateway = small().ready();
    assert_eq!(gateway.metric("sluicegate_memory_pressure", &[]), 0.0);
    assert_eq!(gateway.metric("sluicegate_memory_limit_bytes", &[]), LIMIT as f64);
    let [mut idle, mut asking, mut asked] = [(); 3].map(|()| client::connect(gateway.http));
    assert_eq!(idle.request("GET", "a.test", "/", &[]).status, 200);
    asking.send("GET / HTTP/1.1\r\nHost: a.");
    asked.send("GET /?delay=4000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut attack = Attack::on(&gateway);
    attack.until(&gateway, 2);
    assert!(idle.is_closed(), "who only waits goes first");
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
    let mut attack = Attack::on(&gateway);
    attack.until(&gateway, 1);
    // Nobody goes; nobody sends the rest.
    let refused = || gateway.metric("sluicegate_requests_total", &["ClientTimeout"]);
    eventually("uploads to be refused", || (refused() > 0.0).then_some(()));
    eventually("memory to be freed", || (gateway.metric("sluicegate_memory_pressure", &[]) == 0.0).then_some(()));
    assert!((5..60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}
