//! IPv6 from end to end: listeners, clients, endpoints, literals as hosts, and IPv4 clients of a listener for both.

use std::net::{Ipv6Addr, SocketAddr, TcpStream};

use serde_json::json;

use crate::backends::{echo_on, everything_to};
use crate::client::{self, Connection};
use crate::harness::{Gateway, PATIENCE, Start};

const LOOPBACK: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// A gateway that listens for both on one socket, before an endpoint of IPv6.
fn both() -> Start {
    let endpoint = echo_on(SocketAddr::from((LOOPBACK, 0)));
    Start::with(&everything_to(&[endpoint])).set("http", json!(["[::]:0"])).set("https", json!(["[::1]:0"]))
}

fn of(gateway: &Gateway, version: u8) -> SocketAddr {
    let port = gateway.http.port();
    if version == 4 { ([127, 0, 0, 1], port).into() } else { (LOOPBACK, port).into() }
}

#[test]
fn a_listener_for_both_tells_each_client_by_its_own_address() {
    let gateway = both().ready();
    for (version, client) in [(4, "127.0.0.1"), (6, "::1")] {
        let response = client::get(of(&gateway, version), "a.test", "/");
        assert_eq!((response.status, response.echoed("x-forwarded-for")), (200, vec![client.to_owned()]));
        assert_eq!(response.echoed("x-real-ip"), [client]);
    }
    let line = gateway.wait_access(|line| line["client"] == "::1");
    assert!(line["upstream"].as_str().unwrap().starts_with("[::1]:"), "{line}");
    gateway.wait_access(|line| line["client"] == "127.0.0.1");
}

#[test]
fn a_literal_is_a_host_without_its_brackets_or_port() {
    let gateway = both().ready();
    let address = of(&gateway, 6);
    for host in ["[::1]".to_owned(), format!("[::1]:{}", address.port())] {
        let response = client::get(address, &host, "/");
        assert_eq!((response.status, response.echoed("host")), (200, vec![host]));
    }
    for host in ["::1", "[::1", "[::g]", "[::1]x", "[fe80::1%25eth0]"] {
        assert_eq!(client::get(address, host, "/").status, 400, "{host}");
    }
}

#[test]
fn mapped_addresses_and_networks_of_both_are_trusted_alike() {
    let gateway = both().set("trustedProxies", json!(["127.0.0.0/8", "::1/128", "2001:db8::/32"])).ready();
    for version in [4, 6] {
        let mut connection = Connection::over(TcpStream::connect(of(&gateway, version)).unwrap());
        connection.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let forwarded = "2001:4860::1, [2001:db8::2]:99, ::ffff:127.0.0.5";
        let response = connection.request("GET", "a.test", "/", &[("X-Forwarded-For", forwarded)]);
        assert_eq!(response.echoed("x-real-ip"), ["2001:4860::1"], "read from the right, past all that are trusted");
    }
}

#[test]
fn a_subscriber_s_network_is_a_slash_56() {
    let limits = json!({"connectionsPerNetwork": 1});
    let gateway = both().set("limits", limits).ready();
    let mut first = client::connect(of(&gateway, 6));
    assert_eq!(first.request("GET", "a.test", "/", &[]).status, 200);
    assert!(client::connect(of(&gateway, 6)).is_closed());
    // IPv4 on the same socket is a network of its own, and not one /56 with all mapped addresses.
    let mut other = client::connect(of(&gateway, 4));
    assert_eq!(other.request("GET", "a.test", "/", &[]).status, 200);
}
