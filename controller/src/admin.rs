//! The admin and metrics listeners.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use sluicegate_snapshot::Diagnostic;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::shared::Shared;

/// Most connections to one listener.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to send its request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// The page that says where Ingresses are in force.
pub const IN_FORCE: &str = "/ingresses";

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Admin,
    /// `/healthz`, `/readyz` and `/metrics`: safe to expose.
    Metrics,
}

/// Serves connections of a listener until the process ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, scope: Scope) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Waiting for a free place before accepting: the kernel's queue holds the others.
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let answer = |request: Request<Incoming>| {
                        let response = answer(&request, &shared, scope);
                        async move { Ok::<_, Infallible>(response) }
                    };
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
                    let _ = server.serve_connection(TokioIo::new(tcp), service_fn(answer)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin connection cannot be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared, scope: Scope) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".to_owned());
    }
    match (request.uri().path(), scope) {
        ("/healthz", _) => text(StatusCode::OK, "ok\n".to_owned()),
        ("/readyz", _) => match shared.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        ("/metrics", _) => match shared.metrics.page(shared) {
            Ok(page) => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        ("/diagnostics", Scope::Admin) => {
            let namespace = parameter(request, "namespace");
            let diagnostics = shared.diagnostics();
            let is_asked = |diagnostic: &&Diagnostic| {
                namespace.as_deref().is_none_or(|namespace| *namespace == *diagnostic.object.key.namespace)
            };
            let diagnostics: Vec<&Diagnostic> = diagnostics.iter().filter(is_asked).collect();
            json(&serde_json::json!({"diagnostics": diagnostics, "trouble": shared.trouble()}))
        }
        (IN_FORCE, Scope::Admin) => json(&shared.in_force(parameter(request, "namespace").as_deref())),
        ("/gateways", Scope::Admin) => json(&shared.publication.gateways()),
        ("/table", Scope::Admin) => json(&shared.publication.snapshot()),
        (_, Scope::Admin) => text(
            StatusCode::NOT_FOUND,
            "known here: /healthz /readyz /metrics /diagnostics /ingresses /gateways /table\n".to_owned(),
        ),
        (_, Scope::Metrics) => text(StatusCode::NOT_FOUND, "known here: /healthz /readyz /metrics\n".to_owned()),
    }
}

/// The value of a parameter of the query. Names of namespaces need no decoding.
fn parameter(request: &Request<Incoming>, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn typed(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.into_bytes())
}

fn json(body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            typed(StatusCode::OK, "application/json", bytes)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
