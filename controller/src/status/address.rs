//! The addresses to publish: given ones, or those of the Service that the gateways stand behind ([`super::reported`] has those that
//! gateways report).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use sluicegate_snapshot::ObjectKey;
use sluicegate_snapshot::compile::PublishAddress;
use tokio::time::sleep;

use crate::shared::Shared;
use crate::watch::{Failure, News, Watcher};

/// Wait before a Service that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Where the addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: no status is written.
    None,
    /// `--publish-address`.
    Fixed(Vec<PublishAddress>),
    /// `--publish-service`.
    Service(ObjectKey),
    /// `--publish-gateways`.
    Gateways,
}

/// Follows the Service whose addresses are published, until nobody listens any more.
pub async fn follow(watcher: Watcher, service: ObjectKey, shared: Arc<Shared>) {
    let api: Api<Service> = Api::namespaced(watcher.client.clone(), &service.namespace);
    let fields = format!("metadata.name={}", service.name);
    let follower = Follower { watcher, service, shared, api, fields };
    loop {
        match follower.pass().await {
            Ok(()) => {}
            Err(Stop::ReceiverGone) => return,
            Err(Stop::Failed(failure)) => follower.trouble(format!("cannot be read: {}", failure.sentence())),
        }
        sleep(RETRY).await;
    }
}

enum Stop {
    ReceiverGone,
    Failed(Failure),
}

impl From<kube::Error> for Stop {
    fn from(error: kube::Error) -> Self {
        Stop::Failed(Failure::of(&error))
    }
}

struct Follower {
    watcher: Watcher,
    service: ObjectKey,
    shared: Arc<Shared>,
    api: Api<Service>,
    fields: String,
}

impl Follower {
    async fn pass(&self) -> Result<(), Stop> {
        let list = self.api.list(&ListParams::default().fields(&self.fields)).await?;
        self.found(list.items.first())?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().fields(&self.fields).timeout(290);
        let mut events = self.api.watch(&params, &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(service) | WatchEvent::Modified(service) => self.found(Some(&service))?,
                WatchEvent::Deleted(_) => self.found(None)?,
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(Stop::Failed(Failure::of_status(&status))),
            }
        }
        Ok(())
    }

    /// A Service without an address changes nothing: what was published stays, since whoever reads it (a DNS controller) would
    /// take the whole edge away.
    fn found(&self, service: Option<&Service>) -> Result<(), Stop> {
        let addresses = service.map(addresses);
        match addresses {
            None => self.trouble("does not exist; statuses are not written until it does"),
            Some(addresses) if addresses.is_empty() => {
                self.trouble("has no address yet (status.loadBalancer.ingress, spec.externalIPs); statuses are not written until it has");
            }
            Some(addresses) => {
                *self.trouble_cell() = None;
                self.watcher.news.send(News::Addresses(addresses)).map_err(|_| Stop::ReceiverGone)?;
            }
        }
        Ok(())
    }

    fn trouble_cell(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared.address_trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn trouble(&self, what: impl Display) {
        let sentence = format!("Service {} (setting publishService) {what}", self.service);
        let mut known = self.trouble_cell();
        if known.as_ref() != Some(&sentence) {
            tracing::warn!("{sentence}");
            *known = Some(sentence);
        }
    }
}

/// The addresses of a Service, sorted, as ingress-nginx takes them (its `--publish-service`): by type, the load balancer's with
/// `externalIPs`, the cluster's, `externalIPs` of a NodePort (else the cluster's), or the external name.
fn addresses(service: &Service) -> Vec<PublishAddress> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let external = || spec.external_ips.iter().flatten().map(String::as_str).filter_map(ip).collect::<BTreeSet<_>>();
    let cluster = || spec.cluster_ip.as_deref().and_then(ip).into_iter().collect::<BTreeSet<_>>();
    let found = match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "LoadBalancer" => {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
            let points = status.into_iter().flatten();
            let point = |point: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
                point.ip.as_deref().and_then(ip).or_else(|| point.hostname.as_deref().map(hostname))
            };
            external().into_iter().chain(points.filter_map(point)).collect()
        }
        "NodePort" if !external().is_empty() => external(),
        "ClusterIP" | "NodePort" => cluster(),
        "ExternalName" => spec.external_name.as_deref().map(hostname).into_iter().collect(),
        _ => BTreeSet::new(),
    };
    found.into_iter().collect()
}

fn ip(text: &str) -> Option<PublishAddress> {
    text.parse::<IpAddr>().ok().map(PublishAddress::Ip)
}

fn hostname(text: &str) -> PublishAddress {
    PublishAddress::Hostname(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: &str, status: &str) -> Vec<String> {
        let service = serde_json::from_str(&format!(r#"{{"metadata":{{}},"spec":{spec},"status":{status}}}"#)).unwrap();
        let text = |address: PublishAddress| match address {
            PublishAddress::Ip(ip) => ip.to_string(),
            PublishAddress::Hostname(name) => name.to_string(),
        };
        addresses(&service).into_iter().map(text).collect()
    }

    #[test]
    fn each_type_of_service_has_its_addresses() {
        let balancer = r#"{"loadBalancer":{"ingress":[{"ip":"192.0.2.9"},{"hostname":"lb.test"},{"ip":"192.0.2.1"}]}}"#;
        let rows: [(&str, &str, &[&str]); 8] = [
            (r#"{"type":"LoadBalancer"}"#, balancer, &["192.0.2.1", "192.0.2.9", "lb.test"]),
            (
                r#"{"type":"LoadBalancer","externalIPs":["192.0.2.7"]}"#,
                balancer,
                &["192.0.2.1", "192.0.2.7", "192.0.2.9", "lb.test"],
            ),
            (r#"{"type":"LoadBalancer","clusterIP":"10.0.0.1"}"#, "{}", &[]),
            (r#"{"type":"NodePort","clusterIP":"10.0.0.1"}"#, "{}", &["10.0.0.1"]),
            (r#"{"type":"NodePort","clusterIP":"10.0.0.1","externalIPs":["192.0.2.7"]}"#, "{}", &["192.0.2.7"]),
            (r#"{"clusterIP":"10.0.0.1"}"#, "{}", &["10.0.0.1"]),
            (r#"{"clusterIP":"None"}"#, "{}", &[]),
            (r#"{"type":"ExternalName","externalName":"edge.test"}"#, "{}", &["edge.test"]),
        ];
        for (spec, status, expected) in rows {
            assert_eq!(of(spec, status), expected, "{spec}");
        }
    }
}
