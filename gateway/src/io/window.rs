//! How much of an answer is read before the client's side has taken it. The engine alone reads until four pieces wait and four are being
//! written, and holds all of them for as long as the client likes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// See the module. One of a request at a time.
#[derive(Debug, Default)]
pub struct Window {
    /// Bytes of the body that were read since the client's side last took something.
    ahead: AtomicUsize,
    /// The client takes nothing now.
    is_stalled: AtomicBool,
    reader: AtomicWaker,
}

impl Window {
    /// An exchange begins: what another one has read before is gone.
    pub fn begin(&self) {
        self.ahead.store(0, Ordering::Relaxed);
        self.is_stalled.store(false, Ordering::Relaxed);
    }

    /// So many bytes of the body were read.
    pub fn read(&self, bytes: usize) {
        self.ahead.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The client's side has taken something, and so everything that came before it.
    pub fn took(&self) {
        if self.is_stalled.swap(false, Ordering::Relaxed) | (self.ahead.swap(0, Ordering::Relaxed) > 0) {
            self.reader.wake();
        }
    }

    /// The client's side waits for the client: what is read now would wait as well.
    pub fn stalls(&self) {
        self.is_stalled.store(true, Ordering::Relaxed);
    }

    /// Bytes that may be read now, so that no more than `most` are ahead; ready when that is a quarter of them at least, and nothing waits for
    /// the client: a read of a few bytes costs as much as one of many. Costs four loads where that is so.
    pub fn poll_room(&self, most: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let room = || {
            let room = most.saturating_sub(self.ahead.load(Ordering::Relaxed));
            (room > 0 && room >= most / 4 && !self.is_stalled.load(Ordering::Relaxed)).then_some(room)
        };
        if room().is_none() {
            self.reader.register(cx.waker());
        }
        // Read and taken on the same thread: nothing changes in between.
        room().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn reading_waits_for_the_client() {
        let window = Window::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(window.poll_room(12, &mut cx), Poll::Ready(12));
        window.read(9);
        assert_eq!(window.poll_room(12, &mut cx), Poll::Ready(3), "no more than may be ahead");
        window.read(1);
        assert!(window.poll_room(12, &mut cx).is_pending(), "little is not worth a read");
        assert!(window.poll_room(10, &mut cx).is_pending());
        let mut room = pin!(std::future::poll_fn(|cx| window.poll_room(10, cx)));
        tokio::select! {
            biased;
            _ = &mut room => panic!("nothing was taken"),
            () = async { window.took() } => {}
        }
        room.await;
        window.read(10);
        window.begin();
        assert!(window.poll_room(10, &mut cx).is_ready());
        window.stalls();
        assert!(window.poll_room(10, &mut cx).is_pending(), "what was read before is not written yet");
        window.took();
        assert!(window.poll_room(10, &mut cx).is_ready());
    }
}
