//! From the API to a request: a real API server, the built controller and gateway. Needs root (a network namespace) and
//! `.ci/apiserver`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
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
const OTHERS: [usize; 2] = [0, 2_000];

const NAMESPACE: &str = "default";

const POD_PORT: u16 = 8080;

pub fn measure() {
    let Some(_namespace) = Namespace::enter() else {
        println!("cluster: needs root and `ip` for a network namespace; skipped");
        return;
    };
    println!(
        "| others | Ingress created → answered, ms: p50 / p99 | from the API's answer | endpoint added → used | removed → unused | controller, MiB | gateway, MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for others in OTHERS {
        row(others);
    }
}

fn row(others: usize) {
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
    let (controller, publish) = controller(&server, directory.path());
    enroll(&server, directory.path());
    let (gateway, http) = gateway(publish, directory.path());

    if others > 0 {
        let started = Instant::now();
        for number in 0..others {
            post(&api, &service(&format!("s{number}")));
            post(&api, &slice(&format!("s{number}"), &[[10, 88, 200, 1].into(), [10, 88, 200, 2].into()]));
            post(&api, &ingress(&format!("i{number}"), &format!("h{number}.bench.test"), &format!("s{number}")));
        }
        post(&api, &ingress("last", "last.bench.test", "web"));
        let written = started.elapsed();
        answered(http, "last.bench.test", |pod| pod == Some("one"));
        println!(
            "<!-- {others} written in {:.1} s, the last one answered {:.1} ms later -->",
            written.as_secs_f64(),
            ms(started.elapsed() - written)
        );
    }

    let (mut from_call, mut from_answer) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let host = format!("n{round}.bench.test");
        let called = Instant::now();
        post(&api, &ingress(&format!("n{round}"), &host, "web"));
        let written = Instant::now();
        answered(http, &host, |pod| pod == Some("one"));
        from_call.push(called.elapsed());
        from_answer.push(written.elapsed());
    }
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    let target = path("EndpointSlice", NAMESPACE, "web-1");
    for _ in 0..ROUNDS {
        let endpoints = |addresses: &[Ipv4Addr]| json!({"endpoints": addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>()});
        api.merge(&target, &endpoints(&[pods[0].address, pods[1].address]));
        let written = Instant::now();
        answered(http, "n0.bench.test", |pod| pod == Some("two"));
        added.push(written.elapsed());
        api.merge(&target, &endpoints(&[pods[1].address]));
        let written = Instant::now();
        // Round robin over two: two answers in a row by one pod are the sign that the other is out.
        let mut in_a_row = 0;
        answered(http, "n0.bench.test", |pod| {
            in_a_row = if pod == Some("two") { in_a_row + 1 } else { 0 };
            in_a_row == 2
        });
        removed.push(written.elapsed());
        api.merge(&target, &endpoints(&[pods[0].address]));
        answered(http, "n0.bench.test", |pod| pod == Some("one"));
    }
    let memory = |process: &Process| resident(&process.id().to_string()) as f64 / 1024.0 / 1024.0;
    println!(
        "| {others} | {} | {} | {} | {} | {:.0} | {:.0} |",
        both(&mut from_call),
        both(&mut from_answer),
        both(&mut added),
        both(&mut removed),
        memory(&controller),
        memory(&gateway)
    );
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

fn controller(server: &ApiServer, directory: &Path) -> (Process, SocketAddr) {
    let (publish, admin) = (local(), local());
    let mut command = Command::new(binary("sluicegate-controller"));
    command.arg("run").arg("--kubeconfig").arg(server.admin()).args(["--publish-address", "192.0.2.1"]);
    command.args(["--authority", AUTHORITY]);
    command.arg("--publish").arg(publish.to_string()).arg("--admin").arg(admin.to_string());
    let process = Process::start(&mut command, &directory.join("controller.log"));
    ready(admin);
    (process, publish)
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

fn gateway(publish: SocketAddr, directory: &Path) -> (Process, SocketAddr) {
    let (http, https, admin) = (local(), local(), local());
    let mut command = Command::new(binary("sluicegate"));
    command.arg("run").arg("--controller").arg(format!("https://{publish}")).args(["--workers", "1"]);
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
    (process, http)
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
