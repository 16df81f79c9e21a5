//! Measurements that are no micro benches: memory, certificates, edits of files. `cargo run --release --package
//! sluicegate-benches -- WHAT`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that fails should stop"
)]

#[path = "../../../controller/tests/suite/api.rs"]
#[allow(dead_code, clippy::panic, reason = "shared with the controller's tests, which use more of it")]
mod api;
#[path = "../../../gateway/tests/suite/client.rs"]
#[allow(dead_code, clippy::panic, reason = "shared with the gateway's tests, which use more of it")]
mod client;
#[path = "../../../controller/tests/suite/network.rs"]
#[allow(dead_code, reason = "shared with the controller's tests, which use more of it")]
mod network;

mod certificates;
mod cluster;
mod connections;
mod file_edit;
mod table;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    match what.as_str() {
        "table" => table::measure(),
        "certificates" => certificates::measure(),
        "file-edit" => file_edit::measure(),
        "wire" => wire::measure(),
        "cluster" => cluster::measure(),
        "connections" => connections::measure(),
        _ => {
            eprintln!("measure table | certificates | file-edit | wire | cluster | connections");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

/// What the shared client wants of a harness.
mod harness {
    /// How long anything is waited for.
    pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
}

/// Resident memory of a process (`self` or an id), in bytes.
fn resident(process: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// CPU time of this thread, in nanoseconds.
fn thread_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
