//! Request ids: 32 hexadecimal digits, as ingress-nginx makes them.

/// A new random id.
pub fn new() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Whether an id from a trusted proxy is taken over: visible ASCII without separators, 1 to 128 characters.
pub fn is_acceptable(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(&b))
}
