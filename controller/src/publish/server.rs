//! The HTTP/2 server that gateways connect to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use sluicegate_process::frames::WINDOW;
use sluicegate_snapshot::wire::PATH;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Publication;
use super::session;
use crate::metrics::Metrics;
use crate::trust::{Accepted, Identity, Refusal, Trust, certificate_name};
use crate::watch::News;

/// Most gateways that are connected at a time.
pub const MAX_GATEWAYS: usize = 4096;

/// How long a connection may take until its first request.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// What sessions work with.
#[derive(Clone)]
pub struct Sources {
    /// What is published.
    pub publication: Arc<Publication>,
    /// To the compile thread.
    pub news: Sender<News>,
    /// The number of the listing of everything that began last.
    pub relists: watch::Receiver<u64>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who may have it.
    pub trust: Trust,
    /// The lines about refusals that were logged lately: strangers must not fill the log.
    pub refusals_said: Arc<Mutex<VecDeque<Instant>>>,
}

/// Most lines about refusals in [`SAYING`]; all of them are counted.
const MOST_SAID: usize = 20;

const SAYING: Duration = Duration::from_secs(10);

impl Sources {
    fn says_refusal(&self) -> bool {
        let mut said = self.refusals_said.lock().unwrap_or_else(PoisonError::into_inner);
        while said.front().is_some_and(|first| first.elapsed() > SAYING) {
            said.pop_front();
        }
        let says = said.len() < MOST_SAID;
        if says {
            said.push_back(Instant::now());
        }
        says
    }

    fn refuse(&self, peer: SocketAddr, refusal: &Refusal) {
        self.metrics.gateway_refused(refusal.as_str());
        if self.says_refusal() {
            tracing::warn!(%peer, "a gateway is refused: {refusal}");
        }
    }
}

/// Serves gateways until the future is dropped; their connections end with it.
pub async fn serve(listener: TcpListener, sources: Sources) {
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
                    sources.metrics.gateway_refused("limit");
                    continue;
                };
                let sources = sources.clone();
                connections.spawn(async move {
                    secure(tcp, peer, sources).await;
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

async fn secure(tcp: TcpStream, peer: SocketAddr, sources: Sources) {
    let _ = tcp.set_nodelay(true);
    let accepted = timeout(OPENING_LIMIT, sources.trust.accept(tcp)).await;
    match accepted.unwrap_or_else(|_| Err(format!("TLS handshake: not done within {} s", OPENING_LIMIT.as_secs()))) {
        Ok(Accepted::Plain(tcp)) => connection(tcp, None, peer, sources).await,
        Ok(Accepted::Tls(stream)) => {
            let certificate = certificate_name(stream.ssl());
            connection(*stream, certificate, peer, sources).await;
        }
        Err(why) => {
            sources.metrics.gateway_refused("handshake");
            if sources.says_refusal() {
                tracing::warn!(%peer, "a gateway is refused: {why}");
            }
        }
    }
}

async fn connection<IO>(io: IO, certificate: Option<String>, peer: SocketAddr, sources: Sources)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_streams(4);
    let handshake = timeout(OPENING_LIMIT, builder.handshake::<_, Bytes>(io)).await;
    let Ok(Ok(mut connection)) = handshake else {
        tracing::debug!(%peer, "no HTTP/2 on the publish address");
        return;
    };
    let certificate: Option<Arc<str>> = certificate.map(Into::into);
    let mut sessions = JoinSet::new();
    let mut opening = std::pin::pin!(sleep(OPENING_LIMIT));
    let mut is_open = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Some(ended) = sessions.join_next() => {
                match ended {
                    // Its one stream has ended, and so has its reason to be connected.
                    Ok(true) if sessions.is_empty() => connection.graceful_shutdown(),
                    // It asked for something else, or was refused: it may ask again, soon.
                    Ok(false) if sessions.is_empty() => {
                        is_open = false;
                        opening.as_mut().reset(Instant::now() + OPENING_LIMIT);
                    }
                    _ => {}
                }
                continue;
            }
            () = &mut opening, if !is_open => return,
        };
        match accepted {
            Some(Ok((request, respond))) => {
                is_open = true;
                sessions.spawn(answer(request, respond, certificate.clone(), peer, sources.clone()));
            }
            Some(Err(error)) => return tracing::debug!(%peer, %error, "a gateway's connection ended"),
            None => return,
        }
    }
}

/// The two directions of a stream, and who is at its other end.
pub(super) struct Streams {
    pub(super) receive: h2::RecvStream,
    pub(super) send: h2::SendStream<Bytes>,
    pub(super) peer: SocketAddr,
    /// `None`: nobody was asked.
    pub(super) identity: Option<Identity>,
}

/// Answers a request. True: it was for the stream, which has ended now.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    certificate: Option<Arc<str>>,
    peer: SocketAddr,
    sources: Sources,
) -> bool {
    let mut response = Response::new(());
    *response.status_mut() = match (request.method(), request.uri().path()) {
        (&Method::POST, PATH) => StatusCode::OK,
        (_, PATH) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut identity = None;
    if response.status() == StatusCode::OK {
        match sources.trust.identify(certificate.as_deref(), request.headers()).await {
            Ok(known) => identity = known,
            Err(refusal) => {
                sources.refuse(peer, &refusal);
                *response.status_mut() = match refusal {
                    Refusal::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
                    Refusal::None | Refusal::Certificate(_) | Refusal::Token(_) => StatusCode::UNAUTHORIZED,
                };
            }
        }
    }
    let is_stream = response.status() == StatusCode::OK;
    let Ok(send) = respond.send_response(response, !is_stream) else { return false };
    if is_stream {
        session::run(Streams { receive: request.into_body(), send, peer, identity }, sources).await;
    }
    is_stream
}
