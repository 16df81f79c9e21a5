//! HTTP/1 connections: our reader waits for requests, judges each head as the client wrote it, and lends the engine one request at a time,
//! written anew. The engine never sees the connection itself (docs/adr/0026).

pub mod lending;
mod lent;
mod out;
pub(super) mod refuse;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pingora::apps::HttpServerApp;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession;

use super::client::{ClientInfo, Refusal};
use super::connection::Serve;
use super::incoming::{Ended, Incoming};
use super::linger::linger;
use super::rest;
use super::schedule::Standing;
use super::worker::IDLE_GRACE;
use crate::observe::Closing;
use crate::observe::cells::Rejection;
use crate::observe::refused_head::RefusedHead;
use crate::phase::canonical::Refused;
use crate::phase::canonical::framing::Framing;
use crate::phase::canonical::message::{self, Request};
use lent::Lent;
use out::Stall;

impl Serve {
    /// Serves requests one after another, until the connection ends.
    pub(super) async fn http1(&self, stream: Stream, info: &Arc<ClientInfo>, standing: &Standing) {
        let settings = &self.shared.settings;
        let keep_alive = settings.keep_alive(info.connection.trusted);
        let stall = Duration::from_secs(settings.timeouts.client_write.into());
        let patience = Duration::from_secs(settings.timeouts.stream.into());
        let mut incoming = Incoming::new(stream);
        let (mut limit, mut late) = (Duration::from_secs(settings.timeouts.first_byte.into()), Closing::FirstByte);
        let mut left = requests_of_a_connection(settings.limits.requests_per_connection);
        let ends_at = settings.connection_age().map(|age| Instant::now() + age);
        loop {
            let young = ends_at.map(|at| at.saturating_duration_since(Instant::now()));
            // One that has only just become too old may have a request on its way already.
            let (limit_now, late_now) = match young.map(|young| young.max(IDLE_GRACE)) {
                Some(young) if young < limit => (young, Closing::ConnectionAge),
                _ => (limit, late),
            };
            let request = match self.next_request(&mut incoming, limit_now, late_now).await {
                Ok(request) => request,
                Err(Ended::Silently | Ended::Late) => {
                    standing.ends().await;
                    return refuse::close(incoming.stream).await;
                }
                Err(Ended::Refused(refused)) => {
                    standing.ends().await;
                    let (stream, head) = incoming.into_parts();
                    return self.refuse(stream, head, info, refused).await;
                }
            };
            (limit, late) = (keep_alive, Closing::KeepAlive);
            left -= 1;
            let is_old = ends_at.is_some_and(|at| at <= Instant::now());
            let is_last = left == 0 || is_old;
            if is_last {
                self.cells.close(if is_old { Closing::ConnectionAge } else { Closing::RequestsPerConnection });
            }
            let takes = Stall { limit: stall, memory: self.shared.memory.clone() };
            let has_body = request.framing != Framing::None;
            info.lending.begin(request.canonical, is_last);
            let lent = Lent::new(incoming, request.framing, info.clone(), takes);
            let mut session = HttpSession::new(Box::new(lent));
            // The head, written anew, is there already: reading it would take a buffer of 4 KiB for as long as the request lasts.
            session.set_pipelined_prefix(Bytes::from(request.head).into());
            let is_over =
                async { if has_body { rest::is_over(info, patience).await } else { std::future::pending().await } };
            let is_kept = tokio::select! {
                biased;
                kept = self.proxy.process_new_http(ServerSession::H1(session), &self.draining) => kept.is_some(),
                () = is_over => {
                    self.cells.reject(Rejection::BodyAfterAnswer);
                    false
                }
            };
            if let Some(refusal) = info.refusal.get() {
                self.account_http1(info, refusal, &[]);
            }
            match info.lending.take_left() {
                Some(left) if is_kept && left.usable => {
                    standing.served();
                    incoming = left.incoming;
                    // Others come between two requests of a client that sends many at once.
                    if incoming.has_begun() {
                        tokio::task::yield_now().await;
                    }
                }
                Some(left) if !info.is_cut.load(Ordering::Relaxed) => {
                    if *self.draining.borrow() && !is_last && info.refusal.get().is_none() {
                        self.cells.close(Closing::Draining);
                    }
                    return linger(left.incoming.stream).await;
                }
                Some(_) => return,
                None => return,
            }
        }
    }

    /// Waits for a request, for its first byte so long as `limit`; `late`: what it is when that is over.
    async fn next_request(
        &self,
        incoming: &mut Incoming<Stream>,
        limit: Duration,
        late: Closing,
    ) -> Result<Request, Ended> {
        let limits = self.shared.settings.limits.head();
        let mut draining = self.draining.clone();
        let ending = async {
            let _ = draining.wait_for(|draining| *draining).await;
            tokio::time::sleep(IDLE_GRACE).await;
        };
        if !incoming.has_begun() {
            let mut idle = self.idle.enter();
            let why = tokio::select! {
                biased;
                begun = incoming.begin(limit) => match begun {
                    Ok(()) => None,
                    Err(Ended::Late) => Some(late),
                    Err(ended) => return Err(ended),
                },
                () = ending => Some(Closing::Draining),
                why = idle.told_to_end() => Some(why),
            };
            if let Some(why) = why {
                self.cells.close(why);
                return Err(Ended::Silently);
            }
        }
        let whole = Duration::from_secs(self.shared.settings.timeouts.head.into());
        let length = incoming.head(whole, &limits).await?;
        let request = message::request(&incoming.buffered()[..length], &limits).map_err(Ended::Refused)?;
        incoming.consume(length);
        Ok(request)
    }

    /// Answers a request that is refused, and ends its connection. `head`: what was read of it.
    pub(super) async fn refuse(&self, stream: Stream, head: BytesMut, info: &ClientInfo, refused: Refused) {
        let answer = refuse::answer(info, refused);
        if let Some(refusal) = info.refusal.get() {
            self.account_http1(info, refusal, &head);
        }
        drop(head);
        let limit = Duration::from_secs(self.shared.settings.timeouts.client_write.into());
        refuse::end(stream, &answer, limit).await;
    }

    fn account_http1(&self, info: &ClientInfo, refusal: &Refusal, head: &[u8]) {
        let reason = refusal.refused.reason;
        self.account_refusal(info, refusal, Rejection::of(reason), reason.status(), || RefusedHead::of_bytes(head));
    }
}

/// How many requests a connection serves: up to a tenth less than it may, so that those which began together do not end together; 0: however many.
pub(super) fn requests_of_a_connection(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit - rand::random_range(0..=limit / 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_serves_up_to_a_tenth_less_than_it_may_or_however_many() {
        for (limit, range) in [(0, usize::MAX..=usize::MAX), (1, 1..=1), (1000, 900..=1000)] {
            assert!((0..100).all(|_| range.contains(&requests_of_a_connection(limit))), "{limit}");
        }
    }
}
