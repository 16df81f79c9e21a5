//! The client of the API server, from a kubeconfig or the pod's service account.
//!
//! The stack is put together here, of the library's layers, for two reasons: its own has no TCP keep-alive, so that a
//! connection whose other end vanished would be noticed only after minutes; and it tries refused requests again with waits of
//! its own, which are longer than ours and hide the refusal from readiness and log.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a watch may be silent: bookmarks come about once a minute, so more is a dead connection.
const SILENCE: Duration = Duration::from_secs(150);

/// Silence after which the kernel asks whether the other end is still there, and between its questions.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Questions without an answer after which it is taken for gone.
const KEEP_ALIVE_TRIES: u32 = 3;

/// The API server.
pub struct Server {
    /// How it is asked.
    pub client: Client,
    /// Where it is: addresses that no backend may have. Empty where its name did not resolve at the start.
    pub addresses: BTreeSet<SocketAddr>,
}

/// The API server, with its addresses as they resolve now, which takes five seconds at most.
///
/// # Errors
/// As of [`client`].
pub async fn server(kubeconfig: Option<&Path>) -> Result<Server, String> {
    let config = config(kubeconfig).await?;
    Ok(Server { client: client_of(&config)?, addresses: addresses(&config).await })
}

/// Makes a client. Nothing is asked of the server yet.
///
/// # Errors
/// A sentence: the file cannot be read or used, or there is no configuration at all.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    client_of(&config(kubeconfig).await?)
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, String> {
    let config = match kubeconfig {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("kubeconfig {}: {error}", path.display());
            let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| wrong(&error))?
        }
        None => Config::infer().await.map_err(|error| {
            format!(
                "no API server to connect to: {error}. Give --kubeconfig FILE, or run in a pod with a service account"
            )
        })?,
    };
    tracing::info!(server = %config.cluster_url, "API server");
    Ok(config)
}

fn client_of(config: &Config) -> Result<Client, String> {
    stack(config).map_err(|error| format!("API server {}: {error}", config.cluster_url))
}

#[expect(
    clippy::disallowed_methods,
    reason = "once, before anything is served, and in the same way as the client does"
)]
async fn addresses(config: &Config) -> BTreeSet<SocketAddr> {
    let server = &config.cluster_url;
    let default_port = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let found =
        tokio::time::timeout(CONNECT_LIMIT, tokio::net::lookup_host((host, server.port_u16().unwrap_or(default_port))));
    match found.await {
        Ok(Ok(found)) => found.collect(),
        // Then it cannot be reached either, and what its Service says comes with the first lists.
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    }
}

fn stack(config: &Config) -> Result<Client, BoxError> {
    if let Some(proxy) = &config.proxy_url {
        return Err(format!("the kubeconfig names the proxy {proxy}; proxies are not supported").into());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE));
    tcp.set_keepalive_retries(Some(KEEP_ALIVE_TRIES));
    // Also for what was sent and is not acknowledged, which keep-alive does not watch.
    tcp.set_tcp_user_timeout(Some(KEEP_ALIVE * (KEEP_ALIVE_TRIES + 1)));
    let mut connector = TimeoutConnector::new(config.openssl_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector.set_read_timeout(Some(SILENCE));
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
