//! Identities: what objects, hosts and backends are called, in every map, file and message.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The kinds of object that are inputs of compile, in the order in which diagnostics list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `networking.k8s.io/v1` Ingress.
    Ingress,
    /// `networking.k8s.io/v1` IngressClass (cluster-scoped: its namespace is empty).
    IngressClass,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
    /// A `v1` ConfigMap in which controllers record whose hosts are ([`crate::facts::HostOwnersFacts`]).
    HostOwners,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Ingress,
        Kind::IngressClass,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::HostOwners,
    ];

    /// The kind's name as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Ingress => "Ingress",
            Kind::IngressClass => "IngressClass",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::HostOwners => "HostOwners",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `namespace/name` of an object; a cluster-scoped object has an empty namespace and prints as `name`.
///
/// Cloning costs two reference counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    /// A key of a cluster-scoped object.
    pub fn cluster(name: impl Into<Arc<str>>) -> Self {
        ObjectKey { namespace: Arc::from(""), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A text that is no key, host pattern or backend reference; the message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(pub(crate) &'static str);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for KeyError {}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        if name.is_empty() || name.contains('/') || (text.contains('/') && namespace.is_empty()) {
            return Err(KeyError("expected NAMESPACE/NAME"));
        }
        Ok(ObjectKey::new(namespace, name))
    }
}

/// Whether an object can have this name: a DNS subdomain of RFC 1123, as the API server wants it.
pub fn is_object_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let at_ends = |c: char| c.is_ascii_alphanumeric();
    (1..=253).contains(&name.len()) && name.bytes().all(allowed) && name.starts_with(at_ends) && name.ends_with(at_ends)
}

/// Whether an Ingress can name a Service port like this: a DNS label with at least one letter, so that it is no number.
pub fn is_port_name(name: &str) -> bool {
    is_object_name(name) && name.len() <= 63 && !name.contains('.') && name.bytes().any(|b| b.is_ascii_lowercase())
}

/// An object with its kind: what a [`crate::Diagnostic`] points at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace and name.
    #[serde(flatten)]
    pub key: ObjectParts,
}

/// [`ObjectKey`] written as two fields, as `kubectl` users expect it in JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectParts {
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Points at `key` of `kind`.
    pub fn new(kind: Kind, key: &ObjectKey) -> Self {
        let ObjectKey { namespace, name } = key.clone();
        ObjectRef { kind, key: ObjectParts { namespace, name } }
    }

    /// The namespace and name as one key.
    pub fn object_key(&self) -> ObjectKey {
        ObjectKey { namespace: self.key.namespace.clone(), name: self.key.name.clone() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.object_key())
    }
}

/// Which requests a rule or a certificate is for: one host, all hosts one label below a name, or any host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Host-less: everything that no other pattern takes.
    Any,
    /// One host, lower-case, no trailing dot.
    Exact(Arc<str>),
    /// `*.suffix`: exactly one label before `suffix`.
    Wildcard(Arc<str>),
}

impl HostPattern {
    /// Reads `rules[].host` or `tls[].hosts[]`: lower-cased, one trailing dot dropped, and checked as the API server
    /// checks it (a DNS name, `*` only as the whole first label, no port, no IP address).
    ///
    /// # Errors
    /// Says what is wrong in words that fit behind "host ...".
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Ok(HostPattern::Any);
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let (wildcard, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        if name == "*" {
            return Err(KeyError("`*` alone is not allowed; leave host out to take every host"));
        }
        if rest.contains('*') {
            return Err(KeyError("`*` may only stand as the whole first label, as in `*.example.com`"));
        }
        if rest.starts_with('[') || rest.parse::<std::net::IpAddr>().is_ok() {
            return Err(KeyError("an IP address is not allowed"));
        }
        if rest.contains(':') {
            return Err(KeyError("a port is not allowed"));
        }
        if name.len() > 253 {
            return Err(KeyError("longer than 253 characters"));
        }
        if !rest.split('.').all(is_label) {
            return Err(KeyError("not a DNS name (labels of letters, digits and `-`, at most 63 each)"));
        }
        let rest = Arc::from(rest);
        Ok(if wildcard { HostPattern::Wildcard(rest) } else { HostPattern::Exact(rest) })
    }

    /// Whether a request for `host` (normalised) is taken by this pattern alone, leaving precedence aside.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => &**name == host,
            HostPattern::Wildcard(suffix) => parent_of(host) == Some(suffix),
        }
    }
}

/// The name one label up: what a wildcard must be for, to take `host`. `None` where the first label is empty or the
/// only one.
pub fn parent_of(host: &str) -> Option<&str> {
    match host.split_once('.') {
        Some((label, parent)) if !label.is_empty() && !parent.is_empty() => Some(parent),
        _ => None,
    }
}

/// Labels with `_` are taken too: they are no host names by RFC 1123, but DNS has them and manifests use them.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = KeyError;

    /// Reads what [`fmt::Display`] writes: `*` is the host-less pattern.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text {
            "*" => Ok(HostPattern::Any),
            "" => Err(KeyError("expected a host, `*.suffix` or `*`")),
            _ => HostPattern::parse(text),
        }
    }
}

/// `service.port` of an Ingress backend: by number or by name, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServicePort {
    /// `port.number`.
    Number(u16),
    /// `port.name`.
    Name(Arc<str>),
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServicePort::Number(number) => write!(f, "{number}"),
            ServicePort::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for ServicePort {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // A DNS-label port name holds at least one letter (Kubernetes' IsValidPortName), so digits are a number.
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse() {
                Ok(0) | Err(_) => Err(KeyError("a port number must be 1 to 65535")),
                Ok(number) => Ok(ServicePort::Number(number)),
            };
        }
        if text.is_empty() || text.contains([':', '/']) {
            return Err(KeyError("expected a port number or a port name"));
        }
        Ok(ServicePort::Name(Arc::from(text)))
    }
}

/// Identity of a backend: `namespace/service:port`. State in the gateway (health, cursors, pools) is keyed by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The Service.
    pub service: ObjectKey,
    /// Its port, as the Ingress writes it.
    pub port: ServicePort,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

impl FromStr for BackendKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (service, port) = text.rsplit_once(':').ok_or(KeyError("expected NAMESPACE/SERVICE:PORT"))?;
        let service: ObjectKey = service.parse()?;
        if service.namespace.is_empty() {
            return Err(KeyError("expected NAMESPACE/SERVICE:PORT"));
        }
        Ok(BackendKey { service, port: port.parse()? })
    }
}

/// Keys are strings in JSON, so that maps keyed by them are ordinary objects.
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(ObjectKey, HostPattern, BackendKey, ServicePort);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_patterns_are_lower_cased_and_lose_one_trailing_dot() {
        assert_eq!(HostPattern::parse("Shop.Example.COM.").unwrap(), HostPattern::Exact("shop.example.com".into()));
        assert_eq!(HostPattern::parse("*.Example.com").unwrap(), HostPattern::Wildcard("example.com".into()));
        assert_eq!(HostPattern::parse("").unwrap(), HostPattern::Any);
    }

    #[test]
    fn hosts_that_the_api_refuses_are_refused() {
        for host in ["*", "a.*.b", "*a.b", "a.b:80", "10.0.0.1", "::1", "[::1]", "a..b", ".a", "-a.b", "a b", "*."] {
            assert!(HostPattern::parse(host).is_err(), "{host}");
        }
    }

    #[test]
    fn a_wildcard_takes_exactly_one_label() {
        let wildcard = HostPattern::parse("*.foo.com").unwrap();
        assert!(wildcard.covers("a.foo.com"));
        for host in ["foo.com", "a.b.foo.com", ".foo.com", "afoo.com"] {
            assert!(!wildcard.covers(host), "{host}");
        }
    }

    #[test]
    fn keys_read_what_they_print() {
        for text in ["shop/web:80", "shop/web:http"] {
            assert_eq!(text.parse::<BackendKey>().unwrap().to_string(), text);
        }
        for text in ["web:80", "shop/web", "shop/web:0", "shop/web:65536", "shop/:80", "/web:80", "a/b/c:80"] {
            assert!(text.parse::<BackendKey>().is_err(), "{text}");
        }
        for text in ["*", "*.a.b", "a.b"] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), text);
        }
    }
}
