//! `sluicegate-controller`: see `sluicegate-controller --help`.

use clap::Parser;

fn main() {
    sluicegate_controller::Cli::parse();
}
