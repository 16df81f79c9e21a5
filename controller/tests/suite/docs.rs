//! The reference lists what the controller has.

use serde_json::json;

use crate::Test;
use crate::harness::Cluster;

pub const TESTS: &[Test] =
    &[("every_flag_is_listed", every_flag_is_listed), ("every_metric_is_listed", every_metric_is_listed)];

fn reference() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md")).unwrap()
}

fn every_flag_is_listed() {
    let text = reference();
    for command in ["run", "status"] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate-controller"));
        let help = String::from_utf8(program.args([command, "--help"]).output().unwrap().stdout).unwrap();
        for flag in help.split_ascii_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
            let flag = flag.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            assert!(text.contains(flag), "{command} {flag}");
        }
    }
}

/// Both ways, and `promtool` finds the page well made.
fn every_metric_is_listed() {
    let cluster = Cluster::new("metrics");
    let (controller, _gateway) = cluster.start(json!({}));
    let page = controller.page("/metrics").text();
    let text = reference();
    let mut count = 0;
    for (name, kind) in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        let row = text.lines().find(|row| row.starts_with(&format!("| `{name}`")));
        assert!(row.is_some_and(|row| row.contains(kind)), "{name} {kind}: {row:?}");
        count += 1;
    }
    assert!(count >= 12, "{page}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &page).unwrap();
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(file.reopen().unwrap());
    let output = promtool.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
