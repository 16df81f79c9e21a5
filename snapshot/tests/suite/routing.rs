//! The routing spec, its pure part: compile → apply → match, and the diagnostics. Rows that the gateway answers by
//! itself (redirects, files, refusals of bad requests) are judged by the gateway's tests, with every other row, through
//! its phases and over sockets.

use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::model::{Resource, Target};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::table::{RouteTable, Unbound};
use sluicegate_snapshot::{Delta, Edit, World, path};

use crate::spec::{Outcome, SpecFile};

#[test]
fn every_row_finds_its_route() {
    let mut rows = 0;
    for (file, spec) in SpecFile::all() {
        let mut world = World::new(spec.settings());
        world.apply(spec.objects().into_iter().map(Edit::Put));
        let change = Replica::default().apply(&Delta::full(world.snapshot()));
        let table = RouteTable::<Unbound>::default().apply(&change, &mut Unbound);
        for row in spec.rows() {
            rows += 1;
            let name = format!("{}: {}", file.display(), row.text);
            let raw_path = row.target.split('?').next().unwrap_or_default();
            let (Ok(host), Ok(path)) =
                (RequestHost::parse(row.host().as_bytes()), path::normalise(raw_path.as_bytes()))
            else {
                assert_eq!(row.outcome, Outcome::Reply(400, "BadRequest".to_owned()), "{name}");
                continue;
            };
            let route = table.route(host.as_str(), &path);
            match &row.outcome {
                Outcome::Backend { backend, path, path_type, ingress, .. } => {
                    let route = route.unwrap_or_else(|| panic!("{name}: no route"));
                    let Target::Backend(key) = &route.target else { panic!("{name}: {:?}", route.target) };
                    assert_eq!(key.to_string(), *backend, "{name}");
                    let usable = world.snapshot().backends.get(key).and_then(Resource::value).expect(&name);
                    assert_eq!(usable.unavailable, None, "{name}");
                    let same = |expected: &Option<String>, found: &str| {
                        expected.as_ref().is_none_or(|expected| expected == found)
                    };
                    assert!(same(path, &route.path), "{name}: path {}", route.path);
                    assert!(same(path_type, route.path_type.as_str()), "{name}: type {}", route.path_type);
                    let of = route.ingress.as_ref().map(ToString::to_string).unwrap_or_default();
                    assert!(same(ingress, &of), "{name}: ingress {of}");
                }
                Outcome::Reply(404, reason) if reason == "NoRoute" => assert!(route.is_none(), "{name}: {route:?}"),
                Outcome::Reply(..) | Outcome::Redirect(_) | Outcome::File(_) => {}
            }
        }
        if let Some(expected) = &spec.diagnostics {
            let mut expected = expected.clone();
            let found = world
                .diagnostics()
                .into_iter()
                .map(|diagnostic| format!("{} {}", diagnostic.object, diagnostic.reason));
            let mut found: Vec<String> = found.collect();
            expected.sort();
            found.sort();
            found.dedup();
            assert_eq!(found, expected, "{}", file.display());
        }
    }
    assert!(rows >= 150, "the spec has {rows} rows");
}
