//! Programs of different versions: what a newer controller sends is taken by this gateway, and what this one does not know of it
//! hurts nothing else.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluicegate_snapshot::key::HostPattern;
use sluicegate_snapshot::model::{Digest, Refusal, Resource, Target};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::wire::{FrameReader, Received, Receiver};
use sluicegate_snapshot::{DiagnosticReason, Settings};

use crate::objects::world;

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: n}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: n, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: a, namespace: n}
spec: {rules: [{host: a.test, http: {paths: [
  {path: /old, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}},
  {path: /new, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: b, namespace: n}
spec: {rules: [{host: b.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
";

/// What a newer controller publishes: by field of a delta, by key.
type Published = BTreeMap<String, BTreeMap<String, Value>>;

/// The kind of resource in a field: part of its digest.
fn kind(field: &str) -> &str {
    match field {
        "hosts" => "host",
        "backends" => "backend",
        "contents" => "content",
        "tlsHosts" => "tlsHost",
        "certificates" => "certificate",
        other => other,
    }
}

fn digest(published: &Published, globals: &Value) -> Digest {
    let mut digest = Digest::of_text("globals", "null", &globals.to_string());
    for (field, entries) in published {
        for (key, value) in entries {
            digest.add(Digest::of_text(kind(field), &json!(key).to_string(), &value.to_string()));
        }
    }
    digest
}

fn frame(kind: u8, payload: &Value) -> Vec<u8> {
    let payload = payload.to_string();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, 0], payload.as_bytes()].concat()
}

/// A gateway of this version.
#[derive(Default)]
struct Gateway {
    receiver: Receiver,
    replica: Replica,
}

impl Gateway {
    fn take(&mut self, frames: &[Vec<u8>]) {
        let mut reader = FrameReader::default();
        reader.push(&frames.concat());
        while let Some(frame) = reader.next_frame().unwrap() {
            match self.receiver.take(frame, self.replica.snapshot()) {
                Received::Delta(delta, _) => drop(self.replica.apply(&delta)),
                Received::Resync(why) => panic!("{why}"),
                Received::Nothing | Received::Current(_) => {}
            }
        }
    }

    fn digest(&self) -> Digest {
        self.replica.snapshot().version.digest
    }

    fn targets(&self, host: &str) -> Vec<(String, Target)> {
        let host = &self.replica.snapshot().hosts[&HostPattern::Exact(host.into())];
        host.routes.iter().map(|route| (route.path.to_string(), route.target.clone())).collect()
    }
}

fn version(digest: Digest) -> Value {
    json!({"epoch": 0, "digest": digest, "mood": "new field"})
}

fn full_sync(published: &Published, globals: &Value) -> Vec<Vec<u8>> {
    let version = version(digest(published, globals));
    let mut delta = json!({"version": version, "globals": globals});
    for (field, entries) in published {
        delta[field] = json!(entries);
    }
    vec![
        frame(2, &json!({"version": version, "novel": 1})),
        frame(3, &json!({"delta": delta, "novel": {}})),
        frame(4, &json!({"version": version})),
    ]
}

/// A world as a newer controller would publish it: with fields, arms and a collection that do not exist here.
fn newer() -> (Published, Value) {
    let world = world(Settings::default(), MANIFESTS);
    let mut snapshot = serde_json::to_value(world.snapshot()).unwrap();
    let mut globals = snapshot["globals"].take();
    globals["novel"] = json!({"a": [1, 2]});
    let mut published = Published::new();
    for field in ["hosts", "backends", "contents", "tlsHosts", "certificates"] {
        published.insert(field.to_owned(), serde_json::from_value(snapshot[field].take()).unwrap());
    }
    let a = &mut published.get_mut("hosts").unwrap().get_mut("a.test").unwrap()["routes"];
    let new = a.as_array_mut().unwrap().iter_mut().find(|route| route["path"] == "/new").unwrap();
    new["target"] = json!({"mirror": {"to": "n/web:80"}});
    published.get_mut("hosts").unwrap().get_mut("b.test").unwrap()["weight"] = json!(7);
    published.get_mut("backends").unwrap().insert("n/web:443".to_owned(), json!({"quantum": {"endpoints": []}}));
    published.get_mut("certificates").unwrap().insert("n/tls".to_owned(), json!({"invalid": {"reason": "NewReason"}}));
    published.insert("tcpRoutes".to_owned(), BTreeMap::from([("5432".to_owned(), json!({"to": "n/db:5432"}))]));
    (published, globals)
}

#[test]
fn what_a_newer_controller_sends_is_taken_and_what_is_unknown_is_closed() {
    let (published, globals) = newer();
    let mut gateway = Gateway::default();
    gateway.take(&full_sync(&published, &globals));
    assert_eq!(gateway.digest(), digest(&published, &globals), "it is in step");
    let targets = gateway.targets("a.test");
    assert!(targets.iter().any(|(path, target)| path == "/old" && matches!(target, Target::Backend(_))), "{targets:?}");
    assert!(targets.contains(&("/new".to_owned(), Target::Refused(Refusal::Unknown))), "{targets:?}");
    assert!(matches!(gateway.targets("b.test")[0].1, Target::Backend(_)), "an unknown field closes nothing");
    let snapshot = gateway.replica.snapshot();
    assert!(matches!(snapshot.backends[&"n/web:80".parse().unwrap()], Resource::Valid(_)));
    let unknown = |resource: &Resource<_>| matches!(resource, Resource::Invalid(invalid) if invalid.reason == DiagnosticReason::NotUnderstood);
    assert!(unknown(&snapshot.backends[&"n/web:443".parse().unwrap()]));
    // A gateway that starts from its state file has it all again.
    let text = serde_json::to_string(&gateway.replica).unwrap();
    assert_eq!(serde_json::from_str::<Replica>(&text).unwrap(), gateway.replica);
}

#[test]
fn changes_of_what_is_unknown_keep_the_gateway_in_step() {
    let (mut published, globals) = newer();
    let mut gateway = Gateway::default();
    gateway.take(&full_sync(&published, &globals));
    let set = |published: &mut Published, field: &str, key: &str, value: Option<Value>| {
        let entries = published.entry(field.to_owned()).or_default();
        match &value {
            Some(value) => drop(entries.insert(key.to_owned(), value.clone())),
            None => drop(entries.remove(key)),
        }
        json!({field: {key: value}})
    };
    let b = published["hosts"]["b.test"].clone();
    let changed = |field: &str, value: Value| {
        let mut b = b.clone();
        b[field] = value;
        b
    };
    let plain = {
        let mut b = b.clone();
        b.as_object_mut().unwrap().remove("weight");
        b
    };
    let steps: Vec<(&str, &str, Option<Value>)> = vec![
        ("hosts", "b.test", Some(changed("weight", json!(8)))),
        ("hosts", "b.test", Some(plain)),
        ("hosts", "b.test", Some(changed("weight", json!(9)))),
        ("hosts", "b.test", None),
        ("tcpRoutes", "5432", Some(json!({"to": "n/other:1"}))),
        ("tcpRoutes", "5433", Some(json!({}))),
        ("tcpRoutes", "5432", None),
        ("backends", "n/web:443", None),
        ("hosts", "?regex", Some(json!({"routes": []}))),
        ("hosts", "?regex", None),
        ("hosts", "a.test", Some(json!({"routes": "of another form"}))),
    ];
    for (field, key, value) in steps {
        let base = digest(&published, &globals);
        let what = format!("{field} {key} {value:?}");
        let mut delta = set(&mut published, field, key, value);
        let now = digest(&published, &globals);
        delta["version"] = version(now);
        gateway.take(&[frame(5, &json!({"base": base, "delta": delta}))]);
        assert_eq!(gateway.digest(), now, "{what}");
        // A full sync of the same says that nothing has changed.
        let before = gateway.replica.clone();
        gateway.take(&full_sync(&published, &globals));
        assert_eq!((gateway.digest(), &gateway.replica), (now, &before), "{what}");
    }
    assert_eq!(gateway.targets("a.test"), [("/".to_owned(), Target::Refused(Refusal::Unknown))], "all of it is closed");
}

/// A conversation of version 1 of the stream, as it was when it was frozen: `KIND PAYLOAD` by line. Never changed; another version of
/// the stream gets a file of its own.
const WIRE_1: &str = include_str!("../wire/1.txt");

#[test]
fn the_frozen_conversation_of_version_1_is_understood() {
    let mut gateway = Gateway::default();
    let mut kinds = std::collections::BTreeSet::new();
    let mut digests = Vec::new();
    for line in WIRE_1.lines() {
        let (kind, payload) = line.split_once(' ').unwrap();
        let (kind, payload): (u8, Value) = (kind.parse().unwrap(), serde_json::from_str(payload).unwrap());
        kinds.insert(kind);
        let mut reader = FrameReader::default();
        // Byte for byte: digests are of what was sent.
        let text = line.split_once(' ').unwrap().1;
        let head = [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], &[kind, 0]].concat();
        reader.push(&[&head, text.as_bytes()].concat());
        let frame = reader.next_frame().unwrap().unwrap();
        assert!(!matches!(frame, sluicegate_snapshot::wire::Frame::Unknown(_)), "{line}");
        if let Received::Delta(delta, _) = gateway.receiver.take(frame, gateway.replica.snapshot()) {
            gateway.replica.apply(&delta);
            digests.push(gateway.digest().to_string());
            let said = payload["version"]["digest"].as_str().or(payload["delta"]["version"]["digest"].as_str());
            assert_eq!(said, digests.last().map(String::as_str), "{line}");
        }
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 65, 66, 67, 68, 69],
        "every kind of frame is in it"
    );
    assert_eq!(digests.len(), 3, "a full sync and two changes");
    let snapshot = gateway.replica.snapshot();
    assert!(snapshot.partial.is_empty(), "this version understands all of it");
    assert_eq!((snapshot.route_count(), snapshot.certificates.len()), (2, 1));
}

/// Writes what [`WIRE_1`] is made of: `WIRE_FIXTURE=FILE cargo test -p sluicegate-snapshot --test suite fixture`.
#[test]
fn fixture_of_the_conversation() {
    use sluicegate_snapshot::wire::*;
    use sluicegate_snapshot::{Delta, Edit};
    let Some(path) = std::env::var_os("WIRE_FIXTURE") else { return };
    let (certificate, key) = crate::compile::certificate_pem(&["a.test"]);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": "n"},
        "stringData": {"tls.crt": certificate, "tls.key": key},
    });
    let with_tls = MANIFESTS.replace(
        "spec: {rules: [{host: a.test",
        "spec: {tls: [{hosts: [a.test], secretName: tls}], rules: [{host: a.test",
    );
    let mut world = world(Settings::default(), &with_tls);
    world.apply([Edit::Put(crate::objects::object(secret))]);
    let mut frames = vec![
        Frame::Hello(Hello {
            wire: WIRE,
            gateway: "edge".into(),
            program: "0.1.0".into(),
            have: None,
            have_from: None,
            lacks_keys: false,
            addresses: Vec::new(),
        }),
        Frame::Welcome(Welcome {
            wire: WIRE,
            controller: "controller".into(),
            program: "0.1.0".into(),
            instance: None,
        }),
        Frame::FullBegin(FullBegin { version: world.snapshot().version.clone(), confirmed: true }),
        Frame::FullPart(Box::new(Update::new(None, Delta::full(world.snapshot())))),
        Frame::FullEnd(FullEnd { version: world.snapshot().version.clone() }),
    ];
    for edit in [
        Edit::Remove(sluicegate_snapshot::Kind::EndpointSlice, "n/web-1".parse().unwrap()),
        Edit::Remove(sluicegate_snapshot::Kind::Ingress, "n/b".parse().unwrap()),
    ] {
        let base = world.snapshot().version.digest;
        let delta = world.apply([edit]).delta;
        frames.push(Frame::Update(Box::new(Update::new(Some(base), delta).from_list(true))));
    }
    let version = world.snapshot().version.clone();
    frames.extend([
        Frame::Heartbeat(Heartbeat { version: Some(version.clone()) }),
        Frame::Ack(Ack { version: version.clone(), refused: Vec::new() }),
        Frame::Resync(Resync { why: "test".into() }),
        Frame::Ahead(Ahead { have: version }),
        Frame::Doubt(Doubt { routes: 24, left: 5 }),
    ]);
    let line = |frame: &Frame| {
        let bytes = frame.encode().unwrap();
        format!("{} {}\n", bytes[4], std::str::from_utf8(&bytes[6..]).unwrap())
    };
    std::fs::write(path, frames.iter().map(line).collect::<String>()).unwrap();
}
