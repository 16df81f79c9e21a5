//! What goes to an HTTP/1 client: collected until a segment, or a TLS record, is full, and given up where the client takes nothing.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora::protocols::Stream;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

use crate::io::pressure::{Ladder, Pressure, SHORT_STALL};

/// Bytes that are collected before they are written without waiting for a flush: one TLS record.
const MAX_PENDING: usize = 16 * 1024;

/// From how many bytes on they are written from where they are, without TLS.
const LARGE: usize = 4 * 1024;

/// Parts that are written at once: what is collected, and of a chunk its size, its data and its end.
const MAX_PARTS: usize = 4;

/// How long a client may take nothing.
#[derive(Debug)]
pub struct Stall {
    /// So long, where the route does not say it.
    pub limit: Duration,
    /// No longer than [`SHORT_STALL`] while it runs short.
    pub memory: Arc<Ladder>,
}

/// See the module.
pub struct Out {
    /// What is written and not flushed yet: a head and its body leave as one segment, and one TLS record.
    pending: Vec<u8>,
    /// What is left to write of an answer that replaces the engine's.
    own: Vec<u8>,
    is_tls: bool,
    stall: Stall,
    /// Since when nothing could be written, and when that is looked at.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

// What is said to others is in no log.
impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Out")
    }
}

/// Bytes of all parts.
pub fn length(parts: &[IoSlice<'_>]) -> usize {
    parts.iter().map(|part| part.len()).sum()
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

impl Out {
    /// Nothing is written yet. `is_tls`: each write becomes a record.
    pub fn new(is_tls: bool, stall: Stall) -> Self {
        Out { pending: Vec::new(), own: Vec::new(), is_tls, stall, stalled: None }
    }

    /// Bytes that are not written.
    pub fn len(&self) -> usize {
        self.pending.len() + self.own.len()
    }

    /// This goes instead of what the engine writes.
    pub fn replace(&mut self, own: Vec<u8>) {
        self.own = own;
    }

    /// Writes what is collected.
    pub fn poll_drain(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(poll_drain(stream, &mut self.own, cx))?;
        poll_drain(stream, &mut self.pending, cx)
    }

    /// Takes these parts, or some of them: small ones are collected, large ones written behind what is.
    pub fn poll_take(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = length(parts);
        if length < LARGE && self.pending.len() + length <= MAX_PENDING {
            parts.iter().for_each(|part| self.pending.extend_from_slice(part));
            return Poll::Ready(Ok(length));
        }
        if self.is_tls { self.poll_fill(stream, cx, parts) } else { self.poll_through(stream, cx, parts) }
    }

    /// Fills a record, and writes it when it is full.
    fn poll_fill(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.pending.len() >= MAX_PENDING {
            ready!(self.poll_drain(stream, cx))?;
        }
        let before = self.pending.len();
        for part in parts {
            let room = MAX_PENDING - self.pending.len();
            self.pending.extend_from_slice(&part[..part.len().min(room)]);
        }
        Poll::Ready(Ok(self.pending.len() - before))
    }

    /// Writes what is collected and these parts in one go.
    fn poll_through(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(poll_drain(stream, &mut self.own, cx))?;
        loop {
            let mut all = [IoSlice::new(&self.pending); MAX_PARTS];
            let count = parts.len().min(MAX_PARTS - 1);
            all[1..=count].copy_from_slice(&parts[..count]);
            let count = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &all[..=count]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_pending = count.min(self.pending.len());
            self.pending.drain(..of_pending);
            if count > of_pending {
                return Poll::Ready(Ok(count - of_pending));
            }
        }
    }

    /// Something was written.
    pub fn moved(&mut self) {
        self.stalled = None;
    }

    /// Nothing can be written; ready when that was so for too long: the client does not read.
    /// `limit`: how long that is, where the route says it.
    pub fn poll_stall(&mut self, limit: Option<Duration>, cx: &mut Context<'_>) -> Poll<()> {
        let limit = limit.unwrap_or(self.stall.limit);
        let look = |waited: Duration| sleep(SHORT_STALL.min(limit.saturating_sub(waited)));
        let (since, look_at) = self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(look(Duration::ZERO))));
        loop {
            ready!(look_at.as_mut().poll(cx));
            let (waited, is_short) = (since.elapsed(), self.stall.memory.pressure() >= Pressure::ShortIdle);
            if waited >= if is_short { limit.min(SHORT_STALL) } else { limit } {
                return Poll::Ready(());
            }
            look_at.set(look(waited));
        }
    }
}
