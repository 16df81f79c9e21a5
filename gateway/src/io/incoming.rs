//! What arrives on an HTTP/1 connection, read and not yet used. While nothing is there it holds no buffer.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::timeout;

use crate::phase::Reason;
use crate::phase::canonical::head::{self, Malformed};
use crate::phase::canonical::{Limits, Refused};

/// Bytes of one read.
const READ: usize = 16 * 1024;

/// How waiting for a head ended without one.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client is gone: there is nobody to tell.
    Silently,
    /// It sent nothing in time, and expects nothing.
    Late,
    /// With an answer.
    Refused(Refused),
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Self {
        Ended::Refused(refused)
    }
}

/// A connection's plaintext, and what was read of it.
pub struct Incoming<S> {
    /// The plaintext.
    pub stream: S,
    buffer: BytesMut,
}

// What others say is in no log.
impl<S> fmt::Debug for Incoming<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incoming")
    }
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    /// Nothing was read yet.
    pub fn new(stream: S) -> Self {
        Incoming { stream, buffer: BytesMut::new() }
    }

    /// What was read and not used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// The connection, and what was read and not used.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.buffer)
    }

    /// So many bytes of it were used. A buffer that is empty is given back.
    pub fn consume(&mut self, count: usize) {
        self.buffer.advance(count);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Reads what is there; 0: the client has ended.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_fill_most(READ, cx)
    }

    /// The same, at most so many bytes.
    pub fn poll_fill_most(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut scratch[..most.min(READ)]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Reads what is there into `buf`, at most `limit` bytes of it.
    pub fn poll_through(
        &mut self,
        limit: usize,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        if !self.buffer.is_empty() {
            let count = self.buffer.len().min(limit).min(buf.remaining());
            buf.put_slice(&self.buffer[..count]);
            self.consume(count);
            return Poll::Ready(Ok(count));
        }
        let before = buf.filled().len();
        let mut part = (&mut self.stream).take(limit as u64);
        ready!(Pin::new(&mut part).poll_read(cx, buf))?;
        Poll::Ready(Ok(buf.filled().len() - before))
    }

    async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Skips empty lines before a request (RFC 9112, 2.2: some clients write one behind a body). True: something is there behind them.
    pub fn has_begun(&mut self) -> bool {
        while self.buffer.starts_with(b"\r\n") {
            self.consume(2);
        }
        !self.buffer.is_empty()
    }

    /// Waits for the first byte of a request.
    ///
    /// # Errors
    /// The client has ended, or sent nothing for so long.
    pub async fn begin(&mut self, limit: Duration) -> Result<(), Ended> {
        let begun = async {
            while !self.has_begun() {
                if !matches!(self.fill().await, Ok(1..)) {
                    return Err(Ended::Silently);
                }
            }
            Ok(())
        };
        timeout(limit, begun).await.unwrap_or(Err(Ended::Late))
    }

    /// Reads a head of which the first byte is there; it is left in the buffer, and its length is told. `limit`: for all of it.
    ///
    /// # Errors
    /// It is larger than it may be, or slower, or no head.
    pub async fn head(&mut self, limit: Duration, limits: &Limits) -> Result<usize, Ended> {
        // What cannot become a request, TLS for example, is not waited for.
        if !self.buffer.first().is_some_and(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_' | b'\r')) {
            return Err(Ended::Refused(Malformed("the method is none").into()));
        }
        let whole = async {
            let mut seen = 0;
            loop {
                let length = head::length(&self.buffer, seen).map_err(Refused::from)?;
                if length.unwrap_or(self.buffer.len()) > limits.head_bytes {
                    return Err(self.too_large(limits).into());
                }
                if let Some(length) = length {
                    return Ok(length);
                }
                seen = self.buffer.len();
                match self.fill().await {
                    Ok(1..) => {}
                    _ => return Err(Ended::Silently),
                }
            }
        };
        let slow = Refused { reason: Reason::ClientTimeout, detail: "the head took too long to arrive" };
        timeout(limit, whole).await.unwrap_or(Err(Ended::Refused(slow)))
    }

    fn too_large(&self, limits: &Limits) -> Refused {
        let line = self.buffer.iter().position(|byte| *byte == b'\n').unwrap_or(self.buffer.len());
        if line > limits.target_bytes {
            Refused { reason: Reason::TargetTooLong, detail: "the request line is too long" }
        } else {
            Refused { reason: Reason::HeadTooLarge, detail: "the head is too large" }
        }
    }
}
