//! The gateway's route table: the pure table of the snapshot crate, with endpoint state and parsed certificates bound
//! to it.

use std::sync::Arc;

use sluicegate_snapshot::model::{Backend, Certificate};
use sluicegate_snapshot::table::{Bind, RouteTable};
use sluicegate_snapshot::wire::Refused;
use sluicegate_snapshot::{BackendKey, DiagnosticReason, ObjectKey};

use crate::tls::ServerCertificate;
use crate::upstream::{BoundBackend, Registry};

/// The table that workers read.
pub type Table = RouteTable<GatewayBind>;

/// Binds resources when they change, on the applier's thread.
pub struct GatewayBind {
    /// State of endpoints by identity.
    pub registry: Registry,
    /// What could not be bound since somebody last took this list.
    pub refused: Vec<Refused>,
}

impl GatewayBind {
    /// Binds to endpoint state of a registry.
    pub fn new(registry: Registry) -> Self {
        GatewayBind { registry, refused: Vec::new() }
    }
}

impl Bind for GatewayBind {
    type Backend = Arc<BoundBackend>;
    type Certificate = Arc<ServerCertificate>;

    fn backend(&mut self, key: &BackendKey, backend: Option<&Arc<Backend>>) -> Self::Backend {
        self.registry.bind(key, backend)
    }

    fn certificate(&mut self, key: &ObjectKey, certificate: &Arc<Certificate>) -> Option<Self::Certificate> {
        match ServerCertificate::new(certificate) {
            Ok(bound) => bound.map(Arc::new),
            Err(error) => {
                tracing::error!(secret = %key, %error, "certificate cannot be loaded; the default certificate is served");
                self.refused.push(Refused {
                    secret: key.clone(),
                    reason: Some(DiagnosticReason::CertificateInvalid),
                    message: error.to_string().into(),
                });
                None
            }
        }
    }
}
