//! The reference lists what the code has: nothing is missing, nothing is made up.

use std::collections::BTreeSet;

use sluicegate::observe::Closing;
use sluicegate::observe::cells::Rejection;
use sluicegate::phase::Reason;
use sluicegate_snapshot::DiagnosticReason;

use crate::harness::Start;

fn reference() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md")).unwrap()
}

/// First cells of the table rows below a heading, without backticks.
fn rows(text: &str, heading: &str) -> BTreeSet<String> {
    let section = text.split_once(&format!("\n## {heading}\n")).unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(cell, _)| cell.to_owned()).collect()
}

#[test]
fn every_reason_is_listed_and_nothing_else() {
    let text = reference();
    let replies: BTreeSet<String> = Reason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(rows(&text, "Reply reasons"), replies);
    let diagnostics: BTreeSet<String> = DiagnosticReason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(rows(&text, "Diagnostic reasons"), diagnostics);
}

#[test]
fn every_metric_is_listed_with_its_type() {
    let gateway = Start::with("").ready();
    let page = gateway.admin_page("/metrics").text();
    let text = reference();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let row = text.lines().find(|row| row.starts_with(&format!("| `{name}`")));
        assert!(row.is_some_and(|row| row.contains(kind)), "{name} {kind}: {row:?}");
    }
}

#[test]
fn every_reason_of_a_rejection_or_a_closing_is_listed_where_its_metric_is() {
    let text = reference();
    let row = |metric: &str| text.lines().find(|row| row.starts_with(&format!("| `{metric}`"))).unwrap();
    let rejections = Rejection::ALL.map(|(_, label)| ("sluicegate_rejected_total", label));
    let closings = Closing::ALL.map(|(_, label)| ("sluicegate_connections_closed_total", label));
    for (metric, label) in rejections.into_iter().chain(closings) {
        assert!(row(metric).contains(&format!("`{label}`")), "{metric}: {label}");
    }
}

#[test]
fn every_flag_is_listed() {
    let text = reference();
    for command in ["run", "check", "explain", "echo"] {
        let help =
            std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for flag in help.split_ascii_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
            let flag = flag.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            assert!(text.contains(flag), "{command} {flag}");
        }
    }
}
