//! Tests of the controller as one binary: the built `sluicegate-controller` and `sluicegate` against a real API server.
//!
//! All of it runs in a network namespace of its own, since endpoints may not have loopback addresses; that takes root. The test
//! harness is libtest-mimic's, which leaves `main` to us: the namespace and the API server are made before the tests and removed
//! after them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../../../gateway/tests/suite/client.rs"]
#[allow(dead_code, reason = "shared with the gateway's tests, which use more of it")]
mod client;
#[path = "../../../gateway/tests/suite/dns.rs"]
mod dns;
#[path = "../../../gateway/tests/suite/pki.rs"]
#[allow(dead_code, reason = "shared with the gateway's tests, which use more of it")]
mod pki;

#[path = "../../../snapshot/tests/suite/objects.rs"]
#[allow(dead_code, reason = "shared with the other crates' tests, which use more of it")]
mod objects;
#[path = "../../../gateway/tests/suite/routing_rows.rs"]
mod routing_rows;
#[path = "../../../snapshot/tests/suite/spec.rs"]
#[allow(dead_code, reason = "shared with the other crates' tests, which use more of it")]
mod spec;

mod api;
mod attacks;
mod audit;
mod bad_input;
mod bed;
mod conformance;
mod delivery;
mod docs;
mod endurance;
mod events;
mod faults;
mod harness;
mod kinds;
mod leader;
mod manifests;
mod network;
mod operations;
mod owners;
mod routing;
mod schedules;
mod scripted;
mod secrets;
mod status;
mod trust;
mod versions;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// One test: its name and what it does.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let groups: [(&str, &[Test]); 19] = [
        ("attacks", attacks::TESTS),
        ("bad_input", bad_input::TESTS),
        ("conformance", conformance::TESTS),
        ("delivery", delivery::TESTS),
        ("docs", docs::TESTS),
        ("endurance", endurance::TESTS),
        ("events", events::TESTS),
        ("faults", faults::TESTS),
        ("kinds", kinds::TESTS),
        ("leader", leader::TESTS),
        ("manifests", manifests::TESTS),
        ("operations", operations::TESTS),
        ("owners", owners::TESTS),
        ("routing", routing::TESTS),
        ("schedules", schedules::TESTS),
        ("secrets", secrets::TESTS),
        ("status", status::TESTS),
        ("trust", trust::TESTS),
        ("versions", versions::TESTS),
    ];
    let trial = |group: &str, (name, test): &Test| {
        let test = *test;
        Trial::test(format!("{group}::{name}"), move || {
            test();
            Ok(())
        })
    };
    let trials = groups.iter().flat_map(|(group, tests)| tests.iter().map(move |test| trial(group, test))).collect();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let Some(network) = network::Namespace::enter() else {
        let in_ci = std::env::var_os("CI").is_some();
        println!(
            "the controller's tests need root and `ip` for a network namespace: {}",
            if in_ci { "failed" } else { "skipped" }
        );
        return if in_ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    };
    bed::set_up();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let is_whole = arguments.filter.is_none() && arguments.skip.is_empty();
    let verbs = if is_whole { audit::judge(&bed::bed().audit_log()) } else { Ok(()) };
    bed::tear_down();
    drop(network);
    if let Err(message) = &verbs {
        println!("{message}");
    }
    if conclusion.has_failed() || verbs.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
