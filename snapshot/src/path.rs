//! The path of a request or rule, normalised once; the same text is matched and forwarded.

use std::borrow::Cow;

/// Why a path is refused. The gateway answers 400; a rule with such a path is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// Does not begin with `/`.
    NotAbsolute,
    /// A raw control byte, a raw backslash, or NUL in any form.
    ForbiddenByte,
    /// `%` without two hexadecimal digits.
    BadEncoding,
    /// `%2F` or `%5C` where the setting `rejectEncodedSlashes` is on.
    EncodedSlash,
    /// A rule's path of more than [`MAX_RULE_PATH`] bytes.
    TooLong,
}

impl PathError {
    /// A sentence's end for messages: "the path ...".
    pub const fn as_str(self) -> &'static str {
        match self {
            PathError::NotAbsolute => "does not begin with `/`",
            PathError::ForbiddenByte => "holds a control byte, NUL or a backslash",
            PathError::BadEncoding => "holds a `%` that is not followed by two hexadecimal digits",
            PathError::TooLong => "is longer than 8192 bytes",
            PathError::EncodedSlash => "holds an encoded slash or backslash, which `rejectEncodedSlashes` forbids",
        }
    }
}

/// Most bytes of a rule's path. No client asks for one that long, and nobody must make a host large with it.
pub const MAX_RULE_PATH: usize = 8192;

/// Normalises a path (RFC 3986 section 6.2.2): dot segments are removed (also percent-encoded ones), percent-encoded
/// unreserved characters are decoded, other escapes get upper-case digits; raw non-ASCII bytes, angle brackets and backticks,
/// which some clients send as they are and no URI holds, are percent-encoded.
/// `//` is kept, and so are `%2F` and `%5C`: they are data, not separators. The function is idempotent.
///
/// Borrows, and so allocates nothing, when the path is normal already and holds no escape.
///
/// # Errors
/// See [`PathError`].
pub fn normalise(raw: &[u8]) -> Result<Cow<'_, str>, PathError> {
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(raw)? {
        // Only ASCII passes `is_normal`.
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| PathError::ForbiddenByte);
    }
    let decoded = decode_escapes(raw)?;
    Ok(Cow::Owned(remove_dot_segments(&decoded)))
}

/// Normalises the path of a rule. A rule may hold characters that no request target can carry as they are (the API: "it can
/// contain characters disallowed from the conventional path part of a URL"): blanks, `?` and `#`. They are
/// percent-encoded, which is how a request for them has to write them.
///
/// # Errors
/// See [`PathError`].
pub fn normalise_rule(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.len() > MAX_RULE_PATH {
        return Err(PathError::TooLong);
    }
    if !raw.contains([' ', '?', '#']) {
        return normalise(raw.as_bytes());
    }
    let encoded = raw.replace(' ', "%20").replace('?', "%3F").replace('#', "%23");
    normalise(encoded.as_bytes()).map(|path| Cow::Owned(path.into_owned()))
}

/// Whether a normalised path holds an encoded slash or backslash.
pub fn has_encoded_slash(normal: &str) -> bool {
    normal.as_bytes().windows(3).any(|escape| escape == b"%2F" || escape == b"%5C")
}

/// One pass that finds out whether there is anything to do.
fn is_normal(raw: &[u8]) -> Result<bool, PathError> {
    let mut normal = true;
    let mut previous = 0;
    for (index, &byte) in raw.iter().enumerate() {
        match byte {
            0..=0x1f | 0x7f | b'\\' => return Err(PathError::ForbiddenByte),
            b'%' | 0x80.. | b'<' | b'>' | b'`' => normal = false,
            b'.' if previous == b'/' => normal &= !is_dot_segment(&raw[index..]),
            _ => {}
        }
        previous = byte;
    }
    Ok(normal)
}

fn is_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

const UPPER_HEX: &[u8; 16] = b"0123456789ABCDEF";

fn push_escape(out: &mut String, byte: u8) {
    out.push('%');
    out.push(char::from(UPPER_HEX[usize::from(byte >> 4)]));
    out.push(char::from(UPPER_HEX[usize::from(byte & 15)]));
}

fn decode_escapes(raw: &[u8]) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (high, low) = match after {
                    [high, low, ..] => (hex_value(*high), hex_value(*low)),
                    _ => (None, None),
                };
                let (Some(high), Some(low)) = (high, low) else { return Err(PathError::BadEncoding) };
                rest = &after[2..];
                match high << 4 | low {
                    0 => return Err(PathError::ForbiddenByte),
                    value if is_unreserved(value) => out.push(char::from(value)),
                    value => push_escape(&mut out, value),
                }
            }
            0x80.. | b'<' | b'>' | b'`' => push_escape(&mut out, byte),
            _ => out.push(char::from(byte)),
        }
    }
    Ok(out)
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 5.2.4 for an absolute path: `..` above the root stays at the root.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                if last {
                    out.push('/');
                }
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_normalised() {
        for (raw, normal) in [
            ("/", "/"),
            ("/foo", "/foo"),
            ("/foo/./bar", "/foo/bar"),
            ("/foo/../bar", "/bar"),
            ("/foo/..", "/"),
            ("/foo/.", "/foo/"),
            ("/../../foo", "/foo"),
            ("/foo/%2e%2E/z", "/z"),
            ("/foo/...", "/foo/..."),
            ("/foo/.hidden", "/foo/.hidden"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("/f%6F%6f", "/foo"),
            ("/%7euser", "/~user"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/%c3%a9", "/%C3%A9"),
            ("/\u{e9}", "/%C3%A9"),
            ("/a|b{}^", "/a|b{}^"),
            ("/\"`<>", "/\"%60%3C%3E"),
            ("/a+b;c=d", "/a+b;c=d"),
        ] {
            assert_eq!(normalise(raw.as_bytes()).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn rules_may_hold_what_requests_must_encode() {
        for (raw, normal) in [("/my docs", "/my%20docs"), ("/a?b", "/a%3Fb"), ("/a#b", "/a%23b"), ("/a/../b", "/b")] {
            assert_eq!(normalise_rule(raw).as_deref(), Ok(normal), "{raw}");
            assert_eq!(normalise(normal.as_bytes()).as_deref(), Ok(normal), "a request reaches it");
        }
    }

    #[test]
    fn bad_paths_are_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("foo", PathError::NotAbsolute),
            ("%2Ffoo", PathError::NotAbsolute),
            ("/%zz", PathError::BadEncoding),
            ("/%2", PathError::BadEncoding),
            ("/%", PathError::BadEncoding),
            ("/%00", PathError::ForbiddenByte),
            ("/a\0", PathError::ForbiddenByte),
            ("/a\\b", PathError::ForbiddenByte),
            ("/a\x7f", PathError::ForbiddenByte),
            ("/a\nb", PathError::ForbiddenByte),
        ] {
            assert_eq!(normalise(raw.as_bytes()), Err(error), "{raw}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        assert!(matches!(normalise(b"/a/b.c/..d/e.."), Ok(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(raw in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'%'), Just(b'2'), Just(b'e'), any::<u8>()], 0..24)) {
            let mut path = vec![b'/'];
            path.extend(raw);
            if let Ok(once) = normalise(&path) {
                let twice = normalise(once.as_bytes());
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }
    }
}
