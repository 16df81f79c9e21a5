//! The command line: checks, explanations, and what bad input gets.

use std::process::{Command, Output};

use serde_json::Value;

use crate::backends::{ingress, service};

fn sluicegate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A directory with one manifest file.
fn manifests(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("main.yaml"), text).unwrap();
    directory
}

fn web() -> String {
    format!(
        "{}---\n{}",
        service("web", "127.0.0.1:9"),
        ingress(
            "web",
            "spec: {rules: [{host: a.test, http: {paths: [{path: /x, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}"
        )
    )
}

#[test]
fn usage_errors_exit_with_64_and_name_the_nearest() {
    for (args, part) in [
        (vec!["run", "--manifest", "x"], "--manifests"),
        (vec!["rum"], "run"),
        (vec!["run"], "--manifests DIR"),
        (vec!["run", "--manifests", "x", "--http", "nowhere"], "--http"),
        (vec!["run", "--manifests", "x", "--workers", "0"], "workers"),
        (vec!["run", "--manifests", "x", "--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (vec!["run", "--manifests", "x", "--default-backend", "web"], "defaultBackend"),
        (vec!["run", "--manifests", "x", "--default-certificate", "web"], "defaultCertificate"),
        (vec!["run", "--manifests", "x", "--configmap", "web"], "configmap"),
        (vec!["check"], "PATH"),
        (vec!["explain", "--manifests", "x", "GET", "a.test"], "http://HOST/PATH"),
        (vec![], "Usage"),
    ] {
        let output = sluicegate(&args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(part), "{args:?}: {}", said(&output));
    }
    assert_eq!(sluicegate(&["--help"]).status.code(), Some(0));
}

#[test]
fn unknown_keys_of_the_file_name_the_nearest() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("c.yaml");
    std::fs::write(&config, "manifest: [x]\n").unwrap();
    let output = sluicegate(&["run", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("did you mean `manifests`"), "{}", said(&output));
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let directory = manifests(&web());
    for flag in ["--http", "--admin"] {
        let mut args = vec!["run", "--manifests", directory.path().to_str().unwrap(), "--https", "127.0.0.1:0"];
        if flag == "--admin" {
            args.extend(["--http", "127.0.0.1:0"]);
        }
        args.extend([flag, &address]);
        let output = sluicegate(&args);
        assert_eq!(output.status.code(), Some(69), "{}", said(&output));
        assert!(said(&output).contains(&address) && said(&output).contains("another process"), "{}", said(&output));
    }
}

#[test]
fn check_says_what_is_wrong_and_exits_by_it() {
    let good = manifests(&web());
    let path = |directory: &tempfile::TempDir| directory.path().to_str().unwrap().to_owned();
    let output = sluicegate(&["check", &path(&good)]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("1 Ingresses would be served"));

    let dangling = manifests(&web().replace("{name: web, port", "{name: gone, port"));
    let output = sluicegate(&["check", &path(&dangling)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output)
            .contains("main.yaml:8: Ingress default/web: spec.rules[0].http.paths[0].backend: ServiceNotFound"),
        "{}",
        said(&output)
    );

    let broken = manifests(&format!("{}---\nkind: [\n", web()));
    let output = sluicegate(&["check", &path(&broken)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("main.yaml:") && said(&output).contains("no readable YAML"), "{}", said(&output));

    assert_eq!(sluicegate(&["check", "/nonexistent"]).status.code(), Some(2));

    let json = sluicegate(&["check", "--output", "json", &path(&dangling)]);
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["diagnostics"][0]["reason"], "ServiceNotFound");
    assert_eq!(report["diagnostics"][0]["line"], 8);

    let cluster = sluicegate(&["check", "--mode", "cluster", &path(&good)]);
    assert!(said(&cluster).contains("AnnotationRefused"), "{}", said(&cluster));
}

#[test]
fn explain_answers_what_a_request_would_get() {
    let directory = manifests(&web());
    let path = directory.path().to_str().unwrap();
    let output = sluicegate(&["explain", "--manifests", path, "--output", "json", "GET", "http://A.test/x/../x/y"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["reason"], "Upstream");
    assert_eq!(answer["ingress"], serde_json::json!({"namespace": "default", "name": "web"}));
    assert_eq!(
        (&answer["path"], &answer["pathType"], &answer["upstream"]["target"]),
        (&"/x".into(), &"Prefix".into(), &"/x/y".into())
    );
    assert_eq!(answer["endpoints"][0]["address"], "127.0.0.1");
    assert_eq!(
        answer["policy"][0],
        serde_json::json!({"name": "sslRedirect", "source": "configuration file or default", "value": true})
    );
    let output = sluicegate(&["explain", "--manifests", path, "-H", "Host: other.test", "GET", "http://a.test/x"]);
    assert!(said(&output).contains("NoRoute"), "{}", said(&output));
}

#[test]
fn an_unusable_state_directory_is_named() {
    let directory = manifests(&web());
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = sluicegate(&[
        "run",
        "--manifests",
        directory.path().to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--https",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--state-dir",
        file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("state directory"), "{}", said(&output));
}
