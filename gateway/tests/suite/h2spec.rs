//! The conformance suite of HTTP/2 (RFC 9113 and RFC 7541), strict, over TLS.

use std::path::PathBuf;
use std::process::Command;

use crate::backends::{echo, everything_to};
use crate::harness::Start;

/// Where `.ci/h2spec` puts it: in the directory of what is built.
fn program() -> PathBuf {
    let gateway = PathBuf::from(env!("CARGO_BIN_EXE_sluicegate"));
    gateway.ancestors().nth(2).unwrap().join("h2spec/h2spec")
}

#[test]
fn every_case_of_h2spec_passes() {
    let program = program();
    if !program.exists() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing: .ci/h2spec builds it", program.display());
        println!("skipped: {} is missing; .ci/h2spec builds it", program.display());
        return;
    }
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let port = gateway.https.port().to_string();
    let output =
        Command::new(program).args(["-S", "-t", "-k", "-h", "127.0.0.1", "-p", &port, "-o", "10"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("146 tests, 146 passed, 0 skipped, 0 failed"), "{text}");
    assert_eq!(gateway.get("a.test", "/").status, 200);
}
