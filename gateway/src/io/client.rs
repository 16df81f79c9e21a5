//! The byte stream of a client's connection, below TLS: what the engine and the TLS library read and write.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use http::HeaderValue;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::http1::lending::Lending;
use super::http2::held::Held;
use super::pressure::{Ladder, Pressure};
use super::upload::Upload;
use super::window::Window;
use crate::observe::Cells;
use crate::phase::Connection;
use crate::phase::canonical::Refused;

/// Facts of a connection, for the lane. They travel with the engine's connection digest, on HTTP/1 and HTTP/2 alike.
#[derive(Debug)]
pub struct ClientInfo {
    /// What the phases want to know.
    pub connection: Connection,
    /// `serverHeader`, for answers that no lane makes.
    pub server_header: Option<HeaderValue>,
    /// The request that is lent to the engine, on HTTP/1.
    pub lending: Lending,
    /// An answer was cut whose end only the end of the connection tells: that must not look like one.
    pub is_cut: AtomicBool,
    /// Set where a request was refused before any phase ran.
    pub refusal: OnceLock<Refusal>,
    /// Seconds for which the kernel lets the client take nothing, at least; it is the whole connection's.
    pub user_timeout: Arc<AtomicU32>,
    /// What the answer of the stream holds, on HTTP/2.
    pub held: OnceLock<Arc<Held>>,
    /// How far the answer is read ahead.
    pub window: Window,
    /// How far the body of the request is.
    pub upload: Upload,
}

impl ClientInfo {
    /// Of a connection, or of one of its streams.
    pub fn new(connection: Connection, server_header: Option<HeaderValue>) -> Self {
        ClientInfo {
            connection,
            server_header,
            lending: Lending::default(),
            is_cut: AtomicBool::new(false),
            refusal: OnceLock::new(),
            user_timeout: Arc::default(),
            held: OnceLock::new(),
            window: Window::default(),
            upload: Upload::default(),
        }
    }
}

/// How a request was refused before any phase ran.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub refused: Refused,
    /// Id that the answer told.
    pub request_id: String,
}

/// Bytes that are read of one connection before all others that are ready have their turn: who floods one keeps nobody else waiting.
const TURN: usize = 64 * 1024;

/// Bytes that a connection may still send while the memory runs out: enough for a request, which is refused, or for the end of one.
const LAST_BYTES: usize = 2048;

/// Bytes that are read ahead at a time: most ClientHellos are smaller.
const HELLO: usize = 2048;

/// How often a connection that has sent them looks whether there is memory again.
const RETRY: Duration = Duration::from_millis(250);

/// A client's TCP connection. Counts itself as open while it lives.
#[derive(Debug)]
pub struct ClientStream {
    /// Read and not used.
    ahead: BytesMut,
    memory: Arc<Ladder>,
    /// What is left of [`LAST_BYTES`].
    last_bytes: usize,
    retry: Option<Pin<Box<Sleep>>>,
    /// Bytes that were read in this turn.
    turn: usize,
    /// Seconds that the kernel was told.
    user_timeout: u32,
    tcp: TcpStream,
    digest: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    info: Arc<ClientInfo>,
    cells: Arc<Cells>,
    established: TimingDigest,
}

impl ClientStream {
    /// Wraps an accepted connection.
    ///
    /// # Errors
    /// The engine's digest cannot be built.
    pub fn new(
        tcp: TcpStream,
        connection: Connection,
        server_header: Option<HeaderValue>,
        cells: Arc<Cells>,
        memory: Arc<Ladder>,
    ) -> pingora::Result<Self> {
        let info = Arc::new(ClientInfo::new(connection, server_header));
        let carrier = Box::new(ResponseHeader::build(200, Some(0))?);
        cells.opened(connection.scheme);
        Ok(ClientStream {
            ahead: BytesMut::new(),
            memory,
            last_bytes: LAST_BYTES,
            retry: None,
            turn: 0,
            user_timeout: 0,
            socket: Arc::new(SocketDigest::from_raw_fd(tcp.as_raw_fd())),
            digest: Arc::new(ProxyDigest::new(carrier, Some(Box::new(info.clone())))),
            info,
            tcp,
            cells,
            established: TimingDigest::default(),
        })
    }

    /// The connection's facts.
    pub fn info(&self) -> &Arc<ClientInfo> {
        &self.info
    }

    /// The connection's facts, out of the engine's digest.
    pub fn info_of(digest: Option<&pingora::protocols::Digest>) -> Option<Arc<ClientInfo>> {
        let data = digest?.proxy_digest.as_ref()?.user_data.as_ref()?;
        data.downcast_ref::<Arc<ClientInfo>>().cloned()
    }

    /// What was read and not used.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads some more without using it, until there are so many bytes; false: there are, or the client has ended.
    pub async fn read_ahead(&mut self, most: usize) -> bool {
        let most = if self.memory.pressure() == Pressure::Refusing { LAST_BYTES } else { most };
        let room = most.saturating_sub(self.ahead.len());
        self.ahead.reserve(room.min(HELLO));
        let mut part = (&mut self.tcp).take(room as u64);
        matches!(part.read_buf(&mut self.ahead).await, Ok(1..))
    }

    /// The TCP connection, for looking at bytes before TLS.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.cells.closed(self.info.connection.scheme);
        if self.info.is_cut.load(Ordering::Relaxed) {
            // The kernel resets it. Without the option its end looks like one.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(count));
            if this.ahead.is_empty() {
                this.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        while this.memory.pressure() == Pressure::Refusing {
            if this.last_bytes > 0 {
                return this.poll_last_bytes(cx, buf);
            }
            let retry = this.retry.get_or_insert_with(|| Box::pin(tokio::time::sleep(RETRY)));
            ready!(retry.as_mut().poll(cx));
            this.retry = None;
        }
        this.last_bytes = LAST_BYTES;
        if this.turn >= TURN {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
        this.turn = if read.is_pending() { 0 } else { this.turn + buf.filled().len() - before };
        read
    }
}

impl ClientStream {
    /// The kernel ends connections whose client is gone, or does not read, wherever the engine happens to be writing (tcp(7): unacknowledged
    /// data, and data held back by a zero window).
    fn tell_kernel(&mut self) {
        let seconds = self.info.user_timeout.load(Ordering::Relaxed);
        if seconds > self.user_timeout {
            self.user_timeout = seconds;
            // Without the option they live longer.
            let _ = SockRef::from(&self.tcp).set_tcp_user_timeout(Some(Duration::from_secs(seconds.into())));
        }
    }

    fn poll_last_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut part = (&mut self.tcp).take(self.last_bytes as u64);
        ready!(Pin::new(&mut part).poll_read(cx, buf))?;
        self.last_bytes -= buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.tell_kernel();
        Pin::new(&mut self.tcp).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tell_kernel();
        Pin::new(&mut self.tcp).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nobody to tell.
        let _ = AsyncWriteExt::shutdown(&mut self.tcp).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> i32 {
        self.tcp.as_raw_fd()
    }
}

impl Ssl for ClientStream {}
impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(self.established.clone())]
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

/// Address of a peer, as the phases want it.
pub fn peer_ip(address: SocketAddr) -> std::net::IpAddr {
    crate::phase::address::unmap(address.ip())
}
