//! Clients that send as much as they can of what costs work.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::low_priority;
use crate::harness::Gateway;
use crate::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, request,
};
use crate::passthrough::hello_of;

/// Kinds of floods over HTTP/2.
pub const KINDS: [&str; 12] = [
    "PING",
    "SETTINGS",
    "PRIORITY",
    "WINDOW_UPDATE",
    "unknown frames",
    "empty DATA",
    "CONTINUATION",
    "rapid reset",
    "requests that are malformed",
    "requests without a window",
    "RST_STREAM of idle streams",
    "requests that are not ended",
];

/// Sends the frames of a kind; false: the connection has ended.
pub fn send(raw: &mut Raw, kind: &str, number: u32) -> bool {
    let stream = 2 * number + 1;
    let get = || request(b"GET", b"/honest", &[]);
    match kind {
        "PING" => raw.send(PING, 0, 0, &[0; 8]),
        "SETTINGS" => raw.send(SETTINGS, 0, 0, &[]),
        "PRIORITY" => raw.send(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]),
        "WINDOW_UPDATE" => raw.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        "unknown frames" => raw.send(99, 0, 0, &[0; 20]),
        "empty DATA" if number == 0 => raw.send(HEADERS, END_HEADERS, 1, &request(b"POST", b"/slow", &[])),
        "empty DATA" => raw.send(DATA, 0, 1, &[]),
        "CONTINUATION" if number == 0 => raw.send(HEADERS, 0, 1, &get()),
        "CONTINUATION" => raw.send(CONTINUATION, 0, 1, &[]),
        "rapid reset" => {
            raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &get())
                && raw.send(RST_STREAM, 0, stream, &[0, 0, 0, 8])
        }
        "requests that are malformed" => {
            raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &request(b"GET", b"/", &[(b"Upper", b"1")]))
        }
        "requests without a window" => raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &get()),
        "RST_STREAM of idle streams" => raw.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        _ => raw.send(HEADERS, END_HEADERS, stream, &request(b"POST", b"/slow", &[])),
    }
}

/// Settings that a flood of a kind begins with.
fn settings(kind: &str) -> &'static [(u16, u32)] {
    if kind == "requests without a window" { &[(4, 0)] } else { &[] }
}

/// Frames between two looks at what comes back.
const BATCH: u32 = 20;

/// Sends frames of a kind on one connection until it is told to go, or ends; how many that took. `None`: more than `most`.
pub fn until_ended(gateway: &Gateway, kind: &str, most: u32) -> Option<u32> {
    let mut raw = Raw::connect(gateway, settings(kind));
    for number in 0..most {
        if !send(&mut raw, kind, number) || (number % BATCH == BATCH - 1 && is_told_to_go(&mut raw)) {
            return Some(number + 1);
        }
    }
    None
}

/// Reads what is there already.
fn is_told_to_go(raw: &mut Raw) -> bool {
    loop {
        let socket = raw.stream.get_ref();
        socket.set_nonblocking(true).unwrap();
        let there = raw.stream.ssl().pending() > 0 || socket.peek(&mut [0]).is_ok();
        socket.set_nonblocking(false).unwrap();
        if !there {
            return false;
        }
        match raw.read() {
            Some(frame) if frame.kind != GOAWAY => {}
            _ => return true,
        }
    }
}

/// Connections that flood until this is dropped; each that is ended is made anew.
pub struct Flood {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    /// So many connections, of all kinds in turn.
    pub fn on(gateway: &Gateway, count: usize) -> Flood {
        let (stop, ended): (Arc<AtomicBool>, Arc<AtomicUsize>) = (Arc::default(), Arc::default());
        let address = gateway.https;
        let one = |number: usize| {
            let (stop, ended) = (stop.clone(), ended.clone());
            std::thread::spawn(move || {
                low_priority();
                let kind = KINDS[number % KINDS.len()];
                while !stop.load(Ordering::Relaxed) {
                    let Some(mut raw) = Raw::try_connect(address, settings(kind)) else { continue };
                    let mut frame = 0;
                    while !stop.load(Ordering::Relaxed) && send(&mut raw, kind, frame) {
                        frame += 1;
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..count).map(one).collect();
        Flood { stop, ended, threads }
    }

    /// How many connections were ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Full handshakes, one after another on each of so many threads, until this is dropped.
pub struct Handshakes {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Handshakes {
    pub fn on(gateway: &Gateway, threads: usize) -> Handshakes {
        let (stop, made): (Arc<AtomicBool>, Arc<AtomicUsize>) = (Arc::default(), Arc::default());
        let address = gateway.https;
        let one = |_| {
            let (stop, made) = (stop.clone(), made.clone());
            std::thread::spawn(move || {
                low_priority();
                // A client that computes nothing itself would be worse; what it sends is recorded once and sent again and again.
                let hello = hello_of("a.test");
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = std::net::TcpStream::connect(address) else { continue };
                    let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(2)));
                    let mut answer = [0; 1024];
                    if stream.write_all(&hello).is_ok() && stream.read(&mut answer).is_ok_and(|count| count > 0) {
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = (0..threads).map(one).collect();
        Handshakes { stop, made, threads }
    }

    /// How many the gateway has computed.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
