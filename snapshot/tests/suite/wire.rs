//! The stream to gateways, without a network: what is sent makes what was published.

use proptest::prelude::*;
use sluicegate_snapshot::model::{Digest, Resource};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::wire::{Frame, FrameReader, FullBegin, FullEnd, Received, Receiver, Update};
use sluicegate_snapshot::{Delta, Settings, World};

use crate::incremental::edits;

/// Over the wire and back.
fn sent(frame: &Frame) -> Frame {
    let mut reader = FrameReader::default();
    reader.push(&frame.encode().unwrap());
    reader.next_frame().unwrap().unwrap()
}

/// A gateway.
#[derive(Default)]
struct Gateway {
    receiver: Receiver,
    replica: Replica,
}

impl Gateway {
    /// Takes a frame; true: everything is needed.
    fn take(&mut self, frame: &Frame) -> bool {
        match self.receiver.take(sent(frame), self.replica.snapshot()) {
            Received::Delta(delta, _) => {
                self.replica.apply(&delta);
                false
            }
            Received::Resync(_) => true,
            Received::Nothing | Received::Current(_) => false,
        }
    }

    fn sync(&mut self, world: &World) {
        let version = world.snapshot().version.clone();
        self.take(&Frame::FullBegin(FullBegin { version: version.clone(), confirmed: false }));
        self.take(&Frame::FullPart(Box::new(Update::new(None, Delta::full(world.snapshot())))));
        assert!(!self.take(&Frame::FullEnd(FullEnd { version })));
    }

    /// Whether it has what is published, private keys included.
    fn has(&self, world: &World) -> bool {
        self.replica.snapshot() == world.snapshot() && self.replica.awaited_keys() == 0
    }
}

fn update(base: Digest, delta: &Delta) -> Frame {
    Frame::Update(Box::new(Update::new(Some(base), delta.clone())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Changes make what a full sync makes; one that was missed is noticed, and a full sync heals it.
    #[test]
    fn changes_and_full_syncs_make_what_was_published(script in edits(), missed in 0..8usize) {
        let mut world = World::new(Settings::default());
        let (mut follower, mut forgetful) = (Gateway::default(), Gateway::default());
        follower.sync(&world);
        forgetful.sync(&world);
        for (index, edit) in script.into_iter().enumerate() {
            let base = world.snapshot().version.digest;
            let delta = world.apply([edit]).delta;
            if delta.is_empty() {
                continue;
            }
            let frame = update(base, &delta);
            prop_assert!(!follower.take(&frame));
            prop_assert!(follower.has(&world));
            if index != missed && forgetful.take(&frame) {
                forgetful.sync(&world);
                prop_assert!(forgetful.has(&world));
            }
        }
    }
}

/// A certificate's key is on the wire and comes back; nowhere else.
#[test]
fn private_keys_travel_beside_the_delta() {
    let (certificate, key) = crate::compile::certificate_pem(&["a.test"]);
    let text = serde_json::json!([
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": "n"}, "stringData": {"tls.crt": certificate, "tls.key": key}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i", "namespace": "n"},
         "spec": {"tls": [{"hosts": ["a.test"], "secretName": "tls"}], "rules": [{"host": "a.test"}]}},
    ]);
    let mut world = World::new(Settings::default());
    world.apply(
        text.as_array()
            .unwrap()
            .iter()
            .map(|value| sluicegate_snapshot::Edit::Put(crate::objects::object(value.clone()))),
    );
    let mut gateway = Gateway::default();
    gateway.sync(&world);
    assert!(gateway.has(&world));
    let certificates = &gateway.replica.snapshot().certificates;
    let Some(Resource::Valid(certificate)) = certificates.values().next() else { panic!("{certificates:?}") };
    assert!(certificate.key.expose_der().is_some_and(|der| !der.is_empty()));
    let update = Update::new(None, Delta::full(world.snapshot()));
    let encoded = openssl::base64::encode_block(certificate.key.expose_der().unwrap());
    assert!(serde_json::to_string(&update).unwrap().contains(&encoded));
    assert!(!format!("{update:?}").contains(&encoded));
}

/// A full sync that does not make what it says is not taken.
#[test]
fn a_full_sync_that_lost_a_part_is_refused() {
    let world = crate::objects::world(
        Settings::default(),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: n}\nspec: {rules: [{host: a.test}]}\n",
    );
    let mut gateway = Gateway::default();
    let version = world.snapshot().version.clone();
    gateway.take(&Frame::FullBegin(FullBegin { version: version.clone(), confirmed: false }));
    assert!(gateway.take(&Frame::FullEnd(FullEnd { version })), "everything is asked for again");
    assert_eq!(gateway.replica, Replica::default());
}
