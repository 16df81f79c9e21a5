//! What to say about a key that does not exist.

use serde_json::Value;

use crate::settings::SettingsFile;

/// Names the key and, where one is near, the key that was probably meant.
pub(crate) fn message<T: SettingsFile>(key: &str) -> String {
    let mut known = Vec::new();
    if let Ok(defaults) = serde_json::to_value(T::default()) {
        collect(&defaults, "", &mut known);
    }
    let distance = |candidate: &String| strsim::damerau_levenshtein(key, candidate);
    match known.iter().min_by_key(|candidate| distance(candidate)) {
        Some(nearest) if distance(nearest) <= 1 + key.len() / 4 => {
            format!("unknown key `{key}`; did you mean `{nearest}`?")
        }
        _ => format!("unknown key `{key}`; {} lists the known ones", T::EXAMPLE),
    }
}

fn collect(value: &Value, prefix: &str, known: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        collect(value, &path, known);
        known.push(path);
    }
}
