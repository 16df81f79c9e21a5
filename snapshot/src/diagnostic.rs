//! One vocabulary for everything that is wrong, odd or dangling in the objects.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::ObjectRef;

/// How much it hurts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something of the object does not work.
    Error,
    /// It works, but not as its author may think.
    Warning,
}

impl Severity {
    /// The lower-case word of metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// Declares the closed set of reasons once: name, severity, meaning.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $severity:ident,)*) => {
        /// Why a [`Diagnostic`] exists: a closed set, stable across versions, used as metric label and Event reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum DiagnosticReason { $($(#[doc = $doc])+ $name,)* }

        impl DiagnosticReason {
            /// Every reason, in alphabetical order.
            pub const ALL: &'static [DiagnosticReason] = &[$(DiagnosticReason::$name,)*];

            /// The CamelCase word.
            pub const fn as_str(self) -> &'static str {
                match self { $(DiagnosticReason::$name => stringify!($name),)* }
            }

            /// The severity that every diagnostic of this reason has.
            pub const fn severity(self) -> Severity {
                match self { $(DiagnosticReason::$name => Severity::$severity,)* }
            }
        }
    };
}

reasons! {
    /// An annotation that keeps somebody out is not supported; the Ingress' routes answer 503, so that nothing is left open.
    AccessRuleUnsupported = Error,
    /// An annotation's value cannot be read; the default is used.
    AnnotationInvalid = Warning,
    /// An annotation of ours may not be used here (for example endpoints by annotation in cluster mode).
    AnnotationRefused = Error,
    /// An annotation of ingress-nginx is not supported, and does nothing.
    AnnotationUnsupported = Warning,
    /// A backend names both a service and a resource.
    BackendAmbiguous = Error,
    /// A backend names something that cannot exist: an impossible name, or no single port.
    BackendInvalid = Error,
    /// A backend names neither a service nor a resource.
    BackendMissing = Error,
    /// A canary (ingress-nginx) takes no request: were it served like any other Ingress, it could take all of them.
    CanaryUnsupported = Warning,
    /// Another Ingress decides about the certificate of a host.
    CertificateConflict = Warning,
    /// A certificate has ended; it is served all the same.
    CertificateExpired = Error,
    /// A certificate is about to end.
    CertificateExpiring = Warning,
    /// A certificate does not cover a host it is given for; the default certificate is served there.
    CertificateHostMismatch = Error,
    /// `tls.crt` is no PEM certificate chain, or one that OpenSSL does not serve.
    CertificateInvalid = Error,
    /// `tls.key` is no PEM private key, or not the key of the certificate.
    CertificateKeyMismatch = Error,
    /// `spec.parameters` of a class cannot be used.
    ClassParametersInvalid = Error,
    /// `spec.parameters` of a class names a ConfigMap that does not exist.
    ClassParametersNotFound = Error,
    /// A class-wide setting is unknown or its value cannot be read; the default is used.
    ClassSettingInvalid = Warning,
    /// The controller may not read the ConfigMaps of a namespace; what worked before stays in force.
    ConfigMapAccessDenied = Error,
    /// A resource backend names a ConfigMap that does not exist.
    ConfigMapNotFound = Error,
    /// Another Ingress' default backend counts: it is older, or of the same age and sorts last.
    DefaultBackendConflict = Warning,
    /// The same path twice in one Ingress; the first one counts.
    DuplicatePath = Warning,
    /// An endpoint address, port or list of endpoints cannot be used.
    EndpointInvalid = Error,
    /// An endpoint's address, or an ExternalName, may not be a backend in a cluster: the gateway's own pod or node, a metadata service,
    /// the API server, another namespace, a range that the operator refuses.
    EndpointRefused = Error,
    /// An EndpointSlice of addressType FQDN; its endpoints are not used.
    FqdnEndpoints = Error,
    /// The host has as many paths as one can have; those that come last take no request.
    HostFull = Error,
    /// The operator does not allow the namespace to have the host (`hostPolicy: allowList`).
    HostNotAllowed = Error,
    /// The host belongs to another namespace, which claimed it first (`hostPolicy: perNamespace`).
    HostOwned = Error,
    /// A host of the rules is covered by no certificate of an Ingress that has TLS; the default certificate is served there.
    HostWithoutCertificate = Warning,
    /// A rule or tls host is no DNS name; the entry is skipped.
    InvalidHost = Error,
    /// A rule's path does not begin with `/`, is missing where it must not be, or cannot be normalised.
    InvalidPath = Error,
    /// A pathType other than Exact, Prefix and ImplementationSpecific.
    InvalidPathType = Error,
    /// A Service has no endpoint that could be used now.
    NoEndpoints = Warning,
    /// Neither rules nor a defaultBackend: the Ingress does nothing.
    NoRules = Warning,
    /// A gateway does not know what a newer controller has compiled; the last good form stays in force there.
    NotUnderstood = Error,
    /// A ConfigMap without the label `sluicegate.dev/publish: "true"` may not be served in cluster mode.
    NotPublished = Error,
    /// Another Ingress claimed the same host, path and type first.
    PathConflict = Warning,
    /// A Service does not have the port.
    PortNotFound = Error,
    /// A resource backend of a kind that is not supported.
    ResourceUnsupported = Error,
    /// The controller may not read the Secrets of a namespace; the last good certificate stays in force.
    SecretAccessDenied = Error,
    /// A Secret has no `tls.crt` or no `tls.key`.
    SecretIncomplete = Error,
    /// A Secret does not exist.
    SecretNotFound = Error,
    /// A Service does not exist.
    ServiceNotFound = Error,
    /// A Service whose kind of port or name cannot be proxied (UDP, SCTP, an ExternalName that is no DNS name).
    ServiceUnsupported = Error,
    /// `spec.ingressClassName` names a class that does not exist.
    UnknownClass = Error,
}

impl fmt::Display for DiagnosticReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong: with which object and field, why, and what happens instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The object to repair.
    pub object: ObjectRef,
    /// Path of the field inside it, as `kubectl explain` writes it, with indexes.
    pub field: Arc<str>,
    /// How much it hurts.
    pub severity: Severity,
    /// Stable word.
    pub reason: DiagnosticReason,
    /// What is wrong, what happens instead and what to do, in one or two sentences.
    pub message: Arc<str>,
}

impl Diagnostic {
    /// A diagnostic with the severity of its reason.
    pub fn new(
        object: ObjectRef,
        reason: DiagnosticReason,
        field: impl Into<Arc<str>>,
        message: impl Into<Arc<str>>,
    ) -> Self {
        Diagnostic { object, field: field.into(), severity: reason.severity(), reason, message: message.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { object, field, severity, reason, message } = self;
        write!(f, "{}: {object}: {field}: {reason}: {message}", severity.as_str())
    }
}
