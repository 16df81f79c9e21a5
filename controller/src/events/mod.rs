//! Events: on Ingresses what is wrong with one, and when it is in force, written by the leader alone; on the Lease that a gateway holds
//! back a loss, written by the controller that it follows.
//!
//! An Event has a name made of what it says, so that it exists once whoever writes it, and however often it is found
//! again; the API server forgets it after an hour (its `--event-ttl`), and then it is written anew if it still holds.

mod ledger;
mod writer;

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use sluicegate_snapshot::model::Digest;
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

/// Reason of the Event that says that a gateway holds back a loss.
pub const LOSS_HELD: &str = "LossHeld";

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Regarding {
    /// An Ingress, with its `metadata.uid`: `kubectl describe` finds Events by it.
    Ingress(String),
    /// The Lease, which stands for the controllers.
    Lease,
}

/// An Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub regarding: Regarding,
    /// Where that is.
    pub object: ObjectKey,
    /// A stable word: that of a Diagnostic, [`EFFECTIVE`] or [`LOSS_HELD`].
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
        // Once per generation and annotations, whatever the version.
        let identity = match observed.annotations == Digest::default() {
            true => String::new(),
            false => observed.annotations.to_string(),
        };
        Notice::new(ingress, observed, EFFECTIVE, "Normal", &note, &identity)
    }

    /// A gateway holds back what came from the controller with this Lease, since it would lose most of its routes.
    pub fn loss_held(lease: &ObjectKey, loss: &Loss) -> Self {
        let Loss { gateway, routes, left } = loss;
        let note = format!(
            "gateway {gateway} holds back a change that would leave {left} of {routes} routes; everything is listed anew, and the loss is taken if it is real"
        );
        // Every time it happens.
        let identity = format!("{note}\n{}", crate::clock::unix_seconds());
        Notice {
            regarding: Regarding::Lease,
            object: lease.clone(),
            reason: LOSS_HELD,
            kind: "Warning",
            name: name(&lease.name, &identity),
            note: cut(&note),
        }
    }

    fn new(
        ingress: &ObjectKey,
        observed: &Observed,
        reason: &'static str,
        kind: &'static str,
        note: &str,
        identity: &str,
    ) -> Self {
        let identity = format!("{}\n{}\n{reason}\n{identity}", observed.uid, observed.generation);
        let name = name(&ingress.name, &identity);
        let regarding = Regarding::Ingress(observed.uid.to_string());
        Notice { regarding, object: ingress.clone(), reason, kind, note: cut(note), name }
    }
}

/// A loss that a gateway holds back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The gateway's name.
    pub gateway: String,
    /// Routes that it has.
    pub routes: usize,
    /// Routes that would be left.
    pub left: usize,
}

/// The name of an Event about an object: equal for equal identities.
fn name(object: &str, identity: &str) -> String {
    let mut name: String = object.chars().take(MAX_NAME).collect();
    name.push('.');
    for byte in &Sha256::digest(identity)[..8] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn cut(note: &str) -> String {
    let mut note = note.to_owned();
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
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
