//! Reading a certificate and its key: names, validity, and whether the two fit. Callers compare the times with their
//! clock; nothing here knows one.

use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey};
use openssl::x509::{X509, X509Ref};

use crate::diagnostic::DiagnosticReason;
use crate::model::{Certificate, KeyType, PrivateKey};

/// Bits of security that OpenSSL's level 2, the default of today's distributions, asks of a key.
const MIN_SECURITY_BITS: u32 = 112;

/// A usable certificate; the type of the contract, since nothing is left to decide.
pub type CertificateFacts = Arc<Certificate>;

/// Why a Secret or a pair of files gives no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateProblem {
    /// The named key of the Secret is absent.
    Missing(&'static str),
    /// `tls.crt` is no PEM chain with at least one certificate.
    BadCertificate,
    /// `tls.key` is no PEM private key (or is encrypted).
    BadKey,
    /// The key is not that of the first certificate.
    KeyMismatch,
    /// The key is weaker than what TLS libraries of today take (RSA below 2048 bits).
    WeakKey,
}

impl CertificateProblem {
    /// The reason of the Diagnostic.
    pub const fn reason(&self) -> DiagnosticReason {
        match self {
            CertificateProblem::Missing(_) => DiagnosticReason::SecretIncomplete,
            CertificateProblem::BadCertificate | CertificateProblem::WeakKey => DiagnosticReason::CertificateInvalid,
            CertificateProblem::BadKey | CertificateProblem::KeyMismatch => DiagnosticReason::CertificateKeyMismatch,
        }
    }

    /// What is wrong, behind "Secret x: ".
    pub fn message(&self) -> String {
        match self {
            CertificateProblem::Missing(key) => format!("has no key `{key}`"),
            CertificateProblem::BadCertificate => "`tls.crt` holds no readable PEM certificate chain".to_owned(),
            CertificateProblem::BadKey => "`tls.key` holds no readable, unencrypted PEM private key".to_owned(),
            CertificateProblem::WeakKey => format!(
                "the key has less than {MIN_SECURITY_BITS} bits of security, which OpenSSL does not serve; use RSA with 2048 bits or more, or ECDSA"
            ),
            CertificateProblem::KeyMismatch => {
                "`tls.key` is not the key of the first certificate in `tls.crt`".to_owned()
            }
        }
    }
}

/// Reads a PEM chain (leaf first) and a PEM key.
///
/// # Errors
/// See [`CertificateProblem`].
pub fn read(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertificateFacts, CertificateProblem> {
    let chain = X509::stack_from_pem(chain_pem).map_err(|_| CertificateProblem::BadCertificate)?;
    let leaf = chain.first().ok_or(CertificateProblem::BadCertificate)?;
    // The callback keeps OpenSSL from asking a terminal for a passphrase.
    let key = PKey::private_key_from_pem_callback(key_pem, |_| Ok(0)).map_err(|_| CertificateProblem::BadKey)?;
    let public = leaf.public_key().map_err(|_| CertificateProblem::BadCertificate)?;
    if !public.public_eq(&key) {
        return Err(CertificateProblem::KeyMismatch);
    }
    if public.security_bits() < MIN_SECURITY_BITS {
        return Err(CertificateProblem::WeakKey);
    }
    let mut pem = Vec::new();
    for certificate in &chain {
        pem.extend(certificate.to_pem().map_err(|_| CertificateProblem::BadCertificate)?);
    }
    let public_der = public.public_key_to_der().map_err(|_| CertificateProblem::BadCertificate)?;
    let key_der = key.private_key_to_pkcs8().map_err(|_| CertificateProblem::BadKey)?;
    let digest = leaf.digest(MessageDigest::sha256()).map_err(|_| CertificateProblem::BadCertificate)?;
    Ok(Arc::new(Certificate {
        chain_pem: String::from_utf8(pem).map_err(|_| CertificateProblem::BadCertificate)?.into(),
        key: PrivateKey::new(key_der, hex(&openssl::sha::sha256(&public_der))),
        key_type: match public.id() {
            Id::RSA | Id::RSA_PSS => KeyType::Rsa,
            Id::EC => KeyType::Ecdsa,
            _ => KeyType::Other,
        },
        names: names(leaf),
        not_before: unix_seconds(leaf.not_before()).ok_or(CertificateProblem::BadCertificate)?,
        not_after: unix_seconds(leaf.not_after()).ok_or(CertificateProblem::BadCertificate)?,
        fingerprint: hex(&digest),
    }))
}

/// DNS names of the SAN; the CN where there are none, which ingress-nginx takes and old private CAs rely on.
fn names(leaf: &X509Ref) -> Vec<Arc<str>> {
    let san = leaf.subject_alt_names();
    let mut names: Vec<Arc<str>> = san
        .iter()
        .flatten()
        .filter_map(|name| name.dnsname())
        .map(|name| Arc::from(name.to_ascii_lowercase()))
        .collect();
    if san.is_none() {
        let common_names = leaf.subject_name().entries_by_nid(Nid::COMMONNAME);
        names.extend(common_names.filter_map(|cn| Some(Arc::from(cn.data().to_string().ok()?.to_ascii_lowercase()))));
    }
    names.sort();
    names.dedup();
    names
}

fn unix_seconds(time: &openssl::asn1::Asn1TimeRef) -> Option<i64> {
    let difference = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
    Some(i64::from(difference.days) * 86_400 + i64::from(difference.secs))
}

fn hex(bytes: &[u8]) -> Arc<str> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
