//! The plaintext of an HTTP/1 connection, above TLS where there is any: what the engine reads requests from.
//!
//! It watches request lines as they arrive, and replaces the answers that the engine makes before any phase ran (a head it
//! cannot parse, CONNECT): those would carry no reason, no request id, and the engine's name.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use http::{HeaderMap, Method};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::{ClientInfo, Refusal};
use crate::phase::{Reason, request_id, respond};

/// See the module.
#[derive(Debug)]
pub struct Http1Stream {
    inner: Stream,
    info: Arc<ClientInfo>,
    /// What is left to write of an answer that replaces the engine's.
    own: Vec<u8>,
}

impl Http1Stream {
    /// Wraps a connection's plaintext.
    pub fn new(inner: Stream, info: Arc<ClientInfo>) -> Self {
        Http1Stream { inner, info, own: Vec::new() }
    }

    /// The answer that takes the place of `engine`'s.
    fn refuse(&mut self, engine: &[u8]) {
        let (reason, method) = match engine.get(9..12) {
            Some(b"405") => (Reason::MethodNotAllowed, Method::CONNECT),
            _ => (Reason::BadRequest, Method::GET),
        };
        let refusal = Refusal { reason, request_id: request_id::new() };
        let answer = respond::render(&reason.into(), &method, &HeaderMap::new(), &refusal.request_id);
        self.own = respond::raw_http1(&answer, &refusal.request_id, self.info.server_header.as_ref());
        // A connection is refused once: the engine closes it.
        let _ = self.info.refusal.set(refusal);
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.own))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Http1Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.info.watch.feed(&buf.filled()[before..]);
        poll
    }
}

impl AsyncWrite for Http1Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.info.watch.is_taken() {
            return Pin::new(&mut self.inner).poll_write(cx, data);
        }
        if self.info.refusal.get().is_none() {
            self.refuse(data);
        }
        ready!(self.poll_own(cx))?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.info.watch.is_taken() {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, data);
        }
        let first = data.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Http1Stream {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

impl UniqueID for Http1Stream {
    fn id(&self) -> i32 {
        self.inner.id()
    }
}

impl Ssl for Http1Stream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl Peek for Http1Stream {}

impl GetTimingDigest for Http1Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Http1Stream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Http1Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}
