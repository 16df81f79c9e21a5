//! Start, signals, drain, end.

use serde_json::json;

use crate::backends::{echo, everything_to};
use crate::client::{self, Tls, h2c};
use crate::harness::{Start, eventually};

#[test]
fn sigterm_makes_unready_keeps_accepting_then_ends() {
    let gateway = Start::with(&everything_to(&[echo()])).set("lameDuckSeconds", json!(2)).ready();
    gateway.signal("TERM");
    gateway.wait_log("unready, still accepting");
    assert_eq!(gateway.admin_page("/readyz").status, 503);
    assert_eq!(gateway.get("a.test", "/").status, 200, "still accepting");
    gateway.wait_log("draining");
    assert!(gateway.wait_exit().success());
}

#[test]
fn open_requests_are_finished_and_told_that_the_connection_ends() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let mut busy = client::connect(gateway.http);
    busy.send("GET /?delay=700 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    eventually("the request to be on its way", || {
        (gateway.metric("sluicegate_upstream_inflight", &[]) == 1.0).then_some(())
    });
    gateway.signal("TERM");
    let response = busy.read(false);
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(busy.is_closed());
    assert!(gateway.wait_exit().success());
}

#[test]
fn idle_connections_are_closed_and_the_process_ends_before_the_deadline() {
    let gateway = Start::with(&everything_to(&[echo()])).set("drainSeconds", json!(3600)).ready();
    let mut idle = client::connect(gateway.http);
    assert_eq!(idle.request("GET", "a.test", "/", &[]).status, 200);
    let mut idle_tls = Tls::new().connect(gateway.https, Some("a.test"));
    assert_eq!(idle_tls.request("GET", "a.test", "/", &[]).status, 200);
    gateway.signal("TERM");
    assert!(idle.is_closed() && idle_tls.is_closed());
    assert!(gateway.wait_exit().success());
}

#[test]
fn http_2_clients_get_goaway_and_their_streams_finish() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    h2c::run(async {
        let (mut client, connection) = h2c::connect(gateway.https, "a.test").await;
        let open =
            client.send_request(http::Request::get("https://a.test/?delay=700").body(()).unwrap(), true).unwrap().0;
        // The connection is driven by this runtime, so the wait must let it run.
        while gateway.metric("sluicegate_upstream_inflight", &[]) < 1.0 {
            tokio::task::yield_now().await;
        }
        gateway.signal("TERM");
        assert_eq!(open.await.unwrap().status(), 200);
        drop(client);
        connection.await.unwrap().expect("a graceful end");
    });
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_request_that_never_ends_is_cut_at_the_deadline() {
    let gateway = Start::with(&everything_to(&[echo()])).set("drainSeconds", json!(4)).ready();
    let mut endless = client::connect(gateway.http);
    endless.send("GET /?delay=60000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    eventually("the request", || (gateway.metric("sluicegate_upstream_inflight", &[]) == 1.0).then_some(()));
    let mut idle = client::connect(gateway.http);
    assert_eq!(idle.request("GET", "a.test", "/", &[]).status, 200);
    gateway.signal("TERM");
    gateway.wait_closed("Draining", 1);
    assert!(gateway.wait_exit().success());
}

#[test]
fn sigint_ends_at_once() {
    let gateway = Start::with(&everything_to(&[echo()])).set("lameDuckSeconds", json!(600)).ready();
    let mut busy = client::connect(gateway.http);
    busy.send("GET /?delay=60000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    gateway.signal("INT");
    assert!(gateway.wait_exit().success());
}

#[test]
fn sigint_cuts_a_drain_short() {
    let gateway = Start::with("").set("lameDuckSeconds", json!(600)).ready();
    gateway.signal("TERM");
    gateway.wait_log("unready, still accepting");
    gateway.signal("INT");
    assert!(gateway.wait_exit().success());
}

#[test]
fn connections_that_were_waiting_when_the_drain_began_are_served() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let waiting: Vec<_> = (0..20).map(|_| client::connect(gateway.http)).collect();
    let mut idle = client::connect(gateway.http);
    assert_eq!(idle.request("GET", "a.test", "/", &[]).status, 200);
    gateway.signal("TERM");
    gateway.wait_log("draining");
    for mut connection in waiting.into_iter().chain([idle]) {
        let response = connection.request("GET", "a.test", "/", &[]);
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    }
    assert!(gateway.wait_exit().success());
}
