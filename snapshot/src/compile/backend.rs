//! One Service port: its endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::store::Store;
use crate::diagnostic::DiagnosticReason;
use crate::facts::{AnnotatedEndpoints, ServiceFacts, ServiceKind, ServicePortFacts};
use crate::key::{BackendKey, ServicePort};
use crate::model::{Backend, NamedEndpoint, Reach, Resource, Unavailable};
use crate::settings::{Mode, Settings};

/// Builds a backend from its Service and EndpointSlices. `reach`: which addresses it may have, where that is not every one.
pub fn build(key: &BackendKey, store: &Store, settings: &Settings, reach: Option<&Reach>) -> Resource<Backend> {
    let mode = settings.mode;
    let Some(service) = store.services.get(&key.service) else {
        return Resource::valid(Backend::unavailable(Unavailable::ServiceNotFound));
    };
    let backend = match &service.kind {
        ServiceKind::BadExternalName => Backend::unavailable(Unavailable::ServiceUnsupported),
        ServiceKind::ExternalName(name) if mode == Mode::Cluster && is_localhost(name) => {
            Backend::unavailable(Unavailable::ServiceUnsupported)
        }
        ServiceKind::ExternalName(name)
            if reach.is_some_and(|reach| reach.leaves_namespace(name, &key.service.namespace)) =>
        {
            Backend::unavailable(Unavailable::EndpointsRefused)
        }
        ServiceKind::ExternalName(name) => external(name, service, &key.port),
        ServiceKind::Slices => match (find_port(service, &key.port), &service.annotated) {
            (Err(Unavailable::PortNotFound), Some(Err(_))) if mode == Mode::Standalone && service.ports.is_empty() => {
                return Resource::invalid(DiagnosticReason::EndpointInvalid);
            }
            // A Service without ports may still be served by an annotation that says where.
            (Err(Unavailable::PortNotFound), Some(Ok(annotated)))
                if mode == Mode::Standalone && service.ports.is_empty() =>
            {
                from_annotation(annotated, "")
            }
            (Err(unavailable), _) => Backend::unavailable(unavailable),
            (Ok(_), Some(Err(_))) if mode == Mode::Standalone => {
                return Resource::invalid(DiagnosticReason::EndpointInvalid);
            }
            (Ok(port), Some(Ok(annotated))) if mode == Mode::Standalone => from_annotation(annotated, &port.name),
            (Ok(port), _) => from_slices(key, &port.name, store, reach),
        },
    };
    let (health_check, proxy_protocol) = (service.health_check.clone(), service.proxy_protocol);
    Resource::valid(Backend { health_check, proxy_protocol, ..backend })
}

/// The Service port that an Ingress means. A number that no port has may be a `targetPort` (ingress-nginx takes both).
fn find_port<'a>(service: &'a ServiceFacts, port: &ServicePort) -> Result<&'a ServicePortFacts, Unavailable> {
    let ports = || service.ports.iter().filter(|candidate| candidate.tcp);
    let found = match port {
        ServicePort::Name(name) => ports().find(|candidate| candidate.name == *name),
        ServicePort::Number(number) => ports()
            .find(|candidate| candidate.port == *number)
            .or_else(|| ports().find(|candidate| candidate.target == Some(*number))),
    };
    let exists = |candidate: &ServicePortFacts| match port {
        ServicePort::Name(name) => candidate.name == *name,
        ServicePort::Number(number) => candidate.port == *number,
    };
    found.ok_or(if service.ports.iter().any(exists) {
        Unavailable::ServiceUnsupported
    } else {
        Unavailable::PortNotFound
    })
}

/// The port of an ExternalName is the Ingress' number; a name is looked up in the Service.
fn external(name: &Arc<str>, service: &ServiceFacts, port: &ServicePort) -> Backend {
    let port = match port {
        ServicePort::Number(number) => Some(*number),
        ServicePort::Name(_) => find_port(service, port).ok().map(|port| port.port),
    };
    match port {
        Some(port) => Backend { names: vec![NamedEndpoint { name: name.clone(), port }], ..Backend::default() },
        None => Backend::unavailable(Unavailable::PortNotFound),
    }
}

fn from_annotation(annotated: &AnnotatedEndpoints, port_name: &str) -> Backend {
    let ours = |name: &Arc<str>| name.is_empty() || **name == *port_name;
    let endpoints: BTreeSet<SocketAddr> =
        annotated.addresses.iter().filter(|(name, _)| ours(name)).map(|(_, address)| *address).collect();
    let names: BTreeSet<NamedEndpoint> =
        annotated.names.iter().filter(|(name, _)| ours(name)).map(|(_, named)| named.clone()).collect();
    if endpoints.is_empty() && names.is_empty() {
        return Backend::unavailable(Unavailable::NoEndpoints);
    }
    Backend { endpoints: endpoints.into_iter().collect(), names: names.into_iter().collect(), ..Backend::default() }
}

/// Endpoints of a backend, at most; the first by address. A backend is sent as a whole, and one that does not fit into a frame would keep
/// everything from every gateway.
pub const MAX_ENDPOINTS: usize = 20_000;

/// All slices of the Service; the slice's port of the same name gives the port number.
fn from_slices(key: &BackendKey, port_name: &Arc<str>, store: &Store, reach: Option<&Reach>) -> Backend {
    let mut ready = BTreeSet::new();
    let mut terminating = BTreeSet::new();
    let mut refused = false;
    for slice in store.slices_of.of(&key.service).filter_map(|slice| store.slices.get(slice)) {
        for port in slice.ports.iter().filter(|port| port.name == *port_name) {
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, port.port);
                if reach.is_some_and(|reach| reach.judge(address).is_err()) {
                    refused = true;
                } else if endpoint.ready {
                    ready.insert(address);
                } else if endpoint.serving_terminating {
                    terminating.insert(address);
                }
            }
        }
    }
    let mut endpoints = if ready.is_empty() { terminating } else { ready };
    if let Some(first) = endpoints.iter().nth(MAX_ENDPOINTS).copied() {
        endpoints.split_off(&first);
    }
    if endpoints.is_empty() {
        let why = if refused { Unavailable::EndpointsRefused } else { Unavailable::NoEndpoints };
        return Backend::unavailable(why);
    }
    Backend { endpoints: endpoints.into_iter().collect(), ..Backend::default() }
}

/// RFC 6761, 6.3.
pub fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}
