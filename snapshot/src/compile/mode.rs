//! What the mode forbids: in a cluster an object's author is not the operator.

use super::{World, backend};
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::{Facts, ServiceFacts, ServiceKind};
use crate::key::{Kind, ObjectRef};
use crate::settings::Mode;

impl World {
    /// What an object may not say in this mode: endpoints by annotation are for files only (and have to be readable there).
    /// Where endpoints may lead is judged in [`super::reach`].
    pub(super) fn judge_mode(&self, facts: &Facts) -> Vec<Diagnostic> {
        match facts {
            Facts::Service(service) => self.judge_service(service).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn judge_service(&self, service: &ServiceFacts) -> Option<Diagnostic> {
        let object = ObjectRef::new(Kind::Service, &service.key);
        if let ServiceKind::ExternalName(name) = &service.kind
            && self.settings.mode == Mode::Cluster
            && backend::is_localhost(name)
        {
            let message = "names the gateway's own pod; requests are answered with 503";
            return Some(Diagnostic::new(object, DiagnosticReason::ServiceUnsupported, "spec.externalName", message));
        }
        if let ServiceKind::ExternalName(name) = &service.kind
            && self.settings.mode == Mode::Cluster
            && self.settings.reach.leaves_namespace(name, &service.key.namespace)
        {
            let message = "names a Service of another namespace, or a pod; requests are answered with 503 (allowBackends: [otherNamespaces] would allow it)";
            return Some(Diagnostic::new(object, DiagnosticReason::EndpointRefused, "spec.externalName", message));
        }
        let (reason, message) = match (self.settings.mode, service.annotated.as_ref()?) {
            (Mode::Cluster, _) => (
                DiagnosticReason::AnnotationRefused,
                "endpoints by annotation are for standalone mode only; EndpointSlices are used".to_owned(),
            ),
            (Mode::Standalone, Err(message)) => (
                DiagnosticReason::EndpointInvalid,
                format!("{message}; the last good endpoints stay in force, else requests are answered with 503"),
            ),
            (Mode::Standalone, Ok(_)) => return None,
        };
        Some(Diagnostic::new(object, reason, "metadata.annotations[sluicegate.dev/endpoints]", message))
    }
}
