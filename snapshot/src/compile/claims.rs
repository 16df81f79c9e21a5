//! Claims: what one Ingress of ours asks for, judged alone. Who wins a contested claim is [`super::host`]'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::class::Membership;
use super::store::Store;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::{BackendFacts, CANARY, CertificateFacts, IngressFacts, NGINX_PREFIX, PathFacts, TlsFacts};
use crate::key::{
    BackendKey, HostPattern, Kind, ObjectKey, ObjectRef, ServicePort, is_object_name, is_port_name, parent_of,
};
use crate::model::{PathType, Policy, Refusal, Route, SetBy, Target, match_path};
use crate::path;
use crate::setting;

/// A path of a rule, ready to compete for its host.
#[derive(Debug, Clone, PartialEq)]
pub struct PathClaim {
    /// The route, should it win.
    pub route: Arc<Route>,
    /// Where it stands, for messages.
    pub field: Arc<str>,
}

/// How strong a claim to a server name is, strongest first. The names in a certificate are the weakest: whoever can get a
/// certificate for a name must not take it away from the Ingress that serves the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsRank {
    /// The Ingress has a rule for the host.
    Rule,
    /// It lists the host in `tls[].hosts`.
    Listed,
    /// A certificate of an entry without `hosts` names it.
    OwnName,
}

/// A certificate that a server name is claimed with.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsClaim {
    /// The Secret; none asks for the default certificate.
    pub secret: Option<ObjectKey>,
    /// TLS goes to the backend of this route as it is.
    pub passthrough: Option<Arc<Route>>,
    /// How strong the claim is.
    pub rank: TlsRank,
    /// Where it stands, for messages.
    pub field: Arc<str>,
}

/// Something that the Ingress names and that may be missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A Service port.
    Backend(BackendKey),
    /// A ConfigMap to serve.
    Content(ObjectKey),
    /// A Secret with a certificate.
    Secret(ObjectKey),
}

/// All claims of one Ingress.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// The Ingress.
    pub ingress: ObjectKey,
    /// Its age.
    pub created: i64,
    /// Paths of its rules by host, in order; a host whose rules have no paths has an empty list.
    pub hosts: BTreeMap<HostPattern, Vec<PathClaim>>,
    /// `defaultBackend` of an Ingress with rules, for each of its hosts.
    pub host_default: Option<BackendFacts>,
    /// `defaultBackend` of an Ingress without rules.
    pub catch_all: Option<Arc<Route>>,
    /// Server names, each with the certificates it is claimed with, in order.
    pub tls: BTreeMap<HostPattern, Vec<TlsClaim>>,
    /// What it names, with the field that names it.
    pub references: Vec<(Reference, Arc<str>)>,
    /// What is wrong with it, looked at alone.
    pub diagnostics: Vec<Diagnostic>,
    class: Arc<str>,
    policy: Policy,
    /// An access rule cannot be kept, so no request goes anywhere.
    locked: bool,
    /// Hosts whose TLS is ended by the backend of a route.
    pub(super) passes: BTreeMap<HostPattern, Arc<Route>>,
}

impl Claims {
    /// Name of its class; empty where it has none.
    pub fn class(&self) -> &Arc<str> {
        &self.class
    }

    /// Judges an Ingress. `None` where it is not ours; then nothing but the diagnostics remains of it.
    pub fn of(ingress: &IngressFacts, membership: &Membership, store: &Store) -> (Option<Claims>, Vec<Diagnostic>) {
        let object = ObjectRef::new(Kind::Ingress, &ingress.key);
        let (class, settings) = match membership {
            Membership::Ours { class, settings } => (class, settings),
            Membership::Foreign => return (None, Vec::new()),
            Membership::Unknown => {
                let name = ingress.class_name.as_deref().unwrap_or_default();
                let message = format!(
                    "IngressClass {name} does not exist; the Ingress is not served. Create the class or name another"
                );
                let field = "spec.ingressClassName";
                return (None, vec![Diagnostic::new(object, DiagnosticReason::UnknownClass, field, message)]);
            }
        };
        let mut claims = Claims {
            ingress: ingress.key.clone(),
            created: ingress.created,
            hosts: BTreeMap::new(),
            host_default: None,
            catch_all: None,
            tls: BTreeMap::new(),
            references: Vec::new(),
            diagnostics: Vec::new(),
            class: class.clone(),
            policy: Policy::default(),
            locked: false,
            passes: BTreeMap::new(),
        };
        claims.read_policy(ingress, settings, &object);
        claims.read_unsupported(ingress, &object);
        if ingress.canary {
            let message =
                "canaries are not supported yet: the Ingress takes no request, and all go where they went before it";
            let field = format!("metadata.annotations[{CANARY}]");
            claims.report(&object, DiagnosticReason::CanaryUnsupported, field, message);
            return (Some(claims), Vec::new());
        }
        claims.read_rules(ingress, &object);
        claims.read_default(ingress, &object);
        claims.read_passthrough(ingress, &object);
        claims.read_tls(ingress, store, &object);
        (Some(claims), Vec::new())
    }

    /// The route of `defaultBackend` for one of the hosts.
    pub fn default_for(&self, host: &HostPattern) -> Option<Arc<Route>> {
        let backend = self.host_default.as_ref()?;
        Some(Arc::new(self.default_route(host.clone(), target(&self.ingress.namespace, backend))))
    }

    /// What its routes do besides choosing a backend.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether a host gets the same from these claims as from `other`, a later form of the same Ingress.
    pub fn same_for(&self, other: &Claims, host: &HostPattern) -> bool {
        self.created == other.created
            && self.hosts.get(host) == other.hosts.get(host)
            && self.host_default == other.host_default
            && self.class == other.class
            && self.policy == other.policy
            && self.locked == other.locked
    }

    pub(super) fn report(
        &mut self,
        object: &ObjectRef,
        reason: DiagnosticReason,
        field: impl Into<Arc<str>>,
        message: impl Into<Arc<str>>,
    ) {
        self.diagnostics.push(Diagnostic::new(object.clone(), reason, field, message));
    }

    fn read_policy(&mut self, ingress: &IngressFacts, settings: &Policy, object: &ObjectRef) {
        self.policy = settings.clone();
        for setting in &setting::ALL {
            let Some(name) = setting.annotation else { continue };
            let Some((_, value)) = ingress.settings.iter().find(|(annotation, _)| *annotation == name) else {
                continue;
            };
            if setting.set(&mut self.policy, value, SetBy::Annotation).is_none() {
                let message = format!("expected {}; the class' setting is used", setting.expected);
                self.report(
                    object,
                    DiagnosticReason::AnnotationInvalid,
                    format!("metadata.annotations[{name}]"),
                    message,
                );
            }
        }
    }

    /// Annotations of ingress-nginx that are not read. Most do nothing, which is said; without those that keep somebody out
    /// the routes would be open to everybody, so they are closed.
    fn read_unsupported(&mut self, ingress: &IngressFacts, object: &ObjectRef) {
        for annotation in &ingress.unread_annotations {
            let field = format!("metadata.annotations[{NGINX_PREFIX}{}]", annotation.name);
            if annotation.is_access_rule {
                self.locked = true;
                let message = "is not supported, and without it the routes would be open to everybody; requests are answered with 503. Remove it to serve them without";
                self.report(object, DiagnosticReason::AccessRuleUnsupported, field, message);
            } else {
                let message = "is not supported; it does nothing";
                self.report(object, DiagnosticReason::AnnotationUnsupported, field, message);
            }
        }
    }

    fn read_rules(&mut self, ingress: &IngressFacts, object: &ObjectRef) {
        let mut seen = HashMap::new();
        for (rule_index, rule) in ingress.rules.iter().enumerate() {
            let host = match HostPattern::parse(&rule.host) {
                Ok(host) => host,
                Err(error) => {
                    let message = format!("host `{}`: {error}; the rule is skipped", rule.host.escape_debug());
                    self.report(
                        object,
                        DiagnosticReason::InvalidHost,
                        format!("spec.rules[{rule_index}].host"),
                        message,
                    );
                    continue;
                }
            };
            self.hosts.entry(host.clone()).or_default();
            for (path_index, path) in rule.paths.iter().enumerate() {
                let field = format!("spec.rules[{rule_index}].http.paths[{path_index}]");
                self.read_path(&host, path, &field.into(), &mut seen, object);
            }
        }
    }

    /// Reads one path. `seen`: the field in which each host, kind of match and path of this Ingress stood first.
    fn read_path(
        &mut self,
        host: &HostPattern,
        facts: &PathFacts,
        field: &Arc<str>,
        seen: &mut HashMap<(HostPattern, bool, String), Arc<str>>,
        object: &ObjectRef,
    ) {
        let path_type = match &*facts.path_type {
            "Exact" => PathType::Exact,
            "Prefix" => PathType::Prefix,
            "ImplementationSpecific" => PathType::ImplementationSpecific,
            other => {
                let other = other.escape_debug();
                let message = format!(
                    "pathType `{other}`: expected Exact, Prefix or ImplementationSpecific; the path is skipped"
                );
                return self.report(object, DiagnosticReason::InvalidPathType, format!("{field}.pathType"), message);
            }
        };
        let raw = match facts.path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => path,
            None if path_type == PathType::ImplementationSpecific => "/",
            None => {
                let message = format!("pathType {path_type} needs a path; the path is skipped");
                return self.report(object, DiagnosticReason::InvalidPath, format!("{field}.path"), message);
            }
        };
        let path: Arc<str> = match path::normalise_rule(raw) {
            Ok(path) => Arc::from(&*path),
            Err(error) => {
                let shown: String = raw.chars().take(200).collect();
                let message = format!("path `{}` {}; the path is skipped", shown.escape_debug(), error.as_str());
                return self.report(object, DiagnosticReason::InvalidPath, format!("{field}.path"), message);
            }
        };
        let identity = (host.clone(), path_type.is_prefix(), match_path(&path, path_type).to_owned());
        if let Some(first) = seen.get(&identity) {
            let message = format!("the same host, path and type stand in {first}, which counts");
            return self.report(object, DiagnosticReason::DuplicatePath, format!("{field}.path"), message);
        }
        seen.insert(identity, field.clone());
        let target = self.read_backend(&facts.backend, &format!("{field}.backend"), object);
        let route = Route { path, path_type, is_default: false, ..self.default_route(host.clone(), target) };
        let claim = PathClaim { route: Arc::new(route), field: field.clone() };
        self.hosts.entry(host.clone()).or_default().push(claim);
    }

    fn default_route(&self, host: HostPattern, target: Target) -> Route {
        Route {
            ingress: Some(self.ingress.clone()),
            class: self.class.clone(),
            host,
            path: Arc::from("/"),
            path_type: PathType::Prefix,
            is_default: true,
            target: if self.locked { Target::Refused(Refusal::AccessRuleUnsupported) } else { target },
            policy: self.policy.clone(),
        }
    }

    fn read_default(&mut self, ingress: &IngressFacts, object: &ObjectRef) {
        match (&ingress.default_backend, ingress.rules.is_empty()) {
            (None, true) => {
                let message = "neither rules nor a defaultBackend: the Ingress takes no request";
                self.report(object, DiagnosticReason::NoRules, "spec", message);
            }
            (None, false) => {}
            (Some(backend), has_no_rules) => {
                let target = self.read_backend(backend, "spec.defaultBackend", object);
                if has_no_rules {
                    self.catch_all = Some(Arc::new(self.default_route(HostPattern::Any, target)));
                } else {
                    self.host_default = Some(backend.clone());
                }
            }
        }
    }

    /// The target of a backend; notes what it names and reports what cannot be followed.
    fn read_backend(&mut self, backend: &BackendFacts, field: &str, object: &ObjectRef) -> Target {
        let target = target(&self.ingress.namespace, backend);
        let refused = |refusal: Refusal| match refusal {
            Refusal::BackendAmbiguous => (
                DiagnosticReason::BackendAmbiguous,
                "names both a service and a resource; requests are answered with 503. Remove one",
            ),
            Refusal::ResourceUnsupported => (
                DiagnosticReason::ResourceUnsupported,
                "only resources of kind ConfigMap (core group) are served; requests are answered with 503",
            ),
            Refusal::BackendMissing => (
                DiagnosticReason::BackendMissing,
                "names neither a service nor a resource; requests are answered with 503",
            ),
            Refusal::BackendInvalid | Refusal::AccessRuleUnsupported | Refusal::Unknown => (
                DiagnosticReason::BackendInvalid,
                "needs the name of an object (a lower-case DNS name) and, for a service, exactly one of port.name (a lower-case name with at least one letter) and port.number (1 to 65535); requests are answered with 503",
            ),
        };
        match &target {
            Target::Backend(key) => self.references.push((Reference::Backend(key.clone()), field.into())),
            Target::Content(key) => self.references.push((Reference::Content(key.clone()), field.into())),
            Target::Refused(refusal) => {
                let (reason, message) = refused(*refusal);
                self.report(object, reason, field, message);
            }
        }
        target
    }

    fn read_tls(&mut self, ingress: &IngressFacts, store: &Store, object: &ObjectRef) {
        let mut entries = Vec::new();
        for (index, tls) in ingress.tls.iter().enumerate() {
            let field: Arc<str> = format!("spec.tls[{index}]").into();
            let secret = self.read_secret(tls, &field, object);
            for (host_index, host) in tls.hosts.iter().enumerate() {
                match HostPattern::parse(host) {
                    Ok(HostPattern::Any) => self.report(
                        object,
                        DiagnosticReason::InvalidHost,
                        format!("{field}.hosts[{host_index}]"),
                        "is empty; it is skipped. Leave hosts out to use the certificate for all of its names",
                    ),
                    Ok(host) => {
                        let rank = if self.hosts.contains_key(&host) { TlsRank::Rule } else { TlsRank::Listed };
                        self.claim(host, secret.clone(), tls.secret.is_none(), rank, &field);
                    }
                    Err(error) => {
                        let message = format!("host `{}`: {error}; the host is skipped", host.escape_debug());
                        let field = format!("{field}.hosts[{host_index}]");
                        self.report(object, DiagnosticReason::InvalidHost, field, message);
                    }
                }
            }
            entries.push(Entry::new(tls, secret, field, store));
        }
        if !entries.is_empty() {
            self.claim_rule_hosts(&entries, object);
            self.claim_own_names(&entries);
        }
    }

    /// The Secret of an entry; `None` where it names none, or one that cannot exist.
    fn read_secret(&mut self, tls: &TlsFacts, field: &str, object: &ObjectRef) -> Option<ObjectKey> {
        let name = tls.secret.as_ref()?;
        let field = format!("{field}.secretName");
        if !is_object_name(name) {
            let message = format!(
                "`{}` is no name that a Secret can have; the default certificate is served",
                name.escape_debug()
            );
            self.report(object, DiagnosticReason::SecretNotFound, field, message);
            return None;
        }
        let secret = ObjectKey::new(self.ingress.namespace.clone(), name.clone());
        self.references.push((Reference::Secret(secret.clone()), field.into()));
        Some(secret)
    }

    /// `bare`: an entry without `secretName` says so.
    fn claim(&mut self, host: HostPattern, secret: Option<ObjectKey>, bare: bool, rank: TlsRank, field: &Arc<str>) {
        let passthrough = self.passes.get(&host).filter(|_| bare).cloned();
        self.tls.entry(host).or_default().push(TlsClaim { secret, passthrough, rank, field: field.clone() });
    }

    /// Hosts of rules that no `hosts` lists get the first Secret of this Ingress that covers them, else the default
    /// certificate (ingress-nginx: extractTLSSecretName). Secrets that are bad now are claimed as well: a gateway may hold
    /// the last good form of one, and that one may cover the host.
    fn claim_rule_hosts(&mut self, entries: &[Entry], object: &ObjectRef) {
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for name in entry.certificate.iter().flat_map(|certificate| &certificate.names) {
                by_name.entry(name).or_insert(index);
            }
        }
        let unlisted: Vec<HostPattern> = self
            .hosts
            .keys()
            .filter(|host| **host != HostPattern::Any && !self.tls.contains_key(host))
            .cloned()
            .collect();
        for host in unlisted {
            let text = host.to_string();
            let wildcard = parent_of(&text).map(|parent| format!("*.{parent}"));
            let exact = by_name.get(text.as_str());
            let covering = exact.into_iter().chain(wildcard.and_then(|name| by_name.get(name.as_str()))).min();
            if let Some(entry) = covering.map(|index| &entries[*index]) {
                self.claim(host, entry.secret.clone(), entry.bare, TlsRank::Rule, &entry.field);
                continue;
            }
            let candidates: Vec<&Entry> = entries.iter().filter(|entry| entry.bad || entry.is_open()).collect();
            // An entry with neither hosts nor a Secret asks for the default certificate.
            let asks_default = entries.iter().find(|entry| entry.open && entry.secret.is_none());
            if let Some(entry) = asks_default.filter(|_| candidates.is_empty()) {
                self.claim(host.clone(), None, entry.bare, TlsRank::Rule, &entry.field);
            } else if candidates.is_empty() {
                let message = format!(
                    "no entry is for host {host} of the rules, and no certificate of this Ingress names it; the default certificate is served there"
                );
                self.report(object, DiagnosticReason::HostWithoutCertificate, "spec.tls", message);
                self.claim(host.clone(), None, false, TlsRank::Rule, &Arc::from("spec.tls"));
            }
            for entry in candidates {
                self.claim(host.clone(), entry.secret.clone(), false, TlsRank::Rule, &entry.field);
            }
        }
    }

    /// The names of a certificate whose entry has no `hosts` at all.
    fn claim_own_names(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.is_open()) {
            let names = entry.certificate.iter().flat_map(|certificate| &certificate.names);
            for host in names.filter_map(|name| HostPattern::parse(name).ok()) {
                if host != HostPattern::Any && !self.tls.contains_key(&host) {
                    self.claim(host, entry.secret.clone(), false, TlsRank::OwnName, &entry.field);
                }
            }
        }
    }
}

/// An element of `spec.tls` with what its Secret holds now.
struct Entry {
    secret: Option<ObjectKey>,
    /// It has no `hosts`.
    open: bool,
    /// It has no `secretName`.
    bare: bool,
    field: Arc<str>,
    certificate: Option<CertificateFacts>,
    /// The Secret exists and gives no certificate.
    bad: bool,
}

impl Entry {
    fn new(tls: &TlsFacts, secret: Option<ObjectKey>, field: Arc<str>, store: &Store) -> Self {
        let (open, bare) = (tls.hosts.is_empty(), tls.secret.is_none());
        let facts = secret.as_ref().and_then(|key| store.secrets.get(key));
        let certificate = facts.and_then(|facts| facts.certificate.as_ref().ok()).cloned();
        Entry { bad: facts.is_some() && certificate.is_none(), secret, open, bare, field, certificate }
    }

    /// For every name of its certificate, and every host of the rules.
    fn is_open(&self) -> bool {
        self.open && self.secret.is_some()
    }
}

/// Where a backend leads, judged alone.
fn target(namespace: &Arc<str>, backend: &BackendFacts) -> Target {
    match backend {
        BackendFacts::Ambiguous => Target::Refused(Refusal::BackendAmbiguous),
        BackendFacts::Missing => Target::Refused(Refusal::BackendMissing),
        BackendFacts::Resource { api_group: None, kind, name } if &**kind == "ConfigMap" => {
            if is_object_name(name) {
                Target::Content(ObjectKey::new(namespace.clone(), name.clone()))
            } else {
                Target::Refused(Refusal::BackendInvalid)
            }
        }
        BackendFacts::Resource { .. } => Target::Refused(Refusal::ResourceUnsupported),
        BackendFacts::Service { name, port_name, port_number } => {
            let port = match (port_name, port_number) {
                (Some(name), None) => is_port_name(name).then(|| ServicePort::Name(name.clone())),
                (None, Some(number)) => u16::try_from(*number).ok().filter(|port| *port != 0).map(ServicePort::Number),
                _ => None,
            };
            match port {
                Some(port) if is_object_name(name) => {
                    Target::Backend(BackendKey { service: ObjectKey::new(namespace.clone(), name.clone()), port })
                }
                _ => Target::Refused(Refusal::BackendInvalid),
            }
        }
    }
}
