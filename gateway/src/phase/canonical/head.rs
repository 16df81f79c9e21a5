//! The head of an HTTP/1 message, split by the grammar of RFC 9112 and nothing more lenient than it.
//!
//! What parsers disagree about is where requests are smuggled: whatever the grammar does not allow is refused here, never repaired.

use std::fmt;

/// A head that is not what the grammar says; the text tells what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A field line: its name as written, and its value without the white space around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// A token (RFC 9110, 5.6.2).
    pub name: &'a [u8],
    /// Visible bytes, blanks, tabs and obs-text (RFC 9110, 5.5).
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Whether this is the field of that name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// A message's head, split.
#[derive(Debug)]
pub struct Head<'a> {
    /// The start line, without its end.
    pub start: &'a [u8],
    /// Field lines in their order.
    pub fields: Vec<Field<'a>>,
}

/// Length of the head that `bytes` begin with, empty lines before it included; `None`: its end is not there yet. `seen`: so many bytes were
/// looked at before.
///
/// # Errors
/// A line ends without CR: nobody waits for the rest of such a head.
pub fn length(bytes: &[u8], seen: usize) -> Result<Option<usize>, Malformed> {
    let skipped = empty_lines(bytes);
    // A line's end may stand at the seam.
    let mut at = seen.saturating_sub(3);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let end = at + found;
        if end == 0 || bytes[end - 1] != b'\r' {
            return Err(Malformed("a line ends without CR"));
        }
        if end >= skipped && bytes[..end - 1].ends_with(b"\r\n") {
            return Ok(Some(end + 1));
        }
        at = end + 1;
    }
    Ok(None)
}

/// Length of the empty lines that a head begins with; a server skips them (RFC 9112, 2.2).
fn empty_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// Splits a complete head, as [`length`] measures it.
///
/// # Errors
/// It is not what the grammar says.
pub fn split(bytes: &[u8]) -> Result<Head<'_>, Malformed> {
    let mut rest = &bytes[empty_lines(bytes)..];
    let start = line(&mut rest)?;
    let mut fields = Vec::with_capacity(16);
    loop {
        let text = line(&mut rest)?;
        if text.is_empty() {
            return Ok(Head { start, fields });
        }
        fields.push(field(text)?);
    }
}

/// Takes a line off `rest`.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or(Malformed("a line has no end"))?;
    let (line, after) = rest.split_at(end);
    *rest = &after[1..];
    line.strip_suffix(b"\r").ok_or(Malformed("a line ends without CR"))
}

/// Reads a field line, also one of a trailer.
///
/// # Errors
/// It is not what the grammar says.
pub fn field(line: &[u8]) -> Result<Field<'_>, Malformed> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Malformed("a field goes on in a second line"));
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed("a field line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() {
        return Err(Malformed("a field has no name"));
    }
    if !name.iter().all(|byte| is_token(*byte)) {
        return Err(Malformed("a field's name is no token"));
    }
    if !value.iter().all(|byte| is_value(*byte)) {
        return Err(Malformed("a field's value has a control byte"));
    }
    Ok(Field { name, value: trim(value) })
}

/// Without the blanks and tabs around it.
pub fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// A byte of a token (RFC 9110, 5.6.2).
pub const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// A byte of a field's value (RFC 9110, 5.5).
const fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_arrives() {
        let bytes = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let end = bytes.len() - 4;
        for cut in 0..bytes.len() {
            let before = length(&bytes[..cut], 0).unwrap();
            assert_eq!(before, (cut >= end).then_some(end), "{cut}");
            assert_eq!(length(bytes, cut.min(end - 1)).unwrap(), Some(end), "{cut}");
        }
    }

    #[test]
    fn a_bare_line_feed_is_refused_at_once() {
        for bytes in [&b"\n"[..], b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: a\n", b"\r\n\nGET"] {
            assert!(length(bytes, 0).is_err(), "{bytes:?}");
        }
        assert_eq!(length(b"GET / HTTP/1.1\r", 0), Ok(None));
    }

    #[test]
    fn fields_are_split_and_trimmed() {
        let head = split(b"GET / HTTP/1.1\r\nA: \t b c \t\r\nD:\r\nE:\xe9\r\n\r\n").unwrap();
        assert_eq!(head.start, b"GET / HTTP/1.1");
        let fields: Vec<_> = head.fields.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(fields, [(&b"A"[..], &b"b c"[..]), (b"D", b""), (b"E", b"\xe9")]);
    }

    #[test]
    fn what_the_grammar_does_not_allow_is_refused() {
        for line in [
            &b" a: b"[..],
            b"\ta: b",
            b"a b",
            b": b",
            b"a : b",
            b"a\t: b",
            b"a(: b",
            b"\xe9: b",
            b"a: \0",
            b"a: \r",
            b"a: \x7f",
            b"a\0: b",
        ] {
            assert!(field(line).is_err(), "{line:?}");
        }
    }
}
