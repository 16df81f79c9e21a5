//! Static files out of ConfigMaps (`backend.resource`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// One key of a ConfigMap.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticFile {
    /// The bytes of `data` or `binaryData`.
    pub bytes: Arc<[u8]>,
    /// Strong entity tag without quotes: 16 hexadecimal digits of the SHA-256 of the bytes.
    pub etag: Arc<str>,
}

impl StaticFile {
    /// A file of these bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let digest = Sha256::digest(&bytes);
        let etag: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        StaticFile { bytes, etag: etag.into() }
    }
}

impl std::fmt::Debug for StaticFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticFile({} bytes, {})", self.bytes.len(), self.etag)
    }
}

/// Text stays text in JSON; other bytes become base64, as in a ConfigMap.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Stored<'a> {
    Text(std::borrow::Cow<'a, str>),
    Base64(String),
}

impl Serialize for StaticFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Stored::Text(text.into()),
            Err(_) => Stored::Base64(openssl::base64::encode_block(&self.bytes)),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StaticFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Text(text) => StaticFile::new(text.as_bytes()),
            Stored::Base64(text) => StaticFile::new(openssl::base64::decode_block(&text).map_err(de::Error::custom)?),
        })
    }
}

/// The files of one ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticContent {
    /// By key; a key may hold `-`, `_`, `.` and alphanumerics, so there are no directories.
    pub files: BTreeMap<Arc<str>, StaticFile>,
    /// Set where the ConfigMap may not be served: it lacks the label `sluicegate.dev/publish: "true"` (cluster mode).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_published: bool,
}
