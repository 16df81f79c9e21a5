//! The state file's form: one line `sluicegate-state FORMAT COUNTER SEAL DIGEST`, then JSON.
//!
//! SEAL is `plain`, and DIGEST the SHA-256 of COUNTER and JSON; or, with an operator's key (`stateKey`), `sealed`, and DIGEST an
//! HMAC-SHA256 of them. Then private keys are in the JSON, each encrypted; else they are in no file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rand::rand_bytes;
use openssl::sign::Signer;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sluicegate_snapshot::replica::Replica;

/// Version of the file's form. A file of another version is not read.
pub const FORMAT: u32 = 2;

const MAGIC: &str = "sluicegate-state";

/// Longest first line.
const MAX_HEAD: usize = 200;

/// Least length of an operator's key, in bytes.
pub const MIN_KEY: usize = 32;

const NONCE: usize = 12;

const TAG: usize = 16;

/// What private keys in the state file are encrypted with, and what says that the file is ours: derived from a file that the
/// operator provides. Never printed.
#[derive(Clone)]
pub struct StateKey {
    encryption: Arc<[u8; 32]>,
    authentication: PKey<Private>,
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey")
    }
}

impl StateKey {
    /// Reads an operator's key: at least [`MIN_KEY`] bytes of any kind, for example of `head -c 32 /dev/urandom`.
    ///
    /// # Errors
    /// A sentence: the file cannot be read or is too short.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes =
            std::fs::read(path).map_err(|error| format!("stateKey: {} cannot be read: {error}", path.display()))?;
        if bytes.len() < MIN_KEY {
            return Err(format!(
                "stateKey: {} has {} bytes, at least {MIN_KEY} are needed",
                path.display(),
                bytes.len()
            ));
        }
        StateKey::of(&bytes).map_err(|error| format!("stateKey: {error}"))
    }

    /// Two keys for two purposes: HMAC as a pseudo-random function (NIST SP 800-108).
    fn of(bytes: &[u8]) -> Result<Self, openssl::error::ErrorStack> {
        Ok(StateKey {
            encryption: Arc::new(hmac(bytes, b"sluicegate state file: encryption of keys")?),
            authentication: PKey::hmac(&hmac(bytes, b"sluicegate state file: authentication")?)?,
        })
    }

    /// Encrypts a private key (AES-256-GCM). The fingerprint of its public half is bound to it.
    fn seal(&self, fingerprint: &str, der: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE];
        rand_bytes(&mut nonce).ok()?;
        let mut tag = [0; TAG];
        let cipher = Cipher::aes_256_gcm();
        let sealed =
            encrypt_aead(cipher, &self.encryption[..], Some(&nonce), fingerprint.as_bytes(), der, &mut tag).ok()?;
        Some(openssl::base64::encode_block(&[&nonce[..], &tag, &sealed].concat()))
    }

    fn open(&self, fingerprint: &str, text: &str) -> Option<Vec<u8>> {
        let bytes = openssl::base64::decode_block(text).ok()?;
        let (nonce, rest) = bytes.split_at_checked(NONCE)?;
        let (tag, sealed) = rest.split_at_checked(TAG)?;
        decrypt_aead(Cipher::aes_256_gcm(), &self.encryption[..], Some(nonce), fingerprint.as_bytes(), sealed, tag).ok()
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Result<[u8; 32], openssl::error::ErrorStack> {
    let key = PKey::hmac(key)?;
    let mut code = [0; 32];
    Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot(&mut code, text)?;
    Ok(code)
}

/// What the JSON holds.
#[derive(Serialize, Deserialize)]
struct Body {
    replica: Replica,
    /// Encrypted private keys, by the fingerprint of their public half.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    keys: BTreeMap<String, String>,
}

/// What a state file says.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    /// The replica; with its private keys, where the file is sealed.
    pub replica: Replica,
    /// Raised with each file that is written.
    pub counter: u64,
}

/// Writes the file, from where `out` stands. What is held meanwhile does not grow with the replica: the first line is written last, over
/// one of the same length.
///
/// # Errors
/// `out` does not take it.
pub fn encode(replica: &Replica, counter: u64, key: Option<&StateKey>, mut out: impl Write + Seek) -> io::Result<()> {
    let keys = key.map(|key| {
        let seal = |(fingerprint, der): (&str, &[u8])| Some((fingerprint.to_owned(), key.seal(fingerprint, der)?));
        replica.private_keys().filter_map(seal).collect()
    });
    #[derive(Serialize)]
    struct BodyRef<'a> {
        replica: &'a Replica,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        keys: BTreeMap<String, String>,
    }
    let seal = if key.is_some() { "sealed" } else { "plain" };
    let head = |digest: &str| format!("{MAGIC} {FORMAT} {counter} {seal} {digest}\n");
    let start = out.stream_position()?;
    out.write_all(head(&"0".repeat(DIGEST)).as_bytes())?;
    let mut body = BufWriter::new(Digesting { out, digest: Checksum::new(counter, key)? });
    serde_json::to_writer(&mut body, &BodyRef { replica, keys: keys.unwrap_or_default() })?;
    let Digesting { mut out, digest } = body.into_inner().map_err(io::IntoInnerError::into_error)?;
    let end = out.stream_position()?;
    out.seek(SeekFrom::Start(start))?;
    out.write_all(head(&digest.finish()?).as_bytes())?;
    out.seek(SeekFrom::Start(end))?;
    Ok(())
}

/// Passes on what is written, and digests it.
struct Digesting<'k, W: Write> {
    out: W,
    digest: Checksum<'k>,
}

impl<W: Write> Write for Digesting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.digest.update(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads a file's bytes.
///
/// # Errors
/// A sentence that fits behind the file's name: what is wrong, and what happens.
pub fn decode(bytes: &[u8], key: Option<&StateKey>) -> Result<State, String> {
    let foreign = || "is no state file of sluicegate; remove it or choose another state directory".to_owned();
    let end = bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n').ok_or_else(foreign)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| foreign())?;
    let words: Vec<&str> = head.split(' ').collect();
    let [MAGIC, format, rest @ ..] = &words[..] else { return Err(foreign()) };
    if *format != FORMAT.to_string() {
        return Err(format!("is of format {format}, this gateway reads {FORMAT}; it is rebuilt from the source"));
    }
    let [counter, seal, said] = rest else { return Err(foreign()) };
    let counter = counter.parse().map_err(|_| foreign())?;
    let key = match (*seal, key) {
        ("plain", None) => None,
        ("sealed", Some(key)) => Some(key),
        ("plain", Some(_)) => {
            return Err(
                "was written without a stateKey, so nothing says that it is ours; it is rebuilt from the source"
                    .to_owned(),
            );
        }
        ("sealed", None) => {
            return Err("was written with a stateKey, which is missing now; it is rebuilt from the source".to_owned());
        }
        _ => return Err(foreign()),
    };
    let body = &bytes[end + 1..];
    let mut checksum = Checksum::new(counter, key).map_err(|error| error.to_string())?;
    let digest = checksum.update(body).and_then(|()| checksum.finish()).map_err(|error| error.to_string())?;
    if said.len() != digest.len() || !openssl::memcmp::eq(digest.as_bytes(), said.as_bytes()) {
        return Err("is truncated, was changed, or is of another stateKey (its checksum differs); it is rebuilt from the source".to_owned());
    }
    let Body { mut replica, keys } =
        serde_json::from_slice(body).map_err(|error| format!("cannot be understood: {error}"))?;
    if let Some(key) = key {
        replica.restore_keys(|fingerprint| key.open(fingerprint, keys.get(fingerprint)?));
    }
    Ok(State { replica, counter })
}

/// Hexadecimal digits of the checksum.
const DIGEST: usize = 64;

/// The checksum that the first line has, of the counter and the body.
enum Checksum<'k> {
    Plain(Sha256),
    Sealed(Signer<'k>),
}

impl<'k> Checksum<'k> {
    fn new(counter: u64, key: Option<&'k StateKey>) -> io::Result<Self> {
        let mut checksum = match key {
            Some(key) => Checksum::Sealed(Signer::new(MessageDigest::sha256(), &key.authentication)?),
            None => Checksum::Plain(Sha256::new()),
        };
        checksum.update(&counter.to_be_bytes())?;
        Ok(checksum)
    }

    fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Checksum::Plain(digest) => digest.update(bytes),
            Checksum::Sealed(signer) => signer.update(bytes)?,
        }
        Ok(())
    }

    fn finish(self) -> io::Result<String> {
        let digest = match self {
            Checksum::Plain(digest) => digest.finalize().to_vec(),
            Checksum::Sealed(signer) => signer.sign_to_vec()?,
        };
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use sluicegate_snapshot::model::{Certificate, KeyType, PrivateKey, Resource};
    use sluicegate_snapshot::{Delta, ObjectKey};

    use super::*;

    const DER: &[u8] = b"the bytes of a private key";

    fn replica() -> Replica {
        let certificate = Certificate {
            chain_pem: "pem".into(),
            key: PrivateKey::new(DER, "fingerprint of the key"),
            key_type: KeyType::Ecdsa,
            names: vec!["a.test".into()],
            not_before: 0,
            not_after: 1,
            fingerprint: "fingerprint".into(),
        };
        let mut delta = Delta::default();
        delta.certificates.insert(ObjectKey::new("n", "tls"), Some(Resource::Valid(Arc::new(certificate))));
        let mut replica = Replica::default();
        replica.apply(&delta);
        replica
    }

    fn encode(replica: &Replica, counter: u64, key: Option<&StateKey>) -> io::Result<Vec<u8>> {
        let mut file = io::Cursor::new(Vec::new());
        super::encode(replica, counter, key, &mut file)?;
        Ok(file.into_inner())
    }

    fn key(byte: u8) -> StateKey {
        StateKey::of(&[byte; MIN_KEY]).unwrap()
    }

    #[test]
    fn with_a_key_private_keys_come_back_and_are_in_clear_nowhere() {
        let (replica, key) = (replica(), key(1));
        let plain = encode(&replica, 7, None).unwrap();
        let state = decode(&plain, None).unwrap();
        assert_eq!((state.counter, state.replica.awaited_keys()), (7, 1), "without a key they are in no file");
        let sealed = encode(&replica, 7, Some(&key)).unwrap();
        assert_eq!(decode(&sealed, Some(&key)).unwrap(), State { replica, counter: 7 });
        let text = String::from_utf8(sealed).unwrap();
        assert!(!text.contains(&openssl::base64::encode_block(DER)) && !text.contains("private key"), "{text}");
        assert_eq!(format!("{key:?}"), "StateKey");
    }

    #[test]
    fn a_file_of_another_key_or_form_is_refused() {
        let replica = replica();
        let (plain, sealed) = (encode(&replica, 1, None).unwrap(), encode(&replica, 1, Some(&key(1))).unwrap());
        for (bytes, key, part) in [
            (&sealed, Some(key(2)), "another stateKey"),
            (&sealed, None, "missing now"),
            (&plain, Some(key(1)), "without a stateKey"),
            (&b"{}\n".to_vec(), None, "no state file"),
            (&String::from_utf8(plain.clone()).unwrap().replacen(" 2 ", " 1 ", 1).into_bytes(), None, "format 1"),
            // The counter is under the checksum: an old file cannot be made to look new.
            (
                &String::from_utf8(plain.clone()).unwrap().replacen(" 1 plain", " 2 plain", 1).into_bytes(),
                None,
                "checksum",
            ),
        ] {
            let message = decode(bytes, key.as_ref()).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    /// 10^5 mutations: bytes changed, cut out, doubled, moved; the end cut off.
    #[test]
    fn no_mutation_is_taken() {
        let key = key(1);
        let files = [encode(&replica(), 41, None).unwrap(), encode(&replica(), 41, Some(&key)).unwrap()];
        let mut random = StdRng::seed_from_u64(1);
        for number in 0..100_000 {
            let good = &files[number % 2];
            let mut bad = good.clone();
            let (from, to) = (random.random_range(0..bad.len()), random.random_range(0..bad.len()));
            let (from, to) = (from.min(to), from.max(to));
            match random.random_range(0..6) {
                0 => bad[from] ^= 1 << random.random_range(0..8),
                1 => bad.truncate(from),
                2 => drop(bad.drain(from..to)),
                3 => bad[from..=to].reverse(),
                4 => bad.extend_from_slice(&good[from..=to]),
                _ => {
                    let part = good[from..=to].to_vec();
                    bad.splice(from..from, part);
                }
            }
            let key = (number % 2 == 1).then_some(&key);
            assert!(bad == *good || decode(&bad, key).is_err(), "mutation {number}");
        }
    }
}
