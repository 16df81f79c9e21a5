//! The stream to gateways, seen from both ends.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::json;
use sluicegate_process::frames::{Frames, send};
use sluicegate_snapshot::wire::{Frame, Hello, PATH, WIRE};

use crate::Test;
use crate::client;
use crate::harness::{Cluster, Controller, Gateway, Pod, eventually, metric};

/// A port on which nobody listens in a namespace of our own.
pub const NOBODY: u16 = 1;

pub const TESTS: &[Test] = &[
    ("each_process_may_be_restarted", each_process_may_be_restarted),
    ("several_gateways_and_controllers", several_gateways_and_controllers),
    ("a_gateway_that_does_not_read_delays_nobody", a_gateway_that_does_not_read_delays_nobody),
    ("strangers_are_turned_away", strangers_are_turned_away),
    ("nothing_is_served_before_something_is_known", nothing_is_served_before_something_is_known),
];

fn each_process_may_be_restarted() {
    let cluster = Cluster::new("restarts");
    let (blue, green) = (Pod::start("restarts-blue"), Pod::start("restarts-green"));
    cluster.api.create(&[cluster.service("blue", &[&blue]), cluster.service("green", &[&green])].join("---\n"));
    cluster.api.create(&cluster.host("one", "one.restarts.test", "blue"));
    let controller = cluster.controller(json!({}));
    let state = tempfile::tempdir().unwrap();
    let config = json!({"stateDir": state.path()});
    let gateway = Gateway::start(&[controller.publish], config.clone()).ready();
    gateway.answers("one.restarts.test", "/", &blue);

    // The controller is gone: what was served stays served, and what changed meanwhile comes with the next one.
    let publish = controller.publish;
    drop(controller);
    cluster.api.create(&cluster.host("two", "two.restarts.test", "green"));
    cluster.api.delete(&cluster.path("Ingress", "one"));
    assert_eq!(gateway.get("one.restarts.test", "/").header("x-echo"), Some("restarts-blue"));
    // A gateway that starts without a controller serves what it had.
    drop(gateway);
    let gateway = Gateway::start(&[publish], config).ready();
    assert_eq!(gateway.get("one.restarts.test", "/").header("x-echo"), Some("restarts-blue"));
    let controller = cluster.controller(json!({"publish": publish.to_string()}));
    gateway.answers("two.restarts.test", "/", &green);
    gateway.answers("one.restarts.test", "/", 404);

    // Equal content is not sent again.
    let syncs = |controller: &Controller| controller.metric("sluicegate_controller_full_syncs_total").unwrap();
    let publish = controller.publish;
    drop(controller);
    let controller = cluster.controller(json!({"publish": publish.to_string()}));
    eventually("the gateway to be back", || {
        (controller.metric("sluicegate_controller_gateways") == Some(1.0)).then_some(())
    });
    eventually("the gateway to acknowledge what it has", || {
        (controller.metric("sluicegate_controller_gateways_behind") == Some(0.0)).then_some(())
    });
    cluster.api.create(&cluster.host("three", "three.restarts.test", "green"));
    gateway.answers("three.restarts.test", "/", &green);
    assert_eq!(syncs(&controller), 0.0, "it went on where it was");
}

fn several_gateways_and_controllers() {
    let cluster = Cluster::new("several");
    let pod = Pod::start("several");
    cluster.api.create(&[cluster.service("web", &[&pod]), cluster.host("web", "several.test", "web")].join("---\n"));
    let (first, second) = (cluster.controller(json!({})), cluster.controller(json!({})));
    let digest = |controller: &Controller| controller.page("/table").json()["version"]["digest"].clone();
    assert_eq!(digest(&first), digest(&second), "equal worlds give equal snapshots");
    let gateways: Vec<Gateway> =
        (0..3).map(|_| Gateway::start(&[first.publish, second.publish], json!({})).ready()).collect();
    gateways.iter().for_each(|gateway| gateway.answers("several.test", "/", &pod));
    drop(first);
    cluster.api.create(&cluster.host("more", "more.several.test", "web"));
    gateways.iter().for_each(|gateway| gateway.answers("more.several.test", "/", &pod));
    assert_eq!(second.page("/gateways").json().as_array().unwrap().len(), 3);
    assert_eq!(second.metric("sluicegate_controller_full_syncs_total"), Some(0.0), "they moved without a full sync");
    eventually("all to acknowledge", || {
        (second.metric("sluicegate_controller_gateways_behind") == Some(0.0)).then_some(())
    });
}

/// A gateway's end of the stream, to do what no gateway does.
pub async fn stream(publish: SocketAddr, hello: Hello) -> (h2::SendStream<Bytes>, Frames) {
    let tcp = tokio::net::TcpStream::connect(publish).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::builder().method(Method::POST).uri(format!("http://{publish}{PATH}")).body(()).unwrap();
    let (response, mut sender) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    send(&mut sender, &Frame::Hello(hello)).await.unwrap();
    (sender, Frames::of(response.into_body()))
}

pub fn hello(wire: u32) -> Hello {
    Hello {
        wire,
        gateway: "test".into(),
        program: "test".into(),
        have: None,
        have_from: None,
        lacks_keys: false,
        addresses: Vec::new(),
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn a_gateway_that_does_not_read_delays_nobody() {
    let cluster = Cluster::new("stuck");
    let pod = Pod::start("stuck");
    cluster.api.create(&cluster.service("web", &[&pod]));
    let (controller, gateway) = cluster.start(json!({}));
    let runtime = runtime();
    // It says hello, hears the answer, and is never heard of again: nobody drives its connection any more.
    let stuck = runtime.block_on(async {
        let (sender, mut frames) = stream(controller.publish, hello(WIRE)).await;
        assert!(matches!(frames.next().await, Ok(Some(Frame::Welcome(_)))));
        (sender, frames)
    });
    eventually("both gateways", || (controller.metric("sluicegate_controller_gateways") == Some(2.0)).then_some(()));
    for number in 0..20 {
        cluster.api.create(&cluster.host(&format!("web-{number}"), &format!("{number}.stuck.test"), "web"));
        gateway.answers(&format!("{number}.stuck.test"), "/", &pod);
    }
    eventually("the silent one to be given up", || {
        (controller.metric("sluicegate_controller_gateways") == Some(1.0)).then_some(())
    });
    controller.program.says("nothing was heard for 9 s");
    drop(stuck);
}

fn strangers_are_turned_away() {
    let cluster = Cluster::new("strangers");
    let pod = Pod::start("strangers");
    cluster.api.create(&[cluster.service("web", &[&pod]), cluster.host("web", "strangers.test", "web")].join("---\n"));
    let (controller, gateway) = cluster.start(json!({}));
    // Another version of the stream is told which one is spoken, and its stream ends.
    runtime().block_on(async {
        let (_sender, mut frames) = stream(controller.publish, hello(WIRE + 1)).await;
        let Ok(Some(Frame::Welcome(welcome))) = frames.next().await else { panic!("no welcome") };
        assert_eq!(welcome.wire, WIRE);
        let rest = tokio::time::timeout(Duration::from_secs(30), frames.next()).await.expect("an end");
        assert!(matches!(rest, Ok(None) | Err(_)), "{rest:?}");
    });
    // HTTP/1, noise, and another path.
    let mut connection = client::connect(controller.publish);
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("HTTP/1 to be cut", || connection.is_closed().then_some(()));
    let mut connection = client::connect(controller.publish);
    connection.send([0u8; 100]);
    eventually("noise to be cut", || connection.is_closed().then_some(()));
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(controller.publish).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        for (method, path, status) in [(Method::GET, PATH, 405), (Method::POST, "/metrics", 404)] {
            let request = Request::builder().method(method).uri(format!("http://a{path}")).body(()).unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), status);
        }
    });
    // The gateway that is connected has noticed nothing.
    gateway.answers("strangers.test", "/", &pod);
    let page = gateway.page("/metrics").text();
    assert_eq!(metric(&page, "sluicegate_controller_connections_total"), Some(1.0), "{page}");
    assert_eq!(metric(&page, "sluicegate_controller_resyncs_total"), Some(0.0), "{page}");
}

fn nothing_is_served_before_something_is_known() {
    let gateway = Gateway::start(&[([127, 0, 0, 1], NOBODY).into()], json!({}));
    assert_eq!(gateway.page("/readyz").status, 503);
    let response = gateway.get("any.test", "/");
    assert_eq!((response.status, response.header("sluicegate-reason")), (503, Some("NotReady")), "404 would be a lie");
    gateway.program.says("Connection refused");
}
