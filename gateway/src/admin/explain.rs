//! Explaining a request: which Ingress, rule, path, policy and endpoints it gets, and why. The same phases answer as in
//! traffic; nothing is sent.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;
use serde_json::{Value, json};
use sluicegate_snapshot::model::{Route, SetBy, Target};
use sluicegate_snapshot::setting::{self, Setting};

use super::table;
use crate::phase::admit::{self, Verdict};
use crate::phase::canonical::{self, Canonical};
use crate::phase::forward::{self, Forwarding};
use crate::phase::{Connection, Hosts, RequestHead, Scheme};
use crate::settings::Settings;
use crate::table::Table;

/// A request to explain.
#[derive(Debug)]
pub struct Question {
    method: Method,
    scheme: Scheme,
    authority: String,
    target: String,
    headers: HeaderMap,
    port: u16,
}

/// The answer: the contract of `/explain` and `sluicegate explain --output json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What the request is answered with: `Upstream` where it goes to a backend.
    pub reason: &'static str,
    /// Status of the gateway's own answer; absent where a backend answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `Location` of a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// TLS of the host is not ended here: its connections go to the backend as they are, and nothing else is looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls_passthrough: bool,
    /// Ingress of the route.
    pub ingress: Option<Value>,
    /// Host of the rule; `*` for host-less ones.
    pub host: Option<String>,
    /// Path of the rule.
    pub path: Option<String>,
    /// Type of the path.
    pub path_type: Option<String>,
    /// Whether the route is a default backend.
    pub is_default: bool,
    /// Backend of the rule.
    pub backend: Option<Value>,
    /// Its endpoints.
    pub endpoints: Vec<Value>,
    /// Settings in force, with where they come from.
    pub policy: Vec<Value>,
    /// Ingresses that claimed the same path and lost.
    pub lost: Vec<Value>,
    /// What the backend would get.
    pub upstream: Option<Value>,
    /// Version of the table.
    pub version: String,
}

impl Question {
    /// A question about `method url` with header fields `Name: value`.
    ///
    /// # Errors
    /// Names the part that cannot be read.
    pub fn new(method: &str, url: &str, headers: &[String]) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            _ => return Err(format!("url `{url}`: expected http://HOST/PATH or https://HOST/PATH")),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) =
                header.split_once(':').ok_or_else(|| format!("header `{header}`: expected `Name: value`"))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| format!("header `{header}`: no header name"))?;
            let value =
                HeaderValue::from_str(value.trim()).map_err(|_| format!("header `{header}`: no header value"))?;
            map.append(name, value);
        }
        let authority = match map.get(http::header::HOST) {
            Some(host) => host.to_str().unwrap_or_default().to_owned(),
            None => authority.to_owned(),
        };
        let port = if scheme == Scheme::Https { 443 } else { 80 };
        Ok(Question { method, scheme, authority, target: target.to_owned(), headers: map, port })
    }

    /// Reads `method=GET&url=…&header=Name:value`.
    pub(super) fn from_query(query: &str) -> Result<Self, String> {
        let (mut method, mut url, mut headers) = ("GET".to_owned(), None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            match key {
                "method" => method = value,
                "url" => url = Some(value),
                "header" => headers.push(value),
                _ => return Err(format!("unknown parameter `{key}`; known are method, url and header")),
            }
        }
        let url =
            url.ok_or("parameter `url` is missing: /explain?method=GET&url=http://HOST/PATH&header=Name:value")?;
        Question::new(&method, &url, &headers)
    }
}

/// Percent-decoding of a query value; `+` is a blank.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escape = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers a question from a table.
pub fn explain(table: &Table, settings: &Settings, question: &Question) -> Explanation {
    let nobody = ([127, 0, 0, 1], 0).into();
    let connection = Connection {
        port: match (settings.public_ports, question.scheme) {
            (Some(ports), Scheme::Http) => ports.http,
            (Some(ports), Scheme::Https) => ports.https,
            (None, _) => question.port,
        },
        https_port: settings.public_ports.map_or(443, |ports| ports.https),
        ..Connection::new(question.scheme, nobody, nobody)
    };
    let target = if question.target.is_empty() { "/" } else { &question.target };
    let head = RequestHead {
        method: &question.method,
        target: target.as_bytes(),
        hosts: Hosts::One(question.authority.as_bytes()),
        http10: false,
        headers: &question.headers,
        connection: &connection,
    };
    let mut answer = Explanation {
        reason: crate::phase::Reason::Upstream.as_str(),
        status: None,
        location: None,
        tls_passthrough: false,
        ingress: None,
        host: None,
        path: None,
        path_type: None,
        is_default: false,
        backend: None,
        endpoints: Vec::new(),
        policy: Vec::new(),
        lost: Vec::new(),
        upstream: None,
        version: table.version.to_string(),
    };
    let canonical = match canonical::canonicalise(&head) {
        Ok(canonical) => canonical,
        Err(refused) => {
            (answer.reason, answer.status) = (refused.reason.as_str(), Some(refused.reason.status()));
            return answer;
        }
    };
    if question.scheme == Scheme::Https
        && let Some(route) = table.passthrough(canonical.host.as_str())
    {
        answer.tls_passthrough = true;
        describe(&mut answer, route);
        if let Target::Backend(key) = &route.target {
            answer.endpoints = table.backend(key).map(|backend| table::endpoints(backend)).unwrap_or_default();
        }
        return answer;
    }
    if admit::is_health_request(settings.traffic_health_path.as_deref(), &canonical) {
        let reason = crate::phase::Reason::Healthy;
        (answer.reason, answer.status) = (reason.as_str(), Some(reason.status()));
        return answer;
    }
    let (route, verdict) = admit::admit(table, &head, &canonical);
    if let Some(route) = &route {
        describe(&mut answer, route);
        answer.lost = lost(table, &canonical, route);
    }
    match verdict {
        Verdict::Reply(reply) => {
            (answer.reason, answer.status) = (reply.reason.as_str(), Some(reply.reason.status()));
            answer.location = reply.location;
        }
        Verdict::Forward(backend) => {
            answer.endpoints = table::endpoints(&backend);
            answer.upstream = Some(upstream(&head, &canonical));
        }
    }
    answer
}

fn describe(answer: &mut Explanation, route: &Route) {
    answer.ingress = route.ingress.as_ref().map(|key| json!({"namespace": key.namespace, "name": key.name}));
    answer.host = Some(route.host.to_string());
    answer.path = Some(route.path.to_string());
    answer.path_type = Some(route.path_type.to_string());
    answer.is_default = route.is_default;
    answer.backend = match &route.target {
        Target::Backend(key) => {
            Some(json!({"namespace": key.service.namespace, "service": key.service.name, "port": key.port}))
        }
        Target::Content(key) => Some(json!({"namespace": key.namespace, "configMap": key.name})),
        Target::Refused(_) => None,
    };
    let source = |name: &str| match route.policy.set_by.get(name) {
        Some(SetBy::Annotation) => "annotation of the Ingress".to_owned(),
        Some(SetBy::Class) => format!("spec.parameters of class {}", route.class),
        Some(SetBy::ConfigMap) => "ConfigMap of the settings (configmap)".to_owned(),
        None => "configuration file or default".to_owned(),
    };
    let shown = |setting: &Setting| {
        let value = setting.show(&route.policy);
        // What nothing is said about is the gateway's own setting.
        (!value.is_null()).then(|| json!({"name": setting.name, "source": source(setting.name), "value": value}))
    };
    answer.policy = setting::ALL.iter().filter_map(shown).collect();
}

fn lost(table: &Table, canonical: &Canonical, route: &Route) -> Vec<Value> {
    let Some(entry) = table.host(canonical.host.as_str()) else { return Vec::new() };
    let same = |lost: &&sluicegate_snapshot::model::Lost| {
        sluicegate_snapshot::model::match_path(&lost.path, lost.path_type) == route.match_path()
            && lost.path_type.is_prefix() == route.path_type.is_prefix()
    };
    let why = |lost: &sluicegate_snapshot::model::Lost| {
        let why = format!(
            "{}{} ({}) belongs to {}, which is older or sorts last",
            route.host, lost.path, lost.path_type, lost.winner
        );
        json!({"ingress": lost.ingress.to_string(), "why": why})
    };
    entry.source.lost.iter().filter(same).map(why).collect()
}

fn upstream(head: &RequestHead<'_>, canonical: &Canonical) -> Value {
    let host = match head.hosts {
        Hosts::One(host) => host,
        Hosts::None | Hosts::Many => b"",
    };
    let edits =
        forward::edits(head, &Forwarding { client: head.connection.peer, request_id: "(made per request)", host });
    let mut headers = head.headers.clone();
    if let Ok(host) = HeaderValue::from_bytes(host) {
        headers.insert(http::header::HOST, host);
    }
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in edits.set {
        headers.insert(name, value);
    }
    let fields: Vec<Value> =
        headers.iter().map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])).collect();
    json!({"target": String::from_utf8_lossy(&canonical.target()), "headers": fields})
}
