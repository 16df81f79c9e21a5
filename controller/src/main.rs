//! `sluicegate-controller`: see `sluicegate-controller --help`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluicegate_controller::cli::main()
}
