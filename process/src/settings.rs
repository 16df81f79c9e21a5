//! A configuration file: YAML, every key optional, unknown keys named together with what was probably meant.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{unknown, yaml};

/// A setting that cannot be used: names where it stands, and what is expected there.
#[derive(Debug)]
pub struct SettingsError(pub String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

/// Settings of a process, as its file holds them.
pub trait SettingsFile: Default + Serialize + DeserializeOwned {
    /// The file of the project that shows every key with its default.
    const EXAMPLE: &'static str;

    /// Refuses values that parse but make no sense.
    ///
    /// # Errors
    /// Names the key and the range.
    fn judge(&self) -> Result<(), SettingsError>;
}

/// Reads a file.
///
/// # Errors
/// The file cannot be read or is no YAML, a key is unknown (the nearest known one is named), or a value does not fit.
pub fn read<T: SettingsFile>(path: &Path) -> Result<T, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError(format!("{}: cannot be read: {error}", path.display())))?;
    parse(&text).map_err(|SettingsError(message)| SettingsError(format!("{}: {message}", path.display())))
}

/// Reads a file's text.
///
/// # Errors
/// See [`read`].
pub fn parse<T: SettingsFile>(text: &str) -> Result<T, SettingsError> {
    let value: Option<serde_json::Value> = yaml::parse(text).map_err(|error| SettingsError(error.to_string()))?;
    // An empty file is a file without keys.
    let value = value.filter(|value| !value.is_null()).unwrap_or_else(|| serde_json::json!({}));
    let mut unknown_keys = Vec::new();
    let mut track = |path: serde_ignored::Path<'_>| unknown_keys.push(path.to_string().replace(".?", ""));
    let mut place = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&value, &mut place);
    let settings = serde_ignored::deserialize(deserializer, &mut track);
    let settings: T = settings.map_err(|error| SettingsError(format!("{}: {error}", place.path())))?;
    if let Some(key) = unknown_keys.first() {
        return Err(SettingsError(unknown::message::<T>(key)));
    }
    settings.judge()?;
    Ok(settings)
}
