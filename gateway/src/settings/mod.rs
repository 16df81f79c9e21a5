//! Settings of the gateway: defaults, below the file, below the flags. Parsed and judged once, at the start.

mod file;

use std::fmt;
use std::path::PathBuf;

pub use file::{AccessLogSettings, Settings, TimeoutSettings};
pub use sluicegate_process::settings::{SettingsFile, read};
pub use sluicegate_process::{LogFormat, LogSettings, SettingsError};

use sluicegate_snapshot::settings::ClassSettings;
use sluicegate_snapshot::{BackendKey, Mode, ObjectKey};

use crate::stream::ControllerUrl;

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
    /// Where the default certificate comes from.
    ///
    /// # Errors
    /// The text is neither a Secret's name nor two files.
    pub fn default_certificate(&self) -> Result<Option<DefaultCertificate>, SettingsError> {
        self.default_certificate.as_deref().map(DefaultCertificate::parse).transpose()
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
            guarded: false,
            defaults: ClassSettings {
                ssl_redirect: self.ssl_redirect,
                reject_encoded_slashes: self.reject_encoded_slashes,
                ..ClassSettings::default()
            },
        })
    }
}
