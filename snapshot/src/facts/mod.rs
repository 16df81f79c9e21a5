//! Facts: one Kubernetes object, trimmed to one small typed value. Parsing ends here.
//!
//! A function per kind takes the API type and returns the facts together with what is wrong about the object when it
//! is looked at alone. No function here looks at a second object.

mod annotation;
mod certificate;
mod class;
mod config_map;
mod endpoint_slice;
mod host_owners;
mod ingress;
mod secret;
mod service;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use certificate::{CertificateFacts, CertificateProblem, read as read_certificate};
pub use class::{ClassFacts, ParametersFacts};
pub use config_map::ConfigMapFacts;
pub use endpoint_slice::{EndpointFacts, SliceFacts, SlicePort};
pub use host_owners::{HOST_OWNERS_LABEL, HostOwnersFacts, record_of, records, write as write_host_owners};
pub use ingress::{BackendFacts, IngressFacts, PathFacts, RuleFacts, TlsFacts, UnreadAnnotation};
pub use secret::SecretFacts;
pub use service::{AnnotatedEndpoints, ServiceFacts, ServiceKind, ServicePortFacts};

pub use annotation::{CANARY, NGINX_PREFIX, TLS_PASSTHROUGH, parse_health_check};

use crate::diagnostic::Diagnostic;
use crate::key::{Kind, ObjectKey};

/// The facts of one object of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Facts {
    /// An Ingress.
    Ingress(Arc<IngressFacts>),
    /// An IngressClass.
    Class(Arc<ClassFacts>),
    /// A Service.
    Service(Arc<ServiceFacts>),
    /// An EndpointSlice.
    Slice(Arc<SliceFacts>),
    /// A Secret.
    Secret(Arc<SecretFacts>),
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMapFacts>),
    /// Whose hosts are.
    HostOwners(Arc<HostOwnersFacts>),
}

impl Facts {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Facts::Ingress(_) => Kind::Ingress,
            Facts::Class(_) => Kind::IngressClass,
            Facts::Service(_) => Kind::Service,
            Facts::Slice(_) => Kind::EndpointSlice,
            Facts::Secret(_) => Kind::Secret,
            Facts::ConfigMap(_) => Kind::ConfigMap,
            Facts::HostOwners(_) => Kind::HostOwners,
        }
    }

    /// The object's identity.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Facts::Ingress(facts) => &facts.key,
            Facts::Class(facts) => &facts.key,
            Facts::Service(facts) => &facts.key,
            Facts::Slice(facts) => &facts.key,
            Facts::Secret(facts) => &facts.key,
            Facts::ConfigMap(facts) => &facts.key,
            Facts::HostOwners(facts) => &facts.key,
        }
    }
}

/// All that remains of an API object.
#[derive(Debug, Clone, PartialEq)]
pub struct Trimmed {
    /// What has a meaning here.
    pub facts: Facts,
    /// What is wrong about it alone.
    pub diagnostics: Vec<Diagnostic>,
    /// Its `resourceVersion`, 0 where it has none.
    pub resource_version: u64,
}

/// An API object on its way to [`Facts`]. Prints as its kind and key, never with its content: it may be a Secret.
#[derive(Clone)]
pub enum Object {
    /// `networking.k8s.io/v1` Ingress.
    Ingress(Box<k8s_openapi::api::networking::v1::Ingress>),
    /// `networking.k8s.io/v1` IngressClass.
    IngressClass(Box<k8s_openapi::api::networking::v1::IngressClass>),
    /// `v1` Service.
    Service(Box<k8s_openapi::api::core::v1::Service>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Box<k8s_openapi::api::discovery::v1::EndpointSlice>),
    /// `v1` Secret.
    Secret(Box<k8s_openapi::api::core::v1::Secret>),
    /// `v1` ConfigMap.
    ConfigMap(Box<k8s_openapi::api::core::v1::ConfigMap>),
    /// A `v1` ConfigMap in which controllers record whose hosts are.
    HostOwners(Box<k8s_openapi::api::core::v1::ConfigMap>),
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Object::Ingress(_) => Kind::Ingress,
            Object::IngressClass(_) => Kind::IngressClass,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Secret(_) => Kind::Secret,
            Object::ConfigMap(_) => Kind::ConfigMap,
            Object::HostOwners(_) => Kind::HostOwners,
        };
        write!(f, "{kind} {}", namespaced(self.metadata()))
    }
}

impl Object {
    /// Trims the object, so that it can be kept.
    pub fn trim(&self) -> Trimmed {
        let (facts, diagnostics) = self.facts();
        let version = self.metadata().resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
        Trimmed { facts, diagnostics, resource_version: version.unwrap_or(0) }
    }

    /// Trims the object to its facts; also returns what is wrong about it alone.
    pub fn facts(&self) -> (Facts, Vec<Diagnostic>) {
        match self {
            Object::Ingress(object) => (Facts::Ingress(Arc::new(ingress::facts(object))), Vec::new()),
            Object::IngressClass(object) => (Facts::Class(Arc::new(class::facts(object))), Vec::new()),
            Object::Service(object) => {
                let (facts, diagnostics) = service::facts(object);
                (Facts::Service(Arc::new(facts)), diagnostics)
            }
            Object::EndpointSlice(object) => {
                let (facts, diagnostics) = endpoint_slice::facts(object);
                (Facts::Slice(Arc::new(facts)), diagnostics)
            }
            Object::Secret(object) => (Facts::Secret(Arc::new(secret::facts(object))), Vec::new()),
            Object::ConfigMap(object) => (Facts::ConfigMap(Arc::new(config_map::facts(object))), Vec::new()),
            Object::HostOwners(object) => (Facts::HostOwners(Arc::new(host_owners::facts(object))), Vec::new()),
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Ingress(object) => &object.metadata,
            Object::IngressClass(object) => &object.metadata,
            Object::Service(object) => &object.metadata,
            Object::EndpointSlice(object) => &object.metadata,
            Object::Secret(object) => &object.metadata,
            Object::ConfigMap(object) | Object::HostOwners(object) => &object.metadata,
        }
    }
}

/// Namespace and name; an absent namespace is `default`, as with `kubectl apply`.
fn namespaced(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default())
}

/// Seconds since 1970 of `creationTimestamp`. Absent sorts oldest.
fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(i64::MIN, |time| time.0.as_second())
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

fn annotation_value<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}
