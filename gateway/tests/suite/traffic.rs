//! Requests and responses on their way through: framing, streaming, forwarding fields, upgrades.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use serde_json::json;

use crate::backends::{Scripted, echo, everything_to};
use crate::client::{self, Tls, h2c};
use crate::harness::{Gateway, Start};

fn gateway() -> Gateway {
    Start::with(&everything_to(&[echo()])).ready()
}

fn scripted(backend: &Scripted) -> Gateway {
    Start::with(&everything_to(&[backend.address])).ready()
}

#[test]
fn a_connection_is_kept_for_many_requests_on_both_sides() {
    let gateway = gateway();
    let mut connection = client::connect(gateway.http);
    for number in 0..20 {
        let response = connection.request("GET", "a.test", &format!("/{number}"), &[]);
        assert_eq!((response.status, response.json()["target"].as_str()), (200, Some(format!("/{number}").as_str())));
    }
    gateway.wait_metric("sluicegate_connections_accepted_total", &["\"http\""], 1.0);
    gateway.wait_metric("sluicegate_upstream_connect_duration_seconds_count", &[], 1.0);
}

#[test]
fn http_1_0_is_served_and_closed() {
    let gateway = gateway();
    let mut connection = client::connect(gateway.http);
    connection.send("GET /x HTTP/1.0\r\nHost: a.test\r\n\r\n");
    assert_eq!(connection.read(false).status, 200);
    assert!(connection.is_closed());
    assert_eq!(client::raw(gateway.http, "GET / HTTP/1.0\r\n\r\n").status, 200, "no Host is needed");
}

/// An old client would take them for the answer (RFC 9110, 15.2).
#[test]
fn interim_answers_are_not_for_http_1_0() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let gateway = scripted(&Scripted::answering(hints));
    for (version, status) in [("1.0", 200), ("1.1", 103)] {
        let mut connection = client::connect(gateway.http);
        connection.send(format!("GET / HTTP/{version}\r\nHost: a.test\r\n\r\n"));
        assert_eq!(connection.read_head().status, status);
    }
}

/// The end of the connection is the end of such an answer, so one that was cut ends with a reset, or without the end of TLS.
#[test]
fn an_answer_to_http_1_0_that_is_cut_does_not_look_whole() {
    let cut = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
    ];
    for answer in cut {
        let gateway = scripted(&Scripted::answering(answer));
        let mut plain = client::connect(gateway.http);
        let mut tls = Tls::new().alpn(b"\x08http/1.0").connect(gateway.https, Some("a.test"));
        let request = "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n";
        plain.send(request);
        tls.send(request);
        for end in [plain.stream.read_to_end(&mut Vec::new()), tls.stream.read_to_end(&mut Vec::new())] {
            assert!(end.is_err(), "{answer}");
        }
    }
    let whole =
        scripted(&Scripted::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"));
    let mut connection = client::connect(whole.http);
    connection.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    assert_eq!(connection.read(false).body, b"ok");
    // Where it is the request that does not end, the answer is whole all the same.
    let mut connection = client::connect(whole.http);
    connection.send("POST / HTTP/1.0\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello");
    let mut answer = Vec::new();
    connection.stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"\r\n\r\nok"));
}

#[test]
fn protocols_are_switched_as_they_were_asked_to_or_not() {
    let switch = |fields: &str| {
        let backend = Scripted::new({
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            move |mut incoming| incoming.send(&answer)
        });
        let gateway = scripted(&backend);
        let mut connection = client::connect(gateway.http);
        connection.send("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        connection.read_head().status
    };
    for (fields, status) in [
        ("Upgrade: websocket\r\nConnection: Upgrade\r\n", 101),
        ("Upgrade: WebSocket\r\n", 101),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n", 101),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\n", 502),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n", 502),
        ("Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", 502),
        ("Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", 502),
        ("Connection: Upgrade\r\n", 502),
    ] {
        assert_eq!(switch(fields), status, "{fields}");
    }
}

#[test]
fn request_bodies_arrive_however_they_are_framed() {
    let gateway = gateway();
    let body = "x".repeat(100_000);
    let sized = format!("POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(client::raw(gateway.http, sized).json()["bodyBytes"], 100_000);
    let chunked = "POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n";
    assert_eq!(client::raw(gateway.http, chunked).json()["bodyBytes"], 11);
}

#[test]
fn bodies_stream_in_both_directions() {
    // The backend answers the first half of the request's body before it has the second.
    let backend = Scripted::new(|mut incoming| {
        incoming.body_until(b"first");
        incoming.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        incoming.body_until(b"second");
        incoming.send("3\r\ntwo\r\n0\r\n\r\n");
    });
    let gateway = scripted(&backend);
    let mut connection = client::connect(gateway.http);
    connection.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    assert_eq!(connection.read_head().status, 200);
    assert_eq!(connection.some(8), b"3\r\none\r\n");
    connection.send("6\r\nsecond\r\n0\r\n\r\n");
    assert_eq!(connection.some(13), b"3\r\ntwo\r\n0\r\n\r\n");
}

#[test]
fn a_head_does_not_wait_for_its_body() {
    // The backend sends its body only once the client has seen the head.
    let seen = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let shared = seen.clone();
    let backend = Scripted::new(move |mut incoming| {
        incoming.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        let guard = shared.0.lock().unwrap();
        let waited = shared.1.wait_timeout_while(guard, crate::harness::PATIENCE, |seen| !*seen).unwrap();
        assert!(!waited.1.timed_out());
        incoming.send("5\r\nevent\r\n0\r\n\r\n");
    });
    let gateway = scripted(&backend);
    for request in
        ["GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"]
    {
        *seen.0.lock().unwrap() = false;
        let mut plain = client::connect(gateway.http);
        plain.send(request);
        let mut tls = Tls::new().connect(gateway.https, Some("a.test"));
        tls.send(request);
        assert_eq!((plain.read_head().status, tls.read_head().status), (200, 200));
        *seen.0.lock().unwrap() = true;
        seen.1.notify_all();
        assert_eq!((plain.some(10), tls.some(10)), (b"5\r\nevent\r\n".to_vec(), b"5\r\nevent\r\n".to_vec()));
    }
}

#[test]
fn large_responses_arrive_whole() {
    let gateway = gateway();
    let response = gateway.get("a.test", "/?bytes=3000000");
    assert_eq!(response.body.len(), 3_000_000);
    let response = client::get_tls(gateway.https, "a.test", "/?bytes=3000000");
    assert_eq!(response.body.len(), 3_000_000);
}

#[test]
fn a_response_until_close_is_delivered() {
    let backend = Scripted::answering("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    let response = scripted(&backend).get("a.test", "/");
    assert_eq!(response.text(), "until the end");
}

#[test]
fn head_204_and_304_have_no_body() {
    let gateway = gateway();
    let mut connection = client::connect(gateway.http);
    let head = connection.request("HEAD", "a.test", "/", &[]);
    assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 0);
    for status in [204, 304] {
        let response = connection.request("GET", "a.test", &format!("/?status={status}"), &[]);
        assert_eq!(response.status, status);
    }
    assert_eq!(connection.request("GET", "a.test", "/", &[]).status, 200, "the connection is still in step");
}

#[test]
fn expect_100_continue_is_asked_of_the_backend() {
    let backend = Scripted::new(|mut incoming| {
        assert!(incoming.head.to_ascii_lowercase().contains("expect: 100-continue"));
        incoming.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = incoming.body_until(b"body");
        incoming.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        incoming.send(body);
    });
    let gateway = scripted(&backend);
    let mut connection = client::connect(gateway.http);
    connection.send("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(connection.read_head().status, 100);
    connection.send("body");
    assert_eq!(connection.read(false).text(), "body");
}

#[test]
fn forwarding_fields_are_set_by_the_gateway() {
    let gateway = gateway();
    let evil = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X_Forwarded_Host", "evil"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Original-URL", "/evil"),
        ("x-request-id", "evil"),
    ];
    let mut connection = client::connect(gateway.http);
    let response = connection.request("GET", "A.test:81", "/", &evil);
    assert_eq!(response.echoed("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(response.echoed("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(response.echoed("x-forwarded-proto"), ["http"]);
    assert_eq!(response.echoed("x-forwarded-host"), ["A.test:81"]);
    assert_eq!(response.echoed("x-forwarded-port"), [gateway.http.port().to_string()]);
    assert_eq!(response.echoed("x-request-id")[0].len(), 32);
    assert_eq!(response.echoed("host"), ["A.test:81"], "the backend sees the client's Host");
    assert!(!response.text().contains("evil") && !response.text().contains("6.6.6.6"), "{}", response.text());
}

#[test]
fn fields_that_connection_nominates_and_forwarding_fields_stay_ours() {
    let gateway = gateway();
    let mut connection = client::connect(gateway.http);
    let fields = [("Connection", "x-hop, keep-alive"), ("X-Hop", "1")];
    assert!(connection.request("GET", "a.test", "/", &fields).echoed("x-hop").is_empty());
}

#[test]
fn a_trusted_proxy_may_speak_for_its_clients() {
    let gateway = Start::with(&everything_to(&[echo()])).set("trustedProxies", json!(["127.0.0.0/8"])).ready();
    let fields = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https"), ("X-Request-ID", "from-proxy")];
    let response = client::connect(gateway.http).request("GET", "a.test", "/", &fields);
    assert_eq!(response.echoed("x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
    assert_eq!(response.echoed("x-real-ip"), ["203.0.113.7"]);
    assert_eq!(response.echoed("x-forwarded-proto"), ["https"]);
    assert_eq!(response.echoed("x-request-id"), ["from-proxy"]);
    let line = gateway.wait_access(|line| line["requestId"] == "from-proxy");
    assert_eq!(line["client"], "203.0.113.7");
}

#[test]
fn paths_are_forwarded_in_the_form_in_which_they_matched() {
    let gateway = gateway();
    for (sent, seen) in [
        ("/a/../b", "/b"),
        ("/%7euser/%2fx?q=%2f..", "/~user/%2Fx?q=%2f.."),
        ("//a//b", "//a//b"),
        ("/a|b\"c", "/a|b\"c"),
        ("/x?q=\"<>", "/x?q=%22%3C%3E"),
        ("http://a.test/abs?x", "/abs?x"),
    ] {
        assert_eq!(gateway.get("a.test", sent).json()["target"], seen, "{sent}");
    }
    let raw = [b"GET /".as_slice(), &[0xc3, 0xa9], b" HTTP/1.1\r\nHost: a.test\r\n\r\n"].concat();
    assert_eq!(client::raw(gateway.http, raw).json()["target"], "/%C3%A9");
    let latin1 = [b"GET /".as_slice(), &[0xe9], b"?x=", &[0xff], b" HTTP/1.1\r\nHost: a.test\r\n\r\n"].concat();
    assert_eq!(client::raw(gateway.http, latin1).json()["target"], "/%E9?x=%FF");
}

#[test]
fn malformed_requests_get_400_and_the_connection_is_closed() {
    let gateway = gateway();
    for (what, request) in [
        ("control byte", "GET /a\u{1}b HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        ("blank", "GET /a b HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        ("backslash", "GET /a\\b HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        ("encoded NUL", "GET /%00 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        ("bad encoding", "GET /%zz HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        ("no Host", "GET / HTTP/1.1\r\n\r\n"),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n"),
        ("bad Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("relative target", "GET foo HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ] {
        let mut connection = client::connect(gateway.http);
        connection.send(request);
        assert_eq!(connection.read(false).status, 400, "{what}");
        assert!(connection.is_closed(), "{what}");
    }
    assert_eq!(gateway.get("a.test", "/").status, 200);
}

#[test]
fn errors_tell_reason_and_request_id_in_body_metric_and_log() {
    let gateway = Start::with("").ready();
    let response = gateway.get("nobody.test", "/");
    assert_eq!((response.status, response.header("sluicegate-reason")), (404, Some("NoRoute")));
    let id = response.header("x-request-id").unwrap();
    assert!(response.text().contains("NoRoute") && response.text().contains(id));
    let line = gateway.wait_access(|line| line["requestId"] == id);
    assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("NoRoute"), Some(404)));
    gateway.wait_metric("sluicegate_requests_total", &["reason=\"NoRoute\"", "status=\"4xx\"", "method=\"GET\""], 1.0);
    let json = client::request(gateway.http, "GET", "nobody.test", "/", &[("Accept", "application/json")]);
    assert_eq!(json.json()["reason"], "NoRoute");
}

#[test]
fn websocket_upgrades_pass_bytes_both_ways() {
    let backend = Scripted::new(|mut incoming| {
        let head = incoming.head.to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        incoming.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello");
        echo_bytes(&mut incoming.stream);
    });
    let gateway = scripted(&backend);
    let mut connection = client::connect(gateway.http);
    connection.send("GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    let head = connection.read_head();
    assert_eq!((head.status, head.header("upgrade").map(str::to_ascii_lowercase).as_deref()), (101, Some("websocket")));
    assert_eq!(connection.some(5), b"hello");
    for message in [&b"\x81\x02hi"[..], &[7; 10_000]] {
        connection.send(message);
        assert_eq!(connection.some(message.len()), message);
    }
}

fn echo_bytes(stream: &mut TcpStream) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        if stream.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

#[test]
fn http_2_streams_run_side_by_side_on_one_connection() {
    let gateway = gateway();
    h2c::run(async {
        let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
        let slow =
            client.send_request(http::Request::get("https://a.test/slow?delay=300").body(()).unwrap(), true).unwrap().0;
        let quick = h2c::get(&mut client, "https://a.test/quick").await;
        assert_eq!(quick.json()["target"], "/quick");
        assert_eq!(quick.echoed("host"), ["a.test"]);
        assert_eq!(quick.echoed("x-forwarded-proto"), ["https"]);
        assert_eq!(slow.await.unwrap().status(), 200);
    });
    gateway.wait_metric("sluicegate_connections_accepted_total", &["\"https\""], 1.0);
}

#[test]
fn http_2_bodies_and_request_trailers_pass() {
    let gateway = gateway();
    h2c::run(async {
        let (mut client, _connection) = h2c::connect(gateway.https, "a.test").await;
        for trailers in [
            None,
            Some(http::HeaderMap::from_iter([(
                http::HeaderName::from_static("x-sum"),
                http::HeaderValue::from_static("15000"),
            )])),
        ] {
            let request = http::Request::post("https://a.test/").body(()).unwrap();
            let chunks = vec![Bytes::from(vec![b'x'; 10_000]), Bytes::from(vec![b'x'; 5_000])];
            let (response, _) = h2c::exchange(&mut client, request, chunks, trailers).await.unwrap();
            assert_eq!((response.status, response.json()["bodyBytes"].as_u64()), (200, Some(15_000)));
        }
        let big = h2c::get(&mut client, "https://a.test/?bytes=2000000").await;
        assert_eq!(big.body.len(), 2_000_000);
    });
}

#[test]
fn the_health_path_answers_on_the_traffic_ports() {
    let gateway = Start::with("").set("trafficHealthPath", json!("/lb-health")).ready();
    assert_eq!(gateway.get("192.0.2.1", "/lb-health").status, 200);
    assert_eq!(gateway.get("192.0.2.1", "/lb-healthy").status, 404);
}

#[test]
fn a_configured_server_header_stands_on_every_response() {
    let gateway = Start::with(&everything_to(&[echo()])).set("serverHeader", json!("edge")).ready();
    assert_eq!(gateway.get("a.test", "/").header("server"), Some("edge"));
    let bare = Start::with("").set("serverHeader", json!("edge")).ready();
    assert_eq!(bare.get("a.test", "/").header("server"), Some("edge"));
}

#[test]
fn static_content_answers_get_head_and_conditions() {
    let manifests = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: files}}\ndata: {{index.html: '<p>hi', app.js: 'x()'}}\nbinaryData: {{logo.png: iVBORw==}}\n---\n{}",
        crate::backends::ingress(
            "files",
            "spec: {rules: [{http: {paths: [{path: /site, pathType: Prefix, backend: {resource: {kind: ConfigMap, name: files}}}]}}]}"
        )
    );
    let gateway = Start::with(&manifests).ready();
    let page = gateway.get("a.test", "/site/");
    assert_eq!(
        (page.status, page.text().as_str(), page.header("content-type")),
        (200, "<p>hi", Some("text/html; charset=utf-8"))
    );
    assert_eq!(gateway.get("a.test", "/site/logo.png").body, [0x89, b'P', b'N', b'G']);
    let etag = page.header("etag").unwrap();
    assert_eq!(client::request(gateway.http, "GET", "a.test", "/site", &[("If-None-Match", etag)]).status, 304);
    let head = client::request(gateway.http, "HEAD", "a.test", "/site/app.js", &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    assert_eq!(gateway.get("a.test", "/site/gone").status, 404);
    assert_eq!(client::request(gateway.http, "POST", "a.test", "/site/", &[]).status, 405);
}

#[test]
fn heads_that_the_engine_refuses_get_a_reason_an_id_a_count_and_a_log_line() {
    let gateway = gateway();
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\nbad header\r\n\r\n", 400, "BadRequest"),
        ("this is no HTTP\r\n\r\n", 400, "BadRequest"),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 405, "MethodNotAllowed"),
    ] {
        let mut connection = client::connect(gateway.http);
        connection.send(request);
        let response = connection.read(false);
        assert_eq!((response.status, response.header("sluicegate-reason")), (status, Some(reason)), "{request}");
        assert_eq!(response.header("server"), None, "{request}");
        assert!(connection.is_closed(), "{request}");
        let id = response.header("x-request-id").unwrap().to_owned();
        assert!(response.text().contains(&id));
        gateway.wait_access(|line| line["requestId"] == *id && line["reason"] == reason);
    }
    gateway.wait_metric("sluicegate_rejected_total", &["MalformedHead"], 3.0);
    gateway.wait_metric("sluicegate_requests_total", &["reason=\"BadRequest\"", "status=\"4xx\""], 2.0);
}

#[test]
fn raw_control_bytes_and_blanks_are_refused_over_tls_too() {
    let gateway = gateway();
    for target in ["/a\u{1}b", "/a b", "/a\u{7f}"] {
        let mut connection = Tls::new().connect(gateway.https, Some("a.test"));
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!(connection.read(false).status, 400, "{target:?}");
    }
}

#[test]
fn content_length_beside_transfer_encoding_ends_the_connection() {
    let gateway = gateway();
    let mut connection = client::connect(gateway.http);
    connection
        .send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    // Whatever the answer, nothing that follows may be read as a second request.
    connection.read(false);
    assert!(connection.is_closed());
}

#[test]
fn http_1_0_clients_get_no_chunks() {
    let backend =
        Scripted::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    let gateway = scripted(&backend);
    let mut connection = client::connect(gateway.http);
    connection.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    let response = connection.read(false);
    assert_eq!((response.header("transfer-encoding"), response.text().as_str()), (None, "onetwo"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = gateway();
    let mut connection = client::connect(gateway.http);
    connection.send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    for target in ["/1", "/2", "/3"] {
        assert_eq!(connection.read(false).json()["target"], target);
    }
}

#[test]
fn an_answer_of_the_gateway_reaches_clients_that_are_still_sending() {
    let gateway = Start::with("").ready();
    let mut connection = client::connect(gateway.http);
    for _ in 0..2 {
        connection.send("POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nshort");
        assert_eq!(connection.read(false).status, 404, "a short body costs no connection");
    }
    let body = vec![b'x'; 600_000];
    let mut connection = client::connect(gateway.http);
    connection.send(format!("POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len()));
    connection.send(&body);
    assert_eq!(connection.read(false).status, 404, "no reset overtakes the answer");
}

#[test]
fn a_backend_that_dies_after_100_continue_is_a_502() {
    let backend = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 100 Continue\r\n\r\n");
        incoming.body_until(b"body");
    });
    let gateway = scripted(&backend);
    let mut connection = client::connect(gateway.http);
    connection.send("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(connection.read_head().status, 100);
    connection.send("body");
    let response = connection.read(false);
    assert_eq!((response.status, response.header("sluicegate-reason")), (502, Some("UpstreamReset")));
    gateway.wait_access(|line| line["status"] == 502);
}

#[test]
fn a_websocket_is_no_error() {
    let backend = Scripted::new(|mut incoming| {
        incoming.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        incoming.body_until(b"bye");
    });
    let gateway = scripted(&backend);
    let mut connection = client::connect(gateway.http);
    connection.send("GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(connection.read_head().status, 101);
    connection.send("bye");
    assert!(connection.is_closed());
    let line = gateway.wait_access(|line| line["status"] == 101);
    assert_eq!(line["reason"], "Upstream");
}

#[test]
fn other_upgrades_get_no_longer_timeouts() {
    let silent = Scripted::new(|mut incoming| drop(incoming.body_until(b"never")));
    let gateway = Start::with(&everything_to(&[silent.address])).set("timeouts", json!({"upstreamRead": 1})).ready();
    let response = client::request(gateway.http, "GET", "a.test", "/", &[("Upgrade", "h2c")]);
    assert_eq!(response.status, 504);
}

#[test]
fn an_idle_http_2_client_that_never_answers_is_dropped() {
    let gateway = Start::with(&everything_to(&[echo()])).set("timeouts", json!({"keepAlive": 1})).ready();
    let mut connection = Tls::new().alpn(b"\x02h2").connect(gateway.https, Some("a.test"));
    // Preface and empty SETTINGS; nothing after that, no PONG either.
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00");
    let mut rest = Vec::new();
    let _ = connection.stream.read_to_end(&mut rest);
    gateway.wait_metric("sluicegate_connections", &["https"], 0.0);
}
