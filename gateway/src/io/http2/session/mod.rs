//! A stream of HTTP/2 as the engine sees it. The engine has a session of its own for them, which reads a request's body as fast as it comes and
//! keeps up to 64 KiB of each, to send it once more. Here the client's windows open when the endpoint has taken what was read, so that they bound
//! what is on its way, and what is kept is counted (docs/adr/0036).

mod engine;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as ErrorCode, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::time::timeout;

use super::held::Held;
use crate::io::client::{ClientInfo, ClientStream};

/// What other fields of HTTP/1 are about its connection (RFC 9113, 8.2.2).
const OF_A_CONNECTION: [HeaderName; 5] = [
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// See the module.
pub struct StreamSession {
    request: RequestHeader,
    body: RecvStream,
    /// Bytes that were read of it, and those of them that its windows still count.
    read: usize,
    unreleased: usize,
    /// What was read, to be sent once more; absent when that is not asked for, or too much.
    kept: Option<Vec<u8>>,
    keeps: bool,
    respond: SendResponse<Bytes>,
    /// Since the head of the answer was written.
    writer: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    sent: usize,
    ended: bool,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
    digest: Arc<Digest>,
    info: Option<Arc<ClientInfo>>,
}

impl StreamSession {
    /// Of a stream that has just come.
    pub fn new(request: RequestHeader, body: RecvStream, respond: SendResponse<Bytes>, digest: Arc<Digest>) -> Self {
        let info = ClientStream::info_of(Some(&digest));
        StreamSession {
            request,
            body,
            read: 0,
            unreleased: 0,
            kept: None,
            keeps: false,
            respond,
            writer: None,
            written: None,
            sent: 0,
            ended: false,
            write_timeout: None,
            drain_timeout: None,
            digest,
            info,
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.body.stream_id().as_u32()
    }

    /// The request.
    pub fn request(&self) -> &RequestHeader {
        &self.request
    }

    /// What the lane knows of it.
    pub fn info(&self) -> Option<&Arc<ClientInfo>> {
        self.info.as_ref()
    }

    fn held(&self) -> Option<&Held> {
        self.info.as_ref()?.held.get().map(Arc::as_ref)
    }

    /// Ends it without an answer, or before the end of one.
    pub fn reset(&mut self, code: ErrorCode) {
        if !self.ended {
            self.respond.send_reset(code);
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<ErrorCode, h2::Error>> {
        match &mut self.writer {
            Some(writer) => writer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        }
    }

    /// Resolves when the client has reset it, or is gone.
    pub async fn gone(&mut self) {
        let _ = poll_fn(|cx| self.poll_gone(cx)).await;
    }
}

impl StreamSession {
    /// Ready when the endpoint has taken what was read, but for a piece. The client may then send as much once more.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(info) = &self.info {
            ready!(info.upload.poll_room(cx));
        }
        let released = std::mem::take(&mut self.unreleased);
        if released > 0 {
            // Nothing is counted of a stream that is gone.
            let _ = self.body.flow_control().release_capacity(released);
        }
        Poll::Ready(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        ready!(self.poll_taken(cx));
        let data = ready!(self.body.poll_data(cx)).transpose();
        let data = data.or_err(ErrorType::ReadError, "while reading a request's body")?;
        if let Some(data) = &data {
            self.came(data);
        }
        Poll::Ready(Ok(data))
    }

    fn came(&mut self, data: &Bytes) {
        self.read += data.len();
        self.unreleased += data.len();
        if let Some(info) = &self.info {
            info.upload.read(data.len());
        }
        let Some(mut kept) = self.kept.take() else { return };
        if self.held().is_none_or(|held| held.keeps(kept.len() + data.len())) {
            kept.extend_from_slice(data);
            self.kept = Some(kept);
        }
    }

    fn keep_nothing(&mut self) {
        self.kept = None;
        if let Some(held) = self.held() {
            held.keeps(0);
        }
    }

    fn is_read(&self) -> bool {
        self.has_no_body() || self.body.is_end_stream()
    }

    fn has_no_body(&self) -> bool {
        let is_empty = || self.request.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.read == 0 && (self.body.is_end_stream() || is_empty())
    }
}

impl StreamSession {
    fn write_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        // The library sends no interim answers.
        if self.ended || self.written.is_some() || head.status.is_informational() {
            return Ok(());
        }
        // An answer has come: the request is not sent once more.
        self.keep_nothing();
        head.insert_header(DATE, get_cached_date())?;
        for name in &OF_A_CONNECTION {
            head.remove_header(name);
        }
        if let Some(held) = self.held() {
            held.passed_head(head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum());
        }
        let response = http::Response::from_parts(head.as_owned_parts(), ());
        let writer = self.respond.send_response(response, end);
        self.writer = Some(writer.or_err(ErrorType::WriteError, "while writing the head of an answer")?);
        self.written = Some(head);
        self.ended = end;
        Ok(())
    }

    async fn write_piece(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let held = self.info.as_ref().and_then(|info| info.held.get());
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "a body in front of its head");
        };
        let length = data.len();
        let write = async {
            if let Some(held) = held {
                // Of a stream that is reset, or whose connection is gone, nothing more goes out.
                poll_fn(|cx| if writer.poll_reset(cx).is_ready() { Poll::Ready(()) } else { held.poll_room(cx) }).await;
                held.passed(length, self.sent);
            }
            while !data.is_empty() {
                writer.reserve_capacity(data.len());
                let Some(capacity) = poll_fn(|cx| writer.poll_capacity(cx)).await else {
                    return Error::e_explain(ErrorType::H2Error, "the stream has ended");
                };
                let capacity = capacity.or_err(ErrorType::H2Error, "while waiting for the client's window")?;
                let part = data.split_to(capacity.min(data.len()));
                let end = end && data.is_empty();
                writer.send_data(part, end).or_err(ErrorType::WriteError, "while writing an answer")?;
            }
            Ok(())
        };
        if length == 0 {
            writer.send_data(data, end).or_err(ErrorType::WriteError, "while writing the end of an answer")?;
        } else if let Some(limit) = self.write_timeout {
            let late = || Error::explain(ErrorType::WriteTimedout, "the client takes nothing of the answer");
            timeout(limit, write).await.map_err(|_| late())??;
        } else {
            write.await?;
        }
        self.sent += length;
        self.ended = end;
        // What comes next is read when the library has this.
        if let Some(info) = &self.info {
            info.window.took();
        }
        Ok(())
    }

    fn write_end(&mut self) -> Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        writer.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "while writing the end of an answer")?;
        self.ended = true;
        Ok(())
    }

    fn write_last(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "trailers in front of a head");
        };
        writer.send_trailers(trailers).or_err(ErrorType::WriteError, "while writing trailers")?;
        self.ended = true;
        Ok(())
    }

    /// Whether the answer ends with it.
    async fn write_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => self.write_head(head, end).map(|()| end),
            HttpTask::Body(Some(data), end) if !data.is_empty() => self.write_piece(data, end).await.map(|()| end),
            HttpTask::Body(_, end) => Ok(end),
            HttpTask::Trailer(Some(trailers)) => self.write_last(*trailers).map(|()| true),
            HttpTask::Trailer(None) | HttpTask::Done => Ok(true),
            HttpTask::UpgradedBody(..) => {
                Error::e_explain(ErrorType::InternalError, "no protocol is switched over HTTP/2")
            }
            HttpTask::Failed(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use pingora::protocols::http::custom::server::Session;
    use tokio::io::duplex;

    use super::super::stream_digest;
    use super::super::streams::tests::{served, streams};
    use super::*;
    use crate::phase::{Connection, Scheme};

    const SOME: usize = 10_000;

    #[tokio::test]
    async fn what_is_kept_of_a_body_counts_until_it_is_too_long_to_be_kept() {
        let (client, server) = duplex(1 << 20);
        let (client, server) = tokio::join!(h2::client::handshake(client), h2::server::handshake(server));
        let ((client, connection), mut server) = (client.unwrap(), server.unwrap());
        tokio::spawn(connection);
        let request = http::Request::post("https://a.test/").body(()).unwrap();
        let (_answer, mut upload) = client.ready().await.unwrap().send_request(request, false).unwrap();
        let (request, respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let (parts, body) = request.into_parts();
        let address = "127.0.0.1:1".parse().unwrap();
        let info = Arc::new(ClientInfo::new(Connection::new(Scheme::Https, address, address), None));
        let mut session = StreamSession::new(parts.into(), body, respond, stream_digest(&Digest::default(), &info));
        let streams = streams();
        let stream = served(&streams, 1).remove(0);
        let _ = session.info().unwrap().held.set(stream.held.clone());
        session.enable_retry_buffering();
        let mut came = 0;
        for (bytes, is_kept) in [(SOME, true), (5 * SOME, true), (7 * SOME, false), (20 * SOME, false)] {
            while came < bytes {
                upload.send_data(Bytes::from(vec![b'x'; SOME]), false).unwrap();
                let part = came + SOME;
                while came < part {
                    came += session.read_body_bytes().await.unwrap().unwrap().len();
                }
            }
            let kept = session.get_retry_buffer().map_or(0, |kept| kept.len());
            assert_eq!((kept, session.retry_buffer_truncated()), (if is_kept { came } else { 0 }, !is_kept), "{came}");
            assert_eq!(streams.kept.load(Ordering::Relaxed), kept, "{came}");
        }
    }
}
