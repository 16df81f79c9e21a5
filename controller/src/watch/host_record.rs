//! The ConfigMaps that record whose hosts are, as a kind of their own: what is known of them is no part of what is known of other
//! ConfigMaps.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, Resource};
use serde::Deserialize;
use sluicegate_snapshot::{Kind, Object};

use super::{Watched, namespaced};

/// A ConfigMap with label [`HOST_OWNERS_LABEL`](sluicegate_snapshot::facts::HOST_OWNERS_LABEL).
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct HostRecord(ConfigMap);

impl Resource for HostRecord {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        ConfigMap::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        ConfigMap::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        ConfigMap::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        ConfigMap::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

impl Watched for HostRecord {
    const KIND: Kind = Kind::HostOwners;

    fn api(client: Client, namespace: Option<&str>) -> Api<Self> {
        namespaced(client, namespace)
    }

    fn object(self) -> Object {
        Object::HostOwners(Box::new(self.0))
    }
}
