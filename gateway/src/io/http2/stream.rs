//! The plaintext of an HTTP/2 connection, with a watch over the frames that come in.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{FrameWatch, Watched};
use super::refusals::Refusals;
use super::streams::Streams;
use super::wire::{Reader, kind};
use crate::io::admission::network;
use crate::io::linger::Discard;
use crate::io::schedule::Pace;
use crate::io::turns::{Next, Turns};
use crate::phase::Connection;

/// Bytes that are read at a time, besides what is left of a frame with data. In a turn it is one frame.
const STEP: usize = 1024;

/// See the module.
pub struct WatchedStream {
    inner: Stream,
    /// Frames that come, and that go.
    incoming: Reader,
    outgoing: Reader,
    watch: FrameWatch,
    watched: Arc<Watched>,
    streams: Arc<Streams>,
    refusals: Arc<Refusals>,
    /// The end was told; until then what still comes is taken.
    lingers: Option<Discard>,
    turns: Arc<Turns>,
    /// Whose turns they are.
    network: IpAddr,
    /// The turn that is waited for.
    turn: Option<Next>,
    has_turn: bool,
    pace: Pace,
}

impl std::fmt::Debug for WatchedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatchedStream")
    }
}

impl WatchedStream {
    /// Watches a connection from its preface on.
    pub fn new(
        inner: Stream,
        watched: Arc<Watched>,
        watch: FrameWatch,
        streams: Arc<Streams>,
        refusals: Arc<Refusals>,
        turns: Arc<Turns>,
        of: &Connection,
    ) -> Self {
        WatchedStream {
            inner,
            incoming: Reader::of_client(),
            outgoing: Reader::of_server(),
            watch,
            watched,
            streams,
            refusals,
            lingers: None,
            turns,
            network: network(of.peer),
            turn: None,
            has_turn: false,
            pace: Pace::default(),
        }
    }
}

impl WatchedStream {
    /// Ready when something may be read: at once, but for a client that has sent much that costs much, which takes turns with its like.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_turn {
            return Poll::Ready(());
        }
        let now = Instant::now();
        if self.watch.takes_turns_until(now) <= now {
            self.turn = None;
            return Poll::Ready(());
        }
        let (turns, network) = (&self.turns, self.network);
        ready!(self.turn.get_or_insert_with(|| turns.next(network)).as_mut().poll(cx));
        (self.turn, self.has_turn) = (None, true);
        Poll::Ready(())
    }

    /// Bytes to read at a time.
    fn step(&self) -> usize {
        match self.incoming.rest() {
            rest if self.has_turn => rest,
            rest if self.incoming.is_in_data() => rest + STEP,
            _ => STEP,
        }
    }

    /// These came from the client.
    fn came(&mut self, mut bytes: &[u8]) {
        let now = Instant::now();
        while let Some(frame) = self.incoming.next(&mut bytes) {
            self.watch.frame(&frame, now, &self.watched);
            if !self.streams.came(&frame) {
                self.watched.spend();
            }
        }
        // Those of its streams that have come with these take turns as well.
        self.watched.set_takes_turns(self.watch.takes_turns_until(now));
        let in_frame = !self.incoming.is_between_frames();
        self.watched.set_in_frame(in_frame);
        self.has_turn &= in_frame;
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nothing that comes now is served: the loop ends the connection, and need not be woken for it.
        if this.watched.is_spent() {
            return Poll::Pending;
        }
        ready!(this.pace.poll(cx));
        ready!(this.poll_turn(cx));
        let most = this.step().min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
        this.came(part.filled());
        let count = part.filled().len();
        buf.advance(count);
        this.pace.read();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.inner).poll_write(cx, data))?;
        this.watch.sent(count);
        let mut gone = data.get(..count).unwrap_or_default();
        let mut takes_data = this.outgoing.is_in_data();
        while let Some(frame) = this.outgoing.next(&mut gone) {
            takes_data |= frame.kind == kind::DATA;
            let ended = this.streams.goes(&frame);
            this.refusals.goes(&frame, ended);
            if ended.is_some() {
                this.watched.look();
            }
        }
        if takes_data || this.outgoing.is_in_data() {
            this.streams.takes();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// A socket that is closed while something still comes resets the connection, and the reset overtakes what was sent.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nothing is read any more but to be thrown away.
        this.turn = None;
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        // Whoever floods is not read any more, and may be reset.
        if this.watched.is_spent() {
            return Poll::Ready(Ok(()));
        }
        this.lingers.get_or_insert_default().poll(&mut this.inner, cx).map(Ok)
    }
}

#[async_trait]
impl Shutdown for WatchedStream {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.inner).await;
    }
}

impl UniqueID for WatchedStream {
    fn id(&self) -> i32 {
        self.inner.id()
    }
}

impl Ssl for WatchedStream {
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

impl Peek for WatchedStream {}

impl GetTimingDigest for WatchedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for WatchedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for WatchedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::io::http2::streams::tests::streams;
    use crate::io::schedule::{Scheduled, is_long};
    use crate::phase::Scheme;

    /// A connection on which so many PINGs wait to be read.
    async fn pinged(count: usize) -> (WatchedStream, DuplexStream) {
        let (mut client, server) = duplex(64 * 1024);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(count)).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let of = Connection::new(Scheme::Https, address, address);
        let (refusals, turns) = (Arc::default(), Arc::default());
        let watch = FrameWatch::new(Instant::now(), 1000, false);
        (WatchedStream::new(Box::new(server), Arc::default(), watch, streams(), refusals, turns, &of), client)
    }

    #[tokio::test]
    async fn a_long_step_lets_others_come_between_two_reads() {
        let (mut stream, _client) = pinged(50).await;
        // How many bytes each step reads, where each read is followed by much to do.
        let (mut steps, mut read) = (vec![0], 0);
        let connection = std::future::poll_fn(|cx| {
            while read < 24 + 50 * 17 {
                let mut bytes = [0; 100];
                let mut buf = ReadBuf::new(&mut bytes);
                let Poll::Ready(done) = Pin::new(&mut stream).poll_read(cx, &mut buf) else {
                    steps.push(0);
                    return Poll::Pending;
                };
                done.unwrap();
                read += buf.filled().len();
                *steps.last_mut().unwrap() += buf.filled().len();
                while !is_long() {}
            }
            Poll::Ready(())
        });
        Scheduled::first(connection).await;
        assert_eq!(steps, [100, 100, 100, 100, 100, 100, 100, 100, 74], "each of them goes on, with one read");
    }
}
