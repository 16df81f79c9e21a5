//! A certificate authority of its own: the server's certificate, and one per user.

use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder, X509NameRef};

/// An authority with its key.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A key of the curve P-256.
fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(user: &str, groups: &[&str]) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    for group in groups {
        name.append_entry_by_nid(Nid::ORGANIZATIONNAME, group).unwrap();
    }
    name.append_entry_by_nid(Nid::COMMONNAME, user).unwrap();
    name.build()
}

fn builder(subject: &X509NameRef, issuer: &X509NameRef, key: &PKey<Private>, days: i64) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    // Of negative days one that has expired.
    let (from, to) = (now - 3600 - 86_400 * (-days).max(0), now + 86_400 * days);
    builder.set_not_before(&Asn1Time::from_unix(from - 1).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(to).unwrap()).unwrap();
    builder
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        // A name of its own: an issuer is looked up by it.
        let mut serial = BigNum::new().unwrap();
        serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
        let (key, subject) = (key(), name(&format!("test authority {}", serial.to_hex_str().unwrap()), &[]));
        let mut builder = builder(&subject, &subject, &key, 365);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { certificate: builder.build(), key }
    }

    /// PEM of the authority's certificate.
    pub fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    /// PEM of certificate and key of a user, valid for so many days from now; negative: it has expired.
    pub fn user(&self, user: &str, groups: &[&str], days: i64) -> (String, String) {
        let key = key();
        let mut builder = builder(&name(user, groups), self.certificate.subject_name(), &key, days);
        builder.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap()).unwrap();
        self.signed(builder, &key)
    }

    /// PEM of certificate and key of a client with a DNS name, valid for so many days from now; negative: it has expired.
    pub fn client(&self, dns: &str, days: i64) -> (String, String) {
        let key = key();
        let mut builder = builder(&name("client", &[]), self.certificate.subject_name(), &key, days);
        let names =
            SubjectAlternativeName::new().dns(dns).build(&builder.x509v3_context(Some(&self.certificate), None));
        builder.append_extension(names.unwrap()).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap()).unwrap();
        self.signed(builder, &key)
    }

    /// PEM of certificate and key of a server on 127.0.0.1.
    pub fn server(&self) -> (String, String) {
        let key = key();
        let mut builder = builder(&name("server", &[]), self.certificate.subject_name(), &key, 365);
        let names = SubjectAlternativeName::new()
            .dns("localhost")
            .ip("127.0.0.1")
            .build(&builder.x509v3_context(Some(&self.certificate), None))
            .unwrap();
        builder.append_extension(names).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
        self.signed(builder, &key)
    }

    fn signed(&self, mut builder: X509Builder, key: &PKey<Private>) -> (String, String) {
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let pem = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (pem(builder.build().to_pem().unwrap()), pem(key.private_key_to_pem_pkcs8().unwrap()))
    }

    /// Writes a key that signs tokens of service accounts.
    pub fn write_token_key(path: &Path) {
        // The API server reads keys of elliptic curves in SEC 1 form.
        let ec = key().ec_key().unwrap();
        std::fs::write(path, ec.private_key_to_pem().unwrap()).unwrap();
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}
