//! The settings of the stream's security.

use std::net::IpAddr;

use sluicegate_process::SettingsError;
use sluicegate_snapshot::key::is_object_name;

use super::{Settings, object};
use crate::trust::{OwnAuthority, Paths};

/// By what gateways and the controller know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trusts {
    /// By nothing: `plaintext`.
    Nobody,
    /// Certificates from files.
    Files(Paths),
    /// The controller's own authority.
    Authority(OwnAuthority),
}

impl Settings {
    /// By what gateways and the controller know each other.
    pub fn trusts(&self) -> Trusts {
        if self.plaintext {
            return Trusts::Nobody;
        }
        if let (Some(certificate), Some(key)) = (&self.publish_cert, &self.publish_key) {
            let (certificate, key) = (certificate.clone(), key.clone());
            return Trusts::Files(Paths { certificate, key, client_ca: self.client_ca.clone() });
        }
        let (namespace, name) = self.authority.split_once('/').unwrap_or_default();
        let key = sluicegate_snapshot::ObjectKey::new(namespace, name);
        Trusts::Authority(OwnAuthority { key, names: self.server_names(namespace) })
    }

    /// Names by which gateways reach the controller: the Service of the shipped manifests, this machine or pod, and what the
    /// settings add.
    fn server_names(&self, namespace: &str) -> Vec<String> {
        let service = "sluicegate-controller";
        let mut names = vec![
            service.to_owned(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let machine = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        if is_object_name(&machine) {
            names.push(machine);
        }
        if !self.publish.ip().is_unspecified() {
            names.push(self.publish.ip().to_string());
        }
        names.extend(self.publish_names.iter().cloned());
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn judge_trust(&self) -> Result<(), SettingsError> {
        let wrong = |message: String| Err(SettingsError(message));
        if self.publish_cert.is_some() != self.publish_key.is_some() {
            return wrong("publishCert and publishKey belong together: one of them is missing".to_owned());
        }
        if self.client_ca.is_some() && self.publish_cert.is_none() {
            return wrong(
                "clientCa has a meaning only with publishCert: the own authority knows whom it signed".to_owned(),
            );
        }
        if self.plaintext && self.publish_cert.is_some() {
            return wrong(
                "plaintext and publishCert are both given: what is not encrypted needs no certificate".to_owned(),
            );
        }
        object("authority", Some(&self.authority))?;
        for name in &self.publish_names {
            if name.parse::<IpAddr>().is_err() && !is_object_name(name) {
                return wrong(format!("publishNames `{name}`: expected a DNS name or an IP address"));
            }
        }
        for account in &self.gateway_accounts {
            let is_account = account
                .split_once(':')
                .is_some_and(|(namespace, name)| is_object_name(namespace) && is_object_name(name));
            if !is_account {
                return wrong(format!("gatewayAccounts `{account}`: expected NAMESPACE:NAME"));
            }
        }
        match self.token_audience.is_empty() {
            true => wrong("tokenAudience is empty: tokens for the API server itself would be taken".to_owned()),
            false => Ok(()),
        }
    }
}
