//! Resources of which this program understands a part only, since a newer one compiled them: an unknown field, an unknown arm, a
//! collection that does not exist here. Their digest is that of what was sent, and not of what was understood: else a gateway that
//! is one version behind would never be in step.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Digest;

/// Digests of what was sent, by [`id`]. Nearly always empty.
pub type Partial = BTreeMap<String, Digest>;

/// What a delta says of them; `None`: gone.
pub type PartialDelta = BTreeMap<String, Option<Digest>>;

/// Identifies a resource across all collections; `key` as JSON has it, without quotes.
pub fn id(kind: &str, key: &str) -> String {
    format!("{kind} {key}")
}

/// The same, for a typed key: one that serialises as a string, or `()` for what exists once.
pub(super) fn id_of<K: Serialize>(kind: &str, key: &K) -> String {
    match serde_json::to_value(key) {
        Ok(serde_json::Value::String(text)) => id(kind, &text),
        _ => id(kind, ""),
    }
}
