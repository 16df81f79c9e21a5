//! The HTTP side of the admin listener, on the engine's own server.

use std::net::TcpListener;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::HttpServerApp;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use tokio::sync::watch;

use super::explain::{Question, explain};
use super::table;
use crate::observe::collect;
use crate::shared::Shared;

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Admin,
    /// `/healthz`, `/readyz` and `/metrics`: safe to expose.
    Metrics,
}

struct Admin {
    shared: Arc<Shared>,
    scope: Scope,
}

/// Serves connections of a listener until the process ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, scope: Scope) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "admin listener cannot be used"),
    };
    let app = Arc::new(Admin { shared, scope });
    let (_never, running) = watch::channel(false);
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let (app, running) = (app.clone(), running.clone());
                tokio::spawn(async move {
                    let mut next = Some(Box::new(L4Stream::from(tcp)) as pingora::protocols::Stream);
                    while let Some(stream) = next {
                        let mut session = ServerSession::new_http1(stream);
                        session.set_keepalive(Some(75));
                        next = app.process_new_http(session, &running).await.map(|reused| reused.consume().0);
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin connection cannot be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if request.method != Method::GET && request.method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        let (path, query) = (request.uri.path(), request.uri.query().unwrap_or_default());
        let mut response = self.page(path, query);
        if request.method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

impl Admin {
    fn page(&self, path: &str, query: &str) -> Response<Vec<u8>> {
        let shared = &self.shared;
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match shared.state.ready(shared.cells.len()) {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}\n")),
            },
            "/metrics" => match collect::page(shared) {
                Ok(page) => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            },
            "/table" if self.scope == Scope::Admin => json(StatusCode::OK, &table::dump(&shared.table.load())),
            "/diagnostics" if self.scope == Scope::Admin => json(
                StatusCode::OK,
                &serde_json::json!({
                    "diagnostics": &*shared.state.diagnostics(),
                    "manifests": &*shared.state.problems(),
                }),
            ),
            "/explain" if self.scope == Scope::Admin => match Question::from_query(query) {
                Ok(question) => json(StatusCode::OK, &explain(&shared.table.load(), &shared.settings, &question)),
                Err(message) => text(StatusCode::BAD_REQUEST, &format!("{message}\n")),
            },
            _ if self.scope == Scope::Admin => {
                text(StatusCode::NOT_FOUND, "known here: /healthz /readyz /metrics /table /explain /diagnostics\n")
            }
            _ => text(StatusCode::NOT_FOUND, "known here: /healthz /readyz /metrics\n"),
        }
    }
}

fn typed(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Vec<u8>> {
    typed(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Vec<u8>> {
    match serde_json::to_vec_pretty(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            typed(status, "application/json", bytes)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}
