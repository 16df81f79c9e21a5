//! Facts of an EndpointSlice.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{label, namespaced};
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::key::{Kind, ObjectKey, ObjectRef};

/// One element of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`; empty where it is absent, which is also the name of a Service's only port.
    pub name: Arc<str>,
    /// `port`.
    pub port: u16,
}

/// One element of `endpoints` that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFacts {
    /// `addresses[0]`: the API says that consumers use the first one.
    pub address: IpAddr,
    /// `conditions.ready`; absent is ready.
    pub ready: bool,
    /// `conditions.serving` (absent: true) and `conditions.terminating`: the fallback where none is ready.
    pub serving_terminating: bool,
}

/// What of an EndpointSlice has a meaning here.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service of label `kubernetes.io/service-name`; none: it belongs to nothing.
    pub service: Option<ObjectKey>,
    /// `ports`, TCP only.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<EndpointFacts>,
}

/// Trims an EndpointSlice. Addresses that cannot be read, and all of a FQDN slice, are left out and reported.
pub fn facts(slice: &EndpointSlice) -> (SliceFacts, Vec<Diagnostic>) {
    let key = namespaced(&slice.metadata);
    let object = ObjectRef::new(Kind::EndpointSlice, &key);
    let mut diagnostics = Vec::new();
    let service = label(&slice.metadata, "kubernetes.io/service-name")
        .filter(|name| !name.is_empty())
        .map(|name| ObjectKey::new(key.namespace.clone(), name));
    let mut ports = Vec::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
            continue;
        }
        match port.port.map(u16::try_from) {
            Some(Ok(number)) if number != 0 => {
                ports.push(SlicePort { name: port.name.clone().unwrap_or_default().into(), port: number });
            }
            // An absent port means "all ports" to other consumers; an HTTP proxy cannot use it.
            None => {}
            Some(_) => diagnostics.push(Diagnostic::new(
                object.clone(),
                DiagnosticReason::EndpointInvalid,
                format!("ports[{index}].port"),
                "must be 1 to 65535; the port is not used",
            )),
        }
    }
    let mut endpoints = Vec::new();
    if slice.address_type == "FQDN" {
        diagnostics.push(Diagnostic::new(
            object,
            DiagnosticReason::FqdnEndpoints,
            "addressType",
            "FQDN endpoints are not used; use addresses, or a Service of type ExternalName",
        ));
    } else {
        for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
            match read_endpoint(endpoint, &slice.address_type) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(message) => diagnostics.push(Diagnostic::new(
                    object.clone(),
                    DiagnosticReason::EndpointInvalid,
                    format!("endpoints[{index}].addresses"),
                    message,
                )),
            }
        }
    }
    (SliceFacts { key, service, ports, endpoints }, diagnostics)
}

fn read_endpoint(endpoint: &Endpoint, address_type: &str) -> Result<EndpointFacts, &'static str> {
    let address: IpAddr = match endpoint.addresses.first() {
        Some(text) => text.parse().map_err(|_| "is no IP address; the endpoint is not used")?,
        None => return Err("is empty; the endpoint is not used"),
    };
    let fits = match address_type {
        "IPv4" => address.is_ipv4(),
        "IPv6" => address.is_ipv6(),
        _ => return Err("addressType must be IPv4 or IPv6; the endpoint is not used"),
    };
    if !fits {
        return Err("is not of the slice's addressType; the endpoint is not used");
    }
    if address.is_unspecified() || address.is_multicast() {
        return Err("is an unspecified or multicast address; the endpoint is not used");
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    Ok(EndpointFacts {
        address,
        ready: conditions.ready.unwrap_or(true),
        serving_terminating: conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false),
    })
}
