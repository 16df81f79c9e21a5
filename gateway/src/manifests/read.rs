//! One manifest text: documents to API objects. A document that cannot be read hurts only itself.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sluicegate_snapshot::key::is_object_name;
use sluicegate_snapshot::{Kind, Object, ObjectKey};

use sluicegate_process::yaml;

/// A document (or an item of a List) that was read.
#[derive(Debug)]
pub struct Document {
    /// Which object it is.
    pub kind: Kind,
    /// Its identity.
    pub key: ObjectKey,
    /// Line at which the document's content starts.
    pub line: u64,
    /// The object and the digest of its text; `None` where it cannot be read: its last good form stays in force.
    pub object: Option<(Object, ObjectDigest)>,
}

/// SHA-256 of an object as JSON: tells equal objects from others without keeping them.
pub type ObjectDigest = [u8; 32];

/// Something about a document that its author should know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line of the document's start, or of the error where it is known; 0: it is about the whole file.
    pub line: u64,
    /// `Kind namespace/name`, as far as it is known.
    pub object: String,
    /// Path of the field; empty where there is none.
    pub field: String,
    /// What is wrong and what happens instead.
    pub message: String,
    /// Whether anything is lost by it; false: only a note.
    pub error: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { file, line, object, field, message, error } = self;
        let severity = if *error { "error" } else { "warning" };
        match line {
            0 => write!(f, "{severity}: {file}: ")?,
            line => write!(f, "{severity}: {file}:{line}: ")?,
        }
        for part in [object, field].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(message)
    }
}

/// Reads all documents of a text.
pub fn read(file: &str, text: &str) -> (Vec<Document>, Vec<Problem>) {
    let mut reader = Reader { file, line: 1, documents: Vec::new(), problems: Vec::new(), seen: BTreeSet::new() };
    for (line, part) in yaml::documents(text) {
        reader.line = line;
        match yaml::parse::<Value>(part) {
            Ok(None) => {}
            Ok(Some(value)) => {
                reader.line = line + yaml::lines_before_content(part);
                reader.document(value);
            }
            Err(error) => {
                let within = error.line.saturating_sub(1);
                reader.line = line + within;
                let mut message = error.to_string();
                if let Some((_, rest)) = message.split_once("no readable YAML") {
                    message = format!("no readable YAML{rest}");
                }
                reader.problem("", "", format!("{message}. What this document said before stays in force"), true);
            }
        }
    }
    (reader.documents, reader.problems)
}

struct Reader<'a> {
    file: &'a str,
    line: u64,
    documents: Vec<Document>,
    problems: Vec<Problem>,
    seen: BTreeSet<(Kind, ObjectKey)>,
}

impl Reader<'_> {
    fn problem(&mut self, object: &str, field: &str, message: String, error: bool) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: self.line,
            object: object.to_owned(),
            field: field.to_owned(),
            message,
            error,
        });
    }

    fn document(&mut self, value: Value) {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if let Some(items) = value.get("items").and_then(Value::as_array)
            && kind.ends_with("List")
        {
            let item_kind = kind.trim_end_matches("List");
            for item in items.clone() {
                self.document(with_type(item, &api_version, item_kind));
            }
            return;
        }
        let known = match (api_version.as_str(), kind.as_str()) {
            ("networking.k8s.io/v1", "Ingress") => self.object::<Ingress>(value, Kind::Ingress, Object::Ingress),
            ("networking.k8s.io/v1", "IngressClass") => {
                self.object::<IngressClass>(value, Kind::IngressClass, Object::IngressClass)
            }
            ("v1", "Service") => self.object::<Service>(value, Kind::Service, Object::Service),
            ("v1", "Secret") => self.object::<Secret>(value, Kind::Secret, Object::Secret),
            ("v1", "ConfigMap") => self.object::<ConfigMap>(value, Kind::ConfigMap, Object::ConfigMap),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.object::<EndpointSlice>(value, Kind::EndpointSlice, Object::EndpointSlice)
            }
            ("", _) | (_, "") => {
                let message = "apiVersion and kind are needed; the document is ignored".to_owned();
                return self.problem("", "apiVersion, kind", message, true);
            }
            (_, "Ingress") => self.old_version(&value, Kind::Ingress, &api_version),
            (_, "IngressClass") => self.old_version(&value, Kind::IngressClass, &api_version),
            // Deployments and the like may stand beside what we read.
            _ => return self.judge_kind(&api_version, &kind),
        };
        self.documents.extend(known);
    }

    /// An object of ours in a version that is not served: it is known which one, so its last good form stays.
    fn old_version(&mut self, value: &Value, kind: Kind, api_version: &str) -> Option<Document> {
        let key = identity(value, kind);
        let message = format!(
            "{api_version} is not served; use networking.k8s.io/v1. What this object said before stays in force"
        );
        self.problem(&format!("{kind} {key}"), "apiVersion", message, true);
        Some(Document { kind, key, line: self.line, object: None })
    }

    /// A kind that is nearly one of ours was probably meant to be it.
    fn judge_kind(&mut self, api_version: &str, kind: &str) {
        let ours = [
            ("networking.k8s.io/v1", Kind::Ingress),
            ("networking.k8s.io/v1", Kind::IngressClass),
            ("v1", Kind::Service),
            ("v1", Kind::Secret),
            ("v1", Kind::ConfigMap),
            ("discovery.k8s.io/v1", Kind::EndpointSlice),
        ];
        let near = |(group, known): &&(&str, Kind)| {
            *group == api_version && strsim::damerau_levenshtein(kind, known.as_str()) <= 2
        };
        if let Some((_, known)) = ours.iter().find(near) {
            let message =
                format!("unknown kind `{kind}`; did you mean {known}? What this document said before stays in force");
            self.problem("", "kind", message, true);
        }
    }

    fn object<T: DeserializeOwned>(
        &mut self,
        value: Value,
        kind: Kind,
        wrap: fn(Box<T>) -> Object,
    ) -> Option<Document> {
        let meta = |key: &str| value.get("metadata").and_then(|meta| meta.get(key)).and_then(Value::as_str);
        let name = meta("name").unwrap_or_default().to_owned();
        let namespace = meta("namespace").unwrap_or("default").to_owned();
        let key = identity(&value, kind);
        let title = format!("{kind} {key}");
        if !is_object_name(&name) || (kind != Kind::IngressClass && !is_object_name(&namespace)) {
            let message = "name (and namespace) must be lower-case DNS names; the document is ignored".to_owned();
            self.problem(&title, "metadata.name", message, true);
            return None;
        }
        let digest = digest(&value);
        let mut ignored = Vec::new();
        // The library shows an `Option` on the way as `?`.
        let mut track = |path: serde_ignored::Path<'_>| ignored.push(path.to_string().replace(".?", ""));
        let mut place = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(value, &mut place);
        let object: Result<T, _> = serde_ignored::deserialize(deserializer, &mut track);
        let object = match object {
            Ok(object) => Some((wrap(Box::new(object)), digest)),
            Err(error) => {
                let message = format!("{error}. What this object said before stays in force");
                let field = place.path().to_string();
                self.problem(&title, &field, message, true);
                None
            }
        };
        // apiVersion and kind are read before; status is not ours to read.
        for field in
            ignored.iter().filter(|field| !field.starts_with("status") && *field != "kind" && *field != "apiVersion")
        {
            self.problem(&title, field, "unknown field; it is ignored".to_owned(), false);
        }
        if !self.seen.insert((kind, key.clone())) {
            self.problem(&title, "", "stands in this file before; the last one counts".to_owned(), false);
        }
        Some(Document { kind, key, line: self.line, object })
    }
}

/// Namespace and name as written; an absent namespace is `default`, as with `kubectl apply`.
fn identity(value: &Value, kind: Kind) -> ObjectKey {
    let meta = |key: &str| value.get("metadata").and_then(|meta| meta.get(key)).and_then(Value::as_str);
    let name = meta("name").unwrap_or_default();
    match kind {
        Kind::IngressClass => ObjectKey::cluster(name),
        _ => ObjectKey::new(meta("namespace").unwrap_or("default"), name),
    }
}

fn digest(value: &Value) -> ObjectDigest {
    // Maps of JSON values are sorted, so equal objects are equal texts.
    let mut hash = Sha256::new();
    // A hash takes whatever is written to it.
    let _ = serde_json::to_writer(&mut hash, value);
    hash.finalize().into()
}

fn with_type(mut item: Value, api_version: &str, kind: &str) -> Value {
    if let Value::Object(map) = &mut item {
        map.entry("apiVersion").or_insert_with(|| api_version.into());
        if !kind.is_empty() {
            map.entry("kind").or_insert_with(|| kind.into());
        }
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_leaves_its_neighbours_alone() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n";
        let (documents, problems) = read("x.yaml", text);
        assert_eq!(documents.len(), 2);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].line >= 4, "{}", problems[0]);
    }

    #[test]
    fn a_wrong_type_names_object_and_field() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, namespace: shop}\nspec: {rules: [{http: {paths: 7}}]}\n";
        let (documents, problems) = read("x.yaml", text);
        assert!(documents[0].object.is_none());
        let line = problems[0].to_string();
        assert!(line.contains("Ingress shop/web: spec.rules[0].http.paths: "), "{line}");
    }

    #[test]
    fn unknown_fields_are_noted_but_do_not_hurt() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec: {ruls: []}\n";
        let (documents, problems) = read("x.yaml", text);
        assert!(documents[0].object.is_some());
        assert_eq!((problems[0].field.as_str(), problems[0].error), ("spec.ruls", false));
    }

    #[test]
    fn lists_and_foreign_kinds_are_read() {
        let text = "kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n---\nkind: IngressList\napiVersion: networking.k8s.io/v1\nitems: [{metadata: {name: i}}]\n";
        let (documents, problems) = read("x.yaml", text);
        let kinds: Vec<Kind> = documents.iter().map(|document| document.kind).collect();
        assert_eq!(kinds, [Kind::Service, Kind::Ingress]);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn old_api_versions_are_refused_with_the_right_one() {
        let (documents, problems) =
            read("x.yaml", "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a}\n");
        assert!(problems[0].message.contains("networking.k8s.io/v1"));
        assert!(documents[0].object.is_none(), "its last good form stays");
    }

    #[test]
    fn a_kind_that_is_nearly_ours_and_an_object_that_stands_twice_are_noted() {
        let (_, problems) = read("x.yaml", "apiVersion: networking.k8s.io/v1\nkind: Ingres\nmetadata: {name: a}\n");
        assert!(problems[0].message.contains("did you mean Ingress"), "{}", problems[0]);
        let one = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        let (_, problems) = read("x.yaml", &format!("{one}---\n{one}"));
        assert!(!problems[0].error && problems[0].message.contains("last one counts"));
    }
}
