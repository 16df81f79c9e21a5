//! The facts of the world, with the one reverse index that belongs to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Access;
use crate::facts::{
    ClassFacts, ConfigMapFacts, Facts, HostOwnersFacts, IngressFacts, SecretFacts, ServiceFacts, SliceFacts,
};
use crate::key::{HostPattern, Kind, ObjectKey};

/// Facts by kind and key.
#[derive(Debug, Default)]
pub struct Store {
    /// Ingresses.
    pub ingresses: BTreeMap<ObjectKey, Arc<IngressFacts>>,
    /// IngressClasses.
    pub classes: BTreeMap<ObjectKey, Arc<ClassFacts>>,
    /// Services.
    pub services: BTreeMap<ObjectKey, Arc<ServiceFacts>>,
    /// EndpointSlices.
    pub slices: BTreeMap<ObjectKey, Arc<SliceFacts>>,
    /// Secrets.
    pub secrets: BTreeMap<ObjectKey, Arc<SecretFacts>>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMapFacts>>,
    /// Records of whose hosts are.
    pub host_owners: BTreeMap<ObjectKey, Arc<HostOwnersFacts>>,
    /// EndpointSlices by their Service.
    pub slices_of: Index<ObjectKey, ObjectKey>,
    /// Secrets and ConfigMaps are unknown where `access` does not say otherwise.
    pub guarded: bool,
    /// What is known of a kind in a namespace.
    pub access: BTreeMap<(Kind, Arc<str>), Access>,
}

/// A multimap: who depends on what. Nearly every key has one dependant, which costs no set of its own.
#[derive(Debug)]
pub struct Index<K, V>(BTreeMap<K, Dependants<V>>);

#[derive(Debug)]
enum Dependants<V> {
    One(V),
    Many(BTreeSet<V>),
}

impl<V: Ord> Dependants<V> {
    fn iter(&self) -> impl Iterator<Item = &V> {
        let (one, many) = match self {
            Dependants::One(value) => (Some(value), None),
            Dependants::Many(values) => (None, Some(values)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Index(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Index<K, V> {
    /// Records a dependency.
    pub fn insert(&mut self, key: &K, value: &V) {
        match self.0.get_mut(key) {
            None => drop(self.0.insert(key.clone(), Dependants::One(value.clone()))),
            Some(Dependants::One(one)) if one == value => {}
            Some(dependants) => match dependants {
                Dependants::One(one) => *dependants = Dependants::Many(BTreeSet::from([one.clone(), value.clone()])),
                Dependants::Many(values) => drop(values.insert(value.clone())),
            },
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, key: &K, value: &V) {
        let is_last = match self.0.get_mut(key) {
            None => false,
            Some(Dependants::One(one)) => one == value,
            Some(Dependants::Many(values)) => {
                values.remove(value);
                values.is_empty()
            }
        };
        if is_last {
            self.0.remove(key);
        }
    }

    /// Records or forgets a dependency; returns whether that gave `key` its first, or took its last.
    pub fn set(&mut self, key: &K, value: &V, is: bool) -> bool {
        let was = self.contains(key);
        if is {
            self.insert(key, value);
        } else {
            self.remove(key, value);
        }
        was != self.contains(key)
    }

    /// Who depends on `key`, sorted.
    pub fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a V> + use<'a, K, V> {
        self.0.get(key).into_iter().flat_map(Dependants::iter)
    }

    /// Whether anybody depends on `key`.
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Everything that somebody depends on, from `first` on.
    pub fn keys_from<'a>(&'a self, first: &K) -> impl Iterator<Item = &'a K> + use<'a, K, V> {
        self.0.range(first.clone()..).map(|(key, _)| key)
    }
}

impl Store {
    /// Whether an object is there.
    pub fn contains(&self, kind: Kind, key: &ObjectKey) -> bool {
        match kind {
            Kind::Ingress => self.ingresses.contains_key(key),
            Kind::IngressClass => self.classes.contains_key(key),
            Kind::Service => self.services.contains_key(key),
            Kind::EndpointSlice => self.slices.contains_key(key),
            Kind::Secret => self.secrets.contains_key(key),
            Kind::ConfigMap => self.config_maps.contains_key(key),
            Kind::HostOwners => self.host_owners.contains_key(key),
        }
    }

    /// Stores or removes one object. Returns what stood there before; `None` where the edit changes nothing.
    pub fn put(&mut self, kind: Kind, key: &ObjectKey, new: Option<&Facts>) -> Option<Change> {
        fn swap<T: PartialEq>(
            map: &mut BTreeMap<ObjectKey, Arc<T>>,
            key: &ObjectKey,
            new: Option<&Arc<T>>,
        ) -> Option<Option<Arc<T>>> {
            if map.get(key) == new {
                return None;
            }
            Some(match new {
                Some(new) => map.insert(key.clone(), new.clone()),
                None => map.remove(key),
            })
        }
        macro_rules! swap_kind {
            ($map:ident, $variant:ident) => {
                swap(
                    &mut self.$map,
                    key,
                    new.and_then(|facts| match facts {
                        Facts::$variant(facts) => Some(facts),
                        _ => None,
                    }),
                )
            };
        }
        let mut change = Change::default();
        match kind {
            Kind::Ingress => drop(swap_kind!(ingresses, Ingress)?),
            Kind::IngressClass => drop(swap_kind!(classes, Class)?),
            Kind::Service => drop(swap_kind!(services, Service)?),
            Kind::Secret => {
                let old: Option<Arc<SecretFacts>> = swap_kind!(secrets, Secret)?;
                let identity = |facts: Option<&Arc<SecretFacts>>| {
                    let certificate = facts?.certificate.as_ref().ok()?;
                    Some((certificate.names.clone(), certificate.key_type))
                };
                let (old, new) = (identity(old.as_ref()), identity(self.secrets.get(key)));
                change.renewed = old.is_some() && old == new;
            }
            Kind::ConfigMap => drop(swap_kind!(config_maps, ConfigMap)?),
            Kind::HostOwners => {
                let old: Option<Arc<HostOwnersFacts>> = swap_kind!(host_owners, HostOwners)?;
                let none = BTreeMap::new();
                let old = old.as_ref().map_or(&none, |facts| &facts.owners);
                let new = self.host_owners.get(key).map_or(&none, |facts| &facts.owners);
                let differs = |host: &&HostPattern| old.get(*host) != new.get(*host);
                change.hosts.extend(old.keys().chain(new.keys()).filter(differs).cloned());
            }
            Kind::EndpointSlice => {
                let old: Option<Arc<SliceFacts>> = swap_kind!(slices, Slice)?;
                let service_of = |slice: &Arc<SliceFacts>| slice.service.clone();
                let (old, new) = (old.as_ref().and_then(service_of), self.slices.get(key).and_then(service_of));
                if let Some(service) = &old {
                    self.slices_of.remove(service, key);
                }
                if let Some(service) = &new {
                    self.slices_of.insert(service, key);
                }
                change.services.extend(old.into_iter().chain(new));
            }
        }
        Some(change)
    }
}

/// What an edit touched besides its own object.
#[derive(Debug, Default)]
pub struct Change {
    /// Services whose EndpointSlices changed.
    pub services: Vec<ObjectKey>,
    /// A Secret's certificate was replaced by one with the same names and kind of key, so that nothing else changes.
    pub renewed: bool,
    /// Hosts that were recorded for somebody else before.
    pub hosts: BTreeSet<HostPattern>,
}
