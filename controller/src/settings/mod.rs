//! Settings of the controller: defaults, below the file, below the flags. Parsed and judged once, at the start.

mod file;
mod trust;

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

pub use file::{HostPolicyName, Settings};
use sluicegate_process::SettingsError;
use sluicegate_snapshot::compile::PublishAddress;
use sluicegate_snapshot::facts::HOST_OWNERS_LABEL;
use sluicegate_snapshot::model::reach::parse_range;
use sluicegate_snapshot::model::{Policy, Reach};
use sluicegate_snapshot::settings::{AllowedHosts, HostPolicy};
use sluicegate_snapshot::{BackendKey, HostPattern, Kind, Mode, ObjectKey};
pub use trust::Trusts;

use crate::status::{FIELD_MANAGER, Source};
use crate::watch::Feed;

impl Settings {
    /// The part of the settings that compile gets.
    ///
    /// # Errors
    /// A name that cannot be read.
    pub fn compile(&self) -> Result<sluicegate_snapshot::Settings, SettingsError> {
        Ok(sluicegate_snapshot::Settings {
            mode: Mode::Cluster,
            ingress_class: self.ingress_class.as_deref().map(Into::into),
            controller_names: self.controller_names.iter().map(|name| name.as_str().into()).collect(),
            watch_without_class: self.watch_without_class,
            config_map: object("configmap", self.configmap.as_deref())?,
            default_certificate: object("defaultCertificate", self.default_certificate.as_deref())?,
            default_backend: parsed::<BackendKey>("defaultBackend", self.default_backend.as_deref())?,
            host_policy: self.host_policy()?,
            host_records: self.host_records()?,
            reach: self.reach()?,
            guarded: !self.watch_secrets_everywhere,
            defaults: Policy {
                ssl_redirect: self.ssl_redirect,
                reject_encoded_slashes: self.reject_encoded_slashes,
                body_limit: self.body_limit,
                ..Policy::default()
            },
        })
    }

    /// The domain as names of ExternalName Services are compared with it.
    fn cluster_domain(&self) -> Result<Arc<str>, SettingsError> {
        match HostPattern::parse(&self.cluster_domain) {
            Ok(HostPattern::Exact(domain)) => Ok(domain),
            _ => Err(SettingsError(format!(
                "clusterDomain `{}`: expected a DNS name like cluster.local",
                self.cluster_domain
            ))),
        }
    }

    /// Whose a host is.
    fn host_policy(&self) -> Result<HostPolicy, SettingsError> {
        if (self.host_policy == Some(HostPolicyName::AllowList)) == self.allowed_hosts.is_empty() {
            let message = match self.allowed_hosts.is_empty() {
                true => "hostPolicy `allowList`: allowedHosts is missing; without it no namespace may have a host",
                false => "allowedHosts: hostPolicy is not `allowList`; the lists would have no effect",
            };
            return Err(SettingsError(message.to_owned()));
        }
        let lists = self.allowed_hosts.iter().map(|(namespace, hosts)| (namespace.as_str(), hosts.as_slice()));
        Ok(match self.host_policy {
            None => HostPolicy::usual(Mode::Cluster, self.controller_names.iter().map(String::as_str)),
            Some(HostPolicyName::Shared) => HostPolicy::Shared,
            Some(HostPolicyName::PerNamespace) => HostPolicy::PerNamespace,
            Some(HostPolicyName::AllowList) => HostPolicy::AllowList(
                AllowedHosts::parse(lists)
                    .map_err(|(text, error)| SettingsError(format!("allowedHosts `{text}`: {error}")))?,
            ),
        })
    }

    /// What the names of the ConfigMaps begin with in which it is recorded whose hosts are: controllers that share a Lease share
    /// them.
    fn host_records(&self) -> Result<Option<ObjectKey>, SettingsError> {
        let ObjectKey { namespace, name } = self.lease()?;
        let is_owned = self.host_policy()? == HostPolicy::PerNamespace;
        Ok(is_owned.then(|| ObjectKey::new(namespace, format!("{name}-hosts"))))
    }

    /// Which addresses and names backends may have; the API server's addresses are added at the start.
    fn reach(&self) -> Result<Reach, SettingsError> {
        let range = |text: &String| {
            let wrong =
                || SettingsError(format!("refuseBackends `{text}`: expected a range like 10.1.0.0/16, or an address"));
            parse_range(text).ok_or_else(wrong)
        };
        let refused = self.refuse_backends.iter().map(range).collect::<Result<_, _>>()?;
        let cluster_domain = self.cluster_domain()?;
        Ok(Reach { allowed: self.allow_backends.clone(), refused, cluster_domain, ..Reach::default() })
    }

    /// Where the addresses of statuses come from.
    ///
    /// # Errors
    /// A name or address that cannot be read.
    pub fn addresses(&self) -> Result<Source, SettingsError> {
        if let Some(service) = object("publishService", self.publish_service.as_deref())? {
            return Ok(Source::Service(service));
        }
        if self.publish_gateways {
            return Ok(Source::Gateways);
        }
        let address =
            |text: &String| text.parse().map_err(|error| SettingsError(format!("publishAddresses `{text}`: {error}")));
        let addresses: Vec<PublishAddress> = self.publish_addresses.iter().map(address).collect::<Result<_, _>>()?;
        Ok(if addresses.is_empty() { Source::None } else { Source::Fixed(addresses) })
    }

    /// As whom statuses are written.
    pub fn field_manager(&self) -> String {
        match &self.ingress_class {
            Some(class) => format!("{FIELD_MANAGER}-{class}"),
            None => FIELD_MANAGER.to_owned(),
        }
    }

    /// The Lease of the controller that writes statuses. Controllers of different classes do not wait for each other.
    ///
    /// # Errors
    /// A name that cannot be read.
    pub fn lease(&self) -> Result<ObjectKey, SettingsError> {
        let own = || {
            let namespace = self.authority.split_once('/').map_or("", |(namespace, _)| namespace);
            ObjectKey::new(namespace, self.field_manager())
        };
        Ok(object("lease", self.lease.as_deref())?.unwrap_or_else(own))
    }

    /// The feeds that are followed from the start to the end, where compile gets `compiled`.
    pub fn feeds(&self, compiled: &sluicegate_snapshot::Settings) -> Vec<Feed> {
        let everywhere = |kind| Feed { kind, namespace: None, labels: None };
        let mut feeds = vec![everywhere(Kind::IngressClass)];
        let places: Vec<Option<Arc<str>>> = match self.watch_namespaces.is_empty() {
            true => vec![None],
            false => self.watch_namespaces.iter().map(|name| Some(name.as_str().into())).collect(),
        };
        for namespace in places {
            let feed = |kind, labels| Feed { kind, namespace: namespace.clone(), labels };
            feeds.push(feed(Kind::Ingress, self.selector.as_deref().map(Into::into)));
            feeds.push(feed(Kind::Service, None));
            feeds.push(feed(Kind::EndpointSlice, None));
        }
        if self.watch_secrets_everywhere {
            feeds.extend([everywhere(Kind::Secret), everywhere(Kind::ConfigMap)]);
        }
        let (label, value) = HOST_OWNERS_LABEL;
        feeds.extend(compiled.host_records.as_ref().map(|prefix| Feed {
            kind: Kind::HostOwners,
            namespace: Some(prefix.namespace.clone()),
            labels: Some(format!("{label}={value}").into()),
        }));
        feeds
    }
}

fn parsed<T: FromStr<Err: Display>>(key: &str, text: Option<&str>) -> Result<Option<T>, SettingsError> {
    let wrong = |text: &str, error: T::Err| SettingsError(format!("{key} `{text}`: {error}"));
    text.map(|text| text.parse().map_err(|error| wrong(text, error))).transpose()
}

fn object(key: &str, text: Option<&str>) -> Result<Option<ObjectKey>, SettingsError> {
    match parsed::<ObjectKey>(key, text)? {
        Some(object) if object.namespace.is_empty() => {
            Err(SettingsError(format!("{key} `{object}`: expected NAMESPACE/NAME")))
        }
        object => Ok(object),
    }
}
