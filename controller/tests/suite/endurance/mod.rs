//! What goes on for long, in its short form; with `SOAK=1` in full (`make soak`).

pub mod changes;
pub mod load;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::Test;
use crate::harness::{Cluster, Controller, Gateway, POD_PORT, Pod, eventually};
use crate::network;
use crate::scripted::Scripted;
use changes::{COLOURS, Changes};
use load::{Report, Target};

pub const TESTS: &[Test] = &[
    ("many_changes_under_load", many_changes_under_load),
    ("a_controller_that_is_dead", a_controller_that_is_dead),
    ("a_controller_that_is_stopped", a_controller_that_is_stopped),
    ("a_controller_that_is_cut_off", a_controller_that_is_cut_off),
];

/// The short form, or the full one.
pub fn form<T>(short: T, full: T) -> T {
    if std::env::var_os("SOAK").is_some() { full } else { short }
}

/// Waits; there is nothing else to wait for than that nothing happens.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Resident memory of a process, in MiB.
fn resident(id: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Changes and requests go on; now and then the controller is killed and comes back, as in an update of its own. No request may
/// fail, and none be answered by another Service's pods.
fn many_changes_under_load() {
    let (hosts, seconds, per_second) = form((1_000, 6, 300), (10_000, 300, 2_000));
    let pods = COLOURS.map(|colour| [1, 2].map(|number| Pod::start(&format!("{colour}-{number}"))));
    let server = Scripted::start();
    let mut changes =
        Changes::begin(&server, hosts, pods.each_ref().map(|pods| pods.iter().map(|pod| pod.address).collect()));
    let targets = changes.targets();
    let config =
        json!({"watchWithoutClass": true, "publish": format!("127.0.0.1:{}", sluicegate_testbed::free_port())});
    let mut controller = Controller::start(server.kubeconfig(), config.clone()).ready().yields();
    let state = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&[controller.publish], json!({"stateDir": state.path()})).ready();
    let memory = || resident(gateway.program.process.id());
    let quiet = during(&gateway, per_second, &targets, || pass(Duration::from_secs(form(1, 60))));
    // Allocators take a while to have what they need.
    let mut begin = 0.0;
    let changing = during(&gateway, per_second, &targets, || {
        changes.go_on(&server, Duration::from_secs(seconds) / 5);
        begin = memory();
        changes.go_on(&server, Duration::from_secs(seconds) * 4 / 5);
    });
    let end = memory();
    // Three controllers, one after the other: what the gateway has is what is served.
    let restarting = during(&gateway, per_second, &targets, || {
        for _ in 0..3 {
            changes.go_on(&server, Duration::from_secs(seconds) / 15);
            // Its port has to be free before the next one comes.
            controller.program.process.kill();
            controller = Controller::start(server.kubeconfig(), config.clone()).yields();
        }
        changes.go_on(&server, Duration::from_secs(seconds) / 15);
    });
    [&quiet, &changing, &restarting].iter().for_each(|report| report.assert_all_well());
    // All of the last state arrives in the end.
    let digest = |page: crate::client::Response| page.json()["version"]["digest"].clone();
    let controller = controller.ready();
    eventually("the gateway to have what the controller has", || {
        (digest(gateway.page("/table")) == digest(controller.page("/table"))).then_some(())
    });
    let p99 = |report: &Report| report.quantile(0.99).as_secs_f64() * 1e3;
    println!(
        "{hosts} routes, 100 changes/s for {seconds} s: {} requests, 0 wrong; p99 {:.2} ms, quiet {:.2} ms; gateway's memory {begin:.1} MiB after {} s, {end:.1} MiB at the end; 3 restarts of the controller: {} requests, 0 wrong, p99 {:.2} ms",
        changing.requests,
        p99(&changing),
        p99(&quiet),
        seconds / 5,
        restarting.requests,
        p99(&restarting),
    );
}

fn during(gateway: &Gateway, per_second: u32, targets: &[Target], what: impl FnOnce()) -> Report {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load::run(gateway.http, per_second, targets, &over));
        let end = EndsLoad(&over);
        what();
        drop(end);
        load.join().unwrap()
    })
}

/// Ends the load when it is dropped: also where a test fails, which would wait for the load else.
struct EndsLoad<'a>(&'a AtomicBool);

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A cluster with a route, a controller on an address of its own, a gateway, and the route's target.
struct Scene {
    cluster: Cluster,
    pod: Pod,
    address: std::net::Ipv4Addr,
    controller: Controller,
    gateway: Gateway,
    target: Target,
}

impl Scene {
    fn set(name: &str) -> Scene {
        let cluster = Cluster::new(name);
        let pod = Pod::start(name);
        let host = format!("{name}.test");
        cluster.api.create(&[cluster.service("web", &[&pod]), cluster.host("web", &host, "web")].join("---\n"));
        let address = network::address();
        network::assign(address);
        let controller = cluster.controller(json!({"publish": format!("{address}:{POD_PORT}")}));
        let gateway = Gateway::start(&[controller.publish], json!({})).ready();
        let target = Target { host, ingress: format!("{name}/web"), pods: name.to_owned() };
        Scene { cluster, pod, address, controller, gateway, target }
    }

    fn connected(&self) -> bool {
        let page = self.gateway.page("/metrics").text();
        crate::harness::metric(&page, "sluicegate_controller_connected") == Some(1.0)
    }

    /// For as long as `seconds` nothing is heard of the controller: nothing fails, the gateway stays ready, and its configuration
    /// grows old.
    #[track_caller]
    fn endure(&self, seconds: u64) {
        let age =
            || crate::harness::metric(&self.gateway.page("/metrics").text(), "sluicegate_config_age_seconds").unwrap();
        let report = during(&self.gateway, form(100, 1_000), std::slice::from_ref(&self.target), || {
            let lost = Instant::now();
            eventually("the gateway to notice", || (!self.connected()).then_some(()));
            println!("noticed after {:.1?}", lost.elapsed());
            pass(Duration::from_secs(seconds).saturating_sub(lost.elapsed()));
            let (before, at) = (age(), Instant::now());
            pass(Duration::from_millis(1500));
            let grown = age() - before;
            assert!(grown > 1.0 && grown < at.elapsed().as_secs_f64() + 1.0, "the age has grown by {grown} s");
            assert!(before + 1.0 > lost.elapsed().as_secs_f64() - 12.0, "{before} s old");
            assert_eq!(self.gateway.page("/readyz").status, 200);
        });
        report.assert_all_well();
        println!("{} requests in {seconds} s without a controller, 0 failed", report.requests);
    }

    /// What is created now reaches the gateway.
    #[track_caller]
    fn follows(&self) {
        self.cluster.api.create(&self.cluster.host("later", &format!("later.{}", self.target.host), "web"));
        self.gateway.answers(&format!("later.{}", self.target.host), "/", &self.pod);
    }
}

fn a_controller_that_is_dead() {
    let mut scene = Scene::set("endure-dead");
    let config = json!({"publish": scene.controller.publish.to_string()});
    scene.controller.program.process.signal(Signal::KILL);
    scene.endure(form(3, 300));
    scene.controller = scene.cluster.controller(config);
    scene.follows();
}

fn a_controller_that_is_stopped() {
    let scene = Scene::set("endure-stopped");
    scene.controller.program.process.signal(Signal::STOP);
    scene.endure(form(12, 300));
    scene.controller.program.process.signal(Signal::CONT);
    scene.follows();
}

/// No packet gets through: neither side hears the other's end.
fn a_controller_that_is_cut_off() {
    let scene = Scene::set("endure-cut");
    network::unassign(scene.address);
    scene.endure(form(12, 300));
    scene.controller.program.says("nothing was heard for 9 s");
    network::assign(scene.address);
    scene.follows();
}
