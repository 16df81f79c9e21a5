//! A configuration file: YAML, every key optional, unknown keys named together with what was probably meant.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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
    let value: Option<Value> = yaml::parse(text).map_err(|error| SettingsError(error.to_string()))?;
    // An empty file is a file without keys.
    let value = value.filter(|value| !value.is_null()).unwrap_or_else(|| serde_json::json!({}));
    let defaults = serde_json::to_value(T::default()).map_err(|error| SettingsError(error.to_string()))?;
    judge_shape("", &defaults, &value)?;
    let mut unknown_keys = Vec::new();
    let mut track = |path: serde_ignored::Path<'_>| unknown_keys.push(path.to_string().replace(".?", ""));
    let mut place = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&value, &mut place);
    let settings = serde_ignored::deserialize(deserializer, &mut track);
    let settings: T = settings.map_err(|error| {
        let error = in_terms_of_yaml(&serde_json::Error::to_string(&error));
        SettingsError(format!("{}: {error}", place.path()))
    })?;
    if let Some(key) = unknown_keys.first() {
        return Err(SettingsError(unknown::message::<T>(key)));
    }
    settings.judge()?;
    Ok(settings)
}

/// Where there are keys by default, there must be keys: a list would be taken for their values one by one.
fn judge_shape(path: &str, default: &Value, value: &Value) -> Result<(), SettingsError> {
    let Value::Object(defaults) = default else { return Ok(()) };
    let values = match value {
        Value::Object(values) => values,
        Value::Array(_) => {
            let place = if path.is_empty() { "the file" } else { path };
            return Err(SettingsError(format!("{place}: must be keys with values, and is a list")));
        }
        _ => return Ok(()),
    };
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    defaults
        .iter()
        .filter_map(|(key, default)| Some((key, default, values.get(key)?)))
        .try_for_each(|(key, default, value)| judge_shape(&join(key), default, value))
}

/// What is expected, in words of whoever writes a file.
fn in_terms_of_yaml(error: &str) -> String {
    let numbers = ["u8", "u16", "u32", "u64", "usize", "i32", "i64"].map(|kind| format!("expected {kind}"));
    let error = numbers.iter().fold(error.to_owned(), |error, kind| match error.strip_suffix(kind.as_str()) {
        Some(rest) => format!("{rest}expected a number of 0 or more"),
        None => error,
    });
    match error.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected keys with values"),
        None => error,
    }
}
