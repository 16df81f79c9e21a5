//! Requests that are sent again: which, how often, and with what.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::json;

use crate::backends::{Refusing, Scripted, echo, everything_to};
use crate::client::{self, Response, h2c};
use crate::harness::{Gateway, Start};

/// A backend that takes a request and ends the connection, and how many it took.
fn closing() -> (SocketAddr, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let backend = Scripted::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (backend.address, taken)
}

/// The same, with a reset.
fn resetting() -> SocketAddr {
    let reset = |incoming: crate::backends::Incoming| {
        socket2::SockRef::from(&incoming.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    };
    Scripted::new(reset).address
}

/// An echo backend that wants the whole body.
fn swallowing(expected: usize) -> SocketAddr {
    Scripted::new(move |mut incoming| {
        let mut body = std::mem::take(&mut incoming.rest);
        let missing = expected - body.len();
        (&incoming.stream).take(missing as u64).read_to_end(&mut body).unwrap();
        let sum: usize = body.iter().map(|byte| usize::from(*byte)).sum();
        incoming.send(format!(
            "HTTP/1.1 200 OK\r\nx-echo: {}-{sum}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            body.len()
        ));
    })
    .address
}

fn send(gateway: &Gateway, method: &str, body: &[u8]) -> Response {
    let head =
        format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    client::raw(gateway.http, [head.as_bytes(), body].concat())
}

fn reason(response: &Response) -> (u16, Option<&str>) {
    (response.status, response.header("sluicegate-reason"))
}

#[test]
fn a_request_that_may_be_repeated_goes_to_another_endpoint_when_its_connection_ends() {
    for dead in [closing().0, resetting()] {
        let gateway = Start::with(&everything_to(&[dead, echo()])).ready();
        for method in ["GET", "OPTIONS", "PUT", "DELETE"] {
            for _ in 0..4 {
                assert_eq!(reason(&send(&gateway, method, b"")), (200, None), "{method}");
            }
        }
        assert!(gateway.metric("sluicegate_upstream_retries_total", &[]) >= 4.0);
    }
}

#[test]
fn one_that_may_not_is_sent_once() {
    let (dead, taken) = closing();
    let gateway = Start::with(&everything_to(&[dead, echo()])).ready();
    let answers: Vec<_> = (0..10).map(|_| send(&gateway, "POST", b"x")).collect();
    let failed = answers.iter().filter(|answer| reason(answer) == (502, Some("UpstreamReset"))).count();
    assert_eq!((failed, taken.load(Ordering::SeqCst)), (5, 5));
}

#[test]
fn a_body_of_64_kib_is_sent_again_and_a_longer_one_is_not() {
    let body: Vec<u8> = (0..65_537_u32).map(|index| index as u8).collect();
    for (length, repeated) in [(1, true), (65_536, true), (65_537, false)] {
        let gateway = Start::with(&everything_to(&[closing_after(length), swallowing(length)])).ready();
        let sum: usize = body[..length].iter().map(|byte| usize::from(*byte)).sum();
        let answers: Vec<_> = (0..4).map(|_| send(&gateway, "PUT", &body[..length])).collect();
        let whole = format!("{length}-{sum}");
        let good = answers.iter().filter(|answer| answer.header("x-echo") == Some(&whole)).count();
        assert_eq!(good, if repeated { 4 } else { 2 }, "{length}");
    }
}

#[test]
fn so_is_one_that_came_over_http_2() {
    for (length, repeated) in [(1, true), (65_536, true), (65_537, false)] {
        let gateway = Start::with(&everything_to(&[closing_after(length), swallowing(length)])).ready();
        let good = h2c::run(async {
            let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
            let mut good = 0;
            for _ in 0..4 {
                let request = http::Request::put("https://a.test/").header("content-length", length).body(()).unwrap();
                let body = vec![1; length].chunks(10_000).map(Bytes::copy_from_slice).collect();
                let (answer, _) = h2c::exchange(&mut client, request, body, None).await.unwrap();
                good += usize::from(answer.header("x-echo") == Some(&format!("{length}-{length}")));
            }
            good
        });
        assert_eq!(good, if repeated { 4 } else { 2 }, "{length}");
    }
}

/// A backend that ends the connection when it has read so much of a body.
fn closing_after(length: usize) -> SocketAddr {
    let read = move |mut incoming: crate::backends::Incoming| {
        let missing = length - incoming.rest.len();
        let _ = std::io::copy(&mut (&mut incoming.stream).take(missing as u64), &mut std::io::sink());
    };
    Scripted::new(read).address
}

#[test]
fn it_is_repeated_once_and_at_another_endpoint() {
    let dead = [closing(), closing(), closing()];
    let gateway = Start::with(&everything_to(&dead.each_ref().map(|(address, _)| *address))).ready();
    assert_eq!(reason(&send(&gateway, "GET", b"")), (502, Some("UpstreamReset")));
    let mut taken = dead.map(|(_, taken)| taken.load(Ordering::SeqCst));
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 1]);

    // Where there is no other endpoint it is the same once more.
    let (dead, taken) = closing();
    let gateway = Start::with(&everything_to(&[dead])).ready();
    assert_eq!(reason(&send(&gateway, "GET", b"")), (502, Some("UpstreamReset")));
    assert_eq!(taken.load(Ordering::SeqCst), 2);
}

#[test]
fn endpoints_that_refuse_do_not_use_up_the_repetition() {
    let refusing = [Refusing::new(), Refusing::new()];
    let (dead, _) = closing();
    let gateway = Start::with(&everything_to(&[refusing[0].1, dead, refusing[1].1, echo()])).ready();
    for _ in 0..8 {
        assert_eq!(reason(&send(&gateway, "GET", b"")), (200, None));
    }
}

#[test]
fn an_answer_that_has_begun_is_not_begun_again() {
    let broken = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    let gateway = Start::with(&everything_to(&[broken.address, echo()])).ready();
    let halves = (0..4).filter(|_| {
        let mut connection = TcpStream::connect(gateway.http).unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // The cut may be a reset.
        let _ = connection.read_to_end(&mut answer);
        answer.ends_with(b"\r\n\r\nhalf")
    });
    assert_eq!(halves.count(), 2);
}

#[test]
fn three_endpoints_are_tried() {
    let refusing = [(); 5].map(|()| Refusing::new());
    let gateway = Start::with(&everything_to(&refusing.each_ref().map(|refusing| refusing.1))).ready();
    assert_eq!(reason(&send(&gateway, "POST", b"")), (502, Some("ConnectFailed")));
    assert_eq!(gateway.metric("sluicegate_upstream_retries_total", &[]), 2.0);
}

/// A backend that answers, keeps its connections open, and ends them at `/poison`; how often it was asked for that.
fn poisoned() -> (SocketAddr, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let backend = Scripted::new(move |mut incoming| {
        let mut head = incoming.head.clone();
        while !head.starts_with("GET /poison") {
            incoming.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            head = String::from_utf8(incoming.body_until(b"\r\n\r\n")).unwrap();
            if head.is_empty() {
                return;
            }
        }
        count.fetch_add(1, Ordering::SeqCst);
    });
    (backend.address, taken)
}

/// A kept connection that ended may have been closed before the request came: that is one attempt more, and no other.
#[test]
fn a_kept_connection_that_ends_counts_for_itself() {
    let (backend, taken) = poisoned();
    // Each worker keeps connections of its own.
    let gateway = Start::with(&everything_to(&[backend])).set("workers", json!(1)).ready();
    assert_eq!(send(&gateway, "GET", b"").status, 200);
    assert_eq!(reason(&gateway.get("a.test", "/poison")), (502, Some("UpstreamReset")));
    assert_eq!(taken.load(Ordering::SeqCst), 3);
}
