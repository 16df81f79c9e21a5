//! Diagnostics with the file and line at which their object stands.

use std::fmt;

use serde::Serialize;
use sluicegate_snapshot::Diagnostic;

use super::Source;

/// A diagnostic as its author wants to read it: file and line first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The file; absent where the object stands in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line at which the object's document starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is wrong.
    #[serde(flatten)]
    pub diagnostic: Diagnostic,
}

impl Placed {
    /// Looks up where the object of a diagnostic stands.
    pub fn new(diagnostic: &Diagnostic, source: &Source) -> Self {
        let object = &diagnostic.object;
        let place = source.place(object.kind, &object.object_key());
        Placed {
            file: place.map(|(path, _)| path.display().to_string()),
            line: place.map(|(_, line)| line),
            diagnostic: diagnostic.clone(),
        }
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { object, field, severity, reason, message } = &self.diagnostic;
        write!(f, "{}: ", severity.as_str())?;
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, "{file}:{line}: ")?;
        }
        write!(f, "{object}: {field}: {reason}: {message}")
    }
}
