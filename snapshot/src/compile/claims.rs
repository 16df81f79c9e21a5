//! Claims: what one Ingress of ours asks for, judged alone. Who wins a contested claim is [`super::host`]'s.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::class::Membership;
use super::store::Store;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::{BackendFacts, IngressFacts, PathFacts};
use crate::key::{BackendKey, HostPattern, Kind, ObjectKey, ObjectRef, ServicePort};
use crate::model::{PathType, Policy, Refusal, Route, Target, match_path};
use crate::path;
use crate::settings::ClassSettings;

/// A path of a rule, ready to compete for its host.
#[derive(Debug, Clone, PartialEq)]
pub struct PathClaim {
    /// The route, should it win.
    pub route: Arc<Route>,
    /// Where it stands, for messages.
    pub field: Arc<str>,
}

/// A server name that wants a certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsClaim {
    /// The server name.
    pub host: HostPattern,
    /// The Secret; none asks for the default certificate.
    pub secret: Option<ObjectKey>,
    /// Where it stands, for messages.
    pub field: Arc<str>,
}

/// Something that the Ingress names and that may be missing.
#[derive(Debug, Clone, PartialEq)]
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
    /// Hosts of its rules, also of rules without paths.
    pub hosts: BTreeSet<HostPattern>,
    /// Paths of its rules, in order.
    pub paths: Vec<PathClaim>,
    /// `defaultBackend` of an Ingress with rules, for each of its hosts.
    pub host_default: Option<BackendFacts>,
    /// `defaultBackend` of an Ingress without rules.
    pub catch_all: Option<Arc<Route>>,
    /// Server names.
    pub tls: Vec<TlsClaim>,
    /// What it names, with the field that names it.
    pub references: Vec<(Reference, Arc<str>)>,
    /// What is wrong with it, looked at alone.
    pub diagnostics: Vec<Diagnostic>,
    class: Arc<str>,
    policy: Policy,
}

impl Claims {
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
            hosts: BTreeSet::new(),
            paths: Vec::new(),
            host_default: None,
            catch_all: None,
            tls: Vec::new(),
            references: Vec::new(),
            diagnostics: Vec::new(),
            class: class.clone(),
            policy: Policy::default(),
        };
        claims.read_policy(ingress, settings, &object);
        claims.read_rules(ingress, &object);
        claims.read_default(ingress, &object);
        claims.read_tls(ingress, store, &object);
        (Some(claims), Vec::new())
    }

    /// The route of `defaultBackend` for one of the hosts.
    pub fn default_for(&self, host: &HostPattern) -> Option<Arc<Route>> {
        let backend = self.host_default.as_ref()?;
        Some(Arc::new(self.default_route(host.clone(), target(&self.ingress.namespace, backend))))
    }

    fn report(
        &mut self,
        object: &ObjectRef,
        reason: DiagnosticReason,
        field: impl Into<Arc<str>>,
        message: impl Into<Arc<str>>,
    ) {
        self.diagnostics.push(Diagnostic::new(object.clone(), reason, field, message));
    }

    fn read_policy(&mut self, ingress: &IngressFacts, settings: &ClassSettings, object: &ObjectRef) {
        use crate::facts::SslRedirect;
        self.policy.reject_encoded_slashes = settings.reject_encoded_slashes;
        self.policy.ssl_redirect = match ingress.ssl_redirect {
            SslRedirect::Set(value) => value,
            SslRedirect::Unset => settings.ssl_redirect,
            SslRedirect::Unreadable => {
                let field = "metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirect]";
                let message = "expected \"true\" or \"false\"; the class' setting is used";
                self.report(object, DiagnosticReason::AnnotationInvalid, field, message);
                settings.ssl_redirect
            }
        };
    }

    fn read_rules(&mut self, ingress: &IngressFacts, object: &ObjectRef) {
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
            self.hosts.insert(host.clone());
            for (path_index, path) in rule.paths.iter().enumerate() {
                let field = format!("spec.rules[{rule_index}].http.paths[{path_index}]");
                self.read_path(&host, path, &field, object);
            }
        }
    }

    fn read_path(&mut self, host: &HostPattern, facts: &PathFacts, field: &str, object: &ObjectRef) {
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
        let path: Arc<str> = match path::normalise(raw.as_bytes()) {
            Ok(path) => Arc::from(&*path),
            Err(error) => {
                let message = format!("path `{}` {}; the path is skipped", raw.escape_debug(), error.as_str());
                return self.report(object, DiagnosticReason::InvalidPath, format!("{field}.path"), message);
            }
        };
        let target = self.read_backend(&facts.backend, &format!("{field}.backend"), object);
        let same = |claim: &PathClaim| {
            claim.route.host == *host
                && claim.route.path_type.is_prefix() == path_type.is_prefix()
                && claim.route.match_path() == match_path(&path, path_type)
        };
        if let Some(first) = self.paths.iter().find(|claim| same(claim)) {
            let message = format!("the same host, path and type stand in {}, which counts", first.field);
            return self.report(object, DiagnosticReason::DuplicatePath, format!("{field}.path"), message);
        }
        let route = Route {
            target,
            path,
            path_type,
            is_default: false,
            ..self.default_route(host.clone(), Target::Refused(Refusal::BackendMissing))
        };
        self.paths.push(PathClaim { route: Arc::new(route), field: field.into() });
    }

    fn default_route(&self, host: HostPattern, target: Target) -> Route {
        Route {
            ingress: Some(self.ingress.clone()),
            class: self.class.clone(),
            host,
            path: Arc::from("/"),
            path_type: PathType::Prefix,
            is_default: true,
            target,
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
            Refusal::BackendInvalid | Refusal::Unknown => (
                DiagnosticReason::BackendMissing,
                "needs service.name and exactly one of port.name and port.number (1 to 65535); requests are answered with 503",
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
        let mut listed = BTreeSet::new();
        for (index, tls) in ingress.tls.iter().enumerate() {
            let secret = tls.secret.as_ref().map(|name| ObjectKey::new(self.ingress.namespace.clone(), name.clone()));
            let field: Arc<str> = format!("spec.tls[{index}]").into();
            if let Some(secret) = &secret {
                self.references.push((Reference::Secret(secret.clone()), format!("{field}.secretName").into()));
            }
            for (host_index, host) in tls.hosts.iter().enumerate() {
                match HostPattern::parse(host) {
                    Ok(HostPattern::Any) => {}
                    Ok(host) => {
                        listed.insert(host.clone());
                        self.tls.push(TlsClaim { host, secret: secret.clone(), field: field.clone() });
                    }
                    Err(error) => {
                        let message = format!("host `{}`: {error}; the host is skipped", host.escape_debug());
                        self.report(
                            object,
                            DiagnosticReason::InvalidHost,
                            format!("{field}.hosts[{host_index}]"),
                            message,
                        );
                    }
                }
            }
        }
        if !ingress.tls.is_empty() {
            self.claim_unlisted(ingress, store, &listed);
        }
    }

    /// Server names that no `hosts` lists: those of the certificate where an entry has no `hosts` at all, and the hosts
    /// of the rules, which get the first Secret of this Ingress that covers them, else the default certificate
    /// (ingress-nginx: extractTLSSecretName).
    fn claim_unlisted(&mut self, ingress: &IngressFacts, store: &Store, listed: &BTreeSet<HostPattern>) {
        let certificate_of = |name: &Arc<str>| {
            let key = ObjectKey::new(self.ingress.namespace.clone(), name.clone());
            let certificate = store.secrets.get(&key)?.certificate.as_ref().ok()?;
            Some((key, certificate.clone()))
        };
        let mut claims = Vec::new();
        for host in self.hosts.iter().filter(|host| **host != HostPattern::Any && !listed.contains(host)) {
            let covering = ingress.tls.iter().enumerate().find_map(|(index, tls)| {
                let (key, certificate) = certificate_of(tls.secret.as_ref()?)?;
                certificate.covers(&host.to_string()).then_some((index, key))
            });
            let (index, secret) = match covering {
                Some((index, key)) => (index, Some(key)),
                // An entry without hosts is for every host of this Ingress, even while its Secret is missing or bad.
                None => {
                    let open = ingress.tls.iter().position(|tls| tls.hosts.is_empty() && tls.secret.is_some());
                    let secret = open.and_then(|index| ingress.tls[index].secret.clone());
                    (open.unwrap_or(0), secret.map(|name| ObjectKey::new(self.ingress.namespace.clone(), name)))
                }
            };
            claims.push(TlsClaim { host: host.clone(), secret, field: format!("spec.tls[{index}]").into() });
        }
        for (index, tls) in ingress.tls.iter().enumerate().filter(|(_, tls)| tls.hosts.is_empty()) {
            let Some((key, certificate)) = tls.secret.as_ref().and_then(certificate_of) else { continue };
            for host in certificate.names.iter().filter_map(|name| HostPattern::parse(name).ok()) {
                if host != HostPattern::Any && !self.hosts.contains(&host) && !listed.contains(&host) {
                    claims.push(TlsClaim {
                        host,
                        secret: Some(key.clone()),
                        field: format!("spec.tls[{index}]").into(),
                    });
                }
            }
        }
        self.tls.extend(claims);
    }
}

/// Where a backend leads, judged alone.
fn target(namespace: &Arc<str>, backend: &BackendFacts) -> Target {
    match backend {
        BackendFacts::Ambiguous => Target::Refused(Refusal::BackendAmbiguous),
        BackendFacts::Missing => Target::Refused(Refusal::BackendMissing),
        BackendFacts::Resource { api_group: None, kind, name } if &**kind == "ConfigMap" && !name.is_empty() => {
            Target::Content(ObjectKey::new(namespace.clone(), name.clone()))
        }
        BackendFacts::Resource { .. } => Target::Refused(Refusal::ResourceUnsupported),
        BackendFacts::Service { name, port_name, port_number } => {
            let port = match (port_name, port_number) {
                (Some(name), None) => Some(ServicePort::Name(name.clone())),
                (None, Some(number)) => u16::try_from(*number).ok().filter(|port| *port != 0).map(ServicePort::Number),
                _ => None,
            };
            match port {
                Some(port) if !name.is_empty() => {
                    Target::Backend(BackendKey { service: ObjectKey::new(namespace.clone(), name.clone()), port })
                }
                _ => Target::Refused(Refusal::BackendInvalid),
            }
        }
    }
}
