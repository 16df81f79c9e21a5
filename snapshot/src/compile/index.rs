//! The first stages: classes, and what each Ingress claims, with the indexes that lead from what is claimed back to who claims it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::claims::{Claims, Reference};
use super::class::{ClassRef, Classes};
use super::{Dirty, Origin, World};
use crate::key::{HostPattern, ObjectKey, ObjectRef};

impl World {
    pub(super) fn recompute_classes(&mut self, dirty: &mut Dirty, diagnosed: &mut BTreeSet<ObjectRef>) {
        let (classes, diagnostics) = Classes::build(&self.store, &self.settings);
        let old = std::mem::replace(&mut self.classes, classes);
        self.diagnose(Origin::Classes, diagnostics, diagnosed);
        if old.global != self.classes.global {
            dirty.globals = true;
            dirty.ingresses.extend(self.store.ingresses.keys().cloned());
            return;
        }
        let names: BTreeSet<&Arc<str>> = old.by_name.keys().chain(self.classes.by_name.keys()).collect();
        for name in names.into_iter().filter(|name| old.by_name.get(*name) != self.classes.by_name.get(*name)) {
            dirty.ingresses.extend(self.by_class.of(&ClassRef::Field(name.clone())).cloned());
            dirty.ingresses.extend(self.by_class.of(&ClassRef::Annotation(name.clone())).cloned());
            // It may be, or have been, the default class.
            dirty.ingresses.extend(self.by_class.of(&ClassRef::None).cloned());
        }
    }

    pub(super) fn recompute_claims(&mut self, key: &ObjectKey, dirty: &mut Dirty, diagnosed: &mut BTreeSet<ObjectRef>) {
        let facts = self.store.ingresses.get(key).cloned();
        self.index_class(key, facts.as_deref().map(ClassRef::of));
        let (mut new, mut diagnostics) = match &facts {
            Some(facts) => {
                let membership = self.classes.membership(&ClassRef::of(facts), &self.settings);
                Claims::of(facts, &membership, &self.store)
            }
            None => (None, Vec::new()),
        };
        if let Some(new) = &mut new {
            diagnostics.append(&mut new.diagnostics);
        }
        self.diagnose(Origin::Claims(key.clone()), diagnostics, diagnosed);
        dirty.references.insert(key.clone());
        let new = new.map(Arc::new);
        let old = match &new {
            Some(new) => self.claims.insert(key.clone(), new.clone()),
            None => self.claims.remove(key),
        };
        if old != new {
            self.index_claims(key, old.as_deref(), new.as_deref(), dirty);
        }
    }

    /// Moves an Ingress in the indexes from what it claimed to what it claims, and marks what that changes.
    fn index_claims(&mut self, key: &ObjectKey, old: Option<&Claims>, new: Option<&Claims>, dirty: &mut Dirty) {
        let ranked_alike = matches!((old, new), (Some(old), Some(new)) if old.created == new.created);
        for host in both(old, new, |claims| claims.hosts.keys()) {
            let (was, is) = (claims_host(old, host), claims_host(new, host));
            self.by_host.set(host, key, is);
            let same = was && is && matches!((old, new), (Some(old), Some(new)) if old.same_for(new, host));
            if !same {
                dirty.hosts.insert(host.clone());
                // Whose rule is first says who may do what with TLS.
                if (was != is || !ranked_alike) && self.by_tls_host.contains(host) {
                    dirty.tls_hosts.insert(host.clone());
                }
            }
        }
        for host in both(old, new, |claims| claims.tls.keys()) {
            let of = |claims: Option<&Claims>| claims.and_then(|claims| claims.tls.get(host)).cloned();
            let (was, is) = (of(old), of(new));
            self.by_tls_host.set(host, key, is.is_some());
            if was != is || !ranked_alike {
                dirty.tls_hosts.insert(host.clone());
            }
        }
        let names = |claims: Option<&Claims>| -> BTreeSet<Reference> {
            claims.into_iter().flat_map(|claims| &claims.references).map(|(reference, _)| reference.clone()).collect()
        };
        let (was, is) = (names(old), names(new));
        for reference in was.symmetric_difference(&is) {
            self.index_reference(reference, key, is.contains(reference), dirty);
        }
        let catch_all = |claims: Option<&Claims>| claims.and_then(|claims| claims.catch_all.clone());
        let (was, is) = (catch_all(old), catch_all(new));
        if was != is || (is.is_some() && !ranked_alike) {
            dirty.globals = true;
        }
        match is {
            Some(_) => drop(self.catch_alls.insert(key.clone())),
            None => drop(self.catch_alls.remove(key)),
        }
    }

    /// Records whether an Ingress names something; what nobody names is not compiled.
    fn index_reference(&mut self, reference: &Reference, ingress: &ObjectKey, named: bool, dirty: &mut Dirty) {
        match reference {
            Reference::Backend(key) => {
                if self.by_backend.set(key, ingress, named) {
                    dirty.backends.insert(key.clone());
                }
            }
            Reference::Content(key) => {
                if self.by_content.set(key, ingress, named) {
                    dirty.contents.insert(key.clone());
                }
            }
            Reference::Secret(key) => {
                if self.by_secret.set(key, ingress, named) {
                    dirty.certificates.insert(key.clone());
                }
            }
        }
    }

    fn index_class(&mut self, key: &ObjectKey, new: Option<ClassRef>) {
        if self.class_of.get(key) == new.as_ref() {
            return;
        }
        if let Some(old) = self.class_of.remove(key) {
            self.by_class.remove(&old, key);
        }
        if let Some(new) = new {
            self.by_class.insert(&new, key);
            self.class_of.insert(key.clone(), new);
        }
    }
}

fn claims_host(claims: Option<&Claims>, host: &HostPattern) -> bool {
    claims.is_some_and(|claims| claims.hosts.contains_key(host))
}

/// Keys of either of two claims, each once.
fn both<'a, I: Iterator<Item = &'a HostPattern>>(
    old: Option<&'a Claims>,
    new: Option<&'a Claims>,
    keys: impl Fn(&'a Claims) -> I,
) -> BTreeSet<&'a HostPattern> {
    old.into_iter().chain(new).flat_map(keys).collect()
}
