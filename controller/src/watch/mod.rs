//! Watches of the API server: objects in, [`News`] out.
//!
//! A [`Feed`] is one kind of object, everywhere or in one namespace. Each is listed and then watched by a task of its own
//! ([`reflect()`]); what it finds is trimmed at once and goes to the compile thread.

mod failure;
mod host_record;
mod known;
mod namespaces;
mod reflector;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use sluicegate_snapshot::compile::PublishAddress;
use sluicegate_snapshot::facts::{NGINX_PREFIX, Trimmed};
use sluicegate_snapshot::model::{Digest, Version};
use sluicegate_snapshot::{Kind, Object, ObjectKey};
use tokio::sync::oneshot;

pub use failure::{Failure, Trouble};
pub use host_record::HostRecord;
pub use namespaces::{Needs, follow_needs};
pub use reflector::{Feedback, reflect};

use crate::events::Loss;
use crate::metrics::Metrics;
use crate::status::Writers;

/// One list and watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feed {
    /// Kind of the objects.
    pub kind: Kind,
    /// Where; `None`: in the whole cluster.
    pub namespace: Option<Arc<str>>,
    /// Label selector; `None`: all of them.
    pub labels: Option<Arc<str>>,
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} in namespace {namespace}", self.kind),
            None => write!(f, "{}", self.kind),
        }
    }
}

/// What the compile thread is told.
#[derive(Debug)]
pub enum News {
    /// An object is there; of an Ingress also what its status says.
    Put(Trimmed, Option<Observed>, Reach),
    /// An object is gone.
    Remove(Kind, ObjectKey, Reach),
    /// A bookmark.
    Seen(Reach),
    /// Everything of a feed was listed.
    Listed(Listed),
    /// The API server does not give a feed out (403), to this user.
    Denied(Feed, Option<Arc<str>>),
    /// A refused feed works again, where it was: everything of it is known.
    Granted(Feed),
    /// A feed is no longer followed.
    Ended(Feed),
    /// A gateway has this version, which what is published may not follow.
    Claimed(Version),
    /// A gateway doubts that so many routes are gone, and holds that back.
    Doubted(Loss),
    /// Unix seconds, about once a minute.
    Time(i64),
    /// A gateway has taken something over.
    Acknowledged,
    /// The addresses to publish.
    Addresses(Vec<PublishAddress>),
    /// Whether this controller is the one that writes statuses.
    Leads(bool),
    /// The process is about to end: statuses are emptied; then, or where there is nothing to do, this is told.
    Clear(oneshot::Sender<()>),
    /// The process ends.
    Stop,
}

/// Up to where a feed is known.
#[derive(Debug, Clone)]
pub enum Reach {
    /// A list is on its way: not further than before.
    Listing,
    /// Up to this `resourceVersion`.
    To(Arc<Feed>, u64),
}

/// The end of a list.
#[derive(Debug)]
pub struct Listed {
    /// The feed.
    pub feed: Arc<Feed>,
    /// What was known and is not in the list: all at once, so that a loss is seen as what it is.
    pub gone: Vec<ObjectKey>,
    /// `resourceVersion` of the list; 0 where it is no number.
    pub version: u64,
    /// Of [`Watcher::relists`], when the list was begun.
    pub generation: u64,
}

/// Digest of annotations of ours, of ingress-nginx, and of the class; nothing for none.
fn meant(annotations: Option<&BTreeMap<String, String>>) -> Digest {
    let is_meant = |name: &str| {
        ["sluicegate.dev/", NGINX_PREFIX, "kubernetes.io/ingress.class"].iter().any(|begin| name.starts_with(begin))
    };
    let meant: BTreeMap<&String, &String> =
        annotations.into_iter().flatten().filter(|(name, _)| is_meant(name)).collect();
    if meant.is_empty() { Digest::default() } else { Digest::of("annotations", &(), &meant) }
}

/// What else is of interest of an Ingress: what its status says, as far as it has to be compared, and its generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.generation`: raised by each change of the spec.
    pub generation: i64,
    /// Digest of the annotations that may have a meaning here: they do not raise the generation.
    pub annotations: Digest,
    /// Digest of `status.loadBalancer.ingress`.
    pub digest: Digest,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// Who wrote it.
    pub writers: Writers,
}

/// What watches work with.
#[derive(Clone)]
pub struct Watcher {
    /// The API server.
    pub client: Client,
    /// Where news goes.
    pub news: Sender<News>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What does not work now.
    pub trouble: Arc<Trouble>,
    /// Raised to have everything listed anew.
    pub relists: tokio::sync::watch::Receiver<u64>,
    /// As whom the controller writes statuses.
    pub field_manager: Arc<str>,
}

impl Watcher {
    /// Follows a feed until the task is aborted.
    pub async fn follow(self, feed: Feed) {
        match feed.kind {
            Kind::Ingress => reflect::<Ingress>(self, feed).await,
            Kind::IngressClass => reflect::<IngressClass>(self, feed).await,
            Kind::Service => reflect::<Service>(self, feed).await,
            Kind::EndpointSlice => reflect::<EndpointSlice>(self, feed).await,
            Kind::Secret => reflect::<Secret>(self, feed).await,
            Kind::ConfigMap => reflect::<ConfigMap>(self, feed).await,
            Kind::HostOwners => reflect::<HostRecord>(self, feed).await,
        }
    }
}

/// A kind that is watched.
pub trait Watched: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + 'static {
    /// Its word.
    const KIND: Kind;

    /// The API of a namespace, or of the whole cluster.
    fn api(client: Client, namespace: Option<&str>) -> Api<Self>;

    /// The object for compile.
    fn object(self) -> Object;

    /// What its status says, where that is of interest. `us`: our field manager.
    fn observed(&self, us: &str) -> Option<Observed> {
        let _ = us;
        None
    }
}

macro_rules! watched {
    ($type:ident, $api:expr $(, $observed:item)?) => {
        impl Watched for $type {
            const KIND: Kind = Kind::$type;

            fn api(client: Client, namespace: Option<&str>) -> Api<Self> {
                let api: fn(Client, Option<&str>) -> Api<Self> = $api;
                api(client, namespace)
            }

            fn object(self) -> Object {
                Object::$type(Box::new(self))
            }

            $($observed)?
        }
    };
}

fn namespaced<K>(client: Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

watched!(IngressClass, |client, _| Api::all(client));
watched!(Service, namespaced);
watched!(EndpointSlice, namespaced);
watched!(Secret, namespaced);
watched!(ConfigMap, namespaced);
watched!(
    Ingress,
    namespaced,
    fn observed(&self, us: &str) -> Option<Observed> {
        let points = self.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let resource_version = self.metadata.resource_version.as_deref().unwrap_or_default().into();
        let writers = Writers::of(&self.metadata, us);
        Some(Observed {
            annotations: meant(self.metadata.annotations.as_ref()),
            uid: self.metadata.uid.as_deref().unwrap_or_default().into(),
            generation: self.metadata.generation.unwrap_or_default(),
            digest: crate::status::digest(&points),
            resource_version,
            writers,
        })
    }
);
