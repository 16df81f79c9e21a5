//! Facts of an Ingress: its fields as written, without judgement. Judging them is [`crate::compile`]'s.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotation::{CANARY, NGINX_PREFIX, TLS_PASSTHROUGH, is_access_rule};
use super::{annotation_value, created, namespaced};
use crate::key::ObjectKey;
use crate::setting::{self, Setting, parse_bool};

/// `backend` or `defaultBackend`, as written.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendFacts {
    /// `service`.
    Service {
        /// `service.name`.
        name: Arc<str>,
        /// `service.port.name`.
        port_name: Option<Arc<str>>,
        /// `service.port.number`.
        port_number: Option<i32>,
    },
    /// `resource`.
    Resource {
        /// `resource.apiGroup`; absent is the core group.
        api_group: Option<Arc<str>>,
        /// `resource.kind`.
        kind: Arc<str>,
        /// `resource.name`.
        name: Arc<str>,
    },
    /// Both.
    Ambiguous,
    /// Neither.
    Missing,
}

/// One element of `rules[].http.paths`.
#[derive(Debug, Clone, PartialEq)]
pub struct PathFacts {
    /// `path`.
    pub path: Option<Arc<str>>,
    /// `pathType`; empty where it is missing.
    pub path_type: Arc<str>,
    /// `backend`.
    pub backend: BackendFacts,
}

/// One element of `rules`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleFacts {
    /// `host`; empty where it is absent.
    pub host: Arc<str>,
    /// `http.paths`; empty where `http` is absent.
    pub paths: Vec<PathFacts>,
}

/// One element of `tls`.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsFacts {
    /// `hosts`.
    pub hosts: Vec<Arc<str>>,
    /// `secretName`; an empty one is none.
    pub secret: Option<Arc<str>>,
}

/// An annotation of ingress-nginx that is not read.
#[derive(Debug, Clone, PartialEq)]
pub struct UnreadAnnotation {
    /// Its name without the prefix.
    pub name: Arc<str>,
    /// It keeps somebody out.
    pub is_access_rule: bool,
}

/// What of an Ingress has a meaning here.
#[derive(Debug, Clone, PartialEq)]
pub struct IngressFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Seconds since 1970; absent is the smallest.
    pub created: i64,
    /// `spec.ingressClassName`.
    pub class_name: Option<Arc<str>>,
    /// Annotation `kubernetes.io/ingress.class`.
    pub class_annotation: Option<Arc<str>>,
    /// Annotations that set something ([`setting::ALL`]): name of the annotation, and value.
    pub settings: Vec<(&'static str, Arc<str>)>,
    /// Annotations of ingress-nginx that are not read.
    pub unread_annotations: Vec<UnreadAnnotation>,
    /// Annotation `nginx.ingress.kubernetes.io/canary` is true.
    pub canary: bool,
    /// Annotation `sluicegate.dev/tls-passthrough`; `Some(None)`: it is no boolean.
    pub tls_passthrough: Option<Option<bool>>,
    /// `spec.defaultBackend`.
    pub default_backend: Option<BackendFacts>,
    /// `spec.rules`.
    pub rules: Vec<RuleFacts>,
    /// `spec.tls`.
    pub tls: Vec<TlsFacts>,
}

/// Trims an Ingress.
pub fn facts(ingress: &Ingress) -> IngressFacts {
    let meta = &ingress.metadata;
    let spec = ingress.spec.clone().unwrap_or_default();
    IngressFacts {
        key: namespaced(meta),
        created: created(meta),
        class_name: spec.ingress_class_name.filter(|name| !name.is_empty()).map(Arc::from),
        class_annotation: annotation_value(meta, "kubernetes.io/ingress.class").map(Arc::from),
        settings: settings(meta),
        unread_annotations: unread_annotations(meta),
        canary: annotation_value(meta, CANARY).and_then(parse_bool) == Some(true),
        tls_passthrough: annotation_value(meta, TLS_PASSTHROUGH).map(parse_bool),
        default_backend: spec.default_backend.as_ref().map(backend),
        rules: spec
            .rules
            .unwrap_or_default()
            .into_iter()
            .map(|rule| RuleFacts {
                host: rule.host.unwrap_or_default().into(),
                paths: rule.http.map(|http| http.paths.iter().map(path).collect()).unwrap_or_default(),
            })
            .collect(),
        tls: spec
            .tls
            .unwrap_or_default()
            .into_iter()
            .map(|tls| TlsFacts {
                hosts: tls.hosts.unwrap_or_default().into_iter().map(Arc::from).collect(),
                secret: tls.secret_name.filter(|name| !name.is_empty()).map(Arc::from),
            })
            .collect(),
    }
}

fn settings(meta: &ObjectMeta) -> Vec<(&'static str, Arc<str>)> {
    let annotations = setting::ALL.iter().filter_map(|setting| setting.annotation);
    annotations.filter_map(|name| Some((name, annotation_value(meta, name)?.into()))).collect()
}

/// Annotations of ingress-nginx but those that are read.
fn unread_annotations(meta: &ObjectMeta) -> Vec<UnreadAnnotation> {
    let annotations = meta.annotations.iter().flatten().filter(|(key, _)| key.as_str() != CANARY);
    let unread = annotations.filter_map(|(key, value)| {
        let name = key.strip_prefix(NGINX_PREFIX).filter(|name| !Setting::is_nginx_annotation(name))?;
        Some(UnreadAnnotation { name: name.into(), is_access_rule: is_access_rule(name, value) })
    });
    unread.collect()
}

fn path(path: &HTTPIngressPath) -> PathFacts {
    PathFacts {
        path: path.path.as_deref().map(Arc::from),
        path_type: path.path_type.as_str().into(),
        backend: backend(&path.backend),
    }
}

fn backend(backend: &IngressBackend) -> BackendFacts {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => BackendFacts::Ambiguous,
        (None, None) => BackendFacts::Missing,
        (Some(service), None) => {
            let port = service.port.clone().unwrap_or_default();
            BackendFacts::Service {
                name: service.name.as_str().into(),
                port_name: port.name.filter(|name| !name.is_empty()).map(Arc::from),
                // The API reads an absent number as 0.
                port_number: port.number.filter(|number| *number != 0),
            }
        }
        (None, Some(resource)) => BackendFacts::Resource {
            api_group: resource.api_group.as_deref().filter(|group| !group.is_empty()).map(Arc::from),
            kind: resource.kind.as_str().into(),
            name: resource.name.as_str().into(),
        },
    }
}
