//! HTTP/2 frame by frame: what a well-behaved library never sends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use openssl::ssl::SslStream;
use serde_json::json;

use crate::backends::{Scripted, echo, everything_to, ingress};
use crate::canonical::origin::Origin;
use crate::client::h2c;
use crate::harness::{Gateway, PATIENCE, Start};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A connection on which a test says every byte.
pub struct Raw {
    pub stream: SslStream<TcpStream>,
}

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM, or of GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A field as HPACK writes one that it knows nothing of (RFC 7541, 6.2.2), whatever is in it.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |length: usize| match length {
        0..127 => vec![length as u8],
        _ => {
            let (mut bytes, mut rest) = (vec![127], length - 127);
            while rest >= 128 {
                bytes.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            bytes.push(rest as u8);
            bytes
        }
    };
    [vec![0], length(name.len()), name.to_vec(), length(value.len()), value.to_vec()].concat()
}

fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// The head of a request, with more fields.
pub fn request(method: &[u8], target: &[u8], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let pseudo: [(&[u8], &[u8]); 4] =
        [(b":method", method), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", target)];
    block(&[&pseudo, more].concat())
}

impl Raw {
    /// Connects, with these settings.
    pub fn connect(gateway: &Gateway, settings: &[(u16, u32)]) -> Raw {
        Raw::try_connect(gateway.https, settings).unwrap()
    }

    /// The same, where that may fail.
    pub fn try_connect(address: SocketAddr, settings: &[(u16, u32)]) -> Option<Raw> {
        let tcp = TcpStream::connect(address).ok()?;
        tcp.set_read_timeout(Some(PATIENCE)).ok()?;
        tcp.set_nodelay(true).ok()?;
        let mut stream = SslStream::new(crate::attack::tls(b"\x02h2"), tcp).ok()?;
        stream.connect().ok()?;
        let mut raw = Raw { stream };
        raw.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").ok()?;
        let payload: Vec<u8> =
            settings.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        raw.send(SETTINGS, 0, 0, &payload).then_some(raw)
    }

    /// Connects, with windows for everything that may come.
    pub fn taking_all(gateway: &Gateway) -> Option<Raw> {
        let most = u32::MAX >> 1;
        let mut raw = Raw::try_connect(gateway.https, &[(4, most)])?;
        raw.send(WINDOW_UPDATE, 0, 0, &(most - 65_535).to_be_bytes()).then_some(raw)
    }

    /// Sends a frame; false: the other side is gone.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.stream.write_all(&frame).is_ok()
    }

    /// Sends a head in frames of 16 KiB.
    pub fn head(&mut self, stream: u32, flags: u8, block: &[u8]) {
        let mut parts = block.chunks(16 * 1024).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
            let flags = if kind == HEADERS { flags | last } else { last };
            self.send(kind, flags, stream, part);
            kind = CONTINUATION;
        }
    }

    /// The next frame; `None`: there are no more.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame is what is looked for.
    pub fn until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Option<Frame> {
        std::iter::from_fn(|| self.read()).find(is_it)
    }
}

fn gateway() -> Gateway {
    Start::with(&everything_to(&[echo()])).set("workers", 1.into()).ready()
}

/// What the library refuses by itself is counted as if the gateway had.
#[test]
fn what_is_malformed_or_too_large_is_refused_and_counted() {
    let gateway = gateway();
    let rejected =
        |why: &str, count: f64| gateway.wait_metric("sluicegate_rejected_total", &[&format!("\"{why}\"")], count);
    let mut raw = Raw::connect(&gateway, &[]);
    let malformed: [&[(&[u8], &[u8])]; 6] = [
        &[(b"connection", b"x")],
        &[(b"te", b"gzip")],
        &[(b":path", b"/")],
        &[(b"content-length", b"5"), (b"content-length", b"5")],
        &[(b"content-length", b"5, 5")],
        &[(b"content-length", b"x")],
    ];
    for (stream, fields) in (1..).step_by(2).zip(malformed) {
        raw.head(stream, 0, &request(b"POST", b"/", fields));
        let ended = raw.until(|frame| frame.stream == stream).unwrap();
        assert_eq!((ended.kind, ended.code()), (RST_STREAM, 1), "{fields:?}");
    }
    rejected("MalformedStream", 6.0);
    raw.head(101, END_STREAM, &request(b"GET", b"/", &[(b"x", &[b'x'; 33_000])]));
    assert_eq!(raw.until(|frame| frame.stream == 101).unwrap().kind, HEADERS, "431");
    rejected("HeadTooLarge", 1.0);
    // A number that the table has not: nothing can be read any more.
    raw.head(103, END_STREAM, &[0xff, 0xff, 0x7f]);
    assert!(raw.until(|frame| frame.kind == GOAWAY && frame.code() != 0).is_some());
    rejected("MalformedStream", 7.0);
    // The library resets them, or the gateway: after so many it ends the connection.
    let mut raw = Raw::connect(&gateway, &[]);
    let sent = (1..2000).step_by(2).take_while(|stream| {
        raw.head(*stream, 0, &request(b"POST", b"/", &[(b"connection", b"x")]));
        raw.until(|frame| frame.kind == RST_STREAM).is_some()
    });
    assert!((32..64).contains(&sent.count()));
}

#[test]
fn what_is_no_request_has_a_line_in_the_access_log() {
    let gateway = Start::with("").set("serverHeader", json!("edge")).ready();
    let answer = h2c::run(async {
        let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
        let two = http::Request::get("https://a.test/who").header("host", "b.test").header("user-agent", "old");
        h2c::exchange(&mut client, two.body(()).unwrap(), Vec::new(), None).await.unwrap().0
    });
    assert_eq!((answer.status, answer.header("sluicegate-reason")), (400, Some("BadRequest")));
    assert_eq!((answer.header("server"), answer.body.len()), (Some("edge"), 0));
    let line = gateway.wait_access(|line| line["requestLine"] == "GET /who HTTP/2");
    assert_eq!((&line["status"], &line["reason"]), (&400.into(), &"BadRequest".into()));
    assert_eq!((&line["protocol"], &line["requestId"]), (&"HTTP/2".into(), &answer.header("x-request-id").into()));
    assert_eq!((&line["host"], &line["userAgent"]), (&"a.test".into(), &"old".into()));
    assert_eq!(line["detail"], ":authority is not the host of Host");
    gateway.wait_metric("sluicegate_requests_total", &["reason=\"BadRequest\"", "status=\"4xx\""], 1.0);
    let mut raw = Raw::connect(&gateway, &[]);
    raw.head(3, 0, &request(b"POST", b"/", &[(b"content-length", b"5"), (b"content-length", b"5")]));
    assert_eq!(raw.until(|frame| frame.stream == 3).unwrap().kind, RST_STREAM);
    let line = gateway.wait_access(|line| line["requestLine"] == "POST / HTTP/2");
    assert_eq!((&line["status"], &line["detail"]), (&0.into(), &"there are several Content-Length fields".into()));
    gateway.wait_metric("sluicegate_requests_total", &["reason=\"BadRequest\"", "status=\"none\""], 1.0);
}

#[test]
fn floods_of_frames_that_belong_to_no_request_end_the_connection() {
    let gateway = gateway();
    let floods: [(&str, u8, u32, &[u8]); 6] = [
        ("PING", PING, 0, &[0; 8]),
        ("SETTINGS", SETTINGS, 0, &[]),
        ("PRIORITY", PRIORITY, 1, &[0, 0, 0, 3, 1]),
        ("WINDOW_UPDATE", WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        ("unknown", 99, 0, &[0; 20]),
        ("empty DATA", DATA, 1, &[]),
    ];
    for (number, (name, kind, stream, payload)) in floods.into_iter().enumerate() {
        let mut raw = Raw::connect(&gateway, &[]);
        raw.head(1, 0, &request(b"POST", b"/", &[]));
        let begun = Instant::now();
        for _ in 0..5_000 {
            if !raw.send(kind, 0, stream, payload) {
                break;
            }
        }
        let end = raw.until(|frame| frame.kind == GOAWAY && frame.code() != 0);
        assert!(end.as_ref().is_none_or(|frame| frame.code() == 11), "{name}: {end:?}");
        while raw.read().is_some() {}
        assert!(begun.elapsed() < PATIENCE / 2, "{name}");
        if name != "empty DATA" {
            gateway.wait_metric("sluicegate_rejected_total", &["FrameFlood"], (number + 1) as f64);
        }
    }
    gateway.wait_metric("sluicegate_connections", &["https"], 0.0);
}

#[test]
fn a_head_has_one_time_for_all_of_its_frames() {
    let gateway = Start::with(&everything_to(&[echo()])).set("timeouts", json!({"head": 1, "keepAlive": 60})).ready();
    let mut raw = Raw::connect(&gateway, &[]);
    raw.send(HEADERS, END_STREAM, 1, &request(b"GET", b"/", &[]));
    while raw.read().is_some() {}
    gateway.wait_metric("sluicegate_rejected_total", &["SlowHead"], 1.0);
}

#[test]
fn requests_that_hold_much_at_a_time_are_refused() {
    let silent = Scripted::new(|mut incoming| drop(incoming.body_until(b"never")));
    let gateway = Start::with(&everything_to(&[silent.address])).set("workers", 1.into()).ready();
    // A window of nothing: no answer can leave.
    let mut raw = Raw::connect(&gateway, &[(4, 0)]);
    let large = vec![b'x'; 15_000];
    for stream in 0..40 {
        raw.head(2 * stream + 1, END_STREAM, &request(b"GET", b"/", &[(b"x-a", &large), (b"x-b", &large)]));
    }
    let refused = raw.until(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!(refused.code(), 7, "REFUSED_STREAM, which a client may send again");
    assert!((10..30).contains(&refused.stream), "{refused:?}");
    let served = (refused.stream - 1) / 2;
    gateway.wait_metric("sluicegate_rejected_total", &["RequestsTooLarge"], f64::from(40 - served));
}

#[test]
fn who_takes_no_answers_gets_fewer_of_them() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", 1.into()).ready();
    // Answers are small, and what serves them is not.
    let mut raw = Raw::connect(&gateway, &[(4, 0)]);
    for stream in 0..100 {
        raw.head(2 * stream + 1, END_STREAM, &request(b"GET", b"/", &[]));
    }
    let ends: Vec<Frame> =
        std::iter::from_fn(|| raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM))).take(100).collect();
    let refused: Vec<&Frame> = ends.iter().filter(|frame| frame.kind == RST_STREAM).collect();
    assert!((60..90).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|frame| frame.code() == 7), "REFUSED_STREAM, which a client may send again");
    // Who takes them after all gets everything.
    raw.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    for _ in refused.len()..100 {
        assert!(raw.until(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0).is_some());
    }
    raw.head(201, END_STREAM, &request(b"GET", b"/", &[]));
    assert!(raw.until(|frame| frame.stream == 201 && frame.kind == HEADERS).is_some());
}

#[test]
fn a_hundred_requests_wait_for_the_backend_side_by_side() {
    let all = std::sync::Barrier::new(100);
    let waiting = Scripted::new(move |mut incoming| {
        all.wait();
        incoming.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    });
    let gateway = Start::with(&everything_to(&[waiting.address])).set("workers", 1.into()).ready();
    h2c::run(async {
        let (client, _connection) = h2c::connect(gateway.https, "a.test").await;
        let requests = (0..100).map(|_| {
            let mut client = client.clone();
            async move { h2c::get(&mut client, "https://a.test/").await.status }
        });
        let statuses = futures_util::future::join_all(requests).await;
        assert!(statuses.iter().all(|status| *status == 204), "{statuses:?}");
    });
}

/// What a client takes of the gateway's own says nothing about other answers.
#[test]
fn who_takes_no_answers_gets_no_more_of_them_for_taking_a_file() {
    let file = "x".repeat(200_000);
    let site = format!(
        "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: files}}\ndata: {{large: {file}}}\n---\n{}",
        everything_to(&[echo()]),
        ingress(
            "site",
            "spec: {rules: [{http: {paths: [{path: /site, pathType: Prefix, backend: {resource: {kind: ConfigMap, name: files}}}]}}]}"
        )
    );
    let gateway = Start::with(&site).set("workers", 1.into()).ready();
    let mut raw = Raw::connect(&gateway, &[(4, 0)]);
    raw.head(1, END_STREAM, &request(b"GET", b"/site/large", &[]));
    let begin = |raw: &mut Raw, streams: std::ops::Range<u32>| {
        streams.for_each(|stream| raw.head(2 * stream + 1, END_STREAM, &request(b"GET", b"/?bytes=1000000", &[])));
    };
    begin(&mut raw, 1..12);
    (0..12).for_each(|_| assert!(raw.until(|frame| frame.kind == HEADERS).is_some()));
    // As much as the window of the connection allows.
    raw.send(WINDOW_UPDATE, 0, 1, &[0, 0, 255, 255]);
    let mut taken = 0;
    while taken < 65_000 {
        taken += raw.until(|frame| frame.kind == DATA).unwrap().payload.len();
    }
    begin(&mut raw, 12..72);
    let ends = std::iter::from_fn(|| raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM))).take(60);
    let served = ends.filter(|frame| frame.kind == HEADERS).count();
    assert!(served < 6, "{served}");
}

/// A stream that waits for its backend is no client that takes nothing.
#[test]
fn an_answer_of_which_nothing_comes_for_a_while_waits_for_its_backend() {
    let events = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
            std::thread::park_timeout(Duration::from_millis(3500));
            incoming.send(event);
        }
    });
    let gateway = Start::with(&everything_to(&[events.address]))
        .set("workers", 1.into())
        .set("timeouts", json!({"clientWrite": 1, "stream": 60}))
        .ready();
    h2c::run(async {
        let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
        assert_eq!(h2c::get(&mut client, "https://a.test/").await.body, b"firstsecond");
    });
}

/// Answers that are on their way are no reason to close a connection, also where it was told to go and takes its time.
#[test]
fn answers_that_are_on_their_way_are_sent_to_their_end() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("workers", 1.into())
        .set("limits", json!({"requestsPerConnection": 40}))
        .ready();
    let mut raw = Raw::taking_all(&gateway).unwrap();
    (0..40).for_each(|stream| raw.head(2 * stream + 1, END_STREAM, &request(b"GET", b"/?bytes=16384", &[])));
    let (mut ended, mut bytes, begun) = (0, 0, Instant::now());
    while let Some(frame) = raw.read() {
        if frame.kind == DATA {
            bytes += frame.payload.len();
            ended += u32::from(frame.flags & END_STREAM != 0);
            // A line of 80 KiB a second: longer than who was told to go is waited for.
            let due = Duration::from_secs_f64(bytes as f64 / (80.0 * 1024.0));
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        }
    }
    assert_eq!((ended, bytes), (40, 40 * 16_384));
}

#[test]
fn what_is_reset_before_it_began_is_not_forwarded() {
    let origin = Origin::start();
    let gateway = Start::with(&everything_to(&[origin.address])).set("workers", 1.into()).ready();
    let mut raw = Raw::connect(&gateway, &[]);
    for stream in 0..90 {
        raw.head(2 * stream + 1, END_STREAM, &request(b"GET", b"/", &[]));
    }
    for stream in 0..90 {
        raw.send(RST_STREAM, 0, 2 * stream + 1, &[0, 0, 0, 8]);
    }
    raw.head(181, END_STREAM, &request(b"GET", b"/", &[]));
    let answer = raw.until(|frame| frame.stream == 181).unwrap();
    assert_eq!(answer.kind, HEADERS, "{answer:?}");
    let forwarded = origin.of([127, 0, 0, 1].into()).len();
    assert!(forwarded < 60, "{forwarded}");
}

#[test]
fn a_connection_serves_so_many_streams() {
    let gateway = Start::with(&everything_to(&[echo()])).set("limits", json!({"requestsPerConnection": 5})).ready();
    h2c::run(async {
        let (mut client, connection) = h2c::connect(gateway.https, "a.test").await;
        for _ in 0..5 {
            assert_eq!(h2c::get(&mut client, "https://a.test/").await.status, 200);
        }
        connection.await.unwrap().unwrap();
    });
    gateway.wait_closed("RequestsPerConnection", 1);
}

#[test]
fn streams_that_were_on_their_way_when_a_connection_had_served_its_requests_are_served() {
    let gateway = Start::with(&everything_to(&[echo()])).set("limits", json!({"requestsPerConnection": 5})).ready();
    let mut raw = Raw::connect(&gateway, &[]);
    for stream in 0..10 {
        raw.head(2 * stream + 1, END_STREAM, &request(b"GET", b"/", &[]));
    }
    let answers: Vec<Frame> =
        std::iter::from_fn(|| raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM))).take(10).collect();
    // 0x88 is `:status: 200` (RFC 7541, appendix A).
    assert!(answers.iter().all(|frame| frame.kind == HEADERS && frame.payload[0] == 0x88), "{answers:?}");
    assert_eq!(answers.len(), 10);
}

#[test]
fn where_there_is_no_room_an_idle_connection_goes() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("workers", 1.into())
        .set("limits", json!({"connections": 1}))
        .ready();
    h2c::run(async {
        let (mut client, connection) = h2c::connect(gateway.https, "a.test").await;
        assert_eq!(h2c::get(&mut client, "https://a.test/").await.status, 200);
        let other = tokio::task::spawn_blocking({
            let http = gateway.http;
            move || crate::client::get(http, "a.test", "/").status
        });
        assert_eq!(other.await.unwrap(), 200);
        connection.await.unwrap().unwrap();
    });
    gateway.wait_closed("NoRoom", 1);
}

/// What a backend of HTTP/1 must never be sent is refused, and the rest is brought into one form.
#[test]
fn requests_become_canonical_requests_of_http_1() {
    let origin = Origin::start();
    let gateway = Start::with(&everything_to(&[origin.address])).set("workers", 1.into()).ready();
    /// Names and values.
    type Fields<'a> = &'a [(&'a [u8], &'a [u8])];
    let refused: [(&str, &[u8], Fields<'_>); 28] = [
        ("connection", b"/", &[(b"connection", b"close")]),
        ("keep-alive", b"/", &[(b"keep-alive", b"timeout=5")]),
        ("proxy-connection", b"/", &[(b"proxy-connection", b"close")]),
        ("transfer-encoding", b"/", &[(b"transfer-encoding", b"chunked")]),
        ("upgrade", b"/", &[(b"upgrade", b"websocket")]),
        ("te", b"/", &[(b"te", b"gzip")]),
        ("look-alike", b"/", &[(b"transfer_encoding", b"chunked")]),
        ("another look-alike", b"/", &[(b"content_length", b"1")]),
        ("upper case", b"/", &[(b"X-A", b"1")]),
        ("empty name", b"/", &[(b"", b"1")]),
        ("blank in a name", b"/", &[(b"x a", b"1")]),
        ("colon in a name", b"/", &[(b"x:a", b"1")]),
        ("line in a name", b"/", &[(b"x\r\na", b"1")]),
        ("line in a value", b"/", &[(b"x-a", b"1\r\nx-b: 2")]),
        ("bare LF in a value", b"/", &[(b"x-a", b"1\nx-b: 2")]),
        ("NUL in a value", b"/", &[(b"x-a", b"1\0")]),
        ("another host", b"/", &[(b"host", b"b.test")]),
        ("two hosts", b"/", &[(b"host", b"a.test"), (b"host", b"b.test")]),
        ("a number that is none", b"/", &[(b"content-length", b"+1")]),
        ("two numbers", b"/", &[(b"content-length", b"0"), (b"content-length", b"1")]),
        ("more than there is", b"/", &[(b"content-length", b"5")]),
        ("expectation", b"/", &[(b"expect", b"the-best")]),
        ("pseudo field behind others", b"/", &[(b"x-a", b"1"), (b":path", b"/b")]),
        ("unknown pseudo field", b"/", &[(b":protocolx", b"1")]),
        ("target without slash", b"admin", &[]),
        ("target with a line", b"/ HTTP/1.1\r\nx: y", &[]),
        ("target with a blank", b"/a b", &[]),
        ("empty target", b"", &[]),
    ];
    for (name, target, fields) in refused {
        let mut raw = Raw::connect(&gateway, &[]);
        raw.head(1, END_STREAM, &request(b"GET", target, fields));
        let answer = raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY));
        // 0x88 is `:status: 200` (RFC 7541, appendix A).
        let passed = answer.as_ref().is_some_and(|frame| frame.kind == HEADERS && frame.payload[0] == 0x88);
        assert!(!passed, "{name}: {answer:?}");
    }
    /// Target and fields that are sent, the target that arrives, and a field with its value.
    type Pass<'a> = (&'a [u8], Fields<'a>, &'a str, &'a str, &'a [u8]);
    let passes: [Pass<'_>; 5] = [
        (b"/x?y", &[(b"cookie", b"a=1"), (b"cookie", b"b=2")], "/x?y", "cookie", b"a=1; b=2"),
        (b"/a/../b", &[(b"te", b"trailers")], "/b", "host", b"a.test"),
        (b"/", &[(b"host", b"a.test")], "/", "host", b"a.test"),
        (
            b"/",
            &[(b"x-forwarded-for", b"192.0.2.1"), (b"x_forwarded_for", b"192.0.2.2")],
            "/",
            "x-forwarded-for",
            b"127.0.0.1",
        ),
        (b"/", &[(b"x-a", b"\xc3\xa9")], "/", "x-a", b"\xc3\xa9"),
    ];
    let before = origin.of([127, 0, 0, 1].into()).len();
    assert_eq!(before, 0, "nothing of what was refused came through");
    for (number, (target, fields, wanted, name, value)) in passes.into_iter().enumerate() {
        let mut raw = Raw::connect(&gateway, &[]);
        raw.head(1, END_STREAM, &request(b"GET", target, fields));
        raw.until(|frame| frame.kind == DATA).unwrap();
        let sent = origin.of([127, 0, 0, 1].into());
        assert_eq!(sent.len(), number + 1);
        assert_eq!((sent[number].target.as_str(), sent[number].all(name)), (wanted, vec![value]));
    }
    assert_eq!(origin.dirty(), Vec::<String>::new());
}

#[test]
fn streams_windows_and_frames_are_as_they_are_set() {
    let http2 = json!({"streams": 5, "streamWindow": 20_000, "connectionWindow": 100_000, "frames": 100});
    let gateway = Start::with(&everything_to(&[echo()])).set("limits", json!({"http2": http2})).ready();
    let mut raw = Raw::connect(&gateway, &[]);
    let settings = raw.until(|frame| frame.kind == SETTINGS && !frame.payload.is_empty()).unwrap();
    let settings: Vec<(u8, u32)> = settings
        .payload
        .chunks(6)
        .map(|setting| (setting[1], u32::from_be_bytes(setting[2..].try_into().unwrap())))
        .collect();
    // SETTINGS_MAX_CONCURRENT_STREAMS and SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.5.2).
    assert!(settings.contains(&(3, 5)) && settings.contains(&(4, 20_000)), "{settings:?}");
    let update = raw.until(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0).unwrap();
    assert_eq!(u32::from_be_bytes(update.payload[..4].try_into().unwrap()) + 65_535, 100_000);
    // The sixth stream is one too many.
    (0..6).for_each(|number| raw.head(2 * number + 1, 0, &request(b"POST", b"/", &[])));
    assert_eq!(raw.until(|frame| frame.kind == RST_STREAM).unwrap().stream, 11);
    (0..200).for_each(|_| _ = raw.send(PING, 0, 0, &[0; 8]));
    assert!(raw.until(|frame| frame.kind == GOAWAY).is_some());
    gateway.wait_metric("sluicegate_rejected_total", &["FrameFlood"], 1.0);
}

/// Answers that nobody takes wait: of a small budget fewer of them.
#[test]
fn what_a_connection_may_hold_is_as_it_is_set() {
    let waiting = |bytes: usize| {
        let limits = json!({"http2": {"heldBytes": bytes}});
        let gateway = Start::with(&everything_to(&[echo()])).set("limits", limits).ready();
        let mut raw = Raw::connect(&gateway, &[(4, 0)]);
        let heads = (0..60).map(|number| 2 * number + 1);
        heads.for_each(|stream| raw.head(stream, END_STREAM, &request(b"GET", b"/?bytes=100000", &[])));
        let answers = std::iter::from_fn(|| raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM)));
        let refused = answers.take(60).filter(|frame| frame.kind == RST_STREAM).count();
        60 - refused
    };
    let (few, many) = (waiting(200_000), waiting(1_000_000));
    assert!(few < many / 2, "{few} and {many}");
}

#[test]
fn a_trusted_proxy_has_a_window_for_many_clients() {
    for (trusted, mebibytes) in [(json!([]), 1), (json!(["127.0.0.1"]), 8)] {
        let gateway = Start::with(&everything_to(&[echo()])).set("trustedProxies", trusted).ready();
        let mut raw = Raw::connect(&gateway, &[]);
        let update = raw.until(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0).unwrap();
        assert_eq!(u32::from_be_bytes(update.payload[..4].try_into().unwrap()) + 65_535, mebibytes << 20);
    }
}

/// Messages of gRPC are small, and wait in the library where nobody takes them.
#[test]
fn so_many_small_frames_may_wait() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", 1.into()).ready();
    for (frames, goes_on) in [(1_000, true), (1_300, false)] {
        // Answers that it does not take: what comes then waits to begin.
        let mut raw = Raw::connect(&gateway, &[(4, 0)]);
        let large = (0..100).map(|number| 2 * number + 1);
        large
            .clone()
            .take(60)
            .for_each(|stream| raw.head(stream, END_STREAM, &request(b"GET", b"/?bytes=100000", &[])));
        (0..10).for_each(|_| assert!(raw.until(|frame| frame.kind == HEADERS).is_some()));
        for stream in large.skip(60).take(4) {
            raw.head(stream, 0, &request(b"POST", b"/", &[]));
            (0..frames).for_each(|_| _ = raw.send(DATA, 0, stream, &[b'x'; 50]));
        }
        raw.send(PING, 0, 0, &[1; 8]);
        let next = raw.until(|frame| matches!(frame.kind, GOAWAY | PING));
        assert_eq!(next.is_some_and(|frame| frame.kind == PING), goes_on, "{frames} of each stream");
    }
}

/// A stream whose answer is there and whose body never comes.
#[test]
fn a_body_that_nobody_needs_any_more_is_not_waited_for() {
    let early = Scripted::answering("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let gateway = Start::with(&everything_to(&[early.address])).set("timeouts", json!({"stream": 1})).ready();
    let mut raw = Raw::connect(&gateway, &[]);
    raw.head(1, 0, &request(b"POST", b"/", &[]));
    raw.until(|frame| frame.kind == HEADERS).unwrap();
    let begun = Instant::now();
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 0.0);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn an_error_cannot_be_pinned_by_a_window_of_zero() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", 1.into()).ready();
    let mut raw = Raw::connect(&gateway, &[(4, 0)]);
    // A path that no request may have: an answer of the gateway's own.
    raw.head(1, END_STREAM, &request(b"GET", b"/%zz", &[]));
    let begun = Instant::now();
    let reset = raw.until(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!(reset.stream, 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // The connection goes on.
    raw.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    raw.head(3, END_STREAM, &request(b"GET", b"/", &[]));
    assert!(raw.until(|frame| frame.stream == 3 && frame.kind == HEADERS).is_some());
}
