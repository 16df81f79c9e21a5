//! How much of an answer is read at a time. What the engine holds of it while its client takes nothing is a few times that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::patience::Needs;
use crate::io::client::ClientInfo;
use crate::io::http2::held::Held;
use crate::io::pressure::{Ladder, Pressure};
use crate::observe::Cells;

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
    /// The worker's cells, which know its requests in flight.
    pub cells: Arc<Cells>,
    /// How many workers there are.
    pub workers: usize,
    /// Whose request it is.
    pub client: Option<Arc<ClientInfo>>,
}

impl Reading {
    /// An exchange begins to read.
    pub(super) fn begin(&self) {
        if let Some(client) = &self.client {
            client.window.begin();
            client.upload.begin(self.piece_of_request());
            if let Some(held) = client.held.get() {
                held.begins();
            }
        }
    }

    /// Whether others need what the request holds: memory runs short, or bodies wait for its place.
    pub(super) fn needs(&self) -> Needs {
        let is_short = self.memory.pressure() >= Pressure::ShortIdle;
        Needs { now: is_short || self.holds_others_up(), soon: self.has_place() }
    }

    fn has_place(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.upload.has_place())
    }

    /// Whether bodies wait for its place.
    pub(super) fn holds_others_up(&self) -> bool {
        self.memory.bodies().are_waiting() && self.has_place()
    }

    /// Whether the body waits for others, and not for its client.
    pub(super) fn awaits_place(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.upload.awaits_place())
    }

    /// The endpoint has taken what the engine has written.
    pub(super) fn sent(&self) {
        if let Some(client) = &self.client {
            client.upload.took(self.piece_of_request());
        }
    }

    /// Nobody looks any more at what the endpoint takes.
    pub(super) fn free(&self) {
        if let Some(client) = &self.client {
            client.upload.free();
        }
    }

    /// The exchange is over.
    pub(super) fn end(&self) {
        if let Some(client) = &self.client {
            client.upload.end();
        }
    }

    /// What the stream's answer holds, of an HTTP/2 client.
    fn held(&self) -> Option<&Held> {
        self.client.as_ref()?.held.get().map(Arc::as_ref)
    }

    fn piece(&self) -> usize {
        let own = usize::try_from(self.cells.in_flight.load(Ordering::Relaxed)).unwrap_or(0);
        self.memory.piece(own * self.workers)
    }

    /// Of an HTTP/2 stream everything is taken before its windows open, and the next frame is read.
    fn piece_of_request(&self) -> usize {
        if self.held().is_some() { 1 } else { self.piece() }
    }

    /// Bytes of one piece.
    fn most(&self) -> usize {
        let piece = self.piece();
        self.held().map_or(piece, |held| piece.min(held.piece()))
    }

    /// Bytes of the next read, at most; ready when the client's side has taken what was read of the body, but for a part of one piece.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let most = self.most();
        self.client.as_ref().map_or(Poll::Ready(most), |client| client.window.poll_room(most, cx))
    }

    /// The same of a head: what comes with it of the body is held until the engine takes it.
    pub(super) fn most_of_head(&self) -> usize {
        if self.held().is_some() { HEAD.min(self.most()) } else { self.piece() }
    }

    /// Bytes that may be read ahead of the engine.
    pub(super) fn most_ahead(&self) -> usize {
        let is_tight = || self.held().is_some_and(Held::is_tight);
        let is_short = self.memory.pressure() > Pressure::None || is_tight();
        if is_short { SHORT_AHEAD } else { MAX_AHEAD }
    }

    /// A piece was read with so many bytes of the body; `ahead` wait to be.
    pub(super) fn read(&self, body: usize, ahead: usize) {
        let Some(client) = &self.client else { return };
        client.window.read(body);
        if let Some(held) = client.held.get() {
            held.read(body, ahead);
        }
    }

    /// So many bytes were read ahead.
    pub(super) fn ahead(&self, bytes: usize) {
        if let Some(held) = self.held() {
            held.ahead(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::http2::streams::tests::{BUDGET, served, streams};
    use crate::phase::{Connection, Scheme};

    #[test]
    fn little_is_read_ahead_for_a_client_whose_connection_holds_much() {
        let memory = Arc::new(Ladder::new(1000));
        let address = "127.0.0.1:1".parse().unwrap();
        let client = Arc::new(ClientInfo::new(Connection::new(Scheme::Https, address, address), None));
        let reading = Reading { memory, cells: Arc::default(), workers: 1, client: Some(client.clone()) };
        assert_eq!(reading.most_ahead(), MAX_AHEAD);
        let served = served(&streams(), 1);
        let _ = client.held.set(served[0].held.clone());
        for (ahead, most) in [(0, MAX_AHEAD), (BUDGET, SHORT_AHEAD), (0, MAX_AHEAD)] {
            reading.ahead(ahead);
            assert_eq!(reading.most_ahead(), most, "{ahead} bytes are");
        }
    }
}
