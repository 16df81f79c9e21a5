//! The plaintext of an HTTP/1 connection, above TLS where there is any: what the engine reads requests from.
//!
//! It watches request lines as they arrive, percent-encodes in them what the engine's parser would refuse and sloppy clients
//! do send (8-bit bytes, angle brackets, backticks, quotes in a query), and replaces the answers that the engine makes before any phase
//! ran (a head it cannot parse, CONNECT): those would carry no reason, no request id, and the engine's name.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, Method};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::client::{ClientInfo, Refusal};
use crate::phase::{Reason, request_id, respond};

/// How long a closing connection is read from, at most.
const LINGER: Duration = Duration::from_secs(1);

/// How many bytes are read from it, at most.
const LINGER_BYTES: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Http1Stream {
    inner: Stream,
    info: Arc<ClientInfo>,
    /// The request line has come to its query.
    in_query: bool,
    /// What is left to be read of a request line that grew by encoding, and what came with it.
    encoded: Vec<u8>,
    /// What is written and not flushed yet: a head and its body leave as one segment, and one TLS record.
    pending: Vec<u8>,
    /// What is left to write of an answer that replaces the engine's.
    own: Vec<u8>,
}

/// Bytes that are collected before they are written without waiting for a flush: one TLS record.
const MAX_PENDING: usize = 16 * 1024;

/// Writes a buffer out.
fn poll_drain(inner: &mut Stream, buffer: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut written = 0;
    let result = loop {
        if written == buffer.len() {
            break Poll::Ready(Ok(()));
        }
        match Pin::new(&mut *inner).poll_write(cx, &buffer[written..]) {
            Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => written += count,
            Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
            Poll::Pending => break Poll::Pending,
        }
    };
    buffer.drain(..written);
    // An idle connection keeps no buffer.
    if buffer.is_empty() && buffer.capacity() > 0 && result.is_ready() {
        *buffer = Vec::new();
    }
    result
}

impl Http1Stream {
    /// Wraps a connection's plaintext.
    pub fn new(inner: Stream, info: Arc<ClientInfo>) -> Self {
        Http1Stream { inner, info, in_query: false, encoded: Vec::new(), pending: Vec::new(), own: Vec::new() }
    }

    fn read_encoded(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.encoded.len().min(buf.remaining());
        buf.put_slice(&self.encoded[..count]);
        self.encoded.drain(..count);
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
        poll_drain(&mut self.inner, &mut self.own, cx)
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_drain(&mut self.inner, &mut self.pending, cx)
    }
}

/// A part of a request line with what no URI holds (RFC 3986, appendix A) and no other rule refuses percent-encoded; `None`:
/// there is nothing of the kind in it, as nearly always.
fn encode(line: &[u8], in_query: &mut bool) -> Option<Vec<u8>> {
    let mut encoded: Option<Vec<u8>> = None;
    for (index, &byte) in line.iter().enumerate() {
        *in_query = (*in_query || byte == b'?') && byte != b'\n';
        if matches!(byte, 0x80..|b'<'| b'>' | b'`') || (byte == b'"' && *in_query) {
            let out = encoded.get_or_insert_with(|| line[..index].to_vec());
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else if let Some(out) = &mut encoded {
            out.push(byte);
        }
    }
    encoded
}

impl AsyncRead for Http1Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // The engine flushes bodies, and heads without one. A head whose body is yet to come would wait with it; the engine
        // reads meanwhile, to notice a client that leaves.
        if let Poll::Ready(Err(error)) = self.poll_pending(cx) {
            return Poll::Ready(Err(error));
        }
        if !self.encoded.is_empty() {
            self.read_encoded(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        let (line, rest) = new.split_at(self.info.watch.feed(new));
        if let Some(mut encoded) = encode(line, &mut self.in_query) {
            encoded.extend_from_slice(rest);
            self.encoded = encoded;
            buf.set_filled(before);
            self.read_encoded(buf);
        }
        poll
    }
}

impl AsyncWrite for Http1Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if !self.info.watch.is_taken() {
            if self.info.refusal.get().is_none() {
                self.refuse(data);
            }
            ready!(self.poll_own(cx))?;
            return Poll::Ready(Ok(data.len()));
        }
        if self.pending.len() + data.len() > MAX_PENDING {
            ready!(self.poll_pending(cx))?;
            if data.len() > MAX_PENDING {
                return Pin::new(&mut self.inner).poll_write(cx, data);
            }
        }
        self.pending.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Http1Stream {
    /// Closes in a way that lets the client read the answer: what it still sends is taken for a moment, since a socket that
    /// is closed with unread bytes resets the connection, and the reset overtakes the answer.
    async fn shutdown(&mut self) {
        // A client that is gone gets nothing more.
        let _ = self.flush().await;
        Shutdown::shutdown(&mut *self.inner).await;
        let mut chunk = [0; 4096];
        let discard = async {
            let mut left = LINGER_BYTES;
            while let Ok(count @ 1..) = self.inner.read(&mut chunk).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    break;
                }
            }
        };
        // A client that neither reads nor closes has had its chance.
        let _ = tokio::time::timeout(LINGER, discard).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_uri_holds_is_encoded_and_quotes_only_in_the_query() {
        let mut in_query = false;
        assert_eq!(encode(b"GET /a\"b?c=d HTTP/1.1\r\n", &mut in_query), None);
        assert!(!in_query, "the line has ended");
        let encoded = encode(b"GET /\xe9<\"?", &mut in_query).unwrap();
        assert_eq!(encoded, b"GET /%E9%3C\"?");
        assert_eq!(encode(b"\"` HTTP/1.1\r\n", &mut in_query).unwrap(), b"%22%60 HTTP/1.1\r\n", "across reads");
    }
}
