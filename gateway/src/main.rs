//! `sluicegate`: see `sluicegate --help`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluicegate_process::memory::use_small_pages();
    sluicegate_process::foreign::load_no_authorities();
    sluicegate::cli::main()
}
