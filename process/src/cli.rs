//! Command lines: exit codes of parsing, and flags over the configuration file.

use std::process::ExitCode;

use clap::Parser;

use crate::EXIT_USAGE;

/// Parses the command line.
///
/// # Errors
/// It cannot be parsed, or asked for help or the version; what there is to say was printed.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        let _ = error.print();
        // --help and --version are no errors.
        ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 })
    })
}

/// A flag that was given stands over the file's value.
pub fn over<T>(target: &mut Option<T>, flag: Option<T>) {
    if flag.is_some() {
        *target = flag;
    }
}

/// A flag that was given at least once stands over the file's whole list.
pub fn over_list<T>(target: &mut Vec<T>, flag: Vec<T>) {
    if !flag.is_empty() {
        *target = flag;
    }
}
