//! Certificates made by the tests.

use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};

/// A certificate and its key as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// ECDSA P-256.
pub fn ecdsa(names: &[&str]) -> Pair {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    pair(names, &PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
}

/// ECDSA P-256, valid from and to so many days from now.
pub fn valid(names: &[&str], from: i64, to: i64) -> Pair {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    pair_valid(names, &PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(), from, to)
}

/// RSA 2048.
pub fn rsa(names: &[&str]) -> Pair {
    pair(names, &PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap())
}

fn pair(names: &[&str], key: &PKey<Private>) -> Pair {
    pair_valid(names, key, 0, 30)
}

fn pair_valid(names: &[&str], key: &PKey<Private>, from: i64, to: i64) -> Pair {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let day = |days: i64| Asn1Time::from_unix(now + days * 86_400).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "sluicegate test").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&day(from)).unwrap();
    builder.set_not_after(&day(to)).unwrap();
    let mut san = SubjectAlternativeName::new();
    for name in names {
        san.dns(name);
    }
    let san = san.build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(san).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    Pair {
        certificate: String::from_utf8(builder.build().to_pem().unwrap()).unwrap(),
        key: String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap(),
    }
}

impl Pair {
    /// A Secret in namespace `default`.
    pub fn secret(&self, name: &str) -> String {
        let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}}}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(&self.certificate),
            indent(&self.key)
        )
    }
}
