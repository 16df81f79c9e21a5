//! The cases of `tests/requests` and `tests/responses`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// A request or response, byte for byte, and what becomes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// Where the rule stands, or who was hurt.
    #[allow(dead_code, reason = "for readers")]
    pub source: String,
    /// Each character is one byte (Latin-1).
    raw: String,
    /// The gateway answers itself.
    pub answer: Option<u16>,
    /// It goes on in this form.
    pub passes: Option<Passes>,
    /// Of a response: it is cut off.
    #[serde(default)]
    pub cut: bool,
    /// Of a response: what was asked with.
    pub method: Option<String>,
}

/// What arrives.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Passes {
    pub method: Option<String>,
    pub target: Option<String>,
    pub version: Option<String>,
    pub status: Option<u16>,
    pub fields: BTreeMap<String, String>,
    pub absent: Vec<String>,
    pub body: Option<String>,
}

/// Bytes of a text whose characters each stand for one.
pub fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).expect("a byte")).collect()
}

impl Case {
    pub fn raw(&self) -> Vec<u8> {
        latin1(&self.raw)
    }
}

/// All cases of a directory.
pub fn all(directory: &str) -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut of_file: Vec<Case> = sluicegate_process::yaml::parse(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
            .unwrap();
        cases.append(&mut of_file);
    }
    cases
}
