//! A cluster of many Ingresses in which something changes all the time, in the scripted API server: a real one, with its etcd, would
//! take the machine that is meant to serve requests.
//!
//! Half of the Services are blue, half green, by their number; so are Ingresses, which go to one of their colour. The first
//! hosts are asked for all the time: what happens to them changes nothing of where their requests go.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::load::Target;
use crate::scripted::{Id, Scripted, Store};

const NAMESPACE: &str = "default";
const SERVICES: usize = 100;

/// Events that the server keeps at least, for watches that are behind. Each watch looks through them at each change.
const HISTORY: usize = 500;

pub const COLOURS: [&str; 2] = ["blue", "green"];

/// Changes to a server.
pub struct Changes {
    random: StdRng,
    /// Hosts, of which the first half is asked for.
    hosts: usize,
    /// Addresses of pods by colour.
    pods: [Vec<Ipv4Addr>; 2],
    generation: u64,
}

fn id(plural: &str, name: String) -> Id {
    Id { plural: plural.to_owned(), namespace: NAMESPACE.to_owned(), name }
}

impl Changes {
    /// Fills a server with so many hosts.
    pub fn begin(server: &Scripted, hosts: usize, pods: [Vec<Ipv4Addr>; 2]) -> Changes {
        let mut changes = Changes { random: StdRng::seed_from_u64(1), hosts, pods, generation: 0 };
        server.edit(|store| {
            let class =
                Id { plural: "ingressclasses".to_owned(), namespace: String::new(), name: "sluicegate".to_owned() };
            store.put(class, json!({"metadata": {}, "spec": {"controller": "sluicegate.dev/ingress-controller"}}));
            for service in 0..SERVICES {
                let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
                store.put(id("services", format!("s{service}")), json!({"metadata": {}, "spec": {"ports": ports}}));
                changes.put_endpoints(store, service);
            }
            for host in 0..hosts {
                changes.put_ingress(store, host);
            }
            store.compact();
        });
        changes
    }

    /// What is asked for.
    pub fn targets(&self) -> Vec<Target> {
        let target = |host: usize| Target {
            host: format!("h{host}.test"),
            ingress: format!("{NAMESPACE}/i{host}"),
            pods: COLOURS[host % 2].to_owned(),
        };
        (0..self.hosts / 2).map(target).collect()
    }

    /// Changes something a hundred times a second, for so long.
    pub fn go_on(&mut self, server: &Scripted, time: Duration) {
        let started = Instant::now();
        let mut due = started;
        while started.elapsed() < time {
            self.step(server);
            due += Duration::from_millis(10);
            super::pass(due.saturating_duration_since(Instant::now()));
        }
    }

    /// Changes one thing.
    fn step(&mut self, server: &Scripted) {
        server.edit(|store| {
            let asked_for = self.random.random_range(0..self.hosts / 2);
            let other = self.random.random_range(self.hosts / 2..self.hosts);
            match self.random.random_range(0..10) {
                0..=2 => self.put_ingress(store, asked_for),
                3..=5 => self.put_ingress(store, other),
                6 => store.delete(&id("ingresses", format!("i{other}"))),
                _ => {
                    let service = self.random.random_range(0..SERVICES);
                    self.put_endpoints(store, service);
                }
            }
            if store.history.len() > 2 * HISTORY
                && let Some(last) = store.history.drain(..HISTORY).next_back()
            {
                store.compacted = last.version;
            }
        });
    }

    fn put_ingress(&mut self, store: &mut Store, host: usize) {
        self.generation += 1;
        // Of its own colour, and never the same.
        let service = host % 2 + 2 * self.random.random_range(0..SERVICES / 2);
        let backend = json!({"service": {"name": format!("s{service}"), "port": {"number": 80}}});
        let path = |path: String| json!({"path": path, "pathType": "Prefix", "backend": backend});
        let mut paths = vec![path("/".to_owned())];
        if self.random.random_range(0..2) == 0 {
            paths.push(path(format!("/g{}", self.generation)));
        }
        let rules = json!([{"host": format!("h{host}.test"), "http": {"paths": paths}}]);
        let metadata = json!({"creationTimestamp": "2026-01-01T00:00:00Z", "generation": self.generation});
        store.put(id("ingresses", format!("i{host}")), json!({"metadata": metadata, "spec": {"rules": rules}}));
    }

    fn put_endpoints(&mut self, store: &mut Store, service: usize) {
        let pods = &self.pods[service % 2];
        let first = self.random.random_range(0..pods.len());
        let count = self.random.random_range(1..=pods.len());
        let endpoints: Vec<Value> =
            pods.iter().cycle().skip(first).take(count).map(|pod| json!({"addresses": [pod]})).collect();
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        store.put(id("endpointslices", format!("s{service}-1")), slice);
    }
}
