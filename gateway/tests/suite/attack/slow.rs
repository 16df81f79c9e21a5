//! Clients that take their time: connections that are held with as little as possible.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{low_priority, tls};
use crate::harness::{Gateway, eventually};

/// What a connection is held with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NoClientHello,
    NoRequest,
    HeadWithoutEnd,
    BodyWithoutEnd,
    AnswerUnread,
    BodyAlmostWhole,
    BodyNotTaken,
}

/// Bytes of a body that is almost whole: one that is kept, to be sent once more.
const ALMOST: usize = 60_000;

impl Kind {
    /// Those that cost a client next to nothing.
    pub const CHEAP: [Kind; 5] =
        [Kind::NoClientHello, Kind::NoRequest, Kind::HeadWithoutEnd, Kind::BodyWithoutEnd, Kind::AnswerUnread];

    /// Those that send something.
    pub const SENDING: [Kind; 2] = [Kind::BodyAlmostWhole, Kind::BodyNotTaken];

    pub fn name(self) -> &'static str {
        match self {
            Kind::NoClientHello => "no ClientHello",
            Kind::NoRequest => "no request behind the handshake",
            Kind::HeadWithoutEnd => "a head without end",
            Kind::BodyWithoutEnd => "a body without end",
            Kind::AnswerUnread => "an answer that is not read",
            Kind::BodyAlmostWhole => "60 KB of a body of 64 KiB",
            Kind::BodyNotTaken => "a body of 1 MB that its backend does not take",
        }
    }

    fn is_tls(self) -> bool {
        matches!(self, Kind::NoClientHello | Kind::NoRequest)
    }
}

/// So many connections, until this is dropped; who is thrown out comes back.
pub struct Slow {
    open: Arc<AtomicUsize>,
    thrown_out: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Slow {
    /// Opens them, in turn of these kinds, and waits until they are.
    pub fn on(gateway: &Gateway, count: usize, kinds: &'static [Kind]) -> Slow {
        let (open, thrown_out, stop) = (Arc::default(), Arc::default(), Arc::default());
        let mut slow = Slow { open, thrown_out, stop, thread: None };
        let (http, https) = (gateway.http, gateway.https);
        let (open, thrown_out, stop) = (slow.open.clone(), slow.thrown_out.clone(), slow.stop.clone());
        slow.thread = Some(std::thread::spawn(move || {
            low_priority();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for number in 0..count {
                    let (open, thrown_out) = (open.clone(), thrown_out.clone());
                    let kind = kinds[number % kinds.len()];
                    let address = if kind.is_tls() { https } else { http };
                    tokio::spawn(keep(kind, number, address, open, thrown_out));
                    if number.is_multiple_of(100) {
                        sleep(Duration::from_millis(10)).await;
                    }
                }
                while !stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }));
        let enough = count * 95 / 100;
        eventually("slow connections", || (slow.open.load(Ordering::Relaxed) >= enough).then_some(()));
        slow
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How often one was closed by the gateway.
    pub fn thrown_out(&self) -> usize {
        self.thrown_out.load(Ordering::Relaxed)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Counts a connection as open while it is.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Counted(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn keep(kind: Kind, number: usize, address: SocketAddr, open: Arc<AtomicUsize>, thrown_out: Arc<AtomicUsize>) {
    loop {
        let Ok(stream) = connect(number, address).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        hold(kind, stream, || Counted::new(&open)).await;
        thrown_out.fetch_add(1, Ordering::Relaxed);
    }
}

/// Each hundred comes from an address of its own.
async fn connect(number: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let from =
        [127, 66, u8::try_from(number / 100 / 250).unwrap_or(255), u8::try_from(number / 100 % 250 + 1).unwrap_or(1)];
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    timeout(Duration::from_secs(10), socket.connect(to)).await?
}

/// Holds a connection until the other side ends it; `open`: it is held from now on.
async fn hold(kind: Kind, mut stream: TcpStream, open: impl Fn() -> Counted) {
    let head = "POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n";
    let counted = (kind != Kind::NoRequest).then(&open);
    match kind {
        Kind::NoClientHello => until_closed(&mut stream).await,
        Kind::HeadWithoutEnd => drip(&mut stream, head, b"X", 5).await,
        Kind::BodyWithoutEnd => drip(&mut stream, &format!("{head}\r\n"), b"x", 2).await,
        Kind::BodyAlmostWhole => {
            let head = "POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 65536\r\n\r\n";
            drip(&mut stream, &format!("{head}{}", "x".repeat(ALMOST)), b"x", 2).await;
        }
        Kind::BodyNotTaken => {
            let head = head.replace("/slow", "/stuck");
            let _ = stream.write_all(format!("{head}\r\n{}", "x".repeat(1_000_000)).as_bytes()).await;
            until_closed(&mut stream).await;
        }
        Kind::AnswerUnread => {
            let _ = stream.write_all(b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            // A write tells when the connection is gone; what comes is left where it is.
            while stream.write_all(b"\r\n").await.is_ok() {
                sleep(Duration::from_secs(3)).await;
            }
        }
        Kind::NoRequest => {
            let mut stream = tokio_openssl::SslStream::new(tls(b"\x08http/1.1"), stream).unwrap();
            if std::pin::Pin::new(&mut stream).connect().await.is_ok() {
                let _counted = open();
                let _ = stream.read(&mut [0; 16]).await;
            }
        }
    }
    drop(counted);
}

async fn until_closed(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
}

/// Writes a beginning, then a byte every few seconds.
async fn drip(stream: &mut TcpStream, begin: &str, byte: &[u8], seconds: u64) {
    if stream.write_all(begin.as_bytes()).await.is_err() {
        return;
    }
    loop {
        if timeout(Duration::from_secs(seconds), until_closed(stream)).await.is_ok() {
            return;
        }
        if stream.write_all(byte).await.is_err() {
            return;
        }
    }
}
