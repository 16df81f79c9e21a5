//! The process' own log: `tracing`, to standard error.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::settings::SettingsError;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,sluicegate::apply=debug`.
    pub level: String,
    /// Text or JSON; always to standard error.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogSettings {
    /// Refuses what the filter would take for the name of a part of the program, and say nothing of all others.
    ///
    /// # Errors
    /// Names the directive.
    pub fn judge(&self) -> Result<(), SettingsError> {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let is_level = |text: &str| levels.iter().any(|level| text.trim().eq_ignore_ascii_case(level));
        let is_directive = |text: &&str| !is_level(text.rsplit_once('=').map_or(*text, |(_, level)| level));
        match self.level.split(',').find(is_directive) {
            None => Ok(()),
            Some(text) => Err(SettingsError(format!(
                "log.level `{}`: must be one of {}, or a list with PART=LEVEL for parts of the program",
                text.trim(),
                levels.join(", ")
            ))),
        }
    }
}

/// Starts logging. Call once. `quiet`: directives for libraries that say too much; a level that names one of their targets has
/// the last word.
///
/// # Errors
/// The level is no filter.
pub fn init(settings: &LogSettings, quiet: &str) -> Result<(), SettingsError> {
    let filter = EnvFilter::try_new(format!("{quiet},{}", settings.level))
        .map_err(|error| SettingsError(format!("log.level `{}`: {error}", settings.level)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are for people: journald and files get none.
        .with_ansi(std::io::stderr().is_terminal());
    let result = match settings.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // A second call (tests) keeps the first log.
    drop(result);
    Ok(())
}
