//! YAML, through a library: text to JSON values, since that is what the API's types are read from.

use serde::de::DeserializeOwned;

/// Text that is no YAML, with line and column.
#[derive(Debug)]
pub struct YamlError {
    /// Line in the text, from 1; 0 where it is unknown.
    pub line: u64,
    message: String,
}

impl std::fmt::Display for YamlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "no readable YAML: {}", self.message),
            line => write!(f, "line {line}: no readable YAML: {}", self.message),
        }
    }
}

/// Parses one document; `None` where it holds nothing.
///
/// # Errors
/// The text is no YAML, or larger or deeper than the library's limits.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<Option<T>, YamlError> {
    if text.lines().all(has_no_content) {
        return Ok(None);
    }
    serde_saphyr::from_str_with_options(text, options()).map(Some).map_err(|error| YamlError {
        line: error.location().map_or(0, |location| location.line()),
        message: first_line(&error.to_string()),
    })
}

/// A blank line, a comment, or a bare marker.
fn has_no_content(line: &str) -> bool {
    matches!(line.trim(), "" | "---" | "...") || line.trim_start().starts_with('#')
}

/// How many lines of a document come before its content.
pub fn lines_before_content(text: &str) -> u64 {
    text.lines().take_while(|line| has_no_content(line)).count() as u64
}

/// YAML 1.2 booleans: `namespace: n` names a namespace. Size is bounded by the file's; nodes, depth and aliases here,
/// so that a small file cannot unfold into a large one.
fn options() -> serde_saphyr::Options {
    let unbounded = serde_saphyr::budget! {
        max_events: 20_000_000,
        max_nodes: 10_000_000,
        max_documents: 1,
        max_total_scalar_bytes: usize::MAX,
    };
    serde_saphyr::options! { strict_booleans: true, budget: unbounded }
}

/// The library appends a drawing of the place, and says the place first, counted from the document's start; between them
/// stands what is wrong.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim_end_matches(':');
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let what = line.strip_prefix("line ").and_then(|place| place.split_once(": ")).map_or(line, |(_, what)| what);
    what.to_owned()
}

/// Splits a file at its document markers: `---` at the start of a line can be nothing else (YAML 1.2, section 9.2), so a
/// broken document cannot swallow its neighbours. Each part comes with its first line's number, from 1.
pub fn documents(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with([' ', '\t']));
        if is_marker {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, index as u64 + 1);
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_markers_only() {
        let text = "a: 1\n--- # two\nb: |\n  x\n  --- no\n---\nc: 3\n";
        let lines: Vec<u64> = documents(text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 2, 6]);
    }

    #[test]
    fn a_document_without_content_is_none() {
        for text in ["", "---\n", "# words\n\n", "--- \n# a\n"] {
            assert!(parse::<serde_json::Value>(text).unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn bad_yaml_names_its_line() {
        let error = parse::<serde_json::Value>("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error}");
    }
}
