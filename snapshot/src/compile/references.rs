//! What an Ingress names and does not get: Services, ports, endpoints, ConfigMaps, Secrets.

use super::backend::MAX_ENDPOINTS;
use super::claims::{Claims, Reference};
use super::expiry;
use super::store::Store;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::key::{BackendKey, Kind, ObjectKey, ObjectRef};
use crate::model::{Backend, Resource, Snapshot, Unavailable};
use crate::settings::Settings;

/// The diagnostics of one Ingress' references, each at the field that names it.
pub fn diagnose(claims: &Claims, store: &Store, snapshot: &Snapshot, now: Option<i64>) -> Vec<Diagnostic> {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    for (reference, field) in &claims.references {
        let problem = match reference {
            Reference::Backend(key) => backend(key, snapshot),
            Reference::Content(key) => content(key, store, snapshot),
            Reference::Secret(key) => secret(key, store, now),
        };
        if let Some((reason, message)) = problem {
            diagnostics.push(Diagnostic::new(object.clone(), reason, field.clone(), message));
        }
    }
    diagnostics
}

/// What the settings name and do not get, each at the object that is missing.
pub fn diagnose_settings(settings: &Settings, store: &Store, snapshot: &Snapshot, now: Option<i64>) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut report = |kind: Kind, key: &ObjectKey, setting: &str, (reason, message): (DiagnosticReason, String)| {
        diagnostics.push(Diagnostic::new(ObjectRef::new(kind, key), reason, format!("(setting {setting})"), message));
    };
    if let Some(key) = &settings.default_certificate
        && let Some(problem) = secret(key, store, now)
    {
        report(Kind::Secret, key, "defaultCertificate", problem);
    }
    if let Some(key) = &settings.default_backend
        && let Some(problem) = backend(key, snapshot)
    {
        report(Kind::Service, &key.service, "defaultBackend", problem);
    }
    if let Some(key) = &settings.config_map
        && !store.config_maps.contains_key(key)
    {
        let instead = "the settings of the configuration file are used";
        let absent =
            || Some((DiagnosticReason::ConfigMapNotFound, format!("ConfigMap {key} does not exist; {instead}")));
        let problem = store.unknown(Kind::ConfigMap, key).map_or_else(absent, |unknown| unknown.problem(instead));
        if let Some(problem) = problem {
            report(Kind::ConfigMap, key, "configmap", problem);
        }
    }
    diagnostics
}

/// What is wrong with a backend, as far as those who name it are told.
pub fn trouble(backend: &Resource<Backend>) -> (Option<Unavailable>, Option<DiagnosticReason>, bool) {
    match backend {
        Resource::Valid(backend) => (backend.unavailable, None, is_full(backend)),
        Resource::Invalid(invalid) => (None, Some(invalid.reason), false),
    }
}

fn is_full(backend: &Backend) -> bool {
    backend.endpoints.len() >= MAX_ENDPOINTS
}

fn backend(key: &BackendKey, snapshot: &Snapshot) -> Option<(DiagnosticReason, String)> {
    let BackendKey { service, port } = key;
    Some(match snapshot.backends.get(key)? {
        Resource::Invalid(invalid) => {
            (invalid.reason, format!("Service {service} cannot be used as it is; what worked before stays in force"))
        }
        Resource::Valid(backend) if is_full(backend) => (
            DiagnosticReason::EndpointInvalid,
            format!(
                "Service {service} has {MAX_ENDPOINTS} endpoints or more, of which the first {MAX_ENDPOINTS} by address are used"
            ),
        ),
        Resource::Valid(backend) => match backend.unavailable? {
            Unavailable::ServiceNotFound => (
                DiagnosticReason::ServiceNotFound,
                format!("Service {service} does not exist; requests are answered with 503"),
            ),
            Unavailable::PortNotFound => (
                DiagnosticReason::PortNotFound,
                format!("Service {service} has no port {port}; requests are answered with 503"),
            ),
            Unavailable::NoEndpoints => (
                DiagnosticReason::NoEndpoints,
                format!(
                    "Service {service} has no ready endpoint for port {port}; requests are answered with 503 until it has"
                ),
            ),
            Unavailable::EndpointsRefused => (
                DiagnosticReason::EndpointRefused,
                format!(
                    "no endpoint of Service {service} may be connected to (the Service or its EndpointSlices say why); requests are answered with 503"
                ),
            ),
            Unavailable::ServiceUnsupported | Unavailable::Unknown => (
                DiagnosticReason::ServiceUnsupported,
                format!(
                    "port {port} of Service {service} cannot be proxied (TCP is needed, or a DNS name); requests are answered with 503"
                ),
            ),
        },
    })
}

fn content(key: &ObjectKey, store: &Store, snapshot: &Snapshot) -> Option<(DiagnosticReason, String)> {
    let known = store.config_maps.contains_key(key);
    if let Some(unknown) = store.unknown(Kind::ConfigMap, key).filter(|_| !known) {
        return unknown.problem("what worked before stays in force, else requests are answered with 503");
    }
    match snapshot.contents.get(key) {
        None => Some((
            DiagnosticReason::ConfigMapNotFound,
            format!("ConfigMap {key} does not exist; requests are answered with 503"),
        )),
        Some(Resource::Valid(content)) if content.not_published => Some((
            DiagnosticReason::NotPublished,
            format!(
                "ConfigMap {key} lacks the label sluicegate.dev/publish=true that allows it to be served; requests are answered with 503"
            ),
        )),
        Some(_) => None,
    }
}

/// Why a Secret gives no certificate, or none for long.
pub fn secret(key: &ObjectKey, store: &Store, now: Option<i64>) -> Option<(DiagnosticReason, String)> {
    let Some(facts) = store.secrets.get(key) else {
        if let Some(unknown) = store.unknown(Kind::Secret, key) {
            return unknown.problem("the last good certificate stays in force, else the default certificate is served");
        }
        let message = format!("Secret {key} does not exist; the default certificate is served");
        return Some((DiagnosticReason::SecretNotFound, message));
    };
    let problem = match &facts.certificate {
        Ok(certificate) => return expiry::problem(key, certificate, now),
        Err(problem) => problem,
    };
    let message = format!(
        "Secret {key}: {}; the last good certificate stays in force, else the default certificate is served",
        problem.message()
    );
    Some((problem.reason(), message))
}
