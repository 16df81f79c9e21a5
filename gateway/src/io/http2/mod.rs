//! HTTP/2 connections: the loop that takes streams, one by one, and ends the connection when it has to.

mod accept;
mod begin;
pub mod frames;
mod group;
pub mod held;
pub mod open;
mod refusals;
mod session;
mod stall;
mod stream;
pub mod streams;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason as ErrorCode;
use h2::server::Connection as H2Connection;
use pingora::apps::HttpServerApp;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{default_h2_options, handshake};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{Digest, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::client::ClientInfo;
use super::connection::Serve;
use super::http1::requests_of_a_connection;
use super::idle::Idle;
use super::pressure::{Pressure, SHORT_STALL};
use super::rest;
use super::schedule::Standing;
use super::turns::behind_others;
use crate::observe::cells::{Cells, Rejection};
use crate::observe::closing::Closing;
use crate::observe::refused_head::RefusedHead;
use accept::{Accepted, accept};
use frames::{FrameWatch, Watched};
use group::Group;
use open::SEND_BUFFER;
use refusals::Refusals;
use session::StreamSession;
use stall::Stall;
use stream::WatchedStream;
use streams::Streams;

/// Malformed streams after which a connection is closed.
const MAX_MALFORMED_STREAMS: u32 = 32;

/// How long a client that was told GOAWAY may take to close.
const GOAWAY_LIMIT: Duration = Duration::from_secs(5);

/// How long one that was told so for what it did, or because others need its room.
const ABRUPT_LIMIT: Duration = Duration::from_secs(1);

/// Streams that are still served after a connection has served its requests: those that were on their way when it was told, and more.
const LATE_STREAMS: usize = 1000;

/// What small DATA frames cost that the endpoint has not taken: 256 bytes each, less their length. Others are no message of anybody's: the
/// library ends the connection.
const SMALL_FRAMES: usize = 1024 * 1024;

/// How often is looked whether a client takes nothing. Those of single streams come first, which have the same time.
const LOOK: Duration = Duration::from_secs(1);

/// A connection's state in its loop.
struct State {
    connection: H2Connection<Stream, Bytes>,
    /// It was told GOAWAY.
    told: bool,
    /// When it ends in any case.
    ends_at: Option<Instant>,
    /// A head that has begun has to end by then.
    head_by: Option<Instant>,
    malformed: u32,
    stall: Stall,
    /// A stream was served.
    served: bool,
    /// Requests that are left, and then streams that may still be on their way.
    left: usize,
    late: usize,
}

impl State {
    /// No new streams; those that are open, and those already on their way, are still served.
    fn end_gracefully(&mut self, cells: &Cells, why: Closing) {
        cells.close(why);
        self.connection.graceful_shutdown();
        self.told = true;
    }

    fn end_abruptly(&mut self, code: ErrorCode) {
        self.connection.abrupt_shutdown(code);
        self.told = true;
        self.ends_at = Some(Instant::now() + ABRUPT_LIMIT);
    }
}

impl Serve {
    /// Serves streams side by side, until the connection ends.
    pub(super) async fn http2(&self, stream: Stream, info: &Arc<ClientInfo>, standing: &Arc<Standing>) {
        standing.set_http2();
        let settings = &self.shared.settings;
        let digest = Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: None,
            socket_digest: stream.get_socket_digest(),
        };
        let watched = Arc::new(Watched::default());
        let trusted = info.connection.trusted;
        let http2 = settings.limits.http2.of(trusted);
        let (streams, mut ended) = Streams::new(&http2, self.shared.memory.clone());
        let (refusals, turns, of) = (Arc::new(Refusals::default()), self.frames.clone(), &info.connection);
        let watch = FrameWatch::new(std::time::Instant::now(), http2.frames, trusted);
        let watching = WatchedStream::new(stream, watched.clone(), watch, streams.clone(), refusals.clone(), turns, of);
        let _counts = CountsAtTheEnd(refusals.clone(), self.cells.clone());
        let stream: Stream = Box::new(watching);
        let (stream_window, connection_window) = http2.windows();
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(u32::try_from(http2.streams).unwrap_or(u32::MAX))
            .initial_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .data_frame_budget(if trusted { 8 * SMALL_FRAMES } else { SMALL_FRAMES })
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(settings.limits.head_bytes).unwrap_or(u32::MAX));
        let limit = Duration::from_secs(settings.timeouts.handshake.into());
        let connection = match timeout(limit, handshake(stream, Some(options))).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(_)) => return standing.ends().await,
            Err(_) => {
                self.cells.close(Closing::Preface);
                return standing.ends().await;
            }
        };
        let mut state = State {
            connection,
            told: false,
            ends_at: None,
            head_by: None,
            malformed: 0,
            stall: Stall::default(),
            served: false,
            left: requests_of_a_connection(settings.limits.requests_per_connection),
            late: LATE_STREAMS,
        };
        let mut of_next = stream_digest(&digest, info);
        let idle = settings.keep_alive(info.connection.trusted);
        let head = Duration::from_secs(settings.timeouts.head.into());
        let mut draining = self.draining.clone();
        let mut pressure = self.shared.memory.subscribe();
        let old_at = settings.connection_age().map(|age| Instant::now() + age);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let group = Group::new(&info.connection, watched.clone(), self.frames.clone());
        // While no stream is served: a place among those that wait, and when the wait has lasted too long.
        let mut waiting: Option<(Idle<'_>, Instant)> = None;
        loop {
            if !streams.is_idle() || state.told {
                waiting = None;
            } else if waiting.is_none() {
                waiting = Some((self.idle.enter(), Instant::now() + idle));
            }
            // A client that was told to end, and has nothing open, is not waited for without end: it may never answer.
            if state.told && streams.is_idle() && state.ends_at.is_none() {
                state.ends_at = Some(Instant::now() + GOAWAY_LIMIT);
            }
            let idle_until = waiting.as_ref().map(|(_, until)| *until);
            let told_to_end = async {
                match &mut waiting {
                    Some((waiting, _)) => waiting.told_to_end().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                biased;
                () = becomes(&mut draining, |draining| *draining), if !state.told => {
                    if streams.is_idle() {
                        standing.ends().await;
                    }
                    state.end_gracefully(&self.cells, Closing::Draining);
                    continue;
                }
                // Not before its first request: a client that is told to go before it has asked anything comes back at once.
                () = becomes(&mut pressure, |step| *step >= Pressure::NoKeepAlive), if !state.told && state.served => {
                    if streams.is_idle() {
                        standing.ends().await;
                    }
                    state.end_gracefully(&self.cells, Closing::MemoryPressure);
                    continue;
                }
                () = until(old_at), if !state.told => {
                    state.end_gracefully(&self.cells, Closing::ConnectionAge);
                    continue;
                }
                () = watched.changed() => {
                    state.head_by = watched.is_in_head().then(|| Instant::now() + head);
                    if watched.is_spent() && state.ends_at.is_none() {
                        self.cells.reject(Rejection::FrameFlood);
                        refusals.tell();
                        state.end_abruptly(ErrorCode::ENHANCE_YOUR_CALM);
                    }
                    state.malformed += refusals.count(&self.cells);
                    if state.malformed >= MAX_MALFORMED_STREAMS {
                        return;
                    }
                    continue;
                }
                () = until(state.ends_at) => {
                    if streams.is_idle() || watched.is_spent() {
                        return;
                    }
                    state.ends_at = None;
                    continue;
                }
                () = until(state.head_by) => {
                    self.cells.reject(Rejection::SlowHead);
                    return;
                }
                accepted = accept(&mut state.connection, &of_next) => accepted,
                () = until(idle_until) => {
                    standing.ends().await;
                    state.end_gracefully(&self.cells, Closing::KeepAlive);
                    state.ends_at = Some(Instant::now() + GOAWAY_LIMIT);
                    continue;
                }
                why = told_to_end => {
                    standing.ends().await;
                    state.end_gracefully(&self.cells, why);
                    state.ends_at = Some(Instant::now() + ABRUPT_LIMIT);
                    continue;
                }
                _ = look.tick(), if !streams.is_idle() => {
                    let is_reading = watched.is_in_head() || watched.is_in_frame();
                    if streams.count() == 0 && !is_reading && !state.connection.has_streams() {
                        streams.none_is_known();
                    }
                    if self.is_stalled(&streams, &mut state.stall, info) {
                        self.cells.reject(Rejection::AnswersNotTaken);
                        return;
                    }
                    continue;
                }
                // A stream ended; whether the connection is idle now is looked at again.
                _ = ended.changed() => continue,
            };
            match accepted {
                Some(Accepted::Request(session)) => {
                    of_next = stream_digest(&digest, info);
                    self.serve_stream(*session, info.connection.trusted, &streams, &group, standing);
                    // It begins, and others go on, before the next one: whether there is room for that is known then.
                    behind_others().await;
                    state.served = true;
                    if state.left > 0 {
                        state.left -= 1;
                    } else if state.late > 0 {
                        state.late -= 1;
                    } else if state.ends_at.is_none() {
                        self.cells.reject(Rejection::FrameFlood);
                        refusals.tell();
                        state.end_abruptly(ErrorCode::ENHANCE_YOUR_CALM);
                    }
                    if state.left == 0 && !state.told {
                        state.end_gracefully(&self.cells, Closing::RequestsPerConnection);
                    }
                }
                Some(Accepted::Malformed(stream)) => {
                    streams.accepts(stream.id);
                    let (refusal, why) = (&stream.refusal, Rejection::MalformedStream);
                    self.account_refusal(info, refusal, why, stream.status, || RefusedHead::of_stream(&stream.request));
                    state.malformed += 1;
                    if state.malformed >= MAX_MALFORMED_STREAMS {
                        return;
                    }
                }
                None => return standing.ends().await,
            }
        }
    }

    /// Whether a client takes nothing for too long of what waits for it. Where it takes nothing of one stream, that stream's time is the engine's.
    fn is_stalled(&self, streams: &Streams, stall: &mut Stall, info: &ClientInfo) -> bool {
        let timeouts = &self.shared.settings.timeouts;
        // What waits is needed for others.
        let is_short = self.shared.memory.pressure() >= Pressure::ShortIdle;
        let usual = timeouts.client_write.max(info.user_timeout.load(Ordering::Relaxed));
        let usual = Duration::from_secs(usual.into()) + LOOK;
        let limit = if is_short { SHORT_STALL.min(usual) } else { usual };
        let (gone, waits) = streams.progress();
        stall.look(gone, waits, Instant::now()) >= limit
    }

    fn serve_stream(
        &self,
        mut session: StreamSession,
        trusted: bool,
        streams: &Arc<Streams>,
        group: &Group,
        standing: &Arc<Standing>,
    ) {
        streams.accepts(session.id());
        let may_have = self.shared.room.streams(&self.cells, &self.shared.cells);
        if streams.count() >= may_have && !trusted {
            return refuse(session, &self.cells, Rejection::TooManyStreams);
        }
        let request = session.request();
        let Some(mut served) = streams.begin(session.id(), &request.headers, request.raw_path().len()) else {
            return refuse(session, &self.cells, Rejection::RequestsTooLarge);
        };
        let info = session.info().cloned();
        if let Some(info) = &info {
            let _ = info.held.set(served.held.clone());
        }
        let (proxy, draining, cells) = (self.proxy.clone(), self.draining.clone(), self.cells.clone());
        let (shared, streams, standing) = (self.shared.clone(), streams.clone(), standing.clone());
        let patience = Duration::from_secs(self.shared.settings.timeouts.stream.into());
        group.spawn(async move {
            let may_begin = tokio::select! {
                biased;
                // Nobody is left who would take the answer.
                () = session.gone() => return,
                may_begin = served.may_begin() => may_begin,
            };
            if !may_begin {
                return refuse(session, &cells, Rejection::RequestsTooLarge);
            }
            // Others have begun while it waited for that.
            if streams.begun() > shared.room.streams(&cells, &shared.cells) && !trusted {
                return refuse(session, &cells, Rejection::TooManyStreams);
            }
            let is_over = async {
                match &info {
                    Some(info) => rest::is_over(info, patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = proxy.process_new_http(ServerSession::new_custom(Box::new(session)), &draining) => standing.served(),
                () = is_over => cells.reject(Rejection::BodyAfterAnswer),
            }
            drop(served);
        });
    }
}

/// Refuses a stream, which the client may send once more (RFC 9113, 8.7).
fn refuse(mut session: StreamSession, cells: &Cells, why: Rejection) {
    cells.reject(why);
    session.reset(ErrorCode::REFUSED_STREAM);
}

/// What the library has refused last is counted when the connection is over.
struct CountsAtTheEnd(Arc<Refusals>, Arc<Cells>);

impl Drop for CountsAtTheEnd {
    fn drop(&mut self) {
        self.0.count(&self.1);
    }
}

/// Each stream has a digest of its own, by which the lane knows it.
fn stream_digest(connection: &Digest, info: &Arc<ClientInfo>) -> Arc<Digest> {
    let mut digest = connection.clone();
    // Without a carrier the lane knows nobody's address; building one cannot fail.
    if let Ok(carrier) = ResponseHeader::build(200, Some(0)) {
        let user_timeout = info.user_timeout.clone();
        let info = ClientInfo::new(info.connection, info.server_header.clone());
        let info = Arc::new(ClientInfo { user_timeout, ..info });
        digest.proxy_digest = Some(Arc::new(ProxyDigest::new(Box::new(carrier), Some(Box::new(info)))));
    }
    Arc::new(digest)
}

/// When it has become so, or nobody is left who would tell.
async fn becomes<T>(watched: &mut watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) {
    let _ = watched.wait_for(is_so).await;
}

/// A time, or never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
