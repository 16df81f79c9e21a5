//! A certificate authority of the controller's own, for clusters without certificate tooling: it signs the controllers'
//! certificates, and those of enrolled gateways.

use std::net::IpAddr;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder, X509NameRef};

const AUTHORITY_DAYS: i64 = 3650;

/// Days that a controller's certificate is valid. A new one is made long before.
const SERVER_DAYS: i64 = 30;

/// Seconds before now that a certificate is valid from: clocks differ.
const SKEW: i64 = 3600;

const DAY: i64 = 86_400;

/// Before the name of a gateway, in the URI of its certificate.
pub const GATEWAY_URI: &str = "sluicegate:gateway:";

/// Certificate and key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate; of an authority perhaps several, the signing one first.
    pub certificate: Vec<u8>,
    /// PKCS#8.
    pub key: Vec<u8>,
}

/// An authority that can sign.
pub struct Authority {
    /// All that are trusted, the signing one first: others are of before a rotation.
    certificates: Vec<X509>,
    key: PKey<Private>,
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// OpenSSL cannot make a key.
    pub fn make() -> Result<Pair, ErrorStack> {
        let (key, subject) = (key()?, name("Sluicegate authority")?);
        let mut builder = builder(&subject, &subject, &key, AUTHORITY_DAYS)?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(identifier)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Pair { certificate: builder.build().to_pem()?, key: key.private_key_to_pem_pkcs8()? })
    }

    /// Reads one.
    ///
    /// # Errors
    /// A sentence: what is no certificate, no key, or no pair.
    pub fn read(pair: &Pair) -> Result<Self, String> {
        let certificates = X509::stack_from_pem(&pair.certificate).map_err(|_| "tls.crt is no certificate in PEM")?;
        let first = certificates.first().ok_or("tls.crt has no certificate")?;
        let key = PKey::private_key_from_pem(&pair.key).map_err(|_| "tls.key is no private key in PEM")?;
        let fits = first.public_key().is_ok_and(|public| public.public_eq(&key));
        if !fits {
            return Err("tls.key is not the key of the first certificate in tls.crt".to_owned());
        }
        if Asn1Time::days_from_now(0).is_ok_and(|now| *first.not_after() <= *now) {
            return Err("the certificate has expired".to_owned());
        }
        Ok(Authority { certificates, key })
    }

    /// Its certificates.
    pub fn certificates(&self) -> &[X509] {
        &self.certificates
    }

    /// A certificate for a controller that is reached by these names.
    ///
    /// # Errors
    /// OpenSSL cannot make it.
    pub fn server(&self, names: &[String]) -> Result<Pair, ErrorStack> {
        let mut san = SubjectAlternativeName::new();
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(_) => san.ip(name),
                Err(_) => san.dns(name),
            };
        }
        self.issue("sluicegate-controller", &san, ExtendedKeyUsage::new().server_auth(), SERVER_DAYS)
    }

    /// A certificate for a gateway of this name.
    ///
    /// # Errors
    /// OpenSSL cannot make it.
    pub fn gateway(&self, name: &str, days: u32) -> Result<Pair, ErrorStack> {
        let mut san = SubjectAlternativeName::new();
        san.uri(&format!("{GATEWAY_URI}{name}"));
        self.issue(name, &san, ExtendedKeyUsage::new().client_auth(), days.into())
    }

    fn issue(
        &self,
        common_name: &str,
        san: &SubjectAlternativeName,
        usage: &ExtendedKeyUsage,
        days: i64,
    ) -> Result<Pair, ErrorStack> {
        let Some(issuer) = self.certificates.first() else { return Err(ErrorStack::get()) };
        let key = key()?;
        // A common name has at most 64 characters (RFC 5280 appendix A.1); who is meant stands in the SAN.
        let common_name: String = common_name.chars().take(64).collect();
        let mut builder = builder(&*name(&common_name)?, issuer.subject_name(), &key, days)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(usage.build()?)?;
        let extensions = {
            let context = builder.x509v3_context(Some(issuer), None);
            let subject = SubjectKeyIdentifier::new().build(&context)?;
            [subject, AuthorityKeyIdentifier::new().keyid(true).build(&context)?, san.build(&context)?]
        };
        for extension in extensions {
            builder.append_extension(extension)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(Pair { certificate: builder.build().to_pem()?, key: key.private_key_to_pem_pkcs8()? })
    }
}

fn key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

fn name(common_name: &str) -> Result<X509Name, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(name.build())
}

fn builder(
    subject: &X509NameRef,
    issuer: &X509NameRef,
    key: &PKey<Private>,
    days: i64,
) -> Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    let now = crate::clock::unix_seconds();
    builder.set_not_before(&*Asn1Time::from_unix(now - SKEW)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(now + days * DAY)?)?;
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_signs_is_for_one_purpose_and_verifies() {
        let authority = Authority::read(&Authority::make().unwrap()).unwrap();
        let issuer = authority.certificates()[0].public_key().unwrap();
        let server = authority.server(&["a.test".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        let gateway = authority.gateway(&"edge".repeat(30), 90).unwrap();
        for pair in [&server, &gateway] {
            let certificate = X509::from_pem(&pair.certificate).unwrap();
            assert!(certificate.verify(&issuer).unwrap());
            assert_eq!(certificate.subject_alt_names().unwrap().len(), if *pair == server { 2 } else { 1 });
        }
    }

    #[test]
    fn what_is_no_authority_is_said() {
        let (one, other) = (Authority::make().unwrap(), Authority::make().unwrap());
        let with = |certificate: &[u8], key: &[u8]| Pair { certificate: certificate.to_vec(), key: key.to_vec() };
        for (pair, part) in [
            (with(b"", &one.key), "tls.crt"),
            (with(b"nonsense", &one.key), "tls.crt"),
            (with(&one.certificate, b"nonsense"), "tls.key is no"),
            (with(&one.certificate, &other.key), "not the key"),
        ] {
            let message = Authority::read(&pair).err().unwrap();
            assert!(message.contains(part), "{message}");
        }
        let mut both = one.certificate.clone();
        both.extend(&other.certificate);
        assert_eq!(Authority::read(&with(&both, &one.key)).ok().unwrap().certificates().len(), 2);
    }
}
