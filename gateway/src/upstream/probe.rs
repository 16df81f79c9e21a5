//! Active health checks: one prober for all workers, on the control thread; its opinion is shared by atomics.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sluicegate_snapshot::model::{HealthCheck, HealthProbe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use super::{BoundBackend, EndpointState, Guard};
use crate::io::proxy_protocol;

/// Starts checks.
#[derive(Clone)]
pub struct Prober {
    control: Handle,
}

impl Prober {
    /// A prober that runs on `control`.
    pub fn new(control: Handle) -> Self {
        Prober { control }
    }

    /// Checks the endpoints of a backend for as long as a table holds it, or until the returned handle is used.
    pub fn watch(&self, backend: &Arc<BoundBackend>, check: HealthCheck) -> AbortHandle {
        self.control.spawn(keep_checking(Arc::downgrade(backend), Arc::new(check))).abort_handle()
    }
}

async fn keep_checking(backend: Weak<BoundBackend>, check: Arc<HealthCheck>) {
    let interval = Duration::from_millis(check.interval_ms.into());
    // Ends its checks with this task, so that an old one never speaks about an endpoint again.
    let mut asks = JoinSet::new();
    loop {
        let Some(bound) = backend.upgrade() else { return };
        for endpoint in bound.all_endpoints() {
            let (check, key, guard) = (check.clone(), bound.key.clone(), bound.guard.clone());
            let greeting: &[u8] = if bound.proxy_protocol { proxy_protocol::LOCAL } else { b"" };
            asks.spawn(async move {
                let good = ask(&endpoint, &check, &guard, greeting).await;
                if let Some(healthy) = endpoint.probed(good, check.healthy, check.unhealthy) {
                    tracing::info!(backend = %key, endpoint = %endpoint.address, healthy, "health changed");
                }
            });
        }
        drop(bound);
        // A tenth of jitter keeps many gateways from asking in step.
        let jitter = rand::random_range(0.95..1.05);
        tokio::time::sleep(interval.mul_f64(jitter)).await;
        while asks.try_join_next().is_some() {}
    }
}

/// `greeting`: what connections begin with.
async fn ask(endpoint: &EndpointState, check: &HealthCheck, guard: &Guard, greeting: &[u8]) -> bool {
    if guard.judge(endpoint.address).is_err() {
        return false;
    }
    let limit = Duration::from_millis(check.timeout_ms.into());
    let answer = async {
        match &check.probe {
            HealthProbe::Tcp => TcpStream::connect(endpoint.address).await.map(|_| true),
            HealthProbe::Http { path, host } => get(endpoint.address, greeting, path, host.as_deref()).await,
        }
    };
    matches!(tokio::time::timeout(limit, answer).await, Ok(Ok(true)))
}

/// One `GET`; only the status line of the answer is read.
async fn get(address: SocketAddr, greeting: &[u8], path: &str, host: Option<&str>) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: sluicegate-health\r\nconnection: close\r\n\r\n");
    stream.write_all(&[greeting, request.as_bytes()].concat()).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    // "HTTP/1.x NNN"
    let status = std::str::from_utf8(&line[9..]).ok().and_then(|text| text.parse::<u16>().ok());
    Ok(line.starts_with(b"HTTP/1.") && status.is_some_and(|status| (200..400).contains(&status)))
}
