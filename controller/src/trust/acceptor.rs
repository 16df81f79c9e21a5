//! The TLS context that gateways' connections get.

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::ssl::{AlpnError, SslAcceptor, SslMethod, SslVerifyMode, SslVersion, select_next_proto};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

/// The one protocol of the stream, as ALPN has it.
const HTTP2: &[u8] = b"\x02h2";

/// A context: TLS 1.3, HTTP/2 and nothing else. A client's certificate is asked for; one that `authorities` did not sign, that has
/// expired, or is not for clients ends the handshake. Without one a token has to come.
///
/// # Errors
/// OpenSSL does not take the parts, for example a key that is not the certificate's.
pub(super) fn acceptor(
    chain: &[X509],
    key: &PKeyRef<Private>,
    authorities: &[X509],
) -> Result<SslAcceptor, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    let (first, others) = chain.split_first().ok_or_else(ErrorStack::get)?;
    builder.set_certificate(first)?;
    for certificate in others {
        builder.add_extra_chain_cert(certificate.clone())?;
    }
    builder.set_private_key(key)?;
    builder.check_private_key()?;
    let mut store = X509StoreBuilder::new()?;
    for authority in authorities {
        store.add_cert(authority.clone())?;
        builder.add_client_ca(authority)?;
    }
    builder.set_verify_cert_store(store.build())?;
    builder.set_verify(SslVerifyMode::PEER);
    builder.set_alpn_select_callback(|_, offered| select_next_proto(HTTP2, offered).ok_or(AlpnError::ALERT_FATAL));
    // A connection lives for an hour; each handshake looks at credentials anew.
    builder.set_session_cache_mode(openssl::ssl::SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    Ok(builder.build())
}

/// A context from PEM texts.
///
/// # Errors
/// A sentence that names the part.
pub(super) fn from_pem(chain: &[u8], key: &[u8], authorities: &[X509]) -> Result<SslAcceptor, String> {
    let chain = X509::stack_from_pem(chain).map_err(|_| "the certificate is no PEM")?;
    if chain.is_empty() {
        return Err("the certificate is empty".to_owned());
    }
    let key = PKey::private_key_from_pem(key).map_err(|_| "the key is no private key in PEM")?;
    acceptor(&chain, &key, authorities).map_err(|error| match error.errors().first().and_then(|first| first.reason()) {
        Some(reason) => format!("certificate and key cannot be used: {reason}"),
        None => "certificate and key cannot be used".to_owned(),
    })
}
