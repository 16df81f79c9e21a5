//! Calls of the API server as the cluster's users make them: any verb, any body.

use std::path::Path;

use http::{Method, Request};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The kinds that tests use: kind, API, plural; without a namespace where the last is false.
const KINDS: [(&str, &str, &str, bool); 18] = [
    ("Ingress", "apis/networking.k8s.io/v1", "ingresses", true),
    ("IngressClass", "apis/networking.k8s.io/v1", "ingressclasses", false),
    ("NetworkPolicy", "apis/networking.k8s.io/v1", "networkpolicies", true),
    ("Service", "api/v1", "services", true),
    ("EndpointSlice", "apis/discovery.k8s.io/v1", "endpointslices", true),
    ("Secret", "api/v1", "secrets", true),
    ("ConfigMap", "api/v1", "configmaps", true),
    ("Namespace", "api/v1", "namespaces", false),
    ("ServiceAccount", "api/v1", "serviceaccounts", true),
    ("Event", "apis/events.k8s.io/v1", "events", true),
    ("Lease", "apis/coordination.k8s.io/v1", "leases", true),
    ("Pod", "api/v1", "pods", true),
    ("Deployment", "apis/apps/v1", "deployments", true),
    ("PodDisruptionBudget", "apis/policy/v1", "poddisruptionbudgets", true),
    ("ClusterRole", "apis/rbac.authorization.k8s.io/v1", "clusterroles", false),
    ("ClusterRoleBinding", "apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", false),
    ("Role", "apis/rbac.authorization.k8s.io/v1", "roles", true),
    ("RoleBinding", "apis/rbac.authorization.k8s.io/v1", "rolebindings", true),
];

/// A client of the API server.
pub struct Api {
    client: Client,
    runtime: Runtime,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that has to be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status < 300, "{}: {}", self.status, self.body);
        self.body
    }
}

/// Documents of a YAML text, as JSON.
pub fn documents(yaml: &str) -> Vec<Value> {
    let is_empty = |text: &&str| {
        text.lines().all(|line| line.trim().is_empty() || line.starts_with('#') || line.starts_with("---"))
    };
    let options = || serde_saphyr::options! { strict_booleans: true };
    let parse = |text: &str| {
        serde_saphyr::from_str_with_options(text, options()).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    };
    format!("\n{yaml}")
        .split("\n---")
        .filter(|text| !is_empty(text))
        .map(|text| parse(text.split_once('\n').map_or(text, |(_, rest)| rest)))
        .collect()
}

/// Path of a collection.
pub fn collection(kind: &str, namespace: &str) -> String {
    let (_, group, plural, is_namespaced) =
        KINDS.iter().find(|(known, ..)| *known == kind).unwrap_or_else(|| panic!("kind {kind}"));
    match *is_namespaced && !namespace.is_empty() {
        true => format!("/{group}/namespaces/{namespace}/{plural}"),
        false => format!("/{group}/{plural}"),
    }
}

/// Path of an object.
pub fn path(kind: &str, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(kind, namespace))
}

/// Path of the object that a document describes.
fn path_of(document: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = document["metadata"]["namespace"].as_str().unwrap_or("default");
    path(&text(&document["kind"]), namespace, &text(&document["metadata"]["name"]))
}

impl Api {
    /// A client with the credentials of a kubeconfig.
    pub fn of(kubeconfig: &Path) -> Api {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).unwrap();
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        Api { client, runtime }
    }

    /// One call.
    pub fn call(&self, method: Method, path: &str, media_type: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", media_type);
        let request = request.body(Body::from(body.as_bytes().to_vec())).unwrap();
        self.runtime.block_on(async {
            let response = self.client.send(request).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
            let status = response.status().as_u16();
            let body = response.into_body().collect_bytes().await.unwrap();
            Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
        })
    }

    /// Creates the objects of a YAML text.
    #[track_caller]
    pub fn create(&self, yaml: &str) {
        for document in documents(yaml) {
            let namespace = document["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
            let path = collection(document["kind"].as_str().unwrap(), &namespace);
            self.call(Method::POST, &path, "application/json", &document.to_string()).ok();
        }
    }

    /// Applies the objects of a YAML text, server-side.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        for document in documents(yaml) {
            let path = format!("{}?fieldManager=test&force=true", path_of(&document));
            self.call(Method::PATCH, &path, "application/apply-patch+yaml", &document.to_string()).ok();
        }
    }

    /// Reads an object.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, "application/json", "").ok()
    }

    /// Patches an object with a merge patch.
    #[track_caller]
    pub fn merge(&self, path: &str, patch: &Value) -> Value {
        self.call(Method::PATCH, path, "application/merge-patch+json", &patch.to_string()).ok()
    }

    /// Deletes an object or a collection.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.call(Method::DELETE, path, "application/json", &json!({}).to_string()).ok();
    }
}
