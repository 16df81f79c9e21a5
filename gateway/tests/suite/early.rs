//! Requests that are answered before they are whole: the answer comes, the rest is taken as far as somebody takes it, and not for ever.

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backends::{Scripted, echo, everything_to};
use crate::client::{self, Connection};
use crate::harness::{PATIENCE, Start};
use crate::http2::{DATA, END_STREAM, HEADERS, RST_STREAM, Raw, WINDOW_UPDATE, request};

const ANSWER: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";

/// Sends a byte now and then, until the other side is gone.
fn drip(mut connection: Connection) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && connection.stream.write_all(b"x").is_ok() {
        std::thread::park_timeout(Duration::from_millis(200));
    }
    begun.elapsed()
}

#[test]
fn the_rest_of_a_body_that_drips_is_not_waited_for_without_end() {
    let takes = Scripted::new(|mut incoming| {
        incoming.send(ANSWER);
        drop(incoming.body_until(b"never"));
    });
    let gateway = Start::with(&everything_to(&[takes.address])).set("timeouts", json!({"stream": 2})).ready();
    let mut connection = client::connect(gateway.http);
    connection.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n");
    assert_eq!(connection.read(false).status, 401);
    assert!(drip(connection) < PATIENCE);
    gateway.wait_metric("sluicegate_rejected_total", &["BodyAfterAnswer"], 1.0);
    gateway.wait_metric("sluicegate_upstream_inflight", &[], 0.0);
}

/// Frames that are no piece of the engine's, and a body whose length is told: nothing flushes them before its end.
#[test]
fn an_upload_over_http_2_goes_on_behind_its_answer() {
    const FRAME: usize = 10_000;
    const FRAMES: usize = 40;
    let (came, comes) = mpsc::channel();
    let takes = Scripted::new(move |mut incoming| {
        incoming.send(ANSWER);
        let _ = came.send(incoming.body_until(&[b'y'; FRAME]).len());
    });
    let gateway = Start::with(&everything_to(&[takes.address])).ready();
    let mut raw = Raw::connect(&gateway, &[]);
    let length = (FRAMES * FRAME).to_string();
    raw.head(1, 0, &request(b"POST", b"/", &[(b"content-length", length.as_bytes())]));
    raw.until(|frame| frame.kind == HEADERS).unwrap();
    let mut window = 65_535;
    for number in 1..=FRAMES {
        while window < FRAME {
            let update = raw.until(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 1).expect("it goes on");
            window += u32::from_be_bytes(update.payload[..4].try_into().unwrap()) as usize;
        }
        let last = number == FRAMES;
        raw.send(DATA, if last { END_STREAM } else { 0 }, 1, &[if last { b'y' } else { b'x' }; FRAME]);
        window -= FRAME;
    }
    assert_eq!(comes.recv_timeout(PATIENCE), Ok(FRAMES * FRAME));
}

/// Of which the client knows nothing more than that it was not served.
#[test]
fn an_error_without_a_body_ends_its_stream_and_does_not_reset_it() {
    let gone = Scripted::new(drop);
    for (backend, status) in [(gone.address, &b"502"[..]), (echo(), b"200")] {
        let gateway = Start::with(&everything_to(&[backend])).ready();
        let mut raw = Raw::connect(&gateway, &[]);
        raw.head(1, END_STREAM, &request(b"HEAD", b"/", &[]));
        let last = raw.until(|frame| frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0));
        let last = last.unwrap();
        assert_ne!(last.kind, RST_STREAM, "{:?}", String::from_utf8_lossy(status));
    }
}
