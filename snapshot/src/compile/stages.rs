//! The later stages: resources that somebody names, hosts, server names, and what exists once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::claims::Claims;
use super::{Dirty, Origin, World, backend, content, host, owner, references, tls};
use crate::key::{HostPattern, Kind, ObjectRef};
use crate::model::{Delta, Globals, PathType, Resource, Route, Target};

impl World {
    /// Backends, contents and certificates: those that somebody names exist, the others do not.
    pub(super) fn recompute_resources(&mut self, dirty: &mut Dirty, delta: &mut Delta) {
        for key in &dirty.backends {
            let used = self.by_backend.contains(key) || self.settings.default_backend.as_ref() == Some(key);
            let new = used.then(|| backend::build(key, &self.store, &self.settings, self.reach.as_deref()));
            let old = self.snapshot.backends.get(key);
            if old != new.as_ref() {
                // Other endpoints are no news to those who name the backend.
                if old.map(references::trouble) != new.as_ref().map(references::trouble) {
                    dirty.references.extend(self.by_backend.of(key).cloned());
                }
                delta.backends.insert(key.clone(), new);
            }
        }
        for key in &dirty.contents {
            let config_map = self.store.config_maps.get(key).filter(|_| self.by_content.contains(key));
            let unknown = || self.store.unknown(Kind::ConfigMap, key).filter(|_| self.by_content.contains(key));
            let new = config_map
                .map(|config_map| content::build(config_map, self.settings.mode))
                .or_else(|| unknown().map(|unknown| unknown.resource()));
            if self.snapshot.contents.get(key) != new.as_ref() {
                dirty.references.extend(self.by_content.of(key).cloned());
                delta.contents.insert(key.clone(), new);
            }
        }
        for key in &dirty.certificates {
            let used = self.by_secret.contains(key) || self.settings.default_certificate.as_ref() == Some(key);
            let known = self.store.secrets.get(key).filter(|_| used).map(|secret| match &secret.certificate {
                Ok(certificate) => Resource::Valid(certificate.clone()),
                Err(problem) => Resource::invalid(problem.reason()),
            });
            let unknown = || self.store.unknown(Kind::Secret, key).filter(|_| used);
            let new = known.or_else(|| unknown().map(|unknown| unknown.resource()));
            if self.snapshot.certificates.get(key) != new.as_ref() {
                delta.certificates.insert(key.clone(), new);
            }
        }
    }

    pub(super) fn recompute_host(
        &mut self,
        host: &HostPattern,
        delta: &mut Delta,
        diagnosed: &mut BTreeSet<ObjectRef>,
    ) {
        let title = self.title(host);
        let (claims, refused) = self.divide(&title, host, self.ranked(self.by_host.of(host)));
        let (mut new, mut diagnostics) = match claims.is_empty() {
            true => (Self::keep(&title, host), Vec::new()),
            false => {
                let (mut built, diagnostics) = host::build(host, &claims);
                built.owner = Self::owner(&title, host);
                (Some(built), diagnostics)
            }
        };
        diagnostics.extend(owner::refuse_rules(host, &title, &refused, new.as_mut()));
        self.diagnose(Origin::Host(host.clone()), diagnostics, diagnosed);
        if self.snapshot.hosts.get(host).map(|old| &**old) != new.as_ref() {
            delta.hosts.insert(host.clone(), new.map(Arc::new));
        }
    }

    pub(super) fn recompute_tls_host(
        &mut self,
        host: &HostPattern,
        delta: &mut Delta,
        diagnosed: &mut BTreeSet<ObjectRef>,
    ) {
        let title = self.title(host);
        let (claims, refused) = self.divide(&title, host, self.ranked(self.by_tls_host.of(host)));
        let (new, mut diagnostics) = match claims.is_empty() {
            true => (self.shield(&title, host), Vec::new()),
            false => {
                let (rulers, _) = self.divide(&title, host, self.ranked(self.by_host.of(host)));
                let ruler = rulers.first().map(|claims| &claims.ingress);
                let (built, diagnostics) = tls::build(host, &claims, &self.store, self.is_ruled(&title, host), ruler);
                (Some(built), diagnostics)
            }
        };
        diagnostics.extend(owner::refuse_certificates(host, &title, &refused));
        self.diagnose(Origin::TlsHost(host.clone()), diagnostics, diagnosed);
        if self.snapshot.tls_hosts.get(host).map(|old| &**old) != new.as_ref() {
            delta.tls_hosts.insert(host.clone(), new.map(Arc::new));
        }
    }

    pub(super) fn recompute_globals(&mut self, diagnosed: &mut BTreeSet<ObjectRef>) -> Globals {
        let title = self.title(&HostPattern::Any);
        let (catch_alls, refused) = self.divide(&title, &HostPattern::Any, self.ranked(self.catch_alls.iter()));
        let catch_all = catch_alls.first().and_then(|claims| claims.catch_all.clone());
        let losers = catch_alls.iter().skip(1);
        let conflict = |loser: &&Arc<Claims>| host::default_conflict(loser, catch_all.as_deref()?, "of all hosts");
        let refused = refused.iter().map(|claims| owner::refuse_catch_all(&title, claims));
        let diagnostics = losers.filter_map(conflict).chain(refused).collect();
        self.diagnose(Origin::CatchAlls, diagnostics, diagnosed);
        let policy = self.classes.global.clone();
        let default_backend = self.settings.default_backend.as_ref().map(|key| {
            Arc::new(Route {
                ingress: None,
                class: Arc::from(""),
                host: HostPattern::Any,
                path: Arc::from("/"),
                path_type: PathType::Prefix,
                is_default: true,
                target: Target::Backend(key.clone()),
                policy: policy.clone(),
            })
        });
        Globals {
            catch_all,
            default_backend,
            default_certificate: self.settings.default_certificate.clone(),
            policy,
            reach: self.reach.clone(),
        }
    }
}
