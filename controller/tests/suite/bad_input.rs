//! What cannot work is said, in words that name it; and nothing that works is lost by it.

use std::process::Command;

use serde_json::json;

use crate::Test;
use crate::bed;
use crate::delivery::NOBODY;
use crate::harness::{Cluster, Controller, Pod, eventually};

pub const TESTS: &[Test] = &[
    ("a_kubeconfig_that_cannot_be_used", a_kubeconfig_that_cannot_be_used),
    ("credentials_that_are_not_taken", credentials_that_are_not_taken),
    ("a_server_that_is_not_there", a_server_that_is_not_there),
    ("wrong_arguments", wrong_arguments),
];

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate-controller")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn a_kubeconfig_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let missing = directory.path().join("missing").display().to_string();
    for path in [missing, file("{"), file("apiVersion: v1\nkind: Config\n")] {
        let (code, message) =
            run(&["run", "--publish", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--kubeconfig", &path]);
        assert_eq!(code, Some(64), "{message}");
        assert!(message.contains(&path), "{message}");
    }
}

fn credentials_that_are_not_taken() {
    let cluster = Cluster::new("credentials");
    let (expired, powerless, stranger) = {
        let server = bed::bed();
        let groups = ["system:authenticated"];
        (
            server.user("expired", &groups, -1),
            server.user("powerless", &groups, 1),
            server.token("stranger", "nonsense"),
        )
    };
    let wrong = [(expired, "401"), (stranger, "401"), (powerless, "User \\\"powerless\\\" cannot")];
    for (kubeconfig, word) in wrong {
        let mut controller = Controller::start(&kubeconfig, json!({"ingressClass": cluster.class}));
        controller.program.says(word);
        let page = controller.page("/readyz");
        assert_eq!(page.status, 503);
        assert!(page.text().contains("Ingress"), "{}", page.text());
        assert_eq!(controller.program.process.ended(), None, "it tries again, and does not end");
    }
}

fn a_server_that_is_not_there() {
    let server = bed::bed();
    let text = std::fs::read_to_string(server.admin()).unwrap();
    let text = text.replace(&server.url(), &format!("https://127.0.0.1:{NOBODY}"));
    drop(server);
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, text).unwrap();
    let mut controller = Controller::start(&kubeconfig, json!({}));
    controller.program.says("Connection refused");
    assert!(controller.page("/readyz").text().contains("Connection refused"), "{}", controller.page("/readyz").text());
    assert_eq!(controller.page("/healthz").status, 200);
    let tries =
        || controller.metric("sluicegate_controller_watch_failures_total{kind=\"Ingress\"}").unwrap_or_default();
    eventually("a second try", || (tries() >= 2.0).then_some(()));
    assert_eq!(controller.program.said().matches("Ingress: ").count(), 1, "one message, not one per try");
    assert_eq!(controller.program.process.ended(), None);
    let (code, message) = run(&["status", "--kubeconfig", "/nowhere"]);
    assert_eq!(code, Some(64), "{message}");
}

fn wrong_arguments() {
    for (arguments, part) in [
        (&["run", "--publish-service", "x"][..], "publishService `x`"),
        (&["run", "--publish-service", "a/b", "--publish-address", "192.0.2.1"][..], "several are given"),
        (&["run", "--publish-address", "a b"][..], "publishAddresses `a b`"),
        (&["run", "--publish", "nowhere"][..], "--publish"),
        (&["run", "--config", "/nowhere"][..], "/nowhere"),
        (&["rnu"][..], "rnu"),
        (&["status", "a/b/c"][..], "a/b/c"),
    ] {
        let (code, message) = run(arguments);
        assert_eq!(code, Some(64), "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    let pod = Pod::start("taken");
    let taken = format!("{}:{}", pod.address, crate::harness::POD_PORT);
    let (code, message) = run(&["run", "--publish", &taken]);
    assert_eq!(code, Some(69), "{message}");
    assert!(message.contains(&taken), "{message}");
}
