//! A lookup allocates nothing.

use allocation_counter::measure;
use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::path;
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::table::{RouteTable, Unbound};
use sluicegate_snapshot::{Delta, Settings};

use crate::objects::world;

#[test]
fn a_lookup_allocates_nothing() {
    let mut yaml = String::new();
    for (index, host) in ["a.test", "*.b.test", ""].into_iter().enumerate() {
        yaml.push_str(&format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i{index}, namespace: n}}\nspec: {{tls: [{{hosts: ['{host}']}}], rules: [{{host: '{host}', http: {{paths: [{{path: /x, pathType: Exact, backend: {{service: {{name: s, port: {{name: http}}}}}}}}, {{path: /y/z, pathType: Prefix, backend: {{service: {{name: s, port: {{number: 80}}}}}}}}]}}}}]}}\n"
        ));
    }
    let world = world(Settings::default(), &yaml);
    let change = Replica::default().apply(&Delta::full(world.snapshot()));
    let table = RouteTable::<Unbound>::default().apply(&change, &mut Unbound);
    let mut found = 0;
    let info = measure(|| {
        for host in [&b"A.test:80"[..], b"q.b.test.", b"nobody.test", b"[::1]:1"] {
            for raw in [&b"/x"[..], b"/y/z/w", b"/none"] {
                let host = RequestHost::parse(host).unwrap();
                let path = path::normalise(raw).unwrap();
                if let Some(route) = table.route(host.as_str(), &path) {
                    found += 1;
                    if let sluicegate_snapshot::model::Target::Backend(key) = &route.target {
                        assert!(table.backend(key).is_some());
                    }
                }
                std::hint::black_box(table.has_tls(host.as_str()));
            }
        }
    });
    assert_eq!(found, 8);
    assert_eq!(info.count_total, 0, "{info:?}");
}
