//! The routing spec, its pure part: compile → apply → match, and the diagnostics. Rows that the gateway answers by
//! itself (redirects, files, refusals of bad requests) are judged by the gateway's tests, with every other row, through
//! its phases and over sockets.

use std::collections::BTreeSet;

use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::model::{Resource, Target};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::table::{RouteTable, Unbound};
use sluicegate_snapshot::{Delta, Edit, World, path};

use crate::spec::{Outcome, Row, SpecFile};

#[test]
fn every_row_finds_its_route() {
    let (mut rows, mut wrong) = (0, Vec::new());
    for (file, spec) in SpecFile::all() {
        let mut world = World::new(spec.settings());
        world.apply(spec.objects().into_iter().map(Edit::Put));
        let change = Replica::default().apply(&Delta::full(world.snapshot()));
        let table = RouteTable::<Unbound>::default().apply(&change, &mut Unbound);
        for row in spec.rows() {
            rows += 1;
            if let Err(why) = judge(&row, &world, &table) {
                wrong.push(format!("{} ({}): {}: {why}", file.display(), spec.title, row.text));
            }
        }
        if let Some(expected) = &spec.diagnostics {
            let found = diagnostics(&world);
            if found != expected.iter().cloned().collect() {
                wrong.push(format!("{}: diagnostics {found:?}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows >= 150, "the spec has {rows} rows");
}

fn diagnostics(world: &World) -> BTreeSet<String> {
    world.diagnostics().iter().map(|diagnostic| format!("{} {}", diagnostic.object, diagnostic.reason)).collect()
}

fn judge(row: &Row, world: &World, table: &RouteTable<Unbound>) -> Result<(), String> {
    let raw_path = row.target.split('?').next().unwrap_or_default();
    let (Ok(host), Ok(path)) = (RequestHost::parse(row.host().as_bytes()), path::normalise(raw_path.as_bytes())) else {
        return if row.outcome == Outcome::Reply(400, "BadRequest".to_owned()) {
            Ok(())
        } else {
            Err("the request is malformed".to_owned())
        };
    };
    let route = table.route(host.as_str(), &path);
    let Outcome::Backend { backend, path, path_type, ingress, .. } = &row.outcome else {
        let no_route = matches!(&row.outcome, Outcome::Reply(404, reason) if reason == "NoRoute");
        return if no_route && route.is_some() { Err(format!("found {route:?}")) } else { Ok(()) };
    };
    let route = route.ok_or("no route")?;
    let Target::Backend(key) = &route.target else { return Err(format!("found {:?}", route.target)) };
    let usable = world.snapshot().backends.get(key).and_then(Resource::value).ok_or("the backend is invalid")?;
    let of = route.ingress.as_ref().map(ToString::to_string).unwrap_or_default();
    let same = |expected: &Option<String>, found: &str| expected.as_ref().is_none_or(|expected| expected == found);
    let agrees = key.to_string() == *backend
        && usable.unavailable.is_none()
        && same(path, &route.path)
        && same(path_type, route.path_type.as_str())
        && same(ingress, &of);
    if agrees { Ok(()) } else { Err(format!("found {route:?}, {:?}", usable.unavailable)) }
}
