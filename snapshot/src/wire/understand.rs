//! Reading a delta that a program of another version wrote.
//!
//! Unknown fields are ignored. What cannot be read otherwise, for example an arm that does not exist here, fails closed for its own
//! resource: a route answers 503, a backend, content or certificate counts as invalid, so that its last good form stays. All of
//! it keeps the digest of what was sent ([`crate::model::partial`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Error, Value};

use super::share::share;
use crate::diagnostic::DiagnosticReason;
use crate::key::HostPattern;
use crate::model::partial::{PartialDelta, id};
use crate::model::{Delta, Digest, PathType, Policy, Refusal, Resource, Route, Target, TlsHost, VirtualHost};

/// The fields of a delta.
pub(super) type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// A collection's entries; `None`: gone.
type Entries<'a> = BTreeMap<String, Option<&'a RawValue>>;

/// Reads a delta.
///
/// # Errors
/// Something is no JSON of the form that all versions have: a version, and maps of resources.
pub(super) fn delta(mut fields: Fields<'_>) -> Result<Delta, Error> {
    let mut delta = Delta::default();
    if let Some(version) = fields.remove("version") {
        delta.version = serde_json::from_str(version.get())?;
    }
    let mut reader = Reader { partial: PartialDelta::new() };
    if let Some(globals) = fields.remove("globals").filter(|raw| raw.get() != "null") {
        let said = Digest::of_text("globals", "null", globals.get());
        delta.globals = serde_json::from_str(globals.get()).ok();
        let understood = delta.globals.as_ref().map(|globals| Digest::of("globals", &(), globals));
        if understood != Some(said) {
            reader.partial.insert(id("globals", ""), Some(said));
        }
    }
    delta.hosts = reader.collection(fields.remove("hosts"), "host", |raw| Some(Arc::new(host(raw))))?;
    delta.backends = reader.collection(fields.remove("backends"), "backend", |_| Some(not_understood()))?;
    delta.contents = reader.collection(fields.remove("contents"), "content", |_| Some(not_understood()))?;
    delta.tls_hosts =
        reader.collection(fields.remove("tlsHosts"), "tlsHost", |_| Some(Arc::new(TlsHost::default())))?;
    delta.certificates = reader.collection(fields.remove("certificates"), "certificate", |_| Some(not_understood()))?;
    for (field, raw) in fields {
        reader.unknown(&field, raw);
    }
    delta.partial = reader.partial;
    share(&mut delta);
    Ok(delta)
}

fn not_understood<T>() -> Resource<T> {
    Resource::invalid(DiagnosticReason::NotUnderstood)
}

struct Reader {
    partial: PartialDelta,
}

impl Reader {
    /// Reads a collection; `closed` makes something of what cannot be read.
    fn collection<K, V>(
        &mut self,
        raw: Option<&RawValue>,
        kind: &str,
        closed: impl Fn(&RawValue) -> Option<V>,
    ) -> Result<BTreeMap<K, Option<V>>, Error>
    where
        K: Ord + DeserializeOwned + serde::Serialize,
        V: DeserializeOwned + serde::Serialize,
    {
        let mut read = BTreeMap::new();
        let Some(raw) = raw else { return Ok(read) };
        let entries: Entries<'_> = serde_json::from_str(raw.get())?;
        for (text, value) in entries {
            let key = serde_json::from_value::<K>(Value::String(text.clone())).ok();
            match (key, value) {
                (Some(key), None) => drop(read.insert(key, None)),
                (Some(key), Some(value)) => {
                    let said = Digest::of_text(kind, &json(&text), value.get());
                    let understood = serde_json::from_str(value.get()).ok().or_else(|| closed(value));
                    if understood.as_ref().map(|understood| Digest::of(kind, &key, understood)) != Some(said) {
                        self.partial.insert(id(kind, &text), Some(said));
                    }
                    read.insert(key, understood);
                }
                // It cannot even be named here.
                (None, value) => self.unnamed(kind, &text, value),
            }
        }
        Ok(read)
    }

    /// A collection that does not exist here: its kind is its field's name.
    fn unknown(&mut self, field: &str, raw: &RawValue) {
        let Ok(entries) = serde_json::from_str::<Entries<'_>>(raw.get()) else { return };
        entries.iter().for_each(|(text, value)| self.unnamed(field, text, *value));
    }

    fn unnamed(&mut self, kind: &str, text: &str, value: Option<&RawValue>) {
        let said = value.map(|value| Digest::of_text(kind, &json(text), value.get()));
        self.partial.insert(id(kind, text), said);
    }
}

fn json(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A host of which something cannot be read: those of its routes that can be are served, the others answer 503. Where it cannot be
/// said which ones these are, all of it does.
fn host(raw: &RawValue) -> VirtualHost {
    #[derive(Deserialize)]
    struct Host {
        routes: Vec<Value>,
        #[serde(default)]
        default: Option<Value>,
    }
    let read = serde_json::from_str::<Host>(raw.get()).ok().and_then(|Host { routes, default }| {
        let routes = routes.into_iter().map(route).collect::<Option<Vec<_>>>()?;
        Some(VirtualHost {
            routes,
            default: default.map(|value| route(value).unwrap_or_else(all)),
            ..VirtualHost::default()
        })
    });
    read.unwrap_or_else(|| VirtualHost { routes: vec![all()], ..VirtualHost::default() })
}

/// A route: as it is, or closed; `None`: not even its path can be read.
fn route(value: Value) -> Option<Arc<Route>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Closed {
        path: Arc<str>,
        path_type: Value,
        #[serde(default)]
        is_default: bool,
    }
    if let Ok(route) = serde_json::from_value(value.clone()) {
        return Some(Arc::new(route));
    }
    let Closed { path, path_type, is_default } = serde_json::from_value(value).ok()?;
    // Of a type that does not exist here more is closed rather than less.
    let path_type = serde_json::from_value(path_type).unwrap_or(PathType::Prefix);
    Some(Arc::new(Route { path, path_type, is_default, ..closed() }))
}

fn all() -> Arc<Route> {
    Arc::new(closed())
}

fn closed() -> Route {
    Route {
        ingress: None,
        class: "".into(),
        host: HostPattern::Any,
        path: "/".into(),
        path_type: PathType::Prefix,
        is_default: false,
        target: Target::Refused(Refusal::Unknown),
        policy: Policy::default(),
    }
}
