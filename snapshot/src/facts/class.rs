//! Facts of an IngressClass.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::IngressClass;

use super::{annotation_value, created};
use crate::key::ObjectKey;

/// `spec.parameters`, as written.
#[derive(Debug, Clone, PartialEq)]
pub struct ParametersFacts {
    /// `apiGroup`; absent is the core group.
    pub api_group: Option<Arc<str>>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`.
    pub name: Arc<str>,
    /// `namespace`.
    pub namespace: Option<Arc<str>>,
    /// `scope`; absent is Cluster.
    pub scope: Arc<str>,
}

/// What of an IngressClass has a meaning here.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassFacts {
    /// Name; the namespace is empty.
    pub key: ObjectKey,
    /// Seconds since 1970; absent is the smallest.
    pub created: i64,
    /// `spec.controller`.
    pub controller: Arc<str>,
    /// Annotation `ingressclass.kubernetes.io/is-default-class`.
    pub is_default: bool,
    /// `spec.parameters`.
    pub parameters: Option<ParametersFacts>,
}

/// Trims an IngressClass.
pub fn facts(class: &IngressClass) -> ClassFacts {
    let spec = class.spec.clone().unwrap_or_default();
    ClassFacts {
        key: ObjectKey::cluster(class.metadata.name.as_deref().unwrap_or_default()),
        created: created(&class.metadata),
        controller: spec.controller.unwrap_or_default().into(),
        is_default: annotation_value(&class.metadata, "ingressclass.kubernetes.io/is-default-class") == Some("true"),
        parameters: spec.parameters.map(|parameters| ParametersFacts {
            api_group: parameters.api_group.filter(|group| !group.is_empty()).map(Arc::from),
            kind: parameters.kind.into(),
            name: parameters.name.into(),
            namespace: parameters.namespace.map(Arc::from),
            scope: parameters.scope.unwrap_or_else(|| "Cluster".to_owned()).into(),
        }),
    }
}
