//! Who a gateway is: by its certificate, or by its service account's token.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, header};
use kube::Client;
use openssl::x509::X509Ref;

use super::authority::GATEWAY_URI;
use super::token::{Reviewed, Reviewer};
use crate::settings::Settings;

/// A gateway that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name: of the certificate, or `namespace:account/pod`.
    pub name: Arc<str>,
}

/// Why a gateway is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Neither certificate nor token.
    None,
    /// A certificate without a name, or of a name that is not served.
    Certificate(String),
    /// A token that the API server does not accept for this audience, or of another account.
    Token(String),
    /// Whether the token is good cannot be found out now.
    Unknown(String),
}

impl Refusal {
    /// Label of the metric.
    pub fn as_str(&self) -> &'static str {
        match self {
            Refusal::None => "noCredentials",
            Refusal::Certificate(_) => "certificate",
            Refusal::Token(_) => "token",
            Refusal::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::None => f.write_str("it has neither certificate nor token"),
            Refusal::Certificate(why) | Refusal::Token(why) | Refusal::Unknown(why) => f.write_str(why),
        }
    }
}

/// Which gateways are served.
pub(super) struct Accounts {
    reviewer: Reviewer,
    /// Names in certificates; empty: every one that the authority signed.
    names: Vec<String>,
    /// `namespace:name`.
    accounts: Vec<String>,
}

impl Accounts {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        let reviewer = Reviewer::new(client, settings.token_audience.clone());
        Accounts { reviewer, names: settings.gateway_names.clone(), accounts: settings.gateway_accounts.clone() }
    }

    /// Who sends a request with these header fields over a connection with this certificate.
    ///
    /// # Errors
    /// It is not served.
    pub(super) async fn identify(&self, certificate: Option<&str>, headers: &HeaderMap) -> Result<Identity, Refusal> {
        if let Some(name) = certificate {
            return self.named(name);
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some(token) = bearer else { return Err(Refusal::None) };
        let Reviewed { account, pod } = self.reviewer.review(token).await?;
        if !self.accounts.contains(&account) {
            return Err(Refusal::Token(format!("service account {account} is not among gatewayAccounts")));
        }
        let name = pod.map_or_else(|| account.clone(), |pod| format!("{account}/{pod}"));
        Ok(Identity { name: name.into() })
    }

    fn named(&self, name: &str) -> Result<Identity, Refusal> {
        if name.is_empty() {
            return Err(Refusal::Certificate("its certificate has no name (SAN) that could be its own".to_owned()));
        }
        if !self.names.is_empty() && !self.names.iter().any(|served| served == name) {
            return Err(Refusal::Certificate(format!("`{name}` is not among gatewayNames")));
        }
        Ok(Identity { name: name.into() })
    }
}

/// The name in a gateway's certificate: the URI of an enrolled one, else the first DNS name or URI (RFC 5280 section 4.2.1.6);
/// empty: there is none.
pub(super) fn name_of(certificate: &X509Ref) -> String {
    let Some(names) = certificate.subject_alt_names() else { return String::new() };
    let enrolled = names.iter().find_map(|name| name.uri()?.strip_prefix(GATEWAY_URI));
    let first = || names.iter().find_map(|name| name.dnsname().or_else(|| name.uri()));
    enrolled.or_else(first).unwrap_or_default().to_owned()
}
