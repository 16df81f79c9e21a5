//! The HTTP/2 server that gateways connect to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use sluicegate_process::frames::WINDOW;
use sluicegate_snapshot::wire::PATH;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Publication;
use super::session;
use crate::metrics::Metrics;
use crate::watch::News;

/// Most gateways that are connected at a time.
pub const MAX_GATEWAYS: usize = 4096;

/// How long a connection may take until its first request.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// What sessions work with.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) publication: Arc<Publication>,
    /// To the compile thread.
    pub(super) news: Sender<News>,
    pub(super) metrics: Arc<Metrics>,
}

/// Serves gateways until the future is dropped; their connections end with it.
pub async fn serve(listener: TcpListener, publication: Arc<Publication>, news: Sender<News>, metrics: Arc<Metrics>) {
    let sources = Sources { publication, news, metrics };
    let free = Arc::new(Semaphore::new(MAX_GATEWAYS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let Ok(permit) = free.clone().try_acquire_owned() else {
                    tracing::warn!(%peer, "a gateway is refused: {MAX_GATEWAYS} are connected");
                    sources.metrics.gateway_refused();
                    continue;
                };
                let sources = sources.clone();
                connections.spawn(async move {
                    connection(tcp, peer, sources).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a gateway's connection cannot be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(tcp: TcpStream, peer: SocketAddr, sources: Sources) {
    let _ = tcp.set_nodelay(true);
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_streams(4);
    let handshake = timeout(OPENING_LIMIT, builder.handshake::<_, Bytes>(tcp)).await;
    let Ok(Ok(mut connection)) = handshake else {
        tracing::debug!(%peer, "no HTTP/2 on the publish address");
        return;
    };
    let mut sessions = JoinSet::new();
    let mut opening = std::pin::pin!(sleep(OPENING_LIMIT));
    let mut is_open = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Some(_) = sessions.join_next() => {
                // Its one stream has ended, and so has its reason to be connected.
                if sessions.is_empty() { connection.graceful_shutdown(); }
                continue;
            }
            () = &mut opening, if !is_open => return,
        };
        match accepted {
            Some(Ok((request, respond))) => {
                is_open = true;
                if let Some(ready) = stream(request, respond) {
                    sessions.spawn(session::run(ready, peer, sources.clone()));
                }
            }
            Some(Err(error)) => return tracing::debug!(%peer, %error, "a gateway's connection ended"),
            None => return,
        }
    }
}

/// The two directions of a stream.
pub(super) struct Streams {
    pub(super) receive: h2::RecvStream,
    pub(super) send: h2::SendStream<Bytes>,
}

/// Answers a request; `None`: it asked for something else than the stream.
fn stream(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Option<Streams> {
    let status = match (request.method(), request.uri().path()) {
        (&Method::POST, PATH) => StatusCode::OK,
        (_, PATH) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    let is_stream = status == StatusCode::OK;
    let send = respond.send_response(response, !is_stream).ok()?;
    is_stream.then(|| Streams { receive: request.into_body(), send })
}
