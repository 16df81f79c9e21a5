//! How much of an answer is read at a time. What the engine holds of it while its client takes nothing is a few times that.

use std::sync::Arc;

use crate::io::http2::streams::Held;
use crate::io::pressure::Ladder;

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

    /// So much was read.
    pub(super) fn read(&self, bytes: usize) {
        if let Some(held) = &self.held {
            held.read(bytes);
        }
    }
}
