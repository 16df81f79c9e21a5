//! Names to addresses, by a DNS library (hickory), on the control thread. Requests never wait for a lookup but for the
//! very first one of a name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use sluicegate_snapshot::model::NamedEndpoint;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{EndpointState, Guard};

/// An answer is used at least and at most for this long, whatever its TTL says.
const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Time until the next try after a failed lookup.
const RETRY: Duration = Duration::from_secs(1);

/// One name with the endpoints it resolves to. The last answer is kept when DNS fails.
#[derive(Debug)]
pub struct ResolvedName {
    /// Name and port.
    pub name: NamedEndpoint,
    /// Of the Service that names it.
    namespace: Arc<str>,
    endpoints: ArcSwap<Vec<Arc<EndpointState>>>,
    guard: Arc<Guard>,
    /// The last answer had addresses that are not connected to, or an alias that is not followed.
    refused: AtomicBool,
    /// Becomes true with the first answer, good or bad.
    asked: watch::Sender<bool>,
}

impl ResolvedName {
    /// Endpoints of the last good answer.
    pub fn endpoints(&self) -> Arc<Vec<Arc<EndpointState>>> {
        self.endpoints.load_full()
    }

    /// Whether addresses of the last answer are not connected to, or an alias in it is not followed.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits for the first answer.
    pub async fn asked(&self) {
        // The sender lives as long as `self`.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }

    fn take(&self, answer: &LookupIp) {
        let mut aliases = answer.as_lookup().answers().iter().filter_map(|record| match &record.data {
            RData::CNAME(alias) => Some(alias.0.to_ascii().to_ascii_lowercase()),
            _ => None,
        });
        let leaving = |alias: &String| self.guard.leaves_namespace(alias.trim_end_matches('.'), &self.namespace);
        if let Some(alias) = aliases.find(leaving) {
            if !self.refused.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    name = %self.name.name, alias,
                    "a backend's name leads to a Service of another namespace, or to a pod; it is not connected to (the controller's allowBackends: [otherNamespaces] would allow it)"
                );
            }
            return self.endpoints.store(Arc::default());
        }
        let addresses: Vec<IpAddr> = answer.iter().collect();
        self.take_addresses(&addresses);
    }

    fn take_addresses(&self, addresses: &[IpAddr]) {
        let old: BTreeMap<SocketAddr, Arc<EndpointState>> =
            self.endpoints.load().iter().map(|endpoint| (endpoint.address, endpoint.clone())).collect();
        let mut new: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(*ip, self.name.port)).collect();
        new.sort();
        new.dedup();
        let before = new.len();
        let mut why = None;
        new.retain(|address| {
            self.guard.judge(*address).map_err(|unreachable| why = Some((*address, unreachable))).is_ok()
        });
        let was_refused = self.refused.swap(new.len() < before, Ordering::Relaxed);
        if let Some((address, why)) = why.filter(|_| !was_refused) {
            let allow =
                why.allowed_by().map(|name| format!(" (the controller's allowBackends: [{name}] would allow it)"));
            let allow = allow.unwrap_or_default();
            tracing::warn!(name = %self.name.name, %address, "a backend's name resolves to {why}; it is not connected to{allow}");
        }
        let endpoints =
            new.into_iter().map(|address| old.get(&address).cloned().unwrap_or_else(|| EndpointState::new(address)));
        self.endpoints.store(Arc::new(endpoints.collect()));
    }
}

/// Starts and feeds [`ResolvedName`]s.
#[derive(Clone)]
pub struct Resolver {
    control: Handle,
    dns: Option<Arc<TokioResolver>>,
}

impl Resolver {
    /// A resolver that asks `server`, or the system's servers. Runs on `control`.
    pub fn new(server: Option<SocketAddr>, control: Handle) -> Self {
        let provider = TokioRuntimeProvider::default();
        let builder = match server {
            Some(server) => {
                let at_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
                let name_server = NameServerConfig::new(server.ip(), true, connections);
                Ok(TokioResolver::builder_with_config(
                    ResolverConfig::from_parts(None, Vec::new(), vec![name_server]),
                    provider,
                ))
            }
            None => TokioResolver::builder(provider),
        };
        let dns = builder.and_then(|mut builder| {
            // Addresses of both families would get requests alike, and many a machine reaches only one of them.
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            // Its cache forgets by which aliases a name was found, and shares what it has among namespaces. Answers are kept here.
            builder.options_mut().cache_size = 0;
            builder.build()
        });
        let dns = match dns {
            Ok(dns) => Some(Arc::new(dns)),
            Err(error) => {
                tracing::warn!(%error, "no DNS server is known; ExternalName Services will not resolve");
                None
            }
        };
        Resolver { control, dns }
    }

    /// Follows a name, of a Service of this namespace, until nobody needs it any more.
    pub fn follow(&self, name: NamedEndpoint, namespace: Arc<str>, guard: Arc<Guard>) -> Arc<ResolvedName> {
        let resolved = Arc::new(ResolvedName {
            endpoints: ArcSwap::default(),
            guard,
            refused: AtomicBool::new(false),
            asked: watch::Sender::new(false),
            name,
            namespace,
        });
        match &self.dns {
            Some(dns) => drop(self.control.spawn(keep_resolving(dns.clone(), Arc::downgrade(&resolved)))),
            None => drop(resolved.asked.send_replace(true)),
        }
        resolved
    }
}

async fn keep_resolving(dns: Arc<TokioResolver>, name: Weak<ResolvedName>) {
    let mut failing = false;
    loop {
        let Some(text) = name.upgrade().map(|name| format!("{}.", name.name.name)) else { return };
        let answer = dns.lookup_ip(text.as_str()).await;
        let Some(name) = name.upgrade() else { return };
        let wait = match answer {
            Ok(answer) => {
                name.take(&answer);
                failing = false;
                let ttl = answer.valid_until().saturating_duration_since(std::time::Instant::now());
                ttl.clamp(TTL_RANGE.0, TTL_RANGE.1)
            }
            Err(error) => {
                // Said once per outage; what was known stays in use.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(name = %text, %error, "name cannot be resolved; the last answer stays in use");
                }
                RETRY
            }
        };
        name.asked.send_replace(true);
        drop(name);
        tokio::time::sleep(wait).await;
    }
}
