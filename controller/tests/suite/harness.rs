//! A cluster as a test sees it: a namespace and class of its own, a controller, gateways, pods.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use serde_json::{Value, json};
use sluicegate_snapshot::ObjectKey;
use sluicegate_snapshot::facts::{record_of, records};
use sluicegate_testbed::{ApiServer, Process, free_port};
use tempfile::TempDir;

use crate::api::{Api, path};
use crate::client::{self, Response};
use crate::{bed, network};

/// How long anything is waited for: generous, since it only matters when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `find` finds something.
#[track_caller]
pub fn eventually<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A program with a log of JSON lines.
pub struct Program {
    pub process: Process,
    _directory: TempDir,
}

/// Where a program of the workspace is: beside the controller's, or in the directory that `PROGRAMS` names (`make soak` has optimised
/// ones there).
pub fn binary(name: &str) -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_sluicegate-controller"));
    let path = match std::env::var_os("PROGRAMS") {
        Some(directory) => Path::new(&directory).join(name),
        None => beside.with_file_name(name),
    };
    assert!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    path
}

impl Program {
    fn start(name: &str, config: &Value) -> Program {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config.clone();
        config["log"] = json!({"format": "json", "level": "info"});
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(binary(name));
        command.arg("run").arg("--config").arg(file);
        let process = Process::start(&mut command, &directory.path().join("log"));
        Program { process, _directory: directory }
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Waits until it says something.
    #[track_caller]
    pub fn says(&self, what: &str) {
        let started = Instant::now();
        while !self.said().contains(what) {
            assert!(started.elapsed() < PATIENCE, "waited for `{what}`; it said:\n{}", self.said());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The address that it listens on for a purpose; the newest, should it have been started again.
    #[track_caller]
    fn address(&self, purpose: &str) -> SocketAddr {
        let line = |text: &str| -> Option<SocketAddr> {
            let line: Value = serde_json::from_str(text).ok()?;
            let fields = &line["fields"];
            (fields["message"] == "listening" && fields["purpose"] == purpose)
                .then(|| fields["address"].as_str()?.parse().ok())?
        };
        let started = Instant::now();
        loop {
            if let Some(address) = self.said().lines().rev().find_map(line) {
                return address;
            }
            assert!(started.elapsed() < PATIENCE, "no {purpose} address; it said:\n{}", self.said());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// A running controller.
pub struct Controller {
    pub program: Program,
    pub publish: SocketAddr,
    pub admin: SocketAddr,
}

impl Controller {
    /// Starts one with keys of the configuration file, without TLS unless they say otherwise; on ports that stay its own when it is started again.
    pub fn start(kubeconfig: &Path, mut config: Value) -> Controller {
        config["kubeconfig"] = json!(kubeconfig);
        config.as_object_mut().unwrap().entry("plaintext").or_insert(json!(true));
        for key in ["publish", "admin"] {
            let address = || json!(format!("127.0.0.1:{}", free_port()));
            config.as_object_mut().unwrap().entry(key).or_insert_with(address);
        }
        let program = Program::start("sluicegate-controller", &config);
        let (publish, admin) = (program.address("publish"), program.address("admin"));
        Controller { program, publish, admin }
    }

    /// Waits until it publishes.
    #[track_caller]
    pub fn ready(self) -> Controller {
        eventually("the controller to be ready", || (self.page("/readyz").status == 200).then_some(()));
        self
    }

    /// Has it run on what others leave of the CPUs: it stands for one on another machine.
    pub fn yields(self) -> Controller {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.program.process.id())).unwrap() {
            let id = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
            // A thread that has ended meanwhile needs nothing.
            let _ = setpriority_process(Pid::from_raw(id), LOWEST_PRIORITY);
        }
        self
    }

    /// A page of its admin listener.
    pub fn page(&self, target: &str) -> Response {
        client::get(self.admin, "admin", target)
    }

    /// A metric's value.
    pub fn metric(&self, name: &str) -> Option<f64> {
        metric(&self.page("/metrics").text(), name)
    }

    /// The diagnostics of the objects as `Kind namespace/name Reason message`.
    pub fn diagnostics(&self) -> Vec<String> {
        let page = self.page("/diagnostics").json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |d: &Value| {
            let object = &d["object"];
            format!(
                "{} {}/{} {} {}",
                text(&object["kind"]),
                text(&object["namespace"]),
                text(&object["name"]),
                text(&d["reason"]),
                text(&d["message"])
            )
        };
        page["diagnostics"].as_array().unwrap().iter().map(line).collect()
    }
}

/// The lowest priority of a thread (setpriority(2)).
pub const LOWEST_PRIORITY: i32 = 19;

/// The value of a line of a metrics page, found by the line's start.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse().ok())
}

/// A running gateway.
pub struct Gateway {
    pub program: Program,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
}

impl Gateway {
    /// Starts one that follows controllers.
    pub fn start(controllers: &[SocketAddr], mut config: Value) -> Gateway {
        let scheme = if config["controllerCa"].is_null() { "http" } else { "https" };
        let urls: Vec<String> = controllers.iter().map(|address| format!("{scheme}://{address}")).collect();
        config["controllers"] = json!(urls);
        let defaults = [
            ("http", json!(["127.0.0.1:0"])),
            ("https", json!(["127.0.0.1:0"])),
            ("admin", json!("127.0.0.1:0")),
            ("workers", json!(1)),
            ("lameDuckSeconds", json!(0)),
            ("debugHeader", json!(true)),
            ("accessLog", json!({"enabled": false})),
        ];
        for (key, value) in defaults {
            config.as_object_mut().unwrap().entry(key).or_insert(value);
        }
        let program = Program::start("sluicegate", &config);
        let (http, https, admin) = (program.address("http"), program.address("https"), program.address("admin"));
        Gateway { program, http, https, admin }
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn ready(self) -> Gateway {
        eventually("the gateway to be ready", || (self.page("/readyz").status == 200).then_some(()));
        self
    }

    /// A page of its admin listener.
    pub fn page(&self, target: &str) -> Response {
        client::get(self.admin, "admin", target)
    }

    /// One plain request.
    pub fn get(&self, host: &str, target: &str) -> Response {
        client::get(self.http, host, target)
    }

    /// Waits until a plain request is answered like this: by a pod of that name, or with that status.
    #[track_caller]
    pub fn answers(&self, host: &str, target: &str, with: impl Into<Answer>) {
        let with = with.into();
        let mut last = None;
        let started = Instant::now();
        loop {
            let response = self.get(host, target);
            let fits = match &with {
                Answer::Pod(name) => response.header("x-echo") == Some(name),
                Answer::Status(status) => response.header("x-echo").is_none() && response.status == *status,
            };
            if fits {
                return;
            }
            last = Some((
                response.status,
                response.header("x-echo").map(str::to_owned),
                response.header("sluicegate-reason").map(str::to_owned),
            ))
            .or(last);
            assert!(started.elapsed() < PATIENCE, "{host}{target}: expected {with:?}, the last answer was {last:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Who answers.
#[derive(Debug)]
pub enum Answer {
    Pod(String),
    Status(u16),
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Answer::Status(status)
    }
}

impl From<&Pod> for Answer {
    fn from(pod: &Pod) -> Self {
        Answer::Pod(pod.name.clone())
    }
}

/// A pod: an echo process on an address of its own. What a kubelet would do with it.
pub struct Pod {
    pub name: String,
    pub address: Ipv4Addr,
    process: Option<Process>,
    _directory: TempDir,
}

/// The port that pods listen on.
pub const POD_PORT: u16 = 8080;

impl Pod {
    /// Starts one and waits until it listens.
    pub fn start(name: &str) -> Pod {
        let address = network::address();
        network::assign(address);
        let directory = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from((address, POD_PORT));
        let mut command = Command::new(binary("sluicegate"));
        command.arg("echo").arg("--listen").arg(listen.to_string()).arg("--name").arg(name);
        let process = Process::start(&mut command, &directory.path().join("log"));
        eventually("a pod to listen", || std::net::TcpStream::connect(listen).ok());
        Pod { name: name.to_owned(), address, process: Some(process), _directory: directory }
    }

    /// Ends it without warning: its connections are reset, new ones refused.
    pub fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends it, and its address with it: packets vanish.
    pub fn vanish(&mut self) {
        network::unassign(self.address);
        self.crash();
    }
}

/// Namespace and name of the controller's service account.
fn account() -> (&'static str, &'static str) {
    bed::CONTROLLER.trim_start_matches("system:serviceaccount:").split_once(':').unwrap()
}

/// A test's part of a cluster.
pub struct Cluster {
    pub api: Api,
    pub namespace: String,
    pub class: String,
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// A namespace and a class of this name in the shared API server. The controller may read the namespace's Secrets.
    pub fn new(name: &str) -> Cluster {
        let server = bed::bed();
        Cluster::in_server(&server, name)
    }

    /// The same in another API server.
    pub fn in_server(server: &ApiServer, name: &str) -> Cluster {
        let cluster = Cluster {
            api: Api::of(&server.admin()),
            namespace: name.to_owned(),
            class: name.to_owned(),
            kubeconfig: bed::controller_kubeconfig(server),
        };
        cluster.api.create(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}}}\nspec: {{controller: sluicegate.dev/ingress-controller}}\n"
        ));
        cluster.grant(name);
        cluster.grant_records();
        cluster
    }

    /// Lets the controller of the class record whose hosts are, as the shipped Role does for one without a class.
    fn grant_records(&self) {
        let (namespace, account) = account();
        let name = format!("sluicegate-controller-{}-hosts", self.class);
        let names = records(&ObjectKey::new(namespace, name.as_str()));
        let names: Vec<&str> = names.iter().map(|key| &*key.name).collect();
        let metadata = json!({"name": name, "namespace": namespace});
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": names, "verbs": ["update"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        });
        self.api.create(&role.to_string());
        self.api.create(&binding.to_string());
    }

    /// Lets the controller read Secrets and ConfigMaps of a namespace, as the diagnostic says.
    pub fn grant(&self, namespace: &str) {
        let (account_namespace, account) = account();
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "sluicegate", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sluicegate-secret-reader"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
        });
        self.api.create(&binding.to_string());
    }

    /// The hosts that are recorded for a namespace.
    pub fn recorded(&self, namespace: &str) -> BTreeSet<String> {
        let prefix = format!("sluicegate-controller-{}-hosts-", self.class);
        let all = self.api.get("/api/v1/namespaces/sluicegate/configmaps");
        let ours = |record: &&Value| record["metadata"]["name"].as_str().unwrap().starts_with(&prefix);
        let records = all["items"].as_array().unwrap().iter().filter(ours);
        let hosts = records.filter_map(|record| record["data"][namespace].as_str());
        hosts.flat_map(str::lines).map(str::to_owned).collect()
    }

    /// Path of the ConfigMap that a host is recorded in.
    pub fn record_of(&self, host: &str) -> String {
        let prefix = ObjectKey::new("sluicegate", format!("sluicegate-controller-{}-hosts", self.class));
        path("ConfigMap", "sluicegate", &record_of(&prefix, &host.parse().unwrap()).name)
    }

    /// A controller of this class, ready.
    pub fn controller(&self, config: Value) -> Controller {
        self.starting_controller(config).ready()
    }

    /// A controller of this class that need not become ready.
    pub fn starting_controller(&self, mut config: Value) -> Controller {
        config.as_object_mut().unwrap().entry("ingressClass").or_insert(json!(self.class));
        Controller::start(&self.kubeconfig, config)
    }

    /// A controller and a gateway, both ready.
    pub fn start(&self, config: Value) -> (Controller, Gateway) {
        let controller = self.controller(config);
        let gateway = Gateway::start(&[controller.publish], json!({})).ready();
        (controller, gateway)
    }

    /// Path of an object in the test's namespace.
    pub fn path(&self, kind: &str, name: &str) -> String {
        path(kind, &self.namespace, name)
    }

    /// An Ingress of the class: `spec` is YAML in flow style without its braces.
    pub fn ingress(&self, name: &str, spec: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: {}}}\nspec: {{ingressClassName: {}, {spec}}}\n",
            self.namespace, self.class
        )
    }

    /// An Ingress that sends a host to port 80 of a Service.
    pub fn host(&self, name: &str, host: &str, service: &str) -> String {
        self.ingress(name, &rule(host, service))
    }

    /// A Service with port 80, and its endpoints.
    pub fn service(&self, name: &str, pods: &[&Pod]) -> String {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {}}}\nspec: {{ports: [{{name: http, port: 80, targetPort: {POD_PORT}}}]}}\n",
            self.namespace
        );
        format!("{service}---\n{}", self.slice(name, pods))
    }

    /// The endpoints of a Service.
    pub fn slice(&self, service: &str, pods: &[&Pod]) -> String {
        let endpoints: Vec<String> = pods.iter().map(|pod| format!("{{addresses: [{}]}}", pod.address)).collect();
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, namespace: {}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{name: http, port: {POD_PORT}}}]\nendpoints: [{}]\n",
            self.namespace,
            endpoints.join(", ")
        )
    }

    /// The addresses and port errors in the status of an Ingress.
    pub fn points(&self, name: &str) -> Value {
        self.api.get(&self.path("Ingress", name))["status"]["loadBalancer"]["ingress"].clone()
    }
}

/// One rule in flow style: a host, everything below `/`, port 80 of a Service.
pub fn rule(host: &str, service: &str) -> String {
    format!(
        "rules: [{{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}]"
    )
}
