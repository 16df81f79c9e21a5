//! Clients that send as much as they can of what costs work.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

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

/// Sends frames of a kind on one connection until it is told to go, or ends; how many that took. `None`: more than `most`. `pause`: between two
/// looks; a sender without one is ahead of the gateway by whatever sockets hold.
pub fn until_ended(gateway: &Gateway, kind: &str, most: u32, pause: Option<Duration>) -> Option<u32> {
    let mut raw = Raw::connect(gateway, settings(kind));
    for number in 0..most {
        if !send(&mut raw, kind, number) {
            return Some(number + 1);
        }
        if number % BATCH == BATCH - 1 {
            pause.into_iter().for_each(std::thread::park_timeout);
            if is_told_to_go(&mut raw) {
                return Some(number + 1);
            }
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

/// Attackers, each on a thread of its own, until this is dropped.
pub struct Attackers {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Attackers {
    /// So many, each of which does `once` again and again; it is told when to stop, and says whether that counts.
    fn start(attackers: usize, once: impl Fn(usize, &AtomicBool) -> bool + Send + Sync + 'static) -> Attackers {
        let (stop, count): (Arc<AtomicBool>, Arc<AtomicUsize>) = (Arc::default(), Arc::default());
        let once = Arc::new(once);
        let attack = |number: usize| {
            let (stop, count, once) = (stop.clone(), count.clone(), once.clone());
            std::thread::spawn(move || {
                low_priority();
                while !stop.load(Ordering::Relaxed) {
                    count.fetch_add(usize::from(once(number, &stop)), Ordering::Relaxed);
                }
            })
        };
        let threads = (0..attackers).map(attack).collect();
        Attackers { stop, count, threads }
    }

    /// Connections that flood, of all kinds in turn; each that is ended is made anew, and counts.
    pub fn flooding(gateway: &Gateway, connections: usize) -> Attackers {
        let address = gateway.https;
        Attackers::start(connections, move |number, stop| {
            let kind = KINDS[number % KINDS.len()];
            let Some(mut raw) = Raw::try_connect(address, settings(kind)) else { return false };
            let mut frame = 0;
            while !stop.load(Ordering::Relaxed) && send(&mut raw, kind, frame) {
                frame += 1;
            }
            true
        })
    }

    /// Full handshakes, one after another; those count that the gateway has computed. A client that computes nothing itself sends what was
    /// recorded once.
    pub fn shaking_hands(gateway: &Gateway, attackers: usize) -> Attackers {
        let (address, hello) = (gateway.https, hello_of("a.test"));
        Attackers::start(attackers, move |_, _| {
            let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            stream.write_all(&hello).is_ok() && stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
        })
    }

    /// What they have done so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
