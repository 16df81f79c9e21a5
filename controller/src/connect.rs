//! The client of the API server, from a kubeconfig or the pod's service account.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a watch may be silent: bookmarks come about once a minute, so more is a dead connection.
const SILENCE: Duration = Duration::from_secs(150);

/// Makes a client. Nothing is asked of the server yet.
///
/// # Errors
/// A sentence: the file cannot be read or used, or there is no configuration at all.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let mut config = match kubeconfig {
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
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(SILENCE);
    let server = config.cluster_url.clone();
    tracing::info!(%server, "API server");
    Client::try_from(config).map_err(|error| format!("API server {server}: {error}"))
}
