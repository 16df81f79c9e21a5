//! Which Secrets and ConfigMaps may be read. In a cluster a namespace's owner decides it with a RoleBinding; what may not be
//! read, or has not been read yet, is unknown, which is not the same as absent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::store::{Index, Store};
use super::{Dirty, World};
use crate::diagnostic::DiagnosticReason;
use crate::key::{Kind, ObjectKey};
use crate::model::Resource;

/// What is known of the objects of a kind in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Nothing yet: they are being listed.
    #[default]
    Pending,
    /// All of them.
    Granted,
    /// What was known before, since the API server says 403 now.
    Denied {
        /// The user as whom the API server knows the controller, where it said so.
        user: Option<Arc<str>>,
    },
}

/// The ClusterRole of `deploy/manifests` that a namespace's owner binds.
pub const READER_ROLE: &str = "sluicegate-secret-reader";

impl Store {
    /// What is known of a kind of object in a namespace.
    pub fn access(&self, kind: Kind, namespace: &Arc<str>) -> Access {
        let is_guarded = self.guarded && matches!(kind, Kind::Secret | Kind::ConfigMap);
        if !is_guarded {
            return Access::Granted;
        }
        self.access.get(&(kind, namespace.clone())).cloned().unwrap_or_default()
    }

    /// Why an object that is not there may be there all the same.
    pub fn unknown(&self, kind: Kind, key: &ObjectKey) -> Option<Unknown> {
        match self.access(kind, &key.namespace) {
            Access::Granted => None,
            Access::Pending => Some(Unknown { kind, key: key.clone(), denied: None }),
            Access::Denied { user } => Some(Unknown { kind, key: key.clone(), denied: Some(user) }),
        }
    }
}

/// An object of which nothing is known.
#[derive(Debug)]
pub struct Unknown {
    kind: Kind,
    key: ObjectKey,
    /// Denied, to that user; else not listed yet.
    denied: Option<Option<Arc<str>>>,
}

impl Unknown {
    /// The resource that is compiled from it: the gateway keeps what it had.
    pub fn resource<T>(&self) -> Resource<T> {
        Resource::invalid(self.reason())
    }

    fn reason(&self) -> DiagnosticReason {
        match (self.kind, self.denied.is_some()) {
            (Kind::Secret, true) => DiagnosticReason::SecretAccessDenied,
            (Kind::Secret, false) => DiagnosticReason::SecretNotFound,
            (_, true) => DiagnosticReason::ConfigMapAccessDenied,
            (_, false) => DiagnosticReason::ConfigMapNotFound,
        }
    }

    /// What to tell whoever names it; nothing while it is being listed.
    pub fn problem(&self, instead: &str) -> Option<(DiagnosticReason, String)> {
        let user = self.denied.as_ref()?.as_deref();
        let (kind, namespace) = (self.kind, &self.key.namespace);
        let whom = match user.map(|user| (user, user.strip_prefix("system:serviceaccount:"))) {
            Some((_, Some(account))) => format!("--serviceaccount {account}"),
            Some((user, None)) => format!("--user {user}"),
            None => "--serviceaccount NAMESPACE:NAME".to_owned(),
        };
        let message = format!(
            "{kind} {} cannot be read, since the controller may not read the {kind}s of namespace {namespace}; {instead}. Grant it with: kubectl create rolebinding sluicegate --namespace {namespace} --clusterrole {READER_ROLE} {whom}",
            self.key
        );
        Some((self.reason(), message))
    }
}

impl World {
    /// Marks what an answer about access changes.
    pub(super) fn take_access(&mut self, kind: Kind, namespace: Arc<str>, access: Access, dirty: &mut Dirty) {
        let old = self.store.access.insert((kind, namespace.clone()), access.clone());
        if old.as_ref() == Some(&access) {
            return;
        }
        match kind {
            Kind::Secret => {
                let default = self.settings.default_certificate.iter().filter(|key| key.namespace == namespace);
                let named: Vec<ObjectKey> = in_namespace(&self.by_secret, &namespace).chain(default).cloned().collect();
                for secret in named {
                    self.mark_secret(&secret, dirty);
                    dirty.certificates.insert(secret);
                }
            }
            Kind::ConfigMap => {
                dirty.classes = true;
                for key in in_namespace(&self.by_content, &namespace) {
                    dirty.references.extend(self.by_content.of(key).cloned());
                    dirty.contents.insert(key.clone());
                }
            }
            Kind::Ingress | Kind::IngressClass | Kind::Service | Kind::EndpointSlice | Kind::HostOwners => {}
        }
    }

    /// The Secrets or ConfigMaps of a namespace that are there, named or not.
    pub fn objects_in(&self, kind: Kind, namespace: &Arc<str>) -> Vec<ObjectKey> {
        fn keys<T>(map: &BTreeMap<ObjectKey, T>, namespace: &Arc<str>) -> Vec<ObjectKey> {
            let from = map.range(ObjectKey::new(namespace.clone(), "")..);
            from.map(|(key, _)| key).take_while(|key| key.namespace == *namespace).cloned().collect()
        }
        match kind {
            Kind::Secret => keys(&self.store.secrets, namespace),
            Kind::ConfigMap => keys(&self.store.config_maps, namespace),
            Kind::Ingress | Kind::IngressClass | Kind::Service | Kind::EndpointSlice | Kind::HostOwners => Vec::new(),
        }
    }

    /// Whether everything is known of a kind in a namespace, or it is known that it may not be.
    pub fn is_settled(&self, kind: Kind, namespace: &Arc<str>) -> bool {
        self.store.access(kind, namespace) != Access::Pending
    }

    /// The namespaces whose Secrets are named, by an Ingress of ours or by the settings. Costs O(namespaces).
    pub fn namespaces_of_secrets(&self) -> BTreeSet<Arc<str>> {
        let default = self.settings.default_certificate.iter().map(|key| key.namespace.clone());
        namespaces(&self.by_secret).into_iter().chain(default).collect()
    }

    /// The namespaces whose ConfigMaps are named, by an Ingress or a class of ours or by the settings. Costs O(namespaces +
    /// classes).
    pub fn namespaces_of_config_maps(&self) -> BTreeSet<Arc<str>> {
        let settings = self.settings.config_map.iter().map(|key| key.namespace.clone());
        let ours = |name: &ObjectKey| self.classes.by_name.get(&name.name).is_some_and(|class| class.ours);
        let classes = self.store.classes.values().filter(|class| ours(&class.key));
        let parameters = classes.filter_map(|class| class.parameters.as_ref()?.namespace.clone());
        namespaces(&self.by_content).into_iter().chain(settings).chain(parameters).collect()
    }
}

fn in_namespace<'a, V: Ord + Clone>(
    index: &'a Index<ObjectKey, V>,
    namespace: &'a Arc<str>,
) -> impl Iterator<Item = &'a ObjectKey> {
    let first = ObjectKey::new(namespace.clone(), "");
    index.keys_from(&first).take_while(move |key| key.namespace == *namespace)
}

/// The namespaces of an index' keys, by jumping from one to the next.
fn namespaces<V: Ord + Clone>(index: &Index<ObjectKey, V>) -> BTreeSet<Arc<str>> {
    let mut found = BTreeSet::new();
    let mut from = ObjectKey::new("", "");
    while let Some(key) = index.keys_from(&from).next() {
        found.insert(key.namespace.clone());
        // The smallest namespace that sorts behind this one.
        from = ObjectKey::new(format!("{}\0", key.namespace), "");
    }
    found
}
