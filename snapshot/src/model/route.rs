//! Hosts and the routes below them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::{BackendKey, HostPattern, ObjectKey};

/// `pathType` of an Ingress path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathType {
    /// The whole path, case-sensitive.
    Exact,
    /// Whole path elements from the left.
    Prefix,
    /// Read as [`PathType::Prefix`].
    ImplementationSpecific,
}

impl PathType {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            PathType::Exact => "Exact",
            PathType::Prefix => "Prefix",
            PathType::ImplementationSpecific => "ImplementationSpecific",
        }
    }

    /// Whether it matches by elements from the left.
    pub const fn is_prefix(self) -> bool {
        !matches!(self, PathType::Exact)
    }
}

impl fmt::Display for PathType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a route answers by itself instead of reaching a backend. The gateway turns each into a 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The rule's backend has both `service` and `resource`.
    BackendAmbiguous,
    /// The rule's backend has neither.
    BackendMissing,
    /// The rule's backend is unreadable (a Service port that is neither number nor name).
    BackendInvalid,
    /// `resource` of a kind that is not served.
    ResourceUnsupported,
    /// An annotation of the Ingress keeps somebody out, in a way that is not supported.
    AccessRuleUnsupported,
    /// An arm of a newer version: fails closed for this route only.
    #[serde(other)]
    Unknown,
}

/// Where a route sends its requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A Service port.
    Backend(BackendKey),
    /// The keys of a ConfigMap, as static files.
    Content(ObjectKey),
    /// Nowhere.
    Refused(Refusal),
}

/// Where the value of a setting comes from; absent where it is the configuration file's, or the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SetBy {
    /// The ConfigMap with settings for everything (`--configmap`).
    ConfigMap,
    /// The ConfigMap that `spec.parameters` of the class names.
    Class,
    /// An annotation of the Ingress.
    Annotation,
}

/// Settings by their name in the configuration file, with where their value comes from.
pub type Sources = BTreeMap<Arc<str>, SetBy>;

/// What a route does besides choosing a backend: annotations, class settings and global settings, merged by compile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Plain HTTP to a host with TLS is answered with 308 (`nginx.ingress.kubernetes.io/ssl-redirect`, `sslRedirect`).
    pub ssl_redirect: bool,
    /// A path with `%2F` or `%5C` is refused with 400 (`rejectEncodedSlashes`).
    pub reject_encoded_slashes: bool,
    /// Most bytes of a request's body (`nginx.ingress.kubernetes.io/proxy-body-size`, `bodyLimit`); 0: however many. More is answered with 413.
    #[serde(skip_serializing_if = "is_default")]
    pub body_limit: u64,
    /// Seconds without a byte either way once an answer has begun (`sluicegate.dev/stream-timeout`); absent: the gateway's `timeouts.stream`.
    #[serde(skip_serializing_if = "is_default")]
    pub stream_timeout: Option<u32>,
    /// Seconds for the client to take anything of an answer (`sluicegate.dev/client-write-timeout`); absent: `timeouts.clientWrite`.
    #[serde(skip_serializing_if = "is_default")]
    pub client_write_timeout: Option<u32>,
    /// Seconds without a byte on an upgraded connection (`sluicegate.dev/upgraded-idle-timeout`); absent: `timeouts.upgradedIdle`.
    #[serde(skip_serializing_if = "is_default")]
    pub upgraded_idle_timeout: Option<u32>,
    /// Where the values come from, for `explain`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_by: Sources,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            ssl_redirect: true,
            reject_encoded_slashes: false,
            body_limit: 0,
            stream_timeout: None,
            client_write_timeout: None,
            upgraded_idle_timeout: None,
            set_by: Sources::new(),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One path of one rule of one Ingress, or a default backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The Ingress it comes from; absent for the configured default backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<ObjectKey>,
    /// Name of its class; empty where it has none.
    pub class: Arc<str>,
    /// The rule's host; for a catch-all and the configured default backend the host-less pattern.
    pub host: HostPattern,
    /// The rule's path, normalised; `/` for a default backend.
    pub path: Arc<str>,
    /// How `path` matches.
    pub path_type: PathType,
    /// Whether this is a `defaultBackend` and not a rule's path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_default: bool,
    /// Where requests go.
    pub target: Target,
    /// What else happens to them.
    pub policy: Policy,
}

impl Route {
    /// Bytes of the route as it is sent to gateways, by estimate. Costs nothing.
    pub fn bytes(&self) -> usize {
        let key = |key: &ObjectKey| key.namespace.len() + key.name.len();
        let target = match &self.target {
            Target::Backend(backend) => key(&backend.service) + 16,
            Target::Content(content) => key(content),
            Target::Refused(_) => 0,
        };
        let host = match &self.host {
            HostPattern::Any => 0,
            HostPattern::Exact(name) | HostPattern::Wildcard(name) => name.len(),
        };
        200 + self.ingress.as_ref().map_or(0, key) + self.class.len() + host + self.path.len() + target
    }

    /// The text that identifies what is matched: for prefixes without a trailing slash (`/foo/` means `/foo`).
    pub fn match_path(&self) -> &str {
        match_path(&self.path, self.path_type)
    }
}

/// See [`Route::match_path`]. `/` as a prefix is the empty string.
pub fn match_path(path: &str, path_type: PathType) -> &str {
    if path_type.is_prefix() { path.strip_suffix('/').unwrap_or(path) } else { path }
}

/// A claim that another Ingress won: kept for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// The Ingress that lost.
    pub ingress: ObjectKey,
    /// The path it claimed.
    pub path: Arc<str>,
    /// Its type.
    pub path_type: PathType,
    /// The Ingress that won.
    pub winner: ObjectKey,
}

/// Everything below one host pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualHost {
    /// One per path and type, in the order of precedence of their Ingresses.
    pub routes: Vec<Arc<Route>>,
    /// `defaultBackend` of the oldest Ingress of the host that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Arc<Route>>,
    /// Claims that lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// What happens to requests that no route of the host takes: as for the routes of the host's first Ingress.
    #[serde(default)]
    pub policy: Policy,
    /// The namespace that owns the host, where hosts are owned: a catch-all of another one gets nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
}
