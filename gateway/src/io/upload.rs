//! How much of a request's body is read before its endpoint has taken it. The engine alone reads until four pieces wait and one is being
//! written, and holds all of them for as long as the endpoint likes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use super::window::Window;

/// See the module. One of a request at a time.
#[derive(Debug, Default)]
pub struct Upload {
    window: Window,
    /// Bytes that may be read before any of them is taken: a piece.
    piece: AtomicUsize,
    /// An endpoint takes what is read. Before that, and afterwards, it is read to be thrown away.
    is_sent: AtomicBool,
    /// Nobody is asked any more what the endpoint has taken.
    is_free: AtomicBool,
    /// It has a place among the bodies of all requests, or waits for one.
    has_place: AtomicBool,
    awaits_place: AtomicBool,
}

impl Upload {
    /// An exchange begins; what was read before is sent once more, or was thrown away.
    pub fn begin(&self, piece: usize) {
        self.piece.store(piece, Ordering::Relaxed);
        self.is_sent.store(true, Ordering::Relaxed);
        self.is_free.store(false, Ordering::Relaxed);
        self.window.begin();
    }

    /// The whole answer is there, or nothing more can be sent: the engine does not look at the endpoint any more.
    pub fn free(&self) {
        self.is_free.store(true, Ordering::Relaxed);
        self.window.took();
    }

    /// It ends.
    pub fn end(&self) {
        self.is_sent.store(false, Ordering::Relaxed);
        self.window.took();
    }

    /// The endpoint has taken everything that came to it; `piece`: how much may be read next.
    pub fn took(&self, piece: usize) {
        self.piece.store(piece, Ordering::Relaxed);
        self.window.took();
    }

    /// Whether an endpoint takes what is read.
    pub fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Relaxed)
    }

    /// Whether it has a place among the bodies of all requests, or waits for one.
    pub fn place(&self, has: bool, awaits: bool) {
        self.has_place.store(has, Ordering::Relaxed);
        self.awaits_place.store(awaits, Ordering::Relaxed);
    }

    /// Whether it has a place.
    pub fn has_place(&self) -> bool {
        self.has_place.load(Ordering::Relaxed)
    }

    /// Whether it waits for one, and not for its client.
    pub fn awaits_place(&self) -> bool {
        self.awaits_place.load(Ordering::Relaxed)
    }

    /// So many bytes were read.
    pub fn read(&self, bytes: usize) {
        self.window.read(bytes);
    }

    /// Ready with the bytes to read at most, so that no more than a piece was read that the endpoint has not taken.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        if !self.is_sent.load(Ordering::Relaxed) {
            return Poll::Ready(usize::MAX);
        }
        let piece = self.piece.load(Ordering::Relaxed);
        if self.is_free.load(Ordering::Relaxed) {
            return Poll::Ready(piece);
        }
        self.window.poll_room(piece, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn reading_waits_for_the_endpoint_while_there_is_one() {
        let upload = Upload::default();
        let mut cx = Context::from_waker(Waker::noop());
        upload.read(1000);
        assert_eq!(upload.poll_room(&mut cx), Poll::Ready(usize::MAX), "it is thrown away");
        upload.begin(10);
        assert_eq!(upload.poll_room(&mut cx), Poll::Ready(10));
        upload.read(7);
        assert_eq!(upload.poll_room(&mut cx), Poll::Ready(3));
        upload.read(3);
        assert_eq!(upload.poll_room(&mut cx), Poll::Pending);
        upload.took(20);
        assert_eq!(upload.poll_room(&mut cx), Poll::Ready(20));
        upload.read(20);
        assert_eq!(upload.poll_room(&mut cx), Poll::Pending);
        upload.free();
        assert_eq!(upload.poll_room(&mut cx), Poll::Ready(20));
        upload.begin(10);
        upload.read(10);
        assert_eq!(upload.poll_room(&mut cx), Poll::Pending);
        upload.end();
        assert_eq!(upload.poll_room(&mut cx), Poll::Ready(usize::MAX));
    }
}
