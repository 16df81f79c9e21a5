//! The general lane: `impl ProxyHttp` that only drives the phases. The one place that touches the engine's session.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use super::account::{final_status, reason_of};
use super::attempt::Attempts;
use super::load::Load;
use super::{reply, view};
use crate::clock;
use crate::io::ClientStream;
use crate::io::client::ClientInfo;
use crate::io::pressure::{Pressure, SHORT_STALL};
use crate::io::proxy_protocol;
use crate::observe::{Cells, Closing};
use crate::phase::admit::{self, Verdict};
use crate::phase::canonical::{self, Canonical, Refused};
use crate::phase::forward::{self, Forwarding};
use crate::phase::respond::{self, Marks};
use crate::phase::{Connection, Reason, Reply, RequestHead, Scheme, address};
use crate::shared::Shared;
use crate::upstream::connection::exchange::Seen;
use crate::upstream::connection::patience::Times;
use crate::upstream::connection::pool::Pool;
use crate::upstream::{BoundBackend, EndpointState};
use sluicegate_snapshot::Version as SnapshotVersion;
use sluicegate_snapshot::model::{Policy, Route};

/// How long an HTTP/2 client has to take an answer of the gateway's own, which is short: it must not hold it with a window of zero.
const OWN_ANSWER: Duration = Duration::from_secs(1);

/// The engine's application of one worker.
pub struct Gateway {
    pub(super) shared: Arc<Shared>,
    pub(super) cells: Arc<Cells>,
    pub(super) pool: Arc<Pool>,
}

/// State of one request.
pub struct Ctx {
    pub(super) started: Instant,
    pub(super) wall: f64,
    pub(super) info: Option<Arc<ClientInfo>>,
    pub(super) request_id: String,
    pub(super) canonical: Option<Canonical>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) version: Option<SnapshotVersion>,
    pub(super) backend: Option<Arc<BoundBackend>>,
    pub(super) endpoint: Option<Arc<EndpointState>>,
    pub(super) attempts: Attempts,
    /// The attempt's exchange with its endpoint.
    pub(super) exchange: Option<Arc<Seen>>,
    pub(super) reason: Reason,
    /// The end of the answer was handed to the client's connection.
    pub(super) passed: bool,
    /// Why it was refused, where it was before it was routed.
    pub(super) refused: Option<Refused>,
    pub(super) connect_started: Option<Instant>,
    pub(super) upstream_head: Option<Duration>,
    /// What it adds to the load of its backend; until it is accounted.
    pub(super) load: Option<Load>,
    pub(super) upgrade: bool,
}

impl Gateway {
    /// The application of the worker with these cells.
    pub fn new(shared: Arc<Shared>, cells: Arc<Cells>, pool: Arc<Pool>) -> Self {
        Gateway { shared, cells, pool }
    }

    pub(super) fn connection(ctx: &Ctx) -> Connection {
        const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let nobody = Connection::new(Scheme::Http, NOBODY, NOBODY);
        ctx.info.as_ref().map_or(nobody, |info| info.connection)
    }

    fn marks<'a>(&'a self, ctx: &'a Ctx) -> Marks<'a> {
        let version = ctx.version.as_ref().filter(|_| self.shared.settings.debug_header);
        Marks {
            server: self.shared.server_header.as_ref(),
            route: version.map(|version| (ctx.route.as_deref(), version)),
        }
    }

    /// Phase 1. On HTTP/1 it was done with the raw head.
    fn canonical(&self, head: &RequestHead<'_>, ctx: &Ctx) -> Result<Canonical, Refused> {
        if let Some(canonical) = ctx.info.as_ref().and_then(|info| info.lending.take()) {
            return Ok(canonical);
        }
        canonical::judge_http2(head.headers, &self.shared.settings.limits.head())?;
        canonical::canonicalise(head)
    }

    /// Phases 1 and 2. `None`: the request goes on to `ctx.backend`.
    fn judge(&self, session: &Session, ctx: &mut Ctx) -> Option<Reply> {
        let connection = Self::connection(ctx);
        let head = view::head(session.req_header(), &connection);
        ctx.request_id = forward::request_id(&head);
        let canonical = match self.canonical(&head, ctx) {
            Ok(canonical) => canonical,
            Err(refused) => {
                ctx.refused = Some(refused);
                return Some(refused.reason.into());
            }
        };
        if admit::is_health_request(self.shared.settings.traffic_health_path.as_deref(), &canonical) {
            ctx.canonical = Some(canonical);
            let ready = self.shared.state.ready(self.shared.cells.len()).is_ok();
            return Some(if ready { Reason::Healthy } else { Reason::NotReady }.into());
        }
        if self.shared.memory.pressure() == Pressure::Refusing {
            ctx.canonical = Some(canonical);
            return Some(Reason::MemoryExhausted.into());
        }
        // Without any table 404 would be a lie.
        if !self.shared.state.has_table() {
            ctx.canonical = Some(canonical);
            return Some(Reason::NotReady.into());
        }
        let table = self.shared.table.load();
        ctx.version = self.shared.settings.debug_header.then(|| table.version.clone());
        let (route, verdict) = admit::admit(&table, &head, &canonical);
        ctx.route = route;
        ctx.canonical = Some(canonical);
        match verdict {
            Verdict::Forward(_) if !self.shared.has_room(&self.cells) => Some(Reason::TooManyInFlight.into()),
            Verdict::Forward(backend) => {
                // From here on it is counted: a name may have to be resolved first.
                ctx.load = Some(Load::begin(&self.cells, &backend.state));
                ctx.backend = Some(backend);
                None
            }
            Verdict::Reply(reply) => Some(reply),
        }
    }

    /// How long exchanges of the request wait.
    pub(super) fn times(&self, ctx: &Ctx) -> Times {
        let policy = ctx.route.as_ref().map(|route| &route.policy);
        self.shared.settings.times(policy.unwrap_or(&Policy::default()))
    }

    /// What the route says otherwise than the settings about waiting for the client.
    fn apply_policy(&self, session: &mut Session, ctx: &Ctx) {
        let Some(policy) = ctx.route.as_ref().map(|route| &route.policy) else { return };
        if let Some(seconds) = policy.stream_timeout {
            session.set_read_timeout(Some(Duration::from_secs(seconds.into())));
        }
        let Some(seconds) = policy.client_write_timeout else { return };
        if view::is_http2(session) {
            session.set_write_timeout(Some(Duration::from_secs(seconds.into())));
        }
        if let Some(info) = &ctx.info {
            info.lending.stall_after(seconds);
            info.user_timeout.fetch_max(seconds, Ordering::Relaxed);
        }
    }

    /// How long the client may take nothing of the answer.
    fn stall(&self, ctx: &Ctx) -> Duration {
        let of_route = ctx.route.as_ref().and_then(|route| route.policy.client_write_timeout);
        Duration::from_secs(of_route.unwrap_or(self.shared.settings.timeouts.client_write).into())
    }

    /// What a connection to a backend with `sluicegate.dev/proxy-protocol` begins with.
    fn proxy_header(&self, request: &RequestHeader, ctx: &Ctx) -> Vec<u8> {
        let connection = Self::connection(ctx);
        let client = address::client(&self.shared.settings.trusted_proxies, &connection, &request.headers);
        // Of a client that only a field names no port is known.
        let port = if client == connection.peer { connection.peer_port } else { 0 };
        proxy_protocol::write(SocketAddr::new(client, port), connection.local)
    }

    async fn answer(&self, session: &mut Session, ctx: &mut Ctx, reply: &Reply, close: bool) -> pingora::Result<()> {
        ctx.reason = reply.reason;
        if view::is_http2(session) && reply.content.is_none() {
            session.set_write_timeout(Some(OWN_ANSWER));
        }
        // A connection that closes lets its client read, whatever that still sends; only one that is kept needs the body out of the way.
        if !close {
            reply::take_body(session).await;
        }
        let request = session.req_header();
        let response = respond::render(reply, &request.method, &request.headers, &ctx.request_id);
        let mut fields = self.marks(ctx).fields();
        if let Ok(id) = http::HeaderValue::from_str(&ctx.request_id) {
            fields.push((respond::REQUEST_ID, id));
        }
        reply::write(session, response, fields, close).await
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx {
            started: Instant::now(),
            wall: clock::unix_millis(),
            info: None,
            request_id: String::new(),
            canonical: None,
            route: None,
            version: None,
            backend: None,
            endpoint: None,
            attempts: Attempts::default(),
            exchange: None,
            reason: Reason::InternalError,
            refused: None,
            passed: false,
            connect_started: None,
            upstream_head: None,
            load: None,
            upgrade: false,
        }
    }

    // No module: each costs an allocation and several calls a request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<bool> {
        ctx.info = ClientStream::info_of(session.digest());
        let timeouts = &self.shared.settings.timeouts;
        let closing = self.shared.keeps_none();
        // The engine forgets the keep-alive time with every request.
        // ... but where the reader or the client has decided to close, that stands.
        let last = ctx.info.as_ref().is_some_and(|info| info.lending.is_last());
        let wants_more = session.get_keepalive().is_some() && !last;
        let kept = wants_more && !closing;
        session.set_keepalive(kept.then(|| timeouts.keep_alive.into()));
        // The last resort, for what is read after the backend has answered; before that the exchange is less patient.
        session.set_read_timeout(Some(Duration::from_secs(timeouts.stream.into())));
        // HTTP/1 has its own, which counts progress.
        let stall = Duration::from_secs(timeouts.client_write.into());
        // Which would take them for the answer (RFC 9110, 15.2).
        let is_old = session.req_header().version <= Version::HTTP_10;
        session.as_downstream_mut().set_ignore_info_resp(is_old);
        let is_http2 = view::is_http2(session);
        if wants_more && closing && !is_http2 && !self.shared.is_draining() {
            self.cells.close(Closing::MemoryPressure);
        }
        session.set_write_timeout(is_http2.then_some(stall));
        let Some(reply) = self.judge(session, ctx) else {
            self.apply_policy(session, ctx);
            return Ok(false);
        };
        let close = ctx.refused.is_some() || closing || reply.reason == Reason::BodyTooLarge;
        // The client being gone is its own affair, and no error of the gateway's.
        self.answer(session, ctx, &reply, close).await.map_err(|error| error.into_down())?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<Box<HttpPeer>> {
        self.begin_attempt(ctx);
        let endpoint = match self.pick(ctx).await {
            Ok(endpoint) => endpoint,
            Err(reason) => {
                ctx.reason = reason;
                return Err(Error::explain(ErrorType::HTTPStatus(reason.status()), reason.as_str()));
            }
        };
        let Some(backend) = ctx.backend.clone() else { return Err(Error::new(ErrorType::InternalError)) };
        ctx.load.get_or_insert_with(|| Load::begin(&self.cells, &backend.state)).go_to(&endpoint);
        ctx.upgrade = view::is_websocket(session.req_header());
        if ctx.upgrade {
            session.set_read_timeout(Some(self.times(ctx).upgraded));
        }
        let greeting = backend.proxy_protocol.then(|| self.proxy_header(session.req_header(), ctx));
        let (peer, exchange) = self.peer(&endpoint, &backend, ctx, greeting);
        if let Some(info) = &ctx.info {
            info.lending.ask(exchange.clone());
        }
        ctx.exchange = Some(exchange);
        ctx.endpoint = Some(endpoint);
        ctx.connect_started = Some(Instant::now());
        Ok(peer)
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
        // Out of sockets or descriptors: that is the gateway's trouble, and no endpoint's.
        let local = [ErrorType::InternalError, ErrorType::SocketError, ErrorType::BindError].contains(&error.etype);
        self.connect_failed(ctx, local);
        ctx.reason = Reason::ConnectFailed;
        // Nothing was sent, so every method may go to another endpoint.
        error.set_retry(ctx.attempts.may_connect_again());
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        _: bool,
    ) -> Box<Error> {
        error.set_retry(Self::may_repeat(session, &error, ctx));
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        _: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        // What went wrong with endpoints before is over.
        ctx.reason = Reason::InternalError;
        let reused = ctx.exchange.as_ref().is_some_and(|seen| seen.is_reused());
        if reused {
            return Ok(());
        }
        if let Some(endpoint) = &ctx.endpoint {
            endpoint.connected();
        }
        if let Some(started) = ctx.connect_started {
            self.cells.connected(started.elapsed());
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        let connection = Self::connection(ctx);
        let downstream = session.req_header();
        let head = view::head(downstream, &connection);
        let client = address::client(&self.shared.settings.trusted_proxies, &connection, head.headers);
        let authority = downstream.uri.authority().filter(|_| downstream.version == Version::HTTP_2);
        let host = forward::authority(head.headers, authority);
        let edits = forward::edits(&head, &Forwarding { client, request_id: &ctx.request_id, host });
        for name in &edits.remove {
            request.remove_header(name);
        }
        for (name, value) in edits.set {
            request.insert_header(name, value)?;
        }
        if let Some(canonical) = &ctx.canonical {
            request.set_raw_path(&canonical.target())?;
            if !request.headers.contains_key(HOST) {
                // HTTP/1.1 has one always (RFC 9112, 3.2); a probe with HTTP/1.0 may say none.
                let endpoint = ctx.endpoint.as_ref().map(|endpoint| endpoint.address.to_string()).unwrap_or_default();
                let host = Some(canonical.host.as_str()).filter(|host| !host.is_empty());
                request.insert_header(HOST, host.unwrap_or(&endpoint))?;
            }
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        let limit = ctx.route.as_ref().map_or(0, |route| route.policy.body_limit);
        // What is sent once more was counted when it was read; what follows an upgrade is no body.
        if limit == 0 || session.was_upgraded() || session.body_bytes_read() as u64 <= limit {
            return Ok(());
        }
        *body = None;
        ctx.reason = Reason::BodyTooLarge;
        Error::e_explain(ErrorType::HTTPStatus(ctx.reason.status()), ctx.reason.as_str())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        if !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS {
            ctx.reason = Reason::Upstream;
            if response.status == StatusCode::SWITCHING_PROTOCOLS
                && let Some(info) = &ctx.info
            {
                info.lending.switch();
            }
            let is_empty = response.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
            ctx.passed |= is_empty
                || matches!(response.status.as_u16(), 204 | 304)
                || session.req_header().method == Method::HEAD;
            ctx.upstream_head.get_or_insert_with(|| ctx.started.elapsed());
        }
        if self.shared.keeps_none() && !response.headers.contains_key(UPGRADE) {
            session.set_keepalive(None);
        }
        // HTTP/1.0 knows no chunks (RFC 9112, 6.1): such a body ends with the connection.
        if session.req_header().version <= Version::HTTP_10 && response.headers.contains_key(TRANSFER_ENCODING) {
            response.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        for (name, value) in self.marks(ctx).fields() {
            response.insert_header(name, value)?;
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        _: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> pingora::Result<Option<Duration>> {
        ctx.passed |= end_of_stream;
        if view::is_http2(session) {
            // While memory runs short, what waits to be sent is needed for others.
            let is_short = self.shared.memory.pressure() >= Pressure::ShortIdle;
            session.set_write_timeout(Some(if is_short { self.stall(ctx).min(SHORT_STALL) } else { self.stall(ctx) }));
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let reason = reason_of(error, ctx);
        ctx.reason = reason;
        ctx.refused = ctx.refused.or_else(|| ctx.info.as_ref()?.lending.fault());
        if final_status(session) == 0 && reason.status() > 0 {
            let reply = Reply::from(reason);
            // The client being gone as well changes nothing.
            let _ = self.answer(session, ctx, &reply, true).await;
        } else if let Some(info) = &ctx.info {
            // HTTP/1.0 knows no chunks, of which the last one would be missed (RFC 9112, 8).
            let is_told = session.response_written().is_some_and(|answer| answer.headers.contains_key(CONTENT_LENGTH));
            let is_old = session.req_header().version <= Version::HTTP_10;
            info.is_cut.store(is_old && !is_told && !ctx.passed, Ordering::Relaxed);
        }
        FailToProxy { error_code: reason.status(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        if let Some(error) = error {
            ctx.reason = reason_of(error, ctx);
            tracing::debug!(reason = %ctx.reason, %error, "request failed");
        }
        let status = final_status(session);
        let upstream = ctx.endpoint.as_ref().map(|endpoint| endpoint.address);
        ctx.load = None;
        self.account(session, ctx, status);
        self.log(session, ctx, status, upstream);
    }
}
