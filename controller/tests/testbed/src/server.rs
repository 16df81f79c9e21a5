//! The API server's processes, files and users.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use serde_json::json;

use crate::{Authority, Process};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An API server with its etcd, on ports that the kernel chose and that stay over restarts.
pub struct ApiServer {
    directory: PathBuf,
    authority: Authority,
    port: u16,
    etcd_port: u16,
    processes: Vec<Process>,
    /// Flags of kube-apiserver besides the usual ones, from its next start on.
    pub extra_flags: Vec<String>,
}

/// A TCP port of loopback that is free now, and that nobody is given by chance: below those that the kernel hands out.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 5_000) as u16;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl ApiServer {
    /// Starts one that keeps everything in a directory, and waits until it is ready.
    pub fn start(directory: &Path) -> ApiServer {
        std::fs::create_dir_all(directory).unwrap();
        // Paths in a kubeconfig are relative to its own directory.
        let directory = &std::fs::canonicalize(directory).unwrap();
        let mut server = ApiServer {
            directory: directory.to_owned(),
            authority: Authority::new(),
            port: free_port(),
            etcd_port: free_port(),
            processes: Vec::new(),
            extra_flags: Vec::new(),
        };
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("ca.pem", &server.authority.pem());
        let (certificate, key) = server.authority.server();
        write("server.pem", &certificate);
        write("server.key", &key);
        let (certificate, key) = server.authority.user("admin", &["system:masters"], 365);
        write("admin.pem", &certificate);
        write("admin.key", &key);
        Authority::write_token_key(&directory.join("tokens.key"));
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        });
        write("audit.json", &policy.to_string());
        let credentials =
            json!({"client-certificate": directory.join("admin.pem"), "client-key": directory.join("admin.key")});
        server.write_kubeconfig("admin", &credentials);
        server.resume();
        server
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A kubeconfig of the cluster's administrator.
    pub fn admin(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// Makes a kubeconfig for a user with a client certificate that is valid for so many days; negative: it has expired.
    pub fn user(&self, user: &str, groups: &[&str], days: i64) -> PathBuf {
        let (certificate, key) = self.authority.user(user, groups, days);
        let encode = |text: String| openssl::base64::encode_block(text.as_bytes());
        let credentials = json!({"client-certificate-data": encode(certificate), "client-key-data": encode(key)});
        self.write_kubeconfig(&user.replace(':', "-"), &credentials)
    }

    /// Makes a kubeconfig for whoever a token belongs to.
    pub fn token(&self, name: &str, token: &str) -> PathBuf {
        self.write_kubeconfig(name, &json!({"token": token}))
    }

    fn write_kubeconfig(&self, name: &str, credentials: &serde_json::Value) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority": self.directory.join("ca.pem")}}],
            "users": [{"name": name, "user": credentials}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        });
        let path = self.directory.join(format!("{name}.kubeconfig"));
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The audit log: one JSON object a line, with verb, user and resource of each request.
    pub fn audit_log(&self) -> String {
        std::fs::read_to_string(self.directory.join("audit.log")).unwrap_or_default()
    }

    /// Whether its processes run.
    pub fn is_running(&mut self) -> bool {
        self.processes.iter_mut().all(|process| process.ended().is_none())
    }

    /// Ends its processes. What was stored stays.
    pub fn stop(&mut self) {
        // kube-apiserver before etcd.
        while let Some(mut process) = self.processes.pop() {
            process.end();
        }
    }

    /// Starts it again with what was stored, and waits until it is ready.
    pub fn resume(&mut self) {
        self.launch();
        let started = Instant::now();
        while !self.is_ready() {
            let ended = self.processes.iter_mut().any(|process| process.ended().is_some());
            if ended || started.elapsed() > PATIENCE {
                panic!("the API server does not start:\n{}", self.processes.last().unwrap().said());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Starts it again and does not wait: requests are refused at first, and then answered with 403 until its rules are loaded.
    pub fn launch(&mut self) {
        let log = self.directory.join("apiserver.log");
        let etcd_directory = self.directory.join("etcd");
        if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
            let mut etcd = Command::new(assets.join("etcd"));
            let clients = format!("http://127.0.0.1:{}", self.etcd_port);
            etcd.arg("--data-dir").arg(&etcd_directory).args(["--unsafe-no-fsync", "--log-level=error"]);
            etcd.args([format!("--listen-client-urls={clients}"), format!("--advertise-client-urls={clients}")]);
            etcd.arg("--listen-peer-urls=http://127.0.0.1:0");
            self.processes.push(Process::start(&mut etcd, &self.directory.join("etcd.log")));
            let mut server = Command::new(assets.join("kube-apiserver"));
            server.args(self.flags()).arg(format!("--etcd-servers={clients}"));
            self.processes.push(Process::start(&mut server, &log));
            return;
        }
        let binary = target().join("apiserver/kube-apiserver");
        assert!(
            binary.exists(),
            "{} is missing: `.ci/apiserver` builds it (or set KUBEBUILDER_ASSETS)",
            binary.display()
        );
        let mut server = Command::new(binary);
        server.arg("--etcd-dir").arg(etcd_directory).arg("--etcd-port").arg(self.etcd_port.to_string());
        server.arg("--").args(self.flags());
        self.processes.push(Process::start(&mut server, &log));
    }

    fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut flags = vec![
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            // Without a default route it cannot be guessed, and loopback is refused.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", file("tokens.key")),
            format!("--service-account-key-file={}", file("tokens.key")),
            format!("--client-ca-file={}", file("ca.pem")),
            format!("--tls-cert-file={}", file("server.pem")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--audit-policy-file={}", file("audit.json")),
            format!("--audit-log-path={}", file("audit.log")),
        ];
        flags.extend(self.extra_flags.iter().cloned());
        flags
    }

    fn is_ready(&self) -> bool {
        let ask = || -> Option<String> {
            let file = |name: &str| self.directory.join(name);
            let mut connector = SslConnector::builder(SslMethod::tls_client()).ok()?;
            connector.set_ca_file(file("ca.pem")).ok()?;
            connector.set_certificate_chain_file(file("admin.pem")).ok()?;
            connector.set_private_key_file(file("admin.key"), SslFiletype::PEM).ok()?;
            let tcp = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            tcp.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let mut tls = connector.build().connect("localhost", tcp).ok()?;
            tls.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            let _ = tls.read_to_string(&mut answer);
            Some(answer)
        };
        ask().is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Has etcd forget all past revisions, so that watches of old ones answer 410.
    pub fn compact(&self) {
        let range = self.etcd("/v3/kv/range", &json!({"key": "AA=="}));
        let revision = range["header"]["revision"].clone();
        self.etcd("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    }

    /// A call of etcd's JSON gateway.
    fn etcd(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let body = body.to_string();
        let mut tcp = TcpStream::connect(("127.0.0.1", self.etcd_port)).unwrap();
        write!(tcp, "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

/// The directory that cargo builds into.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target"),
    }
}
