//! Rows of the routing spec over sockets: what a gateway did with one. Shared with the controller's tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use sluicegate_snapshot::model::Resource;
use sluicegate_snapshot::{Edit, Object, Settings, World};

use crate::client;
use crate::spec::{Outcome, Row};

/// What the objects of a file make, as compile says it, to name what answered.
pub struct Names {
    /// The files of the ConfigMaps, as `namespace/name key`.
    files: BTreeMap<String, Vec<u8>>,
    /// Endpoints of every backend.
    pub endpoints: BTreeMap<String, BTreeSet<SocketAddr>>,
}

impl Names {
    pub fn of(settings: Settings, objects: impl IntoIterator<Item = Object>) -> Names {
        let mut world = World::new(settings);
        world.apply(objects.into_iter().map(Edit::Put));
        let snapshot = world.snapshot();
        let contents = snapshot.contents.iter().filter_map(|(key, content)| Some((key, content.value()?)));
        let files = contents.flat_map(|(map, content)| {
            content.files.iter().map(move |(key, file)| (format!("{map} {key}"), file.bytes.to_vec()))
        });
        let of = |resource: &Resource<sluicegate_snapshot::model::Backend>| {
            resource.value().map(|backend| backend.endpoints.iter().copied().collect())
        };
        let endpoints = snapshot.backends.iter().filter_map(|(key, resource)| Some((key.to_string(), of(resource)?)));
        Names { files: files.collect(), endpoints: endpoints.collect() }
    }

    /// Which file these bytes are; for HEAD, and where several are equal, the one that the row names.
    pub fn file(&self, row: &Row, body: &[u8]) -> String {
        if let Outcome::File(name) = &row.outcome
            && self.files.get(name).is_some_and(|bytes| row.method == "HEAD" || bytes == body)
        {
            return name.clone();
        }
        let found = self.files.iter().find(|(_, bytes)| *bytes == body);
        found.map_or_else(|| "no file of the spec".to_owned(), |(name, _)| name.clone())
    }
}

/// Whether what was found is what the row says; what the row leaves out may be anything.
pub fn agrees(expected: &Outcome, found: &Outcome) -> bool {
    let open = |expected: &Option<String>, found: &Option<String>| expected.is_none() || expected == found;
    match (expected, found) {
        (
            Outcome::Backend { backend: a, path: b, path_type: c, ingress: d, forwarded: e },
            Outcome::Backend { backend: v, path: w, path_type: x, ingress: y, forwarded: z },
        ) => a == v && open(b, w) && open(c, x) && open(d, y) && open(e, z),
        _ => expected == found,
    }
}

/// Sends a row's request and says what came of it.
pub fn over_socket(row: &Row, (http, https): (SocketAddr, SocketAddr), names: &Names) -> Outcome {
    let host = row.host().to_owned();
    let fields: Vec<(&str, &str)> = row
        .headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let fields = [fields.as_slice(), &[("Connection", "close")]].concat();
    let response = if row.https {
        client::Tls::new().connect(https, Some(&row.authority)).request(&row.method, &host, &row.target, &fields)
    } else {
        client::request(http, &row.method, &host, &row.target, &fields)
    };
    if let Some(backend) = response.header("x-echo") {
        let address: SocketAddr = backend.parse().unwrap();
        let route = response.header("sluicegate-route").expect("debugHeader is on");
        assert!(route.contains(";version="), "{route}");
        let part =
            |key: &str| route.split(';').find_map(|part| part.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        let forwarded =
            if row.method == "HEAD" { None } else { Some(response.json()["target"].as_str().unwrap().to_owned()) };
        return Outcome::Backend {
            backend: names
                .endpoints
                .iter()
                .find(|(_, addresses)| addresses.contains(&address))
                .expect("a known endpoint")
                .0
                .clone(),
            path: part("path"),
            path_type: part("type"),
            ingress: route.split(';').next().filter(|ingress| *ingress != "-").map(str::to_owned),
            forwarded,
        };
    }
    match (response.status, response.header("sluicegate-reason"), response.header("location")) {
        (308, _, Some(location)) => Outcome::Redirect(location.to_owned()),
        (200, None, _) if response.header("etag").is_some() => Outcome::File(names.file(row, &response.body)),
        (status, reason, _) => Outcome::Reply(status, reason.unwrap_or_default().to_owned()),
    }
}
