//! Candidates for the stream from controller to gateways: bytes of a full sync, and the time to write and to read it, at 10,000
//! routes. Reading ends with the model's types, as the gateway needs them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicegate_benches::world;
use sluicegate_snapshot::model::{Backend, PathType, Policy, Resource, Route, Target, VirtualHost};
use sluicegate_snapshot::{Delta, ObjectKey, Settings, World};

/// Hosts of two routes each.
const HOSTS: usize = 5_000;

/// Resources in one frame, as the controller sends them.
const PART: usize = 128;

const RUNS: usize = 15;

pub fn measure() {
    let mut made = World::new(Settings::default());
    made.apply(world(HOSTS));
    let parts = parts(&Delta::full(made.snapshot()));
    println!("{} routes, {} backends of two endpoints, in {} frames; median of {RUNS}", HOSTS * 2, HOSTS, parts.len());
    println!("| form | bytes | bytes with zstd 1 | write, ms | read, ms | zstd and back, ms |");
    println!("|---|---|---|---|---|---|");
    row("JSON", &parts, |part| serde_json::to_vec(part).unwrap(), |bytes| serde_json::from_slice(bytes).unwrap());
    row("CBOR", &parts, cbor, |bytes| ciborium::from_reader(bytes).unwrap());
    row("MessagePack, named fields", &parts, |part| rmp_serde::to_vec_named(part).unwrap(), named);
    row(
        "Protocol Buffers",
        &parts,
        |part| Part::of(part).encode_to_vec(),
        |bytes| Part::decode(bytes).unwrap().into_delta(),
    );
}

fn cbor(part: &Delta) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(part, &mut bytes).unwrap();
    bytes
}

fn named<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> T {
    rmp_serde::from_slice(bytes).unwrap()
}

fn parts(full: &Delta) -> Vec<Delta> {
    let hosts = full.hosts.iter().collect::<Vec<_>>();
    let hosts = hosts.chunks(PART).map(|chunk| Delta {
        hosts: chunk.iter().map(|(key, value)| ((*key).clone(), (*value).clone())).collect(),
        ..Delta::default()
    });
    let backends = full.backends.iter().collect::<Vec<_>>();
    let backends = backends.chunks(PART).map(|chunk| Delta {
        backends: chunk.iter().map(|(key, value)| ((*key).clone(), (*value).clone())).collect(),
        ..Delta::default()
    });
    hosts.chain(backends).collect()
}

fn row(name: &str, parts: &[Delta], write: impl Fn(&Delta) -> Vec<u8>, read: impl Fn(&[u8]) -> Delta) {
    let frames: Vec<Vec<u8>> = parts.iter().map(&write).collect();
    for (frame, part) in frames.iter().zip(parts) {
        let back = read(frame);
        assert_eq!((&back.hosts, &back.backends), (&part.hosts, &part.backends), "{name}");
    }
    let size: usize = frames.iter().map(Vec::len).sum();
    let packed: Vec<Vec<u8>> = frames.iter().map(|frame| zstd::bulk::compress(frame, 1).unwrap()).collect();
    let packed_size: usize = packed.iter().map(Vec::len).sum();
    let written = median(|| parts.iter().map(|part| write(part).len()).sum::<usize>());
    let was_read = median(|| frames.iter().map(|frame| read(frame).hosts.len()).sum::<usize>());
    let both_ways = median(|| {
        frames
            .iter()
            .map(|frame| zstd::bulk::decompress(&zstd::bulk::compress(frame, 1).unwrap(), frame.len()).unwrap().len())
            .sum::<usize>()
    });
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    println!("| {name} | {size} | {packed_size} | {} | {} | {} |", ms(written), ms(was_read), ms(both_ways));
}

fn median<T>(work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(work());
            started.elapsed()
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

/// What a schema of Protocol Buffers would hold for these worlds: the same content, no field more.
#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(message, repeated, tag = "1")]
    hosts: Vec<Host>,
    #[prost(message, repeated, tag = "2")]
    backends: Vec<Endpoints>,
}

#[derive(Clone, PartialEq, Message)]
struct Host {
    #[prost(string, tag = "1")]
    pattern: String,
    #[prost(message, repeated, tag = "2")]
    routes: Vec<Path>,
    #[prost(bool, tag = "3")]
    ssl_redirect: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Path {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    class: String,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(bool, tag = "5")]
    exact: bool,
    #[prost(string, tag = "6")]
    backend: String,
    #[prost(bool, tag = "7")]
    ssl_redirect: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Endpoints {
    #[prost(string, tag = "1")]
    backend: String,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
}

impl Part {
    fn of(delta: &Delta) -> Part {
        let path = |route: &Arc<Route>| {
            let ingress = route.ingress.clone().unwrap_or(ObjectKey::new("", ""));
            let Target::Backend(backend) = &route.target else { unreachable!("worlds here have backends only") };
            Path {
                namespace: ingress.namespace.to_string(),
                name: ingress.name.to_string(),
                class: route.class.to_string(),
                path: route.path.to_string(),
                exact: !route.path_type.is_prefix(),
                backend: backend.to_string(),
                ssl_redirect: route.policy.ssl_redirect,
            }
        };
        let hosts = delta.hosts.iter().filter_map(|(pattern, host)| {
            let host = host.as_ref()?;
            let routes = host.routes.iter().map(path).collect();
            Some(Host { pattern: pattern.to_string(), routes, ssl_redirect: host.policy.ssl_redirect })
        });
        let backends = delta.backends.iter().filter_map(|(key, backend)| {
            let addresses = backend.as_ref()?.value()?.endpoints.iter().map(ToString::to_string).collect();
            Some(Endpoints { backend: key.to_string(), addresses })
        });
        Part { hosts: hosts.collect(), backends: backends.collect() }
    }

    fn into_delta(self) -> Delta {
        let policy = |ssl_redirect| Policy { ssl_redirect, ..Policy::default() };
        let host = |host: Host| {
            let pattern: sluicegate_snapshot::HostPattern = host.pattern.parse().unwrap();
            let route = |path: Path| {
                Arc::new(Route {
                    ingress: Some(ObjectKey::new(path.namespace, path.name)),
                    class: path.class.into(),
                    host: pattern.clone(),
                    path: path.path.into(),
                    path_type: if path.exact { PathType::Exact } else { PathType::Prefix },
                    is_default: false,
                    target: Target::Backend(path.backend.parse().unwrap()),
                    policy: policy(path.ssl_redirect),
                })
            };
            let routes = host.routes.into_iter().map(route).collect();
            let value = VirtualHost { routes, policy: policy(host.ssl_redirect), ..VirtualHost::default() };
            (pattern.clone(), Some(Arc::new(value)))
        };
        let backend = |endpoints: Endpoints| {
            let addresses: Vec<SocketAddr> = endpoints.addresses.iter().map(|text| text.parse().unwrap()).collect();
            let value = Backend { endpoints: addresses, ..Backend::default() };
            (endpoints.backend.parse().unwrap(), Some(Resource::valid(value)))
        };
        Delta {
            hosts: self.hosts.into_iter().map(host).collect(),
            backends: self.backends.into_iter().map(backend).collect(),
            ..Delta::default()
        }
    }
}
