//! `sluicegate-testbed DIRECTORY`: runs an API server that keeps everything below a directory, until SIGTERM or Ctrl-C.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for this machine only")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluicegate_testbed::ApiServer;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: sluicegate-testbed DIRECTORY");
        return ExitCode::from(64);
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    let mut server = ApiServer::start(&directory);
    println!("ready: {} (kubeconfig {})", server.url(), server.admin().display());
    while signals.pending().next().is_none() {
        if !server.is_running() {
            eprintln!("the API server has ended; its log is in {}", directory.display());
            return ExitCode::FAILURE;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    server.stop();
    ExitCode::SUCCESS
}
