//! Frames over one HTTP/2 stream, in either direction.

use std::fmt;
use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use sluicegate_snapshot::wire::{Frame, FrameError, FrameReader};

/// Bytes of a stream that may be on their way before the reader has taken them.
pub const WINDOW: u32 = 1024 * 1024;

/// Why a stream ended before its time.
#[derive(Debug)]
pub enum StreamError {
    /// The connection failed, or the other side reset the stream.
    Http2(h2::Error),
    /// What came is no frame.
    Frame(FrameError),
    /// A frame of our own is larger than any reader takes.
    TooLarge,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Http2(error) => error.fmt(f),
            StreamError::Frame(error) => error.fmt(f),
            StreamError::TooLarge => f.write_str("a frame is larger than any reader takes"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        StreamError::Http2(error)
    }
}

/// Sends a frame; waits while the other side does not read.
///
/// # Errors
/// The connection or stream has ended, or the frame is too large.
pub async fn send(stream: &mut SendStream<Bytes>, frame: &Frame) -> Result<(), StreamError> {
    let bytes = frame.encode().ok_or(StreamError::TooLarge)?;
    send_bytes(stream, bytes.into()).await
}

/// Sends a frame that is encoded already; waits while the other side does not read.
///
/// # Errors
/// The connection or stream has ended.
pub async fn send_bytes(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let ready = match stream.capacity() {
            0 => poll_fn(|context| stream.poll_capacity(context)).await,
            capacity => Some(Ok(capacity)),
        };
        let capacity = ready.ok_or_else(|| StreamError::Http2(h2::Reason::STREAM_CLOSED.into()))??;
        let part = bytes.split_to(capacity.min(bytes.len()));
        stream.send_data(part, false)?;
    }
    Ok(())
}

/// Reads frames off a stream.
pub struct Frames {
    stream: RecvStream,
    reader: FrameReader,
}

impl Frames {
    /// Frames of a stream.
    pub fn of(stream: RecvStream) -> Self {
        Frames { stream, reader: FrameReader::default() }
    }

    /// The next frame; `None`: the other side has ended the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection failed, or what came is no frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.reader.next_frame().map_err(StreamError::Frame)? {
                return Ok(Some(frame));
            }
            let Some(data) = self.stream.data().await else { return Ok(None) };
            let data = data?;
            self.reader.push(&data);
            self.stream.flow_control().release_capacity(data.len())?;
        }
    }
}
