//! The Host of a request, normalised once (RFC 9110 section 7.2, RFC 3986 section 3.2.2).

/// Longest host that is taken, without port and trailing dot: a DNS name has at most 253 characters.
pub const MAX_HOST: usize = 255;

/// A Host header or `:authority` that is no host. The gateway answers 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostError;

/// A normalised host in a buffer of its own: no allocation, however it was written.
#[derive(Clone, Copy)]
pub struct RequestHost {
    buffer: [u8; MAX_HOST],
    length: u8,
}

impl RequestHost {
    /// The host of a request without one (HTTP/1.0): matches host-less rules only.
    pub const NONE: RequestHost = RequestHost { buffer: [0; MAX_HOST], length: 0 };

    /// Lower-cases `raw`, drops a port and one trailing dot. An IPv6 literal keeps its brackets.
    ///
    /// # Errors
    /// Anything that is no `uri-host [ ":" port ]`: empty, over [`MAX_HOST`] bytes, bytes outside of RFC 3986's
    /// reg-name (a comma is refused too, since it is the mark of a joined list), empty labels, a port that is not digits.
    pub fn parse(raw: &[u8]) -> Result<Self, HostError> {
        let host = match raw.first() {
            None => return Err(HostError),
            Some(b'[') => ipv6_literal(raw)?,
            Some(_) => reg_name(raw)?,
        };
        if host.len() > MAX_HOST {
            return Err(HostError);
        }
        let mut buffer = [0; MAX_HOST];
        for (to, from) in buffer.iter_mut().zip(host) {
            *to = from.to_ascii_lowercase();
        }
        Ok(RequestHost { buffer, length: host.len() as u8 })
    }

    /// The host as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII passes `parse`.
        std::str::from_utf8(&self.buffer[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl std::fmt::Debug for RequestHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port may be empty (RFC 3986, 3.2.3), and is at most 65535.
fn is_port(raw: &[u8]) -> bool {
    let digits = std::str::from_utf8(raw).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.is_some_and(|text| text.is_empty() || text.parse::<u16>().is_ok())
}

fn ipv6_literal(raw: &[u8]) -> Result<&[u8], HostError> {
    let end = raw.iter().position(|b| *b == b']').ok_or(HostError)?;
    let inside = std::str::from_utf8(&raw[1..end]).map_err(|_| HostError)?;
    inside.parse::<std::net::Ipv6Addr>().map_err(|_| HostError)?;
    match &raw[end + 1..] {
        [] => {}
        [b':', port @ ..] if is_port(port) => {}
        _ => return Err(HostError),
    }
    Ok(&raw[..=end])
}

fn reg_name(raw: &[u8]) -> Result<&[u8], HostError> {
    let host = match raw.iter().position(|b| *b == b':') {
        Some(colon) if is_port(&raw[colon + 1..]) => &raw[..colon],
        Some(_) => return Err(HostError),
        None => raw,
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    let is_encoded = |rest: &[u8]| matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if host.iter().enumerate().any(|(at, byte)| *byte == b'%' && !is_encoded(&host[at + 1..])) {
        return Err(HostError);
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(b);
    if host.is_empty() || !host.iter().all(allowed) || host.windows(2).any(|pair| pair == b"..") || host.ends_with(b".")
    {
        return Err(HostError);
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(raw: &str) -> Option<String> {
        RequestHost::parse(raw.as_bytes()).ok().map(|host| host.as_str().to_owned())
    }

    #[test]
    fn case_port_and_one_trailing_dot_are_dropped() {
        for raw in ["Shop.Test", "shop.test:80", "shop.test.", "SHOP.test.:8443", "shop.test:"] {
            assert_eq!(parsed(raw).as_deref(), Some("shop.test"), "{raw}");
        }
    }

    #[test]
    fn ipv6_literals_survive() {
        assert_eq!(parsed("[::1]:8080").as_deref(), Some("[::1]"));
        assert_eq!(parsed("[2001:DB8::1]").as_deref(), Some("[2001:db8::1]"));
        for raw in ["[::1", "[::1]x", "[::1]:x", "[zz]", "[]", "::1"] {
            assert_eq!(parsed(raw), None, "{raw}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(256);
        assert!(parsed(&format!("{}.:65535", "a".repeat(255))).is_some(), "port and dot are not counted");
        for raw in [
            "", ".", ":80", "a b", "a%", "a%2", "a%zz", "a/b", "a,b", "a@b", "a..b", "a..", "a:b", "a:80:80", "a\\b",
            "a\u{e9}", &long,
        ] {
            assert_eq!(parsed(raw), None, "{raw}");
        }
    }
}
