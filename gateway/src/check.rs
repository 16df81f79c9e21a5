//! `sluicegate check`: what is wrong with manifests, without serving them.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use sluicegate_snapshot::{Diagnostic, Edit, Mode, Severity, World};

use crate::cli::{Output, USAGE};
use crate::clock;
use crate::manifests::watch::Look;
use crate::manifests::{Placed, Problem, Source};
use crate::settings::Settings;

/// Compiles manifests. `None`: a path cannot be read.
pub(crate) fn compile(paths: &[PathBuf], settings: &Settings, mode: Mode) -> Result<(World, Source, bool), ExitCode> {
    let compile = settings.compile(mode).map_err(|error| {
        eprintln!("sluicegate: {error}");
        ExitCode::from(USAGE)
    })?;
    let mut source = Source::new(paths.to_vec());
    let refresh = source.refresh(&Look::Asked);
    let mut world = World::new(compile);
    world.apply(refresh.edits.into_iter().chain([Edit::Now(clock::unix_seconds())]));
    Ok((world, source, refresh.certainty.complete))
}

/// Prints everything that is wrong. Exit 0: nothing, 1: errors, 2: input that cannot be read.
pub fn check(paths: &[PathBuf], settings: &Settings, mode: Mode, output: Output) -> ExitCode {
    let (world, source, complete) = match compile(paths, settings, mode) {
        Ok(compiled) => compiled,
        Err(code) => return code,
    };
    let problems: Vec<&Problem> = source.problems().collect();
    let diagnostics: Vec<&Diagnostic> = world.diagnostics();
    let broken = !complete || problems.iter().any(|problem| problem.error);
    let errors = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    let served = world.served().count();
    let placed: Vec<Placed> = diagnostics.iter().map(|diagnostic| Placed::new(diagnostic, &source)).collect();
    match output {
        Output::Json => {
            let report = json!({"served": served, "manifests": problems, "diagnostics": placed});
            print(&format!("{report:#}"));
        }
        Output::Text => {
            problems.iter().for_each(|problem| print(&problem.to_string()));
            placed.iter().for_each(|diagnostic| print(&diagnostic.to_string()));
            let count = problems.len() + diagnostics.len();
            print(&format!("{served} Ingresses would be served; {count} findings"));
        }
    }
    ExitCode::from(if broken { 2 } else { u8::from(errors) })
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn print(line: &str) {
    println!("{line}");
}
