//! Frames: length, kind, flags, payload.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ack, Ahead, Doubt, FullBegin, FullEnd, Heartbeat, Hello, Resync, Update, Welcome};

/// Largest payload that is taken, in bytes: more than the largest single resource (a host of 20,000 paths has 7 MiB).
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// Bytes before a payload: its length (32 bits, big-endian), its kind, its flags (none yet: 0).
const HEAD: usize = 6;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// [`Welcome`].
    Welcome = 1,
    /// [`FullBegin`].
    FullBegin = 2,
    /// [`Update`] without a base.
    FullPart = 3,
    /// [`FullEnd`].
    FullEnd = 4,
    /// [`Update`].
    Update = 5,
    /// [`Heartbeat`], in both directions.
    Heartbeat = 6,
    /// [`Hello`].
    Hello = 65,
    /// [`Ack`].
    Ack = 66,
    /// [`Resync`].
    Resync = 67,
    /// [`Ahead`].
    Ahead = 68,
    /// [`Doubt`].
    Doubt = 69,
}

/// A frame, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`FullBegin`].
    FullBegin(FullBegin),
    /// A part of everything.
    FullPart(Box<Update>),
    /// See [`FullEnd`].
    FullEnd(FullEnd),
    /// See [`Update`].
    Update(Box<Update>),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Resync`].
    Resync(Resync),
    /// See [`Ahead`].
    Ahead(Ahead),
    /// See [`Doubt`].
    Doubt(Doubt),
    /// A kind of a newer version: to be skipped.
    Unknown(u8),
}

/// Why a stream cannot be read on. The connection has to end: what comes next is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// A payload larger than [`MAX_FRAME`].
    TooLarge(usize),
    /// A payload that is not what its kind says. The text names the place and never the value: it may be a key.
    Malformed {
        /// The frame's kind.
        kind: u8,
        /// Line and column.
        place: (usize, usize),
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLarge(length) => {
                write!(f, "a frame of {length} bytes came, at most {MAX_FRAME} are taken")
            }
            FrameError::Malformed { kind, place: (line, column) } => {
                write!(f, "a frame of kind {kind} cannot be read at line {line} column {column}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl Frame {
    /// The frame's bytes, head included. `None` where it is larger than [`MAX_FRAME`], which no reader takes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        match self {
            Frame::Welcome(value) => encode(FrameKind::Welcome, value),
            Frame::FullBegin(value) => encode(FrameKind::FullBegin, value),
            Frame::FullPart(value) => encode(FrameKind::FullPart, value),
            Frame::FullEnd(value) => encode(FrameKind::FullEnd, value),
            Frame::Update(value) => encode(FrameKind::Update, value),
            Frame::Heartbeat(value) => encode(FrameKind::Heartbeat, value),
            Frame::Hello(value) => encode(FrameKind::Hello, value),
            Frame::Ack(value) => encode(FrameKind::Ack, value),
            Frame::Resync(value) => encode(FrameKind::Resync, value),
            Frame::Ahead(value) => encode(FrameKind::Ahead, value),
            Frame::Doubt(value) => encode(FrameKind::Doubt, value),
            Frame::Unknown(_) => None,
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Frame, FrameError> {
        fn malformed(kind: u8, error: &serde_json::Error) -> FrameError {
            FrameError::Malformed { kind, place: (error.line(), error.column()) }
        }
        fn read<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, FrameError> {
            serde_json::from_slice(payload).map_err(|error| malformed(kind, &error))
        }
        let update = || Update::read(payload).map(Box::new).map_err(|error| malformed(kind, &error));
        Ok(match kind {
            1 => Frame::Welcome(read(kind, payload)?),
            2 => Frame::FullBegin(read(kind, payload)?),
            3 => Frame::FullPart(update()?),
            4 => Frame::FullEnd(read(kind, payload)?),
            5 => Frame::Update(update()?),
            6 => Frame::Heartbeat(read(kind, payload)?),
            65 => Frame::Hello(read(kind, payload)?),
            66 => Frame::Ack(read(kind, payload)?),
            67 => Frame::Resync(read(kind, payload)?),
            68 => Frame::Ahead(read(kind, payload)?),
            69 => Frame::Doubt(read(kind, payload)?),
            unknown => Frame::Unknown(unknown),
        })
    }
}

fn encode(kind: FrameKind, value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, value).ok()?;
    let length = bytes.len() - HEAD;
    if length > MAX_FRAME {
        return None;
    }
    bytes[..4].copy_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    bytes[4] = kind as u8;
    Some(bytes)
}

/// Puts bytes together to frames, however they were cut on their way.
#[derive(Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    read: usize,
}

impl FrameReader {
    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// See [`FrameError`]; nothing more can be read then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.read..];
        let Some((head, rest)) = rest.split_first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::decode(head[4], payload)?;
        self.read += HEAD + length;
        if self.read == self.buffer.len() {
            // A full sync leaves megabytes behind, which deltas do not need.
            self.buffer = Vec::new();
            self.read = 0;
        }
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Frame {
        let text: std::sync::Arc<str> = "x".into();
        Frame::Hello(Hello {
            wire: 1,
            gateway: text.clone(),
            program: text,
            have: None,
            have_from: None,
            lacks_keys: false,
            addresses: Vec::new(),
        })
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let frames = [hello(), Frame::Heartbeat(Heartbeat::default()), hello()];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        for size in 1..bytes.len() {
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for part in bytes.chunks(size) {
                reader.push(part);
                while let Some(frame) = reader.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames, "cut every {size} bytes");
        }
    }

    #[test]
    fn kinds_and_fields_of_a_newer_version_are_skipped() {
        let mut reader = FrameReader::default();
        reader.push(&[0, 0, 0, 2, 200, 0, b'{', b'}']);
        let body = br#"{"version":null,"mood":"fine"}"#;
        reader.push(&[&[0, 0, 0, body.len() as u8, 6, 0][..], body].concat());
        assert_eq!(reader.next_frame(), Ok(Some(Frame::Unknown(200))));
        assert_eq!(reader.next_frame(), Ok(Some(Frame::Heartbeat(Heartbeat::default()))));
    }

    #[test]
    fn a_frame_that_is_too_large_or_unreadable_ends_the_stream() {
        let mut reader = FrameReader::default();
        reader.push(&[0xff, 0xff, 0xff, 0xff, 1, 0]);
        assert_eq!(reader.next_frame(), Err(FrameError::TooLarge(0xffff_ffff)));
        let mut reader = FrameReader::default();
        reader.push(&[&[0, 0, 0, 9, 65, 0][..], b"\"secret!\""].concat());
        let message = reader.next_frame().unwrap_err().to_string();
        assert!(message.contains("kind 65") && !message.contains("secret"), "{message}");
    }
}
