//! What compile is told besides the objects. All of it is an input, so that equal inputs give equal snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use crate::host_policy::{AllowedHosts, HostPolicy};
use crate::key::{BackendKey, ObjectKey};
use crate::model::{Policy, Reach, SetBy};
use crate::setting::{self, Setting};

/// Where the objects come from, which decides what they may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Files on a machine whose owner wrote them: every class is served unless `--ingress-class` says less, whatever its
    /// controller; endpoints may be loopback or come from a Service annotation.
    #[default]
    Standalone,
    /// An API server with many authors: the class chain always holds, rights are not widened by references, and backends may
    /// not have every address ([`Settings::reach`]).
    Cluster,
}

/// The controller name that an IngressClass of ours has in `spec.controller`.
pub const CONTROLLER_NAME: &str = "sluicegate.dev/ingress-controller";

/// The class annotation's value that is ours where no `--ingress-class` is given.
pub const DEFAULT_CLASS_NAME: &str = "sluicegate";

/// The controller name of ingress-nginx, whose classes can be taken over (`controllerNames`).
pub const INGRESS_NGINX_CONTROLLER: &str = "k8s.io/ingress-nginx";

/// The class annotation's value that ingress-nginx takes as its own (its `--ingress-class`).
pub const INGRESS_NGINX_CLASS_NAME: &str = "nginx";

/// Inputs of compile besides the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// See [`Mode`].
    pub mode: Mode,
    /// Serve this class only (`--ingress-class`). In a cluster the class has to be ours as well; among files the name is
    /// enough, since whoever wrote them wrote the flag.
    pub ingress_class: Option<Arc<str>>,
    /// Accepted `spec.controller` values besides [`CONTROLLER_NAME`].
    pub controller_names: Vec<Arc<str>>,
    /// Serve Ingresses that name no class at all (`--watch-without-class`).
    pub watch_without_class: bool,
    /// A ConfigMap with settings for everything (`--configmap`).
    pub config_map: Option<ObjectKey>,
    /// Secret of the default certificate.
    pub default_certificate: Option<ObjectKey>,
    /// Where requests go that nothing else takes.
    pub default_backend: Option<BackendKey>,
    /// Whose a host is.
    pub host_policy: HostPolicy,
    /// Where it is recorded who has a host, as the first part of the names of ConfigMaps ([`crate::facts::record_of`]); `None`:
    /// nowhere.
    pub host_records: Option<ObjectKey>,
    /// Which addresses and names backends may have in a cluster; to its `api_server` comes what Service and EndpointSlice
    /// `default/kubernetes` say.
    pub reach: Reach,
    /// Secrets and ConfigMaps of a namespace are unknown until [`crate::Edit::Access`] says otherwise: watches of them are
    /// allowed by namespace. Without it what is not there does not exist.
    pub guarded: bool,
    /// Defaults of what classes and Ingresses may set.
    pub defaults: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::Standalone,
            ingress_class: None,
            controller_names: Vec::new(),
            watch_without_class: false,
            config_map: None,
            default_certificate: None,
            default_backend: None,
            host_policy: HostPolicy::default(),
            host_records: None,
            reach: Reach::default(),
            guarded: false,
            defaults: Policy::default(),
        }
    }
}

impl Settings {
    /// Whether every Ingress is ours whatever its class: files without `--ingress-class`.
    pub fn serves_every_class(&self) -> bool {
        self.mode == Mode::Standalone && self.ingress_class.is_none()
    }

    /// Whether the class annotation means us by this value. It names no IngressClass object, it is a constant that the
    /// controller is configured with: `--ingress-class`, else our own name, and that of ingress-nginx where its classes are
    /// taken over.
    pub fn accepts_annotation(&self, value: &str) -> bool {
        match &self.ingress_class {
            Some(only) => **only == *value,
            None => {
                value == DEFAULT_CLASS_NAME
                    || (value == INGRESS_NGINX_CLASS_NAME && self.accepts_controller(INGRESS_NGINX_CONTROLLER))
            }
        }
    }

    /// Whether a class with this `spec.controller` is ours.
    pub fn accepts_controller(&self, controller: &str) -> bool {
        controller == CONTROLLER_NAME || self.controller_names.iter().any(|name| &**name == controller)
    }
}

/// A key of a settings ConfigMap that could not be used, in words for a Diagnostic.
pub struct SettingProblem {
    /// The key.
    pub key: Arc<str>,
    /// What is wrong with it.
    pub message: String,
}

/// Settings with the keys of a ConfigMap laid over them; `by` says whose ConfigMap it is. A key that is unknown or unreadable changes nothing and
/// is reported; the kebab-case names are those of ingress-nginx's ConfigMap.
pub fn overlaid(below: &Policy, data: &BTreeMap<Arc<str>, Arc<str>>, by: SetBy) -> (Policy, Vec<SettingProblem>) {
    let mut settings = below.clone();
    let mut problems = Vec::new();
    for (key, value) in data {
        let message = match Setting::of_key(key) {
            None => {
                let known: Vec<&str> = setting::ALL.iter().map(|setting| setting.name).collect();
                format!("unknown setting; known are {}. It is ignored", known.join(", "))
            }
            Some(setting) => match setting.set(&mut settings, value, by) {
                Some(()) => continue,
                None => format!("expected {}; the setting below it is used", setting.expected),
            },
        };
        problems.push(SettingProblem { key: key.clone(), message });
    }
    (settings, problems)
}
