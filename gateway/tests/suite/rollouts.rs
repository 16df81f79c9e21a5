//! Rolling updates whose old endpoints die without warning, under load: no request fails.
//!
//! An endpoint dies between two requests, or with requests that it has taken and not begun to answer. Only then are the
//! manifests told. `SOAK=1` sends a million requests instead of 20,000 (`make soak`).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::backends::everything_to;
use crate::client;
use crate::harness::{Gateway, Start};

const ENDPOINTS: usize = 10;
const ROLLOUTS: usize = 10;
const CLIENTS: usize = 8;

/// An endpoint that can die.
struct Endpoint {
    address: SocketAddr,
    life: Arc<Life>,
}

#[derive(Default)]
struct Life {
    /// Read while an answer is written, so that nobody dies in the middle of one.
    dead: RwLock<bool>,
    connections: Mutex<HashMap<usize, TcpStream>>,
    killed_requests: AtomicUsize,
}

impl Endpoint {
    fn start() -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let life = Arc::new(Life::default());
        let own = life.clone();
        std::thread::spawn(move || {
            for (id, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                if *own.dead.read().unwrap() {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                own.connections.lock().unwrap().insert(id, stream.try_clone().unwrap());
                let life = own.clone();
                std::thread::spawn(move || {
                    let _ = serve(stream, address, &life);
                    life.connections.lock().unwrap().remove(&id);
                });
            }
        });
        Endpoint { address, life }
    }

    /// Dies: what was taken is not answered, connections end, new ones are refused.
    fn die(&self) {
        *self.life.dead.write().unwrap() = true;
        // Wakes the listener, which then is closed.
        drop(TcpStream::connect(self.address));
        for (id, stream) in self.life.connections.lock().unwrap().iter() {
            if id % 2 == 0 {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Answers requests with the endpoint's name and the sum of the body's bytes.
fn serve(mut stream: TcpStream, name: SocketAddr, life: &Life) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    let mut served = 0_u64;
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = bytes.split_off(end);
        while body.len() < length {
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                count => body.extend_from_slice(&chunk[..count]),
            }
        }
        bytes = body.split_off(length);
        served += 1;
        // Now and then an answer takes its time, so that some are awaited when the endpoint dies.
        if served.is_multiple_of(16) {
            std::thread::park_timeout(Duration::from_millis(3));
        }
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        let answer =
            format!("HTTP/1.1 200 OK\r\nx-echo: {name}\r\nx-sum: {length}-{sum}\r\nContent-Length: 2\r\n\r\nok");
        let dead = life.dead.read().unwrap();
        if *dead {
            life.killed_requests.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        stream.write_all(answer.as_bytes())?;
    }
}

/// One client: GET, and PUT with bodies of up to 64 KiB, on connections that are kept open. Returns what went wrong.
fn client(address: SocketAddr, seed: u64, left: &AtomicUsize, done: &AtomicUsize) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut noise = vec![0; 65_536];
    random.fill_bytes(&mut noise);
    let mut connection = client::connect(address);
    let mut wrong = Vec::new();
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        let (method, length) = match random.random_range(0..4) {
            0 => ("PUT", *[1, 1_000, 16_384, 65_535, 65_536].get(random.random_range(0..5)).unwrap()),
            _ => ("GET", 0),
        };
        let body = &noise[..length];
        connection.send(format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"));
        connection.send(body);
        let answer = connection.read(false);
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        let whole = format!("{length}-{sum}");
        if answer.status != 200 || answer.header("x-sum") != Some(&whole) {
            wrong.push(format!("{method} {length}: {} {:?}", answer.status, answer.header("sluicegate-reason")));
        }
        // After so many requests a connection ends, and says so.
        if answer.status != 200 || answer.header("connection") == Some("close") {
            connection = client::connect(address);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    wrong
}

/// Replaces one endpoint: the new one is announced, the old one dies, and then is taken out.
fn replace(gateway: &Gateway, endpoints: &mut Vec<Endpoint>, index: usize) -> usize {
    endpoints.push(Endpoint::start());
    announce(gateway, endpoints);
    let old = endpoints.swap_remove(index);
    old.die();
    announce(gateway, endpoints);
    old.life.killed_requests.load(Ordering::Relaxed)
}

/// Writes the manifests and waits until they are in force.
fn announce(gateway: &Gateway, endpoints: &[Endpoint]) {
    let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    gateway.apply(&everything_to(&addresses));
}

#[test]
fn endpoints_that_die_without_warning_cost_no_request() {
    let total = if std::env::var_os("SOAK").is_some() { 1_000_000 } else { 20_000 };
    let mut endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(|_| Endpoint::start()).collect();
    let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let gateway = Start::with(&everything_to(&addresses)).ready();
    let (left, done) = (AtomicUsize::new(total), AtomicUsize::new(0));
    let (wrong, awaited) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u64)
            .map(|seed| {
                scope.spawn({
                    let (left, done, http) = (&left, &done, gateway.http);
                    move || client(http, seed, left, done)
                })
            })
            .collect();
        // The replacements are spread over the requests.
        let mut awaited = 0;
        for step in 0..ROLLOUTS * ENDPOINTS {
            let due = total * step / (ROLLOUTS * ENDPOINTS);
            while done.load(Ordering::Relaxed) < due {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            awaited += replace(&gateway, &mut endpoints, step % ENDPOINTS);
        }
        let wrong: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (wrong, awaited)
    });
    let retries = gateway.metric("sluicegate_upstream_retries_total", &[]);
    println!("{total} requests, {} endpoints died, {retries} retries", ROLLOUTS * ENDPOINTS);
    assert!(wrong.is_empty(), "{} of {total} failed: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    assert!(retries > 0.0, "no death was noticed by a request; {awaited} were awaited");
}
