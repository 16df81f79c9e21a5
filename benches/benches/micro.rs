//! Lookups and compile at different sizes. `cargo bench --package sluicegate-benches`
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measurement that fails should stop")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::table::{GatewayBind, Table};
use sluicegate::upstream::Registry;
use sluicegate::upstream::probe::Prober;
use sluicegate::upstream::resolve::Resolver;
use sluicegate_benches::{SIZES, host, ingress, object, slice, world};
use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::model::Target;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::{Delta, Edit, Settings, World, path};

/// A gateway's whole state, without sockets.
struct Gateway {
    world: World,
    replica: Replica,
    table: Arc<Table>,
    bind: GatewayBind,
}

impl Gateway {
    fn new(hosts: usize) -> Gateway {
        let control = tokio::runtime::Handle::current();
        let registry = Registry::new(Default::default(), Resolver::new(None, control.clone()), Prober::new(control));
        let (mut world, mut replica) = (World::new(Settings::default()), Replica::default());
        world.apply(self::world(hosts));
        let mut bind = GatewayBind::new(registry);
        let table = Table::default().apply(&replica.apply(&Delta::full(world.snapshot())), &mut bind);
        Gateway { world, replica, table: Arc::new(table), bind }
    }

    /// One edit, from object to table.
    fn apply(&mut self, edit: Edit) {
        let outcome = self.world.apply([edit]);
        let change = self.replica.apply(&outcome.delta);
        self.table = Arc::new(self.table.apply(&change, &mut self.bind));
    }
}

/// What the phases ask of the table for one request: host and path as a client sends them, to a bound backend.
fn lookup(table: &Table, host: &[u8], raw_path: &[u8]) -> bool {
    let (Ok(host), Ok(path)) = (RequestHost::parse(host), path::normalise(raw_path)) else { return false };
    black_box(table.has_tls(host.as_str()));
    match table.route(host.as_str(), &path).map(|route| &route.target) {
        Some(Target::Backend(key)) => table.backend(key).is_some(),
        _ => false,
    }
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let gateway = Gateway::new(size);
        let hosts: Vec<String> = (0..size).map(host).collect();
        let info = allocation_counter::measure(|| {
            for host in &hosts {
                assert!(lookup(&gateway.table, host.as_bytes(), b"/api/v1/users"));
            }
        });
        println!("lookup/{size}: {} allocations in {} lookups", info.count_total, hosts.len());
        // A stride that is no divisor visits every host, in an order that caches do not foresee.
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                number = (number + 7_919) % size;
                lookup(&gateway.table, hosts[number].as_bytes(), b"/api/v1/users")
            });
        });
    }
    group.finish();
}

fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for size in SIZES {
        group.bench_function(BenchmarkId::new("from nothing", size), |bencher| {
            bencher.iter_batched(
                || world(size),
                |edits| {
                    let mut world = World::new(Settings::default());
                    world.apply(edits);
                    world
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.sample_size(100);
    for size in SIZES {
        let mut compiled = World::new(Settings::default());
        compiled.apply(world(size));
        let mut turn = 0;
        let mut edit_of = |kind: &str| {
            turn += 1;
            let number = turn * 7_919 % size;
            Edit::Put(object(match kind {
                "path" => ingress(number, &format!("/v{turn}")),
                _ => slice(number, (turn % 100) as u8 + 1),
            }))
        };
        for kind in ["path", "endpoint"] {
            group.bench_function(BenchmarkId::new(format!("one {kind} edit"), size), |bencher| {
                bencher.iter_batched(|| edit_of(kind), |edit| compiled.apply([edit]), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

fn edit_to_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("edit to table");
    for size in SIZES {
        let mut gateway = Gateway::new(size);
        let mut turn = 0;
        for kind in ["path", "endpoint"] {
            group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                bencher.iter_batched(
                    || {
                        turn += 1;
                        let number = turn * 7_919 % size;
                        Edit::Put(object(match kind {
                            "path" => ingress(number, &format!("/v{turn}")),
                            _ => slice(number, (turn % 100) as u8 + 1),
                        }))
                    },
                    |edit| gateway.apply(edit),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn all(criterion: &mut Criterion) {
    // Names and probes want a runtime to be at hand; nothing of either is in these worlds.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    lookups(criterion);
    compile(criterion);
    edit_to_table(criterion);
}

criterion_group!(benches, all);
criterion_main!(benches);
