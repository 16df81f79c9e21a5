//! Faults of the first order: the API server stops, starts and forgets; odd objects stand beside good ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use sluicegate_testbed::ApiServer;

use crate::Test;
use crate::api::collection;
use crate::bed;
use crate::client;
use crate::harness::{Cluster, Gateway, Pod, eventually};

pub const TESTS: &[Test] = &[
    ("an_api_server_that_stops_starts_and_forgets", an_api_server_that_stops_starts_and_forgets),
    ("odd_ingresses_harm_no_good_one", odd_ingresses_harm_no_good_one),
];

/// Asks for a route all the time; every answer has to come from the pod.
struct Steady {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Steady {
    fn start(gateway: &Gateway, host: &str, pod: &Pod) -> Steady {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, address, host, pod) = (stop.clone(), gateway.http, host.to_owned(), pod.name.clone());
        let thread = std::thread::spawn(move || {
            let (mut count, mut wrong) = (0, Vec::new());
            while !seen.load(Ordering::SeqCst) {
                let response = client::get(address, &host, "/");
                if response.header("x-echo") != Some(&pod) {
                    wrong.push(format!("{} {}", response.status, response.text()));
                }
                count += 1;
                std::thread::park_timeout(Duration::from_millis(2));
            }
            (count, wrong)
        });
        Steady { stop, thread }
    }

    /// How many requests were answered, all of them well.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let (count, wrong) = self.thread.join().unwrap();
        assert!(wrong.is_empty(), "{} of {count} went wrong, the first: {}", wrong.len(), wrong[0]);
        count
    }
}

fn an_api_server_that_stops_starts_and_forgets() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = ApiServer::start(directory.path());
    bed::prepare(&server);
    let cluster = Cluster::in_server(&server, "faults");
    let pod = Pod::start("faults");
    cluster.api.create(
        &[
            cluster.service("web", &[&pod]),
            cluster.host("web", "faults.test", "web"),
            cluster.host("old", "old.faults.test", "web"),
        ]
        .join("---\n"),
    );
    // Something that names a Secret and a ConfigMap, so that these are watched as well.
    let names = "tls: [{hosts: [named.faults.test], secretName: none}], rules: [{host: named.faults.test, http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: ConfigMap, name: none}}}]}}]";
    cluster.api.create(&cluster.ingress("named", names));
    let (controller, gateway) = cluster.start(json!({"publishAddresses": ["192.0.2.7"]}));
    gateway.answers("faults.test", "/", &pod);
    let steady = Steady::start(&gateway, "faults.test", &pod);

    // It stops: that is said, and changes nothing.
    server.stop();
    controller.program.says("what was known stays");
    // It starts. The controller tries from the first moment, when nothing answers yet, and then everything with 403 or 500.
    server.resume();
    eventually("changes to be followed again", || {
        let answer = cluster.api.call(
            Method::POST,
            &collection("Ingress", "faults"),
            "application/json",
            &crate::api::documents(&cluster.host("new", "new.faults.test", "web"))[0].to_string(),
        );
        (answer.status == 201).then_some(())
    });
    gateway.answers("new.faults.test", "/", &pod);
    assert_eq!(controller.page("/readyz").status, 200);
    // Whose it is has been written down, which waits for a claim to settle and for the lease.
    let old = "old.faults.test".to_owned();
    eventually("the record", || cluster.recorded(&cluster.namespace).contains(&old).then_some(()));

    // It forgets: while the controller is frozen everything changes, and the past is compacted away. Its watches cannot go on
    // where they were (410), it has to list, and finds what is gone.
    controller.program.process.signal(Signal::STOP);
    server.stop();
    server.resume();
    cluster.api.delete(&cluster.path("Ingress", "old"));
    // More than a page holds, and a server that does not stream lists.
    for number in 0..520 {
        cluster.api.create(&cluster.host(&format!("late-{number}"), &format!("late-{number}.faults.test"), "web"));
    }
    server.compact();
    server.stop();
    server.extra_flags = vec!["--feature-gates=WatchList=false".to_owned()];
    server.resume();
    let lists =
        |kind: &str| controller.metric(&format!("sluicegate_controller_lists_total{{kind=\"{kind}\"}}")).unwrap();
    controller.program.process.signal(Signal::CONT);
    gateway.answers("late-519.faults.test", "/", &pod);
    gateway.answers("old.faults.test", "/", 404);
    assert!(lists("Ingress") >= 2.0, "it listed again");
    assert!(controller.program.said().contains("410"), "it was told that the version is too old");
    assert_eq!(cluster.points("web")[0]["ip"], "192.0.2.7");
    assert!(steady.end() > 100);

    // A controller that starts while the API server does: it is refused, then told 403, and believes neither.
    server.stop();
    server.launch();
    let early = cluster.starting_controller(json!({})).ready();
    // What was deleted is kept for its namespace, without a route.
    let table = early.page("/table").json();
    let (kept, served): (Vec<_>, Vec<_>) =
        table["hosts"].as_object().unwrap().iter().partition(|(_, host)| host["routes"].as_array().unwrap().is_empty());
    assert_eq!(served.len(), 523, "all pages were read");
    assert_eq!(kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["old.faults.test"]);
    // A list in pages is followed by a watch, and not by the next list. (Just after its start the server may end one or two.)
    let lists = || early.metric("sluicegate_controller_lists_total{kind=\"Ingress\"}");
    let is_watched = (0..5).any(|number| {
        let before = lists();
        let host = format!("last-{number}.faults.test");
        cluster.api.create(&cluster.host(&format!("last-{number}"), &host, "web"));
        eventually("it to be followed", || {
            early.page("/table").json()["hosts"].as_object()?.contains_key(&host).then_some(())
        });
        lists() == before
    });
    assert!(is_watched, "it is listed again and again");
    assert!(early.metric("sluicegate_controller_watch_failures_total{kind=\"Ingress\"}") > Some(0.0));
    assert!(!early.diagnostics().iter().any(|diagnostic| diagnostic.contains("AccessDenied")));
    crate::audit::keep(&server.audit_log());
}

/// Specs that the API server accepts and nobody writes on purpose.
fn odd_specs(cluster: &Cluster) -> Vec<Value> {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = |path: &str, path_type: &str| json!({"path": path, "pathType": path_type, "backend": backend});
    let rule = |host: &str, paths: Vec<Value>| json!({"rules": [{"host": host, "http": {"paths": paths}}]});
    let long = format!("/{}", "x".repeat(4000));
    let mut specs = Vec::new();
    let odd_paths = [
        "/(",
        "/[",
        "/*",
        "/+",
        "/?",
        "/{",
        "/}",
        "/|",
        "/\\",
        "/^",
        "/$",
        "/.",
        "/..",
        "//",
        "/a//b",
        "/a/../b",
        "/%2f",
        "/%",
        "/%zz",
        "/a b",
        "/\"",
        "/'",
        "/;",
        "/`",
        "/<",
        "/>",
        "/#",
        "/@",
        "/!",
        "/~",
        "/,",
        "/=",
        "/&",
        "/é",
        "/\u{202e}",
        "/a\tb",
        "/$1",
        "/(.*)/(.*",
        "/${x}",
        "/{{ . }}",
        &long,
    ];
    for odd in odd_paths {
        for path_type in ["ImplementationSpecific", "Prefix", "Exact"] {
            specs.push(rule("odd.test", vec![path(odd, path_type)]));
        }
    }
    let label = "a".repeat(63);
    let hosts = [
        "*.odd.test",
        "a",
        "1.2.3",
        "xn--bcher-kva.test",
        &format!("{label}.{label}.{label}.test"),
        "*.test",
        "a-b.c-d.test",
        "0.test",
    ];
    specs.extend(hosts.map(|host| rule(host, vec![path("/", "Prefix")])));
    specs.extend(["", "none", "a.b", &"s".repeat(253)].map(|secret| {
        json!({"tls": [{"hosts": ["odd.test"], "secretName": secret}], "rules": rule("odd.test", vec![path("/", "Prefix")])["rules"]})
    }));
    specs.extend([
        json!({"defaultBackend": {"service": {"name": "none", "port": {"name": "none"}}}}),
        json!({"defaultBackend": {"resource": {"apiGroup": "k8s.example.test", "kind": "Bucket", "name": "x"}}}),
        json!({"defaultBackend": {"resource": {"kind": "Secret", "name": "x"}}}),
        json!({"defaultBackend": backend, "tls": [{}]}),
        json!({"rules": [{}]}),
        json!({"rules": [{"host": "odd.test"}]}),
        json!({"tls": [{"hosts": ["*.odd.test", "odd.test"]}], "defaultBackend": backend}),
        rule("odd.test", (0..300).map(|n| path(&format!("/{n}"), "Exact")).collect()),
        rule(
            "odd.test",
            vec![path("/same", "Exact"), path("/same", "Exact"), path("/same/", "Prefix"), path("/same", "Prefix")],
        ),
    ]);
    let odd_values =
        ["", "yes", "\n", "{}", "$(x)", "`x`", "0", "-1", "a,b", "\"", "location / { }", &"v".repeat(10_000)];
    let annotations = [
        "ssl-redirect",
        "rewrite-target",
        "configuration-snippet",
        "whitelist-source-range",
        "auth-url",
        "canary",
        "server-alias",
        "use-regex",
    ];
    let annotated = annotations.iter().flat_map(|name| odd_values.iter().map(move |value| (name, value)));
    let object = |spec: Value, annotations: Value, number: usize| {
        let mut spec = spec;
        spec["ingressClassName"] = json!(cluster.class);
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": format!("odd-{number}"), "namespace": cluster.namespace, "annotations": annotations},
            "spec": spec,
        })
    };
    let plain = specs.into_iter().map(|spec| (spec, json!({})));
    let with_annotations = annotated.map(|(name, value)| {
        (rule("odd.test", vec![path("/", "Prefix")]), json!({format!("nginx.ingress.kubernetes.io/{name}"): value}))
    });
    let all: Vec<(Value, Value)> = plain.chain(with_annotations).collect();
    all.into_iter().enumerate().map(|(number, (spec, annotations))| object(spec, annotations, number)).collect()
}

fn odd_ingresses_harm_no_good_one() {
    let cluster = Cluster::new("odd");
    let pod = Pod::start("odd");
    cluster
        .api
        .create(&[cluster.service("web", &[&pod]), cluster.host("good", "good.odd-good.test", "web")].join("---\n"));
    let (controller, gateway) = cluster.start(json!({}));
    gateway.answers("good.odd-good.test", "/", &pod);
    let steady = Steady::start(&gateway, "good.odd-good.test", &pod);
    let path = collection("Ingress", &cluster.namespace);
    let accepted = odd_specs(&cluster)
        .iter()
        .filter(|object| cluster.api.call(Method::POST, &path, "application/json", &object.to_string()).status == 201)
        .count();
    assert!(accepted >= 200, "the API server accepts {accepted} of them");
    // What is good and comes after them is served as well.
    cluster.api.create(&cluster.host("late", "late.odd-good.test", "web"));
    gateway.answers("late.odd-good.test", "/", &pod);
    // A controller and a gateway that start among them.
    let (_second, fresh) = cluster.start(json!({}));
    fresh.answers("good.odd-good.test", "/", &pod);
    assert!(controller.diagnostics().len() > 50);
    // Before they are deleted: one for all hosts may outlive the good one for a moment, and answers then.
    let count = steady.end();
    assert!(count > 20, "{count}");
    cluster.api.delete(&path);
    gateway.answers("late.odd-good.test", "/", 404);
}
