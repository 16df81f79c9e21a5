//! The stream from a controller to its gateways, without the network: what the two say to each other, and in which form.
//!
//! A gateway opens one HTTP/2 stream (`POST` [`PATH`]) and says [`Hello`]. The controller answers with [`Welcome`] and, unless
//! the gateway has the current content already, with a full sync ([`FullBegin`], parts, [`FullEnd`]) or the deltas that it
//! missed; then with each [`Update`] as it happens. The gateway answers everything it took over with an [`Ack`], what may be
//! older than what it has with [`Ahead`], and what lost most of its routes with [`Doubt`]. Both send heartbeats, so that either
//! notices a dead peer.
//!
//! Skew of versions: an unknown frame kind is skipped, an unknown field ignored ([`WIRE`] is raised only where that is not
//! enough). ADR 0012 says why frames of JSON.

mod frame;
mod journal;
mod receive;
mod share;
mod understand;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use frame::{Frame, FrameError, FrameKind, FrameReader, MAX_FRAME};
pub use journal::{Cursor, Journal, Next};
pub use receive::{Origin, Received, Receiver};

use crate::diagnostic::DiagnosticReason;
use crate::key::ObjectKey;
use crate::model::{Delta, Digest, PrivateKey, Resource, Version};

/// Version of the conversation. A controller refuses a gateway that speaks another one.
pub const WIRE: u32 = 1;

/// Path of the stream.
pub const PATH: &str = "/v1/snapshots";

/// Seconds after which a side that has nothing to say sends a heartbeat.
pub const HEARTBEAT_SECONDS: u64 = 3;

/// Seconds without a frame after which the other side is taken for dead: three heartbeats.
pub const SILENCE_SECONDS: u64 = 9;

/// Most addresses of one gateway.
pub const MAX_ADDRESSES: usize = 16;

/// The first frame of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`WIRE`] of the gateway.
    pub wire: u32,
    /// Name of the gateway, for people: its pod's or machine's.
    pub gateway: Arc<str>,
    /// Version of its program, for people.
    pub program: Arc<str>,
    /// What it has in force; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<Version>,
    /// The [`Welcome::instance`] that it has this from; absent: from a state file, or it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have_from: Option<Arc<str>>,
    /// What it has lacks private keys (it comes from a state file): it needs everything.
    #[serde(default)]
    pub lacks_keys: bool,
    /// Addresses at which clients reach it: IP addresses or host names, for statuses of Ingresses; at most [`MAX_ADDRESSES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Arc<str>>,
}

/// The first frame of a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// [`WIRE`] of the controller.
    pub wire: u32,
    /// Name of the controller, for people.
    pub controller: Arc<str>,
    /// Version of its program, for people.
    pub program: Arc<str>,
    /// Tells this process from every other controller and from those before it. All that one of them publishes is later than what it
    /// published before, whatever their versions say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Arc<str>>,
}

/// Everything follows, in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FullBegin {
    /// The version that the parts make together.
    pub version: Version,
    /// The answer to a [`Doubt`]: everything was listed anew since.
    #[serde(default, skip_serializing_if = "is_false")]
    pub confirmed: bool,
}

/// Everything was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FullEnd {
    /// The version that the parts made together.
    pub version: Version,
}

/// A change, or a part of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Digest of what the delta changes; absent in a part of everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// What changed.
    pub delta: Delta,
    /// Something is gone by not being in a list, and not by an event that said so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub listed: bool,
    /// Private keys of the certificates in the delta: a [`PrivateKey`] itself serialises as its fingerprint only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    keys: BTreeMap<ObjectKey, KeyBytes>,
}

/// [`Update`] as it comes.
#[derive(Deserialize)]
struct RawUpdate<'a> {
    #[serde(default)]
    base: Option<Digest>,
    #[serde(default, borrow)]
    delta: understand::Fields<'a>,
    #[serde(default)]
    listed: bool,
    #[serde(default)]
    keys: BTreeMap<ObjectKey, KeyBytes>,
}

impl Update {
    /// Reads one that a program of any version wrote.
    fn read(payload: &[u8]) -> Result<Self, serde_json::Error> {
        let RawUpdate { base, delta, listed, keys } = serde_json::from_slice(payload)?;
        Ok(Update { base, delta: understand::delta(delta)?, listed, keys })
    }

    /// An update that carries the private keys of its certificates.
    pub fn new(base: Option<Digest>, delta: Delta) -> Self {
        let key = |(secret, certificate): (&ObjectKey, &Option<Resource<crate::model::Certificate>>)| {
            let key = &certificate.as_ref()?.value()?.key;
            Some((secret.clone(), KeyBytes(key.expose_der()?.into())))
        };
        let keys = delta.certificates.iter().filter_map(key).collect();
        Update { base, delta, keys, listed: false }
    }

    /// The same, of which something is gone by not being in a list (`listed`).
    pub fn from_list(self, listed: bool) -> Self {
        Update { listed, ..self }
    }

    /// The delta, its certificates with their keys again.
    pub fn into_delta(self) -> Delta {
        let Update { base: _, mut delta, mut keys, listed: _ } = self;
        for (secret, certificate) in &mut delta.certificates {
            if let (Some(Resource::Valid(certificate)), Some(KeyBytes(der))) = (certificate, keys.remove(secret)) {
                let fingerprint = certificate.key.fingerprint().to_owned();
                Arc::make_mut(certificate).key = PrivateKey::new(der, fingerprint);
            }
        }
        delta
    }
}

/// What a gateway took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// The version in force.
    pub version: Version,
    /// Resources of that version that the gateway cannot use, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
}

/// A resource that a gateway cannot use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The Secret of the certificate.
    pub secret: ObjectKey,
    /// Stable word; absent where a newer gateway has a word that this program does not know.
    #[serde(default, deserialize_with = "known_reason")]
    pub reason: Option<DiagnosticReason>,
    /// What is wrong, for people.
    pub message: Arc<str>,
}

fn known_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DiagnosticReason>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| DiagnosticReason::ALL.iter().find(|reason| reason.as_str() == text)).copied())
}

/// A gateway cannot go on from what it has and wants everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    /// Why, for people.
    pub why: Arc<str>,
}

/// A gateway does not take what came, since it may be older than what it has ([`Version::may_follow`]). The controller sends
/// nothing more until it knows as much, or knows that the API server went back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ahead {
    /// What the gateway has in force.
    pub have: Version,
}

/// A gateway holds back what came, since it has lost most of its routes, and asks for a second, complete listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Doubt {
    /// Routes in force.
    pub routes: usize,
    /// Routes of what is held back.
    pub left: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Sent where there is nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// From a controller: the version that it publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

/// A private key on the wire: base64 of its PKCS#8 DER. Never printed.
#[derive(Clone, PartialEq, Eq)]
struct KeyBytes(Arc<[u8]>);

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(key)")
    }
}

impl Serialize for KeyBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&openssl::base64::encode_block(&self.0))
    }
}

impl<'de> Deserialize<'de> for KeyBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The library's error would quote nothing of the text; ours does not either.
        let bytes = openssl::base64::decode_block(&text).map_err(|_| de::Error::custom("no base64"))?;
        Ok(KeyBytes(bytes.into()))
    }
}
