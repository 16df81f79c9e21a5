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
        if serde_json::to_writer(&mut hash, &(kind, key, value)).is_err() {
            return Digest::default();
        }
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

/// Which state of the world a snapshot was compiled from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Raised when the API server was restored from an older state; always 0 from files.
    pub epoch: u64,
    /// Highest `resourceVersion` seen per kind; empty from files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_versions: BTreeMap<Kind, u64>,
    /// Digest of the content.
    pub digest: Digest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.digest.short())
    }
}
