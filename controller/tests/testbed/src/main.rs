//! `sluicegate-testbed DIRECTORY`: runs an API server that keeps everything below a directory, until SIGTERM or Ctrl-C.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for this machine only")]

use std::path::PathBuf;
use std::process::ExitCode;

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
    signals.forever().next();
    server.stop();
    ExitCode::SUCCESS
}
