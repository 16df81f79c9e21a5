//! The last good snapshot: written, read again, refused when it is off.

use crate::backends::{echo, everything_to, host_to_web, service};
use crate::client::{self, Tls};
use crate::harness::{Start, eventually};
use crate::pki;

fn saved(directory: &std::path::Path) -> String {
    std::fs::read_to_string(directory.join("snapshot.json")).unwrap()
}

/// Lets a gateway serve manifests, and end.
fn leave_state(manifests: &str, directory: &std::path::Path) {
    let gateway = Start::with(manifests).state(directory).ready();
    gateway.signal("INT");
    gateway.wait_exit();
}

#[test]
fn a_gateway_starts_from_it_when_its_source_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let backend = echo();
    leave_state(&everything_to(&[backend]), state.path());
    let start = Start::with("").state(state.path());
    std::fs::remove_dir_all(start.manifests()).unwrap();
    let second = start.ready();
    assert_eq!(second.get("a.test", "/").status, 200);
    second.wait_log("last good snapshot is in force");
}

#[test]
fn a_broken_source_at_the_start_costs_only_what_is_new() {
    let state = tempfile::tempdir().unwrap();
    let web = service("web", &echo().to_string());
    let (a, b) = (host_to_web("a", "a.test", "[]"), host_to_web("b", "b.test", "[]"));
    leave_state(&[web.clone(), a.clone(), b.clone()].join("---\n"), state.path());
    let broken = a.replace("pathType: Prefix", "pathType: 7");
    let c = host_to_web("c", "c.test", "[]");
    let second = Start::with(&[web.clone(), broken, b.clone(), c.clone()].join("---\n")).state(state.path()).ready();
    for host in ["a.test", "b.test", "c.test"] {
        assert_eq!(second.get(host, "/").status, 200, "{host}");
    }
    second.apply(&[web, b, c].join("---\n"));
    assert_eq!(second.get("a.test", "/").status, 404, "a clean source has the last word");
}

#[test]
fn without_source_and_state_the_gateway_is_not_ready() {
    let start = Start::with("");
    std::fs::remove_dir_all(start.manifests()).unwrap();
    let gateway = start.listening();
    gateway.wait_log("cannot be read");
    let response = gateway.get("a.test", "/");
    assert_eq!((response.status, response.header("sluicegate-reason")), (503, Some("NotReady")), "404 would be a lie");
    let page = gateway.admin_page("/readyz");
    assert_eq!((page.status, page.text().contains("no table")), (503, true));
}

#[test]
fn private_keys_are_not_in_it_and_their_hosts_refuse_handshakes_until_they_are_back() {
    let state = tempfile::tempdir().unwrap();
    let pair = pki::ecdsa(&["a.test"]);
    let manifests = [
        pair.secret("t"),
        service("web", &echo().to_string()),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: t}]"),
        host_to_web("b", "b.test", "[]"),
    ];
    leave_state(&manifests.join("---\n"), state.path());
    let text = saved(state.path());
    assert!(text.contains("a.test") && !text.contains("PRIVATE KEY"));
    let der = openssl::pkey::PKey::private_key_from_pem(pair.key.as_bytes()).unwrap().private_key_to_pkcs8().unwrap();
    assert!(!text.contains(&openssl::base64::encode_block(&der)[20..60]));

    let start = Start::with("").state(state.path());
    let directory = start.manifests();
    std::fs::remove_dir_all(&directory).unwrap();
    let second = start.listening();
    second.wait_log("last good snapshot is in force");
    let refused = Tls::new().try_connect(second.https, Some("a.test")).err().unwrap();
    assert!(refused.contains("alert"), "{refused}");
    assert_eq!(Tls::new().connect(second.https, Some("b.test")).certificate_names(), ["sluicegate.invalid"]);
    assert_eq!(second.admin_page("/readyz").status, 503);
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("main.yaml"), manifests.join("---\n")).unwrap();
    second.signal("HUP");
    second.wait_ready();
    assert_eq!(client::get_tls(second.https, "a.test", "/").status, 200);
}

#[test]
fn with_a_state_key_hosts_with_tls_are_served_when_the_source_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let key = state.path().join("state-key");
    let directory = state.path().join("state");
    let manifests = [
        pki::ecdsa(&["a.test"]).secret("t"),
        service("web", &echo().to_string()),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: t}]"),
    ];
    let with_key = |start: Start| start.state(&directory).set("stateKey", serde_json::json!(key));
    std::fs::write(&key, [7; 31]).unwrap();
    let mut short = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    short.args(["run", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    short.arg("--manifests").arg(state.path()).arg("--state-dir").arg(&directory).arg("--state-key").arg(&key);
    let output = short.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("has 31 bytes, at least 32 are needed"), "{text}");
    std::fs::write(&key, [7; 32]).unwrap();
    let first = with_key(Start::with(&manifests.join("---\n"))).ready();
    first.signal("INT");
    first.wait_exit();
    assert!(!saved(&directory).contains("PRIVATE KEY"));

    let gone = || {
        let start = with_key(Start::with(""));
        std::fs::remove_dir_all(start.manifests()).unwrap();
        start
    };
    let second = gone().ready();
    assert_eq!(client::get_tls(second.https, "a.test", "/").status, 200);
    drop(second);
    // With another key it is as good as none.
    std::fs::write(&key, [8; 32]).unwrap();
    let third = gone().listening();
    third.wait_log("another stateKey");
    assert_eq!(third.admin_page("/readyz").status, 503);
}

#[test]
fn a_file_that_is_truncated_or_of_another_version_is_refused_and_replaced() {
    for (what, damage) in [
        ("truncated", (|text| text[..text.len() / 2].to_owned()) as fn(&str) -> String),
        ("format", |text| text.replacen(" 2 ", " 9 ", 1)),
    ] {
        let state = tempfile::tempdir().unwrap();
        let manifests = everything_to(&[echo()]);
        leave_state(&manifests, state.path());
        let good = saved(state.path());
        std::fs::write(state.path().join("snapshot.json"), damage(&good)).unwrap();
        let second = Start::with(&manifests).state(state.path()).ready();
        assert!(second.wait_log("state file is not used").contains(what));
        assert_eq!(second.get("a.test", "/").status, 200);
        // The first line has a counter.
        let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
        eventually("a good file", || (body(&saved(state.path())) == body(&good)).then_some(()));
    }
}

#[test]
fn a_secret_that_turned_bad_keeps_no_gateway_from_being_ready() {
    let state = tempfile::tempdir().unwrap();
    let pair = pki::ecdsa(&["a.test"]);
    let rest = [
        service("web", &echo().to_string()),
        host_to_web("a", "a.test", "[{hosts: [a.test], secretName: t}]"),
        host_to_web("b", "b.test", "[]"),
    ]
    .join("---\n");
    let first = Start::with(&format!("{}---\n{rest}", pair.secret("t"))).state(state.path()).ready();
    let bad = pair.secret("t").replace("BEGIN CERTIFICATE", "BEGIN NONSENSE");
    first.write("main.yaml", &format!("{bad}---\n{rest}"));
    first.wait_metric("sluicegate_config_held_back", &[], 1.0);
    first.signal("INT");
    first.wait_exit();
    let second = Start::with(&format!("{bad}---\n{rest}")).state(state.path()).ready();
    assert_eq!(second.get("b.test", "/").status, 200);
    let refused = Tls::new().try_connect(second.https, Some("a.test")).err().unwrap();
    assert!(refused.contains("alert"), "its key is gone, and no other certificate takes its place: {refused}");
}

#[test]
fn what_is_gone_from_the_files_goes_even_while_another_document_is_broken() {
    let state = tempfile::tempdir().unwrap();
    let web = service("web", &echo().to_string());
    let (a, b) = (host_to_web("a", "a.test", "[]"), host_to_web("b", "b.test", "[]"));
    leave_state(&[web.clone(), a.clone(), b.clone()].join("---\n"), state.path());
    let broken = a.replace("pathType: Prefix", "pathType: 7");
    let second = Start::with(&[web, broken].join("---\n")).state(state.path()).ready();
    assert_eq!(second.get("a.test", "/").status, 200, "known to be broken, so kept");
    assert_eq!(second.get("b.test", "/").status, 404, "known to be gone");
}
