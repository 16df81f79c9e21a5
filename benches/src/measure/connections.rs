//! What a connection of a client costs a gateway in memory: idle, slow, and with the most that HTTP/2 allows.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};

/// Connections of each kind.
const COUNT: usize = 2_000;

/// Connections that pin as much as they can.
const PINNING: usize = 20;

/// Longest time that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

pub fn measure() {
    sluicegate_process::resources::raise_open_files();
    println!("| {COUNT} connections, one worker | KiB each |");
    println!("|---|---|");
    let row = |what: &str, count: usize, open: &dyn Fn(&Gateway) -> Box<dyn std::any::Any>| {
        let gateway = Gateway::start();
        // The allocator and the engine have what they need from the first ones on.
        let warm: Vec<_> = (0..count / 10).map(|_| open(&gateway)).collect();
        let before = gateway.resident();
        let connections: Vec<_> = (0..count).map(|_| open(&gateway)).collect();
        gateway.waits_for((connections.len() + warm.len()) as f64);
        let each = (gateway.resident() - before) / 1024.0 / count as f64;
        println!("| {what} | {each:.1} |");
    };
    row("HTTP, nothing sent yet", COUNT, &|gateway| Box::new(TcpStream::connect(gateway.http).unwrap()));
    row("HTTP, idle after a request", COUNT, &|gateway| {
        let mut stream = TcpStream::connect(gateway.http).unwrap();
        ask(&mut stream);
        Box::new(stream)
    });
    row("HTTP, half of a head sent", COUNT, &|gateway| {
        let mut stream = TcpStream::connect(gateway.http).unwrap();
        stream.write_all(&REQUEST[..20]).unwrap();
        Box::new(stream)
    });
    row("HTTPS, idle after a request", COUNT, &|gateway| {
        let mut stream = tls(gateway.https, b"\x08http/1.1");
        ask(&mut stream);
        Box::new(stream)
    });
    row("HTTPS with HTTP/2, idle", COUNT, &|gateway| {
        let mut stream = tls(gateway.https, b"\x02h2");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").unwrap();
        let mut settings = [0; 9];
        stream.read_exact(&mut settings).unwrap();
        Box::new(stream)
    });
    row(
        &format!("HTTP/2, 100 streams with heads of 30 KiB and no window ({PINNING} connections)"),
        PINNING,
        &|gateway| Box::new(pin(gateway.https)),
    );
}

fn ask(stream: &mut (impl Read + Write)) {
    stream.write_all(REQUEST).unwrap();
    let mut answer = [0; 4096];
    assert!(
        stream.read(&mut answer).unwrap() > 0 && answer.starts_with(b"HTTP/1.1 404"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

fn tls(address: SocketAddr, alpn: &[u8]) -> SslStream<TcpStream> {
    let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_alpn_protos(alpn).unwrap();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    builder.build().configure().unwrap().verify_hostname(false).connect("a.test", tcp).unwrap()
}

/// As many requests as HTTP/2 allows, each as large as it may be, and no window for an answer.
fn pin(address: SocketAddr) -> SslStream<TcpStream> {
    let mut stream = tls(address, b"\x02h2");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        .unwrap();
    for number in 0..100_u32 {
        let block = block();
        for (index, part) in block.chunks(16 * 1024).enumerate() {
            let is_last = (index + 1) * 16 * 1024 >= block.len();
            let kind = if index == 0 { 1 } else { 9 };
            let flags = u8::from(index == 0) | if is_last { 4 } else { 0 };
            let length = u32::try_from(part.len()).unwrap().to_be_bytes();
            let head = [&length[1..], &[kind, flags], &(2 * number + 1).to_be_bytes()].concat();
            stream.write_all(&[&head, part].concat()).unwrap();
        }
    }
    stream
}

/// The fields of a large request, as HPACK writes what it knows nothing of (RFC 7541, 6.2.2).
fn block() -> Vec<u8> {
    let literal = |name: &str, value: &[u8]| {
        let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
        bytes.extend_from_slice(name.as_bytes());
        match value.len() {
            length @ 0..127 => bytes.push(length as u8),
            length => {
                let rest = length - 127;
                bytes.extend_from_slice(&[127, (rest % 128 + 128) as u8, (rest / 128) as u8]);
            }
        }
        bytes.extend_from_slice(value);
        bytes
    };
    let large = vec![b'x'; 15_000];
    [
        literal(":method", b"GET"),
        literal(":scheme", b"https"),
        literal(":authority", b"pin.test"),
        literal(":path", b"/"),
        literal("x-a", &large),
        literal("x-b", &large),
    ]
    .concat()
}

/// A gateway with a route to a backend that never answers.
struct Gateway {
    child: Child,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Gateway {
    fn start() -> Gateway {
        let program = std::env::current_exe().unwrap().with_file_name("sluicegate");
        assert!(program.exists(), "build it first: cargo build --release --package sluicegate");
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = silent.local_addr().unwrap();
        std::thread::spawn(move || {
            let held: Vec<_> = silent.incoming().map_while(Result::ok).collect();
            drop(held);
        });
        let directory = tempfile::tempdir().unwrap();
        let manifests = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{sluicegate.dev/endpoints: '{endpoint}'}}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\n\
             spec: {{rules: [{{host: pin.test, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}\n"
        );
        fs::write(directory.path().join("web.yaml"), manifests).unwrap();
        let config = directory.path().join("config");
        fs::write(&config, "accessLog: {enabled: false}\nworkers: 1\ntimeouts: {firstByte: 600, head: 600, keepAlive: 600}\nlog: {format: json}\n").unwrap();
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(&config).arg("--manifests").arg(directory.path().join("web.yaml"));
        for listener in ["--http", "--https", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.env_remove("SSL_CERT_FILE");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut addresses = std::collections::BTreeMap::new();
        while addresses.len() < 3 {
            let line: serde_json::Value =
                serde_json::from_str(&lines.next().expect("it says where it listens")).unwrap();
            let fields = &line["fields"];
            if let (Some(purpose), Some(address)) = (fields["purpose"].as_str(), fields["address"].as_str()) {
                addresses.insert(purpose.to_owned(), address.parse().unwrap());
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Gateway {
            child,
            http: addresses["http"],
            https: addresses["https"],
            admin: addresses["admin"],
            _directory: directory,
        }
    }

    fn resident(&self) -> f64 {
        super::resident(&self.child.id().to_string()) as f64
    }

    /// Waits until so many connections are open; and until what they sent was read.
    fn waits_for(&self, connections: f64) {
        let started = Instant::now();
        loop {
            let page = crate::client::get(self.admin, "admin", "/metrics").text();
            let open: f64 = page
                .lines()
                .filter(|line| line.starts_with("sluicegate_connections{"))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum();
            if open >= connections {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{open} of {connections} connections");
        }
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
