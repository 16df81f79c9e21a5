//! Phase 3, once per attempt: which endpoint a request goes to, and whether it may go to another one when that fails.
//!
//! A connection that could not be made says that nothing was sent: any request may go elsewhere. One that ended before
//! the head of an answer was complete says nothing about what the backend did, so only a request whose repetition does no harm
//! (RFC 9110, 9.2.2) is sent again, with the body that the engine has kept (up to 64 KiB).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use super::general::{Ctx, Gateway};
use crate::clock;
use crate::phase::Reason;
use crate::upstream::connection::Connection;
use crate::upstream::connection::exchange::Seen;
use crate::upstream::connection::reading::Reading;
use crate::upstream::pick::{self, MAX_TRIES, Tried};
use crate::upstream::{BoundBackend, EndpointState};

/// Attempts of one request in all: as many endpoints as are tried, one repetition after a reset, and one after a connection
/// that was kept open and turned out to be closed.
pub const MAX_ATTEMPTS: usize = MAX_TRIES + 2;

/// What was tried for one request.
#[derive(Debug, Default)]
pub struct Attempts {
    count: usize,
    /// Endpoints that could not be connected to.
    tried: Tried,
    /// Endpoints that ended the connection: used again only where no other is left.
    reset: Vec<SocketAddr>,
    /// The request was sent once more after a new connection ended.
    repeated: bool,
    /// It was sent once more after a connection that had been kept open ended.
    stale: bool,
}

impl Attempts {
    /// Whether another endpoint may be tried after one that could not be connected to.
    pub fn may_connect_again(&self) -> bool {
        self.tried.len() < MAX_TRIES && self.count < MAX_ATTEMPTS
    }

    /// Whether a connection that had been kept open has failed the request.
    pub fn met_a_stale_one(&self) -> bool {
        self.stale
    }

    /// Attempts after the first.
    pub fn retries(&self) -> usize {
        self.count.saturating_sub(1)
    }
}

impl Gateway {
    /// Begins an attempt. A later one takes the endpoints that are in force by then: of those that the request began with all may
    /// be gone.
    pub(super) fn begin_attempt(&self, ctx: &mut Ctx) {
        ctx.attempts.count += 1;
        if ctx.attempts.count == 1 {
            return;
        }
        let newest = ctx.backend.as_ref().and_then(|old| self.shared.table.load().backend(&old.key).cloned());
        // Requests in flight are counted in a state that both share, unless the backend was gone in between.
        ctx.backend = match (ctx.backend.take(), newest) {
            (Some(old), Some(new)) if Arc::ptr_eq(&old.state, &new.state) => Some(new),
            (old, _) => old,
        };
    }

    pub(super) async fn pick(&self, ctx: &mut Ctx) -> Result<Arc<EndpointState>, Reason> {
        let Some(backend) = ctx.backend.clone() else { return Err(Reason::InternalError) };
        let picked = pick_of(&backend.candidates().await?, &backend, &ctx.attempts);
        match picked {
            // Judged before, by the controller or with the name's answer: what the guard says may have changed since.
            Some(endpoint) if backend.guard.judge(endpoint.address).is_err() => Err(Reason::EndpointsRefused),
            Some(endpoint) => {
                if ctx.attempts.retries() > 0 {
                    self.cells.retries.fetch_add(1, Ordering::Relaxed);
                }
                Ok(endpoint)
            }
            None if ctx.attempts.tried.is_empty() => Err(Reason::NoEndpoints),
            None => Err(Reason::ConnectFailed),
        }
    }

    /// The engine's peer for an attempt, whose connection is made, judged and kept by [`crate::upstream::connection`].
    pub(super) fn peer(
        &self,
        endpoint: &EndpointState,
        backend: &BoundBackend,
        ctx: &Ctx,
        greeting: Option<Vec<u8>>,
    ) -> (Box<HttpPeer>, Arc<Seen>) {
        let timeouts = &self.shared.settings.timeouts;
        let mut peer = Box::new(HttpPeer::new(endpoint.address, false, String::new()));
        let limit = Duration::from_secs(timeouts.connect.into());
        let key = (backend.pool_group, endpoint.address);
        let reading = Reading {
            memory: self.shared.memory.clone(),
            cells: self.cells.clone(),
            workers: self.shared.cells.len(),
            client: ctx.info.clone(),
        };
        let connection =
            Connection::new(self.pool.clone(), key, limit, self.times(ctx), reading, ctx.attempts.met_a_stale_one())
                .greeting(greeting);
        let seen = connection.seen().clone();
        peer.options.custom_l4 = Some(Arc::new(connection));
        (peer, seen)
    }

    /// `local`: for a reason that is not the endpoint's.
    pub(super) fn connect_failed(&self, ctx: &mut Ctx, local: bool) {
        let (Some(endpoint), Some(backend)) = (&ctx.endpoint, &ctx.backend) else { return };
        ctx.attempts.tried.push(endpoint.address);
        if local {
            return;
        }
        backend.connect_failed(endpoint);
    }

    /// Whether a request may be sent once more after its connection failed. One that was kept open from before may have been closed
    /// without anybody having seen the request. An answer that is none is an answer.
    pub(super) fn may_repeat(session: &Session, error: &Error, ctx: &mut Ctx) -> bool {
        let reused = ctx.exchange.as_ref().is_some_and(|seen| seen.is_reused());
        let answered = ctx.exchange.as_ref().is_some_and(|seen| seen.fault().is_some() || seen.slow().is_some());
        let ended = *error.esource() == ErrorSource::Upstream
            && matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError);
        // 100 and 103 are answers too: whoever sent one has seen the request, and the client has it.
        let unanswered = !answered && ctx.upstream_head.is_none() && session.response_written().is_none();
        let harmless =
            session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated() && !ctx.upgrade;
        if !(ended && unanswered && harmless) || ctx.attempts.count >= MAX_ATTEMPTS {
            return false;
        }
        ctx.attempts.reset.extend(ctx.endpoint.as_ref().map(|endpoint| endpoint.address));
        let used = if reused { &mut ctx.attempts.stale } else { &mut ctx.attempts.repeated };
        !std::mem::replace(used, true)
    }
}

/// Picks an endpoint: one that has not failed this request, else one that only ended its connection.
fn pick_of(
    endpoints: &[Arc<EndpointState>],
    backend: &BoundBackend,
    attempts: &Attempts,
) -> Option<Arc<EndpointState>> {
    let (cursor, now) = (&backend.state.cursor, clock::now_ms());
    if !attempts.reset.is_empty() {
        let failed: Tried = attempts.tried.iter().chain(&attempts.reset).copied().collect();
        if let Some(fresh) = pick::round_robin(endpoints, cursor, &failed, now) {
            return Some(fresh.clone());
        }
    }
    pick::round_robin(endpoints, cursor, &attempts.tried, now).cloned()
}
