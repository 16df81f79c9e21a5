//! Settings of the gateway: defaults, below the file, below the flags. Parsed and judged once, at the start.

mod file;
mod http2;
mod limits;
mod network;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use file::{AccessLogSettings, Settings, TimeoutSettings};
pub use http2::Http2Settings;
pub use limits::LimitSettings;
pub use sluicegate_process::settings::{SettingsFile, read};
pub use sluicegate_process::{LogFormat, LogSettings, SettingsError};

use sluicegate_snapshot::compile::PublishAddress;
use sluicegate_snapshot::model::{Policy, Reach};
use sluicegate_snapshot::settings::HostPolicy;
use sluicegate_snapshot::wire::MAX_ADDRESSES;
use sluicegate_snapshot::{BackendKey, Mode, ObjectKey};

use crate::stream::{ControllerUrl, Credentials};
use crate::upstream::connection::patience::Times;

/// Where the default certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultCertificate {
    /// A Secret among the objects.
    Secret(ObjectKey),
    /// PEM files: chain and key.
    Files {
        /// Chain, leaf first.
        chain: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

impl DefaultCertificate {
    /// Reads `NS/NAME` or `CHAIN.pem,KEY.pem`.
    fn parse(text: &str) -> Result<Self, SettingsError> {
        if let Some((chain, key)) = text.split_once(',') {
            return Ok(DefaultCertificate::Files { chain: chain.into(), key: key.into() });
        }
        match text.parse::<ObjectKey>() {
            Ok(key) if !key.namespace.is_empty() => Ok(DefaultCertificate::Secret(key)),
            _ => Err(SettingsError(format!(
                "defaultCertificate `{text}`: expected NAMESPACE/NAME of a Secret, or CHAIN.pem,KEY.pem"
            ))),
        }
    }
}

impl Settings {
    /// How long a client's connection is kept without a request; `trusted`: it is one of `trustedProxies`.
    pub fn keep_alive(&self, trusted: bool) -> Duration {
        let seconds = if trusted { self.timeouts.keep_alive_trusted } else { self.timeouts.keep_alive };
        Duration::from_secs(seconds.into())
    }

    /// How old a client's connection becomes: less by up to a tenth, so that those which began together do not end together. `None`: there
    /// is no limit.
    pub fn connection_age(&self) -> Option<Duration> {
        let seconds = f64::from(self.timeouts.connection_age);
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds * rand::random_range(0.9..=1.0)))
    }

    /// How long an exchange with an endpoint waits, for a route.
    pub fn times(&self, policy: &Policy) -> Times {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let t = &self.timeouts;
        Times {
            answer: seconds(t.upstream_read),
            stream: seconds(policy.stream_timeout.unwrap_or(t.stream)),
            upgraded: seconds(policy.upgraded_idle_timeout.unwrap_or(t.upgraded_idle)),
            window: seconds(t.body),
            rate: self.limits.body_rate as u64,
        }
    }

    /// Where the default certificate comes from.
    ///
    /// # Errors
    /// The text is neither a Secret's name nor two files.
    pub fn default_certificate(&self) -> Result<Option<DefaultCertificate>, SettingsError> {
        self.default_certificate.as_deref().map(DefaultCertificate::parse).transpose()
    }

    /// What this gateway and controllers know each other by.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            controller_ca: self.controller_ca.clone(),
            client: self.client_cert.clone().zip(self.client_key.clone()),
            token: self.token_file.clone(),
        }
    }

    /// A gateway never takes routes and keys from somebody it cannot know, and never shows its credentials in clear.
    fn judge_credentials(&self) -> Result<(), SettingsError> {
        let wrong = |message: &str| Err(SettingsError(message.to_owned()));
        let controllers = self.controller_urls()?;
        if self.client_cert.is_some() != self.client_key.is_some() {
            return wrong("clientCert and clientKey belong together: clientCert or clientKey is missing");
        }
        let has_any = self.client_cert.is_some() || self.token_file.is_some();
        if controllers.iter().any(|controller| controller.secure) {
            if self.controller_ca.is_none() {
                return wrong("controllerCa is missing: without it a controller with https cannot be known");
            }
            if !has_any {
                return wrong(
                    "clientCert with clientKey, or tokenFile, is missing: a controller with https wants to know its gateways",
                );
            }
        }
        if controllers.iter().any(|controller| !controller.secure) && (has_any || self.controller_ca.is_some()) {
            return wrong("controllers: http is not encrypted, and credentials are given: use https");
        }
        Ok(())
    }

    /// What is reported has to be an address, and somebody has to be told.
    fn judge_reported(&self) -> Result<(), SettingsError> {
        if !self.report_addresses.is_empty() && self.controllers.is_empty() {
            return Err(SettingsError("reportAddresses are for controllers, and none is given".to_owned()));
        }
        if self.report_addresses.len() > MAX_ADDRESSES {
            return Err(SettingsError(format!("reportAddresses: at most {MAX_ADDRESSES} addresses")));
        }
        self.report_addresses.iter().try_for_each(|text| match text.parse::<PublishAddress>() {
            Ok(_) => Ok(()),
            Err(error) => Err(SettingsError(format!("reportAddresses `{text}`: {error}"))),
        })
    }

    /// The controllers to follow.
    ///
    /// # Errors
    /// One of them is no URL that can be used.
    pub fn controller_urls(&self) -> Result<Vec<ControllerUrl>, SettingsError> {
        self.controllers.iter().map(|text| text.parse().map_err(SettingsError)).collect()
    }

    /// The part of the settings that compile gets.
    ///
    /// # Errors
    /// A name that cannot be read.
    pub fn compile(&self, mode: Mode) -> Result<sluicegate_snapshot::Settings, SettingsError> {
        let wrong =
            |key: &str, value: &str, error: &dyn fmt::Display| SettingsError(format!("{key} `{value}`: {error}"));
        let config_map = match &self.configmap {
            Some(text) => match text.parse::<ObjectKey>() {
                Ok(key) if !key.namespace.is_empty() => Some(key),
                _ => return Err(wrong("configmap", text, &"expected NAMESPACE/NAME")),
            },
            None => None,
        };
        let default_backend = match &self.default_backend {
            Some(text) => Some(text.parse::<BackendKey>().map_err(|error| wrong("defaultBackend", text, &error))?),
            None => None,
        };
        Ok(sluicegate_snapshot::Settings {
            mode,
            ingress_class: self.ingress_class.as_deref().map(Into::into),
            controller_names: self.controller_names.iter().map(|name| name.as_str().into()).collect(),
            watch_without_class: self.watch_without_class,
            config_map,
            default_certificate: match self.default_certificate()? {
                Some(DefaultCertificate::Secret(key)) => Some(key),
                _ => None,
            },
            default_backend,
            host_policy: HostPolicy::usual(mode, self.controller_names.iter().map(String::as_str)),
            host_records: None,
            reach: Reach::default(),
            guarded: false,
            defaults: Policy {
                ssl_redirect: self.ssl_redirect,
                reject_encoded_slashes: self.reject_encoded_slashes,
                body_limit: self.body_limit,
                ..Policy::default()
            },
        })
    }
}
