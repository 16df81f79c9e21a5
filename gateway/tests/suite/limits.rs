//! How much a head may hold, of requests and of answers.

use serde_json::json;

use crate::backends::{Scripted, echo, everything_to};
use crate::client;
use crate::harness::Start;
use crate::http2::{END_STREAM, RST_STREAM, Raw, request};

#[test]
fn heads_of_requests_have_their_size() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", 1.into()).ready();
    let ask = |target: &str, fields: &str| {
        client::raw(gateway.http, format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
    };
    let field = |length: usize| format!("X-A: {}\r\n", "x".repeat(length));
    assert_eq!(ask("/", &field(32_000)).status, 200);
    let reason =
        |response: client::Response| (response.status, response.header("sluicegate-reason").unwrap().to_owned());
    assert_eq!(reason(ask("/", &field(33_000))), (431, "HeadTooLarge".to_owned()));
    assert_eq!(ask("/", &"X-A: 1\r\n".repeat(99)).status, 200);
    assert_eq!(reason(ask("/", &"X-A: 1\r\n".repeat(100))), (431, "HeadTooLarge".to_owned()));
    assert_eq!(ask("/", &"Cookie: a=1\r\n".repeat(256)).status, 200);
    assert_eq!(reason(ask("/", &"Cookie: a=1\r\n".repeat(257))), (431, "HeadTooLarge".to_owned()));
    let target = |length: usize| format!("/{}", "x".repeat(length - 1));
    assert_eq!(ask(&target(16 * 1024), "").status, 200);
    assert_eq!(reason(ask(&target(16 * 1024 + 1), "")), (414, "TargetTooLong".to_owned()));
    // One whose end never comes is not waited for.
    let endless = client::raw(gateway.http, format!("GET /{}", "x".repeat(40_000)));
    assert_eq!(reason(endless), (414, "TargetTooLong".to_owned()));
    let endless = client::raw(gateway.http, format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}", "x".repeat(40_000)));
    assert_eq!(reason(endless), (431, "HeadTooLarge".to_owned()));
    gateway.wait_metric("sluicegate_rejected_total", &["HeadTooLarge"], 4.0);
    gateway.wait_metric("sluicegate_rejected_total", &["TargetTooLong"], 2.0);
}

#[test]
fn heads_of_answers_have_theirs() {
    let backend = Scripted::new(|mut incoming| {
        let field = |length: usize| format!("X-A: {}\r\n", "x".repeat(length));
        let interim = |count: usize| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count);
        let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
        let answer = match incoming.head.split(' ').nth(1).unwrap() {
            "/large" => ok(&field(60_000)),
            "/too-large" => ok(&field(70_000)),
            "/too-many-fields" => ok(&"X-A: 1\r\n".repeat(240)),
            "/interim" => interim(16) + &ok(""),
            _ => interim(17) + &ok(""),
        };
        incoming.send(answer);
    });
    let gateway = Start::with(&everything_to(&[backend.address])).ready();
    let status = |target: &str| {
        let mut connection = client::connect(gateway.http);
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        std::iter::from_fn(|| Some(connection.read(false).status)).find(|status| *status >= 200).unwrap()
    };
    let answers = ["/large", "/too-large", "/too-many-fields", "/interim", "/too-many-interim"].map(status);
    assert_eq!(answers, [200, 502, 502, 200, 502]);
    gateway.wait_metric("sluicegate_requests_total", &["UpstreamInvalid"], 3.0);
}

/// A backend that never answers `/slow`.
fn slow() -> Scripted {
    Scripted::new(|mut incoming| {
        if incoming.head.starts_with("GET /slow ") {
            drop(incoming.body_until(b"never"));
        } else {
            incoming.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

#[test]
fn where_too_many_requests_are_on_their_way_others_are_told_so() {
    let backend = slow();
    let gateway = Start::with(&everything_to(&[backend.address])).set("limits", json!({"requestsInFlight": 3})).ready();
    let mut held: Vec<_> = (0..3).map(|_| client::connect(gateway.http)).collect();
    held.iter_mut().for_each(|connection| connection.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 3.0);
    let mut over = client::connect(gateway.http);
    let answer = over.request("GET", "a.test", "/", &[]);
    assert_eq!((answer.status, answer.header("sluicegate-reason")), (503, Some("TooManyInFlight")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    held.pop();
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 2.0);
    assert_eq!(over.request("GET", "a.test", "/", &[]).status, 200, "on the same connection");
}

#[test]
fn the_less_room_there_is_the_fewer_streams_a_connection_has() {
    let backend = slow();
    let gateway = Start::with(&everything_to(&[backend.address]))
        .set("workers", json!(1))
        .set("limits", json!({"requestsInFlight": 20}))
        .ready();
    let mut greedy = Raw::connect(&gateway, &[]);
    for number in 0..100 {
        greedy.head(2 * number + 1, END_STREAM, &request(b"GET", b"/slow", &[]));
    }
    let refused = greedy.until(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!(refused.code(), 7, "REFUSED_STREAM: it may be sent once more");
    gateway.wait_metric("sluicegate_rejected_total", &["TooManyStreams"], 81.0);
    // Others have room.
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 19.0);
    let mut modest = Raw::connect(&gateway, &[]);
    modest.head(1, END_STREAM, &request(b"GET", b"/", &[]));
    assert!(modest.until(|frame| frame.stream == 1).unwrap().kind != RST_STREAM);
}
