//! Facts of a Service.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::annotation::{ENDPOINTS, HEALTH_CHECK, PROXY_PROTOCOL, parse_health_check, parse_proxy_protocol};
use super::{annotation_value, namespaced};
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::key::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::model::{HealthCheck, NamedEndpoint};

/// One element of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortFacts {
    /// `name`; empty where it is absent.
    pub name: Arc<str>,
    /// `port`.
    pub port: u16,
    /// `targetPort`, where it is a number.
    pub target: Option<u16>,
    /// Whether the protocol is TCP.
    pub tcp: bool,
}

/// What stands behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// EndpointSlices: with a selector, without one, headless alike.
    Slices,
    /// `type: ExternalName`.
    ExternalName(Arc<str>),
    /// `type: ExternalName` with a name that is no DNS name.
    BadExternalName,
}

/// Endpoints of annotation `sluicegate.dev/endpoints`, per Service port name (empty: of every port).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotatedEndpoints {
    /// By address: port name and address.
    pub addresses: Vec<(Arc<str>, SocketAddr)>,
    /// By name.
    pub names: Vec<(Arc<str>, NamedEndpoint)>,
}

/// What of a Service has a meaning here.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// What stands behind it.
    pub kind: ServiceKind,
    /// `spec.ports`.
    pub ports: Vec<ServicePortFacts>,
    /// Annotation `sluicegate.dev/endpoints`; `Some(Err)` where it cannot be read.
    pub annotated: Option<Result<AnnotatedEndpoints, Arc<str>>>,
    /// Annotation `sluicegate.dev/health-check`.
    pub health_check: Option<HealthCheck>,
    /// Annotation `sluicegate.dev/proxy-protocol`.
    pub proxy_protocol: bool,
    /// `spec.clusterIPs` with `spec.ports`, of Service `default/kubernetes` alone: the API server.
    pub api_server: BTreeSet<SocketAddr>,
}

/// Trims a Service.
pub fn facts(service: &Service) -> (ServiceFacts, Vec<Diagnostic>) {
    let meta = &service.metadata;
    let key = namespaced(meta);
    let object = ObjectRef::new(Kind::Service, &key);
    let mut diagnostics = Vec::new();
    let spec = service.spec.clone().unwrap_or_default();
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        external_name(spec.external_name.as_deref().unwrap_or_default(), &object, &mut diagnostics)
    } else {
        ServiceKind::Slices
    };
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        match u16::try_from(port.port) {
            Ok(number) if number != 0 => ports.push(ServicePortFacts {
                name: port.name.clone().unwrap_or_default().into(),
                port: number,
                target: match port.target_port {
                    Some(IntOrString::Int(target)) => u16::try_from(target).ok(),
                    Some(IntOrString::String(_)) | None => None,
                },
                tcp: port.protocol.as_deref().unwrap_or("TCP") == "TCP",
            }),
            _ => diagnostics.push(Diagnostic::new(
                object.clone(),
                DiagnosticReason::EndpointInvalid,
                format!("spec.ports[{index}].port"),
                "must be 1 to 65535; the port is not used",
            )),
        }
    }
    let annotated = annotation_value(meta, ENDPOINTS).map(|text| read_endpoints(text).map_err(Arc::from));
    let mut invalid = |name: &str, message: String| {
        let field = format!("metadata.annotations[{name}]");
        diagnostics.push(Diagnostic::new(object.clone(), DiagnosticReason::AnnotationInvalid, field, message));
    };
    let health_check = annotation_value(meta, HEALTH_CHECK).map(parse_health_check).transpose();
    let health_check = health_check.unwrap_or_else(|message| {
        invalid(HEALTH_CHECK, format!("{message}; no active check is made"));
        None
    });
    let proxy_protocol = annotation_value(meta, PROXY_PROTOCOL).map(parse_proxy_protocol).transpose();
    let proxy_protocol = proxy_protocol.unwrap_or_else(|message| {
        invalid(PROXY_PROTOCOL, format!("{message}; connections begin without a PROXY header"));
        None
    });
    let api_server = match (&*key.namespace, &*key.name) {
        ("default", "kubernetes") => cluster_addresses(&spec),
        _ => BTreeSet::new(),
    };
    let proxy_protocol = proxy_protocol.unwrap_or(false);
    (ServiceFacts { key, kind, ports, annotated, health_check, proxy_protocol, api_server }, diagnostics)
}

fn cluster_addresses(spec: &ServiceSpec) -> BTreeSet<SocketAddr> {
    let ips: BTreeSet<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()).collect();
    let ports = || spec.ports.iter().flatten().filter_map(|port| u16::try_from(port.port).ok());
    ips.iter().flat_map(|ip| ports().map(|port| SocketAddr::new(*ip, port))).collect()
}

fn external_name(name: &str, object: &ObjectRef, diagnostics: &mut Vec<Diagnostic>) -> ServiceKind {
    if let Some(name) = dns_name(name) {
        return ServiceKind::ExternalName(name);
    }
    diagnostics.push(Diagnostic::new(
        object.clone(),
        DiagnosticReason::ServiceUnsupported,
        "spec.externalName",
        "is no DNS name; requests are answered with 503. Use an EndpointSlice for an address",
    ));
    ServiceKind::BadExternalName
}

/// A DNS name in canonical form, or `None`. Addresses and wildcards are no names.
fn dns_name(text: &str) -> Option<Arc<str>> {
    match HostPattern::parse(text) {
        Ok(HostPattern::Exact(name)) => Some(name),
        _ => None,
    }
}

/// Reads `host:port,[v6]:port` or `portname=host:port,…`.
fn read_endpoints(text: &str) -> Result<AnnotatedEndpoints, String> {
    let mut endpoints = AnnotatedEndpoints::default();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (port_name, target): (Arc<str>, &str) = match item.split_once('=') {
            Some((name, target)) => (Arc::from(name.trim()), target.trim()),
            None => (Arc::from(""), item),
        };
        if let Ok(address) = target.parse::<SocketAddr>() {
            if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
                return Err(format!("`{item}`: the address or port cannot be connected to"));
            }
            endpoints.addresses.push((port_name, address));
            continue;
        }
        let named = target.rsplit_once(':').and_then(|(name, port)| Some((dns_name(name)?, port.parse::<u16>().ok()?)));
        match named {
            Some((name, port)) if port != 0 => endpoints.names.push((port_name, NamedEndpoint { name, port })),
            _ => return Err(format!("`{item}`: expected host:port, [v6]:port or portname=host:port")),
        }
    }
    if endpoints.addresses.is_empty() && endpoints.names.is_empty() {
        return Err("names no endpoint".to_owned());
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_by_address_name_and_port_name() {
        let endpoints = read_endpoints("127.0.0.1:9001, [::1]:9002,http=app.internal.:80").unwrap();
        assert_eq!(endpoints.addresses[0], ("".into(), "127.0.0.1:9001".parse().unwrap()));
        assert_eq!(endpoints.addresses[1], ("".into(), "[::1]:9002".parse().unwrap()));
        assert_eq!(endpoints.names[0], ("http".into(), NamedEndpoint { name: "app.internal".into(), port: 80 }));
    }

    #[test]
    fn unreadable_endpoints_are_named() {
        for text in ["", " , ", "127.0.0.1", "127.0.0.1:0", "0.0.0.0:80", "::1:80", "a b:80", "name:99999", "x="] {
            assert!(read_endpoints(text).is_err(), "{text}");
        }
    }
}
