//! One request, as the engine reads it: its head written anew, its body in canonical framing, and not a byte of what follows it on the
//! connection. What the engine writes goes to the client.
//!
//! Answers that the engine makes before any phase ran are replaced: they would carry no reason, no request id, and the engine's name.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use super::refuse;
use crate::io::body::Body;
use crate::io::client::ClientInfo;
use crate::io::incoming::Incoming;
use crate::phase::Reason;
use crate::phase::canonical::Refused;
use crate::phase::canonical::message::Request;

/// Bytes that are collected before they are written without waiting for a flush: one TLS record.
const MAX_PENDING: usize = 16 * 1024;

/// Bytes of the next requests that are taken while one is served, to notice a client that leaves.
const MAX_AHEAD: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Lent {
    incoming: Incoming<Stream>,
    info: Arc<ClientInfo>,
    /// What the engine has still to read.
    message: Body,
    /// What is written and not flushed yet: a head and its body leave as one segment, and one TLS record.
    pending: Vec<u8>,
    /// What is left to write of an answer that replaces the engine's.
    own: Vec<u8>,
    /// How long the client may take nothing.
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Writes a buffer out.
fn poll_drain(stream: &mut Stream, buffer: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut written = 0;
    let result = loop {
        if written == buffer.len() {
            break Poll::Ready(Ok(()));
        }
        match Pin::new(&mut *stream).poll_write(cx, &buffer[written..]) {
            Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => written += count,
            Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
            Poll::Pending => break Poll::Pending,
        }
    };
    buffer.drain(..written);
    result
}

impl Lent {
    /// Lends a request, of whose connection everything up to the end of its head is used. `last`: its connection ends with it.
    /// `stall`: how long the client may take nothing of the answer.
    pub fn new(
        incoming: Incoming<Stream>,
        request: Request,
        info: Arc<ClientInfo>,
        last: bool,
        stall: Duration,
    ) -> Self {
        info.lending.begin(request.canonical, last);
        let message = Body::new(request.head, request.framing);
        Lent { incoming, info, message, pending: Vec::new(), own: Vec::new(), stall, stalled: None }
    }

    /// What came of writing: where nothing can be written for too long, the client does not read.
    fn judge_stall<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        progress: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() || progress {
            self.stalled = None;
        }
        if written.is_ready() {
            return written;
        }
        let stall = self.stall;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(sleep.as_mut().poll(cx));
        self.info
            .lending
            .fail(Refused { reason: Reason::ClientStalled, detail: "the client takes nothing of the answer" });
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The connection, if the next request may come on it: this one was read whole, and its answer is written.
    pub fn give_back(self) -> Option<Incoming<Stream>> {
        let open = !self.info.lending.is_switched() && self.info.lending.fault().is_none();
        (open && self.message.is_done() && self.pending.is_empty() && self.own.is_empty()).then_some(self.incoming)
    }

    /// The answer that takes the place of the engine's.
    fn refuse(&mut self) {
        let refused = Refused { reason: Reason::BadRequest, detail: "the engine cannot read the request" };
        self.own = refuse::answer(&self.info, refused);
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_drain(&mut self.incoming.stream, &mut self.own, cx)
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_drain(&mut self.incoming.stream, &mut self.pending, cx)
    }

    /// The request is read; what the client does meanwhile is only looked at, to notice that it leaves.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.incoming.buffered().len() < MAX_AHEAD {
            if ready!(self.incoming.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The engine flushes bodies, and heads without one. A head whose body is yet to come would wait with it; the engine
        // reads meanwhile, to notice a client that leaves.
        if let Poll::Ready(Err(error)) = this.poll_pending(cx) {
            return Poll::Ready(Err(error));
        }
        if this.info.lending.is_switched() {
            return this.incoming.poll_through(usize::MAX, cx, buf).map_ok(|_| ());
        }
        if this.message.is_done() {
            return this.poll_idle(cx);
        }
        let read = this.message.poll_read(&mut this.incoming, cx, buf);
        if let Some(fault) = this.message.fault() {
            this.info.lending.fail(fault.into());
        }
        read
    }
}

impl Lent {
    fn poll_take(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if !self.info.lending.is_taken() {
            if self.info.refusal.get().is_none() {
                self.refuse();
            }
            ready!(self.poll_own(cx))?;
            return Poll::Ready(Ok(data.len()));
        }
        if self.pending.len() + data.len() > MAX_PENDING {
            ready!(self.poll_pending(cx))?;
            if data.len() > MAX_PENDING {
                return Pin::new(&mut self.incoming.stream).poll_write(cx, data);
            }
        }
        self.pending.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.incoming.stream).poll_flush(cx)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let before = this.pending.len();
        let written = this.poll_take(cx, data);
        let progress = this.pending.len() < before;
        this.judge_stall(written, progress, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = this.pending.len() + this.own.len();
        let written = this.poll_out(cx);
        let progress = this.pending.len() + this.own.len() < before;
        this.judge_stall(written, progress, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.incoming.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Lent {
    async fn shutdown(&mut self) {
        // A client that is gone gets nothing more.
        let _ = self.flush().await;
        refuse::linger(&mut self.incoming.stream).await;
    }
}

impl UniqueID for Lent {
    fn id(&self) -> i32 {
        self.incoming.stream.id()
    }
}

impl Ssl for Lent {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.incoming.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.incoming.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.incoming.stream.selected_alpn_proto()
    }
}

impl Peek for Lent {}

impl GetTimingDigest for Lent {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.incoming.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Lent {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.incoming.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Lent {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.incoming.stream.get_socket_digest()
    }
}
