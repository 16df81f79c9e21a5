//! The body of an HTTP/1 message as it arrives: as long as it says, or in chunks that are judged and written anew.

use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::incoming::Incoming;
use crate::phase::canonical::chunked::Chunked;
use crate::phase::canonical::framing::Framing;
use crate::phase::canonical::head::Malformed;

enum Kind {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
}

/// What is left of a message: what was written anew of it, and the rest of its body.
pub struct Body {
    kind: Kind,
    written: Vec<u8>,
    read: usize,
    /// Bytes of the body itself that were read.
    passed: usize,
    fault: Option<Malformed>,
}

// Heads and bodies of others are in no log.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Body {
    /// A message that begins with `head`, written anew.
    pub fn new(head: Vec<u8>, framing: Framing) -> Self {
        let kind = match framing {
            Framing::None => Kind::Length(0),
            Framing::Length(length) => Kind::Length(length),
            Framing::Chunked => Kind::Chunked(Box::default()),
        };
        Body { kind, written: head, read: 0, passed: 0, fault: None }
    }

    /// A message whose body is what comes until the connection ends.
    pub fn until_close(head: Vec<u8>) -> Self {
        Body { kind: Kind::UntilClose, written: head, read: 0, passed: 0, fault: None }
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        let is_whole = match &self.kind {
            Kind::Length(left) => *left == 0,
            Kind::Chunked(chunked) => chunked.is_done(),
            Kind::UntilClose => false,
        };
        is_whole && self.read == self.written.len()
    }

    /// Bytes that the body has in all, at most.
    pub fn most(&self) -> usize {
        match &self.kind {
            Kind::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).saturating_add(self.passed),
            Kind::Chunked(_) | Kind::UntilClose => usize::MAX,
        }
    }

    /// Bytes of the body itself that were read, without head and framing.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// What is wrong with it, once it cannot be read on.
    pub fn fault(&self) -> Option<Malformed> {
        self.fault
    }

    /// Moves what was written anew; false: there is nothing of it.
    fn put_written(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.written[self.read..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.read += count;
        if self.read == self.written.len() {
            (self.written, self.read) = (Vec::new(), 0);
        }
        count > 0
    }

    /// Reads on. Nothing is read where the connection has ended.
    ///
    /// # Errors
    /// The connection's, and [`io::ErrorKind::InvalidData`] for what is not what the grammar says.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        incoming: &mut Incoming<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(fault) = self.fault {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault.0)));
            }
            if self.put_written(buf) {
                return Poll::Ready(Ok(()));
            }
            let limit = match &self.kind {
                Kind::Length(left) => *left,
                Kind::Chunked(chunked) => chunked.data_left(),
                Kind::UntilClose => u64::MAX,
            };
            if limit > 0 {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let count = ready!(incoming.poll_through(limit, cx, buf))?;
                self.passed += count;
                let count = count as u64;
                match &mut self.kind {
                    Kind::Length(left) => *left -= count,
                    Kind::Chunked(chunked) => chunked.passed(count),
                    Kind::UntilClose => {}
                }
                return Poll::Ready(Ok(()));
            }
            let Kind::Chunked(chunked) = &mut self.kind else { return Poll::Ready(Ok(())) };
            if chunked.is_done() || (incoming.buffered().is_empty() && ready!(incoming.poll_fill(cx))? == 0) {
                return Poll::Ready(Ok(()));
            }
            match chunked.read(incoming.buffered(), &mut self.written) {
                Ok(count) => incoming.consume(count),
                Err(fault) => self.fault = Some(fault),
            }
        }
    }
}
