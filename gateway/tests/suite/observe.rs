//! Metrics, access log, admin pages; a real Prometheus.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::backends::{echo, everything_to};
use crate::client;
use crate::harness::{Gateway, Start, eventually};

fn busy_gateway() -> Gateway {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    assert_eq!(gateway.get("a.test", "/").status, 200);
    assert_eq!(client::request(gateway.http, "BREW", "a.test", "/", &[]).status, 200);
    assert_eq!(client::get_tls(gateway.https, "a.test", "/?status=503").status, 503);
    assert_eq!(client::raw(gateway.http, "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n").status, 400);
    gateway
}

#[test]
fn requests_are_counted_by_method_status_and_reason() {
    let gateway = busy_gateway();
    gateway.wait_metric("sluicegate_request_duration_seconds_count", &[], 4.0);
    let count = |labels: &[&str]| gateway.metric("sluicegate_requests_total", labels);
    assert_eq!(count(&["method=\"GET\"", "status=\"2xx\"", "reason=\"Upstream\""]), 1.0);
    assert_eq!(count(&["method=\"OTHER\"", "status=\"2xx\""]), 1.0);
    assert_eq!(count(&["status=\"5xx\"", "reason=\"Upstream\""]), 1.0);
    assert_eq!(count(&["status=\"4xx\"", "reason=\"BadRequest\""]), 1.0);
    gateway.wait_metric("sluicegate_request_duration_seconds_count", &[], 4.0);
}

#[test]
fn every_name_of_the_contract_is_there() {
    let gateway = busy_gateway();
    let page = gateway.admin_page("/metrics").text();
    for name in [
        "requests_total",
        "request_duration_seconds",
        "upstream_connect_duration_seconds",
        "upstream_retries_total",
        "upstream_inflight",
        "endpoint_health",
        "connections",
        "tls_handshakes_total",
        "rejected_total",
        "config_version",
        "config_age_seconds",
    ] {
        assert!(page.contains(&format!("# TYPE sluicegate_{name} ")), "{name}\n{page}");
    }
}

#[test]
fn clients_cannot_make_labels() {
    let gateway = busy_gateway();
    for number in 0..50 {
        gateway.get(&format!("h{number}.test"), &format!("/{number}"));
        client::request(gateway.http, &format!("M{number}"), "a.test", "/", &[]);
    }
    let page = gateway.admin_page("/metrics").text();
    let series = page.lines().filter(|line| line.starts_with("sluicegate_requests_total")).count();
    assert!(series <= 6, "{series} series");
}

#[test]
fn promtool_finds_the_page_clean() {
    let page = busy_gateway().admin_page("/metrics");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: install the package prometheus");
    std::io::Write::write_all(promtool.stdin.as_mut().unwrap(), &page.body).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
}

/// Ends a process when the test does.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_the_gateway() {
    let gateway = busy_gateway();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "scrape_configs: [{{job_name: gateway, scrape_interval: 1s, static_configs: [{{targets: ['{}']}}]}}]\n",
            gateway.admin
        ),
    )
    .unwrap();
    // Prometheus cannot choose a port itself and tell it.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus: install the package prometheus");
    let _ended = Ended(prometheus);
    let value = eventually("Prometheus to have scraped", || {
        let stream = std::net::TcpStream::connect(address).ok()?;
        drop(stream);
        let answer = client::get(address, "prometheus", "/api/v1/query?query=sum(sluicegate_requests_total)");
        let json: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        json["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    });
    assert_eq!(value, "4");
}

#[test]
fn access_log_lines_tell_the_whole_story() {
    let gateway = busy_gateway();
    let line = gateway.wait_access(|line| line["target"] == "/?status=503");
    for (key, value) in [
        ("client", json!("127.0.0.1")),
        ("scheme", json!("https")),
        ("protocol", json!("HTTP/1.1")),
        ("method", json!("GET")),
        ("host", json!("a.test")),
        ("status", json!(503)),
        ("reason", json!("Upstream")),
        ("ingress", json!("default/web")),
        ("backend", json!("default/web:80")),
        ("path", json!("/")),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    assert!(line["durationMs"].as_f64() >= line["upstreamMs"].as_f64());
    assert!(line["bytesOut"].as_u64() > Some(0));
}

#[test]
fn lines_of_each_reason_are_bounded_and_what_is_refused_is_counted_exactly() {
    let gateway = Start::with(&everything_to(&[echo()]))
        .set("workers", 1.into())
        .set("accessLog", json!({"perReason": 10}))
        .ready();
    let refused = 300;
    for _ in 0..refused {
        assert_eq!(client::raw(gateway.http, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n").status, 400);
        assert_eq!(gateway.get("a.test", "/").status, 200);
    }
    gateway.wait_metric("sluicegate_requests_total", &["BadRequest"], f64::from(refused));
    gateway.wait_metric("sluicegate_rejected_total", &["MalformedHead"], f64::from(refused));
    let suppressed = gateway.metric("sluicegate_access_log_suppressed_total", &["reason=\"BadRequest\""]);
    let lines = |status: &str| gateway.access_log().iter().filter(|line| line.contains(status)).count();
    let served = eventually("the lines of what was served", || (lines("\"status\":200") == 300).then_some(300));
    let (written, seconds) = (lines("\"status\":400"), suppressed);
    assert_eq!(written as f64 + seconds, f64::from(refused), "each line is there, or counted");
    assert!(written < 150 && served == 300, "{written} lines of refusals");
}

#[test]
fn the_access_log_can_be_off_sampled_or_a_file() {
    let backend = echo();
    let off = Start::with(&everything_to(&[backend])).set("accessLog", json!({"enabled": false})).ready();
    off.get("a.test", "/");
    let sampled = Start::with(&everything_to(&[backend])).set("accessLog", json!({"sample": 0.0})).ready();
    sampled.get("a.test", "/");
    sampled.get("a.test", "/%zz");
    sampled.wait_access(|line| line["reason"] == "BadRequest");
    assert_eq!(sampled.access_log().len(), 1, "failures are always logged");
    assert!(off.access_log().is_empty());

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let file = Start::with(&everything_to(&[backend])).set("accessLog", json!({"path": path})).ready();
    file.get("a.test", "/one");
    let holds =
        |text: &str| eventually("the line", || std::fs::read_to_string(&path).ok()?.contains(text).then_some(()));
    holds("/one");
    std::fs::rename(&path, directory.path().join("old.log")).unwrap();
    file.signal("HUP");
    eventually("the new file", || path.exists().then_some(()));
    file.get("a.test", "/two");
    holds("/two");
}

#[test]
fn a_route_label_is_there_when_asked_for() {
    let gateway = Start::with(&everything_to(&[echo()])).set("metricsPerRoute", json!(true)).ready();
    gateway.get("a.test", "/");
    gateway.wait_metric("sluicegate_requests_total", &["route=\"default/web\""], 1.0);
}

#[test]
fn admin_explains_and_the_metrics_listener_does_not() {
    let gateway = Start::with(&everything_to(&[echo()])).set("metrics", json!("127.0.0.1:0"));
    let gateway = gateway.set("publicPorts", json!({"http": 8081, "https": 8444})).ready();
    let answer = gateway.admin_page("/explain?method=GET&url=http%3A%2F%2Fa.test%2Fx%2F..%2Fy&header=X-A%3A+b").json();
    assert_eq!(
        (&answer["reason"], &answer["ingress"]["name"], &answer["upstream"]["target"]),
        (&json!("Upstream"), &json!("web"), &json!("/y"))
    );
    let fields = answer["upstream"]["headers"].as_array().unwrap();
    assert!(fields.contains(&json!(["x-forwarded-port", "8081"])), "as clients see it: {fields:?}");
    assert_eq!(gateway.admin_page("/explain").status, 400);
    assert_eq!(gateway.admin_page("/nothing").status, 404);
    assert_eq!(gateway.admin_page("/healthz").status, 200);
    let line = gateway.log().into_iter().find(|line| line.contains("\"purpose\":\"metrics\"")).unwrap();
    let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
    let metrics = fields["fields"]["address"].as_str().unwrap().parse().unwrap();
    for (page, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/table", 404),
        ("/explain?url=http://a/", 404),
        ("/diagnostics", 404),
    ] {
        assert_eq!(client::get(metrics, "m", page).status, status, "{page}");
    }
}
