//! What a message says about its body's framing (RFC 9112, 6.3): one reading for requests and answers.

use super::fields::is_look_alike;
use super::head::{Field, Malformed};

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What the fields say, that were read so far.
#[derive(Debug, Default)]
pub struct Declared {
    length: Option<u64>,
    chunked: bool,
}

impl Declared {
    /// Reads a field; true: it is one about framing.
    ///
    /// # Errors
    /// It contradicts another one, is not what readers agree about, or looks like one about framing and is none.
    pub fn read(&mut self, field: &Field<'_>, http10: bool) -> Result<bool, Malformed> {
        if field.is("content-length") {
            if self.length.replace(content_length(field.value)?).is_some() {
                return Err(Malformed("there are several Content-Length fields"));
            }
        } else if field.is("transfer-encoding") {
            let again = std::mem::replace(&mut self.chunked, true);
            if again || http10 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("Transfer-Encoding is not exactly `chunked`, or stands in HTTP/1.0"));
            }
        } else if is_look_alike(field.name) {
            return Err(Malformed("a field looks like one about framing and is none"));
        } else {
            return Ok(false);
        }
        if self.chunked && self.length.is_some() {
            return Err(Malformed("Transfer-Encoding and Content-Length contradict each other"));
        }
        Ok(true)
    }

    /// The Content-Length, where there is one.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// What all of them say.
    pub fn framing(&self) -> Framing {
        match self.length {
            _ if self.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::None,
        }
    }
}

/// Reads a Content-Length (RFC 9110, 8.6): digits, and nothing else.
///
/// # Errors
/// It is something else, or more than 64 bits hold.
pub fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Malformed("Content-Length is no number"))
}
