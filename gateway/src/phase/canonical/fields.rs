//! Which header fields frame a message, belong to one hop, or may not be taken away by whoever sends them.

use super::head::{self, Malformed};

/// Fields that frame a message, or say what a connection or a host is for.
const FRAMING: [&str; 9] =
    ["host", "te", "expect", "upgrade", "trailer", "connection", "keep-alive", "content-length", "transfer-encoding"];

/// Fields that are about one connection (RFC 9110, 7.6.1), besides those that `Connection` nominates: the next hop has its own.
const ONE_HOP: [&str; 8] =
    ["te", "upgrade", "trailer", "connection", "keep-alive", "http2-settings", "proxy-connection", "transfer-encoding"];

/// Beginnings of names that a client may not have taken away by nominating them: whoever sits behind relies on them.
const END_TO_END: [&str; 26] = [
    "accept",
    "content-",
    "if-",
    "x-forwarded",
    "x-original-",
    "x-real-",
    "x-request-",
    "sec-",
    "access-control-",
    "x-client-",
    "x-cluster-",
    "x-csrf-",
    "x-xsrf-",
    "x-auth-",
    "x-api-",
    "x-amz-",
    "x-ssl-",
    "ssl-",
    "client-cert",
    "cf-",
    "true-client-",
    "remote-",
    "x-remote-",
    "x-frame-",
    "x-xss-",
    "strict-transport-",
];

/// More of them, whole names.
const END_TO_END_NAMES: [&str; 25] = [
    "via",
    "vary",
    "etag",
    "dpop",
    "x-scheme",
    "location",
    "signature",
    "set-cookie",
    "signature-input",
    "early-data",
    "referrer-policy",
    "www-authenticate",
    "date",
    "host",
    "range",
    "cookie",
    "expect",
    "origin",
    "referer",
    "forwarded",
    "user-agent",
    "authorization",
    "cache-control",
    "x-requested-with",
    "transfer-encoding",
];

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The letters and digits of a name, in lower case.
fn squeezed(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase)
}

/// Whether a name is one of a framing field, or looks like one.
pub fn is_framing(name: &[u8]) -> bool {
    FRAMING.iter().any(|known| squeezed(name).eq(squeezed(known.as_bytes())))
}

/// Whether a name looks like one of a framing field and is none. CGI-like servers read every other sign as `_`, and some readers skip
/// what they do not know: `Transfer_Encoding`, `Transfer--Encoding`, `TransferEncoding`.
pub fn is_look_alike(name: &[u8]) -> bool {
    is_framing(name) && !is_one_of(name, &FRAMING)
}

/// Whether a field never goes on to the next hop.
pub fn is_one_hop(name: &[u8]) -> bool {
    is_one_of(name, &ONE_HOP)
}

/// Whether `Connection` may nominate a field: not one of forwarding, of security or of the message itself (CVE-2026-105299), however it is
/// written for servers that take `_` for `-`.
pub fn may_be_nominated(name: &[u8]) -> bool {
    let same = |byte: &u8, known: &u8| byte.eq_ignore_ascii_case(known) || (*byte == b'_' && *known == b'-');
    let begins = |with: &&str| name.len() >= with.len() && name.iter().zip(with.as_bytes()).all(|(a, b)| same(a, b));
    let is = |known: &&str| name.len() == known.len() && begins(known);
    !END_TO_END_NAMES.iter().any(is) && !END_TO_END.iter().any(begins)
}

/// Most options and names in `Connection`: each is compared with each field.
pub const MAX_NOMINATED: usize = 32;

/// What the Connection fields of a message say: options, and names of fields that end here (RFC 9110, 7.6.1).
#[derive(Debug, Default)]
pub struct Nominated<'a>(Vec<&'a [u8]>);

impl<'a> Nominated<'a> {
    /// The elements of a Connection field; empty ones are none.
    pub fn elements(value: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        value.split(|byte| *byte == b',').map(head::trim).filter(|name| !name.is_empty())
    }

    /// Takes one in.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(&mut self, name: &'a [u8]) -> Result<(), Malformed> {
        self.0.push(name);
        if self.0.len() > MAX_NOMINATED { Err(Malformed("Connection nominates too many fields")) } else { Ok(()) }
    }

    /// Whether it is among them, as an option or as a field's name.
    pub fn has(&self, name: impl AsRef<[u8]>) -> bool {
        self.0.iter().any(|known| known.eq_ignore_ascii_case(name.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_alikes_are_names_that_lenient_readers_cannot_tell_apart() {
        for name in [
            "Transfer_Encoding",
            "content_length",
            "KEEP_ALIVE",
            "Transfer---Encoding",
            "contentlength",
            "Host_",
            "-Host",
        ] {
            assert!(is_look_alike(name.as_bytes()), "{name}");
        }
        for name in ["transfer-encoding", "x_content_length", "content-lengths", "x-host", "hosts", "x-a"] {
            assert!(!is_look_alike(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn only_fields_of_one_hop_and_unknown_ones_may_be_nominated() {
        for name in ["close", "keep-alive", "Upgrade", "TE", "HTTP2-Settings", "x-hop", "Proxy-Authorization"] {
            assert!(may_be_nominated(name.as_bytes()), "{name}");
        }
        for name in [
            "Host",
            "Content-Length",
            "X-Forwarded-For",
            "authorization",
            "Cookie",
            "Transfer-Encoding",
            "If-Match",
            "X_Forwarded_For",
            "X-Forwarded",
            "X-CSRF-Token",
            "X-Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "Client-Cert",
            "Ssl-Client-Verify",
            "X-SSL-Client-Cert",
            "X-Auth-Request-User",
            "Remote-User",
            "DPoP",
            "X-Api-Key",
            "X-Amz-Security-Token",
            "Access-Control-Request-Method",
            "Set-Cookie",
            "Location",
            "Strict-Transport-Security",
        ] {
            assert!(!may_be_nominated(name.as_bytes()), "{name}");
        }
    }
}
