//! A case: objects, requests, and what the real controller answered.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One file. Fields that only matter to people or to other groups of the recording are not read.
#[derive(Debug, Deserialize)]
pub struct Case {
    #[serde(skip)]
    pub name: String,
    pub title: String,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default)]
    pub configmap: Option<Value>,
    #[serde(default)]
    pub manifests: Vec<Value>,
    pub requests: Vec<Request>,
}

#[derive(Debug, Deserialize)]
pub struct Request {
    pub name: String,
    #[serde(default)]
    pub scheme: Option<String>,
    #[serde(default)]
    pub host: Option<String>,
    /// Empty: none; absent: the host.
    #[serde(default)]
    pub sni: Option<String>,
    pub method: String,
    pub target: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub body: Option<String>,
    /// Bytes of a body of the recording's own making.
    #[serde(default)]
    pub body_size: Option<usize>,
    /// What the connection begins with.
    #[serde(default)]
    pub proxy_protocol: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    /// `https`: plain HTTP to the TLS port.
    #[serde(default)]
    pub port: Option<String>,
    #[serde(default)]
    pub tls_max: Option<String>,
    #[serde(default)]
    pub count: Option<usize>,
    #[serde(default)]
    pub keepalive: bool,
    /// Absent where the controller could load nothing at all.
    #[serde(default)]
    pub expect: Value,
}

impl Case {
    /// Every case, by name.
    pub fn all(directory: &Path) -> Vec<Case> {
        let mut cases = Vec::new();
        for group in std::fs::read_dir(directory.join("cases")).unwrap() {
            for file in std::fs::read_dir(group.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                let options = serde_saphyr::options! { strict_booleans: true };
                let case = serde_saphyr::from_str_with_options::<Case>(&text, options);
                let mut case = case.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                case.name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                // The certificates of the recording stand beside it.
                case.manifests.iter_mut().for_each(|manifest| fill(manifest, directory));
                cases.push(case);
            }
        }
        cases.sort_by(|one, other| one.name.cmp(&other.name));
        cases
    }

    /// Whether it needs nothing but the Ingress API and the annotations that are read: no ConfigMap, no flag, and a configuration that the
    /// controller could load.
    pub fn is_plain(&self) -> bool {
        self.configmap.is_none() && self.needs_only_what_is_read()
    }

    /// The same, a ConfigMap aside.
    pub fn needs_only_what_is_read(&self) -> bool {
        let annotated = |manifest: &Value| {
            let annotations = manifest["metadata"]["annotations"].as_object();
            annotations.is_some_and(|annotations| {
                let unread = |key: &&str| !["ssl-redirect", "proxy-body-size"].contains(key);
                let mut keys = annotations.keys().filter_map(|key| key.strip_prefix("nginx.ingress.kubernetes.io/"));
                keys.any(|key| unread(&key))
            })
        };
        self.flags.is_empty()
            && !self.tags.iter().any(|tag| tag == "reload-broken")
            && !self.manifests.iter().any(annotated)
    }
}

/// Replaces the placeholders: `@ECHO1@` addresses, `@VIP1@` cluster IPs, `@FILE:x@` PEM files.
fn fill(value: &mut Value, directory: &Path) {
    match value {
        Value::String(text) => {
            for number in 1..=12 {
                *text = text.replace(&format!("@ECHO{number}@"), &format!("127.0.1.{number}"));
                *text = text.replace(&format!("@VIP{number}@"), &format!("127.0.200.{number}"));
            }
            while let Some((before, after)) = text.split_once("@FILE:") {
                let (name, after) = after.split_once('@').expect("the placeholder's end");
                let pem = std::fs::read_to_string(directory.join("certs").join(name)).unwrap();
                *text = format!("{before}{pem}{after}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, directory)),
        Value::Object(map) => map.values_mut().for_each(|item| fill(item, directory)),
        _ => {}
    }
}
