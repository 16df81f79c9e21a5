//! The table of attacks (`tests/attacks/README.md`): what one namespace can do to another, to the gateway and to the API server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sluicegate_testbed::Process;

use crate::Test;
use crate::api::collection;
use crate::client::{self, Response, Tls};
use crate::dns::{Found, dns_server};
use crate::harness::{Cluster, Controller, Gateway, PATIENCE, POD_PORT, Pod, binary, eventually};
use crate::{network, pki};

pub const TESTS: &[Test] = &[("none_succeeds", none_succeeds)];

const VICTIM: &str = "attacks-victim";
const MALLORY: &str = "attacks-mallory";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    attack: String,
    objects: Objects,
    #[serde(default)]
    refused: bool,
    ask: Option<String>,
    is: Option<String>,
    certificate: Option<String>,
    says: Option<String>,
    open: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Objects {
    raw: Vec<Value>,
    ingress: Option<IngressRow>,
    edited: Option<IngressRow>,
    external: Option<String>,
    resolves: Vec<String>,
    slice: Option<SliceRow>,
    certificate_for: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct IngressRow {
    rules: Vec<String>,
    default: Option<String>,
    tls: Vec<String>,
    annotations: BTreeMap<String, String>,
    created: Option<String>,
    foreign: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SliceRow {
    r#type: String,
    addresses: Vec<String>,
    port: u16,
}

/// Names in mallory's DNS, and what they are aliases of.
const ALIASES: [(&str, &str); 4] = [
    ("alias.mallory.test", "private.attacks-victim.svc.cluster.local"),
    ("further.mallory.test", "alias.mallory.test"),
    ("pod.mallory.test", "10-0-0-1.attacks-victim.pod.cluster.local"),
    ("own.attacks-mallory.svc.cluster.local", "private.attacks-victim.svc.cluster.local"),
];

/// What a name resolves to: each address for a second from the first question on, the last one for ever.
type Names = Arc<Mutex<BTreeMap<String, (Option<Instant>, Vec<IpAddr>)>>>;

struct Field {
    cluster: Cluster,
    /// Keep their processes.
    _pods: [Pod; 3],
    _inside: Vec<Process>,
    places: [(&'static str, String); 3],
    names: Names,
    controller: Controller,
    /// Follows the controller as it comes, and the one that allows everything.
    gateways: [Gateway; 2],
    _open: Controller,
}

fn none_succeeds() {
    let field = Field::new();
    let attacks: Vec<Attack> =
        ["hosts", "certificates", "references", "addresses"].iter().flat_map(|file| read(file)).collect();
    field.serves_the_victim();
    for (index, attack) in attacks.iter().enumerate() {
        field.run(index, attack);
        field.serves_the_victim();
    }
    let biting = attacks.iter().filter(|attack| attack.open.is_some()).count();
    assert!(attacks.len() >= 60 && biting >= 30, "{} attacks, {biting} that bite", attacks.len());
    println!("{} attacks, of which {biting} succeed where everything is allowed: 0 succeeded", attacks.len());
}

fn read(file: &str) -> Vec<Attack> {
    let path = format!("{}/tests/attacks/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(&text, options).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn echo(address: SocketAddr, name: &str) -> Process {
    let mut command = Command::new(binary("sluicegate"));
    command.arg("echo").arg("--listen").arg(address.to_string()).arg("--name").arg(name);
    let process = Process::start(&mut command, std::path::Path::new("/dev/null"));
    eventually("an echo backend", || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok());
    process
}

/// Something on every address that no backend may have.
fn inside() -> Vec<Process> {
    let addresses =
        ["127.0.0.1", "127.9.9.9", "::1", "169.254.169.254", "169.254.20.10", "100.100.100.200", "fd00:ec2::254"];
    let listen = |text: &&str| {
        let ip: IpAddr = text.parse().unwrap();
        match ip {
            ip if ip.is_loopback() => {}
            IpAddr::V4(ip) => network::assign(ip),
            IpAddr::V6(ip) => network::assign_v6(ip),
        }
        echo(SocketAddr::new(ip, 80), "inside")
    };
    addresses.iter().map(listen).collect()
}

/// Objects of the victim, whose class is the cluster's.
fn victim(shop: &Pod, private: &Pod, class: &str) -> String {
    let service = |name: &str, pod: &Pod| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {VICTIM}}}\nspec: {{ports: [{{name: http, port: 80, targetPort: {POD_PORT}}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: {VICTIM}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: {POD_PORT}}}]\nendpoints: [{{addresses: [{}]}}]\n",
            pod.address
        )
    };
    let rule = |host: &str, path: &str, path_type: &str| {
        format!(
            "{{host: '{host}', http: {{paths: [{{path: {path}, pathType: {path_type}, backend: {{service: {{name: shop, port: {{number: 80}}}}}}}}]}}}}"
        )
    };
    let ingress = |name: &str, tls: &str, rules: &[String]| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: {VICTIM}}}\nspec: {{ingressClassName: {class}, tls: [{tls}], rules: [{}]}}\n",
            rules.join(", ")
        )
    };
    let plain =
        [rule("plain.test", "/", "Prefix"), rule("*.wild.test", "/", "Prefix"), rule("api.test", "/v1", "Prefix")];
    // The victim resolves a name of its own that mallory has an alias of.
    let named = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: named, namespace: {VICTIM}}}\nspec: {{type: ExternalName, externalName: private.attacks-victim.svc.cluster.local}}\n"
    );
    let to_name = rule("named.test", "/", "Prefix")
        .replace("name: shop, port: {number: 80}", "name: named, port: {number: 8080}");
    let ingresses = [
        ingress("shop", "{hosts: [shop.test], secretName: shop-tls}", &[rule("shop.test", "/", "Prefix")]),
        ingress("plain", "", &plain),
        ingress("named", "", &[to_name]),
    ];
    let files = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: private, namespace: {VICTIM}, labels: {{sluicegate.dev/publish: 'true'}}}}\ndata: {{secret.txt: secret}}\n"
    );
    let secret = pki::ecdsa(&["shop.test", "*.shop.test"])
        .secret("shop-tls")
        .replace("{name: shop-tls}", &format!("{{name: shop-tls, namespace: {VICTIM}}}"));
    [service("shop", shop), service("private", private), named, files, secret, ingresses.join("---\n")].join("---\n")
}

impl Field {
    fn new() -> Field {
        let cluster = Cluster::new("attacks");
        for namespace in [VICTIM, MALLORY] {
            cluster.api.create(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"));
            cluster.grant(namespace);
        }
        let pods = ["shop", "private", "evil"].map(Pod::start);
        let [shop, private, evil] = &pods;
        let control = network::address();
        network::assign(control);
        let mut inside = inside();
        inside.push(echo(SocketAddr::from((control, 6443)), "control"));
        cluster.api.create(&[OLD, FOREIGN].map(|name| older(name, &cluster.class).to_string()).join("\n---\n"));
        a_moment();
        // What an API server writes itself, but for those of tests.
        cluster.api.create(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: kubernetes, namespace: default, labels: {{kubernetes.io/service-name: kubernetes}}}}\naddressType: IPv4\nports: [{{name: https, port: 6443}}]\nendpoints: [{{addresses: [{control}]}}]\n"
        ));
        cluster.api.create(&victim(shop, private, &cluster.class));
        a_moment();
        cluster.api.create(&mallorys(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: evil}}\nspec: {{ports: [{{name: http, port: 80, targetPort: {POD_PORT}}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: evil-1, labels: {{kubernetes.io/service-name: evil}}}}\naddressType: IPv4\nports: [{{name: http, port: {POD_PORT}}}]\nendpoints: [{{addresses: [{}]}}]\n",
            evil.address
        )));
        let places = [
            ("{private}", private.address.to_string()),
            ("{evil}", evil.address.to_string()),
            ("{control}", control.to_string()),
        ];
        let names = Names::default();
        let fixed = [
            ("private.attacks-victim.svc.cluster.local", private.address.to_string()),
            ("10-0-0-1.attacks-victim.pod.cluster.local", private.address.to_string()),
            ("kubernetes.default.svc.cluster.local", "10.96.0.1".to_owned()),
            ("loopback.mallory.test", "127.0.0.1".to_owned()),
        ];
        for (name, address) in fixed {
            names.lock().unwrap().insert(name.to_owned(), (None, vec![address.parse().unwrap()]));
        }
        let resolve = names.clone();
        let dns = dns_server(move |name| {
            let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
            if let Some((_, target)) = alias {
                return Some(Found::Alias((*target).to_owned()));
            }
            let mut names = resolve.lock().unwrap();
            let (since, addresses) = names.get_mut(name)?;
            let seconds = since.get_or_insert_with(Instant::now).elapsed().as_secs() as usize;
            addresses.get(seconds.min(addresses.len() - 1)).copied().map(Found::from)
        });
        let controller = cluster.controller(json!({}));
        let open = cluster.controller(json!({
            "hostPolicy": "shared", "lease": "attacks/open",
            "allowBackends": ["loopback", "linkLocal", "metadata", "apiServer", "otherNamespaces"],
        }));
        let gateway = |controller: &Controller| Gateway::start(&[controller.publish], json!({"dns": dns})).ready();
        let gateways = [gateway(&controller), gateway(&open)];
        await_records(&cluster, &["shop.test", "plain.test", "api.test", "*.wild.test"]);
        Field { cluster, _pods: pods, _inside: inside, places, names, controller, gateways, _open: open }
    }

    /// What the victim has, it keeps.
    #[track_caller]
    fn serves_the_victim(&self) {
        let [gateway, _] = &self.gateways;
        for (host, path) in [("plain.test", "/"), ("any.wild.test", "/"), ("api.test", "/v1")] {
            gateway.answers(host, path, crate::harness::Answer::Pod("shop".to_owned()));
        }
        gateway.answers("named.test", "/", crate::harness::Answer::Pod("private".to_owned()));
        let (answer, names) = get(gateway, "https://shop.test/");
        assert_eq!(
            (shown(&answer), names),
            ("shop".to_owned(), vec!["shop.test".to_owned(), "*.shop.test".to_owned()])
        );
    }

    fn run(&self, index: usize, attack: &Attack) {
        let created = self.create(index, attack);
        if let Some(edited) = &attack.objects.edited {
            self.edit(edited, &edited.object(index, &self.cluster.class));
        }
        assert_eq!(created.is_none(), attack.refused, "{}: refused by the API server", attack.attack);
        let marker = self.await_arrival(index);
        if let (Some(ask), Some(is)) = (&attack.ask, &attack.is) {
            let [gateway, open] = &self.gateways;
            // Where everything is allowed it works, so all of it has arrived.
            if let Some(prize) = &attack.open {
                until(&attack.attack, || {
                    let answer = shown(&get(open, ask).0);
                    (answer == *prize).then_some(()).ok_or(answer)
                });
            }
            if let Some(reason) = &attack.says {
                let has = |line: &String| line.contains(MALLORY) && line.contains(&format!(" {reason} "));
                until(&attack.attack, || {
                    let all = self.controller.diagnostics();
                    all.iter().any(has).then_some(()).ok_or_else(|| format!("{all:?}"))
                });
            }
            until(&attack.attack, || {
                let (answer, names) = get(gateway, ask);
                let answer = shown(&answer);
                let is_error = answer.starts_with(['4', '5']);
                assert!(
                    is_error || answer == *is || answer == "shop",
                    "{}: {ask} was answered by {answer}",
                    attack.attack
                );
                // The gateway's own, the victim's, and never anybody else's.
                let served = match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    [] | ["sluicegate.invalid"] => "none",
                    ["shop.test", "*.shop.test"] => "shop.test",
                    _ => panic!("{}: {ask} has a certificate of {names:?}", attack.attack),
                };
                let named = attack.certificate.as_deref().is_none_or(|name| name == served);
                (answer == *is && named).then_some(()).ok_or_else(|| format!("{answer} {names:?}"))
            });
        }
        for path in created.into_iter().flatten().chain(marker).rev() {
            self.cluster.api.delete(&path);
        }
        if let Some(edited) = &attack.objects.edited {
            self.edit(edited, &older(edited.name(), &self.cluster.class));
        }
    }

    /// Gives one of mallory's older Ingresses another content.
    fn edit(&self, row: &IngressRow, object: &Value) {
        let (name, mut object) = (row.name(), object.clone());
        object["metadata"]["name"] = json!(name);
        let path = format!("{}/{name}", collection("Ingress", MALLORY));
        let answer = self.cluster.api.call(Method::PUT, &path, "application/json", &object.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Creates another Service, EndpointSlice, Secret and Ingress of mallory's and waits until the gateway serves them: each kind is
    /// watched in order, so what was created before has arrived as well. Returns where they are.
    fn await_arrival(&self, index: usize) -> Vec<String> {
        let name = format!("marker-{index}");
        let host = format!("{name}.mallory.test");
        let marker = Objects {
            certificate_for: vec![host.clone()],
            raw: vec![
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}}),
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                    "ports": [{"name": "http", "port": POD_PORT}], "endpoints": [{"addresses": ["{evil}"]}],
                }),
            ],
            ingress: Some(IngressRow {
                rules: vec![format!("{host} / Prefix {name}:80")],
                tls: vec![format!("{host}={name}")],
                ..IngressRow::default()
            }),
            ..Objects::default()
        };
        let mut objects = self.objects(index, &marker);
        for object in &mut objects {
            object["metadata"]["name"] = json!(name);
        }
        let created = self.create_all(&objects).unwrap_or_else(|answer| panic!("{name}: {answer}"));
        until(&name, || {
            let (answer, names) = get(&self.gateways[0], &format!("https://{host}/"));
            let is_there = shown(&answer) == "evil" && names == [host.clone()];
            is_there.then_some(()).ok_or_else(|| format!("{} {names:?}", shown(&answer)))
        });
        created
    }

    /// Creates what mallory has; `None`: the API server refused one. Returns where they are.
    fn create(&self, index: usize, attack: &Attack) -> Option<Vec<String>> {
        self.create_all(&self.objects(index, &attack.objects)).ok()
    }

    /// `Err`: the API server refused one, and so says why; the others are gone again.
    fn create_all(&self, objects: &[Value]) -> Result<Vec<String>, Value> {
        let mut created: Vec<String> = Vec::new();
        for object in objects {
            let mut text = object.to_string();
            self.places.iter().for_each(|(place, value)| text = text.replace(place, value));
            let collection = collection(object["kind"].as_str().unwrap(), MALLORY);
            let answer = self.cluster.api.call(Method::POST, &collection, "application/json", &text);
            if answer.status >= 300 {
                assert_eq!(answer.status, 422, "{}", answer.body);
                created.iter().for_each(|path| self.cluster.api.delete(path));
                return Err(answer.body);
            }
            created.push(format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap()));
        }
        Ok(created)
    }

    fn objects(&self, index: usize, row: &Objects) -> Vec<Value> {
        let mut objects = row.raw.clone();
        let service =
            |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "target"}, "spec": spec});
        if let Some(name) = &row.external {
            objects.push(service(json!({"type": "ExternalName", "externalName": name})));
        }
        if !row.resolves.is_empty() {
            let name = format!("row-{index}.mallory.test");
            let address = |text: &String| {
                let found = self.places.iter().find(|(place, _)| place == text).map_or(text, |(_, address)| address);
                found.parse().unwrap()
            };
            self.names.lock().unwrap().insert(name.clone(), (None, row.resolves.iter().map(address).collect()));
            objects.push(service(json!({"type": "ExternalName", "externalName": name})));
        }
        if let Some(slice) = &row.slice {
            objects.push(service(json!({"ports": [{"name": "http", "port": 80}]})));
            objects.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": slice.r#type,
                "metadata": {"name": "target-1", "labels": {"kubernetes.io/service-name": "target"}},
                "ports": [{"name": "http", "port": slice.port}],
                "endpoints": slice.addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>(),
            }));
        }
        if !row.certificate_for.is_empty() {
            let names: Vec<&str> = row.certificate_for.iter().map(String::as_str).collect();
            objects.extend(crate::api::documents(&pki::ecdsa(&names).secret("mallory")));
        }
        objects.extend(row.ingress.as_ref().map(|ingress| ingress.object(index, &self.cluster.class)));
        objects
    }
}

/// Mallory's Ingress that is older than all that the victim has.
const OLD: &str = "old";

/// The same, and of a class that is not ours.
const FOREIGN: &str = "foreign";

/// One of them before it is edited.
fn older(name: &str, class: &str) -> Value {
    let (class, host) = if name == FOREIGN { ("attacks-foreign", "plain.test") } else { (class, "old.mallory.test") };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": MALLORY},
        "spec": {"ingressClassName": class, "rules": [{"host": host, "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "evil", "port": {"number": 80}}}}]}}]},
    })
}

/// Ages have no finer unit.
pub fn a_moment() {
    let started = Instant::now();
    eventually("a second to pass", || (started.elapsed() > Duration::from_millis(1100)).then_some(()));
}

/// Waits until it is recorded that these are the victim's.
fn await_records(cluster: &Cluster, hosts: &[&str]) {
    eventually("records of the victim's hosts", || {
        let recorded = cluster.recorded(VICTIM);
        hosts.iter().all(|host| recorded.contains(*host)).then_some(())
    });
}

impl IngressRow {
    /// Which of the older ones is edited.
    fn name(&self) -> &'static str {
        if self.foreign { FOREIGN } else { OLD }
    }

    fn object(&self, index: usize, class: &str) -> Value {
        let backend = |text: &str| match text.split_once('/').filter(|(kind, _)| kind.starts_with(char::is_uppercase)) {
            Some((kind, name)) => json!({"resource": {"kind": kind, "name": name, "apiGroup": Value::Null}}),
            None => {
                let (name, port) = text.rsplit_once(':').unwrap();
                json!({"service": {"name": name, "port": {"number": port.parse::<u16>().unwrap()}}})
            }
        };
        let rule = |text: &String| {
            let [host, path, path_type, target] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let http = json!({"paths": [{"path": path, "pathType": path_type, "backend": backend(target)}]});
            if host == "-" { json!({"http": http}) } else { json!({"host": host, "http": http}) }
        };
        let tls = |text: &String| {
            let (host, secret) = text.split_once('=').unwrap();
            json!({"hosts": if host.is_empty() { vec![] } else { vec![host] }, "secretName": secret})
        };
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": format!("row-{index}"), "annotations": self.annotations, "creationTimestamp": self.created},
            "spec": {
                "ingressClassName": class,
                "defaultBackend": self.default.as_deref().map(backend),
                "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
                "tls": self.tls.iter().map(tls).collect::<Vec<_>>(),
            },
        })
    }
}

/// Objects in mallory's namespace.
fn mallorys(yaml: &str) -> String {
    yaml.replace("metadata: {", &format!("metadata: {{namespace: {MALLORY}, "))
}

/// One request, with the names in the certificate.
fn get(gateway: &Gateway, url: &str) -> (Response, Vec<String>) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    if scheme == "http" {
        return (client::get(gateway.http, host, &format!("/{path}")), Vec::new());
    }
    let mut connection = Tls::new().connect(gateway.https, Some(host));
    let names = connection.certificate_names();
    (connection.request("GET", host, &format!("/{path}"), &[]), names)
}

/// Who answered: a pod's name, or status and reason.
fn shown(answer: &Response) -> String {
    match answer.header("x-echo") {
        Some(name) => name.to_owned(),
        None => format!("{} {}", answer.status, answer.header("sluicegate-reason").unwrap_or("of nobody")),
    }
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(seen) = is() {
        assert!(started.elapsed() < PATIENCE, "{what}: last seen was {seen}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
