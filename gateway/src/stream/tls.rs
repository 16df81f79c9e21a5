//! TLS to a controller, and what a gateway shows of itself: a client certificate, or the token of its service account.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use http::HeaderValue;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::ControllerUrl;

/// Longest token that is sent.
const MAX_TOKEN: usize = 16 * 1024;

/// Files with what both sides know each other by. They are read for each connection, so new ones need no restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The authorities that sign controllers' certificates, PEM. Nobody else is believed, the system's authorities neither.
    pub controller_ca: Option<PathBuf>,
    /// Certificate chain of the gateway and its key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// A service account's token.
    pub token: Option<PathBuf>,
}

impl Credentials {
    /// Begins TLS with a controller.
    ///
    /// # Errors
    /// A sentence: a file that cannot be used, or why the handshake failed.
    pub(super) async fn connect(
        &self,
        controller: &ControllerUrl,
        tcp: TcpStream,
    ) -> Result<SslStream<TcpStream>, String> {
        let connector = self.connector()?;
        let text = |error: &dyn Display| format!("TLS: {error}");
        let mut configuration = connector.configure().map_err(|error| text(&error))?;
        // A name of one label or an address is a name like any other.
        configuration.set_use_server_name_indication(controller.host.parse::<std::net::IpAddr>().is_err());
        let ssl = configuration.into_ssl(&controller.host).map_err(|error| text(&error))?;
        let mut stream = SslStream::new(ssl, tcp).map_err(|error| text(&error))?;
        let shaken = Pin::new(&mut stream).connect().await;
        if let Err(error) = shaken {
            let verdict = stream.ssl().verify_result();
            return Err(match verdict.as_raw() {
                0 => text(&error),
                _ => format!(
                    "its certificate is not accepted for {}: {}; see controllerCa, and the names in the certificate",
                    controller.host,
                    verdict.error_string()
                ),
            });
        }
        match stream.ssl().selected_alpn_protocol() {
            Some(b"h2") => Ok(stream),
            _ => Err("it does not speak HTTP/2: is this the publish address of a controller?".to_owned()),
        }
    }

    fn connector(&self) -> Result<SslConnector, String> {
        let Some(ca) = &self.controller_ca else { return Err("controllerCa is not set".to_owned()) };
        let wrong = |error: &dyn Display| format!("TLS: {error}");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|error| wrong(&error))?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_3)).map_err(|error| wrong(&error))?;
        builder.set_alpn_protos(b"\x02h2").map_err(|error| wrong(&error))?;
        let mut store = X509StoreBuilder::new().map_err(|error| wrong(&error))?;
        for authority in authorities(ca)? {
            store.add_cert(authority).map_err(|error| wrong(&error))?;
        }
        builder.set_cert_store(store.build());
        if let Some((chain, key)) = &self.client {
            let wrong = |key: &str, path: &Path| format!("{key}: {} cannot be used", path.display());
            builder.set_certificate_chain_file(chain).map_err(|_| wrong("clientCert", chain))?;
            builder.set_private_key_file(key, SslFiletype::PEM).map_err(|_| wrong("clientKey", key))?;
            builder.check_private_key().map_err(|_| "clientKey is not the key of clientCert".to_owned())?;
        }
        Ok(builder.build())
    }

    /// The value of `authorization`; `None`: no token is used.
    ///
    /// # Errors
    /// A sentence: the file cannot be read, or holds no token.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(path) = &self.token else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("tokenFile: {} cannot be read: {error}", path.display()))?;
        let token = text.trim();
        let no_token = || format!("tokenFile: {} holds no token", path.display());
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(no_token());
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| no_token())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// With TLS 1.3 a controller refuses a certificate after the handshake; then the library's text has its alert somewhere inside.
pub(super) fn explained(text: String) -> String {
    // "tlsv1 alert unknown ca", "sslv3 alert certificate expired": the names of versions are older than the alerts.
    let is_alert = |(version, _): &(&str, &str)| ["tlsv1 ", "sslv3 ", "tlsv13 "].contains(version);
    let alert = text.split(':').find_map(|part| part.split_once("alert ").filter(is_alert));
    match alert {
        Some((_, alert)) => {
            format!("it refuses this gateway's certificate ({alert}): see clientCert here, and the controller's log")
        }
        None => text,
    }
}

fn authorities(path: &Path) -> Result<Vec<X509>, String> {
    let bytes =
        std::fs::read(path).map_err(|error| format!("controllerCa: {} cannot be read: {error}", path.display()))?;
    match X509::stack_from_pem(&bytes) {
        Ok(authorities) if !authorities.is_empty() => Ok(authorities),
        _ => Err(format!("controllerCa: {} holds no certificate in PEM", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_explained() {
        let text = "error:0A00041B:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:../ssl/record/rec_layer_s3.c:1601:SSL alert number 48";
        assert!(explained(text.to_owned()).starts_with("it refuses this gateway's certificate (unknown ca)"));
        let text = "error:0A000415:SSL routines::sslv3 alert certificate expired:..";
        assert!(explained(text.to_owned()).contains("(certificate expired)"));
        assert_eq!(explained("Connection refused".to_owned()), "Connection refused");
    }
}
