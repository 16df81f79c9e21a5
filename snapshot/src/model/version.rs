//! Versions and digests: which of two snapshots is newer, and whether they are equal.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::key::Kind;

/// Digest of a set of resources: the sum, modulo 2^256 by four 64-bit lanes, of the SHA-256 of each. Adding and
/// removing one resource costs O(that resource), and order does not matter. It tells equal content from unequal; it is
/// no signature.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Digest of one resource: its type, key and value, as canonical JSON (maps are sorted in every model type).
    pub fn of<K: Serialize, V: Serialize>(kind: &str, key: &K, value: &V) -> Digest {
        let mut hash = Sha256::new();
        // Model types serialise to JSON without fail: string keys, no foreign types.
        match serde_json::to_writer(&mut hash, &(kind, key, value)) {
            Ok(()) => Digest::finish(hash),
            Err(_) => Digest::default(),
        }
    }

    /// The same of a resource in JSON, as it was sent. `key` with its quotes.
    pub fn of_text(kind: &str, key: &str, value: &str) -> Digest {
        let mut hash = Sha256::new();
        for part in ["[\"", kind, "\",", key, ",", value, "]"] {
            hash.update(part);
        }
        Digest::finish(hash)
    }

    fn finish(hash: Sha256) -> Digest {
        let bytes = hash.finalize();
        let mut lanes = [0; 4];
        for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            *lane = u64::from_be_bytes(eight);
        }
        Digest(lanes)
    }

    /// Adds a resource's digest.
    pub fn add(&mut self, other: Digest) {
        for (lane, value) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(value);
        }
    }

    /// Takes a resource's digest out.
    pub fn remove(&mut self, other: Digest) {
        for (lane, value) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_sub(value);
        }
    }

    /// The first 48 bits, as a number: what [`Digest::short`] writes, for metrics.
    pub fn number(&self) -> u64 {
        self.0[0] >> 16
    }

    /// The first 12 hexadecimal digits: enough to tell versions apart by eye.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut lanes = [0; 4];
        if text.len() != 64 || !text.is_ascii() {
            return Err(de::Error::custom("expected 64 hexadecimal digits"));
        }
        for (index, lane) in lanes.iter_mut().enumerate() {
            *lane = u64::from_str_radix(&text[index * 16..index * 16 + 16], 16).map_err(de::Error::custom)?;
        }
        Ok(Digest(lanes))
    }
}

/// `resourceVersion`s by kind of object.
pub type ResourceVersions = BTreeMap<Kind, u64>;

/// Which state of the world a snapshot was compiled from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Raised when the API server was restored from an older state; always 0 from files.
    pub epoch: u64,
    /// Highest `resourceVersion` per kind that the content may show: of an object, of a deletion, of a list. Empty from files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "known_kinds")]
    pub resource_versions: ResourceVersions,
    /// `resourceVersion` per kind up to which everything is known: of a list, a bookmark, an event. A kind is absent while
    /// nothing of it is watched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "known_kinds")]
    pub complete: ResourceVersions,
    /// Digest of the content.
    pub digest: Digest,
}

/// Kinds of a newer program have no meaning here.
fn known_kinds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ResourceVersions, D::Error> {
    let all = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let known =
        |(name, version): (String, u64)| Some((Kind::ALL.into_iter().find(|kind| kind.as_str() == name)?, version));
    Ok(all.into_iter().filter_map(known).collect())
}

/// Why a version may not follow another one: it may show an older state of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Its epoch is lower.
    Epoch {
        /// The lower one.
        offered: u64,
        /// The one in force.
        have: u64,
    },
    /// It does not know everything of a kind that the other one may show.
    Kind {
        /// The kind.
        kind: Kind,
        /// Up to where it knows.
        offered: u64,
        /// Up to where the one in force may show.
        have: u64,
    },
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Behind::Epoch { offered, have } => write!(f, "it is of epoch {offered}, and {have} is in force"),
            Behind::Kind { kind, offered, have } => {
                write!(f, "it knows objects of kind {kind} up to resourceVersion {offered}, and {have} is in force")
            }
        }
    }
}

impl Version {
    /// Whether a snapshot of this version may replace one of the version `have`: equal content always may; else a lower
    /// epoch may not, and within an epoch one that does not know everything that the other one may show.
    ///
    /// A kind that is not watched here has no say: its objects are unknown, so the gateway keeps what it has of them.
    ///
    /// # Errors
    /// It is behind.
    pub fn may_follow(&self, have: &Version) -> Result<(), Behind> {
        if self.digest == have.digest || self.epoch > have.epoch {
            return Ok(());
        }
        if self.epoch < have.epoch {
            return Err(Behind::Epoch { offered: self.epoch, have: have.epoch });
        }
        let behind = |(kind, have): (&Kind, &u64)| {
            let offered = *self.complete.get(kind)?;
            (offered < *have).then_some(Behind::Kind { kind: *kind, offered, have: *have })
        };
        have.resource_versions.iter().find_map(behind).map_or(Ok(()), Err)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.digest.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `epoch`, what the content shows of Ingresses and Services, what is known of them; content by number.
    fn version(epoch: u64, shows: [u64; 2], complete: &[(Kind, u64)], content: u8) -> Version {
        Version {
            epoch,
            resource_versions: [Kind::Ingress, Kind::Service].into_iter().zip(shows).collect(),
            complete: complete.iter().copied().collect(),
            digest: Digest::of("test", &(), &content),
        }
    }

    #[test]
    fn a_version_follows_what_it_knows_all_of() {
        use Kind::{Ingress, Service};
        let have = version(1, [100, 90], &[(Ingress, 120), (Service, 95)], 1);
        let behind = |kind, offered, have| Err(Behind::Kind { kind, offered, have });
        for (what, offered, expected) in [
            ("newer", version(1, [110, 90], &[(Ingress, 110), (Service, 90)], 2), Ok(())),
            ("as new: what it knows counts", version(1, [80, 90], &[(Ingress, 100), (Service, 90)], 2), Ok(())),
            ("one kind lags", version(1, [99, 99], &[(Ingress, 99), (Service, 99)], 2), behind(Ingress, 99, 100)),
            ("another lags", version(1, [200, 80], &[(Ingress, 200), (Service, 89)], 2), behind(Service, 89, 90)),
            ("lags, equal content", version(1, [1, 1], &[(Ingress, 1), (Service, 1)], 1), Ok(())),
            ("restored", version(2, [1, 1], &[(Ingress, 1), (Service, 1)], 2), Ok(())),
            (
                "of before a restore",
                version(0, [900, 900], &[(Ingress, 900)], 2),
                Err(Behind::Epoch { offered: 0, have: 1 }),
            ),
            ("a kind is not watched", version(1, [100, 0], &[(Ingress, 100)], 2), Ok(())),
        ] {
            assert_eq!(offered.may_follow(&have), expected, "{what}");
        }
    }

    #[test]
    fn kinds_of_a_newer_program_are_passed_over() {
        let text =
            format!(r#"{{"epoch":0,"resourceVersions":{{"Ingress":7,"Gateway":9}},"digest":"{}"}}"#, Digest::default());
        let version: Version = serde_json::from_str(&text).unwrap();
        assert_eq!(version.resource_versions, ResourceVersions::from([(Kind::Ingress, 7)]));
    }
}
