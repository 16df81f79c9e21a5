//! The gateway's own log: `tracing`, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings, SettingsError};

/// The engine logs an error for every failed request and handshake; the gateway counts and logs those itself. A level that
/// names one of these targets has the last word.
const ENGINE: &str = "pingora_proxy=off,pingora_core=off,pingora_pool=off";

/// Starts logging. Call once.
///
/// # Errors
/// The level is no filter.
pub fn init(settings: &LogSettings) -> Result<(), SettingsError> {
    let filter = EnvFilter::try_new(format!("{ENGINE},{}", settings.level))
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
