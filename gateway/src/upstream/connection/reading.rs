//! How much of an answer is read at a time. What the engine holds of it while its client takes nothing is a few times that.

use std::sync::Arc;

use crate::io::http2::streams::Held;
use crate::io::pressure::{Ladder, Pressure};

/// Bytes that are read at a time of a head whose answer goes to an HTTP/2 client.
const HEAD: usize = 2048;

/// Bytes of an answer that are read while the request cannot be sent on.
const MAX_AHEAD: usize = 1024 * 1024;

/// The same for an HTTP/2 stream whose connection holds much, and for all while memory runs short.
const SHORT_AHEAD: usize = 16 * 1024;

/// See the module.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What is known of memory.
    pub memory: Arc<Ladder>,
    /// What the stream's answer holds, of an HTTP/2 client.
    pub held: Option<Arc<Held>>,
}

impl Reading {
    /// Bytes of the next read, at most.
    pub(super) fn most(&self) -> usize {
        let piece = self.memory.piece();
        self.held.as_ref().map_or(piece, |held| piece.min(held.piece()))
    }

    /// The same of a head: what comes with it of the body is held until the engine takes it.
    pub(super) fn most_of_head(&self) -> usize {
        if self.held.is_some() { HEAD.min(self.most()) } else { self.memory.piece() }
    }

    /// Bytes that may be read ahead of the engine.
    pub(super) fn most_ahead(&self) -> usize {
        let is_short = self.memory.pressure() > Pressure::None || self.most() < HEAD;
        if is_short { SHORT_AHEAD } else { MAX_AHEAD }
    }

    /// A piece was read; so many bytes wait to be.
    pub(super) fn read(&self, bytes: usize, ahead: usize) {
        if let Some(held) = &self.held {
            held.read(bytes, ahead);
        }
    }

    /// So many bytes were read ahead.
    pub(super) fn ahead(&self, bytes: usize) {
        if let Some(held) = &self.held {
            held.ahead(bytes);
        }
    }
}
