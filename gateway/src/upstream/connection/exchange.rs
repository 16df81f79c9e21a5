//! One exchange on a connection to an endpoint, as the engine sees it: it writes a request and reads an answer, of which the head was judged
//! and written anew, and the body follows in canonical framing. When both are whole, and nothing else came, the connection waits in the
//! pool for its next exchange.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::answer::{self, Rest};
use super::asked::Asked;
use super::patience::{Patience, Times, Waits};
use super::pool::{Pool, PoolKey};
use super::reading::Reading;
use crate::io::body::Body;
use crate::io::incoming::Incoming;
use crate::io::schedule::Pace;
use crate::phase::canonical::framing::Framing;
use crate::phase::canonical::head::{self, Malformed};

/// Most bytes of an answer's head.
pub const MAX_HEAD: usize = 64 * 1024;

/// Bytes that are collected before they are sent without waiting for a flush.
const MAX_PENDING: usize = 16 * 1024;

/// How long an endpoint that has answered with an error is given to take more of the request.
const GIVES_UP: Duration = Duration::from_secs(1);

/// Most interim answers before the final one.
const MAX_INTERIM: usize = 16;

/// What is to be known of an exchange while the engine has it.
#[derive(Debug, Default)]
pub struct Seen {
    reused: AtomicBool,
    fault: OnceLock<Malformed>,
    slow: OnceLock<Waits>,
    answered: AtomicBool,
    sent: AtomicBool,
}

impl Seen {
    pub(super) fn reuse(&self) {
        self.reused.store(true, Ordering::Relaxed);
    }

    /// Whether its connection was used before.
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// Whether the whole answer was read.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the whole request was sent.
    pub fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// What it waited for too long.
    pub fn slow(&self) -> Option<Waits> {
        self.slow.get().copied()
    }

    /// What is wrong with the answer; the engine only sees that it cannot be read.
    pub fn fault(&self) -> Option<Malformed> {
        self.fault.get().copied()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    /// Until it is dropped.
    incoming: Option<Incoming<TcpStream>>,
    asked: Asked,
    /// What is being read of the answer; absent in front of a head.
    answer: Option<(Body, Rest)>,
    /// Bytes of the next head that were looked at.
    looked: usize,
    interim: usize,
    /// Bytes that were read of bodies, or of what follows an upgrade.
    body: usize,
    keeps: bool,
    /// Its connection is not for anybody else.
    once: bool,
    kept: Option<Duration>,
    /// The answer is an error: what is left of the request is of no use to the endpoint.
    is_refusal: bool,
    /// What is written and not sent yet: the parts of a chunk leave as one segment.
    pending: Vec<u8>,
    /// The endpoint does not take what is written.
    blocked: bool,
    /// Nothing more can be sent; what it has said may still be read.
    broken: bool,
    reading: Reading,
    /// When it is no longer tried, since the endpoint answers already.
    gives_up: Option<Pin<Box<Sleep>>>,
    patience: Patience,
    pace: Pace,
    seen: Arc<Seen>,
    pool: Arc<Pool>,
    key: PoolKey,
}

impl Exchange {
    /// Begins one.
    pub fn new(
        stream: TcpStream,
        times: Times,
        reading: Reading,
        seen: Arc<Seen>,
        pool: Arc<Pool>,
        key: PoolKey,
    ) -> Self {
        reading.begin();
        Exchange {
            incoming: Some(Incoming::new(stream)),
            asked: Asked::default(),
            answer: None,
            looked: 0,
            interim: 0,
            body: 0,
            keeps: false,
            once: false,
            kept: None,
            is_refusal: false,
            pending: Vec::new(),
            blocked: false,
            broken: false,
            reading,
            gives_up: None,
            patience: Patience::new(times),
            pace: Pace::default(),
            seen,
            pool,
            key,
        }
    }

    /// `once`: its connection is closed behind it.
    pub fn used_once(mut self, once: bool) -> Self {
        self.once = once;
        self
    }

    fn is_switched(&self) -> bool {
        matches!(self.answer, Some((_, Rest::Switched)))
    }

    fn waits(&self) -> Waits {
        match &self.answer {
            Some((_, Rest::Switched)) => Waits::ForUpgraded,
            // Whatever it is, and whether it was answered already.
            _ if !self.asked.is_whole() && !self.blocked && self.reading.holds_others_up() => Waits::ForClient,
            Some((_, rest)) if *rest != Rest::Head => Waits::ForStream,
            _ if self.blocked => Waits::ForRoom,
            _ if self.asked.awaits_client(self.interim > 0) && !self.reading.awaits_place() => Waits::ForClient,
            _ => Waits::ForAnswer,
        }
    }

    /// Whether request and answer are whole, and nothing came behind them.
    fn is_over(&self) -> bool {
        let answered = self.answer.as_ref().is_some_and(|(body, rest)| *rest != Rest::Head && body.is_done());
        let answered = answered && self.pending.is_empty() && !self.broken;
        let quiet = self.incoming.as_ref().is_some_and(|incoming| incoming.buffered().is_empty());
        answered && quiet && self.keeps && self.asked.is_whole() && self.seen.fault().is_none()
    }

    fn fail(&self, fault: Malformed) -> io::Error {
        let _ = self.seen.fault.set(fault);
        io::Error::new(io::ErrorKind::InvalidData, fault.0)
    }

    /// Reads the head that comes next; false: the connection has ended before it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let Some(incoming) = &mut self.incoming else { return Poll::Ready(Ok(false)) };
            match head::length(incoming.buffered(), self.looked) {
                Err(fault) => return Poll::Ready(Err(self.fail(fault))),
                Ok(length) if length.unwrap_or(incoming.buffered().len()) > MAX_HEAD => {
                    return Poll::Ready(Err(self.fail(Malformed("the head is too large"))));
                }
                Ok(Some(length)) => {
                    return Poll::Ready(self.begin_answer(length).map(|()| true).map_err(|fault| self.fail(fault)));
                }
                Ok(None) => {
                    self.looked = incoming.buffered().len();
                    if ready!(incoming.poll_fill_most(self.reading.most_of_head(), cx))? == 0 {
                        return Poll::Ready(Ok(false));
                    }
                }
            }
        }
    }

    fn begin_answer(&mut self, length: usize) -> Result<(), Malformed> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let answer = answer::read(&incoming.buffered()[..length], self.asked.question())?;
        incoming.consume(length);
        self.looked = 0;
        self.keeps = answer.keeps && !self.broken && !self.once;
        self.kept = answer.idle;
        self.is_refusal = answer.status >= 400;
        self.interim += usize::from(answer.rest == Rest::Head);
        if self.interim > MAX_INTERIM {
            return Err(Malformed("there are too many interim answers"));
        }
        let body = match answer.rest {
            Rest::Head | Rest::Switched => Body::new(answer.head, Framing::None),
            Rest::Length(length) => Body::new(answer.head, Framing::Length(length)),
            Rest::Chunked => Body::new(answer.head, Framing::Chunked),
            Rest::UntilClose => Body::until_close(answer.head),
        };
        self.answer = Some((body, answer.rest));
        Ok(())
    }
}

impl Exchange {
    /// Nothing moves; ready when that has lasted too long. The engine reads or writes, and never both: each of them waits here.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let waits = self.waits();
        ready!(self.patience.poll(waits, self.reading.needs(), cx));
        let _ = self.seen.slow.set(waits);
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Reads at most so many bytes.
    fn poll_limited(&mut self, most: usize, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = self.body;
        if most >= buf.remaining() {
            ready!(self.poll_answer(cx, buf))?;
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            ready!(self.poll_answer(cx, &mut part))?;
            let count = part.filled().len();
            buf.advance(count);
        }
        let ahead = self.incoming.as_ref().map_or(0, |incoming| incoming.buffered().len());
        self.reading.read(self.body - before, ahead);
        if self.body > before {
            self.pace.read();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(incoming) = &mut self.incoming else { return Poll::Ready(Ok(())) };
            match &mut self.answer {
                Some((body, _)) if !body.is_done() => {
                    let before = body.passed();
                    let read = body.poll_read(incoming, cx, buf);
                    let fault = body.fault();
                    self.body += body.passed() - before;
                    return fault.map_or(read, |fault| Poll::Ready(Err(self.fail(fault))));
                }
                Some((_, Rest::Switched)) => {
                    let count = ready!(incoming.poll_through(usize::MAX, cx, buf))?;
                    self.body += count;
                    return Poll::Ready(Ok(()));
                }
                Some((_, Rest::Head)) => self.answer = None,
                // The engine has no more to read.
                Some(_) => return Poll::Ready(Ok(())),
                None => {
                    if !ready!(self.poll_head(cx))? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl AsyncRead for Exchange {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An endpoint that takes no more may have said why.
        let _ = this.poll_send(cx);
        let Poll::Ready(most) = this.reading.poll_room(cx) else {
            // The client is waited for, and not the endpoint.
            this.patience.read();
            return Poll::Pending;
        };
        // That none has come for long is judged when it was looked for.
        ready!(this.pace.poll(cx));
        if let Poll::Ready(read) = this.poll_limited(most, cx, buf) {
            this.patience.read();
            let is_whole = matches!(&this.answer, Some((body, rest)) if *rest != Rest::Head && body.is_done());
            if is_whole && !this.is_switched() {
                this.seen.answered.store(true, Ordering::Relaxed);
                this.reading.free();
            }
            return Poll::Ready(read);
        }
        this.poll_patience(cx).map(Err)
    }
}

impl Exchange {
    /// Sends what waits to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let Some(incoming) = &mut self.incoming else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let written = Pin::new(&mut incoming.stream).poll_write(cx, &self.pending);
            self.blocked = written.is_pending();
            match ready!(written) {
                Err(error) => return Poll::Ready(Err(self.break_off(error))),
                Ok(0) => return Poll::Ready(Err(self.break_off(io::ErrorKind::WriteZero.into()))),
                Ok(count) => {
                    self.patience.wrote(count);
                    self.pending.drain(..count);
                }
            }
        }
        if self.pending.capacity() > 0 {
            self.pending = Vec::new();
            self.reading.sent();
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing more can be sent.
    fn break_off(&mut self, error: io::Error) -> io::Error {
        (self.broken, self.keeps) = (true, false);
        self.pending = Vec::new();
        self.reading.free();
        error
    }

    /// The engine waits for it, and for nothing else.
    fn poll_send_patiently(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.pending.len();
        let sent = self.poll_send(cx);
        if sent.is_ready() || self.pending.len() < before {
            self.gives_up = None;
        }
        if sent.is_pending() { self.poll_blocked(cx).map(Err) } else { sent }
    }

    /// The endpoint takes nothing. What it says meanwhile is read ahead, or both would wait for each other; and one that has refused the
    /// request and takes no more of it has done with it: the engine then reads the answer. Ready when nothing more is to be sent.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut has_ended = false;
        if self.answer.is_none() {
            match self.poll_head(cx) {
                Poll::Ready(Ok(begun)) => has_ended = !begun,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => {}
            }
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(io::ErrorKind::NotConnected.into()) };
        let most = self.reading.most_ahead();
        while incoming.buffered().len() < most && !has_ended {
            match incoming.poll_fill(cx) {
                Poll::Ready(Ok(count)) => has_ended = count == 0,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => break,
            }
        }
        self.reading.ahead(incoming.buffered().len());
        if (has_ended || self.is_refusal) && !self.is_switched() {
            let sleep = self.gives_up.get_or_insert_with(|| Box::pin(tokio::time::sleep(GIVES_UP)));
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(self.break_off(io::ErrorKind::BrokenPipe.into()));
            }
        }
        self.poll_patience(cx)
    }
}

impl AsyncWrite for Exchange {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !this.pending.is_empty() && this.pending.len() + data.len() > MAX_PENDING {
            ready!(this.poll_send_patiently(cx))?;
        }
        let count = if data.len() < MAX_PENDING {
            this.pending.extend_from_slice(data);
            data.len()
        } else {
            let Some(incoming) = &mut this.incoming else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let written = Pin::new(&mut incoming.stream).poll_write(cx, data);
            this.blocked = written.is_pending();
            match written {
                Poll::Pending => return this.poll_blocked(cx).map(Err),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(this.break_off(error))),
                Poll::Ready(Ok(count)) => {
                    this.patience.wrote(count);
                    this.gives_up = None;
                    if count == data.len() {
                        this.reading.sent();
                    }
                    count
                }
            }
        };
        if !this.is_switched() {
            this.asked.wrote(&data[..count]);
            this.seen.sent.store(this.asked.is_whole(), Ordering::Relaxed);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send_patiently(cx)
    }

    /// The engine ends every exchange with it; a connection that is kept does not hear of it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_over() {
            return Poll::Ready(Ok(()));
        }
        this.keeps = false;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(Ok(())) };
        Pin::new(&mut incoming.stream).poll_shutdown(cx)
    }
}

impl VirtualSocket for Exchange {
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        // They were set when the connection was made.
        Ok(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.reading.end();
        let is_over = self.is_over();
        let Some(incoming) = self.incoming.take() else { return };
        if is_over {
            self.pool.put(self.key, incoming.stream, self.kept);
        } else if self.blocked {
            // Reset: the kernel would hold what an endpoint does not take until it does.
            let _ = SockRef::from(&incoming.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::io::pressure::Ladder;
    use crate::io::schedule::pieces_of_long_steps;

    const LONG: Duration = Duration::from_secs(60);

    /// A request for which that came, of an answer that an endpoint may stop for so long.
    async fn answered(stream: Duration, answer: &[u8]) -> (Exchange, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).await.unwrap();
        let (mut endpoint, _) = listener.accept().await.unwrap();
        let times = Times { answer: LONG, stream, upgraded: LONG, window: LONG, rate: 0 };
        let memory = Arc::new(Ladder::new(1 << 30));
        let reading = Reading { memory, cells: Arc::default(), workers: 1, client: None };
        let pool = Arc::new(Pool::new(1, LONG));
        let mut exchange = Exchange::new(near, times, reading, Arc::default(), pool, (1, address));
        exchange.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        exchange.flush().await.unwrap();
        endpoint.write_all(answer).await.unwrap();
        (exchange, endpoint)
    }

    /// Reads a thousand bytes of an answer at most; how many of a body of `x` are among them.
    fn poll_piece(exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 1000];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(exchange).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().iter().filter(|byte| **byte == b'x').count()))
    }

    #[tokio::test]
    async fn others_come_between_two_pieces_of_an_answer_in_a_long_step() {
        const LENGTH: usize = 10_000;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let (mut exchange, _endpoint) = answered(LONG, &[head.as_bytes(), &[b'x'; LENGTH]].concat()).await;
        let mut left = LENGTH;
        let read = |cx: &mut Context<'_>| {
            left -= ready!(poll_piece(&mut exchange, cx)).unwrap();
            Poll::Ready(left > 0)
        };
        let pieces = pieces_of_long_steps(read).await;
        // The head is none of them, and a step may find nothing.
        assert!(pieces.len() > 5 && pieces.iter().all(|pieces| *pieces <= 2), "{pieces:?}");
    }

    #[tokio::test]
    async fn an_answer_that_stops_is_given_up_as_soon_where_steps_are_long() {
        let limit = Duration::from_millis(50);
        let (mut exchange, _endpoint) = answered(limit, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxxxxx").await;
        let (mut came, mut stopped) = (0, None);
        let read = |cx: &mut Context<'_>| match ready!(poll_piece(&mut exchange, cx)) {
            Ok(bytes) => {
                came += bytes;
                stopped = Some(Instant::now());
                Poll::Ready(true)
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                Poll::Ready(false)
            }
        };
        let pieces = pieces_of_long_steps(read).await;
        assert!(came == 5 && stopped.unwrap().elapsed() >= limit);
        assert!(pieces.len() < 100, "nothing is asked for again and again meanwhile: {}", pieces.len());
    }
}
