//! From the edit of a manifest file to the first request that is answered by it, in a real gateway with 20,000 hosts, each in
//! a file of its own; and from the gateway's start until it is ready.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluicegate_benches::{SIZES, host, ingress};

const EDITS: usize = 50;

/// Longest time that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn measure() {
    let gateway = std::env::current_exe().unwrap().with_file_name("sluicegate");
    assert!(gateway.exists(), "build it first: cargo build --release --package sluicegate");
    println!(
        "| hosts, a file each | start until ready, ms | edit until answered, ms: median (max) | of it in the applier, ms | resident, MiB |"
    );
    println!("|---|---|---|---|---|");
    for size in SIZES {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..size {
            write(directory.path(), number, "/api");
        }
        let port = free_port();
        let settings = tempfile::NamedTempFile::new().unwrap();
        fs::write(settings.path(), "debugHeader: true\naccessLog: {enabled: false}\n").unwrap();
        let started = Instant::now();
        let mut child = Command::new(&gateway)
            .args([
                "run",
                "--http",
                &port.to_string(),
                "--https",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--manifests",
            ])
            .arg(directory.path())
            .arg("--config")
            .arg(settings.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = follow(child.stderr.take().unwrap());
        wait("the gateway", || (status(port, &host(0), "/") == Some(503)).then_some(()));
        let ready = started.elapsed();
        log.lock().unwrap().clear();
        let mut waited = Vec::new();
        for turn in 0..EDITS {
            let number = turn * 7_919 % size;
            // The only backend is missing, so a route answers 503 and no route 404.
            write(directory.path(), number, &format!("/edit{turn}"));
            let edited = Instant::now();
            wait("the edit", || {
                (reason(port, &host(number), &format!("/edit{turn}")).contains(&format!("path=/edit{turn};")))
                    .then_some(())
            });
            waited.push(edited.elapsed());
        }
        let mut applier = log.lock().unwrap().clone();
        let memory = super::resident(&child.id().to_string()) as f64 / (1024.0 * 1024.0);
        let _ = child.kill();
        let _ = child.wait();
        waited.sort();
        applier.sort_by(f64::total_cmp);
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        println!(
            "| {size} | {:.0} | {:.1} ({:.1}) | {:.2} | {memory:.0} |",
            milliseconds(ready),
            milliseconds(waited[EDITS / 2]),
            milliseconds(waited[EDITS - 1]),
            applier.get(applier.len() / 2).copied().unwrap_or_default(),
        );
    }
}

fn write(directory: &Path, number: usize, path: &str) {
    let temporary = directory.join(".new");
    fs::write(&temporary, ingress(number, path).to_string()).unwrap();
    fs::rename(&temporary, directory.join(format!("i{number}.json"))).unwrap();
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Collects the times that the applier logs for each change, in milliseconds.
fn follow(from: impl Read + Send + 'static) -> std::sync::Arc<std::sync::Mutex<Vec<f64>>> {
    let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let shared = times.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let after = line.split_once("us=").filter(|_| line.contains("configuration applied"));
            let digits = after.map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
            if let Some(time) = digits.and_then(|digits| digits.parse::<f64>().ok()) {
                shared.lock().unwrap().push(time / 1e3);
            }
        }
    });
    times
}

fn wait(what: &str, mut ask: impl FnMut() -> Option<()>) {
    let deadline = Instant::now() + PATIENCE;
    while ask().is_none() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::park_timeout(Duration::from_micros(200));
    }
}

fn exchange(address: SocketAddr, host: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn status(address: SocketAddr, host: &str, path: &str) -> Option<u16> {
    exchange(address, host, path)?.split(' ').nth(1)?.parse().ok()
}

fn reason(address: SocketAddr, host: &str, path: &str) -> String {
    exchange(address, host, path).unwrap_or_default()
}
