//! `status.loadBalancer` of an Ingress, as data. The controller writes it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::diagnostic::DiagnosticReason;
use crate::key::{KeyError, is_object_name};

/// An address at which gateways are reached: what `loadBalancer.ingress[]` holds one of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PublishAddress {
    /// `ip`.
    Ip(IpAddr),
    /// `hostname`.
    Hostname(Arc<str>),
}

impl FromStr for PublishAddress {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                Err(KeyError("nobody can be reached at this address"))
            }
            Ok(ip) => Ok(PublishAddress::Ip(ip)),
            Err(_) if is_object_name(text) => Ok(PublishAddress::Hostname(text.into())),
            Err(_) => Err(KeyError("expected an IP address or a host name")),
        }
    }
}

/// One element of `loadBalancer.ingress[].ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Port that clients connect to.
    pub port: u16,
    /// Always `TCP`.
    pub protocol: Arc<str>,
    /// CamelCase, prefixed `sluicegate.dev/`; absent where all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
}

/// One element of `loadBalancer.ingress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressPoint {
    /// The address.
    #[serde(flatten)]
    pub address: PublishAddress,
    /// Its ports.
    pub ports: Vec<PortStatus>,
}

/// Builds the status of an Ingress of ours. Port 443 is there where it has `tls`, with a certificate problem as its error
/// (of several the first by alphabet, so that the order of edits does not show).
pub fn build(
    addresses: &[PublishAddress],
    has_tls: bool,
    reasons: impl Iterator<Item = DiagnosticReason>,
) -> Vec<IngressPoint> {
    let tcp: Arc<str> = Arc::from("TCP");
    let mut ports = vec![PortStatus { port: 80, protocol: tcp.clone(), error: None }];
    if has_tls {
        let error = reasons.filter_map(port_error).min().map(|error| Arc::from(format!("sluicegate.dev/{error}")));
        ports.push(PortStatus { port: 443, protocol: tcp, error });
    }
    addresses.iter().map(|address| IngressPoint { address: address.clone(), ports: ports.clone() }).collect()
}

/// The word of `ports[].error` for a certificate problem; the API wants `domain/CamelCase`.
fn port_error(reason: DiagnosticReason) -> Option<&'static str> {
    match reason {
        DiagnosticReason::SecretNotFound | DiagnosticReason::SecretIncomplete => Some("CertificateMissing"),
        DiagnosticReason::SecretAccessDenied => Some("SecretAccessDenied"),
        DiagnosticReason::CertificateExpired => Some("CertificateExpired"),
        DiagnosticReason::CertificateInvalid => Some("CertificateInvalid"),
        DiagnosticReason::CertificateKeyMismatch => Some("CertificateKeyMismatch"),
        DiagnosticReason::CertificateHostMismatch => Some("CertificateHostMismatch"),
        _ => None,
    }
}
