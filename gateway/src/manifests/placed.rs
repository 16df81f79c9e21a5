//! Diagnostics with the file and line at which their object stands.

use std::path::Path;

use sluicegate_snapshot::Diagnostic;

use super::Source;

/// A diagnostic of an object with the place at which the object stands.
pub struct Placed<'a> {
    source: &'a Source,
    diagnostic: &'a Diagnostic,
}

impl Source {
    /// A diagnostic as its author wants to read it: file and line first.
    pub fn placed<'a>(&'a self, diagnostic: &'a Diagnostic) -> Placed<'a> {
        Placed { source: self, diagnostic }
    }
}

impl Placed<'_> {
    fn place(&self) -> Option<(&Path, u64)> {
        let object = &self.diagnostic.object;
        self.source.place(object.kind, &object.object_key())
    }
}

impl std::fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Diagnostic { object, field, severity, reason, message } = self.diagnostic;
        write!(f, "{}: ", severity.as_str())?;
        if let Some((path, line)) = self.place() {
            write!(f, "{}:{line}: ", path.display())?;
        }
        write!(f, "{object}: {field}: {reason}: {message}")
    }
}

impl serde::Serialize for Placed<'_> {
    /// The diagnostic's fields, with `file` and `line` where they are known.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Fields<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            file: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            line: Option<u64>,
            #[serde(flatten)]
            diagnostic: &'a Diagnostic,
        }
        let place = self.place();
        let file = place.map(|(path, _)| path.display().to_string());
        Fields { file, line: place.map(|(_, line)| line), diagnostic: self.diagnostic }.serialize(serializer)
    }
}
