//! Events on Ingresses: what is wrong with one, and when it is in force. Written by the leader alone.
//!
//! An Event has a name made of what it says, so that it exists once whoever writes it, and however often it is found
//! again; the API server forgets it after an hour (its `--event-ttl`), and then it is written anew if it still holds.

mod ledger;
mod writer;

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use sluicegate_snapshot::{Diagnostic, ObjectKey, Severity};

pub use ledger::{Ledger, Published};
pub use writer::write;

use crate::watch::Observed;

/// Reason of the Event that says that an Ingress is in force.
pub const EFFECTIVE: &str = "Effective";

/// Longest note, in bytes (`events.k8s.io/v1`, field `note`: 1 kB).
const MAX_NOTE: usize = 1024;

/// Longest name of the Ingress in the name of an Event: the rest has room in 253 characters.
const MAX_NAME: usize = 220;

/// An Event on an Ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The Ingress.
    pub ingress: ObjectKey,
    /// Its `metadata.uid`: `kubectl describe` finds Events by it.
    pub uid: String,
    /// A stable word: that of a Diagnostic, or [`EFFECTIVE`].
    pub reason: &'static str,
    /// `Warning` or `Normal`.
    pub kind: &'static str,
    /// What is to be told, for people.
    pub note: String,
    /// Name of the Event.
    pub name: String,
}

impl Notice {
    /// What is wrong with an Ingress.
    pub fn of(diagnostic: &Diagnostic, ingress: &ObjectKey, observed: &Observed) -> Self {
        let kind = match diagnostic.severity {
            Severity::Error | Severity::Warning => "Warning",
        };
        let note = format!("{}: {}", diagnostic.field, diagnostic.message);
        Notice::new(ingress, observed, diagnostic.reason.as_str(), kind, &note, &note)
    }

    /// An Ingress is in force on so many gateways, as this version.
    pub fn effective(ingress: &ObjectKey, observed: &Observed, gateways: usize, version: &str) -> Self {
        let plural = if gateways == 1 { "" } else { "s" };
        let note = format!("in force on {gateways} gateway{plural}, as version {version}");
        // Once per generation, whatever the version.
        Notice::new(ingress, observed, EFFECTIVE, "Normal", &note, "")
    }

    fn new(
        ingress: &ObjectKey,
        observed: &Observed,
        reason: &'static str,
        kind: &'static str,
        note: &str,
        identity: &str,
    ) -> Self {
        let identity = Sha256::digest(format!("{}\n{}\n{reason}\n{identity}", observed.uid, observed.generation));
        let mut name: String = ingress.name.chars().take(MAX_NAME).collect();
        name.push('.');
        for byte in &identity[..8] {
            let _ = write!(name, "{byte:02x}");
        }
        let mut note = note.to_owned();
        if note.len() > MAX_NOTE {
            let end = (0..=MAX_NOTE - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
            note.push('…');
        }
        Notice { ingress: ingress.clone(), uid: observed.uid.to_string(), reason, kind, note, name }
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_snapshot::{DiagnosticReason, Kind, ObjectRef};

    use super::*;

    #[test]
    fn equal_notices_have_one_name_and_long_ones_fit() {
        let ingress = ObjectKey::new("n", "a".repeat(253));
        let observed = |generation| Observed { uid: "u".into(), generation, ..Observed::default() };
        let diagnostic = |text: &str| {
            let object = ObjectRef::new(Kind::Ingress, &ingress);
            Diagnostic::new(object, DiagnosticReason::InvalidHost, "spec.rules[0].host", text)
        };
        let notice = |text: &str, generation| Notice::of(&diagnostic(text), &ingress, &observed(generation));
        assert_eq!(notice("x", 1), notice("x", 1));
        assert_ne!(notice("x", 1).name, notice("y", 1).name);
        assert_ne!(notice("x", 1).name, notice("x", 2).name, "another generation is news");
        assert!(notice("x", 1).name.len() <= 253);
        let long = notice(&"ä".repeat(2000), 1).note;
        assert!(long.len() <= MAX_NOTE && long.ends_with('…'));
        let effective = |version| Notice::effective(&ingress, &observed(1), 2, version).name;
        assert_eq!(effective("0-a"), effective("0-b"), "one per generation");
    }
}
