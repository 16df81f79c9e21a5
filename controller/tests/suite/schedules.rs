//! Seeded schedules of edits and faults against the scripted API server: whatever happens, the controller publishes in the end
//! what is there, soon after the last fault, and on the way no route that was there in no state.
//!
//! A failure names its seed: `SEED=17 cargo test -p sluicegate-controller --test suite schedules` runs that one alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sluicegate_snapshot::model::Target;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::wire::{Frame, Heartbeat, Received, Receiver, WIRE};
use sluicegate_snapshot::{Edit, Settings, World};

use crate::Test;
use crate::delivery::{hello, runtime, stream};
use crate::harness::{Controller, eventually};
use crate::objects::object;
use crate::scripted::{Id, Scripted, Store};

pub const TESTS: &[Test] = &[("they_converge_and_nothing_flaps", they_converge_and_nothing_flaps)];

/// How many schedules are run; `SCHEDULES` in the environment runs more.
const SCHEDULES: u64 = 200;

/// How many at a time: mostly they wait.
const AT_A_TIME: usize = 12;

/// How soon after the last fault the controller publishes what is there.
const CONVERGES_WITHIN: Duration = Duration::from_secs(5);

/// Ingresses, each with a host of its own.
const HOSTS: usize = 6;

const NAMESPACE: &str = "shop";

fn they_converge_and_nothing_flaps() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|text| text.parse().ok()) {
        println!("schedule {seed} converged in {:?}", run(seed));
        return;
    }
    let count = std::env::var("SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(SCHEDULES);
    let next = AtomicU64::new(0);
    let slowest = Mutex::new((Duration::ZERO, 0));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let took = run(seed);
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = (*slowest).max((took, seed));
                }
            });
        }
    });
    println!("schedules: {count}, the slowest converged in {:?}", slowest.lock().unwrap());
}

/// What a host's route was, one after the other: its path, or nothing.
type Lives = BTreeMap<String, Vec<Option<String>>>;

/// One schedule: the server, what was done to it, and what the controller may have published by now.
struct Schedule {
    random: StdRng,
    server: Scripted,
    /// Every state that each host was in.
    lives: Lives,
    generation: u64,
    saved: Option<Store>,
}

fn id(plural: &str, name: impl Into<String>) -> Id {
    Id { plural: plural.to_owned(), namespace: NAMESPACE.to_owned(), name: name.into() }
}

/// Runs a schedule; returns how long it took from the last fault to the published truth.
fn run(seed: u64) -> Duration {
    let server = Scripted::start();
    let mut schedule =
        Schedule { random: StdRng::seed_from_u64(seed), server, lives: Lives::new(), generation: 0, saved: None };
    schedule.set_up();
    let config = json!({"watchWithoutClass": true});
    let controller = Controller::start(schedule.server.kubeconfig(), config).ready();
    let follower = Follower::start(controller.publish, seed);
    let mut told = Vec::new();
    for _ in 0..schedule.random.random_range(8..20) {
        told.push(schedule.step());
    }
    schedule.server.faults(|faults| {
        *faults = crate::scripted::Faults { pages_only: faults.pages_only, page: faults.page, ..Default::default() };
    });
    let healed = Instant::now();
    let expected = schedule.expected();
    let digest = || controller.page("/table").json()["version"]["digest"].as_str().unwrap_or_default().to_owned();
    while digest() != expected {
        if healed.elapsed() > CONVERGES_WITHIN {
            let table = controller.page("/table").text();
            panic!("seed {seed} does not converge after {told:?}: {table}\n{}", controller.program.said());
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let took = healed.elapsed();
    eventually("the follower to have it", || (follower.digest() == expected).then_some(()));
    let seen = follower.stop();
    for (host, seen) in &seen {
        let lived = schedule.lives.get(host).cloned().unwrap_or_else(|| vec![None]);
        assert!(is_part_of(seen, &lived), "seed {seed}: {host} was {seen:?}, its states were {lived:?}; {told:?}");
    }
    took
}

/// Whether all of `seen` is in `lived`, in that order.
fn is_part_of(seen: &[Option<String>], lived: &[Option<String>]) -> bool {
    let mut lived = lived.iter();
    seen.iter().all(|state| lived.any(|other| other == state))
}

impl Schedule {
    fn set_up(&mut self) {
        self.server.edit(|store| {
            let class =
                Id { plural: "ingressclasses".to_owned(), namespace: String::new(), name: "sluicegate".to_owned() };
            store.put(class, json!({"metadata": {}, "spec": {"controller": "sluicegate.dev/ingress-controller"}}));
        });
        for service in 0..3 {
            self.put_service(service);
            self.put_slice(service);
        }
        for host in 0..HOSTS {
            self.put_ingress(host);
        }
        self.put_secret();
        self.save();
    }

    /// One step, chosen by the seed: mostly an edit, else a fault. Returns its name.
    fn step(&mut self) -> &'static str {
        let pause = self.random.random_range(0..60);
        std::thread::park_timeout(Duration::from_millis(pause));
        match self.random.random_range(0..40) {
            0..=7 => {
                let host = self.random.random_range(0..HOSTS);
                self.put_ingress(host);
                "put an Ingress"
            }
            8..=10 => {
                let host = self.random.random_range(0..HOSTS);
                self.delete_ingress(host);
                "delete an Ingress"
            }
            11..=15 => {
                let service = self.random.random_range(0..3);
                self.put_slice(service);
                "put endpoints"
            }
            16 => {
                let service = self.random.random_range(0..3);
                self.server.edit(|store| store.delete(&id("services", format!("s{service}"))));
                "delete a Service"
            }
            17 => {
                let service = self.random.random_range(0..3);
                self.put_service(service);
                "put a Service"
            }
            18 => {
                self.put_secret();
                "put a Secret"
            }
            19 => {
                self.server.edit(|store| store.delete(&id("secrets", "tls")));
                "delete a Secret"
            }
            20..=22 => {
                self.server.cut();
                "cut the connections"
            }
            23..=26 => {
                let status = [429, 500, 503, 401, 403][self.random.random_range(0..5)];
                self.server.faults(|faults| faults.refuses = Some(status));
                self.server.cut();
                match status {
                    429 => "refuse with 429",
                    401 => "refuse with 401",
                    403 => "refuse with 403",
                    _ => "refuse with 5xx",
                }
            }
            27..=28 => {
                self.server.faults(|faults| faults.refuses = None);
                "refuse no more"
            }
            29..=30 => {
                let in_stream = self.random.random();
                self.server.faults(|faults| faults.gone_in_stream = in_stream);
                self.server.edit(|store| {
                    store.pass();
                    store.compact();
                });
                self.server.cut();
                "compact"
            }
            31 => {
                self.server.bookmark();
                "bookmark"
            }
            32 => {
                let repeats = self.random.random();
                self.server.faults(|faults| faults.repeats = repeats);
                "say things twice and late"
            }
            33 => {
                self.server.faults(|faults| faults.cuts_lines = true);
                "cut lines"
            }
            34 => {
                self.server.faults(|faults| faults.cuts_lines = false);
                "cut no lines"
            }
            35 => {
                let (pages_only, page, expired) =
                    (self.random.random(), self.random.random_range(0..4), self.random.random_range(0..3));
                self.server.faults(|faults| {
                    (faults.pages_only, faults.page, faults.expired_pages) = (pages_only, page, expired);
                });
                "pages"
            }
            36 => {
                let time = self.random.random_range(10..400);
                self.server.vanish(Duration::from_millis(time));
                "vanish"
            }
            37 => {
                self.save();
                "back up"
            }
            38 => self.restore(),
            _ => {
                let more = self.random.random_range(5..15);
                for _ in 0..more {
                    let host = self.random.random_range(0..HOSTS);
                    self.put_ingress(host);
                }
                "put many Ingresses"
            }
        }
    }

    fn live(&mut self, host: usize, state: Option<String>) {
        self.lives.entry(format!("h{host}.test")).or_insert_with(|| vec![None]).push(state);
    }

    fn put_ingress(&mut self, host: usize) {
        self.generation += 1;
        let path = format!("/g{}", self.generation);
        let backend = json!({"service": {"name": format!("s{}", host % 3), "port": {"number": 80}}});
        let paths = json!([{"path": path, "pathType": "Exact", "backend": backend}]);
        let tls = if host == 0 { json!([{"hosts": ["h0.test"], "secretName": "tls"}]) } else { json!([]) };
        let created = format!("2026-01-01T00:00:{:02}Z", host);
        let ingress = json!({
            "metadata": {"creationTimestamp": created},
            "spec": {"tls": tls, "rules": [{"host": format!("h{host}.test"), "http": {"paths": paths}}]},
        });
        self.live(host, Some(path));
        self.server.edit(|store| store.put(id("ingresses", format!("i{host}")), ingress));
    }

    fn delete_ingress(&mut self, host: usize) {
        self.live(host, None);
        self.server.edit(|store| store.delete(&id("ingresses", format!("i{host}"))));
    }

    fn put_service(&mut self, service: usize) {
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        self.server.edit(|store| {
            store.put(id("services", format!("s{service}")), json!({"metadata": {}, "spec": {"ports": ports}}))
        });
    }

    fn put_slice(&mut self, service: usize) {
        let endpoints: Vec<Value> = (0..self.random.random_range(1..4))
            .map(|_| json!({"addresses": [format!("10.0.0.{}", self.random.random_range(1..200))]}))
            .collect();
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        self.server.edit(|store| store.put(id("endpointslices", format!("s{service}-1")), slice));
    }

    fn put_secret(&mut self) {
        let pair = crate::pki::ecdsa(&["h0.test"]);
        let encode = |text: &str| openssl::base64::encode_block(text.as_bytes()).replace('\n', "");
        let data = json!({"tls.crt": encode(&pair.certificate), "tls.key": encode(&pair.key)});
        let secret = json!({"metadata": {}, "type": "kubernetes.io/tls", "data": data});
        self.server.edit(|store| store.put(id("secrets", "tls"), secret));
    }

    fn save(&mut self) {
        self.saved = Some(self.server.edit(|store| store.clone()));
    }

    /// The API server's etcd is restored from the last backup. Whoever is connected hears of it by a broken connection only.
    fn restore(&mut self) -> &'static str {
        let Some(saved) = self.saved.clone() else { return "nothing to restore" };
        for host in 0..HOSTS {
            let ingress = saved.objects.get(&id("ingresses", format!("i{host}")));
            let path = ingress.and_then(|ingress| ingress["spec"]["rules"][0]["http"]["paths"][0]["path"].as_str());
            self.live(host, path.map(str::to_owned));
        }
        self.server.restore(saved);
        "restore"
    }

    /// The digest of what is there.
    fn expected(&self) -> String {
        let settings = sluicegate_controller::settings::Settings { watch_without_class: true, ..Default::default() };
        let mut settings = Settings { guarded: false, ..settings.compile().unwrap() };
        settings.reach.api_server.insert(self.server.address());
        let mut world = World::new(settings);
        let typed = |mut value: Value| {
            let spec = &value["spec"];
            let kind = match (&value["type"], &value["addressType"]) {
                (Value::String(_), _) => "Secret",
                (_, Value::String(_)) => "EndpointSlice",
                _ if spec["controller"].is_string() => "IngressClass",
                _ if spec["ports"].is_array() => "Service",
                _ => "Ingress",
            };
            value["kind"] = json!(kind);
            Edit::Put(object(value))
        };
        world.apply(self.server.objects().into_iter().map(typed));
        world.snapshot().version.digest.to_string()
    }
}

/// A gateway's end of the stream that notes what each host's route was.
struct Follower {
    shared: Arc<Mutex<Seen>>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    replica: Replica,
    lives: Lives,
}

impl Seen {
    fn note(&mut self) {
        let snapshot = self.replica.snapshot();
        let path_of = |host: &sluicegate_snapshot::key::HostPattern| {
            let route = snapshot.hosts.get(host)?.routes.first()?;
            matches!(route.target, Target::Backend(_)).then(|| route.path.to_string())
        };
        for host in 0..HOSTS {
            let name = format!("h{host}.test");
            let path = path_of(&sluicegate_snapshot::key::HostPattern::Exact(name.as_str().into()));
            let lived = self.lives.entry(name).or_insert_with(|| vec![None]);
            if lived.last() != Some(&path) {
                lived.push(path);
            }
        }
    }
}

impl Follower {
    fn start(publish: std::net::SocketAddr, seed: u64) -> Follower {
        let shared = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let seen = shared.clone();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! {
                    () = follow(publish, seed, &seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Follower { shared, stop, thread }
    }

    fn digest(&self) -> String {
        self.shared.lock().unwrap().replica.snapshot().version.digest.to_string()
    }

    fn stop(self) -> Lives {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
        std::mem::take(&mut self.shared.lock().unwrap().lives)
    }
}

async fn follow(publish: std::net::SocketAddr, seed: u64, seen: &Mutex<Seen>) {
    let (mut sender, mut frames) = stream(publish, hello(WIRE)).await;
    let mut receiver = Receiver::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(3));
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            _ = ticks.tick() => {
                let _ = sluicegate_process::frames::send(&mut sender, &Frame::Heartbeat(Heartbeat::default())).await;
                continue;
            }
        };
        let Ok(Some(frame)) = frame else { panic!("seed {seed}: the stream ended: {frame:?}") };
        let mut seen = seen.lock().unwrap();
        match receiver.take(frame, seen.replica.snapshot()) {
            Received::Delta(delta, _) => {
                delta
                    .version
                    .may_follow(&seen.replica.snapshot().version)
                    .unwrap_or_else(|behind| panic!("seed {seed}: {behind}"));
                seen.replica.apply(&delta);
                seen.note();
            }
            Received::Current(version) if version.digest == seen.replica.snapshot().version.digest => {
                seen.replica.adopt(version);
            }
            Received::Nothing | Received::Current(_) => {}
            Received::Resync(why) => panic!("seed {seed}: {why}"),
        }
    }
}
