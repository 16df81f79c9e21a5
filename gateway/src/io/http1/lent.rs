//! What the engine reads behind the head of a request: its body in canonical framing, and not a byte of what follows it on the connection.
//! What the engine writes goes to the client.
//!
//! Answers that the engine makes before any phase ran are replaced: they would carry no reason, no request id, and the engine's name.

use std::future::Future;
use std::io::{self, IoSlice};
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

use super::lending::Left;
use super::out::{self, Out, Stall};
use super::refuse;
use crate::io::bodies::{FREE, KEPT, LONG, Place};
use crate::io::body::Body;
use crate::io::client::ClientInfo;
use crate::io::incoming::Incoming;
use crate::io::pressure::{Ladder, Pressure};
use crate::io::schedule::Pace;
use crate::phase::Reason;
use crate::phase::canonical::Refused;
use crate::phase::canonical::framing::Framing;

/// How long the rest of a body is waited for once the whole answer is there and written, at most twice.
const REST: Duration = Duration::from_secs(1);

/// Bytes of the next requests that are taken while one is served, to notice a client that leaves.
const MAX_AHEAD: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Lent {
    /// Until it is dropped, and left to the reader.
    incoming: Option<Incoming<Stream>>,
    info: Arc<ClientInfo>,
    /// What the engine has still to read.
    message: Body,
    out: Out,
    memory: Arc<Ladder>,
    place: Place,
    /// The answer is whole and the body is not: looks now and then whether that is still so.
    rest: Option<Pin<Box<Sleep>>>,
    /// Something was read or written since it looked.
    moved: bool,
    pace: Pace,
}

/// The reader has the connection already; nobody asks this any more.
fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl Lent {
    /// Lends a connection of which everything up to the end of a request's head is used, which says how its body is framed.
    /// `stall`: how long the client may take nothing of the answer.
    pub fn new(incoming: Incoming<Stream>, framing: Framing, info: Arc<ClientInfo>, stall: Stall) -> Self {
        let message = Body::new(Vec::new(), framing);
        let memory = stall.memory.clone();
        let out = Out::new(incoming.stream.get_ssl().is_some(), stall);
        let (place, pace) = (Place::default(), Pace::default());
        Lent { incoming: Some(incoming), info, message, out, memory, place, rest: None, moved: false, pace }
    }

    /// What came of writing.
    fn judge<T>(&mut self, written: Poll<io::Result<T>>, before: usize, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.out.moved();
            self.info.window.took();
            return written;
        }
        self.info.window.stalls();
        if self.out.len() < before {
            self.out.moved();
        }
        ready!(self.out.poll_stall(self.info.lending.stall(), cx));
        let detail = "the client takes nothing of the answer";
        self.info.lending.fail(Refused { reason: Reason::ClientStalled, detail });
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The request is read; what the client does meanwhile is only looked at, to notice that it leaves.
    fn poll_idle(incoming: &mut Incoming<Stream>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while incoming.buffered().len() < MAX_AHEAD {
            if ready!(incoming.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// How much of the body may be read next, which `most` is the endpoint's word on: the engine keeps what it reads.
    fn poll_place(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (whole, passed) = (self.message.most(), self.message.passed());
        if whole <= FREE {
            return Poll::Ready(Ok(most));
        }
        if passed < FREE {
            return Poll::Ready(Ok(most.min(FREE - passed)));
        }
        if passed > KEPT {
            self.place.keep(LONG);
        }
        let is_short = self.memory.pressure() > Pressure::None;
        let polled = self.place.poll(whole, self.memory.bodies(), is_short, cx);
        self.info.upload.place(self.place.is_taken(), polled.is_pending());
        if ready!(polled) {
            return Poll::Ready(Ok(most));
        }
        let detail = "the bodies of other requests take all the room that there is for them";
        self.info.lending.fail(Refused { reason: Reason::MemoryExhausted, detail });
        Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()))
    }

    /// Nothing comes of the body. Where the whole answer is there already, nobody needs the rest, and a client that is slow with it has
    /// to end: ready then.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let sleep = self.rest.get_or_insert_with(|| Box::pin(tokio::time::sleep(REST)));
            ready!(sleep.as_mut().poll(cx));
            self.rest = None;
            let quiet = !std::mem::take(&mut self.moved) && self.out.len() == 0;
            let holds_others_up = self.place.is_taken() && self.memory.bodies().are_waiting();
            if (quiet || holds_others_up) && self.info.lending.is_answered() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Lent {
    /// The reader decides what becomes of the connection; the engine only drops it.
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        self.info.upload.place(false, false);
        let open = !self.info.lending.is_switched() && self.info.lending.fault().is_none();
        let usable = open && self.message.is_done() && self.out.len() == 0;
        self.info.lending.leave(Left { incoming, usable });
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return gone() };
        // The engine flushes bodies, and heads without one. A head whose body is yet to come would wait with it; the engine
        // reads meanwhile, to notice a client that leaves.
        if let Poll::Ready(Err(error)) = this.out.poll_drain(&mut incoming.stream, cx) {
            return Poll::Ready(Err(error));
        }
        if this.message.is_done() && !this.info.lending.is_switched() {
            return Lent::poll_idle(incoming, cx);
        }
        // What is read waits for the endpoint: it is the endpoint that is waited for, and not the client.
        let mut most = ready!(this.info.upload.poll_room(cx));
        if this.info.upload.is_sent() && !this.info.lending.is_switched() {
            most = ready!(this.poll_place(most, cx))?;
        }
        ready!(this.pace.poll(cx));
        let Some(incoming) = &mut this.incoming else { return gone() };
        let (message, before) = (&mut this.message, buf.filled().len());
        let read = if this.info.lending.is_switched() {
            incoming.poll_through(most, cx, buf).map_ok(|_| ())
        } else if most >= buf.remaining() {
            message.poll_read(incoming, cx, buf)
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            let read = message.poll_read(incoming, cx, &mut part);
            let count = part.filled().len();
            buf.advance(count);
            read
        };
        let count = buf.filled().len() - before;
        this.info.upload.read(count);
        if count > 0 {
            this.pace.read();
        }
        if let Some(fault) = this.message.fault() {
            this.info.lending.fail(fault.into());
        }
        if read.is_pending() {
            return this.poll_rest(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        this.moved = true;
        read
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return gone() };
        this.moved = true;
        let before = this.out.len();
        let written = if this.info.lending.is_taken() {
            this.out.poll_take(&mut incoming.stream, cx, data)
        } else {
            // What the engine itself would say.
            if this.info.refusal.get().is_none() {
                let refused = Refused { reason: Reason::BadRequest, detail: "the engine cannot read the request" };
                this.out.replace(refuse::answer(&this.info, refused));
            }
            this.out.poll_drain(&mut incoming.stream, cx).map_ok(|()| out::length(data))
        };
        this.judge(written, before, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return gone() };
        let before = this.out.len();
        let written = match this.out.poll_drain(&mut incoming.stream, cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut incoming.stream).poll_flush(cx),
            other => other,
        };
        this.judge(written, before, cx)
    }

    /// What is written is sent; the connection ends when the reader wants it to.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[async_trait]
impl Shutdown for Lent {
    async fn shutdown(&mut self) {
        // A client that is gone gets nothing more.
        let _ = self.flush().await;
    }
}

impl Lent {
    fn stream(&self) -> Option<&Stream> {
        self.incoming.as_ref().map(|incoming| &incoming.stream)
    }
}

impl UniqueID for Lent {
    fn id(&self) -> i32 {
        self.stream().map_or(-1, |stream| stream.id())
    }
}

impl Ssl for Lent {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream()?.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream()?.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream()?.selected_alpn_proto()
    }
}

impl Peek for Lent {}

impl GetTimingDigest for Lent {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream().map(|stream| stream.get_timing_digest()).unwrap_or_default()
    }
}

impl GetProxyDigest for Lent {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream()?.get_proxy_digest()
    }
}

impl GetSocketDigest for Lent {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream()?.get_socket_digest()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::io::schedule::pieces_of_long_steps;
    use crate::phase::{Connection, Scheme};

    #[tokio::test]
    async fn others_come_between_two_pieces_of_a_body_in_a_long_step() {
        const LENGTH: usize = 10_000;
        let (mut client, server) = duplex(2 * LENGTH);
        client.write_all(&[b'x'; LENGTH]).await.unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let info = Arc::new(ClientInfo::new(Connection::new(Scheme::Http, address, address), None));
        let stall = Stall { limit: REST, memory: Arc::new(Ladder::new(1 << 30)) };
        let mut lent = Lent::new(Incoming::new(Box::new(server)), Framing::Length(LENGTH as u64), info, stall);
        let mut left = LENGTH;
        let read = |cx: &mut Context<'_>| {
            let mut bytes = [0; 1000];
            let mut buf = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut lent).poll_read(cx, &mut buf)).unwrap();
            left -= buf.filled().len();
            Poll::Ready(left > 0)
        };
        let pieces = pieces_of_long_steps(read).await;
        assert!(pieces.len() > 1 && pieces.iter().all(|pieces| *pieces == 1), "{pieces:?}");
    }
}
