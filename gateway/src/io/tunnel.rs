//! TLS that is not ended here: the server name is looked at, and everything goes to a backend as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sluicegate_snapshot::host::RequestHost;
use sluicegate_snapshot::model::{Route, Target};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::client::{ClientInfo, ClientStream};
use super::connection::Serve;
use super::idle::IdleConnections;
use super::incoming::Incoming;
use super::proxy_protocol;
use crate::clock;
use crate::lane::load::Load;
use crate::observe::access_log::Line;
use crate::phase::{Reason, admit};
use crate::tls::client_hello::{self, Hello, MAX_HELLO};
use crate::upstream::connection::is_local;
use crate::upstream::pick::{self, MAX_TRIES, Tried};
use crate::upstream::{BoundBackend, EndpointState};

/// How often a tunnel is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What passes through a tunnel.
struct Tunnel {
    begun: Instant,
    wall: f64,
    name: RequestHost,
    route: Arc<Route>,
    /// Where it leads, once it leads somewhere.
    upstream: Option<SocketAddr>,
    moved: Moved,
}

/// Bytes that passed, and when one did last.
#[derive(Default)]
struct Moved {
    from_client: AtomicU64,
    to_client: AtomicU64,
    /// Milliseconds of [`clock`].
    last: AtomicU64,
    /// One direction has ended.
    half: AtomicBool,
}

impl Moved {
    fn count(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// Resolves when nothing has moved for so long; once one direction has ended, for `half`. Meanwhile the tunnel stands in line with all
    /// connections that only wait, and goes when there is no room for others.
    async fn idle(&self, waiting: &IdleConnections, limit: Duration, half: Duration) {
        let mut place = waiting.enter();
        let mut since = self.last.load(Ordering::Relaxed);
        loop {
            tokio::select! {
                _ = place.told_to_end() => return,
                () = sleep(LOOK) => {}
            }
            let last = self.last.load(Ordering::Relaxed);
            if last != since {
                (place, since) = (waiting.enter(), last);
            }
            let limit = if self.half.load(Ordering::Relaxed) { half.min(limit) } else { limit };
            if Duration::from_millis(clock::now_ms().saturating_sub(last)) >= limit {
                return;
            }
        }
    }
}

impl Serve {
    /// The route that a client's TLS goes to as it is, by its server name; `None`: it is ended here. What was read for that the client's
    /// stream still has.
    pub(super) async fn passes_through(&self, client: &mut ClientStream) -> Option<(RequestHost, Arc<Route>)> {
        if !self.shared.table.load().passes_any() {
            return None;
        }
        // It is looked at when there is enough of it, and not with every byte that comes.
        let mut enough = 0;
        let name = loop {
            if client.ahead().len() >= enough {
                match client_hello::server_name(client.ahead()) {
                    Hello::Name(name) => break name?,
                    Hello::Incomplete => enough = client_hello::enough(client.ahead()),
                }
            }
            if !client.read_ahead(MAX_HELLO).await {
                return None;
            }
        };
        let name = RequestHost::parse(&name).ok()?;
        let route = self.shared.table.load().passthrough(name.as_str())?.clone();
        Some((name, route))
    }

    /// Passes everything through, until it ends.
    pub(super) async fn tunnel(
        &self,
        client: ClientStream,
        info: &Arc<ClientInfo>,
        name: RequestHost,
        route: Arc<Route>,
    ) {
        let (begun, wall) = (Instant::now(), clock::unix_millis());
        let mut tunnel = Tunnel { begun, wall, name, route, upstream: None, moved: Moved::default() };
        let reason = match self.run(client, info, &mut tunnel).await {
            Ok(()) => Reason::Upstream,
            Err(reason) => reason,
        };
        self.cells.passed_through(reason);
        if self.shared.access_log.wants(reason, 0) {
            self.shared.access_log.write(&tunnel.line(info, reason));
        }
    }

    async fn run(&self, client: ClientStream, info: &Arc<ClientInfo>, tunnel: &mut Tunnel) -> Result<(), Reason> {
        let Target::Backend(key) = &tunnel.route.target else { return Err(Reason::BackendInvalid) };
        let backend = self.shared.table.load().backend(key).cloned().ok_or(Reason::ServiceNotFound)?;
        if let Some(why) = backend.unavailable {
            return Err(why.map_or(Reason::BackendInvalid, admit::unavailable));
        }
        let mut load = Load::begin(&self.cells, &backend.state);
        let (endpoint, mut upstream) = self.connect(&backend).await?;
        load.go_to(&endpoint);
        tunnel.upstream = Some(endpoint.address);
        let settings = &self.shared.settings;
        let policy = &tunnel.route.policy;
        let stall = policy.client_write_timeout.unwrap_or(settings.timeouts.client_write);
        info.user_timeout.fetch_max(stall, Ordering::Relaxed);
        let stall = Duration::from_secs(stall.into());
        if backend.proxy_protocol {
            let connection = &info.connection;
            let client = SocketAddr::new(connection.peer, connection.peer_port);
            let header = proxy_protocol::write(client, connection.local);
            let written = timeout(stall, upstream.write_all(&header)).await;
            written.map_err(|_| Reason::UpstreamTimeout)?.map_err(|_| Reason::UpstreamReset)?;
        }
        let idle = settings.times(policy).upgraded;
        let moved = &tunnel.moved;
        moved.last.store(clock::now_ms(), Ordering::Relaxed);
        let (from_client, to_client) = tokio::io::split(client);
        let (from_upstream, to_upstream) = upstream.into_split();
        let up = carry(from_client, to_upstream, stall, |bytes| moved.count(&moved.from_client, bytes));
        let down = carry(from_upstream, to_client, stall, |bytes| moved.count(&moved.to_client, bytes));
        let half = || {
            moved.half.store(true, Ordering::Relaxed);
            moved.last.store(clock::now_ms(), Ordering::Relaxed);
        };
        let up = async {
            up.await.map(|()| half()).map_err(|failed| failed.of(Reason::ClientClosed, Reason::UpstreamTimeout))
        };
        let down = async {
            down.await.map(|()| half()).map_err(|failed| failed.of(Reason::UpstreamReset, Reason::ClientStalled))
        };
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.map(|_| ()),
            () = moved.idle(&self.idle, idle, stall) => Err(Reason::IdleTimeout),
        }
    }

    /// Connects to an endpoint: nothing was sent yet, so any of them will do.
    async fn connect(&self, backend: &BoundBackend) -> Result<(Arc<EndpointState>, TcpStream), Reason> {
        let endpoints = backend.candidates().await?;
        let limit = Duration::from_secs(self.shared.settings.timeouts.connect.into());
        let mut tried = Tried::new();
        while tried.len() < MAX_TRIES {
            let picked = pick::round_robin(&endpoints, &backend.state.cursor, &tried, clock::now_ms());
            let Some(endpoint) = picked else { break };
            if backend.guard.judge(endpoint.address).is_err() {
                return Err(Reason::EndpointsRefused);
            }
            let started = Instant::now();
            match timeout(limit, TcpStream::connect(endpoint.address)).await {
                Ok(Ok(stream)) => {
                    // Without the option it is only slower.
                    let _ = stream.set_nodelay(true);
                    endpoint.connected();
                    self.cells.connected(started.elapsed());
                    return Ok((endpoint.clone(), stream));
                }
                // The gateway's own trouble is no endpoint's.
                Ok(Err(error)) if is_local(&error) => {}
                _ => backend.connect_failed(endpoint),
            }
            tried.push(endpoint.address);
        }
        Err(if tried.is_empty() { Reason::NoEndpoints } else { Reason::ConnectFailed })
    }
}

/// Why one direction ended.
enum Failed {
    /// It cannot be read from, or written to.
    Broken,
    /// Nothing was taken for too long.
    Stalled,
}

impl Failed {
    fn of(self, broken: Reason, stalled: Reason) -> Reason {
        match self {
            Failed::Broken => broken,
            Failed::Stalled => stalled,
        }
    }
}

/// Carries bytes one way; the end of them is passed on. While nothing comes it holds no buffer.
async fn carry(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    stall: Duration,
    moved: impl Fn(usize),
) -> Result<(), Failed> {
    let mut incoming = Incoming::new(from);
    loop {
        let count = std::future::poll_fn(|cx| incoming.poll_fill(cx)).await.map_err(|_| Failed::Broken)?;
        if count == 0 {
            return to.shutdown().await.map_err(|_| Failed::Broken);
        }
        while !incoming.buffered().is_empty() {
            let written = timeout(stall, to.write(incoming.buffered())).await.map_err(|_| Failed::Stalled)?;
            match written {
                Ok(count @ 1..) => {
                    incoming.consume(count);
                    moved(count);
                }
                _ => return Err(Failed::Broken),
            }
        }
    }
}

impl Tunnel {
    fn line(&self, info: &ClientInfo, reason: Reason) -> Line<'_> {
        let route = &self.route;
        let backend = match &route.target {
            Target::Backend(key) => Some(key.to_string()),
            _ => None,
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Line {
            time: self.wall,
            host: self.name.as_str(),
            protocol: "TLS",
            bytes_in: count(&self.moved.from_client),
            bytes_out: count(&self.moved.to_client),
            duration_ms: (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            ingress: route.ingress.as_ref().map(ToString::to_string),
            class: Some(&route.class),
            path: Some(&route.path),
            backend,
            upstream: self.upstream.map(|address| address.to_string()),
            ..Line::of_connection(info.connection, reason)
        }
    }
}
