//! From the API to a request: a real API server, the built controller and gateway. Needs root (a network namespace) and
//! `.ci/apiserver`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::Method;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use sluicegate_testbed::{ApiServer, Process, free_port};

use crate::api::{Api, collection, path};
use crate::client;
use crate::harness::PATIENCE;
use crate::network::{self, Namespace};
use crate::resident;

/// How often each thing is measured.
const ROUNDS: usize = 200;

/// Other Ingresses in the cluster, each with a Service and an EndpointSlice of two endpoints.
const OTHERS: [usize; 4] = [0, 1_000, 5_000, 10_000];

const NAMESPACE: &str = "default";

const POD_PORT: u16 = 8080;

pub fn measure() {
    let Some(_namespace) = Namespace::enter() else {
        println!("cluster: needs root and `ip` for a network namespace; skipped");
        return;
    };
    let mut bench = Bench::new();
    println!(
        "| others | Ingress created → answered, ms: p50 / p99 | of it until a bare watch has it | endpoint added → used | removed → unused | controller restarted → all published, s | gateway started → all served, s | from its state file, controller and API server away, s | controller, MiB | gateway, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for others in OTHERS {
        bench.row(others);
    }
}

/// The cluster, which grows from row to row.
struct Bench {
    directory: tempfile::TempDir,
    server: ApiServer,
    api: Api,
    pods: [Pod; 2],
    written: usize,
    rounds: usize,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let server = ApiServer::start(&directory.path().join("apiserver"));
        let api = Api::of(&server.admin());
        let pods = [pod("one", directory.path()), pod("two", directory.path())];
        let class = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "bench"},
            "spec": {"controller": "sluicegate.dev/ingress-controller"},
        });
        post(&api, &class);
        post(&api, &service("web"));
        post(&api, &slice("web", &[pods[0].address]));
        post(&api, &ingress("steady", "steady.bench.test", "web"));
        Bench { directory, server, api, pods, written: 0, rounds: 0 }
    }

    fn grow(&mut self, others: usize) {
        for number in self.written..others {
            post(&self.api, &service(&format!("s{number}")));
            post(&self.api, &slice(&format!("s{number}"), &[[10, 88, 200, 1].into(), [10, 88, 200, 2].into()]));
            post(&self.api, &ingress(&format!("i{number}"), &format!("h{number}.bench.test"), &format!("s{number}")));
        }
        self.written = self.written.max(others);
    }

    fn row(&mut self, others: usize) {
        self.grow(others);
        let directory = self.directory.path().to_owned();
        let (first, publish, admin) = controller(&self.server, &directory, None);
        // What the gateway has to have: the Ingresses so far, each with a host of its own.
        let hosts = others + 1 + self.rounds;
        complete(admin, hosts);
        enroll(&self.server, &directory);
        let state = directory.join(format!("state-{others}"));
        std::fs::create_dir(&state).unwrap();
        let started = Instant::now();
        let (gateway, http, gateway_admin) = gateway(publish, &directory, &state);
        complete(gateway_admin, hosts);
        let gateway_start = started.elapsed();

        // Killed, and another one started in its place, while requests go on and the gateway is looked at.
        drop(first);
        let watched = Flap::watch(http, gateway_admin, hosts);
        let started = Instant::now();
        let (controller, _, admin) = controller(&self.server, &directory, Some(publish));
        complete(admin, hosts);
        let controller_start = started.elapsed();
        connected(gateway_admin);
        watched.end();

        let (mut from_call, mut from_watch) = (Vec::new(), Vec::new());
        let events = bare_watch(&self.server);
        for _ in 0..ROUNDS {
            self.rounds += 1;
            let (name, host) = (format!("n{}", self.rounds), format!("n{}.bench.test", self.rounds));
            let called = Instant::now();
            post(&self.api, &ingress(&name, &host, "web"));
            answered(http, &host, |pod| pod == Some("one"));
            from_call.push(called.elapsed());
            let seen = events.iter().find(|(seen, _)| *seen == name).unwrap().1;
            from_watch.push(seen.saturating_duration_since(called));
        }
        let (mut added, mut removed) = self.endpoints(http);
        // Of one that has just come to it and of which `/table` was not asked: as JSON it takes memory of its own.
        let fresh_state = directory.join(format!("fresh-{others}"));
        std::fs::create_dir(&fresh_state).unwrap();
        let (fresh, fresh_http, fresh_admin) = self::gateway(publish, &directory, &fresh_state);
        same_version(fresh_admin, gateway_admin);
        assert_eq!(client::connect(fresh_http).request("GET", "steady.bench.test", "/", &[]).status, 200);
        let memory = |process: &Process| resident(&process.id().to_string()) as f64 / 1024.0 / 1024.0;
        let (controller_memory, gateway_memory) = (memory(&controller), memory(&fresh));
        drop(fresh);
        // Its state file is written a moment after the last change.
        std::thread::park_timeout(Duration::from_secs(3));
        drop((controller, gateway));
        let alone = alone(&directory, &state, hosts + ROUNDS);
        println!(
            "| {others} | {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {controller_memory:.0} | {gateway_memory:.0} |",
            both(&mut from_call),
            both(&mut from_watch),
            both(&mut added),
            both(&mut removed),
            controller_start.as_secs_f64(),
            gateway_start.as_secs_f64(),
            alone.as_secs_f64(),
        );
    }

    fn endpoints(&self, http: SocketAddr) -> (Vec<Duration>, Vec<Duration>) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let target = path("EndpointSlice", NAMESPACE, "web-1");
        let pods = &self.pods;
        for _ in 0..ROUNDS {
            let endpoints = |addresses: &[Ipv4Addr]| json!({"endpoints": addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>()});
            self.api.merge(&target, &endpoints(&[pods[0].address, pods[1].address]));
            let written = Instant::now();
            answered(http, "steady.bench.test", |pod| pod == Some("two"));
            added.push(written.elapsed());
            self.api.merge(&target, &endpoints(&[pods[1].address]));
            let written = Instant::now();
            // Round robin over two: two answers in a row by one pod are the sign that the other is out.
            let mut in_a_row = 0;
            answered(http, "steady.bench.test", |pod| {
                in_a_row = if pod == Some("two") { in_a_row + 1 } else { 0 };
                in_a_row == 2
            });
            removed.push(written.elapsed());
            self.api.merge(&target, &endpoints(&[pods[0].address]));
            answered(http, "steady.bench.test", |pod| pod == Some("one"));
        }
        (added, removed)
    }
}

/// Events of Ingresses as a plain watch has them: what no controller can be faster than.
fn bare_watch(server: &ApiServer) -> Receiver<(String, Instant)> {
    let (sender, receiver) = channel();
    let (ready, is_ready) = channel();
    let kubeconfig = server.admin();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).unwrap();
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            let ingresses: kube::Api<Ingress> = kube::Api::all(Client::try_from(config).unwrap());
            let version =
                ingresses.list(&ListParams::default().limit(1)).await.unwrap().metadata.resource_version.unwrap();
            let mut events = Box::pin(ingresses.watch(&WatchParams::default(), &version).await.unwrap());
            ready.send(()).unwrap();
            while let Some(event) = events.next().await {
                if let Ok(WatchEvent::Added(ingress)) = event
                    && sender.send((ingress.metadata.name.unwrap_or_default(), Instant::now())).is_err()
                {
                    return;
                }
            }
        });
    });
    is_ready.recv().unwrap();
    receiver
}

/// Hosts in a table that an admin page shows.
fn hosts_of(admin: SocketAddr) -> usize {
    client::get(admin, "admin", "/table").json()["hosts"].as_object().map_or(0, serde_json::Map::len)
}

/// Waits until a table has so many hosts.
fn complete(admin: SocketAddr, hosts: usize) {
    let started = Instant::now();
    while hosts_of(admin) < hosts {
        assert!(started.elapsed() < PATIENCE, "{admin} has {} of {hosts} hosts", hosts_of(admin));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The line of a gateway's metrics that says what it has in force.
fn version(admin: SocketAddr) -> Option<String> {
    let page = client::get(admin, "admin", "/metrics").text();
    page.lines().find(|line| line.starts_with("sluicegate_config_version ")).map(str::to_owned)
}

/// Waits until a gateway has in force what another one has.
fn same_version(admin: SocketAddr, other: SocketAddr) {
    let started = Instant::now();
    while version(admin).is_none() || version(admin) != version(other) {
        assert!(started.elapsed() < PATIENCE, "{admin}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until the gateway follows a controller.
fn connected(admin: SocketAddr) {
    let started = Instant::now();
    while !client::get(admin, "admin", "/metrics").text().contains("\nsluicegate_controller_connected 1") {
        assert!(started.elapsed() < PATIENCE, "{admin}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Looks all the time whether a route is served and all hosts are there.
struct Flap {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Flap {
    fn watch(http: SocketAddr, admin: SocketAddr, hosts: usize) -> Flap {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            let mut connection = client::connect(http);
            let mut requests = 0;
            while !seen.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    assert_eq!(connection.request("GET", "steady.bench.test", "/", &[]).status, 200);
                    requests += 1;
                    std::thread::park_timeout(Duration::from_millis(2));
                }
                assert_eq!(hosts_of(admin), hosts, "a route was lost");
            }
            requests
        });
        Flap { over, thread }
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() > 0);
    }
}

/// Time until a gateway serves from its state file, with nobody to follow.
fn alone(directory: &Path, state: &Path, hosts: usize) -> Duration {
    let started = Instant::now();
    let (_gateway, http, admin) = gateway(local(), directory, state);
    let answer = client::connect(http).request("GET", "steady.bench.test", "/", &[]);
    assert_eq!(answer.status, 200);
    let elapsed = started.elapsed();
    assert_eq!(hosts_of(admin), hosts);
    elapsed
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Median and 99th percentile.
fn both(times: &mut [Duration]) -> String {
    times.sort();
    format!("{:.1} / {:.1}", ms(times[times.len() / 2]), ms(times[times.len() * 99 / 100]))
}

/// Asks until an answer fits; the name of the pod that answered, if one did, is given to `fits`.
fn answered(http: SocketAddr, host: &str, mut fits: impl FnMut(Option<&str>) -> bool) {
    let started = Instant::now();
    let mut connection = client::connect(http);
    while !fits(connection.request("GET", host, "/", &[]).header("x-echo")) {
        assert!(started.elapsed() < PATIENCE, "{host}");
    }
}

struct Pod {
    address: Ipv4Addr,
    _process: Process,
}

/// Where the programs are: beside this one.
fn binary(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

fn pod(name: &str, directory: &Path) -> Pod {
    let address = network::address();
    network::assign(address);
    let listen = SocketAddr::from((address, POD_PORT));
    let mut command = Command::new(binary("sluicegate"));
    command.arg("echo").arg("--listen").arg(listen.to_string()).arg("--name").arg(name);
    let process = Process::start(&mut command, &directory.join(name));
    wait(listen);
    Pod { address, _process: process }
}

/// Waits until somebody listens.
fn wait(address: SocketAddr) {
    let started = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < PATIENCE, "{address}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Waits until a program is ready.
fn ready(admin: SocketAddr) {
    wait(admin);
    let started = Instant::now();
    while client::get(admin, "admin", "/readyz").status != 200 {
        assert!(started.elapsed() < PATIENCE, "{admin}");
    }
}

fn local() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// A controller, at once; at an address that an earlier one had.
fn controller(server: &ApiServer, directory: &Path, at: Option<SocketAddr>) -> (Process, SocketAddr, SocketAddr) {
    let (publish, admin) = (at.unwrap_or_else(local), local());
    let mut command = Command::new(binary("sluicegate-controller"));
    command.arg("run").arg("--kubeconfig").arg(server.admin()).args(["--publish-address", "192.0.2.1"]);
    command.args(["--authority", AUTHORITY]);
    command.arg("--publish").arg(publish.to_string()).arg("--admin").arg(admin.to_string());
    let process = Process::start(&mut command, &directory.join("controller.log"));
    ready(admin);
    (process, publish, admin)
}

/// Secret and ConfigMap of the controller's authority.
const AUTHORITY: &str = "default/sluicegate-ca";

/// Enrolls the gateway, which is how one outside of the cluster comes to its certificate.
fn enroll(server: &ApiServer, directory: &Path) {
    let mut command = Command::new(binary("sluicegate-controller"));
    command.args(["enroll", "bench", "--authority", AUTHORITY]).arg("--out").arg(directory);
    let output = command.arg("--kubeconfig").arg(server.admin()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn gateway(publish: SocketAddr, directory: &Path, state: &Path) -> (Process, SocketAddr, SocketAddr) {
    let (http, https, admin) = (local(), local(), local());
    let mut command = Command::new(binary("sluicegate"));
    command.arg("run").arg("--controller").arg(format!("https://{publish}")).args(["--workers", "1"]);
    // Services have none of it: whoever runs this may.
    command.env_remove("SSL_CERT_FILE");
    command.arg("--state-dir").arg(state);
    for (flag, file) in [("--controller-ca", "ca.crt"), ("--client-cert", "bench.crt"), ("--client-key", "bench.key")] {
        command.arg(flag).arg(directory.join(file));
    }
    command
        .arg("--http")
        .arg(http.to_string())
        .arg("--https")
        .arg(https.to_string())
        .arg("--admin")
        .arg(admin.to_string());
    let config = directory.join("gateway.yaml");
    std::fs::write(&config, "accessLog: {enabled: false}\n").unwrap();
    command.arg("--config").arg(config);
    let process = Process::start(&mut command, &directory.join("gateway.log"));
    ready(admin);
    (process, http, admin)
}

fn post(api: &Api, object: &Value) {
    let path = collection(object["kind"].as_str().unwrap(), NAMESPACE);
    let answer = api.call(Method::POST, &path, "application/json", &object.to_string());
    assert_eq!(answer.status, 201, "{}", answer.body);
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(service: &str, addresses: &[Ipv4Addr]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": POD_PORT}],
        "endpoints": addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>(),
    })
}

fn ingress(name: &str, host: &str, service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"ingressClassName": "bench", "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]},
    })
}
