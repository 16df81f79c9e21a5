//! What a gateway takes from whom: never something older, never without a second look a list that lost most of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Controller, Gateway, POD_PORT, Pod, eventually, metric};
use crate::scripted::{Id, Scripted, Store};

pub const TESTS: &[Test] = &[
    ("a_controller_that_lags_takes_nothing_back", a_controller_that_lags_takes_nothing_back),
    ("a_restore_begins_a_new_epoch", a_restore_begins_a_new_epoch),
    ("a_restore_is_seen_by_a_controller_that_knows_nothing", a_restore_is_seen_by_a_controller_that_knows_nothing),
    ("a_list_that_lost_most_routes_is_looked_at_twice", a_list_that_lost_most_routes_is_looked_at_twice),
    ("a_real_loss_is_taken_in_the_end", a_real_loss_is_taken_in_the_end),
    ("a_list_in_pages_is_watched", a_list_in_pages_is_watched),
];

fn id(plural: &str, name: &str) -> Id {
    Id { plural: plural.to_owned(), namespace: "default".to_owned(), name: name.to_owned() }
}

/// A class, and a Service with this pod.
fn fill(store: &mut Store, pod: &Pod) {
    let class = Id { namespace: String::new(), ..id("ingressclasses", "sluicegate") };
    store.put(class, json!({"metadata": {}, "spec": {"controller": "sluicegate.dev/ingress-controller"}}));
    let ports = json!([{"name": "http", "port": 80, "targetPort": POD_PORT}]);
    store.put(id("services", "web"), json!({"metadata": {}, "spec": {"ports": ports}}));
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": POD_PORT}], "endpoints": [{"addresses": [pod.address.to_string()]}],
    });
    store.put(id("endpointslices", "web-1"), slice);
}

fn ingress(host: &str) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({"metadata": {}, "spec": {"rules": [{"host": host, "http": {"paths": paths}}]}})
}

fn put(server: &Scripted, host: &str) {
    server.edit(|store| store.put(id("ingresses", host), ingress(host)));
}

fn controller(server: &Scripted) -> Controller {
    Controller::start(server.kubeconfig(), json!({"watchWithoutClass": true})).ready()
}

fn epoch(gateway: &Gateway) -> f64 {
    metric(&gateway.page("/metrics").text(), "sluicegate_config_epoch").unwrap()
}

fn connected(controller: &Controller) -> bool {
    controller.metric("sluicegate_controller_gateways") == Some(1.0)
}

fn a_controller_that_lags_takes_nothing_back() {
    let pod = Pod::start("lag");
    // One API server, seen by two controllers: the second one's watches say nothing any more.
    let (near, far) = (Scripted::start(), Scripted::start());
    [&near, &far].iter().for_each(|server| server.edit(|store| fill(store, &pod)));
    let (first, second) = (controller(&near), controller(&far));
    far.faults(|faults| faults.silent = true);
    let gateway = Gateway::start(&[first.publish, second.publish], json!({})).ready();
    [&near, &far].iter().for_each(|server| put(server, "new.test"));
    gateway.answers("new.test", "/", &pod);
    drop(first);
    eventually("the gateway at the second controller", || connected(&second).then_some(()));
    // It knows less than the gateway, lists everything, and knows it then.
    while second.metric("sluicegate_controller_gateways_behind") != Some(0.0) {
        assert_eq!(gateway.get("new.test", "/").status, 200, "the route was taken back");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    second.program.says("everything is listed anew");
    assert_eq!((epoch(&gateway), gateway.get("new.test", "/").status), (0.0, 200));
    far.faults(|faults| faults.silent = false);
    put(&far, "newer.test");
    gateway.answers("newer.test", "/", &pod);
}

fn a_restore_begins_a_new_epoch() {
    let pod = Pod::start("restore");
    let server = Scripted::start();
    server.edit(|store| fill(store, &pod));
    put(&server, "old.test");
    let backup = server.edit(|store| store.clone());
    let controller = controller(&server);
    let gateway = Gateway::start(&[controller.publish], json!({})).ready();
    for number in 0..5 {
        put(&server, &format!("new{number}.test"));
    }
    gateway.answers("new4.test", "/", &pod);
    server.restore(backup);
    gateway.answers("new4.test", "/", 404);
    gateway.answers("old.test", "/", &pod);
    eventually("a new epoch", || (epoch(&gateway) == 1.0).then_some(()));
    put(&server, "after.test");
    gateway.answers("after.test", "/", &pod);
    controller.program.says("restored from an older state");
}

/// The controller was started after the restore: only the gateway remembers what there was.
fn a_restore_is_seen_by_a_controller_that_knows_nothing() {
    let pod = Pod::start("memory");
    let server = Scripted::start();
    server.edit(|store| fill(store, &pod));
    put(&server, "old.test");
    let backup = server.edit(|store| store.clone());
    let first = controller(&server);
    let publish = first.publish.to_string();
    let gateway = Gateway::start(&[first.publish], json!({})).ready();
    put(&server, "new.test");
    gateway.answers("new.test", "/", &pod);
    drop(first);
    server.restore(backup);
    let config = json!({"watchWithoutClass": true, "publish": publish});
    let second = Controller::start(server.kubeconfig(), config).ready();
    gateway.answers("new.test", "/", 404);
    gateway.answers("old.test", "/", &pod);
    assert_eq!(epoch(&gateway), 1.0);
    second.program.says("a gateway has seen more than it knows");
}

/// A server with 24 routes, and a gateway that has them.
fn many(name: &str) -> (Pod, Scripted, Controller, Gateway) {
    let pod = Pod::start(name);
    let server = Scripted::start();
    server.edit(|store| {
        fill(store, &pod);
        for number in 0..24 {
            let host = format!("h{number:02}.test");
            store.put(id("ingresses", &host), ingress(&host));
        }
    });
    let controller = controller(&server);
    let gateway = Gateway::start(&[controller.publish], json!({})).ready();
    gateway.answers("h23.test", "/", &pod);
    (pod, server, controller, gateway)
}

/// Has the controller list everything anew.
fn relist(server: &Scripted) {
    server.edit(|store| {
        store.pass();
        store.compact();
    });
    server.cut();
}

fn a_list_that_lost_most_routes_is_looked_at_twice() {
    let (_pod, server, controller, gateway) = many("twice");
    let (failed, asked, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                asked.fetch_add(1, Ordering::SeqCst);
                if gateway.get("h23.test", "/").status != 200 {
                    failed.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        // The API server answers with less than half of its objects, and then with all of them.
        server.faults(|faults| faults.loses_after = Some(5));
        relist(&server);
        gateway.program.says("19 of 24 routes are gone in what it sends");
        eventually("the metric", || {
            (metric(&gateway.page("/metrics").text(), "sluicegate_controller_held") == Some(1.0)).then_some(())
        });
        server.faults(|faults| faults.loses_after = None);
        relist(&server);
        eventually("nothing to be held any more", || {
            (metric(&gateway.page("/metrics").text(), "sluicegate_controller_held") == Some(0.0)).then_some(())
        });
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(failed.load(Ordering::SeqCst), 0, "of {}", asked.load(Ordering::SeqCst));
    assert_eq!(gateway.get("h23.test", "/").status, 200);
    controller.program.says("a gateway holds back");
}

fn a_real_loss_is_taken_in_the_end() {
    let (pod, server, _controller, gateway) = many("loss");
    server.edit(|store| {
        store.objects.retain(|id, _| id.plural != "ingresses" || id.name == "h00.test");
        store.compact();
    });
    relist(&server);
    gateway.program.says("23 of 24 routes are gone in what it sends");
    // Confirmed by a second listing.
    gateway.answers("h23.test", "/", 404);
    gateway.answers("h00.test", "/", &pod);
    // What is deleted object by object is not held back.
    let (_pod, server, _controller, gateway) = many("deleted");
    server.edit(|store| {
        for number in 0..24 {
            store.delete(&id("ingresses", &format!("h{number:02}.test")));
        }
    });
    gateway.answers("h23.test", "/", 404);
    assert!(!gateway.program.said().contains("routes are gone"));
}

/// Where lists are not streamed, one is followed by a watch, and not by the next list.
fn a_list_in_pages_is_watched() {
    let pod = Pod::start("pages");
    let server = Scripted::start();
    server.faults(|faults| (faults.pages_only, faults.page) = (true, 2));
    server.edit(|store| fill(store, &pod));
    let controller = controller(&server);
    let gateway = Gateway::start(&[controller.publish], json!({})).ready();
    let lists = || controller.metric("sluicegate_controller_lists_total{kind=\"Ingress\"}");
    let before = lists();
    for number in 0..5 {
        let host = format!("p{number}.test");
        put(&server, &host);
        gateway.answers(&host, "/", &pod);
    }
    assert_eq!(lists(), before);
}
