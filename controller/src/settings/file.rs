//! The configuration file (`--config`): YAML, every key optional. `conf/sluicegate-controller.yaml` shows each with its default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluicegate_process::settings::SettingsFile;
use sluicegate_process::{LogSettings, SettingsError};
use sluicegate_snapshot::model::Allowed;
use sluicegate_snapshot::model::reach::CLUSTER_DOMAIN;

/// Names of the host policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPolicyName {
    /// For each path the oldest Ingress decides, whatever its namespace.
    Shared,
    /// A host belongs to the namespace that claimed it first.
    PerNamespace,
    /// A host belongs to the namespaces that `allowedHosts` lists with it.
    AllowList,
}

/// Every key of the file, with its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// How the API server is reached; absent: `KUBECONFIG` or `~/.kube/config`, else the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where gateways connect.
    pub publish: SocketAddr,
    /// The certificate that gateways know the controller by: PEM file; absent: the own authority makes one.
    pub publish_cert: Option<PathBuf>,
    /// Its key: PEM file.
    pub publish_key: Option<PathBuf>,
    /// Authorities that sign gateways' certificates: PEM file; only with `publishCert`.
    pub client_ca: Option<PathBuf>,
    /// Secret of the own authority, and ConfigMap with its certificate: NAMESPACE/NAME.
    pub authority: String,
    /// Names and addresses in the certificate that the own authority makes, besides the usual ones.
    pub publish_names: Vec<String>,
    /// Names in certificates of gateways that are served; empty: all that the authority signed.
    pub gateway_names: Vec<String>,
    /// Service accounts of gateways that are served: NAMESPACE:NAME.
    pub gateway_accounts: Vec<String>,
    /// Audience of gateways' tokens.
    pub token_audience: String,
    /// Serve gateways without encryption and authentication.
    pub plaintext: bool,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// Address of a second listener with only `/healthz`, `/readyz` and `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// Serve this IngressClass only.
    pub ingress_class: Option<String>,
    /// Accepted `spec.controller` values besides `sluicegate.dev/ingress-controller`.
    pub controller_names: Vec<String>,
    /// Serve Ingresses that name no class.
    pub watch_without_class: bool,
    /// Namespaces to watch; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Label selector of the Ingresses to serve; absent: all.
    pub selector: Option<String>,
    /// Watch Secrets and ConfigMaps in the whole cluster, instead of where a Role allows it.
    pub watch_secrets_everywhere: bool,
    /// Service whose addresses are written to statuses: NAMESPACE/NAME.
    pub publish_service: Option<String>,
    /// Addresses that are written to statuses: IP addresses or host names.
    pub publish_addresses: Vec<String>,
    /// Write to statuses the addresses that gateways report.
    pub publish_gateways: bool,
    /// Empty the statuses at the end.
    pub clear_status_on_shutdown: bool,
    /// Lease of the controller that writes statuses: NAMESPACE/NAME; absent: `sluicegate-controller`, with the class behind it where
    /// one is given, in the namespace of `authority`.
    pub lease: Option<String>,
    /// ConfigMap with settings for all classes: NAMESPACE/NAME.
    pub configmap: Option<String>,
    /// Secret of the default certificate: NAMESPACE/NAME.
    pub default_certificate: Option<String>,
    /// NAMESPACE/SERVICE:PORT for requests that nothing else takes.
    pub default_backend: Option<String>,
    /// Whose a host is; absent: `perNamespace`, or `shared` where classes of ingress-nginx are taken over.
    pub host_policy: Option<HostPolicyName>,
    /// Hosts that namespaces may have, with `allowList`.
    pub allowed_hosts: BTreeMap<String, Vec<String>>,
    /// Guarded addresses that backends may have: `loopback`, `linkLocal`, `metadata`, `apiServer`, `otherNamespaces`, or ranges.
    pub allow_backends: Vec<Allowed>,
    /// Domain of the cluster's DNS.
    pub cluster_domain: String,
    /// Ranges that backends may not have, besides those that are guarded.
    pub refuse_backends: Vec<String>,
    /// Redirect plain HTTP to https on hosts with TLS.
    pub ssl_redirect: bool,
    /// Answer 400 to paths with `%2F` or `%5C`.
    pub reject_encoded_slashes: bool,
    /// Bytes of a request's body; 0: however many. Classes and Ingresses may say otherwise.
    pub body_limit: u64,
    /// Log of the controller itself.
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kubeconfig: None,
            publish: SocketAddr::from(([127, 0, 0, 1], 10257)),
            publish_cert: None,
            publish_key: None,
            client_ca: None,
            authority: "sluicegate/sluicegate-ca".to_owned(),
            publish_names: Vec::new(),
            gateway_names: Vec::new(),
            gateway_accounts: vec!["sluicegate:sluicegate-gateway".to_owned()],
            token_audience: "sluicegate-controller".to_owned(),
            plaintext: false,
            admin: SocketAddr::from(([127, 0, 0, 1], 10256)),
            metrics: None,
            ingress_class: None,
            controller_names: Vec::new(),
            watch_without_class: false,
            watch_namespaces: Vec::new(),
            selector: None,
            watch_secrets_everywhere: false,
            publish_service: None,
            publish_addresses: Vec::new(),
            publish_gateways: false,
            clear_status_on_shutdown: false,
            lease: None,
            configmap: None,
            default_certificate: None,
            default_backend: None,
            host_policy: None,
            allowed_hosts: BTreeMap::new(),
            allow_backends: Vec::new(),
            cluster_domain: CLUSTER_DOMAIN.to_owned(),
            refuse_backends: Vec::new(),
            ssl_redirect: true,
            reject_encoded_slashes: false,
            body_limit: 0,
            log: LogSettings::default(),
        }
    }
}

impl SettingsFile for Settings {
    const EXAMPLE: &'static str = "conf/sluicegate-controller.yaml";

    fn judge(&self) -> Result<(), SettingsError> {
        self.log.judge()?;
        let wrong = |message: &str| Err(SettingsError(message.to_owned()));
        let sources = [self.publish_service.is_some(), !self.publish_addresses.is_empty(), self.publish_gateways];
        if sources.into_iter().filter(|given| *given).count() > 1 {
            return wrong(
                "of publishService, publishAddresses and publishGateways several are given: statuses have one source of addresses",
            );
        }
        if self.watch_namespaces.iter().any(|name| name.is_empty() || name.contains('/')) {
            return wrong("watchNamespaces: each must be the name of a namespace");
        }
        self.judge_trust()?;
        self.compile()?;
        self.addresses()?;
        self.lease()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_process::settings::parse;

    use super::*;

    #[test]
    fn the_example_file_shows_every_key_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/sluicegate-controller.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(parse::<Settings>(&text).unwrap(), Settings::default());
        let value = serde_json::to_value(Settings::default()).unwrap();
        for key in value.as_object().unwrap().keys() {
            assert!(text.contains(&format!("{key}:")), "conf/sluicegate-controller.yaml lacks {key}");
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (text, part) in [
            ("publsh: x", "`publish`"),
            ("publish: nowhere", "publish"),
            ("publishService: x", "publishService `x`"),
            ("publishAddresses: [a b]", "publishAddresses `a b`"),
            ("publishAddresses: [0.0.0.0]", "publishAddresses `0.0.0.0`"),
            ("{publishService: a/b, publishAddresses: [192.0.2.1]}", "several are given"),
            ("{publishGateways: true, publishAddresses: [192.0.2.1]}", "several are given"),
            ("defaultBackend: x", "defaultBackend `x`"),
            ("defaultCertificate: x", "defaultCertificate `x`"),
            ("lease: x", "lease `x`"),
            ("configmap: x", "configmap `x`"),
            ("watchNamespaces: [a/b]", "watchNamespaces"),
            ("publishCert: a", "publishKey"),
            ("clientCa: a", "publishCert"),
            ("{publishCert: a, publishKey: b, plaintext: true}", "plaintext"),
            ("authority: x", "authority `x`"),
            ("publishNames: [a b]", "publishNames `a b`"),
            ("gatewayAccounts: [a/b]", "gatewayAccounts `a/b`"),
            ("tokenAudience: ''", "tokenAudience"),
            ("clusterDomain: ''", "clusterDomain ``"),
            ("clusterDomain: 10.0.0.1", "clusterDomain `10.0.0.1`"),
            ("hostPolicy: mine", "hostPolicy"),
            ("hostPolicy: allowList", "allowedHosts"),
            ("allowedHosts: {a: [a.test]}", "hostPolicy"),
            ("{hostPolicy: allowList, allowedHosts: {a: [\"a b\"]}}", "allowedHosts `a b`"),
            ("allowBackends: [localhost]", "expected loopback"),
            ("refuseBackends: [10.0.0.0/40]", "refuseBackends `10.0.0.0/40`"),
        ] {
            let error = parse::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
