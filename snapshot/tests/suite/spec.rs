//! The routing spec's files: manifests, settings, and rows `request -> outcome`. Shared with the gateway's tests, which
//! run the same rows through the phases and over sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sluicegate_snapshot::facts::record_of;
use sluicegate_snapshot::model::Policy;
use sluicegate_snapshot::settings::{AllowedHosts, HostPolicy};
use sluicegate_snapshot::{HostPattern, Mode, Object, ObjectKey, Settings};

/// What the names of the ConfigMaps begin with in which hosts are recorded.
const RECORDS: &str = "default/spec-hosts";

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecFile {
    /// The rule, in a sentence.
    pub title: String,
    /// Mode of compile.
    #[serde(default)]
    pub mode: Mode,
    /// Settings besides the mode.
    #[serde(default)]
    pub settings: SpecSettings,
    /// Objects.
    pub manifests: Vec<serde_json::Value>,
    /// Rows.
    pub requests: Vec<String>,
    /// Diagnostics that the manifests cause, all of them: `Kind namespace/name Reason`.
    pub diagnostics: Option<Vec<String>>,
}

/// The settings a file may choose; named as in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpecSettings {
    ingress_class: Option<Arc<str>>,
    controller_names: Vec<Arc<str>>,
    watch_without_class: bool,
    default_backend: Option<String>,
    config_map: Option<String>,
    reject_encoded_slashes: bool,
    ssl_redirect: Option<bool>,
    /// `perNamespace` or `allowList`; absent: shared.
    host_policy: Option<String>,
    allowed_hosts: BTreeMap<String, Vec<String>>,
    /// Hosts by the namespace that controllers have recorded for them.
    recorded_hosts: BTreeMap<String, Vec<String>>,
}

/// A row.
#[derive(Debug)]
pub struct Row {
    /// As written.
    pub text: String,
    /// Method.
    pub method: String,
    /// Whether it goes over TLS.
    pub https: bool,
    /// Host of the URL.
    pub authority: String,
    /// Path and query as written.
    pub target: String,
    /// Header fields; a Host among them replaces the URL's.
    pub headers: Vec<(String, String)>,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A backend gets it.
    Backend {
        /// `namespace/service:port`.
        backend: String,
        /// Path of the rule.
        path: Option<String>,
        /// Its type.
        path_type: Option<String>,
        /// Its Ingress.
        ingress: Option<String>,
        /// Target that the backend gets.
        forwarded: Option<String>,
    },
    /// The gateway answers: status and reason.
    Reply(u16, String),
    /// A redirect to this place.
    Redirect(String),
    /// A file of a ConfigMap.
    File(String),
}

impl SpecFile {
    /// Every file of the spec, by path.
    pub fn all() -> Vec<(PathBuf, SpecFile)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshot/tests/routing");
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
            .into_iter()
            .map(|path| {
                let text = std::fs::read_to_string(&path).unwrap();
                let options = serde_saphyr::options! { strict_booleans: true };
                let file = serde_saphyr::from_str_with_options(&text, options);
                let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                (path, file)
            })
            .collect()
    }

    /// Inputs of compile.
    pub fn settings(&self) -> Settings {
        let from = &self.settings;
        Settings {
            mode: self.mode,
            ingress_class: from.ingress_class.clone(),
            controller_names: from.controller_names.clone(),
            watch_without_class: from.watch_without_class,
            config_map: from.config_map.as_ref().map(|text| text.parse().unwrap()),
            default_backend: from.default_backend.as_ref().map(|text| text.parse().unwrap()),
            host_policy: self.host_policy(),
            host_records: Some(RECORDS.parse().unwrap()),
            defaults: Policy {
                ssl_redirect: from.ssl_redirect.unwrap_or(true),
                reject_encoded_slashes: from.reject_encoded_slashes,
                ..Policy::default()
            },
            ..Settings::default()
        }
    }

    fn host_policy(&self) -> HostPolicy {
        let lists = self.settings.allowed_hosts.iter().map(|(namespace, hosts)| (namespace.as_str(), hosts.as_slice()));
        match self.settings.host_policy.as_deref() {
            None => HostPolicy::Shared,
            Some("perNamespace") => HostPolicy::PerNamespace,
            Some("allowList") => HostPolicy::AllowList(AllowedHosts::parse(lists).unwrap()),
            Some(other) => panic!("hostPolicy {other}"),
        }
    }

    /// `hostPolicy` and `allowedHosts` as the controller's configuration file has them.
    pub fn host_settings(&self) -> (&str, &BTreeMap<String, Vec<String>>) {
        (self.settings.host_policy.as_deref().unwrap_or("shared"), &self.settings.allowed_hosts)
    }

    /// The objects, and what controllers have recorded.
    pub fn objects(&self) -> Vec<Object> {
        let of_manifests = self.manifests.iter().cloned().map(crate::objects::object);
        of_manifests.chain(self.records(&RECORDS.parse().unwrap())).collect()
    }

    /// The ConfigMaps in which controllers have recorded whose hosts are, with names that begin like this.
    pub fn records(&self, prefix: &ObjectKey) -> Vec<Object> {
        let mut records: BTreeMap<ObjectKey, BTreeMap<HostPattern, Arc<str>>> = BTreeMap::new();
        for (namespace, hosts) in &self.settings.recorded_hosts {
            for host in hosts {
                let host: HostPattern = host.parse().unwrap();
                let record = records.entry(record_of(prefix, &host)).or_default();
                record.insert(host, namespace.as_str().into());
            }
        }
        records.iter().map(|(key, owners)| crate::objects::host_owners(key, owners)).collect()
    }

    /// The rows.
    pub fn rows(&self) -> Vec<Row> {
        self.requests.iter().map(|text| Row::parse(text).unwrap_or_else(|why| panic!("{why}: {text}"))).collect()
    }
}

impl Row {
    fn parse(text: &str) -> Result<Row, &'static str> {
        let (request, outcome) = text.split_once(" -> ").ok_or("no ` -> `")?;
        let (method, rest) = request.split_once(' ').ok_or("no method")?;
        let (url, fields) = match rest.split_once(" [") {
            Some((url, fields)) => (url, fields.strip_suffix(']').ok_or("no `]` at the fields' end")?),
            None => (rest, ""),
        };
        let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let headers = fields.split("] [").filter(|field| !field.is_empty());
        let headers: Option<Vec<(String, String)>> = headers
            .map(|field| field.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        Ok(Row {
            text: text.to_owned(),
            method: method.to_owned(),
            https: scheme == "https",
            authority: authority.to_owned(),
            target: if target.is_empty() { "/".to_owned() } else { target.to_owned() },
            headers: headers.ok_or("a header without `: `")?,
            outcome: Outcome::parse(outcome).ok_or("no outcome")?,
        })
    }

    /// The Host header.
    pub fn host(&self) -> &str {
        let host = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        host.map_or(&self.authority, |(_, value)| value)
    }
}

impl Outcome {
    fn parse(text: &str) -> Option<Outcome> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if let Ok(status) = words.first()?.parse::<u16>() {
            return match (status, &words[1..]) {
                (308, [location]) => Some(Outcome::Redirect((*location).to_owned())),
                (200, ["static", config_map, key]) => Some(Outcome::File(format!("{config_map} {key}"))),
                (_, [reason]) => Some(Outcome::Reply(status, (*reason).to_owned())),
                _ => None,
            };
        }
        let value =
            |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        Some(Outcome::Backend {
            backend: words[0].to_owned(),
            path: value("path"),
            path_type: value("type"),
            ingress: value("ingress"),
            forwarded: value("forwarded"),
        })
    }
}
